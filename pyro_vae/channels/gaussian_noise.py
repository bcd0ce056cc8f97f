"""Normal noise on each element."""

from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.arguments.values import number
from pyro_vae.channels.base import Channel, NotExactError
from pyro_vae.distributions.elements import has_finite_values
from pyro_vae.distributions.exponentials import exponential_pieces, log_with_noise
from pyro_vae.distributions.normals import as_normal
from pyro_vae.distributions.quadrature import Tilted, has_density
from pyro_vae.errors import UsageError


@dataclass(frozen=True)
class GaussianNoise(Channel):
    r"""Each element of x was observed with independent normal noise.

    .. math:: y_d = x_d + \epsilon_d, \qquad \epsilon_d \sim N(0, s^2)

    p(y|z) is exact for a normal likelihood, whose variance grows by s^2, for elements of finitely many values (binary,
    grey levels), a mixture, and for Laplace and continuous Bernoulli, by a formula. For other densities (Student's t,
    your own) it is an integral for each element, with an error below `distributions.quadrature.TOLERANCE`, 1e-5 nats,
    and 174 times as many densities to compute; `Tilted` says where that was measured. x given y and z is drawn by the
    same integral for all but the first two. Counts have no exact p(y|z): `restore` draws x together with z.

    Args:
        std: s, the standard deviation of the noise, in the units of x; above 0.

    Example:
        >>> noise = GaussianNoise(3.0)
        >>> noise.log_prob(dist.Normal(torch.zeros(2), 4.0), torch.zeros(2)).exp()
        tensor([0.0798, 0.0798])
    """

    std: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < number("std", self.std) < torch.inf:
            raise UsageError(f"std: expected the standard deviation of the noise, above 0, got {self.std}")

    def draw(self, x: Tensor) -> Tensor:
        """X with noise."""
        return x + self.std * torch.randn_like(x)

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """Log N(y; x, s^2)."""
        return dist.Normal(x, self.std, validate_args=False).log_prob(y)

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """By the formula, the mixture or the integral of these elements."""
        if (normal := as_normal(elements)) is not None:
            return dist.Normal(normal.loc, normal.scale.square().add(self.std**2).sqrt()).log_prob(y)
        if (pieces := exponential_pieces(elements)) is not None:
            return log_with_noise(pieces, y, self.std)
        return super().log_prob(elements, y) if self._is_finite(elements) else self._tilted(elements, y).log_normalizer

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """The normal, the values with their probabilities, or the density of the integral."""
        if (normal := as_normal(elements)) is not None:
            gain = normal.variance / (normal.variance + self.std**2)
            return dist.Normal(normal.loc + gain * (y - normal.loc), gain.sqrt() * self.std)
        return super().restored(elements, y) if self._is_finite(elements) else self._tilted(elements, y)

    def _is_finite(self, elements: dist.TorchDistribution) -> bool:
        if has_finite_values(elements):
            return True
        if has_density(elements):
            return False
        raise NotExactError(
            f"GaussianNoise has no p(y|z) for {type(elements).__name__} elements: it takes densities on an interval "
            "and finitely many values, not counts or columns of several kinds"
        )

    def _tilted(self, elements: dist.TorchDistribution, y: Tensor) -> Tilted:
        return Tilted(elements, lambda x: self.log_density(y, x), y, torch.full_like(y, self.std))
