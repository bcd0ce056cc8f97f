"""What every estimator of log p(x) returns: the estimate of each datum, its error, and whether to believe it."""

from abc import ABC, abstractmethod
from math import isfinite
from typing import Literal

from torch import Tensor

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

    @property
    @abstractmethod
    def flagged(self) -> Tensor:
        """Which data's estimates are not to be trusted, `[N]` bool."""

    @property
    def health(self) -> str:
        """What `flagged` found, in words."""
        return f"{self.unreliable:.1%} flagged"

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
            f"{type(self).__name__}(log p(x) = {self.mean:.3f} nats per datum ({self.bound}), "
            f"se(data) {number(self.standard_error_data)}, se(method) {self.error_text()}, "
            f"{self.health}{', THE MEAN TOO' * self.mean_flagged}, N = {len(self.log_p)})"
        )
