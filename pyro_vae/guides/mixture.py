"""Mixture guides, with reparameterised draws."""

from math import log, pi, sqrt
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad

from pyro_vae.distributions.from_noise import FromNoise
from pyro_vae.distributions.log_scales import tame_scale
from pyro_vae.errors import UsageError
from pyro_vae.guides.base import Guide
from pyro_vae.shapes import Shapes

_FAR = 1e9
"""Largest distance from a component, in standard deviations: squares must not overflow."""


class MixtureOfNormals(Guide):
    r"""A mixture of mean-field normals: q(z|x) with several modes.

    .. math:: q(z|x) = \sum_k \pi_k(x) N(z; \mu_k(x), \mathrm{diag}(\exp(s_k(x)))^2)

    Draws are differentiable in all parameters, weights included, by implicit reparameterisation: with S the map from z
    to its conditional distribution functions, S(z) is uniform for all parameters, so a draw moves with them by

    .. math:: dz = -(\partial S / \partial z)^{-1} \, \partial S, \qquad
        S_i(z) = \sum_k p(k | z_{<i}) \Phi((z_i - \mu_{ki}) / \sigma_{ki})

    Gradients are exact in expectation, of first order only. The encoder gives `(log pi, mu, s)`, flat: `components
    (1 + 2 latent)` numbers.

    Args:
        shapes: the sizes of the VAE.
        components: how many, at least 1; with one it is `DiagonalNormal`, and the weight has no effect.

    Raises:
        UsageError: if `components` is below 1.

    References:
        Figurnov, Mohamed & Mnih 2018, Implicit reparameterization gradients, section 4. Jaakkola & Jordan 1998,
        Improving the mean field approximation via the use of mixture distributions.

    Example:
        >>> guide = MixtureOfNormals(Shapes(event=(8, 8), latent=2), components=3)
        >>> guide.distribution(torch.zeros(5, *guide.param_shape)).rsample().shape
        torch.Size([5, 2])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"components": 2},)

    def __init__(self, shapes: Shapes, components: int = 4) -> None:
        super().__init__(shapes)
        if components < 1:
            raise UsageError(f"MixtureOfNormals needs components >= 1, got {components}")
        self.components = components
        self.param_shape = (components * (1 + 2 * shapes.latent),)

    def initial_params(self) -> Tensor:
        """Components of standard deviation 1."""
        params = super().initial_params()
        params[-self.components * self.shapes.latent :] = 0.0
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The mixture, over `(latent,)`."""
        logits, flat = params.split([self.components, 2 * self.components * self.shapes.latent], -1)
        loc, log_scale = flat.unflatten(-1, (2, self.components, self.shapes.latent)).unbind(-3)
        return _Mixture(logits, loc, tame_scale(log_scale))


class _Mixture(FromNoise):
    """sum_k pi_k N(mu_k, S_k^2); the first noise chooses the component, the others are its own.

    Args:
        logits: `[*batch, components]`.
        locs: `[*batch, components, size]`.
        log_scales: `[*batch, components, size]`.
    """

    def __init__(self, logits: Tensor, locs: Tensor, log_scales: Tensor) -> None:
        super().__init__(locs[..., 0, :], 1 + locs.shape[-1])
        self.log_weights, self.locs, self.log_scales = log_softmax(logits, -1), locs, log_scales

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            chosen, own = self._choose(noise[..., 0]).unsqueeze(-1), noise[..., 1:]
            loc, scale = (chosen * self.locs).sum(-2), (chosen * self.log_scales).sum(-2).exp()
            value, exact = loc + scale * own, (chosen.bool(), own.unsqueeze(-2))
        if self._differentiated():
            value = value - self._movement(value, exact)
        return value, self._log_density(self._standardised(value, exact))

    def log_density(self, value: Tensor) -> Tensor:
        return self._log_density(self._standardised(value))

    def _choose(self, noise: Tensor) -> Tensor:
        """The component of each draw, one-hot `[*particles, *batch, components]`."""
        bounds = self.log_weights.exp().cumsum(-1)[..., :-1]
        index = (torch.special.ndtr(noise).unsqueeze(-1) > bounds).sum(-1)
        return (index.unsqueeze(-1) == torch.arange(self.locs.shape[-2], device=noise.device)).to(noise.dtype)

    def _differentiated(self) -> bool:
        parameters = (self.log_weights, self.locs, self.log_scales)
        return torch.is_grad_enabled() and any(p.requires_grad for p in parameters)

    def _standardised(self, value: Tensor, exact: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`(z - mu_k) / sigma_k`, `[..., components, size]`; for a draw's own component the noise, without rounding.

        Args:
            value: z.
            exact: of a draw, which component it came from `[..., components, 1]`, and its noise `[..., 1, size]`.
        """
        u = ((value.unsqueeze(-2) - self.locs) * (-self.log_scales).exp()).clamp(-_FAR, _FAR)
        return u if exact is None else u + torch.where(exact[0], exact[1] - u, 0.0).detach()

    def _log_density(self, u: Tensor) -> Tensor:
        return torch.logsumexp(self.log_weights + self._log_densities(u).sum(-1), -1)

    def _log_densities(self, u: Tensor) -> Tensor:
        """Log N(z_i; mu_ki, sigma_ki^2), `[..., components, size]`."""
        return -0.5 * (u.square() + log(2 * pi)) - self.log_scales

    def _movement(self, value: Tensor, exact: tuple[Tensor, Tensor]) -> Tensor:
        r"""(dS/dz)^{-1} (S(z; parameters) - S(z)): zero, with the gradient of what a draw moves by, up to its sign.

        Row i is divided by the conditional density f_i = dS_i/dz_i, which leaves ones on the diagonal, and below it
        dS_i/dz_j = sum_k p(k|z_{<i}) (Phi_ki - S_i) d log N(z_j; k)/dz_j. In the upper half of the conditional the
        complements are taken, whose differences keep their digits.
        """
        u = self._standardised(value, exact)
        log_densities = self._log_densities(u)
        before = self.log_weights.unsqueeze(-1) + pad(log_densities.cumsum(-1)[..., :-1], (1, 0))
        weights = before.softmax(-2)
        sign = torch.where((weights * _normal_cdf(u)).sum(-2, keepdim=True) > 0.5, -1.0, 1.0).detach()
        cdf = _normal_cdf(sign * u)
        total = (weights * cdf).sum(-2, keepdim=True)
        density = (weights * log_densities.exp()).sum(-2, keepdim=True).detach()
        spread = (weights * (cdf - total) * sign / density).detach()
        slope = (-u * (-self.log_scales).exp()).detach()
        below = (spread.mT @ slope).tril(-1)
        moved = (sign / density * (total - total.detach())).mT
        return torch.linalg.solve_triangular(below, moved, upper=False, unitriangular=True).squeeze(-1)

    @property
    def mean(self) -> Tensor:
        return self._whole(self._average(self.locs))

    @property
    def variance(self) -> Tensor:
        spread = (self.locs - self._average(self.locs).unsqueeze(-2)).square()
        return self._whole(self._average(spread + (2 * self.log_scales).exp()))

    def _average(self, terms: Tensor) -> Tensor:
        return (self.log_weights.exp().unsqueeze(-1) * terms).sum(-2)


def _normal_cdf(u: Tensor) -> Tensor:
    return 0.5 * torch.special.erfc(u * (-1 / sqrt(2)))
