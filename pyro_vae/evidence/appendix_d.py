"""log p(x) as in appendix D of "Auto-Encoding Variational Bayes": posterior draws, and a density fitted to them."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import UsageError
from pyro_vae.evidence.base import BoundKind, Estimate
from pyro_vae.inference.hamiltonian import HMC, HMCResult
from pyro_vae.inference.hamiltonian import hmc as run_chains
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.inference.unconstrained import Target
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.pareto import pareto_k_of_tail, reliable_below, tail_kept
from pyro_vae.statistics.reliability import untrustworthy

_MOST_DIMENSIONS = 5
"""Most dimensions in which a density fitted to draws is still good; the limit given in the paper."""
_BATCHES = 10
"""Pieces of a chain for the standard error: long relative to HMC's autocorrelation, and about 40 with 4 chains."""


DEFAULT_HMC = HMC(num_warmup=200)
"""Settings of the chains where none are given."""


@dataclass(frozen=True, eq=False, repr=False)
class AppendixD(Estimate):
    """Log p(x) by the inverse mean over posterior draws.

    Args:
        log_p: the estimate for each datum, `[N]`, nats; in expectation above log p(x).
        standard_error: its Monte Carlo standard error, `[N]`, nats (delta method).
        pareto_k: shape of the tail of the ratios q(z) / p(x, z), `[N]`.
        r_hat: the largest R-hat of HMC over the dimensions, `[N]`.
        ess: effective number of draws, the smallest over the dimensions, `[N]`.
        sampled: whether HMC's own checks passed, `[N]` bool.
        num_draws: number of draws in the mean.
        seed: the seed of the draws.
        hmc: settings of the chains that made them.
        probability: content of the normal's ellipsoid in the mean.
    """

    log_p: Tensor
    standard_error: Tensor
    pareto_k: Tensor
    r_hat: Tensor
    ess: Tensor
    sampled: Tensor
    num_draws: int
    seed: int
    hmc: HMC = DEFAULT_HMC
    probability: float = 0.9

    @property
    def method(self) -> str:
        """Its name."""
        return "appendix_d"

    @property
    def bound(self) -> BoundKind:
        """An upper bound in expectation, by Jensen's inequality: the estimate of 1 / p(x) is unbiased."""
        return "upper"

    @property
    def threshold(self) -> float:
        """The Pareto k above which not to trust an estimate: `min(1 - 1 / log10(draws), 0.7)` (Vehtari et al. 2024)."""
        return reliable_below(self.num_draws)

    @property
    def flagged(self) -> Tensor:
        """Which estimates are not to be trusted, `[N]` bool: chains that disagree, or ratios with a heavy tail.

        The k-hat of all data are judged together, as for importance sampling; see `reliability.untrustworthy`.
        """
        return self._heavy | ~self.sampled

    def summary(self) -> dict[str, float | int | str]:
        """The averages as plain numbers, with their protocol."""
        how = {"num_draws": self.num_draws, "probability": self.probability, **vars(self.hmc)}
        return {**super().summary(), **how, "seed": self.seed}

    @property
    def _heavy(self) -> Tensor:
        return untrustworthy(self.pareto_k, self.num_draws, self.threshold)

    @property
    def health(self) -> str:
        """The shares of data with chains that disagree and with heavy tails."""
        tails = self._heavy.double().mean().item()
        chains = (~self.sampled).double().mean().item()
        return f"k-hat > {self.threshold:.2f} for {tails:.1%}, chains not to be trusted for {chains:.1%}"


@isolated
@checked
def appendix_d(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_samples: int = 500,
    hmc: HMC | None = None,
    probability: float = 0.9,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> AppendixD:
    r"""Estimate log p(x) of every datum from draws of its posterior, for at most 5 latent dimensions.

    .. math:: \frac1{p(x)} = E_{p(z|x)}\left[\frac{q(z)}{p(z) p(x|z)}\right]
        \approx \frac1L \sum_{l=1}^L \frac{q(z_l)}{p(z_l) p(x|z_l)}, \qquad z_l \sim p(z|x)

    HMC draws from the posterior, starting at draws of the guide; q is fitted to the first half of the draws of each
    datum, and the mean is taken over the second half. The identity holds for any density q, but its variance is finite
    only where q has lighter tails than the posterior. So q is a normal density with the draws' mean and full
    covariance, truncated to the ellipsoid that contains `probability` of it: the ratio is then bounded, for every
    posterior's tails (Geweke 1999). For a normal posterior its relative variance is `1 / probability - 1`.

    The estimate of 1/p(x) is unbiased, so by Jensen's inequality that of log p(x) is too high on average, where
    importance sampling's is too low. That is true for draws from the whole posterior: if all chains miss a mode, its
    mass is missing from the estimate, and no check of this estimator shows it. The standard error is by the delta
    method, from means over pieces of the chains, so it includes their autocorrelation and their disagreement.

    Args:
        model: Pyro program of p(x, z), with one data plate and continuous latent sites.
        guide: Pyro program of q(z|x): where the chains start.
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        num_samples: draws of each chain for the fit, and as many for the mean; at least 50.
        hmc: settings of the chains, at least 2 for each datum; None for `HMC(num_warmup=200)`.
        probability: how much of the fitted normal is kept, between 0 and 1.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (datum, draw) pairs in one run of the model that needs no gradients.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data done so far, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        An `AppendixD`; tensors in double precision on the CPU.

    Raises:
        UsageError: for more than 5 latent dimensions, or sizes that make no sense.
        NumericalError: as `hmc`.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, appendix D. Gelfand & Dey 1994, Bayesian model choice:
        asymptotics and exact calculations. Geweke 1999, Using simulation methods for Bayesian econometric models.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> appendix_d(vae.model, vae.guide, torch.ones(3, 4), num_samples=50, hmc=HMC(num_warmup=20)).log_p.shape
        torch.Size([3])
    """
    how = hmc or DEFAULT_HMC
    if num_samples < 50 or how.num_chains < 2 or not 0 < probability < 1 or max_rows < 1 or len(x) == 0:
        raise UsageError(
            "need num_samples >= 50, num_chains >= 2, 0 < probability < 1, max_rows >= 1 and data, got "
            f"{num_samples}, {how.num_chains}, {probability}, {max_rows} and {len(x)} data"
        )
    columns: list[tuple[Tensor, ...]] = []
    with evaluation_mode(model, guide), fast_cpu(), exact_products():
        for start in range(0, len(x), TILE_DATA):
            first, *others = (a[start : start + TILE_DATA] for a in (x, *args))
            named = {name: a[start : start + TILE_DATA] for name, a in inputs.items()}
            target = Target(model, guide, first, *others, max_plate_nesting=max_plate_nesting, **named)
            _refuse(target.size)
            found = run_chains(
                target.log_joint,
                target.draw_guide(how.num_chains, seed, start)[0],
                2 * num_samples,
                settings=how,
                seed=seed,
                first=start,
            )
            columns.append(_estimate(target, found, probability, max_rows))
            if progress is not None:
                progress(start + len(first))
    joined = (torch.cat(column).cpu() for column in zip(*columns, strict=True))
    return AppendixD(*joined, num_draws=num_samples * how.num_chains, seed=seed, hmc=how, probability=probability)


def _refuse(size: int) -> None:
    if size > _MOST_DIMENSIONS:
        raise UsageError(
            f"appendix_d fits a density to posterior draws, which is good to {_MOST_DIMENSIONS} latent dimensions, and "
            f"this model has {size}: take method ais, or importance"
        )


def _estimate(target: Target, found: HMCResult, probability: float, max_rows: int) -> tuple[Tensor, ...]:
    """The columns of `AppendixD` for one block, each `[block]`."""
    fitted, kept = found.draws.double().chunk(2)
    log_ratio = _cut_normal(fitted, kept, probability) - _log_joint(target, found.draws.chunk(2)[1], max_rows)
    log_p, error = _inverse_mean(log_ratio)
    k = _pareto_k(log_ratio.flatten(0, 1).T)
    return log_p, error, k, found.r_hat.amax(-1), found.ess.amin(-1), ~found.flagged


def _log_joint(target: Target, z: Tensor, max_rows: int) -> Tensor:
    """Log p(x, z) at `[S, chains, N, d]`, as `[S, chains, N]`, double precision."""
    flat = z.flatten(0, 1)
    parts = flat.split(max(1, max_rows // flat.shape[1]))
    return torch.cat([target.log_joint(part).double() for part in parts]).reshape(z.shape[:-1])


def _cut_normal(draws: Tensor, z: Tensor, probability: float) -> Tensor:
    """Log q(z), `[S, chains, N]`: the normal fitted to draws, `[S, chains, N, d]`, within its ellipsoid."""
    from scipy.special import gammaincinv  # not at every import of the package

    flat, size = draws.flatten(0, 1), draws.shape[-1]
    mean = flat.mean(0)
    offset = flat - mean
    covariance = torch.einsum("sni,snj->nij", offset, offset) / (len(flat) - 1)
    spread = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = (1e-9 * spread).clamp(min=1e-30)  # chains that never moved have no covariance; they are flagged
    scale = torch.linalg.cholesky(covariance + torch.diag_embed(ridge[:, None].expand(-1, size)))
    white = torch.linalg.solve_triangular(scale, (z - mean).unsqueeze(-1), upper=False).squeeze(-1)
    distance = white.square().sum(-1)
    log_normal = -(distance + size * log(2 * pi)) / 2 - scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    radius = 2 * gammaincinv(size / 2, probability)
    return torch.where(distance <= radius, log_normal - log(probability), -torch.inf)


def _inverse_mean(log_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Minus the log of the mean of ratios `[S, chains, N]`, and its standard error by batch means, `[N]` each."""
    top = log_ratio.flatten(0, 1).amax(0).nan_to_num(neginf=0.0)  # no draw in the ellipsoid: the mean is zero
    ratio = torch.exp(log_ratio - top)
    mean = ratio.mean((0, 1))
    length = len(ratio) // _BATCHES
    batches = ratio[: length * _BATCHES].unflatten(0, (_BATCHES, length)).mean(1).flatten(0, 1)
    error = (batches.var(0) / len(batches)).sqrt() / mean
    return -(top + mean.log()), error


def _pareto_k(log_ratio: Tensor) -> Tensor:
    """Of ratios `[N, draws]`: k of each datum, `[N]`."""
    count = log_ratio.shape[-1]
    largest = log_ratio.topk(tail_kept(count), dim=-1, sorted=False).values
    return torch.from_numpy(pareto_k_of_tail(largest.cpu().numpy(), count))
