"""`GaussianNoise`: p(y|z) and x given y and z against formulas, sums and rules of another kind."""

from functools import partial
from typing import Any

import mpmath
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

from pyro_vae import VAE, log_marginal
from pyro_vae.channels import GaussianNoise, NotExactError, through
from pyro_vae.distributions.elements import Rescaled
from pyro_vae.distributions.quadrature import TOLERANCE, Tilted
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Bernoulli, Categorical, ContinuousBernoulli, Laplace, Poisson, StudentT
from pyro_vae.process.seeding import seeded
from pyro_vae.shapes import Shapes
from pyro_vae.tasks import restore

STDS = (1e-3, 0.1, 0.5, 1.0, 3.0, 30.0, 1000.0)
AWAY = torch.tensor([-8.0, -4.0, -1.0, 0.0, 0.3, 2.0, 6.0], dtype=torch.float64)
"""How many standard deviations y is from its mean."""


def elements(likelihood, *params):
    return likelihood.distribution(*(torch.as_tensor(p, dtype=torch.float64) for p in params))


def through_noise(p, scale, std):
    """y at `AWAY`, and log p(y|z) by the channel and by the integral."""
    y, noise = p.mean + AWAY * (scale**2 + std**2) ** 0.5, GaussianNoise(std)
    integral = Tilted(p, partial(noise.log_density, y), y, torch.full_like(y, std)).log_normalizer
    return y.tolist(), noise.log_prob(p, y).tolist(), integral.tolist()


def phi(x):
    return mpmath.erfc(-x / mpmath.sqrt(2)) / 2


def laplace(y, s):
    y, s = mpmath.mpf(y), mpmath.mpf(s)
    return mpmath.log(sum(mpmath.exp(s * s / 2 + t * y) * phi(-t * y / s - s) for t in (-1, 1)) / 2)


def continuous_bernoulli(y, s, logit):
    y, s, logit = map(mpmath.mpf, (y, s, logit))
    ends = [(x - y - logit * s * s) / s for x in (0, 1)]
    mass = phi(-ends[0]) - phi(-ends[1]) if ends[0] > 0 else phi(ends[1]) - phi(ends[0])
    return mpmath.log(logit / mpmath.expm1(logit) * mass) + logit * y + logit**2 * s**2 / 2


def student_t(y, s, df):
    """A mixture of normals over the precision, on its logarithm: the trapezoid rule, exact to rounding."""
    t = np.linspace(-60, 8, 4001)
    mixing = df / 2 * (np.log(df / 2) + t - np.exp(t)) - special.gammaln(df / 2)
    terms = mixing + stats.norm.logpdf(y, 0, np.sqrt(s * s + np.exp(-t)))
    return special.logsumexp(terms) + np.log(t[1] - t[0])


def cases(std):
    """Elements, their scale, and the exact log p(y|z) as a function of y."""
    yield elements(Laplace(Shapes((7,), 1)), torch.zeros(7)), 2**0.5, partial(laplace, s=std)
    for logit in (0.01, -3.0, 30.0, 1000.0):
        p = elements(ContinuousBernoulli(Shapes((7,), 1)), torch.full((7,), logit))
        yield p, p.stddev, partial(continuous_bernoulli, s=std, logit=logit)
    for df in (1.1, 3.0, 30.0):
        yield elements(StudentT(Shapes((7,), 1), df=df), torch.zeros(7)), 1, partial(student_t, s=std, df=df)


@pytest.mark.parametrize("std", STDS)
def test_against_formulas(std):
    """The integral as `TOLERANCE` says, in double precision; the channel's formulas to rounding."""
    with mpmath.workdps(60):
        for p, scale, exact in cases(std):
            y, by_channel, integral = through_noise(p, scale, std)
            expected = [float(exact(value)) for value in y]
            assert np.abs(np.subtract(integral, expected)).max() < TOLERANCE
            assert np.allclose(by_channel, expected, rtol=1e-11, atol=1e-5 if exact.func is student_t else 1e-10)


def test_gradients_of_the_formulas():
    """In every case of the formulas, also far outside."""
    y = torch.tensor([-30.0, -0.5, 0.2, 0.9, 1.4, 40.0]).double()
    log_prob, grey = GaussianNoise(0.3).log_prob, ContinuousBernoulli(Shapes((6,), 1))
    for logit in (-200.0, -1.0, 0.0, 3.0, 500.0):
        logits = torch.full((6,), logit).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda t: log_prob(grey.distribution(t), y), (logits,), atol=1e-4)
    for loc in (0.0, 5.0):
        m, b = torch.full((6,), loc).double().requires_grad_(), torch.full((6,), 0.4).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda m, b: log_prob(dist.Laplace(m, b), y), (m, b), atol=1e-4)
    scaled = Rescaled(dist.Laplace(torch.zeros(6).double(), 0.2), torch.tensor(1.0), torch.tensor(2.0))
    assert torch.allclose(log_prob(scaled, y), log_prob(dist.Laplace(torch.ones(6).double(), 0.4), y))


@pytest.mark.parametrize("logit", [-2.0, 40.0])
def test_moments_and_draws_of_an_integral(logit):
    """x given y is a normal cut to [0, 1]; 4000 draws by Kolmogorov and Smirnov, false alarms 2 x 1e-6."""
    y, s = 0.7, 0.2
    p = elements(ContinuousBernoulli(Shapes((1,), 1)), [logit])
    found = GaussianNoise(s).restored(p, torch.tensor([y]).double())
    centre = y + logit * s * s
    exact: Any = stats.truncnorm((0 - centre) / s, (1 - centre) / s, centre, s)
    assert abs(found.mean.item() - exact.mean()) < 1e-6 and abs(found.variance.item() / exact.var() - 1) < 1e-4
    assert abs(found.log_prob(torch.tensor([0.9]).double()).item() - exact.logpdf(0.9)) < 1e-5
    with seeded(0, "draws"):
        draws = found.expand((4000, 1)).sample()
    assert stats.kstest(draws[:, 0].numpy(), exact.cdf).pvalue > 1e-6


def test_many_elements_in_parts(monkeypatch):
    """The values, the gradients and the draws do not depend on how many panels are in one call."""
    loc, y = torch.linspace(-1, 1, 6).double().reshape(2, 3), torch.tensor([0.0, 0.5, 3.0]).double()
    found = []
    for most in (2**22, 90):
        monkeypatch.setattr("pyro_vae.distributions.quadrature._MOST_NUMBERS", most)
        m = loc.clone().requires_grad_()
        value = GaussianNoise(0.3).log_prob(dist.StudentT(3.0, m, 0.5), y)
        (gradient,) = torch.autograd.grad(value.sum(), m)
        x = GaussianNoise(0.3).restored(dist.StudentT(3.0, loc, 0.5), y)
        with seeded(0, "parts"):
            found.append((value.detach(), gradient, x.mean, x.variance, x.sample((5,))))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-12)
    step = 1e-4
    ahead, behind = (GaussianNoise(0.3).log_prob(dist.StudentT(3.0, loc + h, 0.5), y) for h in (step, -step))
    assert torch.allclose(found[0][1], (ahead - behind) / (2 * step), atol=1e-5)


def test_normal_elements_in_any_units():
    normal = Rescaled(dist.Normal(torch.zeros(2), 2.0), torch.tensor(1.0), torch.tensor([0.5, 2.0]))
    y = torch.tensor([2.0, -3.0])
    variance = torch.tensor([1.0, 16.0])
    expected = dist.Normal(1.0, (variance + 0.25).sqrt()).log_prob(y)
    assert torch.allclose(GaussianNoise(0.5).log_prob(normal, y), expected)
    x = GaussianNoise(0.5).restored(normal, y)
    assert torch.allclose(x.mean, (1 / variance + y / 0.25) / (1 / variance + 4)) and torch.allclose(
        x.variance, 1 / (1 / variance + 4)
    )


def test_values_are_a_mixture():
    p = Categorical(Shapes((2,), 1), levels=3).distribution(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]]))
    y, values = torch.tensor([0.2, 0.9]), torch.tensor([0.0, 0.5, 1.0])
    joint = p.logits.softmax(-1) * dist.Normal(values, 0.3).log_prob(y[:, None]).exp()
    assert torch.allclose(GaussianNoise(0.3).log_prob(p, y), joint.sum(-1).log())
    expected = (joint * values).sum(-1) / joint.sum(-1)
    assert torch.allclose(GaussianNoise(0.3).restored(p, y).mean, expected)


def test_little_noise_is_the_pair_itself():
    with seeded(0, "noise"):
        vae, x = VAE((3,), latent_dim=2, likelihood=StudentT), torch.randn(5, 3)
    pair = through(vae, GaussianNoise(1e-4))
    ours, theirs = (log_marginal(p.model, p.guide, x, num_particles=100).log_p for p in (pair, vae))
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("likelihood", [Bernoulli, partial(Laplace, scale=0.4)])
def test_restored_by_quadrature_over_the_code(likelihood):
    """Mean and log p(y) of a 2-D code on a grid; K = 5000 draws of z: within 0.03."""
    with seeded(3, "noise"):
        vae = VAE((4,), latent_dim=2, likelihood=likelihood)
        for parameter in vae.decoder.parameters():
            parameter.data.mul_(2.0)
    y, noise = torch.tensor([[1.3, 0.2, -0.4, 0.8]]), GaussianNoise(0.5)
    axis = torch.linspace(-5, 5, 51)
    z = torch.cartesian_prod(axis, axis)
    p = vae.decode(z).base_dist
    weight = noise.log_prob(p, y).sum(-1).exp() * torch.exp(-z.square().sum(-1) / 2) / (2 * torch.pi) * 0.04
    found = restore(vae, y, noise, num_draws=2000, num_particles=5000, method="encoder")
    assert abs(found.log_p.item() - weight.sum().log().item()) < 0.02
    mean = (noise.restored(p, y).mean * weight[:, None]).sum(0) / weight.sum()
    assert torch.allclose(found.mean[0], mean, atol=0.03)
    assert torch.allclose(found.draws.mean(0), found.mean, atol=5 * found.sd.max().item() / 2000**0.5)


@pytest.mark.parametrize("std", [0.0, -1.0, float("inf"), "a"])
def test_a_std_that_is_none(std):
    with pytest.raises(UsageError, match="std: expected"):
        GaussianNoise(std)


def test_counts_have_no_exact_density():
    """`restore` draws them together with z."""
    pair = through(VAE((4,), latent_dim=2, likelihood=Poisson), GaussianNoise())
    with pytest.raises(NotExactError, match="GaussianNoise has no p"):
        log_marginal(pair.model, pair.guide, torch.ones(1, 4), num_particles=10)
