"""Log p(x) from below and from above by the same draws, on any data."""

from dataclasses import dataclass

from torch import Tensor

from pyro_vae.statistics.averages import Averaged, at_least, number


@dataclass(frozen=True, eq=False)
class Interval:
    r"""Log p(x) of every datum from below and from above.

    .. math:: E[\text{lower}] \le \log p(x) \le E[\text{upper}]

    over the draws. The ends come from the same draws and err together, so the interval of a single datum is narrower
    than its errors: take three standard errors beyond each end.

    Args:
        lower: the lower ends with their standard errors: the logarithm of a mean of weights.
        upper: the upper ends: the mean of tangents of the logarithm; see `statistics.tangent`. Never below the lower.
        flagged: which data's interval is not to be trusted, `[N]` bool: log p(x) may lie outside.
    """

    lower: Averaged
    upper: Averaged
    flagged: Tensor

    @property
    def unreliable(self) -> float:
        """Share of the data that are `flagged`."""
        return self.flagged.double().mean().item()

    def summary(self) -> dict[str, float]:
        """The upper end, averaged over the data, with its error, and the share flagged, as plain numbers."""
        return {
            "upper": self.upper.mean,
            "upper_standard_error_monte_carlo": self.upper.standard_error_monte_carlo,
            "upper_unreliable": self.unreliable,
        }

    def __repr__(self) -> str:
        ends = ", ".join(number(end.mean, ".4f") for end in (self.lower, self.upper))
        errors = " and ".join(number(end.standard_error_monte_carlo, ".4f") for end in (self.lower, self.upper))
        errors = at_least(errors, self.upper.is_at_least)
        return f"Interval(log p(x) in [{ends}] nats per datum, se(Monte Carlo) {errors}, flagged {self.unreliable:.1%})"
