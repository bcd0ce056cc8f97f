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

    def add(self, values: Tensor, observed: Tensor | None = None) -> None:
        """Add rows `[rows, *shape]`; `observed` has their shape and is True where a value counts, None where all do."""
        count, mean, squares = _of_all(values.double()) if observed is None else _of_some(values.double(), observed)
        before, shift = self._count.to(mean.device), mean - self._mean.to(mean.device)
        total = before + count
        between = shift.square() * (before * count / total.clamp(min=1))
        self._squares = squares + between + self._squares.to(mean.device)
        self._mean, self._count = shift * (count / total.clamp(min=1)) + self._mean.to(mean.device), total

    def moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, standard deviation (divided by the count) and count, each `[*shape]`; 0 where nothing is observed."""
        return self._mean, (self._squares / self._count.clamp(min=1)).sqrt(), self._count


def _of_all(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean, and sum of squares about the mean."""
    mean = x.mean(0)
    return torch.full_like(mean, len(x)), mean, (x - mean).square().sum(0)


def _of_some(x: Tensor, observed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, count = torch.where(observed, x, 0.0), observed.sum(0).double()  # what is not observed may be nan
    mean = x.sum(0) / count.clamp(min=1)
    return count, mean, ((x - mean).square() * observed).sum(0)
