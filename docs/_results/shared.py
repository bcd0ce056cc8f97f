"""What the tables of several results share."""

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

PUBLISHED = Path(__file__).parents[1] / "results" / "published"
Part = dict[str, Any]
Points = list[tuple[float, float]]


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], alignment: Sequence[str] | None = None) -> str:
    """A table; its columns but for the first are numbers, unless `alignment` says otherwise in Markdown's signs."""
    lines = [heads, alignment or ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_error(value: dict[str, float], digits: int = 2) -> str:
    """A value and its standard error."""
    return f"{value['value']:.{digits}f} ± {value['error']:.{digits}f}"


def difference(value: dict[str, float], published: float | None, digits: int = 2) -> list[str]:
    """Two cells: ours minus the published value, and the same in standard errors of ours; empty where none is known."""
    if published is None:
        return ["", ""]
    off = value["value"] - published
    return [f"{off:+.{digits}f}", f"{off / value['error']:+.1f}"]


def passes(part: Part) -> str:
    """Passes over the training data, of those published."""
    done, published = part["passes"], part.get("passes_published")
    return f"{done:,}" if published in (None, done) else f"{done:,} of {published:,}"


def minutes(part: Part) -> str:
    """What a part cost, in minutes of one CPU core."""
    return f"{part['cpu_seconds'] / 60:.1f}"


def provenance(parts: dict[str, Part]) -> str:
    """One paragraph: by what the parts were measured."""
    said = {name: sorted({str(part.get(name, "")) for part in parts.values()}) for name in _SAID}
    versions = sorted({f"{part['version']} ({part.get('commit') or 'no commit'})" for part in parts.values()})
    commands = "".join(f"\n    {command}" for command in said["command"])
    days = sorted({part["finished"][:10] for part in parts.values()})
    when = " to ".join(dict.fromkeys((days[0], days[-1])))
    about = f"pyro_vae {', '.join(versions)}; {'; '.join(said['machine'])}; threads {', '.join(said['threads'])}"
    return f"Measured by\n{commands}\n\n{about}; seed {', '.join(said['seed'])}; {when}."


_SAID = ("command", "machine", "threads", "seed")


# ---- published curves


@cache
def published_curves(file: str) -> dict[tuple[str, ...], Points]:
    """Digitised curves: for each value of the first columns the points (x, y) of the last two, by x.

    Args:
        file: in `docs/results/published`; lines that begin with # are comments.
    """
    lines = [line for line in (PUBLISHED / file).read_text().splitlines() if not line.startswith("#")]
    curves: dict[tuple[str, ...], Points] = {}
    for *key, x, y in list(csv.reader(lines))[1:]:
        curves.setdefault(tuple(key), []).append((float(x), float(y)))
    return {key: sorted(points) for key, points in curves.items()}


def between(points: Points, x: float) -> float | None:
    """The value of a curve at x, on a straight line in log x between two of its points; None outside of them."""
    for (left, low), (right, high) in pairwise(points):
        if left <= x <= right:
            return low + (high - low) * log(x / left) / log(right / left)
    return None
