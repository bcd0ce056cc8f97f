"""Elements of x that were not observed."""

from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arguments.values import choice, number
from pyro_vae.channels.base import Channel, refuse_values
from pyro_vae.distributions.elements import Exactly
from pyro_vae.errors import UsageError

Pattern = Literal["random", "lower_half", "upper_half", "left_half", "right_half", "quadrant", "checkerboard"]
_PATTERNS = ("random", "lower_half", "upper_half", "left_half", "right_half", "quadrant", "checkerboard")


@dataclass(frozen=True)
class Missing(Channel):
    r"""Some elements of x were observed as they are, the others not: y is x with nan in the gaps.

    .. math:: p(y|z) = \prod_{d \text{ observed}} p(x_d|z)

    Exact for every likelihood. Which elements are missing is part of y; the pattern only says what `draw` leaves out,
    to try a model on complete data. It must not depend on the missing values (missing at random).

    Args:
        pattern: what is missing: elements at `random`, each with probability `share`; of images a half, the lower
            right `quadrant`, or every second pixel (`checkerboard`).
        share: the probability of a gap, for `random`.

    Example:
        >>> y = Missing("lower_half").draw(torch.ones(1, 4, 2))
        >>> y.isnan().sum(-1)
        tensor([[0, 0, 2, 2]])
    """

    pattern: Pattern = "random"
    share: float = 0.5

    def __post_init__(self) -> None:
        choice("pattern", self.pattern, _PATTERNS)
        if not 0 <= number("share", self.share) <= 1:
            raise UsageError(f"share: expected a probability from 0 to 1, got {self.share}")

    def draw(self, x: Tensor) -> Tensor:
        """X with nan in the gaps."""
        return x.masked_fill(self.gaps(x), torch.nan)

    def gaps(self, x: Tensor) -> Tensor:
        """Where the pattern leaves gaps, `[*leading, *event]` bool; random ones from torch's generator."""
        if self.pattern == "random":
            return torch.rand(x.shape, device=x.device) < self.share
        if x.dim() < 3:
            raise UsageError(
                f"pattern {self.pattern!r} is for images [N, ..., height, width], got {list(x.shape)}: take 'random'"
            )
        rows, columns = (torch.arange(size, device=x.device) for size in x.shape[-2:])
        return _PLANES[self.pattern](rows[:, None], columns, *x.shape[-2:]).expand(x.shape)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """0 where an observed value is that of x."""
        return torch.where(y == x, 0.0, -torch.inf)

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """Log p(x|z) at the observed values."""
        return elements.log_prob(y)

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """The observed values."""
        return Exactly(y, elements.batch_shape)

    def known(self, y: Tensor, event: tuple[int, ...]) -> Tensor:
        """What was observed."""
        return ~y.isnan()

    def check(self, y: Tensor, likelihood: Any) -> None:
        """Refuse observed values outside the likelihood's support."""
        good = likelihood.data_support.check(torch.where(y.isnan(), likelihood.placeholder, y))
        refuse_values(y, good, likelihood.allowed_at)


_PLANES: dict[str, Any] = {
    "lower_half": lambda row, column, height, width: (row >= height // 2) | (column < 0),
    "upper_half": lambda row, column, height, width: (row < height // 2) | (column < 0),
    "left_half": lambda row, column, height, width: (column < width // 2) | (row < 0),
    "right_half": lambda row, column, height, width: (column >= width // 2) | (row < 0),
    "quadrant": lambda row, column, height, width: (row >= height // 2) & (column >= width // 2),
    "checkerboard": lambda row, column, height, width: (row + column) % 2 == 1,
}
"""Where the patterns of images leave gaps."""
