"""`pyro-vae list`: the runs below a folder. It imports no torch."""

import json
import os
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.streams import say
from pyro_vae.errors import CheckpointError
from pyro_vae.messages import finite, printable, remark
from pyro_vae.runs.listing import Listed, listed, runs_below

_HEADER = ("run", "state", "data", "model", "epoch", "ELBO", "log p(x)")

_LONGEST = 60
"""Letters of a name that is shown; `--json` has all."""


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}: name the one that holds your runs")
    found = sorted(map(listed, runs_below(folder)), key=_ORDERS[options.sort])
    if options.json:
        say(json.dumps(finite({"folder": str(folder), "runs": [one.plain() for one in found]}), indent=1))
    elif found:
        say(_table(found, folder))
    else:
        remark(f"no runs below {folder}")
    return 0


def _least(value: float | None) -> float:
    """For an order from high to low, with what is not known last."""
    return inf if value is None else -value


_ORDERS: dict[str, Callable[[Listed], Any]] = {
    "name": lambda one: one.run,
    "log_p": lambda one: (_least(one.evaluated["log_p"] if one.evaluated and not one.stale else None), one.run),
    "bound": lambda one: (_least(one.bound), one.run),
    "newest": lambda one: (_least(one.changed), one.run),
}


def _table(found: Sequence[Listed], folder: Path) -> str:
    """Lines with columns; that of a run which can't be read ends with the reason."""
    rows = [_HEADER, *(_row(one, folder) for one in found)]
    widths = [max(len(row[at]) for row in rows if at < len(row) - 1 or len(row) == len(_HEADER)) for at in range(7)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )


def _row(one: Listed, folder: Path) -> tuple[str, ...]:
    name = _shown(os.path.relpath(one.run, folder))
    if one.problem is not None:
        return name, one.state, _in_a_line(one.problem)
    epochs = f"{one.epoch}/{one.epochs}"
    data = "an array" if one.data is None else _shown(Path(one.data).name)
    bound = "-" if one.bound is None else f"{one.bound:.2f} ({one.bound_of})"
    return name, one.state, data, _shown(one.model or "-"), epochs, bound, _log_p(one)


def _log_p(one: Listed) -> str:
    """Log p(x) with both errors, and whether it is to be trusted."""
    if one.evaluated is None:
        return "-"
    found, least = one.evaluated, one.evaluated.get("standard_error_monte_carlo_is_at_least")
    data, draws = (_number(found.get(f"standard_error_{of}")) for of in ("data", "monte_carlo"))
    share = found.get("unreliable", 0.0)
    doubts = [
        *([f"FLAGGED: {share:.1%} of the data, and the mean"] if found.get("mean_flagged") else []),
        *([f"flagged: {share:.1%} of the data"] if share and not found.get("mean_flagged") else []),
        *(["of earlier weights"] if one.stale else []),
    ]
    errors = f"se data {data}, draws {'at least ' if least else ''}{draws}"
    return "; ".join([f"{found['log_p']:.2f} ({found['split']}, {errors})", *doubts])


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"


def _shown(text: str) -> str:
    text = _in_a_line(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _in_a_line(text: str) -> str:
    return printable(text.replace("\n", "?").replace("\t", "?"))
