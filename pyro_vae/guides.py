"""Guides q(z|x), the variational families. To add one, subclass `Guide`: `param_shape` and `distribution`."""

from abc import ABC, abstractmethod
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.shapes import Shapes


class Guide(nn.Module, ABC):
    """A family of distributions over codes whose parameters the encoder gives.

    A subclass takes `(shapes, **its own options)`, sets `param_shape` (what the encoder must return for one datum) and
    implements `distribution`. Draws must be reparameterised.

    Args:
        shapes: the sizes of the VAE.
    """

    param_shape: tuple[int, ...]

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """Map `[*leading, *param_shape]` to q(z|x) with batch shape `[*leading]` and event shape `(latent,)`."""


class DiagonalNormal(Guide):
    r"""The mean-field normal family.

    .. math:: q(z|x) = N(z; \mu(x), \mathrm{diag}(\exp(s(x)))^2)

    The encoder gives `(mu, s)`, `[2, latent]`, with `s` the log standard deviation.

    Args:
        shapes: the sizes of the VAE.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 9.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal with independent dimensions."""
        loc, log_scale = params.unbind(-2)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class _DenseNormal(dist.MultivariateNormal):
    """A normal that knows the noise of its last draw.

    log q(z) at a draw z = mu + L eps is a sum over eps. Solving L eps = z - mu for it instead multiplies the rounding
    of z by the condition of L, which an encoder makes as large as it likes: in single precision the ELBO then has no
    bound, and training finds that out.
    """

    _drawn: tuple[Tensor, Tensor] | None = None

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        noise = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        value = self.loc + _product(self._unbroadcasted_scale_tril, noise)
        self._drawn = value, noise
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        if self._drawn is None or value is not self._drawn[0]:
            return super().log_prob(value)
        log_scale = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return torch.distributions.Normal(0.0, 1.0).log_prob(self._drawn[1]).sum(-1) - log_scale


def _product(scale: Tensor, noise: Tensor) -> Tensor:
    """`scale @ noise` for `[*batch, L, L]` and `[*particles, *batch, L]`; `scale` is not copied for each particle."""
    leading = noise.dim() - scale.dim() + 1
    if leading == 0:
        return (scale @ noise.unsqueeze(-1)).squeeze(-1)
    particles = noise.shape[:leading]
    return (scale @ noise.flatten(0, leading - 1).movedim(0, -1)).movedim(-1, 0).unflatten(0, particles)


class FullNormal(Guide):
    r"""The normal family with full covariance, by its Cholesky factor.

    .. math:: q(z|x) = N(z; \mu(x), L(x) L(x)^T), \quad L_{ii} = \exp(s_i), \quad L_{ij} = r_{ij} \; (i > j)

    The encoder gives `mu`, `s` and the `latent (latent - 1) / 2` entries below the diagonal, row by row.

    Args:
        shapes: the sizes of the VAE.
    """

    below_diagonal: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        size = shapes.latent
        rows, columns = torch.tril_indices(size, size, offset=-1).unbind(0)
        self.register_buffer("below_diagonal", rows * size + columns, persistent=False)
        self.param_shape = (2 * size + len(rows),)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal with a dense lower-triangular scale."""
        size = self.shapes.latent
        loc, log_diagonal, below = params.split([size, size, len(self.below_diagonal)], dim=-1)
        scale = torch.diag_embed(log_diagonal.exp())
        diagonal = torch.diag_embed(log_diagonal.exp()).flatten(-2)
        scale = diagonal.scatter(-1, self.below_diagonal.expand(below.shape), below).unflatten(-1, (size, size))
        return _DenseNormal(loc, scale_tril=scale)
