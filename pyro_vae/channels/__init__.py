"""p(y|x): how what was observed came from x. A new channel is a frozen dataclass in a file here.

Its files:

    base.py              Channel, the base class
    through.py           through: a pair of programs for x, and a channel, as a pair for y
    missing.py           Missing: elements that were not observed
    bit_flip.py          BitFlip
    gaussian_noise.py    GaussianNoise
"""

from pyro_vae.channels.base import Channel, NotExactError
from pyro_vae.channels.bit_flip import BitFlip
from pyro_vae.channels.gaussian_noise import GaussianNoise
from pyro_vae.channels.missing import Missing
from pyro_vae.channels.through import Through, ThroughChannel, check_observed, through
from pyro_vae.discovery import added_to

__all__ = [
    "BitFlip",
    "Channel",
    "GaussianNoise",
    "Missing",
    "NotExactError",
    "Through",
    "ThroughChannel",
    "check_observed",
    "through",
]
globals().update(added_to(__name__))
