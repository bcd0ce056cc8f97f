"""Probabilistic PCA as a VAE: the case whose evidence, posterior and best ELBO are known in closed form."""

from functools import partial

import torch

from pyro_vae.data import LinearGaussian
from pyro_vae.guides import FullNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.vae import VAE


def truth(dim=6, latent=3, scale=0.7, seed=0):
    """A linear Gaussian process in double precision."""
    process = LinearGaussian.random(dim, latent, scale, seed)
    return LinearGaussian(process.weight.double(), process.bias.double(), scale)


def vae_of(process, guide=FullNormal, hidden=()):
    """A VAE whose model is the process; its encoder is as it starts."""
    dim, latent = process.weight.shape
    likelihood, affine = partial(Normal, scale=process.scale), partial(MLP, hidden=())
    vae = VAE((dim,), latent, likelihood=likelihood, guide=guide, encoder=partial(MLP, hidden=hidden), decoder=affine)
    vae.double()
    with torch.no_grad():
        vae.decoder.output.weight.copy_(process.weight)
        vae.decoder.output.bias.copy_(process.bias)
    return vae


def make_exact(vae, process):
    """Give the affine encoder of a `FullNormal` guide the exact posterior."""
    latent = process.weight.shape[1]
    mean_at_zero, covariance = process.posterior(torch.zeros(process.weight.shape[0], dtype=torch.float64))
    scale = torch.linalg.cholesky(covariance)
    rows, columns = torch.tril_indices(latent, latent, offset=-1)
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        vae.encoder.output.weight[:latent] = covariance @ process.weight.T / process.scale**2
        vae.encoder.output.bias.copy_(torch.cat([mean_at_zero, scale.diagonal().log(), scale[rows, columns]]))
    return vae
