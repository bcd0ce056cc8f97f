"""Figure of a search: log p(x) of its candidates, round by round."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.diagnostics.halving import SearchResult, described
from pyro_vae.plots.base import BLUE, GREY, TEXT, dress, legend_below, make_figure
from pyro_vae.plots.training import robust_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONGEST = 90
"""Characters of a line of the legend."""


def search(result: SearchResult) -> "Figure":
    """Draw log p(x) of the validation data against the epochs of a round, a line for each candidate of a search.

    Error bars are two standard errors of the paired difference from the best candidate of the round, for those that
    reached the last one. Values far below all others are outside the axes' limits; the label of the x axis states how
    many.

    Args:
        result: as `pyro_vae.search` gives it.

    Returns:
        The figure: the best candidate in black, others of the last round in blue, those left out before in grey.

    Example:
        >>> from pyro_vae.diagnostics.comparison import Compared, Comparison
        >>> from pyro_vae.diagnostics.halving import Round
        >>> differences = (("c0", 0.0), ("c1", -2.0))
        >>> models = tuple(Compared(name, d - 90.0, 1.0, d, 0.1, 0.0, 0.0, 0.0, 0.5) for name, d in differences)
        >>> rounds, options = (Round(3, Comparison(models, 50), ("c0",), {}),), {"c0": {"lr": 0.1}, "c1": {"lr": 1}}
        >>> type(search(SearchResult(options, rounds, "c0", "runs/c0", True, 6, 6, 1000, 0))).__name__
        'Figure'
    """
    figure = make_figure(6.4, 4.2)
    axes = figure.subplots()
    last = [model.name for model in result.rounds[-1].comparison.models]
    for name in (name for name in result.candidates if name not in last):
        _draw_line(axes, result, name, GREY)
    for name in last:
        _draw_line(axes, result, name, "black" if name == result.best else BLUE)
    outside = _set_limits(axes, result)
    note = f" ({outside} value{'s' * (outside > 1)} off the scale)" if outside else ""
    axes.set_xticks([found.epochs for found in result.rounds])
    axes.set_ylabel("log p(x) of validation data, nats per datum", fontsize=TEXT)
    title = f"{len(result.candidates)} candidates, {result.spent} epochs in all; best: {result.best}"
    dress(axes, title, f"epochs of each candidate in a round{note}")
    legend_below(figure, axes, columns=1)
    return figure


def _draw_line(axes: "Axes", result: SearchResult, name: str, colour: str) -> None:
    """The line of one candidate over the rounds that it was in."""
    found = [(r.epochs, m) for r in result.rounds for m in r.comparison.models if m.name == name]
    if not found:  # it failed in the first round
        return
    epochs, values = [epochs for epochs, _ in found], [model.log_p for _, model in found]
    style: dict[str, Any] = {"fmt": "o-", "ms": 4, "lw": 1.2, "color": colour}
    if colour == GREY:
        axes.errorbar(epochs, values, **style)
        return
    errors = np.nan_to_num([2 * model.standard_error_difference for _, model in found])
    label = f"{name}: {described(result.candidates[name])}"
    axes.errorbar(epochs, values, yerr=errors, capsize=3, label=label[:_LONGEST], **style)
    axes.annotate(name, (epochs[-1], values[-1]), (6, 3), textcoords="offset points", fontsize=TEXT)


def _set_limits(axes: "Axes", result: SearchResult) -> int:
    """Set limits without values that are far from the others; returns how many are outside."""
    values = [np.array([model.log_p for model in found.comparison.models]) for found in result.rounds]
    every = np.concatenate(values)
    low, high = robust_limits([np.sort(every)])
    pad = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - pad, high + pad)
    return int((every < low - pad).sum())
