"""What other libraries print for the same weights, beside the exact log p(x)."""

from typing import Any

from _results.shared import Part, markdown, provenance
from other_libraries import draw

__all__ = ["draw", "text"]


def text(result: dict[str, Any]) -> str:
    """A row for each library and what it prints, a column for each K; then the picture."""
    parts = result["parts"]
    exact = parts["exact"]["values"]
    others = {name: part for name, part in parts.items() if name != "exact"}
    sizes = sorted({int(key.rsplit(" = ", 1)[1]) for part in others.values() for key in part["values"] if _has_k(key)})
    rows = [row for name, part in others.items() for row in _rows(name, part, sizes)]
    truth = "; ".join(f"{name}: {value['value']:.3f}" for name, value in exact.items())
    alt = "What each library prints less the exact log p(x), against the number of particles"
    table = markdown(["what is printed, nats per datum", *(f"K = {size:,}" for size in sizes)], rows)
    return (
        f"Exact, nats per datum: {truth}.\n\n{table}\n\n![{alt}](pictures/other_libraries.png)\n\n{provenance(parts)}"
    )


def _has_k(key: str) -> bool:
    return ", K = " in key


def _rows(library: str, part: Part, sizes: list[int]) -> list[list[str]]:
    """A row for each kind of value that one library prints."""
    values = part["values"]
    kinds = dict.fromkeys(key.rsplit(", K = ", 1)[0] for key in values if _has_k(key))
    return [[f"{library}: {kind}", *(_cell(values.get(f"{kind}, K = {size}")) for size in sizes)] for kind in kinds]


def _cell(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['value']:.2f} ± {value['error']:.2f}"
