"""A mixture of normals as p(z)."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions.mixture import Mixture
from pyro_vae.errors import UsageError
from pyro_vae.priors.base import Encode, Prior
from pyro_vae.shapes import Shapes


class MixtureOfNormals(Prior):
    r"""A mixture of normals with independent coordinates; weights, means and scales are learned.

    .. math:: p(z) = \sum_k w_k \, N(z; m_k, \mathrm{diag}(\exp(s_k))^2)

    It starts with equal weights, scales of 1 and means drawn from N(0, spread^2).

    Args:
        shapes: the sizes of the VAE.
        components: how many, at least 1.
        spread: standard deviation of the means at the start, not negative.

    Raises:
        UsageError: if `components` or `spread` is out of range.

    References:
        Dilokthanakul et al. 2016, Deep unsupervised clustering with Gaussian mixture VAEs. Jiang et al. 2017, VaDE.

    Example:
        >>> prior = MixtureOfNormals(Shapes((8,), 3), components=4)
        >>> prior.responsibilities(torch.zeros(5, 3)).shape
        torch.Size([5, 4])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"components": 3, "spread": 2.0},)

    def __init__(self, shapes: Shapes, components: int = 10, spread: float = 1.0) -> None:
        super().__init__(shapes)
        check_components("MixtureOfNormals", components)
        if not spread >= 0:
            raise UsageError(f"MixtureOfNormals needs spread >= 0, got {spread}")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, shapes.latent))
        self.log_scale = nn.Parameter(torch.zeros(components, shapes.latent))

    def forward(self, encode: Encode | None = None, c: Tensor | None = None) -> Mixture:
        """The mixture, over `(latent,)`."""
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return Mixture(self.logits.log_softmax(-1), normals)

    def component_log_probs(self, z: Tensor) -> Tensor:
        """Log p(k, z), nats: which component, and the code. Over k, logsumexp gives log p(z), softmax p(k|z).

        Args:
            z: codes, `[*leading, latent]`.

        Returns:
            `[*leading, components]`.
        """
        return self().component_log_probs(z)

    def responsibilities(self, z: Tensor) -> Tensor:
        """The probability p(k|z) of each component given a code, `[*leading, components]`; its argmax is a clustering.

        Args:
            z: codes, `[*leading, latent]`.
        """
        return self.component_log_probs(z).softmax(-1)


def check_components(name: str, components: int) -> None:
    """Refuse a mixture without components."""
    if components < 1:
        raise UsageError(f"{name} needs components >= 1, got {components}")
