"""`Elements`, a distribution of independent elements that is easy to write, and the numerics that several share."""

from collections.abc import Callable
from copy import copy
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor


class Elements(dist.TorchDistribution):
    """Independent scalars whose parameters are tensors that broadcast.

    A subclass keeps its parameters as attributes and implements `log_density` and `draw`; `mean` where it is known.

    Args:
        batch_shape: what the parameters broadcast to.
        values: the support.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, batch_shape: torch.Size, values: constraints.Constraint) -> None:
        self.values = values
        super().__init__(batch_shape)

    @property
    def support(self) -> constraints.Constraint:
        """The values that have probability."""
        return self.values

    def log_density(self, value: Tensor) -> Tensor:
        """Log p(value), of the shape that `value` and the parameters broadcast to."""
        raise NotImplementedError

    def draw(self, shape: torch.Size) -> Tensor:
        """Draws of this shape, to which the parameters broadcast."""
        raise NotImplementedError

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Elements":
        """The same with a larger batch shape; the parameters stay as they are, for they broadcast."""
        new = copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Log p(value), `[*sample, *batch]`, nats."""
        if self._validate_args:
            self._validate_sample(value)
        return self.log_density(value).expand(torch.broadcast_shapes(self.batch_shape, value.shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws `[*sample_shape, *batch_shape]`, without gradients."""
        return self.draw(self._extended_shape(sample_shape))


class Rescaled(Elements):
    r"""x_d = m_d + s_d u_d for independent real elements u.

    .. math:: \log p(x) = \sum_d \log p_u((x_d - m_d) / s_d) - \log s_d

    Args:
        elements: the distribution of u, elementwise.
        shift: m, broadcastable to it.
        factor: s > 0, broadcastable to it.
    """

    def __init__(self, elements: dist.TorchDistribution, shift: Tensor, factor: Tensor) -> None:
        self.elements, self.shift, self.factor = elements, shift, factor
        super().__init__(elements.batch_shape, constraints.real)

    def log_density(self, value: Tensor) -> Tensor:
        """Log p(x), each element."""
        return self.elements.log_prob((value - self.shift) / self.factor) - self.factor.log()

    def draw(self, shape: torch.Size) -> Tensor:
        """Draws of u, moved."""
        return self.shift + self.factor * self.elements.expand(shape).sample()

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether u is reparameterised."""
        return self.elements.has_rsample

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws with gradients."""
        return self.shift + self.factor * self.elements.expand(self._extended_shape(sample_shape)).rsample()

    @property
    def mean(self) -> Tensor:
        """E[x]."""
        return (self.shift + self.factor * self.elements.mean).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Var[x]."""
        return (self.factor.square() * self.elements.variance).expand(self.batch_shape)


def logit_of(mean: Tensor, margin: float = 1e-3) -> Tensor:
    """The logit of a probability, which is first brought into `[margin, 1 - margin]`."""
    return torch.logit(mean.clamp(margin, 1 - margin))


def solve(increasing: Callable[[Tensor], Tensor], target: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where an increasing function of each element has the value `target`, by 60 bisections in double precision.

    Args:
        increasing: of a tensor, element by element.
        target: its values, `[*shape]`.
        low: below the solutions, broadcastable to `target`.
        high: above them.
    """
    target = target.double()
    low, high = (bound.double().expand_as(target) for bound in (low, high))
    for _ in range(60):
        middle = (low + high) / 2
        below = increasing(middle) < target
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


class Exactly(Elements):
    """Elements that are known.

    Args:
        value: the values, broadcastable to `batch_shape`.
        batch_shape: the shape of the elements.
    """

    def __init__(self, value: Tensor, batch_shape: torch.Size) -> None:
        self.value = value
        super().__init__(batch_shape, constraints.real)

    def log_density(self, value: Tensor) -> Tensor:
        """0 at the value, minus infinity elsewhere."""
        return torch.where(value == self.value, 0.0, -torch.inf)

    def draw(self, shape: torch.Size) -> Tensor:
        """The value."""
        return self.value.expand(shape)

    @property
    def mean(self) -> Tensor:
        """The value."""
        return self.value.expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """0."""
        return torch.zeros_like(self.mean)


class Finite(Elements):
    """Elements with the same finitely many values, each element with its own probabilities.

    Args:
        points: the values, `[V]`.
        log_weights: log-probabilities up to a constant for each element, `[V, *batch_shape]`.
    """

    def __init__(self, points: Tensor, log_weights: Tensor) -> None:
        self.points, self.probs = points, log_weights.softmax(0)
        super().__init__(log_weights.shape[1:], constraints.real)

    def log_density(self, value: Tensor) -> Tensor:
        """The log-probability of the value; minus infinity of others."""
        points = self.points.reshape(-1, *[1] * value.dim())
        return (self.probs * (points == value)).sum(0).log()

    def draw(self, shape: torch.Size) -> Tensor:
        """By the inverse of the distribution function."""
        u = torch.rand(shape, dtype=self.probs.dtype, device=self.probs.device)
        below = self.probs.cumsum(0)[:-1]
        index = sum((u >= cut for cut in below), torch.zeros_like(u, dtype=torch.long))
        return self.points[index]

    @property
    def mean(self) -> Tensor:
        """The average of the values."""
        return self._average(self.points)

    @property
    def variance(self) -> Tensor:
        """The average square less that of the mean."""
        return self._average(self.points.square()) - self.mean.square()

    def _average(self, values: Tensor) -> Tensor:
        return torch.tensordot(values.to(self.probs.dtype), self.probs, 1).expand(self.batch_shape)


class Either(Elements):
    """One of two distributions for each element.

    Args:
        which: whether it is the first, broadcastable to the batch shape.
        first: where `which`.
        second: elsewhere.
    """

    def __init__(self, which: Tensor, first: dist.TorchDistribution, second: dist.TorchDistribution) -> None:
        self.which, self.first, self.second = which, first, second
        super().__init__(torch.broadcast_shapes(first.batch_shape, second.batch_shape), constraints.real)

    def log_density(self, value: Tensor) -> Tensor:
        """Of the distribution that the element has."""
        return torch.where(self.which, self.first.log_prob(value), self.second.log_prob(value))

    def draw(self, shape: torch.Size) -> Tensor:
        """Draws of both."""
        return torch.where(self.which, *(d.expand(shape).sample() for d in (self.first, self.second)))

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether both are reparameterised."""
        return self.first.has_rsample and self.second.has_rsample

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        """Draws of both, with gradients."""
        shape = self._extended_shape(sample_shape)
        return torch.where(self.which, *(d.expand(shape).rsample() for d in (self.first, self.second)))

    @property
    def mean(self) -> Tensor:
        """The means."""
        return torch.where(self.which, self.first.mean, self.second.mean)

    @property
    def variance(self) -> Tensor:
        """The variances."""
        return torch.where(self.which, self.first.variance, self.second.variance)


def has_finite_values(elements: dist.TorchDistribution) -> bool:
    """Whether the values that elements have are finitely many and the same for all: binary, grey levels."""
    return _values_of(elements.support) is not None


def finite_values(elements: dist.TorchDistribution, device: torch.device) -> Tensor | None:
    """The values that elements have, if `has_finite_values`.

    Args:
        elements: the distribution.
        device: of its parameters.

    Returns:
        `[V]` in the type of the parameters; None for other distributions.
    """
    values = _values_of(elements.support)
    if values is None:
        return None
    values = values.to(device)
    return values.to(elements.log_prob(values[0].expand(elements.batch_shape)))


def _values_of(support: Any) -> Tensor | None:
    if support is constraints.boolean:
        return torch.tensor([0.0, 1.0])
    found = getattr(support, "values", None)
    return found if isinstance(found, Tensor) else None
