"""The settings of an annealed run, and its result: bounds on log p(x) with their errors and their health."""

from dataclasses import dataclass
from math import exp, log
from typing import Literal

import torch
from torch import Tensor

from pyro_vae.arguments.values import plain_fields
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence.base import Estimate
from pyro_vae.statistics.averages import number, squared_error_of_log_mean
from pyro_vae.statistics.tangent import fold_sums, tangent_gap

MOST_SPREAD = 1.0
"""Standard deviation of a datum's log-weights over its chains, nats, above which its bound counts as loose."""


_INTERVAL_SPREAD, _SIZEABLE = 0.5, 0.2
"""The same for an interval, which needs lighter tails; and the share of such data from which on all are flagged: a
small spread may be chance, and then log p(x) is too low."""


_STEEPNESS = 4.0
"""Slope of the sigmoid schedule (Wu et al. 2017)."""


@dataclass(frozen=True)
@plain_fields
class Annealing:
    r"""How to anneal: from where, over which temperatures, with how many chains, and how they move.

    .. math:: \beta_t = \frac{s(t) - s(0)}{s(T) - s(0)}, \qquad
        s(t) = t \text{ (linear)}, \quad s(t) = \frac{1}{1 + \exp(-4 (2 t / T - 1))} \text{ (sigmoid)}

    The adaptive schedule has the temperatures of each datum where its pilot run finds the rise log p(x, z) - log f_0(z)
    to vary most: equal parts of the integral of its standard deviation over beta.

    The defaults suit codes of 50 dimensions and decoders of 784 pixels: 9,000 runs of the decoder with its gradient for
    each datum. The variance of a log-weight shrinks about as `1 / num_temperatures`; from the prior it takes about ten
    times as many.

    Args:
        num_temperatures: T, steps from the start to the posterior; with fewer the bound is looser, but still a bound.
        num_chains: independent runs for each datum, whose weights are averaged.
        num_leapfrog: leapfrog steps in the one trajectory of Hamiltonian Monte Carlo at each temperature, each a
            gradient. One is enough for a nearly normal posterior.
        start: the distribution at beta = 0: the guide q(z|x), which is nearer, or the prior, for a check that does not
            depend on the guide. The density of an autoregressive flow at other points than its draws takes one pass for
            each dimension: start from the prior then.
        schedule: spacing of the temperatures: `"adaptive"`, or one for all data: `"sigmoid"` is dense at both ends.
        target_accept: acceptance probability that each datum's step sizes are adapted to; higher where the longest
            steps, which turn a normal density by a right angle, have more.
        resample: share of effective chains below which a datum's chains are drawn anew in proportion to their weights
            (sequential Monte Carlo), e.g. 0.5; 0 for never. It helps where a few chains would have all the weight: from
            the prior, with few temperatures. The chains are then not independent: there is no `interval`.

    Raises:
        UsageError: if a value is out of range.

    References:
        Neal 2001, Annealed importance sampling. Wu, Burda, Salakhutdinov & Grosse 2017, On the quantitative analysis of
        decoder-based generative models. Gelman & Meng 1998, Simulating normalizing constants, section 4.

    Example:
        >>> [round(beta, 3) for beta in Annealing(num_temperatures=4).betas()]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """

    num_temperatures: int = 250
    num_chains: int = 16
    num_leapfrog: int = 2
    start: Literal["guide", "prior"] = "guide"
    schedule: Literal["adaptive", "sigmoid", "linear"] = "adaptive"
    target_accept: float = 0.8
    resample: float = 0.0

    def __post_init__(self) -> None:
        for name in ("num_temperatures", "num_chains", "num_leapfrog"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.start not in ("guide", "prior"):
            raise UsageError(f"start must be 'guide' or 'prior', got {self.start!r}")
        if self.schedule not in ("adaptive", "sigmoid", "linear"):
            raise UsageError(f"schedule must be 'adaptive', 'sigmoid' or 'linear', got {self.schedule!r}")
        if not 0 < self.target_accept < 1:
            raise UsageError(f"target_accept must lie between 0 and 1, got {self.target_accept}")
        if not 0 <= self.resample <= 1:
            raise UsageError(f"resample must be a share between 0 (never) and 1, got {self.resample}")

    def betas(self, num: int | None = None) -> list[float]:
        """The inverse temperatures, from 0 to 1, `num` + 1 of them; None for `num_temperatures`.

        Of the adaptive schedule those of the pilot run, which are a sigmoid.
        """
        num = self.num_temperatures if num is None else num
        shares = [t / num for t in range(num + 1)]
        if self.schedule == "linear":
            return shares
        values = [1 / (1 + exp(-_STEEPNESS * (2 * share - 1))) for share in shares]
        return [0.0, *((value - values[0]) / (values[-1] - values[0]) for value in values[1:-1]), 1.0]


@dataclass(frozen=True, eq=False)
class AnnealedEvidence(Estimate):
    r"""A bound on log p(x) of every datum, with its standard error and its health.

    Args:
        log_weights: of each chain, `[chains, N]`, nats: their exponentials are unbiased estimates of p(x) for a lower
            bound, and of 1 / p(x) for an upper one. Where chains were resampled, those of all descendants of each first
            draw, -inf where there is none: their mean is unbiased.
        accept: mean acceptance probability of the transitions, `[N]`.
        bound: `"lower"`: in expectation below log p(x); `"upper"`: above it.
        annealing: the settings.
        evaluations: runs of the decoder with its gradient for each datum, those of the pilot run included.
        seed: of the draws.
    """

    log_weights: Tensor
    accept: Tensor
    bound: Literal["lower", "upper"]
    annealing: Annealing
    evaluations: int
    seed: int

    def __post_init__(self) -> None:
        bad = ~self.log_p.isfinite()
        if bad.any():
            datum = int(bad.nonzero()[0])
            raise NumericalError(
                f"the {self.bound} bound on log p(x) of datum {datum} is {self.log_p[datum].item()}: a log-weight is "
                "nan or infinite; look at the decoder's output for it, and at whether the start covers the posterior"
            )

    @property
    def method(self) -> str:
        """`"ais"` or `"reverse ais"`."""
        return "ais" if self.bound == "lower" else "reverse ais"

    @property
    def log_p(self) -> Tensor:
        """The bound, `[N]`, nats: `log mean exp` of the log-weights over the chains, with its sign."""
        total = torch.logsumexp(self.log_weights, 0) - log(len(self.log_weights))
        return total if self.bound == "lower" else -total

    @property
    def ess(self) -> Tensor:
        """Effective number of chains `(sum w)^2 / sum w^2`, `[N]`, between 1 and their number."""
        ess = (2 * torch.logsumexp(self.log_weights, 0) - torch.logsumexp(2 * self.log_weights, 0)).exp()
        return ess.clamp(1, len(self.log_weights))

    @property
    def standard_error(self) -> Tensor:
        """Monte Carlo standard error, `[N]`, nats (delta method): `sqrt((1/ESS - 1/C) C/(C-1))`; nan for one chain.

        It is at most 1, and too small where `flagged`. Chains of an upper bound share the exact draw that they start
        from; the error due to that draw is not included.
        """
        return squared_error_of_log_mean(self.ess, len(self.log_weights)).sqrt()

    @property
    def spread(self) -> Tensor:
        """Standard deviation of the log-weights over the chains, `[N]`, nats; nan for one chain.

        Half of its square is about the distance of a single chain's bound from log p(x). Where chains were resampled,
        that of log-normal weights with the same effective number: `sqrt(log(C / ESS))`.
        """
        if self.annealing.resample and len(self.log_weights) > 1:
            return (len(self.log_weights) / self.ess).log().sqrt()
        return self.log_weights.std(0) if len(self.log_weights) > 1 else torch.full_like(self.accept, torch.nan)

    @property
    def flagged(self) -> Tensor:
        """Which bounds are loose, `[N]` bool: `spread` above 1 nat, or unknown. They are bounds nevertheless."""
        return ~(self.spread <= MOST_SPREAD)

    @property
    def upper(self) -> Tensor | None:
        """An upper bound from the same chains, in expectation above log p(x), `[N]`, nats; see `interval`.

        nan for one chain; None of a bound that is an upper one already, and where chains were resampled.
        """
        return None if self._has_no_upper else self.log_p + self._tangent[0]

    @property
    def upper_standard_error(self) -> Tensor | None:
        """Its Monte Carlo standard error, `[N]`, nats; None where there is no `upper`."""
        if self._has_no_upper:
            return None
        return (self.standard_error.square() + self._tangent[1]).sqrt()

    @property
    def _has_no_upper(self) -> bool:
        return self.bound == "upper" or self.annealing.resample > 0

    @property
    def _tangent(self) -> tuple[Tensor, Tensor]:
        return tangent_gap(fold_sums(self.log_weights), len(self.log_weights))

    @property
    def _interval_flagged(self) -> Tensor:
        error = self.upper_standard_error
        loose = ~(self.spread <= _INTERVAL_SPREAD)
        unknown = torch.zeros_like(loose) if error is None else ~error.isfinite()
        return loose | unknown | (loose.double().mean() > _SIZEABLE)

    @property
    def health(self) -> str:
        """The share of loose bounds, and the median effective number of chains."""
        ess = f"ESS {self.ess.median().item():.3g} of {len(self.log_weights)} chains"
        return f"spread > {MOST_SPREAD:g} nats for {self.unreliable:.1%}, {ess}"

    def columns(self) -> dict[str, Tensor]:
        """See `Estimate`."""
        ends = {"upper": self.upper, "upper_standard_error": self.upper_standard_error}
        known = {name: end for name, end in ends.items() if end is not None}
        return {**super().columns(), "ess": self.ess, "spread": self.spread, **known}

    def summary(self) -> dict[str, float | int | str]:
        """The averages as plain numbers, with their protocol."""
        return {
            **super().summary(),
            "spread_threshold": MOST_SPREAD,
            "ess_median": self.ess.median().item(),
            "accept": self.accept.mean().item(),
            **vars(self.annealing),
            "evaluations": self.evaluations,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        how = self.annealing
        return (
            f"AnnealedEvidence({self.bound} bound {self.mean:.3f} nats per datum{self._upper_text()}, se(data) "
            f"{number(self.standard_error_data)}, se(Monte Carlo) {self.error_text()}, loose for "
            f"{self.unreliable:.1%}, acceptance {self.accept.mean().item():.2f}, N = {len(self.log_p)}, "
            f"{how.num_chains} chains over {how.num_temperatures} temperatures from the {how.start}, "
            f"{self.evaluations} decoder evaluations a datum, seed {self.seed})"
        )
