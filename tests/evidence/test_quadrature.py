"""`pyro_vae.evidence.quadrature`: log p(x) to 1e-6 wherever the mass lies, and a flag where no rule converges."""

import math
from functools import partial
from itertools import pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import expon, norm

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.evidence.quadrature import quadrature
from pyro_vae.guides import FullNormal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from tests.evidence.test_quadrature_exact import quadrature as over_a_square
from tests.support.networks import Dropping
from tests.support.ppca import make_exact, truth, vae_of


def one_site(log_likelihood, prior=None):
    """A model of one number z for each datum, whose likelihood is any function of z and x, and a poor guide."""
    prior = prior or dist.Normal(torch.zeros(()).double(), 1.0)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior)
            pyro.factor("x", log_likelihood(z, x))

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 0.1))

    return model, guide


def digits(guide=FullNormal, seed=0, **options):
    torch.manual_seed(seed)
    network = partial(MLP, hidden=(8,))
    vae = VAE((4, 4), 2, likelihood=Bernoulli, guide=guide, encoder=network, decoder=network, **options).double()
    with torch.no_grad():
        vae.decoder.output.weight.mul_(3)
    return vae, torch.rand(6, 4, 4).round().double()


class TestProbabilisticPCA:
    """The truth in closed form; the guide is only where the search begins, and may be wrong."""

    @pytest.mark.parametrize("latent", [1, 2])
    @pytest.mark.parametrize("scale", [1.0, 1e-3])
    def test_to_a_millionth(self, latent, scale):
        """With noise of 1e-3 the posterior is a thousandth of the prior wide, and the guide far from it."""
        process = truth(dim=4, latent=latent, scale=scale)
        x = process.sample(7, seed=1)
        vae = vae_of(process)
        found = quadrature(vae.model, vae.guide, x)
        torch.testing.assert_close(found.log_p, process.log_prob(x), rtol=0, atol=1e-6)
        assert not found.flagged.any() and found.standard_error.max() < 1e-4
        assert found.method == "quadrature" and found.bound == "consistent"

    def test_data_far_from_prior_and_guide(self):
        process = truth(dim=4, latent=2, scale=0.1)
        x = 30 * process.sample(5, seed=2)
        vae = vae_of(process)
        found = quadrature(vae.model, vae.guide, x)
        torch.testing.assert_close(found.log_p, process.log_prob(x), rtol=1e-12, atol=1e-6)

    def test_a_posterior_that_is_a_thin_ridge(self):
        """Two columns of W nearly equal: a correlation of -0.9998, which the box follows."""
        process = truth(dim=4, latent=2, scale=0.02)
        process.weight[:, 1] = process.weight[:, 0] + 1e-3 * process.weight[:, 1]
        x = process.sample(5, seed=1)
        vae = vae_of(process)
        found = quadrature(vae.model, vae.guide, x)
        torch.testing.assert_close(found.log_p, process.log_prob(x), rtol=0, atol=1e-6)
        assert found.side.max() <= 65

    @pytest.mark.parametrize("seed", range(12))
    def test_any_width_place_and_slant(self, seed):
        """Noise from 1 to 1e-4, columns of W from orthogonal to equal in four digits, data up to 6 deviations away."""
        noise, slant, ratio, far = torch.rand(4, generator=torch.Generator().manual_seed(seed)).tolist()
        process = truth(dim=3, latent=1 + seed % 2, scale=10 ** (-4 * noise), seed=seed)
        if seed % 2:
            process.weight[:, 1] = process.weight[:, 0] * (2 * slant - 1) + 10 ** (-4 * ratio) * process.weight[:, 1]
        x = process.sample(5, seed=1) * (1 + 5 * far)
        vae = vae_of(process)
        found = quadrature(vae.model, vae.guide, x)
        torch.testing.assert_close(found.log_p, process.log_prob(x), rtol=1e-9, atol=1e-6)
        assert not found.flagged.any()

    def test_in_single_precision(self):
        process = truth(dim=4, latent=2)
        vae, x = make_exact(vae_of(process), process).float(), process.sample(7, seed=1)
        found = quadrature(vae.model, vae.guide, x.float())
        torch.testing.assert_close(found.log_p, process.log_prob(x), rtol=0, atol=1e-4)
        assert found.log_p.dtype == torch.float64


def test_a_nonlinear_decoder_agrees_with_a_plain_rule():
    vae, x = digits()
    found = quadrature(vae.model, vae.guide, x)
    torch.testing.assert_close(found.log_p, over_a_square(vae, x), rtol=0, atol=1e-6)


def test_two_modes_are_both_counted():
    """x = z^2 + noise: the guide sits between two modes, far from both, at +-3 and 0.005 wide."""
    model, guide = one_site(lambda z, x: dist.Normal(z.square(), 0.03).log_prob(x))
    x = torch.tensor([9.0, 4.0, 0.0]).double()
    found = quadrature(model, guide, x)
    for value, log_p in zip(x.tolist(), found.log_p.tolist(), strict=True):
        points = [-(value**0.5), value**0.5]
        density = lambda z, value=value: norm.pdf(z) * norm.pdf(value, z * z, 0.03)  # noqa: E731
        exact = sum(quad(density, c - 0.5, c + 0.5, points=[c], limit=200, epsabs=0, epsrel=1e-11)[0] for c in points)
        exact = exact if value else quad(density, -2, 2, points=[0], limit=200, epsabs=0, epsrel=1e-11)[0]
        assert log_p == pytest.approx(torch.tensor(exact).log().item(), abs=1e-6)


def test_a_ring():
    """x = |z|^2 + noise in two dimensions: |z|^2 is exponential, and the posterior a ring around nothing."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.square().sum(-1), 0.3), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 0.5).to_event(1))

    x = torch.tensor([9.0, 1.0]).double()
    found = quadrature(model, guide, x)
    for value, log_p in zip(x.tolist(), found.log_p.tolist(), strict=True):
        density = lambda s, value=value: expon.pdf(s, scale=2) * norm.pdf(value, s, 0.3)  # noqa: E731
        exact = quad(density, max(0, value - 4), value + 4, points=[value], epsabs=0, epsrel=1e-11)[0]
        assert log_p == pytest.approx(torch.tensor(exact).log().item(), abs=1e-4)
    assert not found.flagged.any()


def test_a_bounded_site_and_one_of_another_name():
    """u ~ Beta, x ~ Binomial: the evidence is beta-binomial."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            u = pyro.sample("u", dist.Beta(torch.tensor(2.0).double(), 3.0))
            pyro.sample("x", dist.Binomial(10, u), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("u", dist.Beta(torch.tensor(1.0).double(), 1.0))

    x = torch.tensor([0.0, 3.0, 10.0]).double()
    exact = dist.BetaBinomial(torch.tensor(2.0).double(), 3.0, total_count=10).log_prob(x)
    torch.testing.assert_close(quadrature(model, guide, x).log_p, exact, rtol=0, atol=1e-6)


class TestFlags:
    """A rule that has not converged says so, and the data beside it do not."""

    def test_tails_without_end(self):
        """Cauchy times a constant: e^-35 of the maximum is 4e7 away, and the rest decays as 1/z."""
        heavy = dist.Cauchy(torch.zeros(()).double(), 1.0)
        model, guide = one_site(lambda z, x: torch.where(x > 0, -z.square(), 0.0), heavy)
        found = quadrature(model, guide, torch.tensor([1.0, -1.0]).double())
        assert found.flagged.tolist() == [False, True] and found.unreliable == 0.5
        assert "for 50.0%" in found.health and not found.standard_error[1] <= 1e-4

    def test_a_jump(self):
        """The rule converges as the spacing there, too slowly for this tolerance; no more points than there may be."""
        model, guide = one_site(lambda z, x: -5 * x * (z > 0.3))
        found = quadrature(model, guide, torch.tensor([0.0, 1.0]).double(), tolerance=1e-7)
        assert found.flagged.tolist() == [False, True] and found.side.tolist()[1] == 16385

    def test_no_density_at_all(self):
        model, guide = one_site(lambda z, x: torch.where(x > 0, z, -torch.inf))
        with pytest.raises(NumericalError, match=r"log p\(x, z\) of datum 1 is -inf"):
            quadrature(model, guide, torch.tensor([1.0, -1.0]).double())


def student(nu, centre=0.0, scale=1.0):
    """Its density, as a function of a number."""
    constant = math.gamma((nu + 1) / 2) / math.gamma(nu / 2) / math.sqrt(nu * math.pi) / scale
    return lambda z: constant * (1 + ((z - centre) / scale) ** 2 / nu) ** (-(nu + 1) / 2)


LIKELIHOODS = {
    "sharp": (lambda z, x: dist.Normal(z, 0.01).log_prob(x), lambda x: lambda z: norm_pdf(x, z, 0.01)),
    "flat": (lambda z, x: dist.Normal(z, 100.0).log_prob(x), lambda x: lambda z: norm_pdf(x, z, 100.0)),
    "flatter": (lambda z, x: dist.Normal(z, 1e4).log_prob(x), lambda x: lambda z: norm_pdf(x, z, 1e4)),
    "kinked": (
        lambda z, x: dist.Laplace(z, 0.1).log_prob(x),
        lambda x: lambda z: 5 * math.exp(-abs(x - z) / 0.1),
    ),
    "heavy": (lambda z, x: dist.StudentT(2.0, z, 0.1).log_prob(x), lambda x: student(2.0, x, 0.1)),
    "a step": (
        lambda z, x: dist.Bernoulli(logits=z - x).log_prob(torch.ones_like(z)),
        lambda x: lambda z: 1 / (1 + math.exp(min(x - z, 700.0))),
    ),
}


def norm_pdf(x, mean, scale):
    return math.exp(-(((x - mean) / scale) ** 2) / 2) / scale / math.sqrt(2 * math.pi)


def integrated(density, centre):
    """Log of the integral over all numbers, in pieces that get longer away from 0 and from the centre."""
    away = [sign * 10.0**power for power in range(-3, 15) for sign in (-1, 1)]
    edges = sorted({0.0, centre, *away, *(centre + step for step in away if abs(step) < 100)})
    return math.log(sum(quad(density, a, b, epsabs=0, epsrel=1e-9)[0] for a, b in pairwise(edges)))


class TestStatedError:
    """What is stated is at least what it is, converged or not; scipy's own integral is the truth."""

    @pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
    @pytest.mark.parametrize("nu", [1.0, 1.5, 4.0])
    @pytest.mark.parametrize("likelihood", LIKELIHOODS)
    def test_a_heavy_prior(self, likelihood, nu):
        """Student's t of few degrees of freedom, posteriors in its middle and far out."""
        log_likelihood, density_of = LIKELIHOODS[likelihood]
        model, guide = one_site(log_likelihood, dist.StudentT(torch.tensor(nu).double(), 0.0, 1.0))
        x, prior = [0.3, 20.0, 300.0], student(nu)
        found = quadrature(model, guide, torch.tensor(x).double())
        for i, value in enumerate(x):
            density = density_of(value)
            exact = integrated(lambda z, density=density: prior(z) * density(z), value)
            assert abs(found.log_p[i].item() - exact) <= found.standard_error[i].item() + 1e-8
        if likelihood in ("sharp", "flat", "kinked"):
            assert not found.flagged.any() and found.standard_error.max() <= 1e-4

    def test_the_mean(self):
        """Errors of a rule need not cancel, so their limits are averaged."""
        vae, x = digits()
        found = quadrature(vae.model, vae.guide, x)
        assert found.standard_error_monte_carlo == pytest.approx(found.standard_error.mean().item())

    def test_single_precision(self):
        """Rounding is a part of the error, and no reason to take more points."""
        vae, x = digits()
        exact = quadrature(vae.model, vae.guide, x).log_p
        found = quadrature(vae.float().model, vae.guide, x.float())
        assert ((found.log_p - exact).abs() <= found.standard_error).all() and not found.flagged.any()
        assert (found.rounding > 1e-7).all() and (found.rounding < 1e-5).all()


class TestIndependence:
    """A datum's number is its own."""

    def test_of_the_data_beside_it_and_of_the_cut(self):
        vae, x = digits()
        whole = quadrature(vae.model, vae.guide, x.repeat(10, 1, 1))
        part = quadrature(vae.model, vae.guide, x[:2], max_rows=100)
        torch.testing.assert_close(part.log_p, whole.log_p[:2], rtol=0, atol=1e-9)
        assert part.side.tolist() == whole.side[:2].tolist()

    def test_of_seed_mode_and_generator_and_no_weight_moves(self):
        vae, x = digits()
        vae.decoder = Dropping((2,), (1, 4, 4)).double()
        state, before = {name: v.clone() for name, v in vae.state_dict().items()}, torch.get_rng_state()
        first = quadrature(vae.train().model, vae.guide, x).log_p
        second = quadrature(vae.eval().model, vae.guide, x, seed=1).log_p
        torch.testing.assert_close(first, second, rtol=0, atol=1e-4)
        assert torch.equal(torch.get_rng_state(), before) and not vae.training
        assert all(torch.equal(v, state[name]) for name, v in vae.state_dict().items())

    def test_of_inputs_by_position_and_by_name(self):
        vae, x = digits()
        mask = torch.rand(6, 4, 4) < 0.5
        a, b = quadrature(vae.model, vae.guide, x, mask), quadrature(vae.model, vae.guide, x, mask=mask)
        torch.testing.assert_close(a.log_p, b.log_p)
        assert not torch.allclose(a.log_p, quadrature(vae.model, vae.guide, x).log_p)

    def test_progress(self):
        vae, x = digits()
        seen = []
        quadrature(vae.model, vae.guide, x.repeat(9, 1, 1), progress=seen.append)
        assert seen == [50, 54]


def test_refusals():
    process = truth(dim=4, latent=3)
    vae, x = vae_of(process), process.sample(2, seed=0)
    with pytest.raises(UsageError, match=r"1 or 2 latent dimensions, and this model has 3: .* importance"):
        quadrature(vae.model, vae.guide, x)
    for options in ({"tolerance": 0.0}, {"max_rows": 0}):
        with pytest.raises(UsageError, match="tolerance > 0"):
            quadrature(vae.model, vae.guide, x, **options)
    with pytest.raises((UsageError, DataError), match="data"):
        quadrature(vae.model, vae.guide, x[:0])
