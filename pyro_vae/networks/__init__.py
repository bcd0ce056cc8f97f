"""Torch modules from one shape to another. To add one, write a file here with a subclass of `Network`.

Any leading dimensions pass through unchanged. Any other torch module with a constructor `(in_shape, out_shape)`
can be used as well.

    base.py             Network, the base class
    dense.py            MLP, GatedMLP: flat inputs
    convolutional.py    ConvNet, ResNet: images, down or up
    grid.py             GridNet: images to grids of codes, or back
    bayesian.py         Bayesian: a posterior over a network's weights
    building.py         any torch module as a network; networks of an input and a context
    layers.py           layers, norms and nonlinearities
    codebook.py         vector quantisation
    precision.py        bfloat16
"""

from pyro_vae.discovery import added_to
from pyro_vae.networks.base import FromShapes, Network
from pyro_vae.networks.bayesian import Bayesian, weight_divergence
from pyro_vae.networks.building import Conditioned, build, conditioned, joining, network_factory
from pyro_vae.networks.convolutional import ConvNet, ResNet
from pyro_vae.networks.dense import MLP, GatedMLP
from pyro_vae.networks.grid import GridNet
from pyro_vae.networks.layers import start_constant
from pyro_vae.networks.precision import computing_in

__all__ = [
    "MLP",
    "Bayesian",
    "Conditioned",
    "ConvNet",
    "FromShapes",
    "GatedMLP",
    "GridNet",
    "Network",
    "ResNet",
    "build",
    "computing_in",
    "conditioned",
    "joining",
    "network_factory",
    "start_constant",
    "weight_divergence",
]
globals().update(added_to(__name__))
