"""log p(x) by importance sampling, with its error and its health, for any Pyro (model, guide) pair."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import log
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pyro_vae.arguments.checked import checked
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.compiling.memory import remembering
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.distributed import World
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence.base import BoundKind, Estimate
from pyro_vae.inference.pairs import EagerPair, make_pair
from pyro_vae.inference.programs import Called, Program, evaluation_mode, owners
from pyro_vae.inference.tiles import TILE_DATA, Pair, draws
from pyro_vae.inference.weighing import refuse_point_masses
from pyro_vae.networks import computing_in
from pyro_vae.networks.precision import DTYPES, Precision, check_precision, usable_precision
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged, number, squared_error_of_log_mean
from pyro_vae.statistics.pareto import smooth_tail, tail_kept, tail_length
from pyro_vae.statistics.reliability import error_bar_below, untrustworthy
from pyro_vae.statistics.rounding import rounding_error
from pyro_vae.statistics.tangent import fold_sums, tangent_gap
from pyro_vae.statistics.unseen import unseen

_SHIFT_PARTICLES = 500
"""Draws on which a bfloat16 estimate is compared with that in full precision: few compared with K = 5000."""
_MUCH_WORK = 2e12
"""Floating point operations above which compiling is worth its time: about ten seconds of work."""
_INTERVAL_BELOW = 0.4
"""The Pareto k above which not to trust an interval whose upper end has the error of its draws alone: with three
standard errors beyond each end it holds log p(x) of 99 % of the data at 0.4, and of 98 % at 0.5."""
_UPPER_COLUMNS = ("upper", "upper_standard_error", "tail_start", "tail_excess")
_COLUMNS = ("log_p", "standard_error", "ess", "pareto_k", "elbo", "rounding", *_UPPER_COLUMNS)
"""What is computed of each block of data, in order."""


@dataclass(frozen=True, eq=False, repr=False)
class Evidence(Estimate):
    r"""Estimates of log p(x) by importance sampling, each with its standard error and its health.

    Args:
        log_p: the estimate for each datum, `[N]`, nats; in expectation below log p(x), and rising to it with K. With
            smoothed weights it may lie on either side.
        standard_error: its Monte Carlo standard error, `[N]`, nats (delta method), and `rounding`, as the root of the
            sum of their squares; too small where `flagged`.
        ess: effective sample size `(sum w)^2 / sum w^2`, `[N]`, between 1 and K.
        pareto_k: shape of the tail of the weights, `[N]`; -inf where all weights are equal, nan where K is too small.
        elbo: the ELBO from the same draws, `[N]`, nats.
        num_particles: K, draws for each datum.
        seed: the seed of the draws.
        precision: `"float32"` (the weights' own), or `"bf16"`: a fast estimate, not to be reported.
        shift: mean difference of `log_p` from that in full precision on the same draws, measured on the first 50 data,
            nats; None in full precision.
        data: the fingerprint of x and of the programs' other inputs, by which `compare` checks that two estimates are
            of the same data; None if it is not known.
        method: `"importance"`, `"psis"` of smoothed weights, or `"prior"` of draws from p(z).
        rounding: about how far `log_p` is off by the rounding of the weights' own type, `[N]`, nats: its relative
            precision times `|log p(x, z)| + |log q(z|x)|`; 1e-5 nats for 100 in single precision, 0.01 for 100,000. No
            number of draws or data averages it out. None where it is not known.
        upper: an upper bound from the same draws, in expectation above log p(x), `[N]`, nats; see `interval`. None for
            smoothed weights, and where it is not known.
        upper_standard_error: its Monte Carlo standard error and `rounding`, `[N]`, nats, as for `standard_error`. The
            error of the upper end of `interval` contains what draws may have missed, too; see `statistics.unseen`.
        tail_start: the weight above which the tail begins that `pareto_k` is fitted to, in units of the mean weight,
            `[N]`; None as for `upper`.
        tail_excess: by how much the median weight of that tail is above it, in the same unit, `[N]`.
    """

    log_p: Tensor
    standard_error: Tensor
    ess: Tensor
    pareto_k: Tensor
    elbo: Tensor
    num_particles: int
    seed: int
    precision: str = "float32"
    shift: float | None = None
    data: str | None = None
    method: Literal["importance", "psis", "prior"] = "importance"
    rounding: Tensor | None = None
    upper: Tensor | None = None
    upper_standard_error: Tensor | None = None
    tail_start: Tensor | None = None
    tail_excess: Tensor | None = None

    @property
    def bound(self) -> BoundKind:
        """A lower bound in expectation, by Jensen's inequality; with smoothed weights on neither side."""
        return "consistent" if self.method == "psis" else "lower"

    @property
    def threshold(self) -> float:
        """The Pareto k above which not to trust an error bar: `min(1 - 1 / log10(K), 0.5)`; see `error_bar_below`."""
        return error_bar_below(self.num_particles)

    @property
    def flagged(self) -> Tensor:
        """Which data's estimates are not to be trusted within their error bars, `[N]` bool.

        Those whose Pareto k is likely above `threshold` given the k-hat of *all* data, or unknown: see
        `reliability.untrustworthy`. A single k-hat below the threshold proves nothing: if the draws missed the tail of
        the weights, k-hat and log p(x) are both too low. So if all data are similar, they are flagged together.
        """
        return untrustworthy(self.pareto_k, self.num_particles, self.threshold)

    @property
    def pareto_k_above(self) -> float:
        """Share of the data whose own k-hat is above `threshold`, or unknown; which data to distrust is in
        `flagged`.
        """
        return (~(self.pareto_k <= self.threshold)).double().mean().item()

    @property
    def _averaged(self) -> Averaged:
        return Averaged(self.log_p, self.standard_error, shared=self.rounding)

    @property
    def _interval_flagged(self) -> Tensor:
        error, flagged = self._upper_error, self.flagged
        if self.tail_start is None:
            flagged = flagged | untrustworthy(self.pareto_k, self.num_particles, min(self.threshold, _INTERVAL_BELOW))
        return flagged if error is None else flagged | ~error.isfinite()

    @property
    def _upper_error(self) -> Tensor | None:
        if self.upper_standard_error is None or self.tail_start is None or self.tail_excess is None:
            return self.upper_standard_error
        missed = unseen(self.pareto_k, self.tail_start, self.tail_excess, self.num_particles)
        return torch.hypot(self.upper_standard_error, missed)

    @property
    def bias(self) -> float:
        """About how far `mean` lies below the truth because K is finite, nats: half the mean squared standard error.

        By Jensen's inequality, to second order; what is missing where `flagged` comes in addition. More data do not
        reduce it.
        """
        return self.standard_error.square().mean().item() / 2

    @property
    def health(self) -> str:
        """The shares of the data with a high k-hat and flagged, and the median effective sample size."""
        mean = ", and so is the mean" if self.mean_flagged else ""
        return f"{self._tails}{mean}, ESS {self.ess.median().item():.0f} of {self.num_particles}"

    @property
    def _tails(self) -> str:
        return f"k-hat > {self.threshold:.2f} for {self.pareto_k_above:.1%}, flagged {self.unreliable:.1%}"

    @property
    def elbo_mean(self) -> float:
        """Mean of the ELBO over the data, nats per datum."""
        return self.elbo.mean().item()

    def summary(self) -> dict[str, float | int | str]:
        """The averages as plain numbers, with their protocol; what the command prints."""
        return {
            **({} if self.method == "importance" else {"method": self.method, "bound": self.bound}),
            "log_p": self.mean,
            "standard_error_data": self.standard_error_data,
            "standard_error_monte_carlo": self.standard_error_monte_carlo,
            "standard_error_monte_carlo_is_at_least": self.error_is_at_least,
            "bias": self.bias,
            **({} if (interval := self.interval) is None else interval.summary()),
            **({} if self.rounding is None else {"rounding": self.rounding.mean().item()}),
            "unreliable": self.unreliable,
            "mean_flagged": self.mean_flagged,
            "pareto_k_above": self.pareto_k_above,
            "pareto_k_threshold": self.threshold,
            "elbo": self.elbo_mean,
            "ess_median": self.ess.median().item(),
            "num_data": len(self.log_p),
            "num_particles": self.num_particles,
            "seed": self.seed,
            **({} if self.shift is None else {"fast_estimate": self.precision, "measured_shift": self.shift}),
        }

    def __repr__(self) -> str:
        return (
            f"Evidence({self._title()} = {self.mean:.3f} nats per datum, se(data) {number(self.standard_error_data)}, "
            f"se(Monte Carlo) {self.error_text()}, {self._tails}{', THE MEAN TOO' * self.mean_flagged}, "
            f"ELBO {self.elbo_mean:.3f}{self._upper_text()}, "
            f"N = {len(self.log_p)}, K = {self.num_particles}, seed {self.seed}{self._caveat()})"
        )

    def _title(self) -> str:
        return "log p(x)" if self.method == "importance" else f"{self.method}: log p(x)"

    def _caveat(self) -> str:
        return "" if self.shift is None else f"; FAST ESTIMATE in {self.precision}, shift {self.shift:+.4f} nats"


@isolated
@checked
def log_marginal(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_particles: int = 5000,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    compile: Literal["auto"] | bool = "auto",
    precision: Precision = "float32",
    smoothed: bool = False,
    world: World | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Evidence:
    r"""Estimate log p(x) of every datum by importance sampling from the guide.

    .. math:: \log \hat p(x) = \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

    The standard error is that of the delta method, `sqrt((1/ESS - 1/K) K/(K-1))`, combined with the rounding of the
    weights. Memory is bounded for any K: sums are accumulated in double precision, and only the O(sqrt K) largest
    weights are kept, for Pareto's k. The result is a function of `(x, num_particles, seed)`: it does not depend on
    `max_rows`, on the data that follow, nor on the training mode; only which data are `flagged` is decided from all of
    them together. Products are float32 on every device; compiled or not, the draws are the same and the result agrees
    to rounding.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front (e.g. a mask of observed elements), passed to both programs.
        num_particles: K, draws for each datum.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (datum, particle) pairs in one run of the model; bounds memory.
        max_plate_nesting: number of plate dimensions the programs use.
        compile: whether to run the programs as compiled graphs (a few seconds first); `"auto"` if there is enough work.
            Programs that can't be recorded run uncompiled, and the reason is logged.
        precision: `"bf16"` for a fast estimate: the networks' products in bfloat16. The result is marked as such, with
            the shift measured on the first 50 data with at most 500 draws. On a CPU without bfloat16 instructions a
            warning is logged, and float32 is used.
        smoothed: whether the largest weights are replaced by the expected order statistics of the generalised Pareto
            fitted to them, none above the largest: less noise if the tail is heavy, at the price of a bias of either
            sign.
        world: the processes to share the data with; all of them get the whole result. None for this one alone.
        progress: called with the number of data done so far by this process, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        An `Evidence`; tensors in double precision on the CPU.

    Raises:
        UsageError: if `num_particles` or `max_rows` is not positive, `x` is empty, or a site of the guide is a Delta.
        NumericalError: if a datum's log-weights are all -inf, or one is nan or +inf.

    References:
        Burda et al. 2016, Importance weighted autoencoders. Vehtari et al. 2024, Pareto smoothed importance sampling.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> log_marginal(vae.model, vae.guide, torch.ones(3, 4), num_particles=100).log_p.shape
        torch.Size([3])
    """
    for name, value in {"num_particles": num_particles, "max_rows": max_rows, "data": len(x)}.items():
        if value < 1:
            raise UsageError(f"{name}: expected at least 1, got {value}")
    check_precision(precision)
    precision = usable_precision(precision, x.device)
    data, world = (x, *args, *inputs.values()), world or World()
    programs = EagerPair(Called(model, list(inputs)), Called(guide, list(inputs)), max_rows, max_plate_nesting)
    compile = _worth_compiling(programs, len(x) * num_particles) if compile == "auto" else compile
    starts = range(0, len(x), TILE_DATA)
    mine = starts[world.rows(len(starts))]
    with evaluation_mode(model, guide), fast_cpu(), exact_products():
        with seeded(seed, "structure"):
            refuse_point_masses(programs.guide, *_block(data, 0), max_plate_nesting=max_plate_nesting)
        with _computing(programs, precision):
            pair = make_pair(programs, _block(data, 0), compile)
            with agreed(world):
                shards = [
                    _sums(pair, data, start, num_particles, seed, max_plate_nesting, progress).result(start, smoothed)
                    for start in mine
                ]
        shift = None if precision == "float32" else _shift(programs, pair, data, num_particles, seed, precision)
    empty = [torch.empty(0, dtype=torch.float64)] * len(_COLUMNS)
    gathered = (world.gather(torch.cat(column)) for column in zip(empty, *shards, strict=True))
    columns: dict[str, Any] = dict(zip(_COLUMNS, gathered, strict=True))
    if smoothed:
        columns |= dict.fromkeys(_UPPER_COLUMNS)
    return Evidence(
        **columns,
        num_particles=num_particles,
        seed=seed,
        precision=precision,
        shift=shift,
        data=fingerprint(x, *args, **inputs),
        method="psis" if smoothed else "importance",
    )


def _worth_compiling(pair: EagerPair, rows: int) -> bool:
    parameters = sum(p.numel() for owner in owners(pair.model) for p in owner.parameters())
    return 2 * parameters * rows >= _MUCH_WORK


def _block(data: Sequence[Tensor], start: int) -> list[Tensor]:
    return [x[start : start + TILE_DATA] for x in data]


def _sums(
    pair: Pair,
    data: Sequence[Tensor],
    start: int,
    num_particles: int,
    seed: int,
    nesting: int,
    progress: Callable[[int], object] | None = None,
) -> "_Sums":
    """The sums over the particles of the block that begins at `start`."""
    block = _block(data, start)
    sums = _Sums(num_particles)
    for latents, log_guide in draws(pair, block, start, num_particles, seed, nesting):
        sums.add(pair.log_joint(latents, block), log_guide)
    if progress is not None:
        progress(start + len(block[0]))
    return sums


@contextmanager
def _computing(pair: EagerPair, precision: str) -> Iterator[None]:
    """Inside, the pair's networks multiply in this precision, and values that depend on weights only are cached."""
    with computing_in(nn.ModuleList(owners(pair.model, pair.guide)), DTYPES[precision]), remembering():
        yield


def _shift(
    programs: EagerPair, pair: Pair, data: Sequence[Tensor], num_particles: int, seed: int, precision: str
) -> float:
    """Mean difference of log p(x) in this precision from full precision, on the first draws of the first block."""
    num_particles = min(num_particles, _SHIFT_PARTICLES)
    with _computing(programs, precision):
        fast = _sums(pair, data, 0, num_particles, seed, programs.nesting).result(0)[0]
    with _computing(programs, "float32"):
        exact = _sums(programs, data, 0, num_particles, seed, programs.nesting).result(0)[0]
    return (fast - exact).mean().item()


@dataclass
class _Sums:
    """Streaming sums over the particles of one block of data, in double precision."""

    num_particles: int
    count: int = 0
    total: Tensor | None = None
    sums: list[Tensor] = field(default_factory=list)
    folds: Tensor | None = None
    tail: Tensor | None = None
    rounding: Tensor | None = None

    def add(self, log_joint: Tensor, log_guide: Tensor) -> None:
        """Add log p(x, z) and log q(z|x), each `[k, block]`."""
        log_joint, log_guide = torch.broadcast_tensors(log_joint, log_guide)
        rounding = rounding_error(log_joint, log_guide)
        self.rounding = rounding if self.rounding is None else torch.maximum(self.rounding, rounding)
        w = (log_joint - log_guide).double()
        new = [torch.logsumexp(w, 0), torch.logsumexp(2 * w, 0)]
        self.sums = [torch.logaddexp(a, b) for a, b in zip(self.sums, new, strict=True)] if self.sums else new
        self.total = w.sum(0) if self.total is None else self.total + w.sum(0)
        folds = fold_sums(w, self.count)
        self.folds = folds if self.folds is None else torch.logaddexp(self.folds, folds)
        self.count += len(w)
        kept = w if self.tail is None else torch.cat([self.tail, w])
        self.tail = kept.topk(min(tail_kept(self.num_particles), len(kept)), dim=0, sorted=False).values

    def result(self, start: int, smoothed: bool = False) -> tuple[Tensor, ...]:
        """The values of `_COLUMNS`, each `[block]`, on the CPU."""
        assert self.total is not None and self.tail is not None and self.count == self.num_particles
        assert self.rounding is not None and self.folds is not None
        first, second = self.sums
        if not first.isfinite().all():
            datum = start + int((~first.isfinite()).nonzero()[0])
            raise NumericalError(
                f"log p(x) of datum {datum} is {first[datum - start].item()}: a log-weight is nan or infinite, or all "
                "are -inf; look at x, and at the decoder's and the encoder's outputs for it"
            )
        k, rounding = self.num_particles, self.rounding.cpu()
        tail, pareto_k = (torch.from_numpy(a) for a in smooth_tail(self.tail.T.cpu().numpy(), k, rounding.numpy()))
        if smoothed:
            tail = tail.T.to(first.device)
            first = _exchanged(first, self.tail, tail)
            second = _exchanged(second, 2 * self.tail, 2 * tail)
        ess = torch.exp(2 * first - second).clamp(1, k)
        squared = squared_error_of_log_mean(ess, k) + self.rounding.square()
        log_p, (gap, added) = first - log(k), tangent_gap(self.folds, k)
        upper = log_p + gap, (squared + added).sqrt()
        u, median = (_tail(self.tail, k) - log_p).exp().unbind()
        columns = (log_p, squared.sqrt(), ess, pareto_k, self.total / k, rounding, *upper, u, median - u)
        return tuple(column.cpu() for column in columns)  # pyright: ignore[reportReturnType]


def _tail(kept: Tensor, count: int) -> Tensor:
    """The largest log-weight below the tail of all `count`, and the median of the tail, `[2, block]`."""
    length = tail_length(count)
    falling = kept.sort(0, descending=True).values
    return falling[[min(length, len(kept) - 1), length // 2]]


def _exchanged(total: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The log of a sum `[block]` after some of its terms, `[n, block]`, are replaced by others."""
    rest = -torch.expm1((torch.logsumexp(old, 0) - total).clamp(max=0))
    return torch.logaddexp(total + rest.log(), torch.logsumexp(new, 0))
