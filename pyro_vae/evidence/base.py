"""What every estimator of log p(x) returns: the estimate of each datum, its error, and whether to believe it."""

from abc import ABC, abstractmethod
from dataclasses import replace
from math import isfinite
from typing import Any, Literal

from torch import Tensor

from pyro_vae.evidence.interval import Interval
from pyro_vae.statistics.averages import Averaged, OverData, at_least, number

BoundKind = Literal["lower", "upper", "consistent"]


MOST_UNRELIABLE = 0.05
"""Share of flagged data above which the mean is flagged too: for a thousand data and K = 5000 its bias is then as large
as its stated error."""


class Estimate(OverData, ABC):
    """Estimates of log p(x) by any method; the class of each method, a frozen dataclass, adds its health."""

    log_p: Tensor
    """The estimate for each datum, `[N]`, nats."""
    standard_error: Tensor
    """Its error, `[N]`, nats: a Monte Carlo standard error, or the last change of a quadrature."""
    method: str
    """The name of the method, as `methods.estimate` takes it."""
    bound: BoundKind
    """On which side of log p(x) the estimate lies in expectation; "consistent" if on neither."""
    upper: Tensor | None = None
    """An upper bound, `[N]`, nats: in expectation above log p(x). None of methods that have none."""
    upper_standard_error: Tensor | None = None
    """Its Monte Carlo standard error, `[N]`, nats."""

    @property
    @abstractmethod
    def flagged(self) -> Tensor:
        """Which data's estimates are not to be trusted, `[N]` bool."""

    @property
    def health(self) -> str:
        """What `flagged` found, in words."""
        return f"{self.unreliable:.1%} flagged"

    @property
    def interval(self) -> Interval | None:
        """Log p(x) from below, `log_p`, and from above, `upper`, by the same draws; None where there is no `upper`."""
        if self.upper is None or self.upper_standard_error is None:
            return None
        flagged, lower = self._interval_flagged, self._averaged
        upper = replace(lower, values=self.upper, standard_errors=self._upper_error)
        lower, upper = (replace(end, is_at_least=bool(flagged.any())) for end in (lower, upper))
        return Interval(lower, upper, flagged)

    @property
    def _interval_flagged(self) -> Tensor:
        """Which data's interval is not to be trusted, `[N]` bool."""
        return self.flagged

    @property
    def _upper_error(self) -> Any:
        """The standard errors of the upper end of `interval`, `[N]`, nats."""
        return self.upper_standard_error

    @property
    def _averaged(self) -> Averaged:
        return Averaged(self.log_p, self.standard_error)

    @property
    def mean_flagged(self) -> bool:
        """Whether `mean` too is not to be trusted: more than 5 % of the data are `flagged`."""
        return self.unreliable > MOST_UNRELIABLE

    @property
    def error_is_at_least(self) -> bool:
        """Whether `standard_error_monte_carlo` is known to be too small, because some data are `flagged`."""
        return self.unreliable > 0 and isfinite(self.standard_error_monte_carlo)

    def error_text(self, form: str = ".4f") -> str:
        """`standard_error_monte_carlo` as text, with "at least" in front where it is known to be too small."""
        return at_least(number(self.standard_error_monte_carlo, form), self.error_is_at_least)

    def _upper_text(self) -> str:
        """The upper bound of `interval`, as a part of what is printed."""
        if (interval := self.interval) is None:
            return ""
        return f", upper bound {number(interval.upper.mean)} (flagged {interval.unreliable:.1%})"

    def summary(self) -> dict[str, float | int | str]:
        """The averages as plain numbers, with their protocol; what the command prints."""
        return {
            "method": self.method,
            "bound": self.bound,
            "log_p": self.mean,
            "standard_error_data": self.standard_error_data,
            "standard_error_monte_carlo": self.standard_error_monte_carlo,
            "standard_error_monte_carlo_is_at_least": self.error_is_at_least,
            "unreliable": self.unreliable,
            **({} if (interval := self.interval) is None else interval.summary()),
            "mean_flagged": self.mean_flagged,
            "health": self.health,
            "num_data": len(self.log_p),
        }

    def columns(self) -> dict[str, Tensor]:
        """All values of each datum, `[N]` by name: the estimate, its error and its health."""
        fields = {name: value for name, value in vars(self).items() if isinstance(value, Tensor) and value.dim() == 1}
        return {"log_p": self.log_p, "standard_error": self.standard_error, **fields}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(log p(x) = {self.mean:.3f} nats per datum ({self.bound}){self._upper_text()}, "
            f"se(data) {number(self.standard_error_data)}, se(method) {self.error_text()}, "
            f"{self.health}{', THE MEAN TOO' * self.mean_flagged}, N = {len(self.log_p)})"
        )
