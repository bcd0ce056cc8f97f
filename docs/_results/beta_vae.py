"""Rate, distortion and log p(x) along beta."""

from typing import Any

from _results.points import COLOURS, column, dress, of
from _results.shared import Part, markdown, minutes, passes, provenance, with_error
from matplotlib.figure import Figure

DATA = {"digits": "digits, binarised", "mnist": "static MNIST"}
COLUMNS = ("rate", "distortion", "ELBO", "log p(x)")


def text(result: dict[str, Any]) -> str:
    """The picture, a row for each training, and how they were measured."""
    heads = ["data, beta", *COLUMNS, "error of the draws", "active units", "flagged", "passes", "CPU minutes"]
    rows = [_row(f"{DATA[data]}, {beta}", part) for data in DATA for beta, part in of(result, f"{data}-").items()]
    picture = "![Distortion against rate, and log p(x) against beta](pictures/beta_vae.png)"
    return f"{picture}\n\n{markdown(heads, rows)}\n\n{provenance(result['parts'])}"


def _row(name: str, part: Part) -> list[str]:
    values = part["values"]
    draws, flagged = (values[f"log p(x), {what}"]["value"] for what in ("error of the draws", "share of data flagged"))
    health = [f"{draws:.3f}", f"{values['active units']['value']:.0f}", f"{flagged:.0%}"]
    return [name, *(with_error(values[column]) for column in COLUMNS), *health, passes(part), minutes(part)]


def draw(result: dict[str, Any]) -> Figure:
    """For each data set the curve of distortion against rate, and the bounds against beta."""
    found = {data: parts for data in DATA if (parts := of(result, f"{data}-"))}
    figure = Figure(figsize=(9, 3.9 * len(found)), layout="constrained")
    panels = figure.subplots(len(found), 2, squeeze=False)
    for (left, right), (data, parts) in zip(panels, found.items(), strict=True):
        _draw_curve(left, DATA[data], parts)
        _draw_bounds(right, DATA[data], parts)
    return figure


def _draw_curve(axes: Any, title: str, parts: dict[str, Part]) -> None:
    (rate, rate_error), (distortion, error) = (column(list(parts.values()), name) for name in ("rate", "distortion"))
    axes.errorbar(rate, distortion, error, rate_error, fmt="o-", ms=4, color=COLOURS[0], capsize=2)
    labels: dict[tuple[float, float], str] = {}  # betas at which the codes are unused are one point
    for beta, x, y in zip(parts, rate, distortion, strict=True):
        point = (round(x, 1), round(y, 1))
        labels[point] = f"{labels[point]}, {beta}" if point in labels else beta
        if beta == "1":
            axes.axline((x, y), slope=-1, color="grey", lw=1, ls="--")
    for point, label in labels.items():
        axes.annotate(label, point, (4, 4), textcoords="offset points", fontsize="small")
    where = "rate, nats; dashed: where the ELBO is that of beta = 1"
    dress(axes, f"{title}: the curve, by beta", where, "distortion, nats")


def _draw_bounds(axes: Any, title: str, parts: dict[str, Part]) -> None:
    betas = [float(beta) for beta in parts]
    for name, colour in (("log p(x)", COLOURS[1]), ("ELBO", COLOURS[0])):
        height, error = column(list(parts.values()), name)
        axes.errorbar(betas, height, error, fmt="o-", ms=4, color=colour, capsize=2, label=name)
    axes.set_xscale("log")
    dress(axes, f"{title}: log p(x) and its bound", "beta", "nats per datum")
    axes.legend(frameon=False)
