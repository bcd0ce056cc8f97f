"""Posterior collapse by the way of training."""

from typing import Any

from _results.points import COLOURS, column, dress, of, short
from _results.shared import Part, markdown, minutes, passes, provenance, with_error
from matplotlib.figure import Figure

DATA = {"digits": "digits, binarised", "mnist": "static MNIST"}


def text(result: dict[str, Any]) -> str:
    """The picture, a row for each way, and how they were measured."""
    heads = ["data, way of training", "active units", "KL", "ELBO", "log p(x)", "passes", "CPU minutes"]
    rows = [_row(f"{DATA[data]}, {way}", part) for data in DATA for way, part in of(result, f"{data}-").items()]
    picture = "![KL of each dimension, active units and log p(x), by the way of training](pictures/collapse.png)"
    return f"{picture}\n\n{markdown(heads, rows)}\n\n{provenance(result['parts'])}"


def _row(name: str, part: Part) -> list[str]:
    values = part["values"]
    active = values["active units"]
    units = short(active) if "error" in active else f"{active['value']:.0f}"
    measured = (with_error(values[column], 3) for column in ("rate", "ELBO", "log p(x)"))
    return [name, units, *measured, passes(part), minutes(part)]


def draw(result: dict[str, Any]) -> Figure:
    """For each data set the KL of the dimensions, largest first; active units; log p(x)."""
    found = {data: parts for data in DATA if (parts := of(result, f"{data}-"))}
    figure = Figure(figsize=(11, 3.6 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 3, squeeze=False)
    for (left, middle, right), (data, parts) in zip(panels, found.items(), strict=True):
        for (way, part), colour in zip(parts.items(), COLOURS, strict=False):
            kl = part["curves"]["KL of each dimension"]
            left.plot(range(1, len(kl) + 1), kl, color=colour, label=way)
        dress(left, f"{DATA[data]}: KL of each dimension", "dimension, by size", "nats per datum")
        left.legend(frameon=False)
        _dots(middle, DATA[data], parts, "active units", "dimensions")
        _dots(right, DATA[data], parts, "log p(x)", "nats per datum")
    return figure


def _dots(axes: Any, title: str, parts: dict[str, Part], name: str, unit: str) -> None:
    height, error = column(list(parts.values()), name)
    for way, y, e, colour in zip(parts, height, error, COLOURS, strict=False):
        axes.errorbar([way], [y], [e], fmt="o", color=colour, capsize=3)
    dress(axes, f"{title}: {name}", "way of training", unit)
