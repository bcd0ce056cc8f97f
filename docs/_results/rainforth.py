"""Rainforth et al. 2018: signal-to-noise ratio of the gradients against the number of particles."""

from typing import Any

import numpy as np
from _results.points import COLOURS, column, dress, short
from _results.shared import markdown, minutes, provenance, with_error
from matplotlib.figure import Figure

NAMES = ("IWAE encoder", "DReG encoder", "IWAE decoder", "DReG decoder")
PUBLISHED = {"IWAE encoder": "-1/2", "IWAE decoder": "1/2", "DReG decoder": "1/2"}


def text(result: dict[str, Any]) -> str:
    """The picture, the slopes, the ratios, and how they were measured."""
    points = _points(result)
    windows = [points[start : start + 3] for start in range(len(points) - 2)][-3:]
    heads = ["gradient", "published slope", *(f"K = {_sizes(window)}" for window in windows), "the last, 95 %"]
    fitted = [_slopes(name, windows) for name in NAMES]
    shown = [*NAMES, "IWAE encoder, share of the limit", "DReG encoder, share of the limit"]
    rows = [
        [str(part["num_particles"]), *(short(part["values"][name]) for name in shown), minutes(part)] for part in points
    ]
    table = markdown(["K", *shown, "CPU minutes"], rows)
    picture = "![Signal-to-noise ratio against K, in logarithmic axes](pictures/rainforth.png)"
    slopes_of = f"Slopes, by the K that they are fitted to:\n\n{markdown(heads, fitted)}"
    return "\n\n".join([picture, slopes_of, table, provenance(result["parts"])])


def _points(result: dict[str, Any]) -> list[Any]:
    return [part for part in result["parts"].values() if "num_particles" in part]


def _sizes(window: list[Any]) -> str:
    return ", ".join(str(part["num_particles"]) for part in window)


def _slopes(name: str, windows: list[list[Any]]) -> list[str]:
    """The row of a gradient."""
    found = [_slope(window, name) for window in windows]
    low, high = (found[-1]["value"] + sign * 1.96 * found[-1]["error"] for sign in (-1, 1))
    return [name, PUBLISHED.get(name, "not falling"), *(with_error(s, 3) for s in found), f"{low:.3f} to {high:.3f}"]


def _slope(window: list[Any], name: str) -> dict[str, float]:
    """By least squares of the log ratio on log K; its error from those of the points, which are independent."""
    x, (ratio, error) = np.log([part["num_particles"] for part in window]), map(np.array, column(window, name))
    fit = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return {"value": fit @ np.log(ratio), "error": ((fit * error / ratio) ** 2).sum() ** 0.5}


def draw(result: dict[str, Any]) -> Figure:
    """The ratios in logarithmic axes, with lines of slopes 1/2 and -1/2 through the last points."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    points = _points(result)
    k = np.array([part["num_particles"] for part in points])
    for axes, block in zip(figure.subplots(1, 2), ("encoder", "decoder"), strict=True):
        for objective, colour in zip(("IWAE", "DReG"), COLOURS, strict=False):
            ratio, error = map(np.array, column(points, f"{objective} {block}"))
            axes.errorbar(k, ratio, 1.96 * error, fmt="o", ms=4, color=colour, capsize=2, label=objective)
            slope = -0.5 if (objective, block) == ("IWAE", "encoder") else 0.5
            axes.plot(k[-5:], ratio[-1] * (k[-5:] / k[-1]) ** slope, color="grey", lw=1, ls="--")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.tick_params(which="minor", labelsize="small")
        dress(axes, f"Gradient of the {block}", "particles K; dashed: slopes 1/2 and -1/2", "signal-to-noise ratio")
        axes.legend(frameon=False)
    return figure
