"""Means and spreads of observed values, added up part by part."""

import torch
from torch import Tensor


class Running:
    """Mean and standard deviation over rows, of those values that are observed; in double precision.

    References:
        Chan, Golub & LeVeque 1983, Algorithms for computing the sample variance.

    Example:
        >>> running = Running()
        >>> for x in (torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0], [9.0]])):
        ...     running.add(x, x < 8)
        >>> [value.item() for value in running.moments()]
        [3.0, 2.160246899469287, 3.0]
    """

    def __init__(self) -> None:
        self._count = self._mean = self._squares = torch.zeros((), dtype=torch.float64)

    def add(self, values: Tensor, observed: Tensor) -> None:
        """Add rows `[rows, *shape]`; `observed` has their shape and is True where a value counts."""
        x, seen = values.double(), observed.double()
        count = seen.sum(0)
        mean = (x * seen).sum(0) / count.clamp(min=1)
        squares = ((x - mean).square() * seen).sum(0)
        total, shift = self._count + count, mean - self._mean
        share = count / total.clamp(min=1)
        self._squares = self._squares + squares + shift.square() * self._count * share
        self._mean, self._count = self._mean + shift * share, total

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation (divided by the count) and count, each `[*shape]`; 0 where nothing is observed."""
        return self._mean, (self._squares / self._count.clamp(min=1)).sqrt(), self._count
