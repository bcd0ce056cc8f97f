"""The true posterior on a grid, and the numbers of weighed draws, against closed forms."""

from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.autoencoders import VAE
from pyro_vae.evidence.quadrature import quadrature
from pyro_vae.explore.grid import grid_posterior
from pyro_vae.explore.weighed import weighed
from pyro_vae.guides import DiagonalNormal
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.unconstrained import Target
from pyro_vae.networks import MLP
from tests.support.ppca import make_exact, truth, vae_of


def grid_of(vae, x):
    with evaluation_mode(vae):
        return grid_posterior(Target(vae.model, vae.guide, x))


def points(grid):
    """The codes of a grid, `[side, side, 2]`, by its corners alone."""
    sides = [torch.linspace(grid.low[i], grid.high[i], len(grid.log_density), dtype=torch.float64) for i in (0, 1)]
    return torch.stack(torch.meshgrid(*sides, indexing="xy"), -1)


@pytest.mark.parametrize("scale", [0.7, 0.02])
def test_posterior_and_log_p_are_those_of_ppca(scale):
    """Also where the posterior is forty times narrower than the prior, and the guide, untrained, is elsewhere."""
    process = truth(dim=6, latent=2, scale=scale)
    x = process.sample(1, seed=1)
    grid = grid_of(vae_of(process), x)
    mean, covariance = process.posterior(x)
    exact = MultivariateNormal(mean[0], covariance).log_prob(points(grid))
    assert grid.found and (grid.log_density - exact).abs().max() < 1e-6
    assert abs(grid.log_p - process.log_prob(x).item()) < 1e-6 and grid.error < 1e-6


def test_a_decoder_that_is_not_linear_agrees_with_the_evidence():
    vae = VAE((12,), 2, decoder=partial(MLP, hidden=(16,))).double()
    with torch.no_grad():
        for weight in vae.decoder.parameters():
            weight.mul_(4.0)
    x = (torch.rand(3, 12) < 0.5).double()
    found = quadrature(vae.model, vae.guide, x)
    for i in range(3):
        grid = grid_of(vae, x[i : i + 1])
        assert abs(grid.log_p - found.log_p[i].item()) <= grid.error + found.standard_error[i].item()
        assert grid.error < 1e-3


def test_an_exact_guide_has_no_gap():
    process = truth(dim=6, latent=2)
    vae, x = make_exact(vae_of(process), process), process.sample(1, seed=1)
    found = weighed(vae.model, vae.guide, {"x": x}, 200)
    numbers = found.numbers(grid_of(vae, x))
    assert abs(numbers["gap"]) < 1e-6 and numbers["gap_error"] < 1e-6
    assert abs(numbers["log_p"] - process.log_prob(x).item()) < 1e-6 and numbers["method"] == "quadrature"
    assert numbers["ess"] == pytest.approx(200) and not numbers["flagged"]


def test_the_gap_is_the_divergence_of_the_guide_from_the_posterior():
    """Within 4 standard errors: a false alarm in 16,000 for each of the two."""
    process = truth(dim=6, latent=2)
    vae, x = vae_of(process, DiagonalNormal), process.sample(1, seed=1)
    mean, covariance = process.posterior(x)
    exact = MultivariateNormal(mean[0], covariance)
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        sd = covariance.diagonal().sqrt() * torch.tensor([0.8, 0.9])
        vae.encoder.output.bias.copy_(torch.cat([mean[0] + 0.05, sd.log()]))
    guide = MultivariateNormal(mean[0] + 0.05, torch.diag(sd**2))
    found = weighed(vae.model, vae.guide, {"x": x}, 1000)
    divergence = kl_divergence(guide, exact).item()
    assert divergence > 0.05
    for numbers in (found.numbers(grid_of(vae, x)), found.numbers()):
        assert abs(numbers["gap"] - divergence) < 4 * numbers["gap_error"] < divergence
    assert abs(found.log_p - process.log_prob(x).item()) < 4 * found.log_p_error
    assert found.numbers()["method"] == "importance"
    assert numbers["reconstruction"] - numbers["kl"] == pytest.approx(numbers["elbo"])
