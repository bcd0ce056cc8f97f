"""`restore` on probabilistic PCA, through channels whose y is linear in x with normal noise: all is a closed form."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae.channels import GaussianNoise
from pyro_vae.inference import Search
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import infer_strength, restore
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

PROCESS = linear_process()
NUM = 2000
X = MultivariateNormal(PROCESS.bias, PROCESS.weight @ PROCESS.weight.T + PROCESS.scale**2 * torch.eye(6))
CHANNELS = {"noise": (GaussianNoise(0.5), torch.eye(6), 0.5)}
"""A channel, and A and s of y = A x + s e."""


@pytest.fixture(scope="module", params=CHANNELS)
def case(request):
    channel, matrix, std = CHANNELS[request.param]
    with seeded(0, "linear"):
        y = channel.draw(PROCESS.sample(3, 0))
    vae = make_exact(linear_vae(PROCESS), PROCESS)
    search = Search(max_steps=400, lr=0.1)
    found = restore(vae, y, channel, num_draws=NUM, method="refined", search=search)
    return y, matrix.double(), std, found


def of_y(matrix, std):
    """The distribution of y."""
    covariance = matrix @ X.covariance_matrix @ matrix.T + std**2 * torch.eye(len(matrix))
    return MultivariateNormal(matrix @ X.mean, covariance)


def test_moments(case):
    """Mean and covariance within 5 standard errors of the draws, 3 x 57 comparisons: false alarms 1e-4."""
    y, matrix, std, found = case
    p = of_y(matrix, std)
    gain = X.covariance_matrix @ matrix.T @ p.precision_matrix
    covariance = X.covariance_matrix - gain @ matrix @ X.covariance_matrix
    variance = covariance.diagonal()
    error = ((variance[:, None] * variance + covariance.square()) / NUM).sqrt() + 1e-12
    for n in range(3):
        drawn, mean = found.draws[:, n].flatten(1), X.mean + gain @ (y[n].flatten() - p.mean)
        for ours in (drawn.mean(0), found.mean[n].flatten()):
            assert ((ours - mean).abs() < 5 * (variance / NUM).sqrt()).all()
        assert ((drawn.T.cov() - covariance).abs() < 5 * error).all()
        assert ((found.sd[n].flatten() / variance.sqrt()).log().abs() < 5 / (2 * NUM) ** 0.5).all()


def test_log_p(case):
    y, matrix, std, found = case
    assert torch.allclose(found.log_p, of_y(matrix, std).log_prob(y.flatten(1)), atol=0.02, rtol=0)


def test_the_strength_of_the_noise():
    """log p(y; s) of 10 data over a grid, against the closed form."""
    vae = make_exact(linear_vae(PROCESS), PROCESS)
    with seeded(1, "linear"):
        y = GaussianNoise(0.5).draw(PROCESS.sample(10, 1))
    grid = (0.2, 0.5, 1.0)
    found = infer_strength(vae, y, [GaussianNoise(s) for s in grid], search=Search(max_steps=100, lr=0.1))
    exact = torch.stack([of_y(torch.eye(6).double(), s).log_prob(y).sum() for s in grid])
    assert ((found.log_p - exact).abs() < 5 * found.standard_error + 1e-6).all() and not found.flagged
    assert found.best == GaussianNoise(grid[int(exact.argmax())])
