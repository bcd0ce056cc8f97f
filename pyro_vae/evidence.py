"""log p(x) by importance sampling, with its error and its health, for any Pyro (model, guide) pair."""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import ceil, log, log10
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.importance import Program, Proposal, evaluation_mode, importance, propose, weigh
from pyro_vae.seeding import seeded

_TILE_DATA = 50
_TILE_PARTICLES = 250
"""Noise is drawn in tiles of fixed size, one random stream each, so an estimate does not depend on how work is cut."""


@dataclass(frozen=True, eq=False)
class Evidence:
    r"""Estimates of log p(x), each with its standard error and its health.

    Args:
        log_p: the estimate for each datum, `[N]`, nats; in expectation below log p(x), and rising to it with K.
        standard_error: its Monte Carlo standard error, `[N]`, nats (delta method); unreliable where `pareto_k` is high.
        ess: effective sample size `(sum w)^2 / sum w^2`, `[N]`, between 1 and K.
        pareto_k: shape of the tail of the weights, `[N]`; -inf where all weights are equal, nan where K is too small.
        elbo: the ELBO from the same draws, `[N]`, nats.
        num_particles: K, draws for each datum.
        seed: the seed of the draws.
    """

    log_p: Tensor
    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    elbo: Tensor
    num_particles: int
    seed: int

    @property
    def mean(self) -> float:
        """Mean of log p(x) over the data, nats per datum."""
        return self.log_p.mean().item()

    @property
    def standard_error_data(self) -> float:
        """Standard error of `mean` that comes from having N data, nats: `sd(log_p) / sqrt(N)`; nan for one datum."""
        return (self.log_p.std() / len(self.log_p) ** 0.5).item() if len(self.log_p) > 1 else float("nan")

    @property
    def standard_error_monte_carlo(self) -> float:
        """Standard error of `mean` that comes from having K draws, the data held fixed, nats."""
        return (self.standard_error.square().sum().sqrt() / len(self.log_p)).item()

    @property
    def threshold(self) -> float:
        """The Pareto k above which not to trust an estimate: `min(1 - 1 / log10(K), 0.7)` (Vehtari et al. 2024)."""
        return min(1 - 1 / log10(self.num_particles), 0.7) if self.num_particles > 10 else 0.0

    @property
    def flagged(self) -> Tensor:
        """Which data's estimates are not to be trusted, `[N]` bool: Pareto k above `threshold`, or unknown."""
        return ~(self.pareto_k <= self.threshold)

    @property
    def unreliable(self) -> float:
        """Share of the data whose estimate is `flagged`."""
        return self.flagged.double().mean().item()

    @property
    def elbo_mean(self) -> float:
        """Mean of the ELBO over the data, nats per datum."""
        return self.elbo.mean().item()

    def summary(self) -> dict[str, float | int]:
        """The averages as plain numbers, with their protocol; what the command prints."""
        return {
            "log_p": self.mean,
            "standard_error_data": self.standard_error_data,
            "standard_error_monte_carlo": self.standard_error_monte_carlo,
            "unreliable": self.unreliable,
            "pareto_k_threshold": self.threshold,
            "elbo": self.elbo_mean,
            "ess_median": self.ess.median().item(),
            "num_data": len(self.log_p),
            "num_particles": self.num_particles,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        return (
            f"Evidence(log p(x) = {self.mean:.3f} nats per datum, se(data) {self.standard_error_data:.3f}, "
            f"se(Monte Carlo) {self.standard_error_monte_carlo:.4f}, "
            f"k-hat > {self.threshold:.2f} for {self.unreliable:.1%}, ELBO {self.elbo_mean:.3f}, "
            f"N = {len(self.log_p)}, K = {self.num_particles}, seed {self.seed})"
        )


def log_marginal(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_particles: int = 5000,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
) -> Evidence:
    r"""Estimate log p(x) of every datum by importance sampling from the guide.

    .. math:: \log \hat p(x) = \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

    The standard error is the delta method's, `sqrt((1/ESS - 1/K) K/(K-1))`. Memory is bounded whatever K is: the sums
    stream in double precision and only the O(sqrt K) largest weights are kept, for Pareto's k. The result is a function
    of `(x, num_particles, seed)`: it does not depend on `max_rows`, on the data that follow, nor on the training mode.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front (e.g. a mask of observed elements), passed to both programs.
        num_particles: K, draws for each datum.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (datum, particle) pairs in one run of the model; bounds memory.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data done so far, after each block of 50.

    Returns:
        An `Evidence`; tensors in double precision on the CPU.

    Raises:
        UsageError: if `num_particles` or `max_rows` is not positive, or `x` is empty.
        NumericalError: if a datum's log-weights are all -inf, or one is nan or +inf.

    References:
        Burda et al. 2016, Importance weighted autoencoders. Vehtari et al. 2024, Pareto smoothed importance sampling.

    Example:
        >>> from pyro_vae.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> log_marginal(vae.model, vae.guide, torch.ones(3, 4), num_particles=100).log_p.shape
        torch.Size([3])
    """
    if num_particles < 1 or max_rows < 1 or len(x) == 0:
        raise UsageError(
            f"need num_particles >= 1, max_rows >= 1 and data, got {num_particles}, {max_rows} and {len(x)} data"
        )
    blocks = []
    with evaluation_mode(model, guide):
        for start in range(0, len(x), _TILE_DATA):
            data = tuple(a[start : start + _TILE_DATA] for a in (x, *args))
            block = _Block(num_particles)
            for log_weights in _tiles(model, guide, data, start, num_particles, seed, max_rows, max_plate_nesting):
                block.add(log_weights)
            blocks.append(block.result(start))
            if progress is not None:
                progress(start + len(data[0]))
    columns = [torch.cat(column) for column in zip(*blocks, strict=True)]
    return Evidence(*columns, num_particles=num_particles, seed=seed)


@dataclass(frozen=True, eq=False)
class Bound:
    """The ELBO and its two terms for each datum, `[N]`, nats: `elbo = reconstruction - kl`, estimated by sampling."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The lower bound on log p(x), `[N]`, nats."""
        return self.reconstruction - self.kl

    def means(self) -> dict[str, float]:
        """Averages over the data: `elbo`, `reconstruction`, `kl`, nats per datum."""
        return {name: getattr(self, name).mean().item() for name in ("elbo", "reconstruction", "kl")}


def bound(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_particles: int = 1,
    seed: int = 0,
    batch: int = 1000,
    **kwargs: Any,
) -> Bound:
    r"""Estimate the ELBO of every datum, split into reconstruction and KL, in evaluation mode and without gradients.

    .. math:: \mathcal L(x) = E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z))

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front.
        num_particles: draws for each datum.
        seed: seed of the draws; the same seed gives the same noise to another model.
        batch: data in one run.
        **kwargs: passed to `importance`.

    Returns:
        A `Bound`, in double precision on the CPU.
    """
    terms = []
    with evaluation_mode(model, guide):
        for start in range(0, len(x), batch):
            data = tuple(a[start : start + batch] for a in (x, *args))
            with seeded(seed, "bound", start):
                samples = importance(model, guide, *data, num_particles=num_particles, **kwargs)
            terms.append((samples.log_likelihood.double().mean(0).cpu(), samples.kl.double().mean(0).cpu()))
    reconstruction, kl = (torch.cat(column) for column in zip(*terms, strict=True))
    return Bound(reconstruction, kl)


def _tiles(
    model: Program,
    guide: Program,
    data: tuple[Tensor, ...],
    start: int,
    num_particles: int,
    seed: int,
    max_rows: int,
    nesting: int,
) -> Iterator[Tensor]:
    """Log-weights of one block of data, `[particles of this chunk, block]`, chunk after chunk."""
    size = len(data[0])
    padded = tuple(torch.cat([a, a[-1:].expand(_TILE_DATA - size, *a.shape[1:])]) for a in data)
    rows = max(1, max_rows // size)
    for first in range(0, num_particles, _TILE_PARTICLES):
        with seeded(seed, "log_marginal", start, first):
            proposal = propose(guide, *padded, num_particles=_TILE_PARTICLES, max_plate_nesting=nesting)
        proposal = _cut(proposal, min(_TILE_PARTICLES, num_particles - first), size, nesting)
        for chunk in range(0, len(proposal.log_guide), rows):
            latents = {name: value[chunk : chunk + rows] for name, value in proposal.latents.items()}
            log_likelihood, log_prior = weigh(model, latents, *data, max_plate_nesting=nesting)
            yield log_likelihood + log_prior - proposal.log_guide[chunk : chunk + rows]


def _cut(proposal: Proposal, particles: int, size: int, nesting: int) -> Proposal:
    """The first `particles` draws of the first `size` data of a tile."""
    latents = {name: value[:particles].narrow(nesting, 0, size) for name, value in proposal.latents.items()}
    return Proposal(latents, proposal.log_guide[:particles, :size])


@dataclass
class _Block:
    """Streaming sums over the particles of one block of data, in double precision."""

    num_particles: int
    count: int = 0
    total: Tensor | None = None
    sums: list[Tensor] = field(default_factory=list)
    tail: Tensor | None = None

    def add(self, log_weights: Tensor) -> None:
        """Take in log-weights `[k, block]`."""
        w = log_weights.double()
        new = [torch.logsumexp(w, 0), torch.logsumexp(2 * w, 0)]
        self.sums = [torch.logaddexp(a, b) for a, b in zip(self.sums, new, strict=True)] if self.sums else new
        self.total = w.sum(0) if self.total is None else self.total + w.sum(0)
        self.count += len(w)
        kept = w if self.tail is None else torch.cat([self.tail, w])
        self.tail = kept.topk(min(_tail_kept(self.num_particles), len(kept)), dim=0, sorted=False).values

    def result(self, start: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(log_p, standard_error, ess, pareto_k, elbo), each `[block]`, on the CPU."""
        assert self.total is not None and self.tail is not None and self.count == self.num_particles
        first, second = self.sums
        if not first.isfinite().all():
            datum = start + int((~first.isfinite()).nonzero()[0])
            raise NumericalError(
                f"log p(x) of datum {datum} is {first[datum - start].item()}: a log-weight is nan or infinite, or all "
                "are -inf; look at the decoder's and the encoder's outputs for it"
            )
        k = self.num_particles
        ess = torch.exp(2 * first - second).clamp(1, k)
        error = (
            ((1 / ess - 1 / k).clamp(min=0) * k / max(k - 1, 1)).sqrt() if k > 1 else torch.full_like(ess, torch.nan)
        )
        pareto_k = torch.from_numpy(pareto_k_of_tail(self.tail.T.cpu().numpy(), k))
        columns = (first - log(k), error, ess, pareto_k, self.total / k)
        return tuple(column.cpu() for column in columns)  # pyright: ignore[reportReturnType]


def _tail_length(num_particles: int) -> int:
    """Number of weights in the tail that Pareto's k is fitted to (Vehtari et al. 2024)."""
    return ceil(min(num_particles / 5, 3 * num_particles**0.5))


def _tail_kept(num_particles: int) -> int:
    """Weights that must be kept so that `psislw` cuts the same tail from them as from all of them."""
    return min(num_particles, 5 * _tail_length(num_particles) + 1)


def pareto_k_of_tail(log_weights: np.ndarray, num_particles: int) -> np.ndarray:
    """Pareto's k of each row, from its largest weights, by ArviZ's `psislw`.

    `psislw` fits the `min(n/5, 3 sqrt(n / reff))` largest of the n weights it is given; with the relative efficiency
    chosen so that this number is that of all `num_particles`, the fit is the same as on all of them.

    Args:
        log_weights: the largest log-weights of each datum in any order, `[N, n]`, `n = _tail_kept(num_particles)`.
        num_particles: K, the number of weights they are the largest of.

    Returns:
        k for each row, `[N]`; -inf where the weights in the tail are all equal, nan with fewer than 5 in the tail.
    """
    length, kept = _tail_length(num_particles), log_weights.shape[-1]
    if length < 5:
        return np.full(len(log_weights), np.nan)
    efficiency = 1.0 if kept == num_particles else 9 * kept / length**2 * (1 + 1e-9)
    centred = log_weights - log_weights.max(-1, keepdims=True)
    flat = np.ptp(centred, axis=-1) < 1e-6
    k = np.full(len(centred), -np.inf)
    if (~flat).any():
        k[~flat] = _psislw(centred[~flat], efficiency)
    return k


def _psislw(log_weights: np.ndarray, efficiency: float) -> np.ndarray:
    """The one seam to ArviZ: 0.x takes log-weights, the array function of 1.x takes their negatives."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own refactoring, and overflows on purpose
        try:
            from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]
        except ImportError:
            import arviz

            return np.atleast_1d(arviz.psislw(log_weights.copy(), reff=efficiency)[1])
        return np.atleast_1d(array_stats.psislw(-log_weights, r_eff=efficiency)[1])
