"""Probabilistic PCA with a guide that is off by a known amount."""

import math

import torch

from pyro_vae.autoencoders import VAE
from tests.support.ppca import make_exact, truth, vae_of


def off_by(shift: float = 0.0, width: float = 1.0, latent: int = 2) -> tuple[VAE, object]:
    """A VAE whose model is the process, and whose guide is the exact posterior moved and scaled; and the process.

    Args:
        shift: how far the mean is moved in each dimension, in standard deviations of the posterior.
        width: factor of the standard deviations.
        latent: dimensions of z.
    """
    process = truth(dim=4, latent=latent)
    vae = make_exact(vae_of(process), process)
    _, covariance = process.posterior(torch.zeros(4).double())
    with torch.no_grad():
        bias = vae.encoder.output.bias
        bias[:latent] += shift * covariance.diagonal().sqrt()
        bias[latent : 2 * latent] += math.log(width)
        bias[2 * latent :] *= width
    return vae, process
