"""`Threshold`, `Quantise` and `Censor`: probabilistic PCA restored, against quadrature over its one code."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from pyro_vae.channels import Censor, NotExactError, Quantise, Threshold, through
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.weighing import sites_at
from pyro_vae.likelihoods import Bernoulli, Categorical, Poisson
from pyro_vae.shapes import Shapes
from pyro_vae.tasks import restore
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

PROCESS = linear_process(dim=3, latent=1)
NUM = 2000
CHANNELS = [Threshold(0.3), Quantise(levels=3, low=-1.5, high=1.5), Censor(low=-0.4, high=0.8)]


def moments(y, channel):
    """Log p(y), mean and second moments of x given y, by 701 points of the code, where x is truncated normal."""
    z = np.linspace(-7, 7, 701)
    centre = PROCESS.bias.numpy() + z[:, None] * PROCESS.weight.numpy()[:, 0]
    low, high = (end.numpy() for end in channel.limits(y))
    a, b = (low - centre) / PROCESS.scale, (high - centre) / PROCESS.scale
    log_mass = np.log(np.where(a > 0, norm.sf(a) - norm.sf(b), norm.cdf(b) - norm.cdf(a)))
    mean, square = truncated(a, b, np.exp(log_mass), centre)
    known = channel.known(y[None], (3,))[0].numpy()
    log_mass = np.where(known, norm.logpdf(y.numpy(), centre, PROCESS.scale), log_mass)
    mean, square = np.where(known, y.numpy(), mean), np.where(known, y.numpy() ** 2, square)
    weight = np.exp(norm.logpdf(z) + log_mass.sum(1)) * (z[1] - z[0])
    share = weight / weight.sum()
    second = np.einsum("k,ki,kj->ij", share, mean, mean)
    second[range(3), range(3)] = share @ square
    return np.log(weight.sum()), share @ mean, second


def truncated(a, b, mass, centre):
    """E[x] and E[x^2] of a normal x between a and b standard deviations from its centre."""
    first = (norm.pdf(a) - norm.pdf(b)) / mass
    ends = [np.where(np.isinf(end), 0.0, end) * norm.pdf(end) for end in (a, b)]
    second = 1 + (ends[0] - ends[1]) / mass
    return centre + PROCESS.scale * first, centre**2 + 2 * centre * PROCESS.scale * first + PROCESS.scale**2 * second


@pytest.mark.parametrize("channel", CHANNELS, ids=lambda c: type(c).__name__)
def test_probabilistic_pca_by_quadrature(channel):
    """Mean and covariance within 5 standard errors, 3 data, 36 comparisons a channel: false alarms 2e-5."""
    vae = make_exact(linear_vae(PROCESS), PROCESS)
    y = channel.draw(PROCESS.sample(3, 1))
    found = restore(vae, y, channel, num_draws=NUM, num_particles=6_000, method="encoder")
    assert not found.flagged.any()
    for n in range(3):
        log_p, mean, second = (torch.as_tensor(value) for value in moments(y[n], channel))
        covariance = second - mean[:, None] * mean
        share = (1 / NUM + 1 / found.ess[n]).sqrt()
        variance = covariance.diagonal().clamp(min=1e-12)
        assert abs(found.log_p[n] - log_p) < 0.03
        assert ((found.draws[:, n].mean(0) - mean).abs() < 5 * variance.sqrt() * share + 1e-9).all()
        assert ((found.mean[n] - mean).abs() < 5 * variance.sqrt() * share + 1e-9).all()
        error = (variance[:, None] * variance + covariance.square()).sqrt() * share
        assert ((found.draws[:, n].T.cov() - covariance).abs() < 5 * error + 1e-9).all()
        assert torch.allclose(found.sd[n].square(), covariance.diagonal(), atol=0.05, rtol=0.1)


def test_values_far_from_what_the_model_expects():
    """log p(y|z) and its gradient at 30 standard deviations, where probabilities are 1e-198."""
    pair = through(linear_vae(PROCESS), Threshold(30.0))
    z = torch.zeros(1, 1, 1, dtype=torch.float64, requires_grad=True)
    y = torch.ones(1, 3, dtype=torch.float64)
    log_p = sites_at(pair.model, {"z": z}, y)["y"]["fn"].log_prob(y)
    expected = norm.logsf(30.0, PROCESS.bias.numpy(), PROCESS.scale).sum()
    assert log_p.item() == pytest.approx(expected, rel=1e-10)
    (gradient,) = torch.autograd.grad(log_p, z)
    hazard = (30.0 - PROCESS.bias) / PROCESS.scale**2  # of a normal, far out, up to 1 / distance^2
    assert gradient.item() == pytest.approx((hazard * PROCESS.weight[:, 0]).sum().item(), rel=0.01)


def test_of_grey_levels_and_bits_by_sums():
    """Probabilities of the values in each bin."""
    grey = Categorical(Shapes((2,), 1), levels=5)(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)))
    channel, y = Quantise(levels=2), torch.tensor([0.25, 0.75])
    values = torch.linspace(0, 1, 5)
    probs = torch.stack([grey.log_prob(v.expand(2)).exp() for v in values])
    upper = values >= 0.5
    expected = torch.stack([probs[~upper, 0].sum(), probs[upper, 1].sum()])
    assert torch.allclose(channel.log_prob(grey, y).exp(), expected, atol=1e-6)
    mean = channel.restored(grey, y).mean
    assert mean[1].item() == pytest.approx(((values * probs[:, 1])[upper].sum() / expected[1]).item(), abs=1e-6)
    bits = Bernoulli(Shapes((2,), 1))(torch.tensor([[0.3, -1.0]]))
    assert torch.allclose(Threshold().log_prob(bits, torch.tensor([1.0, 0.0])), bits.log_prob(torch.tensor([1.0, 0.0])))


def test_what_is_recorded():
    x = torch.tensor([[-3.0, 0.2, 0.55, 7.0]])
    assert torch.equal(Threshold(0.5).draw(x), torch.tensor([[0.0, 0, 1, 1]]))
    assert torch.allclose(Quantise(4).draw(x), torch.tensor([[0.125, 0.125, 0.625, 0.875]]))
    assert torch.allclose(Censor(0.0, None).draw(x), torch.tensor([[0.0, 0.2, 0.55, 7.0]]))
    filled, seen = Threshold(2.0).fill_in(torch.tensor([[1.0, 0.0, torch.nan]]), (3,))
    assert torch.equal(filled, torch.tensor([[2.5, 1.5, 0.0]])) and seen.tolist() == [[True, True, False]]


def test_what_is_refused():
    counts = Poisson(Shapes((2,), 1))(torch.zeros(1, 2))
    for call in (Threshold(1.0).log_prob, Threshold(1.0).restored, Censor(0.0, 3.0).restored):
        with pytest.raises(
            NotExactError, match=r"no exact p.y.z. for Poisson elements.*take Normal, Laplace and StudentT"
        ):
            call(counts, torch.zeros(2))
    likelihood = linear_vae(PROCESS).likelihood
    with pytest.raises(
        DataError, match=r"y: expected the centre of one of 4 bins: 0.125, 0.375, 0.625, ..., .*got 0.5"
    ):
        Quantise().check(torch.tensor([[0.5, 0.125, torch.nan]]), likelihood)
    with pytest.raises(DataError, match=r"y: expected from 0 to 1 and .*, got 1.5 at \(0, 1\)"):
        Censor().check(torch.tensor([[0.5, 1.5]]), likelihood)
    for make in (
        lambda: Censor(None, None),
        lambda: Censor(1.0, 0.0),
        lambda: Quantise(1),
        lambda: Quantise(2, 1.0, 0.0),
    ):
        with pytest.raises(UsageError, match=r"expected|must be"):
            make()
