"""Guides q(z|x), the variational families. To add one, write it in the file of its family, or in a new file here.

Subclass `Guide`: `param_shape` and `distribution`.

    base.py       Guide
    normal.py     DiagonalNormal, FullNormal, LowRankNormal, Householder
    mixture.py    MixtureOfNormals
    flows.py      InverseAutoregressiveFlow, SplineFlow
    point.py      Delta: a single point, which makes an autoencoder
    refined.py    SemiAmortized: parameters refined for each datum
"""

from pyro_vae.discovery import added_to
from pyro_vae.distributions.from_noise import FromNoise
from pyro_vae.guides.base import Guide
from pyro_vae.guides.flows import InverseAutoregressiveFlow, SplineFlow
from pyro_vae.guides.mixture import MixtureOfNormals
from pyro_vae.guides.normal import DiagonalNormal, FullNormal, Householder, LowRankNormal
from pyro_vae.guides.point import Delta
from pyro_vae.guides.refined import SemiAmortized

__all__ = [
    "Delta",
    "DiagonalNormal",
    "FromNoise",
    "FullNormal",
    "Guide",
    "Householder",
    "InverseAutoregressiveFlow",
    "LowRankNormal",
    "MixtureOfNormals",
    "SemiAmortized",
    "SplineFlow",
]
globals().update(added_to(__name__))
