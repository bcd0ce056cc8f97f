"""Independent normal elements, also where their units were changed, and what linear observations say of them."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.elements import Elements, Rescaled
from pyro_vae.distributions.linear_observations import distinct


def as_normal(elements: Any) -> dist.Normal | None:
    """The same elements as a `Normal`, if they are normal; None otherwise."""
    if isinstance(elements, dist.Normal):
        return elements
    if isinstance(elements, Rescaled) and (inner := as_normal(elements.elements)) is not None:
        scale = elements.factor * distinct(inner.scale, elements.factor.dim())
        return dist.Normal(elements.shift + elements.factor * inner.loc, scale)
    return None


class GivenLinear(Elements):
    r"""Normal elements x given a linear observation y = A x + e; those that are observed together are dependent.

    .. math:: E[x|y] = m + G (y - A m), \qquad G = S A^T (A S A^T + s^2 I)^{-1}

    Draws are those of p(x), corrected by what their own observation lacks: x + G (y - A x - e) (Matheron's rule).

    Args:
        normal: p(x), independent elements, variances S.
        y: the observation.
        forward: A, from the shape of x to that of y.
        gain: G, from the shape of y to that of x.
        std: s, of the noise e; with 0 the draws have A x = y, to rounding.
        variance: of each element given y, of the shape of x.

    References:
        Journel & Huijbregts 1978, Mining geostatistics. Doucet 2010, A note on efficient conditional simulation.
    """

    def __init__(
        self,
        normal: dist.Normal,
        y: Tensor,
        forward: Callable[[Tensor], Tensor],
        gain: Callable[[Tensor], Tensor],
        std: float,
        variance: Tensor,
    ) -> None:
        self.normal, self.y, self.forward, self.gain, self.std = normal, y, forward, gain, std
        self._variance = variance
        super().__init__(torch.broadcast_shapes(normal.batch_shape, gain(y).shape), constraints.real)

    def draw(self, shape: torch.Size) -> Tensor:
        """By Matheron's rule."""
        x = self.normal.expand(shape).sample()
        seen = self.forward(x)
        return x + self.gain(self.y - seen - self.std * torch.randn_like(seen))

    @property
    def mean(self) -> Tensor:
        """E[x|y]."""
        return (self.normal.loc + self.gain(self.y - self.forward(self.normal.loc))).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Of each element."""
        return self._variance.clamp(min=0).expand(self.batch_shape)
