"""Guides whose parameters are refined for each datum, starting from the encoder's."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.distributions.from_noise import normal_points
from pyro_vae.errors import UsageError
from pyro_vae.guides.base import Guide, LogJoint
from pyro_vae.guides.mixture import MixtureOfNormals
from pyro_vae.guides.normal import DiagonalNormal
from pyro_vae.shapes import Shapes

_FADE = 0.99
"""Decay of the moving average of squared gradients."""


class SemiAmortized(Guide):
    r"""A guide whose parameters are improved by a few steps of ascent on each datum's ELBO, from the encoder's output.

    .. math:: \lambda_0 = \mathrm{encoder}(x), \qquad
        \lambda_{t+1} = \lambda_t + \eta_t \, g_t / \sqrt{\overline{g^2}}, \quad
        g_t = \nabla_\lambda \hat{\mathcal L}_t(x; \lambda_t), \qquad q(z|x) = q(z; \lambda_T)

    This reduces the amortisation gap: what an encoder loses by sharing its weights among all data. A step is
    the gradient over its root mean square, times a rate that goes down to zero linearly from `lr`. The noise of the
    ELBO estimates is a fixed low-discrepancy set, another part of it in each step and the same for all data: q(z|x)
    stays a function of x, draws nothing, and does not depend on the rest of the batch.

    In training the decoder and the prior are trained at the refined parameters. The encoder is trained by the gradient
    there, as if the refinement were the identity ("straight through"): first order, no derivative of the steps. A run
    of the guide costs `steps num_particles` runs of the decoder and its gradient more. Priors made of q(z|x) take the
    encoder's, not refined.

    Args:
        shapes: the sizes of the VAE.
        guide: the family that is refined; its distributions are functions of noise, as all of `pyro_vae.guides` are.
        steps: refinements, at least 1.
        lr: size of the first step, above 0, in the units of the parameters.
        num_particles: draws of z in an estimate of the ELBO, at least 1; even numbers make pairs e, -e.

    Raises:
        UsageError: if an option is out of range, or the family is no function of noise.

    References:
        Kim et al. 2018, Semi-amortized variational autoencoders. Cremer, Li & Duvenaud 2018, Inference suboptimality in
        variational autoencoders.

    Example:
        >>> from functools import partial
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2, guide=partial(SemiAmortized, steps=3))
        >>> x = torch.ones(5, 4)
        >>> bool((vae.encode(x).mean == vae.encode(x[:5]).mean).all())
        True
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"guide": MixtureOfNormals, "steps": 2, "num_particles": 1},)
    noise: Tensor

    def __init__(
        self,
        shapes: Shapes,
        guide: Callable[[Shapes], Guide] = DiagonalNormal,
        steps: int = 10,
        lr: float = 0.1,
        num_particles: int = 2,
    ) -> None:
        super().__init__(shapes)
        if steps < 1 or num_particles < 1 or not lr > 0:
            raise UsageError(
                f"SemiAmortized needs steps >= 1, num_particles >= 1 and lr > 0, got {steps}, {num_particles} and {lr}"
            )
        self.inner, self.lr = guide(shapes), lr
        self.param_shape = self.inner.param_shape
        size = _noise_size(self.inner)
        points = normal_points(steps * num_particles, size)
        self.register_buffer("noise", points.reshape(steps, num_particles, size), persistent=False)

    def initial_params(self) -> Tensor:
        """Those of the family refined."""
        return self.inner.initial_params()

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """That of the family refined."""
        return self.inner.distribution(params)

    def refine(self, params: Tensor, log_joint: LogJoint) -> Tensor:
        """The parameters after the steps; gradients go straight through to `params`."""
        params = self.inner.refine(params, log_joint)
        refined = params.detach()
        squares = torch.zeros_like(refined)
        for step, noise in enumerate(self.noise):
            gradient = self._gradient(refined, noise, log_joint)
            squares = _FADE * squares + (1 - _FADE) * gradient.square()
            usual = (squares / (1 - _FADE ** (step + 1))).sqrt() + 1e-8
            refined = refined + self.lr * (1 - step / len(self.noise)) * gradient / usual
        return params + (refined - params).detach()

    def _gradient(self, params: Tensor, noise: Tensor, log_joint: LogJoint) -> Tensor:
        """The gradient of each datum's ELBO, also if gradients are off."""
        leading = params.shape[: params.dim() - len(self.param_shape)]
        noise = noise.reshape(len(noise), *[1] * len(leading), noise.shape[-1]).expand(-1, *leading, -1)
        with torch.enable_grad():
            params = params.detach().requires_grad_()
            q = self.inner.distribution(params)
            z = q.from_noise(noise)  # pyright: ignore[reportAttributeAccessIssue]
            elbo = (log_joint(z) - q.log_prob(z)).mean(0).sum()
            return torch.autograd.grad(elbo, params)[0]


def _noise_size(guide: Guide) -> int:
    q = guide.distribution(torch.zeros(guide.param_shape))
    if not hasattr(q, "from_noise"):
        raise UsageError(
            f"SemiAmortized refines families that are functions of noise, and {type(guide).__name__} gives a "
            f"{type(q).__name__}: let it return a pyro_vae.guides.FromNoise, or take another family"
        )
    return q.noise_size  # pyright: ignore[reportAttributeAccessIssue]
