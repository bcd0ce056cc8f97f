"""Bits that were flipped."""

from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyro_vae.arguments.values import number
from pyro_vae.channels.base import Channel, refuse_values
from pyro_vae.errors import UsageError


@dataclass(frozen=True)
class BitFlip(Channel):
    r"""Each element of a binary x was flipped with probability p.

    .. math:: p(y_d = 1|z) = \pi_d(z) (1 - p) + (1 - \pi_d(z)) p

    Exact for the Bernoulli likelihood.

    Args:
        p: the probability of a flip, from 0 to 1; at 1/2 y says nothing of x.

    Example:
        >>> BitFlip(1.0).draw(torch.tensor([[0.0, 1.0]]))
        tensor([[1., 0.]])
    """

    p: float = 0.1
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"p": 0.0},)

    def __post_init__(self) -> None:
        if not 0 <= number("p", self.p) <= 1:
            raise UsageError(f"p: expected the probability of a flip, from 0 to 1, got {self.p}")

    def draw(self, x: Tensor) -> Tensor:
        """X with flips."""
        return torch.where(torch.rand(x.shape, device=x.device) < self.p, 1 - x, x)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """Log p where they differ, log(1 - p) where they are equal."""
        same, other = (log(q) if q > 0 else -torch.inf for q in (1 - self.p, self.p))
        return torch.where(y == x, same, other)

    def check(self, y: Tensor, likelihood: Any) -> None:
        """Refuse what is not binary."""
        refuse_values(y, (y == 0) | (y == 1), lambda index: "0 or 1")
