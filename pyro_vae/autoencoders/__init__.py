"""Parts composed into two Pyro programs, `model` and `guide`. To add one, write a file here: an `Autoencoder`.

Its files:

    base.py                Autoencoder, and Conditional, with a context c
    vae.py                 VAE: one latent variable z
    hierarchical.py        HierarchicalVAE: z in layers
    layered.py             its guides: up, down a ladder, down given x
    semi_supervised.py     SemiSupervisedVAE: a class y in addition to z
    vector_quantized.py    VQVAE: discrete codes k
    not_at_random.py       NotAtRandom: any of these, with elements that are missing because of their values
    missingness.py         Missingness, SelfMasking: p(mask|x)
"""

from pyro_vae.autoencoders.base import Autoencoder, Conditional
from pyro_vae.autoencoders.hierarchical import HierarchicalVAE
from pyro_vae.autoencoders.missingness import Missingness, SelfMasking
from pyro_vae.autoencoders.not_at_random import NotAtRandom
from pyro_vae.autoencoders.semi_supervised import SemiSupervisedVAE
from pyro_vae.autoencoders.vae import VAE
from pyro_vae.autoencoders.vector_quantized import VQVAE
from pyro_vae.discovery import added_to

__all__ = [
    "VAE",
    "VQVAE",
    "Autoencoder",
    "Conditional",
    "HierarchicalVAE",
    "Missingness",
    "NotAtRandom",
    "SelfMasking",
    "SemiSupervisedVAE",
]
globals().update(added_to(__name__))
