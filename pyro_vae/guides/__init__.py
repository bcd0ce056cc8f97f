"""Guides q(z|x), the variational families. To add one, subclass `Guide`: `param_shape` and `distribution`.

`base` holds what all share, the others the families by theme: `normal`, `mixture`, `flows` (IAF, splines), `point` (the
autoencoder's limit) and `refined` (semi-amortised).
"""

from pyro_vae.guides.base import FromNoise, Guide
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
