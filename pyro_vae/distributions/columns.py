"""Elements of several kinds side by side, as the columns of a table have them, and two of the kinds."""

from collections.abc import Sequence
from math import inf, log, pi
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.elements import Elements
from pyro_vae.distributions.log_scales import tame

_LARGEST_LOG = 80.0
"""Of a draw and of a mean: its exponential and the inverse of it are numbers in single precision."""


class LogNormal(Elements):
    r"""Positive elements whose logarithms are normal.

    .. math:: \log p(x) = \log N(\log x; m, s^2) - \log x

    Args:
        loc: m, broadcastable to the batch shape.
        scale: s > 0, broadcastable to it.
    """

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape), constraints.positive)

    def log_density(self, value: Tensor) -> Tensor:
        """Log p(x), each element."""
        log_value = value.log()
        u = (log_value - self.loc) / self.scale
        return -u.square() / 2 - self.scale.log() - log(2 * pi) / 2 - log_value

    def draw(self, shape: torch.Size) -> Tensor:
        """Exponentials of normal draws, within what single precision holds."""
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return (self.loc + self.scale * noise).clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()

    @property
    def mean(self) -> Tensor:
        """`exp(m + s^2 / 2)`, finite also where that is beyond single precision."""
        return tame(self.loc + self.scale.square() / 2, _LARGEST_LOG).exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """`(exp(s^2) - 1)` times the square of the mean."""
        return (self.mean.square() * torch.expm1(self.scale.square())).expand(self.batch_shape)


class Codes(Elements):
    """Elements 0, ..., C - 1, each value with its own probability.

    Args:
        log_probs: log-probabilities, `[*batch_shape, C]`.
    """

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = log_probs
        super().__init__(log_probs.shape[:-1], constraints.integer_interval(0, log_probs.shape[-1] - 1))

    @property
    def probs(self) -> Tensor:
        """The probabilities, `[*batch_shape, C]`."""
        return self.log_probs.exp().expand(*self.batch_shape, -1)

    def log_density(self, value: Tensor) -> Tensor:
        """The log-probability of each element's value."""
        shape = torch.broadcast_shapes(value.shape, self.log_probs.shape[:-1])
        index = value.long().expand(shape).unsqueeze(-1)
        return self.log_probs.expand(*shape, -1).gather(-1, index).squeeze(-1)

    def draw(self, shape: torch.Size) -> Tensor:
        """Codes in floating point."""
        logits = self.log_probs.expand(*shape, -1)
        return torch.distributions.Categorical(logits=logits, validate_args=False).sample().to(logits.dtype)

    @property
    def mean(self) -> Tensor:
        """The average code."""
        return (self.probs * self._codes()).sum(-1)

    @property
    def variance(self) -> Tensor:
        """The average squared distance from it."""
        return (self.probs * (self._codes() - self.mean.unsqueeze(-1)).square()).sum(-1)

    def _codes(self) -> Tensor:
        return torch.arange(self.log_probs.shape[-1], dtype=self.log_probs.dtype, device=self.log_probs.device)


class OfEach(constraints.Constraint):
    """Values of which each element has its own set.

    Args:
        of_elements: the constraint of each element: real, positive, or whole numbers in an interval.
        event: the shape of the elements.
    """

    def __init__(self, of_elements: Sequence[Any], event: tuple[int, ...]) -> None:
        self.of_elements, self.event = tuple(of_elements), event
        self.is_discrete = all(c.is_discrete for c in self.of_elements)
        self._low, self._high = zip(*(_open_interval(c) for c in self.of_elements), strict=True)

    def check(self, value: Any) -> Any:
        """Which elements have one of their values; `value` broadcasts to `[*leading, *event]`."""
        low, high = (value.new_tensor(bound).reshape(self.event) for bound in (self._low, self._high))
        whole = torch.tensor([c.is_discrete for c in self.of_elements], device=value.device).reshape(self.event)
        return (value > low) & (value < high) & (~whole | (value == value.round()))

    def __repr__(self) -> str:
        kinds = ", ".join(dict.fromkeys(str(c) for c in self.of_elements))
        return f"each column its own, of {kinds}"


def _open_interval(of: Any) -> tuple[float, float]:
    """Bounds that no value of the constraint reaches."""
    margin = 0.5 if of.is_discrete else 0.0
    low, high = getattr(of, "lower_bound", None), getattr(of, "upper_bound", None)
    if of is constraints.boolean:
        low, high = 0, 1
    return (-inf if low is None else float(low) - margin), (inf if high is None else float(high) + margin)


class SideBySide(Elements):
    """Elements of several distributions, in an order of their own.

    Args:
        parts: distributions of independent elements, each `[*leading, n]`.
        places: for each part the places of its elements in the flattened event, `[n]`.
        order: where each element of the flattened event is among those of all parts, one part after another.
        support: the values of each element; it has the shape of the event.
    """

    def __init__(
        self, parts: Sequence[dist.TorchDistribution], places: Sequence[Tensor], order: Tensor, support: OfEach
    ) -> None:
        self.parts, self.places, self.order, self.event = parts, places, order, support.event
        leading = torch.broadcast_shapes(*(part.batch_shape[:-1] for part in parts))
        super().__init__(torch.Size([*leading, *self.event]), support)

    def log_density(self, value: Tensor) -> Tensor:
        """Of each element by its own distribution."""
        shape = torch.broadcast_shapes(value.shape, self.event)
        flat = value.expand(shape).flatten(-len(self.event))
        each = zip(self.parts, self.places, strict=True)
        return self._in_order([part.log_prob(flat.index_select(-1, places)) for part, places in each])

    def draw(self, shape: torch.Size) -> Tensor:
        """Draws of all."""
        leading = shape[: -len(self.event)]
        wider = (part.expand(torch.Size([*leading, part.batch_shape[-1]])) for part in self.parts)
        return self._in_order([part.sample() for part in wider])

    @property
    def mean(self) -> Tensor:
        """E[x]; of codes the average code."""
        return self._in_order([part.mean for part in self.parts]).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return self._in_order([part.variance for part in self.parts]).expand(self.batch_shape)

    def _in_order(self, values: list[Tensor]) -> Tensor:
        """Values of the parts `[*leading, n]` as `[*leading, *event]`."""
        leading = torch.broadcast_shapes(*(value.shape[:-1] for value in values))
        joined = torch.cat([value.expand(*leading, -1) for value in values], -1)
        return joined.index_select(-1, self.order).unflatten(-1, self.event)
