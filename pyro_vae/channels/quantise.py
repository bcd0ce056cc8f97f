"""Elements of x rounded to a few values."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.arguments.values import number, whole
from pyro_vae.channels.base import refuse_values
from pyro_vae.channels.within import Within
from pyro_vae.errors import UsageError

_ROUNDING = 1e-6
"""Of a bin: a value this little below the end of its bin counts as the next, for rounding may have put it there."""


@dataclass(frozen=True)
class Quantise(Within):
    r"""y is the centre of the bin that x lies in, of L bins of equal width; the outermost bins have no outer end.

    .. math:: p(y_d = c_i|z) = P(a_i < x_d < b_i|z), \qquad c_i = \text{low} + (i + \tfrac12) \frac{high - low}{L}

    with a_i and b_i half a width from c_i, but a_0 = -inf and b_(L-1) = inf. The index of a bin is
    (y - low) / width - 1/2. Exact for normal, Laplace and Student's t likelihoods, and for those of finitely many
    values.

    Args:
        levels: L, at least 2.
        low: where the first bin would begin if it had an end.
        high: where the last would end.

    Example:
        >>> Quantise(levels=2).draw(torch.tensor([[-3.0, 0.2, 0.9]]))
        tensor([[0.2500, 0.2500, 0.7500]])
    """

    levels: int = 4
    low: float = 0.0
    high: float = 1.0
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"levels": 5, "low": -1.0},)

    def __post_init__(self) -> None:
        whole("levels", self.levels, least=2)
        if not number("low", self.low) < number("high", self.high):
            raise UsageError(f"low and high: expected low < high, got {self.low} and {self.high}")

    def draw(self, x: Tensor) -> Tensor:
        """The centre of each element's bin."""
        return self._centre(((x - self.low) / self._width + _ROUNDING).floor().clamp(0, self.levels - 1))

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """0 where y is the centre of x's bin, else minus infinity."""
        return torch.where(self._index(y) == self._index(self.draw(x)), 0.0, -torch.inf)

    def limits(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of the bin."""
        index = self._index(y)
        low, high = (self.low + (index + end) * self._width for end in (0, 1))
        return torch.where(index <= 0, -torch.inf, low), torch.where(index >= self.levels - 1, torch.inf, high)

    def check(self, y: Tensor, likelihood: Any) -> None:
        """Refuse what is not the centre of a bin, to a thousandth of its width."""
        index = self._index(y)
        near = (y - self._centre(index)).abs() < 1e-3 * self._width
        centres = ", ".join(f"{self._centre(i):g}" for i in range(min(self.levels, 3)))
        words = f"the centre of one of {self.levels} bins: {centres}{', ...' if self.levels > 3 else ''}"
        refuse_values(y, near & (index >= 0) & (index < self.levels), lambda index: words)

    @property
    def _width(self) -> float:
        return (self.high - self.low) / self.levels

    def _index(self, centre: Tensor) -> Tensor:
        return ((centre - self.low) / self._width).floor()

    def _centre(self, index: Any) -> Any:
        return self.low + (index + 0.5) * self._width
