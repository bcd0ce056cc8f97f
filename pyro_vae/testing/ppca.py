"""A VAE whose evidence and posterior have a closed form: probabilistic PCA."""

from functools import partial
from typing import Any

import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import LinearGaussian
from pyro_vae.guides import FullNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP


def linear_process(dim: int = 6, latent: int = 3, scale: float = 0.7, seed: int = 0) -> LinearGaussian:
    """A linear Gaussian process in double precision."""
    process = LinearGaussian.random(dim, latent, scale, seed)
    return LinearGaussian(process.weight.double(), process.bias.double(), scale)


def linear_vae(
    process: LinearGaussian,
    guide: type = FullNormal,
    hidden: tuple[int, ...] = (),
    event: tuple[int, ...] | None = None,
) -> VAE:
    """A VAE in double precision whose model is the process; its encoder is untrained.

    Args:
        process: the process.
        guide: class of the guide.
        hidden: widths of the encoder's hidden layers.
        event: shape of one datum; None for a vector.
    """
    dim, latent = process.weight.shape
    likelihood, affine = partial(Normal, scale=process.scale), partial(MLP, hidden=())
    shape = (dim,) if event is None else event
    vae = VAE(shape, latent, likelihood=likelihood, guide=guide, encoder=partial(MLP, hidden=hidden), decoder=affine)
    vae.double()
    decoder: Any = vae.decoder
    with torch.no_grad():
        decoder.output.weight.copy_(process.weight)
        decoder.output.bias.copy_(process.bias)
    return vae


def make_exact(vae: VAE, process: LinearGaussian) -> VAE:
    """Set the affine encoder of a `FullNormal` guide to the exact posterior, so that every log-weight is log p(x)."""
    latent = process.weight.shape[1]
    mean_at_zero, covariance = process.posterior(torch.zeros(process.weight.shape[0], dtype=torch.float64))
    scale = torch.linalg.cholesky(covariance)
    rows, columns = torch.tril_indices(latent, latent, offset=-1)
    encoder: Any = vae.encoder
    with torch.no_grad():
        encoder.output.weight.zero_()
        encoder.output.weight[:latent] = covariance @ process.weight.T / process.scale**2
        encoder.output.bias.copy_(torch.cat([mean_at_zero, scale.diagonal().log(), scale[rows, columns]]))
    return vae
