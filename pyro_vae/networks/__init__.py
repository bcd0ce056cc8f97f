"""Encoder and decoder networks. To add one, subclass `Network`; any leading dimensions pass through unchanged.

Any other torch module built from an input's and an output's shape serves as well.

    base.py             Network, what it is built from, and the type it computes in
    dense.py            MLP, GatedMLP: flat inputs
    convolutional.py    ConvNet, ResNet: images, down or up
    building.py         any torch module as a network; networks of an input and a context
"""

from pyro_vae.layers import start_constant
from pyro_vae.networks.base import FromShapes, Network, computing_in
from pyro_vae.networks.building import Conditioned, build, conditioned, joining, network_factory
from pyro_vae.networks.convolutional import ConvNet, ResNet
from pyro_vae.networks.dense import MLP, GatedMLP

__all__ = [
    "MLP",
    "Conditioned",
    "ConvNet",
    "FromShapes",
    "GatedMLP",
    "Network",
    "ResNet",
    "build",
    "computing_in",
    "conditioned",
    "joining",
    "network_factory",
    "start_constant",
]
