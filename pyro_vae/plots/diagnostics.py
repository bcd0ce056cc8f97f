"""Figures of the information in latent codes, and of the reliability of an estimate."""

from collections.abc import Mapping
from math import ceil, isfinite
from typing import TYPE_CHECKING

import numpy as np

from pyro_vae.diagnostics import ACTIVE_VARIANCE, LatentStatistics
from pyro_vae.diagnostics.gaps import InferenceGaps
from pyro_vae.diagnostics.surgery import ElboSurgery
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence
from pyro_vae.plots.base import BLUE, FAINT, GREY, ORANGE, TEXT, dress, legend_below, make_figure
from pyro_vae.statistics.averages import Averaged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def latent_kl(stats: LatentStatistics) -> "Figure":
    """Draw the KL of each latent dimension from its prior as bars, greatest first, active ones in colour.

    Args:
        stats: as `diagnostics.latent_statistics` gives them.

    Returns:
        The figure: bars in nats per datum, labelled with the index of the dimension.

    Raises:
        UsageError: if the statistics have no KL, or one is not finite (a point mass such as `Delta`).

    Example:
        >>> from pyro_vae.diagnostics.latents import latent_statistics
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> stats = latent_statistics(vae, torch.rand(20, 4).round())
        >>> type(latent_kl(stats)).__name__
        'Figure'
    """
    if stats.kl is None:
        raise UsageError("these statistics have no KL of each dimension: only a VAE with one latent site 'z' has it")
    if not stats.kl.isfinite().all():
        raise UsageError("a KL is infinite, so there are no bars to draw: q(z|x) is a point mass (a Delta guide)")
    order = stats.kl.argsort(descending=True)
    kl, active = stats.kl[order].numpy(), stats.active[order].numpy()
    place = np.arange(len(kl))
    figure = make_figure(min(max(3.2 + 0.14 * len(kl), 5.0), 12), 3.2)
    axes = figure.subplots()
    for chosen, colour, label in (
        (active, BLUE, f"active: variance of E[z|x] over the data > {ACTIVE_VARIANCE}"),
        (~active, GREY, "not active"),
    ):
        if chosen.any():
            axes.bar(place[chosen], kl[chosen], color=colour, width=0.8, label=label)
    middle, half = (len(kl) - 1) / 2, max(len(kl), 8) / 2 + 0.2
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(0, max(1.25 * kl.max(), 1e-3))
    axes.set_xticks(place[:: ceil(len(kl) / 60)], [str(int(i)) for i in order[:: ceil(len(kl) / 60)]])
    axes.set_ylabel("KL, nats per datum", fontsize=TEXT)
    total = f"KL {float(stats.kl.sum()):.2f} nats per datum in sum"
    title = f"{stats.num_active} of {len(kl)} latent dimensions active, {total}"
    dress(axes, title, "latent dimension, sorted")
    legend_below(figure, axes)
    return figure


def active_units(stats: LatentStatistics) -> "Figure":
    """Draw the variance of each latent dimension's posterior mean over the data, greatest first in each site.

    Args:
        stats: as `diagnostics.latent_statistics` gives them.

    Returns:
        The figure: bars on a logarithmic scale, with the threshold above which a dimension is active.

    Example:
        >>> from pyro_vae.diagnostics.latents import latent_statistics
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> stats = latent_statistics(vae, torch.rand(20, 4).round())
        >>> type(active_units(stats)).__name__
        'Figure'
    """
    sizes = dict(stats.sizes or {"z": len(stats.active_variance)})
    sorted_sites = [site.sort(descending=True).values for site in stats.active_variance.split(list(sizes.values()))]
    spread = np.concatenate([site.numpy() for site in sorted_sites])
    place, active = np.arange(len(spread)), spread > ACTIVE_VARIANCE
    least = ACTIVE_VARIANCE / 1000
    figure = make_figure(min(max(3.2 + 0.14 * len(spread), 5.0), 12), 3.2)
    axes = figure.subplots()
    for chosen, colour, label in ((active, BLUE, "active"), (~active, GREY, "not active")):
        if chosen.any():
            heights = np.maximum(spread[chosen], 2 * least) - least
            axes.bar(place[chosen], heights, bottom=least, color=colour, width=0.8, label=label)
    axes.set_yscale("log")
    axes.set_ylim(least, 3 * max(spread.max(initial=0), ACTIVE_VARIANCE))
    axes.axhline(ACTIVE_VARIANCE, color="black", lw=1, ls="--", label=f"threshold {ACTIVE_VARIANCE}")
    starts = np.cumsum([0, *sizes.values()])[:-1]
    axes.set_xticks(starts, list(sizes), ha="left")
    axes.set_ylabel("variance of E[z|x] over the data", fontsize=TEXT)
    dress(
        axes, f"{stats.num_active} of {len(spread)} latent dimensions active", "latent dimension, sorted in each site"
    )
    legend_below(figure, axes)
    return figure


def inference_gaps(gaps: Mapping[str, InferenceGaps]) -> "Figure":
    """Draw the approximation gap and the amortisation gap of one or more results side by side.

    Args:
        gaps: results of `gaps.inference_gaps` by name, e.g. of two guides, or of training and test data.

    Returns:
        The figure: averages in nats per datum, with 2 standard errors (from the sample of data) to each side.

    Raises:
        UsageError: if there are none.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae import diagnostics
        >>> from pyro_vae.inference import Search
        >>> vae, how = VAE((4,), latent_dim=1), Search(max_steps=5)
        >>> gaps = diagnostics.inference_gaps(vae, torch.ones(3, 4), num_particles=50, search=how)
        >>> type(inference_gaps({"test": gaps})).__name__
        'Figure'
    """
    if not gaps:
        raise UsageError("expected at least one result of inference_gaps, by name, got none")
    figure = make_figure(6.4, 1.5 + 0.75 * len(gaps))
    axes = figure.subplots()
    for offset, name, colour in ((-0.19, "approximation", BLUE), (0.19, "amortisation", ORANGE)):
        _draw_bars(axes, [getattr(result, name) for result in gaps.values()], offset, 0.36, colour, f"{name} gap")
    axes.set_yticks(range(len(gaps)), [f"{name}\ntotal {result.total.mean:.2f}" for name, result in gaps.items()])
    axes.invert_yaxis()
    dress(axes, "log p(x) - ELBO, split in two", "nats per datum, with 2 standard errors")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=FAINT, lw=0.7)
    legend_below(figure, axes)
    return figure


def elbo_surgery(terms: ElboSurgery) -> "Figure":
    """Draw the average KL and its two parts, with log N, the upper bound of the information.

    Args:
        terms: as `surgery.elbo_surgery` gives them.

    Returns:
        The figure: averages in nats per datum, with 2 standard errors (from the sample of data) to each side.

    Example:
        >>> from pyro_vae import diagnostics
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> terms = diagnostics.elbo_surgery(vae.model, vae.guide, torch.ones(10, 4), num_particles=2)
        >>> type(elbo_surgery(terms)).__name__
        'Figure'
    """
    parts = {"KL": terms.kl, "information": terms.information, "marginal KL": terms.marginal_kl}
    figure = make_figure(6.4, 2.6)
    axes = figure.subplots()
    for place, (colour, part) in enumerate(zip((GREY, BLUE, ORANGE), parts.values(), strict=True)):
        _draw_bars(axes, [part], place, 0.6, colour, "")
    label = f"log N = {terms.most:.2f}{', reached: use more data' if terms.saturated else ''}"
    axes.axvline(terms.most, color="black", lw=1, ls="--", label=label)
    axes.set_yticks(range(len(parts)), [f"{name}\n{part.mean:.2f}" for name, part in parts.items()])
    axes.invert_yaxis()
    dress(axes, f"KL = information + marginal KL, of {len(terms.kl)} data", "nats per datum, with 2 standard errors")
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=FAINT, lw=0.7)
    legend_below(figure, axes)
    return figure


def _draw_bars(axes: "Axes", estimates: list[Averaged], offset: float, height: float, colour: str, label: str) -> None:
    """One horizontal bar for each, at its place in the list, with 2 standard errors where they are known."""
    places = [place + offset for place in range(len(estimates))]
    errors = [2 * e.standard_error_data if isfinite(e.standard_error_data) else 0.0 for e in estimates]
    means = [e.mean for e in estimates]
    axes.barh(places, means, height, xerr=errors, color=colour, label=label, error_kw={"lw": 1, "capsize": 2})


def pareto_k(evidence: Evidence) -> "Figure":
    """Draw a histogram of Pareto's k, with the threshold above which an estimate of log p(x) is unreliable.

    Args:
        evidence: as `evidence.log_marginal` gives it.

    Returns:
        The figure. Values that are not finite are counted under its title: -inf (all weights equal: exact), +inf, and
        nan (too few draws).

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> from pyro_vae.evidence.importance_sampling import log_marginal
        >>> vae = VAE((4,), latent_dim=2)
        >>> evidence = log_marginal(vae.model, vae.guide, torch.ones(10, 4), num_particles=50)
        >>> type(pareto_k(evidence)).__name__
        'Figure'
    """
    k = evidence.pareto_k.detach().cpu().double().numpy()
    above = float((k > evidence.threshold).mean())
    figure = make_figure(6, 3.4)
    axes = figure.subplots()
    _draw_histogram(axes, k[np.isfinite(k)], evidence.threshold)
    axes.axvline(evidence.threshold, color="black", lw=1, ls="--", label=f"threshold {evidence.threshold:.2f}")
    axes.set_ylabel("data", fontsize=TEXT)
    legend_below(figure, axes)
    share = f"Pareto k above {evidence.threshold:.2f} for {above:.1%} of {len(k)} data"
    title = [f"{share}, {evidence.num_particles} draws each", *_not_shown(k)]
    dress(axes, "\n".join(title), "Pareto k of the importance weights of a datum")
    return figure


def _draw_histogram(axes: "Axes", values: np.ndarray, threshold: float) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(values) == 0:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="bottom", color=GREY)
        axes.set_yticks([])
        return
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = min(values.min(), threshold), max(values.max(), threshold)
    width = max((high - low) / 30, 1e-3)
    # The threshold is an edge, so that no bar crosses it.
    edges = threshold + width * np.arange(-ceil((threshold - low) / width) - 1, ceil((high - threshold) / width) + 2)
    for chosen, colour in ((values <= threshold, BLUE), (values > threshold, ORANGE)):
        axes.hist(values[chosen], bins=list(edges), color=colour, edgecolor="white", linewidth=0.4)


def _not_shown(k: np.ndarray) -> list[str]:
    """One line that counts the values that are not finite; an empty list if all are finite."""
    counts = {
        "at -inf (all weights equal)": int(np.isneginf(k).sum()),
        "at +inf": int(np.isposinf(k).sum()),
        "nan (unknown, not to be trusted)": int(np.isnan(k).sum()),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    return [f"not shown: {', '.join(parts)}"] if parts else []
