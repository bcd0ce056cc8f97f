"""Figures of calibration, predictive checks and comparisons of models."""

from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.diagnostics.comparison import Comparison
from pyro_vae.diagnostics.coverage import Coverage
from pyro_vae.diagnostics.predictive import PredictiveCheck
from pyro_vae.diagnostics.ranks import Ranks
from pyro_vae.errors import UsageError
from pyro_vae.plots.base import BLUE, FAINT, GREY, ORANGE, TEXT, TITLE, dress, legend_below, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 8
"""Flagged quantities named in a legend; the others are counted."""


def rank_ecdf(calibration: Ranks) -> "Figure":
    """Draw the ECDF of the ranks minus the uniform one, with a simultaneous band for calibrated guides.

    Args:
        calibration: as `calibration.simulation_based_calibration` or `joint_regions.expected_coverage` gives it.

    Returns:
        The figure: one line for each quantity, in colour and named if it leaves the band. For calibration, a line above
        the band on the left and below it on the right means a guide that is too narrow; a line on one side of it, a
        biased guide. For expected coverage the rank is the level of a region and the line its coverage minus the level:
        below the band, regions are too small.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.diagnostics.calibration import simulation_based_calibration
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = simulation_based_calibration(vae.model, vae.guide, torch.zeros(30, 4), num_draws=19)
        >>> type(rank_ecdf(found)).__name__
        'Figure'
    """
    points, flagged = calibration.points.numpy(), calibration.flagged.tolist()
    lower, upper = (side.numpy() for side in calibration.band)
    figure = make_figure(6.4, 3.8)
    axes = figure.subplots()
    joint = f"calibrated: {1 - calibration.alpha:.0%} of all lines at once"
    axes.fill_between(points, lower, upper, color=GREY, alpha=0.25, lw=0, label=joint)
    axes.axhline(0, color="black", lw=0.7)
    colours = _colours(sum(flagged))
    curves = zip(calibration.names, calibration.difference.T.numpy(), flagged, strict=True)
    for name, curve, bad in sorted(curves, key=lambda curve: curve[2]):
        colour = colours.pop(0) if bad else GREY
        axes.plot(
            points, curve, color=colour, lw=1.4 if bad else 0.8, label=_label(name, bad, calibration, len(colours))
        )
    limit = 1.15 * max(np.abs(lower).max(), upper.max(), calibration.difference.abs().max().item())
    axes.set_ylim(-limit, limit)
    axes.set_xlim(0, 1)
    axes.set_ylabel("ECDF of ranks minus expected", fontsize=TEXT)
    count, total = sum(flagged), len(flagged)
    found = "no quantity leaves the band" if count == 0 else f"{count} of {total} quantities leave the band"
    sizes = f"{total} quantities, {len(calibration.ranks)} simulated data, {calibration.num_draws} draws each"
    dress(axes, f"calibration of q(z|x): {found}\n{sizes}", "rank of the truth among the draws, as a fraction")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _colours(count: int) -> list[str]:
    """Colours for lines, distinguishable with colour blindness (Okabe & Ito); repeated if there are more lines."""
    palette = [ORANGE, BLUE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
    return [palette[i % len(palette)] for i in range(count)]


def _label(name: str, bad: bool, calibration: Ranks, left: int) -> str:
    """A line's name in the legend; matplotlib leaves out names with a leading underscore."""
    shown = int(calibration.flagged.sum()) - left
    if not bad or shown > _NAMED:
        return "_"
    more = f" and {left} more" if shown == _NAMED and left else ""
    return f"{name}: {calibration.verdicts[name]}{more}"


def coverage(result: Coverage) -> "Figure":
    """Draw how often credible sets contain the truth against their level.

    Args:
        result: as `Calibration.coverage` gives it.

    Returns:
        The figure: one point for each quantity and level, in colour if it is flagged; grey bars are two binomial
        standard errors of a calibrated guide.

    Raises:
        UsageError: if there are no levels.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.diagnostics.calibration import simulation_based_calibration
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = simulation_based_calibration(vae.model, vae.guide, torch.zeros(30, 4), num_draws=19)
        >>> type(coverage(found.coverage())).__name__
        'Figure'
    """
    if len(result.levels) == 0:
        raise UsageError("no level to draw: give coverage some levels, with enough draws for them")
    levels, errors = result.levels.numpy(), result.standard_errors.numpy()
    figure = make_figure(5.4, 4.2)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", lw=0.7)
    axes.errorbar(
        levels,
        levels,
        yerr=2 * errors,
        fmt="none",
        ecolor=GREY,
        elinewidth=8,
        alpha=0.35,
        label="calibrated, two standard errors",
    )
    shares, flagged = result.shares.numpy(), result.flagged.numpy()
    spread = np.linspace(-0.012, 0.012, shares.shape[1]) if shares.shape[1] > 1 else np.zeros(1)
    places = np.broadcast_to(levels[:, None] + spread, shares.shape)
    for chosen, colour, label in ((~flagged, BLUE, "not flagged"), (flagged, ORANGE, "flagged")):
        if chosen.any():
            axes.plot(places[chosen], shares[chosen], "o", color=colour, ms=3.5, label=label)
    low = max(0.0, min(levels.min(), shares.min()) - 0.08)
    axes.set_xlim(max(0.0, levels.min() - 0.08), 1)
    axes.set_ylim(low, 1.02)
    axes.set_ylabel("share of data whose truth is inside", fontsize=TEXT)
    counts = f"{int(flagged.sum())} of {flagged.size} shares flagged, {result.num_data} simulated data"
    dress(axes, f"coverage of credible sets of q(z|x)\n{counts}", "level of the credible set")
    legend_below(figure, axes)
    return figure


def predictive_check(check: PredictiveCheck) -> "Figure":
    """Draw a histogram of each test statistic of replicated data, with that of the data as a line.

    Args:
        check: as `predictive.posterior_predictive_check` gives it.

    Returns:
        The figure, one panel for each statistic; the line is orange if the statistic is flagged.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.diagnostics.predictive import posterior_predictive_check
        >>> vae = VAE((4,), latent_dim=2)
        >>> result = posterior_predictive_check(vae.model, vae.guide, torch.ones(20, 4), num_particles=50)
        >>> type(predictive_check(result)).__name__
        'Figure'
    """
    count = len(check.names)
    columns = min(count, 4)
    figure = make_figure(max(2.7 * columns, 4.2), 2.6 * ceil(count / columns) + 0.4)
    panels = figure.subplots(ceil(count / columns), columns, squeeze=False).ravel()
    for panel, index in zip(panels, range(count), strict=False):
        _draw_statistic(panel, check, index)
    for panel in panels[count:]:
        panel.set_visible(False)
    codes = "codes from p(z)" if check.method == "prior" else f"codes of the data, by {check.method!r}"
    figure.suptitle(f"test statistics of {len(check.replicated)} replicated data sets, {codes}", fontsize=TITLE)
    return figure


def _draw_statistic(axes: "Axes", check: PredictiveCheck, index: int) -> None:
    values, observed = check.replicated[:, index].numpy(), check.observed[index].item()
    values, bad = values[np.isfinite(values)], bool(check.flagged[index])
    if len(values) and np.ptp(values) > 0:
        axes.hist(values, bins=25, color=BLUE, alpha=0.55, edgecolor="white", linewidth=0.4)
    elif len(values):
        axes.axvline(values[0], color=BLUE, lw=3, alpha=0.55)
    axes.axvline(observed, color=ORANGE if bad else "black", lw=1.6)
    name, p = check.names[index], check.two_sided[index].item()  # the p-value that flags it, as in the report
    dress(axes, f"{name}\nT(x) = {observed:.4g}, two-sided p = {p:.3f}{', flagged' * bad}", "")
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=4)


def comparison(result: Comparison) -> "Figure":
    """Draw each model's log p(x) minus that of the best, with two standard errors of the paired difference.

    Args:
        result: as `comparison.compare` gives it.

    Returns:
        The figure: best model on top; in colour those that are worse by more than two standard errors.

    Example:
        >>> from pyro_vae.diagnostics import compare
        >>> from pyro_vae.evidence import Evidence
        >>> zero = torch.zeros(3)
        >>> better, worse = (Evidence(torch.ones(3) * at, zero, zero, zero, zero, 9, 0) for at in (-1.0, -2.0))
        >>> type(comparison(compare({"a": better, "b": worse}))).__name__
        'Figure'
    """
    figure = make_figure(6.4, 0.42 * len(result.models) + 1.3)
    axes = figure.subplots()
    for place, model in enumerate(result.models):
        error = model.standard_error_difference
        bar = [2 * error] if error == error and place > 0 else None
        colour = "black" if place == 0 else ORANGE if model.is_worse else BLUE
        axes.errorbar([model.difference], [place], fmt="o", color=colour, ms=5, elinewidth=1.4, capsize=3, xerr=bar)
    axes.axvline(0, color=GREY, lw=0.8, ls="--")
    axes.set_yticks(range(len(result.models)), [f"{model.name}  {model.log_p:.2f}" for model in result.models])
    axes.set_ylim(len(result.models) - 0.4, -0.6)
    title = f"log p(x) of {result.num_data} data: differences from the best, two standard errors"
    dress(axes, title, "nats per datum")
    axes.grid(axis="x", color=FAINT, lw=0.7)
    return figure
