"""`Linear` and `Blur`: p(y|z) and x given y and z against dense normals, with gaps, few rows and many."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae import VAE
from pyro_vae.channels import AveragePool, Blur, GaussianNoise, Linear, NotExactError, through
from pyro_vae.channels.linear import LinearChannel
from pyro_vae.distributions.elements import Rescaled
from pyro_vae.errors import FileError, UsageError
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import restore

with seeded(0, "linear"):
    MATRICES = {"few": torch.randn(2, 6).double(), "square": torch.randn(6, 6).double(), "many": torch.randn(9, 6)}
    LOC, SCALE = torch.randn(4, 5, 6).double(), (torch.randn(4, 5, 6).double() / 2).exp()


def dense(matrix, loc, variance, std, y):
    """(log p(y), E[x|y], Cov[x|y]) of one datum, by a dense normal of what was observed."""
    matrix = matrix.double()[~y.isnan()]
    s = variance.diag()
    p = MultivariateNormal(matrix @ loc, matrix @ s @ matrix.T + std**2 * torch.eye(len(matrix)))
    gain = s @ matrix.T @ p.precision_matrix
    seen = y[~y.isnan()]
    return p.log_prob(seen), loc + gain @ (seen - p.mean), s - gain @ matrix @ s


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("scale", ["same", "data", "all"])
@pytest.mark.parametrize("name", MATRICES)
def test_against_a_dense_normal(name, scale, gaps):
    """Four draws of z and five data, whose scale is one number, of each datum, or of each draw too."""
    channel = Linear(MATRICES[name], 0.5)
    sizes = {"same": torch.tensor(0.7).double(), "data": SCALE[0], "all": SCALE}[scale]
    normal = dist.Normal(LOC, sizes)
    with seeded(1, "linear"):
        y = channel.draw(normal.sample())[0]
    if gaps:
        y[torch.arange(y.numel()).reshape(y.shape) % 4 == 1] = torch.nan
    log_p, x = channel.observe(normal, y), channel.recover(normal, y)
    assert log_p.shape == (4, 5)
    for k, n in ((0, 0), (1, 3), (3, 4)):
        exact = dense(MATRICES[name], LOC[k, n], normal.variance[k, n], 0.5, y[n])
        assert torch.allclose(log_p[k, n], exact[0])
        assert torch.allclose(x.mean[k, n], exact[1]) and torch.allclose(x.variance[k, n], exact[2].diagonal())


@pytest.mark.parametrize("name", ["few", "many"])
def test_draws_of_what_is_restored(name):
    """Covariances of 5000 draws within 5 standard errors, 2 x 36 of them: false alarms 4e-5."""
    channel, y = Linear(MATRICES[name], 0.5), torch.arange(len(MATRICES[name])).double()
    y[0] = torch.nan
    normal = dist.Normal(LOC[0, 0], SCALE[0, 0])
    _, mean, covariance = dense(MATRICES[name], LOC[0, 0], SCALE[0, 0].square(), 0.5, y)
    with seeded(2, "linear"):
        draws = channel.recover(normal, y).expand((5000, 6)).sample()
    variance = covariance.diagonal()
    assert ((draws.mean(0) - mean).abs() < 5 * (variance / 5000).sqrt()).all()
    error = ((variance[:, None] * variance + covariance.square()) / 5000).sqrt()
    assert ((draws.T.cov() - covariance).abs() < 5 * error).all()


def test_it_has_the_other_channels_as_cases():
    normal = dist.Normal(torch.arange(16.0).double().reshape(1, 4, 4) / 9, torch.rand(4, 4).double() + 0.5)
    pool, noise = AveragePool(2, 0.3), GaussianNoise(0.3)
    matrix = pool._means(torch.eye(16).double().reshape(16, 4, 4)).flatten(1).T
    with seeded(3, "linear"):
        y = pool.draw(normal.sample())
    assert torch.allclose(Linear(matrix, 0.3).log_prob(normal, y.flatten(1)), pool.log_prob(normal, y).sum((-2, -1)))
    x = Linear(matrix, 0.3).restored(normal, y.flatten(1))
    assert torch.allclose(x.mean, pool.restored(normal, y).mean)
    assert torch.allclose(x.variance, pool.restored(normal, y).variance)
    assert torch.allclose(Linear(None, 0.3).log_prob(normal, normal.loc), noise.log_prob(normal, normal.loc).sum(-1))
    sharp = Blur(0.1, 0.3).restored(normal, normal.loc + 1)
    assert torch.allclose(sharp.mean, noise.restored(normal, normal.loc + 1).mean)


@pytest.mark.parametrize("width", [1e-3, 1e-300, 5e-324])
def test_a_blur_too_narrow_to_see_is_none(width):
    assert torch.equal(Blur(width).matrix_for((2, 3)), torch.eye(6).double())


def test_blur_keeps_what_is_constant_and_works_on_each_colour():
    blur = Blur(1.5, 1e-6)
    assert torch.allclose(blur.draw(torch.ones(1, 3, 4, 5).double()), torch.ones(1, 3, 4, 5).double(), atol=1e-4)
    spot = torch.zeros(1, 9, 9).double()
    spot[0, 4, 4] = 1.0
    profile = torch.exp(-(torch.arange(9.0).double() - 4).square() / 4.5)
    y = Blur(1.5, 1e-9).draw(spot)[0]
    assert torch.allclose(y[4, 3:6] / y[4, 4], profile[3:6], atol=0.02)
    normal = dist.Normal(torch.randn(2, 3, 4, 5).double(), 0.5)
    together = Blur(1.0).log_prob(normal, normal.loc + 0.1)
    assert together.shape == (2, 3)
    one = Blur(1.0).log_prob(dist.Normal(normal.loc[:, 1], 0.5), normal.loc[:, 1] + 0.1)
    assert torch.allclose(together[:, 1], one)


def test_units_of_the_data_and_a_first_guess():
    inner = dist.Normal(LOC, 0.7)
    factor = torch.arange(1.0, 7.0).double()
    scaled, plain = Rescaled(inner, torch.tensor(1.0), factor), dist.Normal(1 + factor * LOC, factor * 0.7)
    channel = Linear(MATRICES["few"], 0.5)
    y = torch.tensor([[1.0, torch.nan]] * 5).double()
    assert torch.allclose(channel.observe(scaled, y), channel.observe(plain, y))
    x, mask = channel.fill_in(y, (6,))
    assert x.shape == mask.shape == (5, 6) and mask.all()
    row = MATRICES["few"][0]
    assert torch.allclose(x[0], row / (row.square().sum() + 0.25))
    sums = Linear([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert sums.spread(torch.tensor([[True, False]]), (3,)).tolist() == [[True, True, False]]


def test_values_that_can_be_compared_and_saved(tmp_path):
    np.save(tmp_path / "a.npy", MATRICES["few"].numpy())
    assert Linear(str(tmp_path / "a.npy")) == Linear(MATRICES["few"]) != Linear(MATRICES["few"], 0.2)
    assert str(Linear(MATRICES["few"])) == "Linear(2 x 6, std=0.1)"


@pytest.mark.parametrize("matrix", [[[1.0], [1.0, 2.0]], 3.0, [[float("nan")]], [[]], torch.ones(2), {"a": 1}])
def test_a_matrix_that_is_none(matrix):
    with pytest.raises(UsageError, match="matrix: expected rows of finite numbers"):
        Linear(matrix)


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "a.npy").write_text("1 2 3")
    with pytest.raises(UsageError, match=r"a\.npy is no \.npy file of numbers"):
        Linear(str(tmp_path / "a.npy"))
    with pytest.raises(FileError, match=r"nowhere\.npy"):
        Linear("nowhere.npy")


def test_what_is_refused():
    with seeded(4, "linear"):
        vae = VAE((2, 3), latent_dim=2)
    with pytest.raises(UsageError, match=r"Linear\(1 x 4, std=0.1\): the matrix has 4 columns"):
        through(vae, Linear([[1.0] * 4]))
    with pytest.raises(UsageError, match="std: expected"):
        Linear(None, 0.0)
    with pytest.raises(UsageError, match="width: expected"):
        Blur(0)
    with pytest.raises(UsageError, match="Blur is for images"):
        through(VAE((4,), latent_dim=2), Blur())
    with pytest.raises(NotExactError, match=r"Blur has no exact p.* of binary images AveragePool is exact"):
        restore(vae, torch.ones(1, 2, 3), Blur(), num_draws=2, num_particles=9)
    assert issubclass(Linear, LinearChannel)
