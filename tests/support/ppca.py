"""Probabilistic PCA as a VAE: the case whose evidence, posterior and best ELBO are known in closed form."""

from pyro_vae.testing.ppca import linear_process as truth
from pyro_vae.testing.ppca import linear_vae as vae_of
from pyro_vae.testing.ppca import make_exact

__all__ = ["make_exact", "truth", "vae_of"]
