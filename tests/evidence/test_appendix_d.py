"""`evidence.appendix_d`: within its stated error, whatever the posterior's tails, and refused where it can't work."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import UsageError
from pyro_vae.evidence.appendix_d import AppendixD, _cut_normal, _inverse_mean, appendix_d
from pyro_vae.evidence.quadrature import quadrature
from pyro_vae.guides import FullNormal
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from tests.evidence.test_quadrature import one_site
from tests.support.networks import Dropping
from tests.support.ppca import truth, vae_of
from tests.support.suites import slow_but

FEW = {"num_samples": 150, "hmc": HMC(num_warmup=100, num_leapfrog=3)}
FEWEST = {"num_samples": 50, "hmc": HMC(num_warmup=20, num_leapfrog=2)}


@pytest.mark.parametrize("latent", slow_but([3], [1, 2, 3]))
def test_probabilistic_pca(latent):
    """12 data, each within 5 of its standard errors, themselves known to 12%: false alarm < 1e-4.

    The guide is as it starts, far from the posterior: it is where the chains begin, nothing else.
    """
    process = truth(dim=4, latent=latent)
    vae, x = vae_of(process), process.sample(12, seed=1)
    found = appendix_d(vae.model, vae.guide, x, **FEW)
    z = (found.log_p - process.log_prob(x)) / found.standard_error
    assert (z.abs() < 5).all() and 0.3 < z.square().mean() < 2.5
    assert found.standard_error.max() < 0.1
    assert abs(found.mean - process.log_prob(x).mean().item()) < 0.02
    assert (found.pareto_k < 0.7).all() and found.r_hat.max() < 1.1
    assert found.method == "appendix_d" and found.bound == "upper" and found.num_draws == 600


def test_a_bernoulli_decoder_by_quadrature():
    """Two dimensions and a posterior that is no normal: 10 data within 5 standard errors, false alarm < 1e-4."""
    torch.manual_seed(1)
    network = partial(MLP, hidden=(8,))
    vae = VAE((8,), 2, likelihood=Bernoulli, guide=FullNormal, encoder=network, decoder=network).double()
    with torch.no_grad():
        vae.decoder.output.weight.mul_(2)
    x = torch.rand(10, 8).round().double()
    exact, found = quadrature(vae.model, vae.guide, x).log_p, appendix_d(vae.model, vae.guide, x, **FEW)
    assert ((found.log_p - exact).abs() < 5 * found.standard_error).all()
    assert found.standard_error.max() < 0.1 and (found.pareto_k < 0.7).all()


def test_the_variance_is_finite_where_the_posterior_has_light_tails():
    """p(z|x) ~ exp(-z^4): under a whole normal the ratio has no mean square; cut off, it is bounded."""
    model, guide = one_site(lambda z, x: -x * z**4 + z.square() / 2)
    x = torch.tensor([1.0, 3.0]).double()
    exact = quadrature(model, guide, x).log_p
    found = appendix_d(model, guide, x, **FEW)
    assert ((found.log_p - exact).abs() < 5 * found.standard_error).all()
    assert (found.pareto_k <= 0.7).all() and found.standard_error.max() < 0.1


def test_chains_that_disagree_are_flagged():
    """Two far modes, chains in each by their start: R-hat sees it; the datum with one mode is not flagged."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
            pyro.sample("x", dist.Normal(torch.where(x > 0, z.square(), z), 0.05), obs=x.abs())

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))

    found = appendix_d(model, guide, torch.tensor([2.0, -0.5]).double(), num_samples=300, hmc=HMC(num_warmup=100))
    assert found.flagged.tolist() == [True, False] and found.r_hat[0] > 1.1
    assert "chains not to be trusted for" in found.health


def test_the_fitted_density_is_normalised():
    """Its mass on a fine grid is 1, and none lies outside of the ellipsoid."""
    torch.manual_seed(0)
    draws = torch.randn(400, 2, 1, 2).double() @ torch.tensor([[1.0, 0.0], [2.0, 0.3]]).double()
    axis = torch.linspace(-8, 8, 801).double()
    z = torch.cartesian_prod(axis, axis)[:, None, None]
    log_q = _cut_normal(draws, z, 0.8)
    assert log_q.exp().sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=5e-3)
    assert (log_q == -torch.inf).double().mean() > 0.5


def test_the_error_is_that_of_repeated_runs():
    """Of normal ratios without correlation: 500 repeats, the stated error within 10% of their spread."""
    torch.manual_seed(0)
    log_p, error = _inverse_mean(torch.log(1 + 0.1 * torch.randn(200, 4, 500).double()))
    assert (error.square().mean().sqrt() / log_p.std()).item() == pytest.approx(1, abs=0.1)
    assert error.mean().item() == pytest.approx(0.1 / 800**0.5, rel=0.05)


def test_no_draw_in_the_ellipsoid_is_no_estimate():
    log_p, _ = _inverse_mean(torch.full((20, 2, 1), -torch.inf).double())
    assert log_p.item() == torch.inf
    nan, yes = torch.full((1,), torch.nan), torch.ones(1, dtype=torch.bool)
    assert AppendixD(log_p, nan, nan, nan, nan, yes, num_draws=40, seed=0).flagged.all()


class TestIndependence:
    """A datum's number is its own."""

    @pytest.fixture
    def vae(self):
        return VAE((4,), 2, decoder=Dropping).double()

    def test_of_the_data_that_follow(self, vae):
        x = torch.rand(6, 4).round().double()
        whole = appendix_d(vae.model, vae.guide, x, **FEWEST)
        part = appendix_d(vae.model, vae.guide, x[:2], max_rows=7, **FEWEST)
        torch.testing.assert_close(part.log_p, whole.log_p[:2], rtol=0, atol=1e-6)

    def test_of_mode_and_generator_and_no_weight_moves(self, vae):
        x, state = torch.rand(3, 4).round().double(), {n: v.clone() for n, v in vae.state_dict().items()}
        before = torch.get_rng_state()
        first = appendix_d(vae.train().model, vae.guide, x, **FEWEST).log_p
        assert vae.training and torch.equal(torch.get_rng_state(), before)
        assert torch.equal(first, appendix_d(vae.eval().model, vae.guide, x, **FEWEST).log_p)
        assert not torch.equal(first, appendix_d(vae.model, vae.guide, x, seed=1, **FEWEST).log_p)
        assert all(torch.equal(v, state[n]) for n, v in vae.state_dict().items())
        assert all(p.grad is None for p in vae.parameters())


def test_refusals():
    vae = VAE((4,), 6)
    with pytest.raises(UsageError, match="good to 5 latent dimensions, and this model has 6: take method ais"):
        appendix_d(vae.model, vae.guide, torch.ones(2, 4))
    vae = VAE((4,), 2)
    for options in ({"num_samples": 49}, {"hmc": HMC(num_chains=1)}, {"probability": 1.0}, {"max_rows": 0}):
        with pytest.raises(UsageError, match="need num_samples >= 50"):
            appendix_d(vae.model, vae.guide, torch.ones(2, 4), **options)
