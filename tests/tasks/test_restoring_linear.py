"""`restore` on probabilistic PCA, through channels whose y is linear in x with normal noise: all is a closed form."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae.channels import AveragePool, Blur, GaussianNoise, Linear, through
from pyro_vae.diagnostics.calibration import simulation_based_calibration
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import infer_strength, restore
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

PROCESS, EVENT = linear_process(dim=8), (2, 4)
NUM = 2000
X = MultivariateNormal(PROCESS.bias, PROCESS.weight @ PROCESS.weight.T + PROCESS.scale**2 * torch.eye(8))
ONE = torch.eye(8).double()
MEANS = ONE.reshape(8, 2, 2, 2).mean((1, 3)).T
SUMS = torch.tensor([[1.0, 0, 0, 0, 1, 0, 0, -1], [0, 2, 0, 1, 0, 0, 0.5, 0], [0, 0, 1, 0, 1, 0, 0, 0]]).double()
CHANNELS = {
    "noise": (GaussianNoise(0.5), ONE, 0.5),
    "pool": (AveragePool(2), MEANS, 0.0),
    "noisy pool": (AveragePool(2, 0.3), MEANS, 0.3),
    "sums": (Linear(SUMS, 0.4), SUMS, 0.4),
    "blur": (Blur(0.8, 0.2), Blur(0.8).matrix_for(EVENT), 0.2),
}
"""A channel, and A and s of y = A x + s e."""


def exact_vae(channel, matrix, std):
    """Probabilistic PCA whose guide is exact at a fill-in of y, so that every weight is p(y)."""
    vae = linear_vae(PROCESS, event=EVENT)
    unit = torch.eye(len(matrix)).double().reshape(-1, *channel.observed_shape(EVENT))
    fill_in = channel.fill_in(unit, EVENT)[0].flatten(1).T
    load = matrix @ PROCESS.weight
    noise = PROCESS.scale**2 * matrix @ matrix.T + std**2 * torch.eye(len(matrix))
    precision = load.T @ noise.inverse()
    scale = torch.linalg.cholesky((torch.eye(3) + precision @ load).inverse())
    gain, (rows, columns) = scale @ scale.T @ precision, torch.tril_indices(3, 3, offset=-1)
    with torch.no_grad():
        output = vae.encoder.output
        output.weight.zero_()
        output.weight[:3] = gain @ torch.linalg.pinv(fill_in)
        output.bias.copy_(torch.cat([-gain @ matrix @ PROCESS.bias, scale.diagonal().log(), scale[rows, columns]]))
    return vae


@pytest.fixture(scope="module", params=CHANNELS)
def case(request):
    channel, matrix, std = CHANNELS[request.param]
    with seeded(0, "linear"):
        y = channel.draw(PROCESS.sample(2, 0).reshape(2, *EVENT))
    found = restore(exact_vae(channel, matrix, std), y, channel, num_draws=NUM, num_particles=NUM)
    return y, matrix, std, found


def of_y(matrix, std):
    """The distribution of y."""
    covariance = matrix @ X.covariance_matrix @ matrix.T + std**2 * torch.eye(len(matrix))
    return MultivariateNormal(matrix @ X.mean, covariance)


def test_moments(case):
    """Mean and covariance within 5 standard errors of the draws, 10 x 88 comparisons: false alarms 5e-4."""
    y, matrix, std, found = case
    p = of_y(matrix, std)
    gain = X.covariance_matrix @ matrix.T @ p.precision_matrix
    covariance = X.covariance_matrix - gain @ matrix @ X.covariance_matrix
    variance = covariance.diagonal()
    error = ((variance[:, None] * variance + covariance.square()) / NUM).sqrt() + 1e-12
    assert found.methods["encoder"] == 2 and not found.flagged.any()
    for n in range(2):
        drawn, mean = found.draws[:, n].flatten(1), X.mean + gain @ (y[n].flatten() - p.mean)
        for ours in (drawn.mean(0), found.mean[n].flatten()):
            assert ((ours - mean).abs() < 5 * (variance / NUM).sqrt()).all()
        assert ((drawn.T.cov() - covariance).abs() < 5 * error).all()
        assert ((found.sd[n].flatten() / variance.sqrt()).log().abs() < 5 / (2 * NUM) ** 0.5).all()


def test_log_p(case):
    y, matrix, std, found = case
    assert torch.allclose(found.log_p, of_y(matrix, std).log_prob(y.flatten(1)))


def test_the_strength_of_the_noise():
    """log p(y; s) of 10 data over a grid, against the closed form."""
    vae = make_exact(linear_vae(PROCESS, event=EVENT), PROCESS)
    with seeded(1, "linear"):
        y = GaussianNoise(0.5).draw(PROCESS.sample(10, 1).reshape(10, *EVENT))
    grid = (0.2, 0.5, 1.0)
    found = infer_strength(vae, y, [GaussianNoise(s) for s in grid], num_particles=2000, refine=False)
    exact = torch.stack([of_y(ONE, s).log_prob(y.flatten(1)).sum() for s in grid])
    assert ((found.log_p - exact).abs() < 5 * found.standard_error + 1e-6).all() and not found.flagged
    assert found.best == GaussianNoise(grid[int(exact.argmax())])


@pytest.mark.parametrize("name", CHANNELS)
def test_calibration(name):
    """Ranks of 300 data: the exact guide is flagged with probability 1e-4; one too narrow by a factor of e is found."""
    channel, matrix, std = CHANNELS[name]
    vae = exact_vae(channel, matrix, std)
    pair, y = through(vae, channel), torch.zeros(300, *channel.observed_shape(EVENT)).double()
    options = {"num_draws": 49, "alpha": 1e-4}
    assert simulation_based_calibration(pair.model, pair.guide, y, **options).calibrated
    with torch.no_grad():
        vae.encoder.output.bias[3:6] -= 1.0
    assert not simulation_based_calibration(pair.model, pair.guide, y, **options).calibrated
