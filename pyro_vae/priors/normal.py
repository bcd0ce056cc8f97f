"""Unimodal priors p(z): standard, learned or conditional normal, and Laplace."""

from collections.abc import Callable
from math import sqrt
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.remedies import spoken
from pyro_vae.arguments.values import scalar
from pyro_vae.distributions.log_scales import tame_scale
from pyro_vae.errors import UsageError
from pyro_vae.networks import MLP, Network
from pyro_vae.priors.base import Encode, Prior
from pyro_vae.shapes import Shapes


class StandardNormal(Prior):
    r"""The standard normal prior.

    .. math:: p(z) = N(z; 0, I)

    Args:
        shapes: the sizes of the VAE.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> StandardNormal(Shapes((8,), 3))(lambda x: x).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    zero: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.register_buffer("zero", torch.zeros(shapes.latent), persistent=False)

    def forward(self, encode: Encode, c: Tensor | None = None) -> dist.TorchDistribution:
        """N(0, I) over `(latent,)`."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Laplace(Prior):
    r"""Independent Laplace distributions: heavier tails than the normal's, and a sharper peak.

    .. math:: p(z) = \prod_i \frac1{2b} \exp(-|z_i| / b)

    Args:
        shapes: the sizes of the VAE.
        scale: b, a positive number; or `"unit_variance"` for 1 / sqrt(2).

    Raises:
        UsageError: if the scale is neither.

    Example:
        >>> Laplace(Shapes((8,), 3))(lambda x: x).sample((5,)).shape
        torch.Size([5, 3])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"scale": 2.5},)
    zero: Tensor

    def __init__(self, shapes: Shapes, scale: float | Literal["unit_variance"] = "unit_variance") -> None:
        super().__init__(shapes)
        scale = scalar(scale)
        if scale != "unit_variance" and not (isinstance(scale, int | float) and scale > 0):
            raise UsageError(f"Laplace needs scale to be a positive number or 'unit_variance', got {scale!r}")
        self.scale = 1 / sqrt(2) if scale == "unit_variance" else float(scale)
        self.register_buffer("zero", torch.zeros(shapes.latent), persistent=False)

    def forward(self, encode: Encode, c: Tensor | None = None) -> dist.TorchDistribution:
        """Laplace(0, b) over `(latent,)`."""
        return dist.Laplace(self.zero, torch.full_like(self.zero, self.scale)).to_event(1)


class LearnedNormal(Prior):
    r"""A normal with independent coordinates, whose mean and scale are learned; it starts at the standard normal.

    .. math:: p(z) = N(z; m, \mathrm{diag}(\exp(s))^2)

    Args:
        shapes: the sizes of the VAE.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> prior = LearnedNormal(Shapes((8,), 3))
        >>> prior(lambda x: x).log_prob(torch.zeros(3)).detach()  # at the start -3/2 log 2 pi
        tensor(-2.7568)
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.loc = nn.Parameter(torch.zeros(shapes.latent))
        self.log_scale = nn.Parameter(torch.zeros(shapes.latent))

    def forward(self, encode: Encode, c: Tensor | None = None) -> dist.TorchDistribution:
        """N(m, diag(exp(s))^2) over `(latent,)`."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class ConditionalNormal(Prior):
    r"""A normal with independent coordinates that depends on the context c.

    .. math:: p(z|c) = N(z; \mu(c), \mathrm{diag}(\exp(s(c)))^2)

    Above s = 10 the exponential is continued by its tangent, and by a power below -30: it does not overflow.

    Args:
        shapes: the sizes of the VAE, with a context.
        network: what gives `(mu, s)`, called with `(context_shape, (2, latent))`.

    Raises:
        UsageError: if the VAE has no context, or `forward` is given none.

    References:
        Sohn et al. 2015, Learning structured output representation using deep conditional generative models.

    Example:
        >>> prior = ConditionalNormal(Shapes((8,), 3, context=(10,)))
        >>> prior(lambda x: x, torch.zeros(5, 10)).sample().shape
        torch.Size([5, 3])
    """

    def __init__(self, shapes: Shapes, network: Callable[[tuple[int, ...], tuple[int, ...]], Network] = MLP) -> None:
        super().__init__(shapes)
        if shapes.context is None:
            raise UsageError(
                "ConditionalNormal is p(z|c), but the VAE has no context: "
                + spoken("give it the shape of one, context=(10,)", "give it one, --context labels")
                + ", or take LearnedNormal"
            )
        self.network = network(shapes.context, (2, shapes.latent))

    def forward(self, encode: Encode, c: Tensor | None = None) -> dist.TorchDistribution:
        """N(mu(c), diag(exp(s(c)))^2), batch shape that of the context's leading dimensions."""
        if c is None:
            raise UsageError(
                f"ConditionalNormal is p(z|c): pass the context, [*leading, {_sizes(self.shapes.context)}]"
            )
        loc, log_scale = self.network(c).unbind(-2)
        return dist.Normal(loc, tame_scale(log_scale).exp()).to_event(1)


def _sizes(shape: tuple[int, ...] | None) -> str:
    return ", ".join(map(str, shape or ()))
