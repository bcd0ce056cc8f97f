"""Tables of models that were fitted, and evaluated by importance sampling on all test images."""

from collections.abc import Iterable
from typing import Any

from _results.shared import Part, difference, markdown, minutes, passes, provenance, with_error

HEADS = ["model", "published NLL", "our NLL", "difference", "in s.e.", "Monte Carlo error", "passes"]
HEADS += ["active units, published", "ours", "flagged", "CPU minutes"]


def text(result: dict[str, Any]) -> str:
    """A table for each kind of data, and how they were measured."""
    parts = result["parts"]
    kinds = dict.fromkeys(name.partition("-")[0] for name in parts)
    tables = [table(kind, [(name, parts[name]) for name in parts if name.startswith(f"{kind}-")]) for kind in kinds]
    return "\n\n".join([*tables, provenance(parts)])


def table(kind: str, parts: Iterable[tuple[str, Part]]) -> str:
    """The models of one kind of data."""
    rows = [[name.removeprefix(f"{kind}-"), *_cells(part)] for name, part in parts]
    return f"{kind.capitalize()} MNIST:\n\n{markdown(HEADS, rows)}"


def _cells(part: Part) -> list[str]:
    nll, published = part["values"]["nll"], part["published"]
    theirs = published.get("nll")
    shown = ["" if theirs is None else f"{theirs:.2f}", with_error(nll), *difference(nll, theirs)]
    units = [str(published.get("active_units", "")), str(part["active_units"])]
    flagged = f"{part['values']['unhealthy']['value']:.0%}"
    return [*shown, f"{nll['monte_carlo_error']:.3f}", passes(part), *units, flagged, minutes(part)]
