"""A part of a result: it is kept with its protocol, and not computed again by the same one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import record

COST = ("cpu_seconds", "wall_seconds")


def keep(folder: Path, about: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> None:
    """Write `part.json`, unless it is there with the same `about`.

    Args:
        folder: of the part.
        about: what decides the values: seed, data, protocol, passes.
        compute: returns `values`, and further entries.
    """
    path = folder / "part.json"
    before = record.read(path)
    same = all(before.get(name) == entry for name, entry in about.items())
    if before.get("values") and same:
        return
    cost: dict[str, float] = {name: before[name] for name in COST if same and name in before}
    found: dict[str, Any] = {}
    try:
        with record.timed(cost):
            found = compute()
    finally:  # a training that was stopped has cost something, too
        record.save(path, {**record.provenance(), **about, **cost, **found})


def value(estimate: float, error: float | None = None) -> dict[str, Any]:
    """An entry of `values`: an estimate with its standard error, six digits of each; no error where it is exact."""
    return {"value": _rounded(estimate), **({} if error is None else {"error": _rounded(error)})}


def _rounded(number: float) -> float:
    return float(f"{number:.6g}")
