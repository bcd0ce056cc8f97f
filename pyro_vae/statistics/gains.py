"""By how much the second of two is better, datum by datum on the same data."""

from typing import Literal

from torch import Tensor

from pyro_vae.statistics.averages import number, standard_error

_CERTAIN = 2.0
"""Number of standard errors of the gain above which one is called better than the other."""

Verdict = Literal["better", "worse", "no difference within error", "unknown"]
"""What the second is; unknown without a standard error."""


class Gains:
    """What has `gains`, `[N]`, nats: by how much the second is better at each datum. For a class to derive from."""

    gains: Tensor

    @property
    def gain(self) -> float:
        """Mean of `gains`, nats per datum; positive where the second is better."""
        return self.gains.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of `gain`, from the differences of each datum (paired); nan for one datum."""
        return standard_error(self.gains)

    @property
    def verdict(self) -> Verdict:
        """What the second is, beyond 2 standard errors of the gain (false alarm 5 %)."""
        if self.standard_error != self.standard_error:
            return "unknown"
        if abs(self.gain) <= _CERTAIN * self.standard_error:
            return "no difference within error"
        return "better" if self.gain > 0 else "worse"

    def __repr__(self) -> str:
        error = number(self.standard_error)
        name, num = type(self).__name__, len(self.gains)
        return f"{name}({self.verdict}: {self.gain:+.3f} +- {error} nats per datum, N = {num})"
