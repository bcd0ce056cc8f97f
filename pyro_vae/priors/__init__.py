"""Priors: p(z) and, for discrete codes, p(k). To add one, write a file here with a subclass of `Prior`.

Implement `forward`, which returns a distribution over z; of discrete codes, subclass `CodePrior`.

    base.py       Prior
    normal.py     StandardNormal, LearnedNormal, ConditionalNormal, and Laplace
    mixture.py    MixtureOfNormals
    vamp.py       VampPrior
    flow.py       FlowPrior
    codes.py      CodePrior, UniformCodes, AutoregressiveCodes
"""

from pyro_vae.discovery import added_to
from pyro_vae.priors.base import Encode, Prior
from pyro_vae.priors.codes import AutoregressiveCodes, CodePrior, UniformCodes
from pyro_vae.priors.flow import FlowPrior
from pyro_vae.priors.mixture import MixtureOfNormals
from pyro_vae.priors.normal import ConditionalNormal, Laplace, LearnedNormal, StandardNormal
from pyro_vae.priors.vamp import VampPrior

__all__ = [
    "AutoregressiveCodes",
    "CodePrior",
    "ConditionalNormal",
    "Encode",
    "FlowPrior",
    "Laplace",
    "LearnedNormal",
    "MixtureOfNormals",
    "Prior",
    "StandardNormal",
    "UniformCodes",
    "VampPrior",
]
globals().update(added_to(__name__))
