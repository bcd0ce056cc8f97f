"""Variance of the gradient for the encoder, by estimator and number of latent dimensions."""

from typing import Any

from _results.points import COLOURS, column, dress, short
from _results.shared import markdown, minutes, provenance
from matplotlib.figure import Figure

ESTIMATORS = ("analytic KL", "ELBO", "sticking the landing", "score, baseline", "score")
MOMENTS = ("at the start", "trained")


def text(result: dict[str, Any]) -> str:
    """The picture, the ratios, and how they were measured."""
    rows = [
        [
            f"{part['latent']}, {moment}",
            *(short(part["values"][f"{name}, {moment}"]) for name in ESTIMATORS),
            minutes(part),
        ]
        for moment in MOMENTS
        for part in result["parts"].values()
    ]
    table = markdown(["latent dimensions", *ESTIMATORS, "CPU minutes"], rows)
    picture = (
        "![Noise over signal of the gradient against the number of latent dimensions](pictures/score_function.png)"
    )
    return f"{picture}\n\n{table}\n\n{provenance(result['parts'])}"


def draw(result: dict[str, Any]) -> Figure:
    """The ratio against the number of latent dimensions, before and after the training."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    parts = list(result["parts"].values())
    latent = [part["latent"] for part in parts]
    panels = figure.subplots(1, 2, sharey=True)
    for axes, moment in zip(panels, MOMENTS, strict=True):
        for name, colour in zip(ESTIMATORS, COLOURS, strict=False):
            ratio, error = column(parts, f"{name}, {moment}")
            axes.errorbar(latent, ratio, error, fmt="o-", ms=4, color=colour, capsize=2, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xticks(latent, [str(size) for size in latent])
        axes.minorticks_off()
        dress(axes, f"Gradient for the encoder, {moment}", "latent dimensions", "tr Cov[g] / |E[g]|$^2$")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    return figure
