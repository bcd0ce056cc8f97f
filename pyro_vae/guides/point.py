"""The limit of a guide without width: an autoencoder."""

import pyro.distributions as dist
from torch import Tensor

from pyro_vae.guides.base import Guide
from pyro_vae.shapes import Shapes


class _Point(dist.Delta):
    """All probability at one code, also as a function of noise, of which it takes none."""

    noise_size = 0

    def from_noise(self, noise: Tensor) -> Tensor:
        return self.v.expand(*noise.shape[:-1], *self.event_shape)


class Delta(Guide):
    r"""The limit of a guide without width: a deterministic autoencoder.

    .. math:: q(z|x) = \delta(z - \mu(x))

    log q(z|x) counts as 0, so an objective maximises log p(x, mu(x)): reconstruction, with the prior as a penalty on
    codes. That is no bound on log p(x), and importance sampling makes no sense with it: `log_marginal` refuses. The
    encoder gives `mu`, `[latent]`.

    Args:
        shapes: the sizes of the VAE.

    References:
        Ghosh et al. 2020, From variational to deterministic autoencoders.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.param_shape = (shapes.latent,)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """All probability at `params`."""
        return _Point(params, event_dim=1)
