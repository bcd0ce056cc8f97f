"""Distributions of functions of standard normal noise."""

from abc import abstractmethod
from copy import copy
from math import log, pi
from typing import Any, Self

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

FAR = 1e15
"""Clamp for inverted noise: it stands for infinity, and its square fits in single precision."""


class Remembering:
    """Mixin of a distribution that keeps log q(z) of its last draw, known from the noise that it came from.

    Finding the noise from z costs a flow many passes, and multiplies the rounding of z by the condition number of the
    map, which an encoder can make arbitrarily large: in single precision the estimated ELBO would then be unbounded,
    and training would exploit that.
    """

    _last: tuple[Tensor, Tensor, bool] | None = None

    def _remember(self, value: Tensor, log_prob: Tensor) -> None:
        self._last = value, log_prob, torch.is_grad_enabled()

    def _recall(self, value: Tensor) -> Tensor | None:
        """Log q(z) if `value` is the last draw itself; None otherwise, or if a gradient is needed and the draw has
        none.
        """
        if self._last is None or value is not self._last[0] or (torch.is_grad_enabled() and not self._last[2]):
            return None
        return self._last[1]


class FromNoise(Remembering, dist.TorchDistribution):
    """The distribution of z = T(e), e ~ N(0, I): draws, densities, shapes, and log q of the last draw.

    A subclass implements `push` and `log_density`, and `mean` and `variance` where they are known. Parameters keep the
    shape they came in and broadcast against noise and values, so that particles cost no copies of them.

    Args:
        loc: a parameter `[*batch, size]`, for the shapes, the type and the device.
        noise_size: dimensions of e.
    """

    arg_constraints = {}  # noqa: RUF012 # pyright: ignore[reportAssignmentType] - as torch has it
    support = constraints.real_vector  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, loc: Tensor, noise_size: int) -> None:
        self.loc, self.noise_size = loc, noise_size
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    @abstractmethod
    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """`(z, log q(z))` of noise `[*particles, *batch, noise_size]`."""

    @abstractmethod
    def log_density(self, value: Tensor) -> Tensor:
        """Log q(z) at any z, `[*particles, *batch, size]`."""

    def from_noise(self, noise: Tensor) -> Tensor:
        """The draw for this noise; `log_prob` of the same tensor object then uses the noise."""
        value, log_prob = self.push(noise)
        self._remember(value, log_prob)
        return value

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw `[*sample_shape, *batch, size]`, differentiable."""
        shape = (*sample_shape, *self.batch_shape, self.noise_size)
        return self.from_noise(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log q(z), nats: from the noise at the last draw, by `log_density` elsewhere."""
        known = self._recall(value)
        if known is not None:
            return known
        if self._validate_args:
            self._validate_sample(value)
        batch = torch.broadcast_shapes(value.shape[:-1], self.loc.shape[:-1])
        found = self.log_density(value.expand(*batch, *self.event_shape))
        return found.expand(torch.broadcast_shapes(batch, self.batch_shape))

    def log_prob_held(self, value: Tensor) -> Tensor:
        """Log q(z) at a draw as if it were a constant: as a function of the parameters alone, whose derivative is the
        score. A family that finds it at its own draws without `log_density` says how.
        """
        return self.log_prob(value.detach())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same with a larger batch shape; parameters are not copied."""
        batch = torch.Size(batch_shape)
        sizes = zip(reversed(self.batch_shape), reversed(batch), strict=False)
        if len(batch) < len(self.batch_shape) or any(old not in (1, new) for old, new in sizes):
            raise ValueError(f"can't expand batch shape {tuple(self.batch_shape)} to {tuple(batch)}")
        new = copy(self)
        new._batch_shape, new._last = batch, None
        return new

    def _whole(self, moment: Tensor) -> Tensor:
        """A moment `[*batch, size]` of the parameters' batch, for all of the batch."""
        return moment.expand(*self.batch_shape, *self.event_shape)


def log_standard_normal(noise: Tensor) -> Tensor:
    """Log N(e; 0, I), summed over the last dimension."""
    return -0.5 * (noise.square().sum(-1) + noise.shape[-1] * log(2 * pi))


def standardised(value: Tensor, loc: Tensor, log_scale: Tensor) -> Tensor:
    """`(z - mu) exp(-s)`, kept where its square does not overflow."""
    return ((value - loc) * (-log_scale).exp()).clamp(-FAR, FAR)


def normal_points(count: int, size: int) -> Tensor:
    """Points that stand for N(0, I): a fixed low-discrepancy set, in pairs e, -e, with unit second moments.

    Averages over them are functions of the integrand alone, with no generator used; those of polynomials of degree 3
    are exact where there are enough points (`count >= 4 size`).

    Args:
        count: how many.
        size: dimensions.

    Returns:
        `[count, size]`, in torch's default type, opposite points side by side.
    """
    if size == 0:
        return torch.zeros(count, 0)
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=0)
    half = torch.special.ndtri(engine.draw((count + 1) // 2, dtype=torch.float64).clamp(1e-9, 1 - 1e-9))
    moments = half.T @ half / len(half)
    if count < 4 * size:
        moments = moments.diagonal().diag()
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(moments), half.T, upper=False).T
    return torch.stack([half, -half], 1).flatten(0, 1)[:count].to(torch.get_default_dtype())
