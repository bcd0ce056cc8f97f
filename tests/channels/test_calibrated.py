"""Simulation-based calibration of a pair through a channel: flat with the exact guide, not with a spoiled one."""

from dataclasses import dataclass
from math import log, pi

import pyro.distributions as dist
import torch

from pyro_vae.channels import Channel, through
from pyro_vae.data import LinearGaussian
from pyro_vae.diagnostics.calibration import simulation_based_calibration
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

PROCESS = linear_process(dim=4, latent=2)
STD = 0.9
X = torch.zeros(500, 4, dtype=torch.float64)


@dataclass(frozen=True)
class Noise(Channel):
    """Normal noise, exact for normal elements: variances add."""

    std: float = STD

    def draw(self, x):
        return x + self.std * torch.randn_like(x)

    def log_density(self, y, x):
        return -((y - x) / self.std).square() / 2 - log(self.std) - log(2 * pi) / 2

    def log_prob(self, elements, y):
        return dist.Normal(elements.loc, (elements.scale.square() + self.std**2).sqrt()).log_prob(y)


def pair_with(scale):
    """Probabilistic PCA through the noise, with the guide that is exact for noise of this standard deviation."""
    of_y = LinearGaussian(PROCESS.weight, PROCESS.bias, scale)
    return through(make_exact(linear_vae(PROCESS), of_y), Noise())


def calibration(pair):
    """alpha = 1e-3 for all quantities together: so often would a calibrated guide fail by chance."""
    return simulation_based_calibration(pair.model, pair.guide, X, num_draws=99, alpha=1e-3, seed=0)


def test_the_exact_guide_is_calibrated():
    found = calibration(pair_with((PROCESS.scale**2 + STD**2) ** 0.5))
    assert found.calibrated, found
    assert "log p(y|z)" in found.names or "log p(x|z)" in found.names


def test_a_guide_that_ignores_the_channel_is_not():
    """It takes y for x, and is too narrow."""
    found = calibration(pair_with(PROCESS.scale))
    assert not found.calibrated and "too narrow" in found.verdicts.values()
