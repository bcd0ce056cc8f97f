"""Normals of which a network gives the logarithm of the variance, as in AEVB; those of the package have that of the
standard deviation. An optimizer's step on it, and its first value, are half as large in units of the package's.
"""

import pyro.distributions as dist
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.shapes import Shapes


class NormalByVariance(Guide):
    """q(z|x) = N(mu, exp(s)), independent dimensions; the encoder gives mu and s, Kingma & Welling 2013, eq. 9."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The normal."""
        loc, log_variance = params.unbind(-2)
        return dist.Normal(loc, (log_variance / 2).exp()).to_event(1)


class SigmoidNormal(Likelihood):
    """p(x|z) = N(sigmoid(mu), exp(s)); the decoder gives mu and s of each pixel, Kingma & Welling 2013, eq. 12."""

    num_params = 2
    support = constraints.real

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """The normals of the pixels."""
        mean, log_variance = params
        return dist.Normal(mean.sigmoid(), (log_variance / 2).exp())
