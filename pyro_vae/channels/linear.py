"""Linear observations with normal noise: projections, weighted sums, blur."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arguments.values import number, shown
from pyro_vae.channels.base import Channel, NotExactError
from pyro_vae.distributions.linear_observations import LinearObservation, distinct
from pyro_vae.distributions.normals import GivenLinear, as_normal
from pyro_vae.errors import FileError, UsageError

Shape = tuple[int, ...]


class LinearChannel(Channel):
    r"""Abstract: y = A x + s e, e ~ N(0, I), for a matrix A that may depend on the shape of x.

    A acts on the last dimensions of x, those whose sizes have its number of columns as their product; on each part of
    the dimensions in front (colours), by itself. y has the shape of x where A is square, and else one dimension in
    place of those.

    p(y|z) is exact for a normal likelihood, where it is a dense normal: `LinearObservation` has the formulas and their
    cost. Elements of y depend on each other given z, so `log_prob` is of them all, and `observe` and `recover`, by
    which the base class leaves out single elements, are this class's own.
    """

    std: float

    def __post_init__(self) -> None:
        if not 0 < number("std", self.std) < torch.inf:
            raise UsageError(f"std: expected the standard deviation of the noise, above 0, got {self.std}")

    @abstractmethod
    def matrix_for(self, shape: Shape) -> Tensor:
        """A for data whose last dimensions are these, `[M, D]`.

        Raises:
            UsageError: if the channel is not for data of this shape.
        """

    def observed_shape(self, event: Shape) -> Shape:
        """The shape of y."""
        matrix = self.matrix_for(event)
        dims = _dims_of(event, matrix.shape[1])
        if dims is None:
            raise UsageError(
                f"{self}: the matrix has {matrix.shape[1]} columns, and x of shape {list(event)} has {prod(event)} "
                "elements: they must agree, or the columns with the last dimensions of x"
            )
        return event if matrix.shape[0] == matrix.shape[1] else (*event[: len(event) - dims], matrix.shape[0])

    def draw(self, x: Tensor) -> Tensor:
        """A x with noise."""
        self.observed_shape(tuple(x.shape[1:]))
        y = self._forward(x)
        return y + self.std * torch.randn_like(y)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """It is not of single elements of x.

        Raises:
            NotExactError: always.
        """
        raise NotExactError(f"{type(self).__name__} observes elements of x together: p(y|x) is not of an element")

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """Log p(y|x) of whole data, `[N]`, nats; gaps count 0."""
        seen = ~y.isnan()
        terms = dist.Normal(self._forward(x), self.std).log_prob(torch.where(seen, y, 0.0))
        return torch.where(seen, terms, 0.0).flatten(1).sum(1)

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """Log p(y|z), nats: of y as a whole, or of each part that A acts on by itself; nan is a gap."""
        normal = self._normal(elements)
        residual = self._flat(y.nan_to_num()) - self._flat(self._forward(normal.loc))
        return self._observation(normal, y).log_density(residual)

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """p(x|y, z), a dense normal; nan is a gap."""
        normal = self._normal(elements)
        observation, event = self._observation(normal, y), self._event(normal.batch_shape)

        def gain(off: Tensor) -> Tensor:
            found = observation.gain(self._flat(off))
            return found.reshape(*found.shape[:-1], *event)

        left = observation.remaining.to(normal.loc)
        left = left.reshape(*left.shape[:-1], *event)
        return GivenLinear(normal, y.nan_to_num(), self._forward, gain, self.std, left)

    def observe(self, elements: dist.TorchDistribution, y: Tensor, placeholder: float = 0.0) -> Tensor:
        """As `log_prob`, which takes gaps."""
        return self.log_prob(elements, y)

    def recover(self, elements: dist.TorchDistribution, y: Tensor, placeholder: float = 0.0) -> dist.TorchDistribution:
        """As `restored`, which takes gaps."""
        return self.restored(elements, y)

    def fill_in(self, y: Tensor, event: Shape) -> tuple[Tensor, Tensor]:
        """E[x|y] for x of independent standard normals, and the elements of x that are in what was observed."""
        zeros = y.new_zeros((1, *event))
        standard = dist.Normal(zeros, y.new_ones(()).expand_as(zeros))
        return self.restored(standard, y).mean.expand(len(y), *event), self.spread(~y.isnan(), event)

    def spread(self, seen: Tensor, event: Shape) -> Tensor:
        """The elements that an observed one is a sum of."""
        matrix = self.matrix_for(event).to(seen.device)
        reached = self._flat(seen, matrix).to(matrix) @ (matrix != 0).to(matrix) > 0
        return reached.reshape(*reached.shape[:-1], *self._event(event))

    def _normal(self, elements: dist.TorchDistribution) -> dist.Normal:
        if (normal := as_normal(elements)) is None:
            raise NotExactError(
                f"{type(self).__name__} has no exact p(y|z) for {type(elements).__name__} elements: train the model "
                "with the likelihood Normal; of binary images AveragePool is exact"
            )
        return normal

    def _observation(self, normal: dist.Normal, y: Tensor) -> LinearObservation:
        dims = len(self._event(normal.batch_shape))
        variance = distinct(normal.scale, dims).square().flatten(-dims)
        seen = ~y.isnan()
        seen = None if seen.all() else self._flat(seen)
        matrix = self.matrix_for(tuple(normal.batch_shape)).to(y.device)
        return LinearObservation(matrix, variance, self.std, seen)

    def _event(self, shape: Shape) -> Shape:
        """The last dimensions, on which A acts."""
        dims = _dims_of(shape, self.matrix_for(tuple(shape)).shape[1])
        assert dims is not None
        return tuple(shape[len(shape) - dims :])

    def _forward(self, x: Tensor) -> Tensor:
        """A x, in the shape of y."""
        event = self._event(tuple(x.shape))
        matrix = self.matrix_for(tuple(x.shape)).to(x)
        y = x.flatten(-len(event)) @ matrix.T
        return y.reshape(*y.shape[:-1], *event) if matrix.shape[0] == matrix.shape[1] else y

    def _flat(self, y: Tensor, matrix: Tensor | None = None) -> Tensor:
        """An observation with one dimension for the rows of A."""
        matrix = self.matrix_for(tuple(y.shape)) if matrix is None else matrix
        dims = _dims_of(tuple(y.shape), matrix.shape[1]) if matrix.shape[0] == matrix.shape[1] else 1
        return y.flatten(-(dims or 1))


def _dims_of(shape: Shape, size: int) -> int | None:
    """How many of the last dimensions have this product; None if none."""
    for dims in range(1, len(shape) + 1):
        if prod(shape[-dims:]) == size:
            return dims
    return None


@dataclass(frozen=True, repr=False)
class Linear(LinearChannel):
    r"""Linear combinations of the elements of x were observed, with independent normal noise.

    .. math:: y = A x + s \epsilon, \qquad \epsilon \sim N(0, I)

    Exact for a normal likelihood; others are refused. `LinearChannel` says on which dimensions A acts.

    Args:
        matrix: A `[M, D]`, as rows of numbers, a tensor or an array, or the path of a .npy file; None for the identity.
        std: s, the standard deviation of the noise, above 0.

    Example:
        >>> total = Linear([[1.0, 1.0, 1.0]], std=0.5)
        >>> x = dist.Normal(torch.zeros(1, 3), 0.5)
        >>> total.restored(x, torch.tensor([[4.0]])).mean
        tensor([[1., 1., 1.]])
    """

    matrix: Any = None
    std: float = 0.1
    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"matrix": ((1.0, 1.0, 1.0, 0.0, 0.0, 0.0), (0.0, 0.5, 0.0, -1.0, 0.0, 2.0)), "std": 0.5},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.matrix is not None:
            object.__setattr__(self, "matrix", _rows(self.matrix))

    def __repr__(self) -> str:
        size = "identity" if self.matrix is None else f"{len(self.matrix)} x {len(self.matrix[0])}"
        return f"Linear({size}, std={self.std})"

    @cached_property
    def _tensor(self) -> Tensor:
        with torch.inference_mode(False):  # it is kept, and gradients may need it later
            return torch.tensor(self.matrix, dtype=torch.float64)

    def matrix_for(self, shape: Shape) -> Tensor:
        """The matrix."""
        return torch.eye(shape[-1], dtype=torch.float64) if self.matrix is None else self._tensor


def _rows(matrix: Any) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers: plain values, so that channels can be compared and saved."""
    if isinstance(matrix, str):
        matrix = _read(matrix)
    try:
        found = torch.as_tensor(matrix, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        found = torch.zeros(())
    if found.dim() != 2 or 0 in found.shape or not found.isfinite().all():
        raise UsageError(
            f"matrix: expected rows of finite numbers [M, D], all of one length, or the path of a .npy file of them, "
            f"got {shown(matrix)}"
        )
    return tuple(map(tuple, found.tolist()))


def _read(path: str) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise FileError.of(error, Path(path), "read") from error
    except (ValueError, EOFError) as error:
        raise UsageError(f"matrix: {path} is no .npy file of numbers") from error


@dataclass(frozen=True)
class Blur(LinearChannel):
    r"""An image out of focus: each pixel is a weighted mean of those around it, with normal noise.

    .. math:: y_{ij} = \sum_{kl} w_{ik} w_{jl} x_{kl} + s \epsilon_{ij}, \qquad w_{ik} \propto \exp(-(i - k)^2 / 2 b^2)

    The weights of a pixel add up to one, at the borders too. Exact for a normal likelihood; others are refused. With D
    pixels it takes D^3 operations once, if all data have the same scale, else for each datum and draw of z.

    Args:
        width: b, the standard deviation of the weights, in pixels; above 0.
        std: s, the standard deviation of the noise, above 0.

    Example:
        >>> Blur(width=1.0).draw(torch.zeros(3, 8, 8)).shape
        torch.Size([3, 8, 8])
    """

    width: float = 1.0
    std: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < number("width", self.width) < torch.inf:
            raise UsageError(f"width: expected the width of the blur in pixels, above 0, got {self.width}")

    def matrix_for(self, shape: Shape) -> Tensor:
        """The weights, of rows and of columns together."""
        if len(shape) < 2:
            raise UsageError(f"Blur is for images [..., height, width], got data of shape {list(shape)}")
        rows, columns = (self._weights(size) for size in shape[-2:])
        return torch.kron(rows, columns)

    def _weights(self, size: int) -> Tensor:
        at = torch.arange(size, dtype=torch.float64)
        return (-((at[:, None] - at) / self.width).square() / 2).softmax(-1)  # the square of a tiny width is 0
