"""Where to raise an alarm: the split-conformal quantile of scores of data that are not anomalous."""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from torch import Tensor

from pyro_vae.arguments.remedies import option
from pyro_vae.errors import DataError, UsageError
from pyro_vae.tasks.scores.results import Scores, values_of


@dataclass(frozen=True)
class Threshold:
    r"""A threshold with a guarantee that holds for any model, any score and any number n of calibration data.

    If a new datum is exchangeable with the calibration data, and none of these were used to make the score,

    .. math:: P(\text{alarm}) \le \alpha_n = \frac{\lfloor \alpha (n + 1) \rfloor}{n + 1} \le \alpha,

    with equality where no two scores are equal. The probability is over the calibration data too: the rate that a
    given calibration has on new data is itself random, distributed as Beta(j, n + 1 - j), j = floor(alpha (n + 1)).

    Args:
        value: an alarm is a score above this.
        false_alarms: alpha, the promised rate.
        num_calibration: n.
        method: the method of the scores; None if they came as plain numbers.
    """

    value: float
    false_alarms: float
    num_calibration: int
    method: str | None = None

    @property
    def rank(self) -> int:
        """J = floor(alpha (n + 1)): the threshold is the j-th largest calibration score."""
        return _rank(self.false_alarms, self.num_calibration)

    @property
    def expected_rate(self) -> float:
        """The probability of a false alarm, alpha_n, if no two scores are equal; otherwise at most that."""
        return self.rank / (self.num_calibration + 1)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Between what the rate on many new data lies with probability `level`, by the Beta distribution.

        Args:
            level: probability of the equal-tailed interval, between 0 and 1.
        """
        from scipy.stats import beta

        law = beta(self.rank, self.num_calibration + 1 - self.rank)
        return float(law.ppf((1 - level) / 2)), float(law.ppf((1 + level) / 2))

    def alarms(self, scores: Scores | Tensor) -> Tensor:
        """Whether each score is above the threshold, `[N]` bool; a score that is nan raises an alarm.

        Raises:
            UsageError: if the scores are of another method.
        """
        if isinstance(scores, Scores) and self.method not in (None, scores.method):
            raise UsageError(f"the threshold is of {self.method!r} scores, and these are of {scores.method!r}")
        return ~(values_of(scores) <= self.value)

    def __repr__(self) -> str:
        low, high = self.interval()
        promise = f"P(false alarm) <= {self.expected_rate:.4f}, realised rate {low:.4f} to {high:.4f} with 95 %"
        return f"Threshold({self.value:.3f}: {promise}, n = {self.num_calibration})"


def threshold(scores: Scores | Tensor, false_alarms: float = 0.01) -> Threshold:
    """The threshold with a given rate of false alarms, from the scores of data that are not anomalous.

    Args:
        scores: of calibration data, `[n]`: such as the model was not trained on, and that no reference of the score
            was made of, e.g. the validation set.
        false_alarms: alpha, the highest probability of a false alarm, between 0 and 1.

    Returns:
        A `Threshold`: the floor(alpha (n + 1))-th largest score.

    Raises:
        UsageError: if alpha is not between 0 and 1, or n is below 1 / alpha - 1, too few to promise so low a rate.
        DataError: if a score is nan, or there are none.

    References:
        Vovk, Gammerman & Shafer 2005, Algorithmic learning in a random world. Bates et al. 2023, Testing for outliers
        with conformal p-values.

    Example:
        >>> found = threshold(torch.arange(1.0, 100.0), false_alarms=0.05)
        >>> found.value, found.expected_rate
        (95.0, 0.05)
    """
    values = values_of(scores)
    if isinstance(false_alarms, bool) or not isinstance(false_alarms, int | float) or not 0 < false_alarms < 1:
        raise UsageError(f"false_alarms: expected a rate between 0 and 1, got {false_alarms!r}")
    if len(values) == 0 or bool(values.isnan().any()):
        raise DataError(
            f"scores: expected numbers to calibrate by, got {int(values.isnan().sum())} nan of {len(values)}"
        )
    rank = _rank(false_alarms, len(values))
    if rank < 1:
        fewest = ceil(1 / Fraction(str(false_alarms))) - 1
        raise UsageError(
            f"{len(values)} calibration scores can't promise {false_alarms:g} false alarms: give at least {fewest}, or "
            f"{option('false_alarms', f'{_upwards(1 / (len(values) + 1)):g}')}"
        )
    value = values.sort(descending=True).values[rank - 1].item()
    return Threshold(value, float(false_alarms), len(values), scores.method if isinstance(scores, Scores) else None)


def _upwards(rate: float) -> float:
    """A rate rounded upwards to three decimals or fewer digits, so that it can be promised."""
    return ceil(rate * 1000) / 1000


def _rank(false_alarms: float, count: int) -> int:
    """floor(alpha (n + 1)), with alpha as it was written: 0.07 is 7/100."""
    return int(Fraction(str(float(false_alarms))) * (count + 1))
