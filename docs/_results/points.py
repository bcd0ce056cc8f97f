"""What the pictures of comparisons share: values of several parts as points with errors, and the look of the axes."""

from typing import Any

from _results.shared import Part

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8C8C8C", "#56B4E9", "#CC79A7")
"""From Okabe & Ito's palette, which people with colour blindness can distinguish."""


def column(parts: list[Part], name: str) -> tuple[list[float], list[float]]:
    """A value of several parts, and its errors (0 where it is exact)."""
    found = [part["values"][name] for part in parts]
    return [entry["value"] for entry in found], [entry.get("error", 0.0) for entry in found]


def of(result: dict[str, Any], start: str) -> dict[str, Part]:
    """The parts whose names begin with `start`, by the rest of their names."""
    return {name.removeprefix(start): part for name, part in result["parts"].items() if name.startswith(start)}


def short(value: dict[str, float], digits: int = 3) -> str:
    """A value to so many significant digits, with its standard error."""
    return f"{value['value']:.{digits}g} ± {value['error']:.2g}"


def dress(axes: Any, title: str, x: str, y: str) -> None:
    """Title, names of the axes with their units, a faint grid."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
