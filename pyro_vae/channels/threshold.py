"""Which elements of x are above a value."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.arguments.values import number
from pyro_vae.channels.base import refuse_values
from pyro_vae.channels.within import Within


@dataclass(frozen=True)
class Threshold(Within):
    r"""y is 1 where x is above a value, and 0 elsewhere.

    .. math:: p(y_d = 1|z) = P(x_d > c|z)

    Exact for normal, Laplace and Student's t likelihoods, and for those of finitely many values.

    Args:
        cut: c.

    Example:
        >>> Threshold(0.5).draw(torch.tensor([[0.2, 0.9]]))
        tensor([[0., 1.]])
    """

    cut: float = 0.5
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"cut": -1.0},)

    def __post_init__(self) -> None:
        number("cut", self.cut)

    def draw(self, x: Tensor) -> Tensor:
        """1 where x is above the cut."""
        return (x > self.cut).to(x)

    def limits(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Above the cut, or up to it."""
        above = y == 1
        return torch.where(above, self.cut, -torch.inf).to(y), torch.where(above, torch.inf, self.cut).to(y)

    def fill_in(self, y: Tensor, event: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Half a unit above the cut, or below it: y itself for a cut of 1/2."""
        guess, seen = super().fill_in(y, event)
        return torch.where(seen, guess + self.cut - 0.5, guess), seen

    def check(self, y: Tensor, likelihood: Any) -> None:
        """Refuse what is not binary."""
        refuse_values(y, (y == 0) | (y == 1), lambda index: "0 or 1")
