"""`Within`, the base class of channels whose y says in which interval an element of x lies."""

from abc import abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.channels.base import Channel, NotExactError
from pyro_vae.distributions.elements import has_finite_values
from pyro_vae.distributions.intervals import KNOWN, inside, log_mass


class Within(Channel):
    r"""y is a function of x that is constant on intervals, a(y) < x < b(y); abstract.

    .. math:: p(y|z) = P(a(y) < x < b(y) | z) = F(b(y)) - F(a(y))

    Exact for normal, Laplace and Student's t elements, also for intervals far in their tails, and, by sums, for
    elements with finitely many values (binary, grey levels).
    """

    @abstractmethod
    def limits(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The ends a and b of the interval of each y; infinite where it has none."""

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """0 where y is what x becomes, else minus infinity."""
        return torch.where(y == self.draw(x), 0.0, -torch.inf)

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """Log(F(b) - F(a)) of each element."""
        found = log_mass(elements, *self.limits(y))
        return self._checked(super().log_prob, elements, y) if found is None else found

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """X given that it lies in the interval."""
        found = inside(elements, *self.limits(y))
        return self._checked(super().restored, elements, y) if found is None else found

    def _checked(self, by_sums: Any, elements: dist.TorchDistribution, y: Tensor) -> Any:
        """By sums over the values, if they are finitely many."""
        if not has_finite_values(elements):
            raise NotExactError(
                f"{type(self).__name__} has no exact p(y|z) for {type(elements).__name__.lstrip('_')} elements, whose "
                f"distribution function is not known here: take {KNOWN}, or a likelihood with finitely many values"
            )
        return by_sums(elements, y)
