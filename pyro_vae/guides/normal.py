"""Normal guides: mean-field, dense, low rank, and mean-field rotated by reflections."""

from math import log, pi
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.distributions.from_noise import FromNoise, Remembering, log_standard_normal, standardised
from pyro_vae.distributions.log_scales import tame_scale
from pyro_vae.errors import UsageError
from pyro_vae.guides.base import Guide
from pyro_vae.shapes import Shapes


class _IndependentNormal(dist.Independent):
    """Independent normals, also as a function of noise."""

    @property
    def noise_size(self) -> int:
        return self.event_shape[0]

    def from_noise(self, noise: Tensor) -> Tensor:
        return self.base_dist.loc + self.base_dist.scale * noise


class DiagonalNormal(Guide):
    r"""The mean-field normal family.

    .. math:: q(z|x) = N(z; \mu(x), \mathrm{diag}(\exp(s(x)))^2)

    The encoder gives `(mu, s)`, `[2, latent]`, with `s` the log standard deviation. Here as in all guides the
    exponential is continued by its tangent above s = 10 and by a power below -30: for every output of an encoder,
    nothing overflows.

    Args:
        shapes: the sizes of the VAE.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 9.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> guide = DiagonalNormal(Shapes(event=(8, 8), latent=5))
        >>> guide.distribution(torch.zeros(3, *guide.param_shape)).rsample().shape
        torch.Size([3, 5])
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def initial_params(self) -> Tensor:
        """Standard deviations of 1."""
        params = super().initial_params()
        params[1] = 0.0
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal with independent dimensions."""
        loc, log_scale = params.unbind(-2)
        return _IndependentNormal(dist.Normal(loc, tame_scale(log_scale).exp()), 1)


class _DenseNormal(Remembering, dist.MultivariateNormal):
    """A normal whose log q(z) at a draw z = mu + L e is a sum over e, not over the solution of L e = z - mu."""

    @property
    def noise_size(self) -> int:
        return self.event_shape[0]

    def from_noise(self, noise: Tensor) -> Tensor:
        value = self.loc + _product(self._unbroadcasted_scale_tril, noise)
        log_scale = self._unbroadcasted_scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self._remember(value, log_standard_normal(noise) - log_scale)
        return value

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.from_noise(torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device))

    def log_prob(self, value: Tensor) -> Tensor:
        known = self._recall(value)
        return super().log_prob(value) if known is None else known


def _product(matrix: Tensor, vector: Tensor) -> Tensor:
    """`matrix @ vector` for `[*batch, L, R]` and `[*particles, *batch, R]`; no copy of the matrix for each particle."""
    leading = vector.dim() - matrix.dim() + 1
    if leading == 0:
        return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
    particles = vector.shape[:leading]
    return (matrix @ vector.flatten(0, leading - 1).movedim(0, -1)).movedim(-1, 0).unflatten(0, particles)


class FullNormal(Guide):
    r"""The normal family with full covariance, by its Cholesky factor.

    .. math:: q(z|x) = N(z; \mu(x), L(x) L(x)^T), \quad L_{ii} = \exp(s_i), \quad L_{ij} = r_{ij} \; (i > j)

    The encoder gives `mu`, `s` and the `latent (latent - 1) / 2` entries below the diagonal, row by row.

    Args:
        shapes: the sizes of the VAE.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> guide = FullNormal(Shapes(event=(8, 8), latent=5))
        >>> guide.distribution(torch.zeros(3, *guide.param_shape)).rsample().shape
        torch.Size([3, 5])
    """

    below_diagonal: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        size = shapes.latent
        rows, columns = torch.tril_indices(size, size, offset=-1).unbind(0)
        self.register_buffer("below_diagonal", rows * size + columns, persistent=False)
        self.param_shape = (2 * size + len(rows),)

    def initial_params(self) -> Tensor:
        """L = I."""
        params = super().initial_params()
        params[self.shapes.latent :] = 0.0
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal with a dense lower-triangular scale."""
        size = self.shapes.latent
        loc, log_diagonal, below = params.split([size, size, len(self.below_diagonal)], dim=-1)
        diagonal = torch.diag_embed(tame_scale(log_diagonal).exp()).flatten(-2)
        scale = diagonal.scatter(-1, self.below_diagonal.expand(below.shape), below).unflatten(-1, (size, size))
        return _DenseNormal(loc, scale_tril=scale)


class LowRankNormal(Guide):
    r"""The normal family with a diagonal plus low rank covariance: `latent (2 + rank)` numbers, not `latent^2 / 2`.

    .. math:: q(z|x) = N(z; \mu(x), S (I + U U^T) S), \quad S = \mathrm{diag}(\exp(s(x))), \; U(x) \in R^{L \times R}

    A draw is z = mu + S (e_1 + U e_2). The encoder gives `(mu, s, U^T)`, `[2 + rank, latent]`.

    Args:
        shapes: the sizes of the VAE.
        rank: R, columns of U, at least 1. From `latent - 1` on the family is that of `FullNormal`.

    Raises:
        UsageError: if `rank` is below 1.

    References:
        Ong, Nott & Smith 2018, Gaussian variational approximation with a factor covariance structure.

    Example:
        >>> guide = LowRankNormal(Shapes(event=(8, 8), latent=5), rank=2)
        >>> guide.distribution(torch.zeros(3, *guide.param_shape)).rsample().shape
        torch.Size([3, 5])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"rank": 1}, {"rank": 5})

    def __init__(self, shapes: Shapes, rank: int = 2) -> None:
        super().__init__(shapes)
        if rank < 1:
            raise UsageError(f"LowRankNormal needs rank >= 1, got {rank}: DiagonalNormal has rank 0")
        self.param_shape = (2 + rank, shapes.latent)

    def initial_params(self) -> Tensor:
        """S = I, and small columns of U that differ: at zero, or if they were equal, no gradient would part them."""
        params = super().initial_params()
        params[1] = 0.0
        params[2:] = 0.1 * torch.randn(params[2:].shape, generator=torch.Generator().manual_seed(0))
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal with covariance S (I + U U^T) S."""
        loc, log_scale, columns = params[..., 0, :], params[..., 1, :], params[..., 2:, :]
        return _LowRank(loc, tame_scale(log_scale), columns)


class _LowRank(FromNoise):
    r"""N(mu, S (I + U U^T) S), without the differences of large numbers that Woodbury's identity makes.

    For S^-1 (z - mu) = v = e_1 + U e_2 the quadratic form is the least squares v^T (I + U U^T)^{-1} v =
    min_d |e_1 - U d|^2 + |e_2 + d|^2: what is left of (e_1, e_2) outside the columns of (U, -I). Taking the columns out
    one by one (modified Gram-Schmidt, backward stable) gives it as a sum of squares, and their norms on the way give
    log det(I + U U^T) / 2. At a z that it has not drawn, (v, 0) is used as noise.
    """

    def __init__(self, loc: Tensor, log_scale: Tensor, columns: Tensor) -> None:
        super().__init__(loc, loc.shape[-1] + columns.shape[-2])
        self.log_scale, self.columns = log_scale, columns
        self.basis, self.log_norm = _orthonormal(columns)

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        own, common = noise.split([self.loc.shape[-1], self.columns.shape[-2]], -1)
        value = self.loc + self.log_scale.exp() * (own + _product(self.columns.mT, common))
        return value, self._log_density_of(noise)

    def log_density(self, value: Tensor) -> Tensor:
        scaled = standardised(value, self.loc, self.log_scale)
        zeros = scaled.new_zeros(*scaled.shape[:-1], self.columns.shape[-2])
        return self._log_density_of(torch.cat([scaled, zeros], -1))

    def _log_density_of(self, noise: Tensor) -> Tensor:
        for column in self.basis:
            noise = noise - (noise * column).sum(-1, keepdim=True) * column
        constant = self.loc.shape[-1] * log(2 * pi)
        return -(constant + noise.square().sum(-1)) / 2 - self.log_scale.sum(-1) - self.log_norm

    @property
    def mean(self) -> Tensor:
        return self._whole(self.loc)

    @property
    def variance(self) -> Tensor:
        return self._whole((2 * self.log_scale).exp() * (1 + self.columns.square().sum(-2)))

    @property
    def covariance_matrix(self) -> Tensor:
        """`[*batch, L, L]`."""
        scaled = self.columns * self.log_scale.exp().unsqueeze(-2)
        covariance = scaled.mT @ scaled + torch.diag_embed((2 * self.log_scale).exp())
        return covariance.expand(*self.batch_shape, *covariance.shape[-2:])

    def entropy(self) -> Tensor:
        constant = self.loc.shape[-1] * (1 + log(2 * pi)) / 2
        return (constant + self.log_scale.sum(-1) + self.log_norm).expand(self.batch_shape)


def _orthonormal(columns: Tensor) -> tuple[list[Tensor], Tensor]:
    """An orthonormal basis of the columns of (U, -I), each `[*batch, L + R]`, and the sum of the logs of their norms.

    Args:
        columns: U^T, `[*batch, R, L]`.
    """
    rank = columns.shape[-2]
    minus = -torch.eye(rank, dtype=columns.dtype, device=columns.device).expand(*columns.shape[:-1], rank)
    rest, basis = torch.cat([columns, minus], -1), []
    log_norm = torch.zeros_like(columns[..., 0, 0])
    for _ in range(rank):
        norm = rest[..., :1, :].square().sum(-1, keepdim=True).sqrt()  # at least 1, because of the identity below U
        unit = rest[..., :1, :] / norm
        rest = rest[..., 1:, :] - (rest[..., 1:, :] * unit).sum(-1, keepdim=True) * unit
        basis.append(unit.squeeze(-2))
        log_norm = log_norm + norm.log().squeeze(-1).squeeze(-1)
    return basis, log_norm


class Householder(Guide):
    r"""A mean-field normal rotated by reflections about its mean: the Householder flow.

    .. math:: q(z|x) = N(z; \mu(x), H S^2 H^T), \quad H = \prod_r \Big(I - 2 \frac{v_r v_r^T}{v_r^T v_r}\Big)

    Reflections keep volumes, so the condition of the map is that of S = diag(exp(s)). With `latent - 1` of them every
    covariance is reached, so no more are made; in one dimension there are none. The encoder gives `(mu, s, v)`,
    `[2 + reflections, latent]`.

    Args:
        shapes: the sizes of the VAE.
        reflections: how many, at least 1.

    Raises:
        UsageError: if `reflections` is below 1.

    References:
        Tomczak & Welling 2016, Improving variational auto-encoders using Householder flow.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> guide = Householder(Shapes(event=(8, 8), latent=5))
        >>> guide.distribution(torch.zeros(3, *guide.param_shape)).rsample().shape
        torch.Size([3, 5])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"reflections": 1},)

    def __init__(self, shapes: Shapes, reflections: int = 4) -> None:
        super().__init__(shapes)
        if reflections < 1:
            raise UsageError(f"Householder needs reflections >= 1, got {reflections}: DiagonalNormal has none")
        self.param_shape = (2 + min(reflections, shapes.latent - 1), shapes.latent)

    def initial_params(self) -> Tensor:
        """S = I; reflections keep widths."""
        params = super().initial_params()
        params[1] = 0.0
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal with covariance H S^2 H^T."""
        loc, log_scale, *vectors = params.unbind(-2)
        return _Reflected(loc, tame_scale(log_scale), vectors)


class _Reflected(FromNoise):
    """mu + H S e, H the product of the reflections, the first one first in it."""

    def __init__(self, loc: Tensor, log_scale: Tensor, vectors: list[Tensor]) -> None:
        super().__init__(loc, loc.shape[-1])
        self.log_scale, self.units = log_scale, [_unit(v) for v in vectors]

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        value = noise * self.log_scale.exp()
        for unit in reversed(self.units):
            value = _reflect(value, unit)
        return self.loc + value, log_standard_normal(noise) - self.log_scale.sum(-1)

    def log_density(self, value: Tensor) -> Tensor:
        noise = value - self.loc
        for unit in self.units:
            noise = _reflect(noise, unit)
        noise = standardised(noise, torch.zeros_like(self.loc), self.log_scale)
        return log_standard_normal(noise) - self.log_scale.sum(-1)

    @property
    def mean(self) -> Tensor:
        return self._whole(self.loc)

    @property
    def variance(self) -> Tensor:
        return self._whole(self._scale().square().sum(-1))

    @property
    def covariance_matrix(self) -> Tensor:
        """`[*batch, L, L]`."""
        covariance = self._scale() @ self._scale().mT
        return covariance.expand(*self.batch_shape, *covariance.shape[-2:])

    def entropy(self) -> Tensor:
        constant = self.loc.shape[-1] * (1 + log(2 * pi)) / 2
        return (constant + self.log_scale.sum(-1)).expand(self.batch_shape)

    def _scale(self) -> Tensor:
        """H S, `[*batch, L, L]`."""
        rows = torch.diag_embed(self.log_scale.exp())
        for unit in reversed(self.units):
            rows = _reflect(rows, unit.unsqueeze(-2))
        return rows.mT


def _unit(vector: Tensor) -> Tensor:
    """The direction of a vector; that of (1, ..., 1) for zero, which has none."""
    square = vector.square().sum(-1, keepdim=True)
    safe = torch.where(square > 1e-30, vector, torch.ones_like(vector))
    return safe / safe.square().sum(-1, keepdim=True).sqrt()


def _reflect(value: Tensor, unit: Tensor) -> Tensor:
    return value - 2 * (value * unit).sum(-1, keepdim=True) * unit
