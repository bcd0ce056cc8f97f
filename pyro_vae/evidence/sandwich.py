"""Log p(x) from below and from above, and what follows if the lower bound is above the upper one."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan, nan
from typing import Literal

from torch import Tensor

from pyro_vae.evidence.annealing_results import AnnealedEvidence
from pyro_vae.statistics.averages import Averaged, number

CROSSED_BEYOND = 3.0
"""Standard errors of the gap beyond which a lower bound above the upper one is not by chance (false alarm 0.1 %)."""
_LEAST = 1e-3
"""Nats by which the bounds may cross through rounding alone."""
_ROUNDING = 2.0**-22
"""The same in units of log p(x): two steps of single precision."""


@dataclass(frozen=True, eq=False)
class Sandwich:
    r"""Log p(x) from below and from above, on data that a model drew itself (bidirectional Monte Carlo).

    In expectation over the data and the chains, `lower <= log p(x) <= upper`: the mean gap bounds the error of either.
    If the chains reach the posterior, the two differ by noise alone, and half of the time the lower one is above. Then
    (`crossed` is "within error") they give log p(x) with an error, but no bracket. Beyond 3 standard errors it is not
    by chance: the programs' densities are not those of their draws, or the errors are too small.

    Args:
        lower: by annealing forwards.
        upper: by annealing backwards from the codes that the data were drawn with.
        x: the data, `[N, *event]`.
        latents: those codes by site name, `[1, N, *event]`.
    """

    lower: AnnealedEvidence
    upper: AnnealedEvidence
    x: Tensor
    latents: Mapping[str, Tensor]

    @property
    def gap(self) -> Averaged:
        """Upper less lower bound, nats; a single datum's can be negative by chance.

        The spread over the data includes that of the chains: `standard_error_data` is the whole error.
        """
        errors = (self.lower.standard_error.square() + self.upper.standard_error.square()).sqrt()
        return Averaged(self.upper.log_p - self.lower.log_p, errors, bool(self.flagged.any()))

    @property
    def standard_error(self) -> float:
        """Standard error of the mean gap, nats: from its spread over the data, or of a single one from its chains.

        nan for one datum with one chain. At least the rounding error.
        """
        gap = self.gap
        spread = gap.standard_error_data if len(gap) > 1 else gap.standard_error_monte_carlo
        return nan if isnan(spread) else max(spread, self._rounding)

    @property
    def crossed_by(self) -> float:
        """How far the lower bound is above the upper one, in standard errors of the gap.

        0 if it is not above, or by rounding alone; nan if the error is not known.
        """
        gap = self.gap.mean
        return 0.0 if gap >= -self._rounding else -gap / self.standard_error

    @property
    def crossed(self) -> Literal["no", "within error", "beyond error"]:
        """Whether the lower bound is above the upper one, and whether by chance: up to 3 standard errors.

        For a single datum with a single chain, whose error is not known, `"within error"`.
        """
        if self.gap.mean >= -self._rounding:
            return "no"
        return "beyond error" if self.crossed_by > CROSSED_BEYOND else "within error"

    @property
    def middle(self) -> float:
        """The mean of the two sides, nats per datum: log p(x), with `standard_error`, where they cross by chance."""
        return (self.lower.mean + self.upper.mean) / 2

    @property
    def flagged(self) -> Tensor:
        """Which data have a loose bound on either side, `[N]` bool."""
        return self.lower.flagged | self.upper.flagged

    def summary(self) -> dict[str, float | int | str]:
        """The averages as plain numbers, with their protocol."""
        return {
            "lower": self.lower.mean,
            "upper": self.upper.mean,
            "gap": self.gap.mean,
            "standard_error_gap": self.standard_error,
            "crossed": self.crossed,
            "crossed_by": self.crossed_by,
            "standard_error_data": self.lower.standard_error_data,
            "standard_error_lower": self.lower.standard_error_monte_carlo,
            "standard_error_upper": self.upper.standard_error_monte_carlo,
            "unreliable": self.flagged.double().mean().item(),
            "num_data": len(self.gap),
            **vars(self.lower.annealing),
            "evaluations": self.lower.evaluations + self.upper.evaluations,
            "seed": self.lower.seed,
        }

    @property
    def verdict(self) -> str:
        """The conclusion on log p(x); the errors of the sides are those of the chains, that of the gap is the whole
        error.
        """
        lower, upper = (
            f"{side.mean:.3f} (se {number(side.standard_error_monte_carlo)})" for side in (self.lower, self.upper)
        )
        gap = f"gap {self.gap.mean:.3f} (se {number(self.standard_error)})"
        if self.crossed == "no":
            return f"lower bound {lower} <= log p(x) <= upper bound {upper} nats per datum, {gap}"
        both = f"lower bound {lower}, upper bound {upper}, {gap}"
        if self.crossed == "within error":
            error = number(self.standard_error)
            return f"log p(x) = {self.middle:.3f} +- {error} nats per datum; the two sides agree within error: {both}"
        return f"NO BRACKET: the lower bound is above the upper one by {self.crossed_by:.1f} standard errors: {both}"

    def __repr__(self) -> str:
        return (
            f"Sandwich({self.verdict}, loose for {self.flagged.double().mean().item():.1%}, N = {len(self.gap)}, "
            f"{self.lower.annealing.num_temperatures} temperatures, seed {self.lower.seed})"
        )

    @property
    def _rounding(self) -> float:
        return max(_LEAST, _ROUNDING * abs(self.middle))
