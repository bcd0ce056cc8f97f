"""Elements of x that were recorded as a limit where they lie beyond it."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arguments.values import number
from pyro_vae.channels.base import refuse_values
from pyro_vae.channels.within import Within
from pyro_vae.distributions.elements import Either, Exactly, has_finite_values
from pyro_vae.errors import UsageError


@dataclass(frozen=True)
class Censor(Within):
    r"""y is x between two limits, and the nearest limit beyond them: a saturated sensor, a detection limit.

    .. math:: p(y_d|z) = \begin{cases} P(x_d \le \text{low}|z) & y_d = \text{low} \\ p(x_d = y_d|z) & \text{between} \\
        P(x_d \ge \text{high}|z) & y_d = \text{high} \end{cases}

    A probability at the limits, a density between them. Exact for normal, Laplace and Student's t likelihoods, and for
    those of finitely many values.

    Args:
        low: the lower limit; None for none.
        high: the upper limit; None for none.

    Example:
        >>> Censor(0.0, 1.0).draw(torch.tensor([[-2.0, 0.3, 1.5]]))
        tensor([[0.0000, 0.3000, 1.0000]])
    """

    low: float | None = 0.0
    high: float | None = 1.0
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"low": None}, {"low": -0.7, "high": None})

    def __post_init__(self) -> None:
        low, high = self._ends
        if self.low is None and self.high is None:
            raise UsageError("low and high: expected a limit for one of them, got None for both")
        if not number("low", low) < number("high", high):
            raise UsageError(f"low and high: expected low < high, got {self.low} and {self.high}")

    def draw(self, x: Tensor) -> Tensor:
        """X, limited."""
        return x.clamp(*self._ends)

    def limits(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Below the lower limit, or above the upper one; between them y is x."""
        low, high = self._ends
        below = (y <= low) | (self.high is None)
        start, end = torch.where(below, -torch.inf, high), torch.where(below, low, torch.inf)
        return start.to(y), end.to(y)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """0 where y is what x becomes, up to rounding, else minus infinity."""
        return torch.where((y - self.draw(x)).abs() <= 1e-6 * (1 + y.abs()), 0.0, -torch.inf)

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """Log F(low), log(1 - F(high)) or log p(x|z) at y."""
        beyond = super().log_prob(elements, y)
        return beyond if has_finite_values(elements) else torch.where(self._between(y), elements.log_prob(y), beyond)

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """Y between the limits, else x given that it lies beyond one."""
        return Either(self._between(y), Exactly(y, elements.batch_shape), super().restored(elements, y))

    def known(self, y: Tensor, event: tuple[int, ...]) -> Tensor:
        """What was observed between the limits."""
        return self._between(y)

    def check(self, y: Tensor, likelihood: Any) -> None:
        """Refuse values beyond the limits, and those between them that are outside the likelihood's support."""
        low, high = self._ends
        possible = likelihood.data_support.check(torch.where(self._between(y), y, likelihood.placeholder))
        good = (y >= low) & (y <= high) & possible
        refuse_values(y, good, lambda index: f"from {low:g} to {high:g} and {likelihood.allowed_at(index)}")

    @property
    def _ends(self) -> tuple[float, float]:
        return -torch.inf if self.low is None else self.low, torch.inf if self.high is None else self.high

    def _between(self, y: Tensor) -> Tensor:
        low, high = self._ends
        return (y > low) & (y < high)
