"""A process whose evidence is known: what estimates of log p(x) are measured against."""

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.distributions import LowRankMultivariateNormal

from pyro_vae.errors import UsageError
from pyro_vae.process.seeding import generator


@dataclass(frozen=True, eq=False)
class LinearGaussian:
    r"""A linear Gaussian process, whose evidence and posterior are known in closed form (probabilistic PCA).

    z ~ N(0, I), x | z ~ N(W z + b, sigma^2 I), so that x ~ N(b, W W^T + sigma^2 I).

    Args:
        weight: W, `[D, L]`.
        bias: b, `[D]`.
        scale: sigma, above 0.

    References:
        M. Tipping, C. Bishop, "Probabilistic Principal Component Analysis", JRSS B 61(3), 1999.

    Example:
        >>> process = LinearGaussian.random(dim=16, latent=2)
        >>> process.log_prob(process.sample(5, seed=0)).shape
        torch.Size([5])
    """

    weight: Tensor
    bias: Tensor
    scale: float

    def __post_init__(self) -> None:
        if self.weight.dim() != 2 or self.bias.shape != self.weight.shape[:1]:
            shapes = f"weight {tuple(self.weight.shape)} and bias {tuple(self.bias.shape)}"
            raise UsageError(f"expected a weight [D, L] and a bias [D], got {shapes}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UsageError(f"expected a finite scale above 0, got {self.scale}")

    @classmethod
    def random(cls, dim: int = 16, latent: int = 2, scale: float = 0.5, seed: int = 0) -> Self:
        """A process with standard normal weight and bias, drawn by `seed`."""
        stream = generator(seed, "linear_gaussian")
        weight, bias = _normal(dim, latent, generator=stream), _normal(dim, generator=stream)
        return cls(weight.to(torch.get_default_dtype()), bias.to(torch.get_default_dtype()), scale)

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw n data, `[n, D]`, as a function of `seed`."""
        dim, latent = self.weight.shape
        stream = generator(seed, "linear_gaussian sample")
        z, noise = _normal(n, latent, generator=stream), _normal(n, dim, generator=stream)
        return z.to(self.weight) @ self.weight.T + self.bias + self.scale * noise.to(self.weight)

    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log p(x) in nats, per datum.

        Args:
            x: data, `[..., D]`.

        Returns:
            log N(x; b, W W^T + sigma^2 I), `[...]`, float64.
        """
        weight, bias = self.weight.to(x.device, torch.float64), self.bias.to(x.device, torch.float64)
        variance = torch.full_like(bias, self.scale**2)
        return LowRankMultivariateNormal(bias, weight, variance).log_prob(x.double())

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The exact p(z | x), a normal distribution whose covariance is the same for every x.

        Args:
            x: data, `[..., D]`.

        Returns:
            The mean `[..., L]` and the covariance `[L, L]`, float64.
        """
        weight, bias = self.weight.to(x.device, torch.float64), self.bias.to(x.device, torch.float64)
        identity = torch.eye(weight.shape[1], dtype=torch.float64, device=x.device)
        covariance = self.scale**2 * torch.linalg.inv(weight.T @ weight + self.scale**2 * identity)
        return (x.double() - bias) @ weight @ covariance / self.scale**2, covariance


def _normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
