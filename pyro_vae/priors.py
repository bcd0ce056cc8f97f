"""Priors p(z). To add one, subclass `Prior` and implement `forward`."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.shapes import Shapes

Encode = Callable[[Tensor], dist.TorchDistribution]


class Prior(nn.Module, ABC):
    """A distribution p(z) over codes, as a module.

    A subclass takes `(shapes, **its own options)` and implements `forward`. Its parameters are trained with the rest.

    Args:
        shapes: the sizes of the VAE.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """The prior, with event shape `(latent,)` and batch shape `()`, or that of the context where it depends on it.

        Args:
            encode: the VAE's own map x -> q(z|x); only priors built from the aggregate posterior use it.
            context: c, `[*leading, *context]`; only priors p(z|c) use it.
        """


class StandardNormal(Prior):
    r"""The standard normal prior.

    .. math:: p(z) = N(z; 0, I)

    Args:
        shapes: the sizes of the VAE.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes.
    """

    zero: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.register_buffer("zero", torch.zeros(shapes.latent), persistent=False)

    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """N(0, I) over `(latent,)`."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)
