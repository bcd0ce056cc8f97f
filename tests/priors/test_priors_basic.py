"""The standard normal prior, against its formula; what every prior promises is in tests/contract."""

import math

import torch

from pyro_vae.priors import StandardNormal
from pyro_vae.shapes import Shapes


def test_standard_normal_density():
    z = torch.randn(7, 2)
    expected = -0.5 * (z.square().sum(-1) + 2 * math.log(2 * math.pi))
    prior = StandardNormal(Shapes((2, 3), 2))
    torch.testing.assert_close(prior(lambda x: x).log_prob(z), expected)  # pyright: ignore[reportArgumentType]
