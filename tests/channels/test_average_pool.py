"""`AveragePool`: p(y|z) and x given y and z, against sums over all images and dense normals."""

from itertools import product

import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

from pyro_vae import VAE, log_marginal
from pyro_vae.channels import AveragePool, NotExactError, check_observed, through
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Laplace, Normal
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import restore

BLOCK = torch.tensor(list(product((0.0, 1.0), repeat=4))).double().reshape(16, 2, 2)
"""All blocks of 2 by 2 bits."""
LOGITS = torch.tensor([[0.3, -1.0, 4.0, 0.0], [2.0, -0.5, -30.0, 1.0]]).double()
"""Two blocks."""


def of_all_blocks(channel, y):
    """log p(y_b, x_b) of all blocks of bits at the two places, `[16, 2]`."""
    logits = torch.stack([LOGITS[:, :2], LOGITS[:, 2:]])
    log_x = dist.Bernoulli(logits=logits).log_prob(BLOCK[:, None]).sum((-2, -1))
    mean = BLOCK.mean((-2, -1))[:, None]
    if channel.std:
        return log_x + dist.Normal(mean, channel.std).log_prob(y)
    return torch.where(mean == y, log_x, -torch.inf)


@pytest.mark.parametrize(("std", "y"), [(0.0, [0.5, 0.75]), (0.0, [0.25, 0.0]), (0.0, [1.0, 0.5]), (0.2, [0.4, -0.1])])
def test_bits_by_enumeration(std, y):
    """Densities and means to rounding; 4000 draws of blocks by a chi-square test, false alarms 8 x 1e-6."""
    channel, y = AveragePool(2, std), torch.tensor([y]).double()
    joint = of_all_blocks(channel, y)
    bits = dist.Bernoulli(logits=LOGITS)
    assert torch.allclose(channel.log_prob(bits, y), joint.logsumexp(0))
    posterior, x = joint.softmax(0), channel.restored(bits, y)
    mean = torch.einsum("nb,nij->bij", posterior, BLOCK)
    assert torch.allclose(x.mean, torch.cat(list(mean), -1)) and torch.allclose(x.variance, x.mean * (1 - x.mean))
    with seeded(0, "pool"):
        draws = x.expand((4000, 2, 4)).sample()
    for b in range(2):
        block = draws[..., 2 * b : 2 * b + 2]
        counts = (block[:, None] == BLOCK).all(-1).all(-1).sum(0)
        likely = posterior[:, b] > 1e-3
        assert counts[~likely].sum() < 60
        if likely.sum() > 1:
            share = posterior[likely, b] / posterior[likely, b].sum()
            seen = counts[likely]
            assert stats.chisquare(seen.numpy(), (share * seen.sum()).numpy()).pvalue > 1e-6
    if not std:
        assert torch.equal(channel.draw(draws), y.expand(4000, 1, 2))


@pytest.mark.parametrize("std", [0.0, 0.4])
def test_normal_elements_are_dependent_within_a_block(std):
    """Against a dense normal; covariances of 5000 draws within 5 standard errors, 64 of them: false alarms 4e-5."""
    channel, loc = AveragePool(2, std), torch.arange(8.0).reshape(2, 4).double() / 3
    scale = torch.tensor([[0.5, 1.0, 2.0, 0.3], [0.7, 0.2, 1.5, 1.0]]).double()
    y = torch.tensor([[1.0, 2.5]]).double()
    a = channel._means(torch.eye(8).double().reshape(8, 2, 4)).flatten(1).T
    s = scale.flatten().square().diag()
    of_y = MultivariateNormal(a @ loc.flatten(), a @ s @ a.T + std**2 * torch.eye(2))
    normal = dist.Normal(loc, scale)
    assert torch.allclose(channel.log_prob(normal, y).sum(), of_y.log_prob(y.flatten()))
    gain = s @ a.T @ of_y.precision_matrix
    x, covariance = channel.restored(normal, y), s - gain @ a @ s
    assert torch.allclose(x.mean.flatten(), loc.flatten() + gain @ (y.flatten() - of_y.mean))
    assert torch.allclose(x.variance.flatten(), covariance.diagonal())
    with seeded(0, "pool"):
        draws = x.expand((5000, 2, 4)).sample()
    variance = covariance.diagonal()
    error = ((variance[:, None] * variance + covariance.square()) / 5000).sqrt()
    assert ((draws.flatten(1).T.cov() - covariance).abs() < 5 * error + 1e-12).all()
    if not std:
        assert torch.allclose(channel.draw(draws), y.expand(5000, 1, 2))


@pytest.fixture(scope="module")
def vae():
    with seeded(2, "pool"):
        vae = VAE((2, 2), latent_dim=2)
        for parameter in vae.decoder.parameters():
            parameter.data.mul_(2.0)
    return vae


def test_blocks_of_one_pixel_are_the_pair_itself(vae):
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    pair = through(vae, AveragePool(1))
    ours, theirs = (log_marginal(p.model, p.guide, x, num_particles=100).log_p for p in (pair, vae))
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert pair.channel.known(x, (2, 2)).all() and not AveragePool(2).known(x, (4, 4)).any()


@pytest.mark.parametrize("std", [0.0, 0.3])
def test_restored_by_quadrature_over_the_code(vae, std):
    """Mean and log p(y) of a 2-D code on a grid; K = 5000 draws of z: within 0.03."""
    channel, y = AveragePool(2, std), torch.tensor([[[0.75]]])
    axis = torch.linspace(-5, 5, 51)
    z = torch.cartesian_prod(axis, axis)
    p = vae.decode(z).base_dist
    weight = channel.log_prob(p, y)[:, 0, 0].exp() * torch.exp(-z.square().sum(-1) / 2) / (2 * torch.pi) * 0.04
    found = restore(vae, y, channel, num_draws=2000, num_particles=5000, method="encoder")
    assert abs(found.log_p.item() - weight.sum().log().item()) < 0.02
    mean = (channel.restored(p, y).mean * weight[:, None, None]).sum(0) / weight.sum()
    assert torch.allclose(found.mean[0], mean, atol=0.03)
    assert torch.allclose(found.draws.mean(0), found.mean, atol=5 * 0.5 / 2000**0.5)


def test_density_of_the_truth(vae):
    """log p(x|y) = log p(x) - log p(y), where y is a function of binary x."""
    x, channel = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), AveragePool(2)
    options = {"num_draws": 5, "num_particles": 5000, "method": "encoder", "truth": x}
    found = restore(vae, channel.draw(x), channel, **options)
    expected = log_marginal(vae.model, vae.guide, x, num_particles=5000).log_p - found.log_p
    assert found.log_p_truth is not None and torch.allclose(found.log_p_truth, expected)
    assert channel.log_likelihood(torch.tensor([[[0.5]]]), x).item() == -torch.inf
    with seeded(0, "pool"):
        real = VAE((2, 2), latent_dim=2, likelihood=Normal)
    assert restore(real, torch.ones(1, 1, 1), channel, **{**options, "truth": x / 3}).log_p_truth is None


def test_a_block_that_was_not_observed(vae):
    with seeded(1, "pool"):
        wide, z = VAE((2, 4), latent_dim=2), torch.randn(3, 1, 2)
    y = torch.tensor([[[torch.nan, 1.0]]])
    pair = through(wide, AveragePool(2))
    elements = wide.decode(z).base_dist
    terms = pair.channel.observe(elements, y)
    assert (terms[..., 0] == 0).all() and (terms[..., 1] < 0).all()
    mean = pair.channel.recover(elements, y).mean
    assert torch.equal(mean[..., :2], elements.mean[..., :2]) and torch.allclose(mean[..., 2:], torch.ones(()))


def test_what_is_refused(vae):
    with pytest.raises(UsageError, match=r"multiples of 3, got data of shape \[2, 2\]"):
        through(vae, AveragePool(3))
    with pytest.raises(UsageError, match="needs images"):
        AveragePool(2).draw(torch.zeros(5, 4))
    with pytest.raises(UsageError, match="k must be at least 1"):
        AveragePool(0)
    with pytest.raises(UsageError, match="std: expected"):
        AveragePool(2, -0.1)
    with pytest.raises(DataError, match=r"y: expected a multiple of 1/4 from 0 to 1, or nan for a gap, got 0.3"):
        check_observed(through(vae, AveragePool(2)), torch.full((1, 1, 1), 0.3))
    with pytest.raises(NotExactError, match="train the model with the likelihood Normal, or Bernoulli"):
        restore(VAE((2, 2), 2, likelihood=Laplace), torch.ones(1, 1, 1), AveragePool(2), num_draws=2, num_particles=9)
