"""Parts composed into two Pyro programs, `model` and `guide`. To add one, write a file here: an `Autoencoder`.

Its files:

    base.py                Autoencoder, and Conditional, with a context c
    vae.py                 VAE: one latent variable z
    hierarchical.py        HierarchicalVAE: z in layers
    semi_supervised.py     SemiSupervisedVAE: a class y in addition to z
    vector_quantized.py    VQVAE: discrete codes k
"""

from pyro_vae.autoencoders.base import Autoencoder, Conditional
from pyro_vae.autoencoders.hierarchical import HierarchicalVAE
from pyro_vae.autoencoders.semi_supervised import SemiSupervisedVAE
from pyro_vae.autoencoders.vae import VAE
from pyro_vae.autoencoders.vector_quantized import VQVAE
from pyro_vae.discovery import added_to

__all__ = ["VAE", "VQVAE", "Autoencoder", "Conditional", "HierarchicalVAE", "SemiSupervisedVAE"]
globals().update(added_to(__name__))
