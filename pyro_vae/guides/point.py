"""A guide that is a single point: an autoencoder."""

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.guides.base import Guide
from pyro_vae.shapes import Shapes


class _Point(dist.Delta):
    """All probability at one code; as a function of noise it has noise of dimension 0."""

    noise_size = 0

    def from_noise(self, noise: Tensor) -> Tensor:
        return self.v.expand(*noise.shape[:-1], *self.event_shape)


class Delta(Guide):
    r"""All probability at one code: a deterministic autoencoder, the limit of a guide of zero width.

    .. math:: q(z|x) = \delta(z - \mu(x))

    log q(z|x) counts as 0, so an objective maximises log p(x, mu(x)): reconstruction, with the prior as a penalty on
    codes. That is no bound on log p(x), and importance sampling makes no sense with it: `log_marginal` refuses. The
    encoder gives `mu`, `[latent]`.

    Args:
        shapes: the sizes of the VAE.

    References:
        Ghosh et al. 2020, From variational to deterministic autoencoders.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> guide = Delta(Shapes(event=(8, 8), latent=2))
        >>> guide.distribution(torch.ones(3, *guide.param_shape)).rsample().shape
        torch.Size([3, 2])
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.param_shape = (shapes.latent,)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """All probability at `params`."""
        return _Point(params, event_dim=1)
