"""What a VAE does with its code: which latent dimensions carry information about the data, and how much."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data.storage import rows_at_once
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.inference.moments import Moments, moments, normal_kl
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.sites import in_order
from pyro_vae.inference.weighing import model_order, propose
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded

ACTIVE_VARIANCE = 0.01
"""A latent dimension is active where the variance of its posterior mean over the data is above this."""
_DRAWS = 10
"""Draws of the sites that a site's mean depends on."""


@dataclass(frozen=True, eq=False)
class LatentStatistics:
    """What each latent dimension carries, over a set of data.

    Args:
        active_variance: Var_x(E_q[z_i|x]), with N - 1 below, `[L]`; 0 where the code ignores the data.
        kl: mean over x of KL(q(z_i|x) || p(z_i)) of the marginals, `[L]`, nats per datum; None if there are several
            latent sites.
        sizes: dimensions of each site, by name, in the order in which they follow each other in L: the model's.
    """

    active_variance: Tensor
    kl: Tensor | None
    sizes: Mapping[str, int] | None = None

    @property
    def active(self) -> Tensor:
        """Which dimensions are active, `[L]` bool: `active_variance` above 0.01."""
        return self.active_variance > ACTIVE_VARIANCE

    @property
    def num_active(self) -> int:
        """Number of active dimensions."""
        return int(self.active.sum())

    def __str__(self) -> str:
        """How many dimensions are active, site by site where there are several."""
        sizes = self.sizes or {"z": len(self.active_variance)}
        counts = zip(sizes.items(), self.active.split(list(sizes.values())), strict=True)
        shown = {name: f"{int(active.sum())} of {size}" for (name, size), active in counts}
        return shown.get("z", "") if len(shown) == 1 else ", ".join(f"{name}: {text}" for name, text in shown.items())


@isolated
@checked
def latent_statistics(
    vae: Autoencoder, x: Tensor, batch: int | None = None, c: Tensor | None = None, **inputs: Tensor
) -> LatentStatistics:
    r"""Measure, for each latent dimension, the spread of its posterior mean over the data and its KL from the prior.

    .. math:: A_i = \mathrm{Var}_x(E_{q(z|x)}[z_i]), \qquad
        KL_i = \frac1N \sum_x \log\frac{\tau_i}{\sigma_i(x)}
        + \frac{\sigma_i(x)^2 + (\mu_i(x) - m_i)^2}{2 \tau_i^2} - \frac12

    Here mu, sigma are the means and standard deviations of q(z|x), and m, tau those of p(z). The KL is exact where the
    marginals are normal (`DiagonalNormal`, `FullNormal`, `StandardNormal`); for other families it is the KL of the
    normals with the same moments (of flows, averages over 512 fixed points; of a prior that does not know its own,
    `FlowPrior`, over 10,000 draws), and infinite for `Delta`. The sum of `kl` over the dimensions is the KL of the
    whole code only where both q(z|x) and p(z) are normal with independent dimensions.

    For an `Autoencoder` without a `code_site`, that is with several latent sites, only the active variance is measured,
    for each continuous site whose mean is known. E_q[z_i|x] is then the mean over 10 draws of the sites before it. What
    the noise of these draws adds to the variance over x is subtracted: the estimate is unbiased, then clamped at 0.

    Evaluation mode, no gradient; the sums stream in double precision, so memory does not grow with the data.

    Args:
        vae: the VAE, or any other `Autoencoder`; left as it is.
        x: data `[N, *event]`, N at least 2.
        batch: data in one run of the encoder; None for 1000, or fewer if they have more than 2097 elements each.
        c: the context of a conditional VAE, `[N, *context]`.
        **inputs: what else the programs are to be given by name, `[N, ...]`.

    Returns:
        A `LatentStatistics`; tensors `[L]` in double precision on the CPU.

    Raises:
        UsageError: for fewer than 2 data, `batch` below 1, or a guide or prior whose mean and variance are not known.
        DataError: if the data have another shape than the VAE's.
        NumericalError: if a moment is not finite.

    References:
        Burda et al. 2016, Importance weighted autoencoders, section 5.2 (active units).

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> vae = VAE((8, 8), latent_dim=3)
        >>> latent_statistics(vae, torch.rand(10, 8, 8).round()).kl.shape
        torch.Size([3])
    """
    batch = rows_at_once(x) if batch is None else batch
    _check(vae, x, batch)
    inputs = {"x": x, **inputs, **({} if c is None else {"c": c})}
    if vae.code_site is None:
        return _site_statistics(vae, inputs, batch)
    spread, kl = _Spread(vae.shapes.latent), torch.zeros(vae.shapes.latent, dtype=torch.float64)
    with evaluation_mode(vae):
        for guide, prior in _moments_of_both(vae, inputs, batch):
            spread.add(guide[0])
            kl += normal_kl(*guide, *prior).sum(0)
    return LatentStatistics(spread.squares / (len(x) - 1), kl / len(x), {vae.code_site: vae.shapes.latent})


def _site_statistics(vae: Autoencoder, inputs: Mapping[str, Tensor], batch: int) -> LatentStatistics:
    """The active variance of every site whose mean is known, by running the guide."""
    spreads: dict[str, _Spread] = {}
    noise: dict[str, Tensor] = {}
    with evaluation_mode(vae):
        for name, means in _means_of_sites(vae, inputs, batch):
            spreads.setdefault(name, _Spread(means.shape[-1])).add(means.mean(0))
            noise[name] = noise.get(name, 0) + means.var(0).sum(0) / len(means)
    if not spreads:
        raise UsageError("no site of the guide has a mean that is known: there are no active units to count")
    n = len(inputs["x"])
    variances = [(spreads[name].squares / (n - 1) - noise[name] / n).clamp(min=0) for name in spreads]
    sizes = {name: len(variance) for name, variance in zip(spreads, variances, strict=True)}
    return LatentStatistics(torch.cat(variances), None, sizes)


def _means_of_sites(vae: Autoencoder, inputs: Mapping[str, Tensor], batch: int) -> Iterator[tuple[str, Tensor]]:
    """The mean of every continuous site, `[particles, batch, L]`, given draws of the sites before it."""
    for index, part in enumerate(_batches(vae, inputs, batch)):
        with seeded(0, "latent_statistics", index):
            drawn = propose(vae.guide, **part, num_particles=_DRAWS)
        for name, site in in_order(drawn.sites, model_order(vae.model, drawn.latents, **part)).items():
            if (mean := _mean_of(site)) is not None:
                yield name, mean.double().cpu().reshape(_DRAWS, len(part["x"]), -1)


def _mean_of(site: Mapping[str, Any]) -> Tensor | None:
    """The mean of a site's distribution; None where it is discrete, or not known."""
    try:
        mean = None if site["fn"].support.is_discrete else site["fn"].mean
    except (NotImplementedError, AttributeError):
        return None
    if mean is not None and not mean.isfinite().all():
        raise NumericalError(f"site {site['name']!r} of the guide has a mean that is not finite")
    return mean


def _check(vae: Autoencoder, x: Tensor, batch: int) -> None:
    if tuple(x.shape[1:]) != vae.shapes.event:
        raise DataError(f"x: expected shape [N, {', '.join(map(str, vae.shapes.event))}], got {list(x.shape)}")
    if len(x) < 2 or batch < 1:
        raise UsageError(f"need at least 2 data (a variance over data) and batch >= 1, got {len(x)} and {batch}")


def _moments_of_both(vae: Autoencoder, inputs: Mapping[str, Tensor], batch: int) -> Iterator[tuple[Moments, Moments]]:
    """Of the guide and of the prior, batch by batch; a prior without context is asked once."""
    prior = None
    for part in _batches(vae, inputs, batch):
        c = part.get("c")
        if prior is None or c is not None:
            prior = moments(vae.prior_distribution(c), "the prior p(z)")
        yield moments(vae.encode(part["x"], part.get("mask"), c), "the guide q(z|x)"), prior


def _batches(vae: Autoencoder, inputs: Mapping[str, Tensor], batch: int) -> Iterator[dict[str, Any]]:
    """The inputs, `batch` data at a time, on the VAE's device."""
    device = next(vae.parameters()).device
    for start in range(0, len(inputs["x"]), batch):
        yield {name: value[start : start + batch].to(device) for name, value in inputs.items()}


class _Spread:
    """Sum of squared deviations from the mean, batch by batch (Chan et al. 1983): no cancellation far from zero."""

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean, self.squares = torch.zeros(2, size, dtype=torch.float64).unbind(0)

    def add(self, values: Tensor) -> None:
        """Take in `[n, size]`."""
        n, mean = len(values), values.mean(0)
        shift, total = mean - self.mean, self.count + n
        self.squares = self.squares + (values - mean).square().sum(0) + shift.square() * self.count * n / total
        self.mean, self.count = self.mean + shift * n / total, total
