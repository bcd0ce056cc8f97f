"""The dense normal guide, by its own numbers; what every guide promises is in tests/contract."""

import torch

from pyro_vae.guides import FullNormal
from pyro_vae.shapes import Shapes


def test_full_normal_covariance():
    guide = FullNormal(Shapes((1,), 3))
    params = torch.arange(9.0) / 10
    scale = torch.tensor([[0.3, 0, 0], [0.6, 0.4, 0], [0.7, 0.8, 0.5]])
    scale = scale.tril(-1) + torch.diag(scale.diagonal().exp())
    distribution = guide.distribution(params)
    torch.testing.assert_close(distribution.mean, params[:3])
    torch.testing.assert_close(distribution.covariance_matrix, scale @ scale.T)  # pyright: ignore


def test_full_normal_density_is_torchs():
    params, z = 0.3 * torch.randn(5, 9, dtype=torch.float64), torch.randn(4, 5, 3, dtype=torch.float64)
    distribution = FullNormal(Shapes((1,), 3)).distribution(params)
    expected = torch.distributions.MultivariateNormal(distribution.mean, distribution.covariance_matrix)  # pyright: ignore
    torch.testing.assert_close(distribution.log_prob(z), expected.log_prob(z))


def test_full_normal_at_a_draw_and_at_its_copy():
    """The density at a draw is that at any equal tensor, and so is its gradient (well conditioned, float64)."""
    params = 0.3 * torch.randn(5, 9, dtype=torch.float64)
    gradients = []
    for copied in (False, True):
        torch.manual_seed(1)
        leaf = params.clone().requires_grad_()
        distribution = FullNormal(Shapes((1,), 3)).distribution(leaf)
        z = distribution.rsample()
        value = distribution.log_prob(z + 0 if copied else z)
        gradients.append((value, torch.autograd.grad(value.sum(), leaf)[0]))
    torch.testing.assert_close(*gradients)
