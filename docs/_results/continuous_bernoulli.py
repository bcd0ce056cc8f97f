"""Continuous Bernoulli and Bernoulli on grey images, scored by the density."""

from typing import Any

from _results.points import COLOURS, column, dress, of
from _results.shared import Part, markdown, minutes, passes, provenance, with_error
from matplotlib.figure import Figure

DATA = {"digits": "digits, grey", "mnist": "MNIST, grey"}
LIKELIHOODS = {"continuous": "continuous Bernoulli", "bernoulli": "Bernoulli"}


def text(result: dict[str, Any]) -> str:
    """The picture, a row for each training, and how they were measured."""
    heads = ["data, trained by", "log p(x)", "error of the draws", "ELBO", "better by, paired", "passes", "CPU minutes"]
    rows = [_row(result, data, name) for data in DATA for name in LIKELIHOODS if f"{data}-{name}" in result["parts"]]
    picture = "![log p(x) of the test images by both, and the ELBO](pictures/continuous_bernoulli.png)"
    trainings = {name: part for name, part in result["parts"].items() if not name.endswith("difference")}
    return f"{picture}\n\n{markdown(heads, rows)}\n\n{provenance(trainings)}"


def _row(result: dict[str, Any], data: str, name: str) -> list[str]:
    part: Part = result["parts"][f"{data}-{name}"]
    gain = result["parts"].get(f"{data}-difference") if name == "continuous" else None
    better = "" if gain is None else with_error(gain["values"]["gain"])
    values = part["values"]
    draws = f"{values['log p(x), error of the draws']['value']:.3f}"
    cells = [with_error(values["log p(x)"]), draws, with_error(values["ELBO"]), better]
    return [f"{DATA[data]}, {LIKELIHOODS[name]}", *cells, passes(part), minutes(part)]


def draw(result: dict[str, Any]) -> Figure:
    """Log p(x) and the ELBO of both, for each data set."""
    found = {data: parts for data in DATA if (parts := of(result, f"{data}-"))}
    figure = Figure(figsize=(4.5 * len(found), 3.6), layout="constrained")
    for axes, (data, parts) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
        names = [name for name in LIKELIHOODS if name in parts]
        for value, colour in (("log p(x)", COLOURS[1]), ("ELBO", COLOURS[0])):
            height, error = column([parts[name] for name in names], value)
            labels = [LIKELIHOODS[name] for name in names]
            axes.errorbar(labels, height, error, fmt="o", ms=5, color=colour, capsize=3, label=value)
        axes.set_xlim(-0.5, len(names) - 0.5)
        dress(axes, f"{DATA[data]}: density of the test images", "trained by", "nats per image")
        axes.legend(frameon=False)
    return figure
