"""A normalising flow as p(z)."""

from typing import Any, ClassVar, Literal

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_vae.distributions.zuko_flows import FlowDistribution, shrink, zuko
from pyro_vae.errors import UsageError
from pyro_vae.priors.base import Encode, Prior
from pyro_vae.shapes import Shapes


class FlowPrior(Prior):
    r"""A normalizing flow, by zuko: an autoregressive map f to the standard normal, near which it starts.

    .. math:: \log p(z) = \log N(f(z); 0, I) + \log |\det \partial f / \partial z|

    The density, which training and evidence need, takes one pass through the networks; a draw takes one pass for each
    latent dimension. A spline is the identity outside [-5, 5]. With a single latent dimension there is no
    network, only the map's own parameters.

    Args:
        shapes: the sizes of the VAE.
        flow: `"MAF"` for affine maps, `"NSF"` for monotonic rational-quadratic splines, of each coordinate given those
            before it; the order is reversed from one map to the next.
        transforms: how many maps, at least 1.
        hidden: widths of the hidden layers of each map's network.

    Raises:
        UsageError: if an option is out of range.

    References:
        Papamakarios et al. 2017, Masked autoregressive flow for density estimation. Durkan et al. 2019, Neural spline
        flows. Chen et al. 2017, Variational lossy autoencoder.

    Example:
        >>> prior = FlowPrior(Shapes((8,), 3), flow="NSF", transforms=2)
        >>> prior(lambda x: x).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"transforms": 1, "hidden": ()}, {"hidden": (5,)})

    def __init__(
        self,
        shapes: Shapes,
        flow: Literal["MAF", "NSF"] = "MAF",
        transforms: int = 3,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__(shapes)
        if flow not in ("MAF", "NSF"):
            raise UsageError(f"FlowPrior needs flow to be 'MAF' or 'NSF', got {flow!r}")
        if transforms < 1 or any(width < 1 for width in hidden):
            raise UsageError(
                f"FlowPrior needs transforms >= 1 and positive widths, got {transforms} and hidden={tuple(hidden)}"
            )
        self.options = f"flow={flow!r}, transforms={transforms}, hidden={tuple(hidden)}"
        make = getattr(zuko().flows, flow)
        self.flow: Any = make(shapes.latent, transforms=transforms, hidden_features=tuple(hidden), activation=nn.SiLU)
        shrink(self.flow)

    def forward(self, encode: Encode, c: Tensor | None = None) -> dist.TorchDistribution:
        """The flow's distribution, over `(latent,)`."""
        return FlowDistribution(self.flow())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options})"  # zuko's own repr draws random numbers
