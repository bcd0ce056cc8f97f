r"""A likelihood of one's own for angles: von Mises, the normal distribution's counterpart on the circle.

.. math:: \log p(x|z) = \sum_d a_d \cos x_d + b_d \sin x_d - \log 2 \pi I_0(\kappa_d), \quad \kappa_d = |(a_d, b_d)|

The decoder gives a and b, not an angle and a concentration: nothing jumps where the angle passes from pi to -pi, and
all values are allowed. With b = 0 it is exp(a cos x): what a spin of the XY model has for its neighbours' sake.
"""

from math import log, pi
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.elements import Elements
from pyro_vae.likelihoods import Likelihood

_TINY = 1e-12
"""Added to the square of the concentration: its root has a gradient at 0."""


class VonMises(Likelihood):
    """Angles in [-pi, pi], radians.

    Args:
        shapes: the sizes of the VAE.

    References:
        Mardia & Jupp 2000, Directional Statistics, section 3.5.4.
    """

    num_params = 2
    support = constraints.interval(-pi, pi)
    remedy = "give angles in radians, brought into [-pi, pi]: (x + pi) % (2 pi) - pi"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Cosine and sine of each angle: `(2, *event)`."""
        return (2, *self.shapes.event)

    def encoder_input(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Cosines and sines, both 0 where an angle was not observed, `[*leading, 2, *event]`."""
        turned = torch.stack([x.cos(), x.sin()], x.dim() - len(self.shapes.event))
        return turned if mask is None else turned * mask.expand_as(x).unsqueeze(x.dim() - len(self.shapes.event))

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """By `params[0]` = a and `params[1]` = b."""
        return _VonMises(*params)

    def averaged(self, elements: Any) -> Tensor:
        """E[cos x] and E[sin x]: averages of angles mean nothing, those of directions do."""
        return torch.stack(elements.direction, -1)

    def best(self, averages: Tensor) -> Tensor:
        """The angle of the mean direction."""
        return torch.atan2(averages[..., 1], averages[..., 0])


class _VonMises(Elements):
    """Density proportional to exp(a cos x + b sin x)."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        self.concentration = (a.square() + b.square() + _TINY).sqrt()
        super().__init__(a.shape, VonMises.support)

    def log_density(self, value: Tensor) -> Tensor:
        """With the exponentially scaled Bessel function: exp(kappa) does not overflow."""
        along = self.a * value.cos() + self.b * value.sin()
        return along - self.concentration - torch.special.i0e(self.concentration).log() - log(2 * pi)

    def draw(self, shape: torch.Size) -> Tensor:
        """By torch's rejection sampler."""
        angle, kappa = torch.atan2(self.b, self.a), self.concentration
        return torch.distributions.VonMises(angle.expand(shape), kappa.expand(shape), validate_args=False).sample()

    @property
    def direction(self) -> tuple[Tensor, Tensor]:
        """E[cos x] and E[sin x]: (a, b) / kappa times I_1(kappa) / I_0(kappa)."""
        ratio = torch.special.i1e(self.concentration) / torch.special.i0e(self.concentration) / self.concentration
        return self.a * ratio, self.b * ratio
