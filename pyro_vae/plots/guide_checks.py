"""Figures of checks of a guide beyond ranks: local C2ST, against HMC, conformal scaling, and data against the model."""

from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.diagnostics.against_hmc import HMCComparison
from pyro_vae.diagnostics.conformal import ConformalScaling
from pyro_vae.diagnostics.likeness import EvidenceCheck
from pyro_vae.diagnostics.local_test import LocalC2ST
from pyro_vae.plots.base import BLUE, GREY, ORANGE, TEXT, TITLE, dress, legend_below, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BINS = 30


def local_c2st(result: LocalC2ST) -> "Figure":
    """Draw the statistic of each datum, in order, above the range of classifiers that guess.

    Args:
        result: as `diagnostics.local_c2st` gives it.

    Returns:
        The figure: points in colour are flagged data; the grey range is 95 % of the guesses at each datum.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae import diagnostics
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = diagnostics.local_c2st(vae.model, vae.guide, torch.ones(3, 4), num_simulated=50, num_null=19)
        >>> type(local_c2st(found)).__name__
        'Figure'
    """
    order = result.statistic.argsort()
    statistic, flagged = result.statistic[order].numpy(), result.flagged[order].numpy()
    low, high = np.quantile(result.null[:, order].numpy(), [0.025, 0.975], axis=0)
    places = np.arange(1, len(statistic) + 1)
    figure = make_figure(6.4, 3.8)
    axes = figure.subplots()
    axes.vlines(places, low, high, color=GREY, alpha=0.4, lw=2.5, label="95 % of guesses")
    for chosen, colour, label in ((~flagged, BLUE, "not flagged"), (flagged, ORANGE, "flagged")):
        if chosen.any():
            axes.plot(places[chosen], statistic[chosen], "o", color=colour, ms=3, label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("mean of (d - 1/2)²", fontsize=TEXT)
    found = "no difference found" if result.calibrated else "the guide differs from the posterior"
    counts = f"{int(flagged.sum())} of {len(flagged)} data flagged, {result.alpha:.0%} expected of an exact guide"
    dress(axes, f"local C2ST: {found}, p = {result.p_value:.3g}\n{counts}", "data, in the order of their statistic")
    legend_below(figure, axes)
    return figure


def hmc_comparison(result: HMCComparison) -> "Figure":
    """Draw by how much the guide's means, standard deviations and correlations differ from HMC's.

    Args:
        result: as `diagnostics.compare_with_hmc` gives it.

    Returns:
        The figure: a histogram over data and dimensions for each; the grey range is the tolerance.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae import diagnostics
        >>> from pyro_vae.inference import HMC
        >>> vae, how = VAE((4,), latent_dim=2), HMC(num_chains=2, num_warmup=20)
        >>> found = diagnostics.compare_with_hmc(vae.model, vae.guide, torch.ones(3, 4), num_draws=100, hmc=how)
        >>> type(hmc_comparison(found)).__name__
        'Figure'
    """
    shares = {name: flags.double().mean().item() for name, flags in result.by_kind.items()}
    figure = make_figure(9.0, 3.0)
    labels = ("in HMC's standard deviations", "log of the ratio to HMC's", "difference from HMC's")
    offs = (result.mean, result.log_sd, result.correlation)
    for axes, (name, share), off, label in zip(figure.subplots(1, 3), shares.items(), offs, labels, strict=True):
        axes.axvspan(-result.tolerance, result.tolerance, color=GREY, alpha=0.25, lw=0)
        _histogram(axes, off.values.flatten().numpy(), BLUE if share == 0 else ORANGE)
        dress(axes, f"{name}: {share:.0%} of the data flagged", label)
        axes.set_yticks([])
    unreliable = result.unreliable.double().mean().item()
    title = f"the guide against HMC at {len(result.unreliable)} data (HMC unreliable for {unreliable:.0%})"
    figure.suptitle(title, fontsize=TITLE)
    return figure


def _histogram(axes: "Axes", values: np.ndarray, colour: str) -> None:
    if len(values):
        axes.hist(values, bins=_BINS, color=colour, alpha=0.65, edgecolor="white", linewidth=0.4)


def conformal_scaling(result: ConformalScaling) -> "Figure":
    """Draw the factors by which credible sets must grow, for each level.

    Args:
        result: as `diagnostics.conformal_scaling` gives it.

    Returns:
        The figure: the region of the whole code with its 95 % interval, and the interval of each dimension in grey, in
        colour if flagged. An interval without an upper end is drawn up to twice the factor.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae import diagnostics
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = diagnostics.conformal_scaling(vae.model, vae.guide, torch.zeros(50, 4), num_draws=78)
        >>> type(conformal_scaling(found)).__name__
        'Figure'
    """
    levels, factors, flagged = result.levels.numpy(), result.factors.numpy(), result.flagged.numpy()
    low, high = (end[:, 0].numpy() for end in result.intervals())
    figure = make_figure(5.4, 4.0)
    axes = figure.subplots()
    axes.axhline(1, color="black", lw=0.7)
    for column, bad in zip(factors.T[1:], flagged.T[1:], strict=True):
        axes.plot(levels, column, "-o", color=ORANGE if bad.any() else GREY, alpha=0.6, lw=0.9, ms=2.5)
    open_end = 2 * factors[:, 0]  # of an interval without an upper end a bar that is as long as the factor
    bars = np.stack([factors[:, 0] - low, np.where(np.isfinite(high), high, open_end) - factors[:, 0]])
    axes.errorbar(levels, factors[:, 0], bars, fmt="-s", color=BLUE, ms=5, lw=1.4, capsize=3, label="the whole code")
    axes.plot([], [], "-o", color=GREY, ms=2.5, label="single dimensions")
    axes.set_ylabel("factor of the radius", fontsize=TEXT)
    sizes = f"{result.scores.shape[1]} simulated data, {int(flagged.sum())} of {flagged.size} sets flagged"
    dress(axes, f"conformal scaling of credible sets of q(z|x)\n{sizes}", "level of the set")
    legend_below(figure, axes)
    return figure


def evidence_check(result: EvidenceCheck) -> "Figure":
    """Draw the distribution of log p(x) over the data, and over data that the model draws.

    Args:
        result: as `diagnostics.evidence_check` gives it.

    Returns:
        The figure: two histograms with the same bins, of density.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae import diagnostics
        >>> vae = VAE((4,), latent_dim=2)
        >>> x = torch.ones(9, 4)
        >>> found = diagnostics.evidence_check(vae.model, vae.guide, x, num_simulated=50, num_particles=9)
        >>> type(evidence_check(found)).__name__
        'Figure'
    """
    observed, simulated = result.observed.numpy(), result.simulated.numpy()
    both = np.concatenate([observed, simulated])
    bins = np.linspace(both.min(), both.max() + 1e-9, _BINS + 1)
    figure = make_figure(6.0, 3.6)
    axes = figure.subplots()
    axes.hist(simulated, bins, density=True, color=GREY, alpha=0.45, label=f"{len(simulated)} simulated data")
    colour = BLUE if result.consistent else ORANGE
    axes.hist(observed, bins, density=True, histtype="step", color=colour, lw=1.6, label=f"the {len(observed)} data")
    axes.set_yticks([])
    share = result.flagged.double().mean().item()
    counts = f"{share:.1%} of the data flagged, {result.alpha:.0%} expected"
    dress(axes, f"{result.measure}: {result.verdict}, p = {result.p_value:.3g}\n{counts}", f"{result.measure}, nats")
    legend_below(figure, axes)
    return figure
