"""`Channel`, the base class: what is known of how an observation y came from x."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import reduce
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arguments.values import plain_fields
from pyro_vae.distributions.elements import Either, Finite, finite_values
from pyro_vae.errors import DataError, UsageError

Shape = tuple[int, ...]


class NotExactError(UsageError):
    """There is no exact p(y|z) for this channel and likelihood."""


class Channel(ABC):
    r"""A distribution p(y|x), as a frozen value: how what was observed came from x.

    Together with p(x|z) it gives what a pair of Pyro programs for y needs, and what restores x:

    .. math:: p(y|z) = \int p(y|x) \, p(x|z) \, dx, \qquad p(x|y, z) = \frac{p(y|x) \, p(x|z)}{p(y|z)}

    A subclass is a frozen dataclass. It implements `draw` and `log_density`, p(y|x) for each element alone. Where the
    elements of x have finitely many values (binary, grey levels), the rest follows: both formulas are sums over the
    values. For other likelihoods it implements `log_prob` and `restored` too. An element of y that is nan was not
    observed; no method but `observe` and `recover` meets one.
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        plain_fields(cls)

    @abstractmethod
    def draw(self, x: Tensor) -> Tensor:
        """Draw y ~ p(y|x) from torch's generator, `[*leading, *observed]`, for x of shape `[*leading, *event]`."""

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """Log p(y|x) of each element, nats, of the shape that both broadcast to.

        Raises:
            NotExactError: if p(y|x) has no density, or is not a product over the elements.
        """
        raise NotExactError(f"{type(self).__name__} does not say log p(y|x) of an element: implement log_density")

    def observed_shape(self, event: Shape) -> Shape:
        """The shape of y for x of shape `event`; by default the same.

        Raises:
            UsageError: if the channel is not for data of this shape.
        """
        return event

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """Log p(y|z) of each element of y, or summed over some of them, nats.

        Args:
            elements: p(x|z), independent elements with batch shape `[*leading, *event]`.
            y: `[*leading, *observed]`, or fewer leading dimensions.

        Raises:
            NotExactError: if it is not known for this likelihood.
        """
        _, terms = self._of_each_value(elements, y)
        return reduce(_log_sum, terms)

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """p(x|y, z), with `sample` and `mean`, batch shape `[*leading, *event]`; arguments as for `log_prob`.

        Raises:
            NotExactError: if it is not known for this likelihood.
        """
        values, terms = self._of_each_value(elements, y)
        return Finite(values, torch.stack(torch.broadcast_tensors(*terms)))

    def fill_in(self, y: Tensor, event: Shape) -> tuple[Tensor, Tensor]:
        """A first guess of x for the encoder, and which of its elements are known; the guide is q(z| this).

        Args:
            y: `[N, *observed]`, nan where not observed.
            event: the shape of x.

        Returns:
            x and a mask, `[N, *event]` each. By default y and where it was observed.
        """
        seen = ~y.isnan()
        return torch.where(seen, y, 0.0), seen

    def check(self, y: Tensor, likelihood: Any) -> None:  # noqa: B027 - most channels take every real number
        """Refuse observations that this channel can't give, for the likelihood of x.

        Raises:
            DataError: with the first such value.
        """

    def spread(self, seen: Tensor, event: Shape) -> Tensor:
        """Which elements of x an observation says something of, `[*leading, *event]`, from which of y were observed."""
        return seen

    def known(self, y: Tensor, event: Shape) -> Tensor:
        """Which elements of x the observation determines, `[N, *event]` bool; by default none."""
        return torch.zeros((len(y), *event), dtype=torch.bool, device=y.device)

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """Log p(y|x) of whole data, `[N]`, nats; gaps count 0.

        Args:
            y: `[N, *observed]`, nan where not observed.
            x: `[N, *event]`.

        Raises:
            NotExactError: if p(y|x) has no density that is a product over the elements.
        """
        seen = ~y.isnan()
        terms = self.log_density(torch.where(seen, y, 0.0), x)
        return torch.where(seen, terms, 0.0).flatten(1).sum(1)

    def observe(self, elements: dist.TorchDistribution, y: Tensor, placeholder: float = 0.0) -> Tensor:
        """As `log_prob`, for a y with gaps (nan), whose terms are 0.

        Args:
            elements: p(x|z), as for `log_prob`.
            y: `[*leading, *observed]`.
            placeholder: a value of x that has a density, in place of nan.
        """
        seen = ~y.isnan()
        terms = self.log_prob(elements, torch.where(seen, y, placeholder))
        return torch.where(seen, terms, 0.0)

    def recover(self, elements: dist.TorchDistribution, y: Tensor, placeholder: float = 0.0) -> dist.TorchDistribution:
        """As `restored`, for a y with gaps, of which p(x|z) is left; arguments as for `observe`."""
        seen = ~y.isnan()
        known = self.restored(elements, torch.where(seen, y, placeholder))
        event = elements.batch_shape[len(elements.batch_shape) - (y.dim() - 1) :]
        return Either(self.spread(seen, tuple(event)), known, elements)

    def _of_each_value(self, elements: dist.TorchDistribution, y: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The values of an element of x, `[V]`, and log p(y, x|z) of each element at each of them."""
        values = finite_values(elements, y.device)
        if values is None:
            raise NotExactError(
                f"{type(self).__name__} has no exact p(y|z) for {type(elements).__name__} elements: its `log_prob` "
                "does not cover them"
            )
        terms = [elements.log_prob(v.expand(elements.batch_shape)) + self.log_density(y, v) for v in values]
        return values, terms


def _log_sum(first: Tensor, second: Tensor) -> Tensor:
    """Log(exp(first) + exp(second)), whose gradient is 0, not nan, where both are minus infinity."""
    neither = (first == -torch.inf) & (second == -torch.inf)
    sums = torch.logaddexp(torch.where(neither, 0.0, first), torch.where(neither, 0.0, second))
    return torch.where(neither, -torch.inf, sums)


def refuse_values(y: Tensor, good: Tensor, expected: Callable[[tuple[int, ...]], str]) -> None:
    """Refuse observations outside what a channel can give.

    Args:
        y: `[N, *observed]`, nan where not observed.
        good: which values are right, of the same shape; those of gaps do not count.
        expected: what was expected at an index of one datum, in words.

    Raises:
        DataError: with the first wrong value and its position.
    """
    bad = ~good & ~y.isnan()
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise DataError(f"y: expected {expected(where[1:])}, or nan for a gap, got {y[where].item():.6g} at {where}")
