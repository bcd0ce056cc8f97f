"""p(y|x): how what was observed came from x. A new channel is a frozen dataclass in a file here.

Its files:

    base.py              Channel, the base class
    through.py           through: a pair of programs for x, and a channel, as a pair for y
    jointly.py           Jointly: the same with x as a latent site too, where there is no exact p(y|z)
    missing.py           Missing: elements that were not observed
    bit_flip.py          BitFlip
    gaussian_noise.py    GaussianNoise
    average_pool.py      AveragePool: images of lower resolution
    linear.py            Linear and Blur: linear combinations of elements
    within.py            Within, the base class of the next three: y says in which interval x lies
    threshold.py         Threshold
    quantise.py          Quantise
    censor.py            Censor
"""

from pyro_vae.channels.average_pool import AveragePool
from pyro_vae.channels.base import Channel, NotExactError
from pyro_vae.channels.bit_flip import BitFlip
from pyro_vae.channels.censor import Censor
from pyro_vae.channels.gaussian_noise import GaussianNoise
from pyro_vae.channels.jointly import GivenX, Jointly, log_terms
from pyro_vae.channels.linear import Blur, Linear, LinearChannel
from pyro_vae.channels.missing import Missing
from pyro_vae.channels.quantise import Quantise
from pyro_vae.channels.threshold import Threshold
from pyro_vae.channels.through import Through, ThroughChannel, check_observed, through
from pyro_vae.channels.within import Within
from pyro_vae.discovery import added_to

__all__ = [
    "AveragePool",
    "BitFlip",
    "Blur",
    "Censor",
    "Channel",
    "GaussianNoise",
    "GivenX",
    "Jointly",
    "Linear",
    "LinearChannel",
    "Missing",
    "NotExactError",
    "Quantise",
    "Threshold",
    "Through",
    "ThroughChannel",
    "Within",
    "check_observed",
    "log_terms",
    "through",
]
globals().update(added_to(__name__))
