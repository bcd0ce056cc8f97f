"""`pyro_vae.inference.posteriors` against the exact posterior of probabilistic PCA, with a guide that is off."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import Delta
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import posterior
from tests.evidence.test_importance_sampling import two_layer_guide, two_layer_model
from tests.support.guides import off_by


def moments(draws, process, x):
    """How far the draws' means are from the exact ones in standard deviations, and the ratio of the deviations."""
    mean, covariance = process.posterior(x)
    sd = covariance.diagonal().sqrt()
    return (draws.mean(0) - mean) / sd, draws.std(0) / sd


class TestMoments:
    """Off by 0.7 standard deviations in each of 2 dimensions, and 1.3 times as wide."""

    vae, process = off_by(shift=0.7, width=1.3)
    x = process.sample(5, seed=1)

    @pytest.mark.parametrize("method", ["sir", "psis"])
    def test_resampled_draws_are_right(self, method):
        """Within 5 standard errors of ESS independent draws (20 numbers, a false alarm of 1e-5)."""
        found = posterior(self.vae.model, self.vae.guide, self.x, num_draws=4000, method=method)
        assert found.draws["z"].shape == (4000, 5, 2)
        shift, ratio = moments(found.draws["z"], self.process, self.x)
        error = 5 / found.ess[:, None].sqrt()
        assert (shift.abs() < error).all() and ((ratio - 1).abs() < error).all()
        assert error.max() < 0.15 and not found.flagged.any()

    def test_the_guides_own_draws_are_wrong_and_flagged(self):
        found = posterior(self.vae.model, self.vae.guide, self.x, num_draws=4000, method="guide")
        shift, ratio = moments(found.draws["z"], self.process, self.x)
        assert ((shift - 0.7).abs() < 0.12).all() and ((ratio - 1.3).abs() < 0.1).all()
        assert not found.weights.heavy.any() and found.flagged.all()  # k-hat alone would have passed them

    def test_hmc_is_right(self):
        """Within 5 standard errors of ESS independent draws, from the same guide."""
        sizes = {"num_draws": 400, "hmc": HMC(num_warmup=100, num_leapfrog=5)}
        found = posterior(self.vae.model, self.vae.guide, self.x[:2], method="hmc", **sizes)
        assert found.draws["z"].shape == (400, 2, 2) and found.num_chains == 4 and found.weights is None
        shift, ratio = moments(found.draws["z"], self.process, self.x[:2])
        error = 5 / found.ess[:, None].sqrt()
        assert (shift.abs() < error).all() and ((ratio - 1).abs() < error).all() and error.max() < 0.6
        torch.testing.assert_close(found.draws["z"].unflatten(0, (4, 100)).transpose(0, 1), found.chains.draws)
        assert found.r_hat.shape == (2,) and "4 chains" in repr(found) and found.flagged.shape == (2,)

    def test_an_exact_guide_is_not_flagged(self):
        vae, process = off_by()
        found = posterior(vae.model, vae.guide, process.sample(3, seed=1), num_draws=500, method="guide")
        assert not found.flagged.any() and found.unreliable == 0
        torch.testing.assert_close(found.ess, torch.full((3,), 5000.0).double())

    def test_a_guide_that_misses_the_tails_is_flagged(self):
        vae, process = off_by(width=0.2)
        x = process.sample(10, seed=1)
        assert posterior(vae.model, vae.guide, x, num_draws=10, method="psis").unreliable > 0.8


class TestResampling:
    vae, process = off_by(shift=0.7, width=1.3)
    x = process.sample(60, seed=1)

    def test_each_draw_is_taken_in_proportion_to_its_weight(self):
        """Systematic: `num_draws w` times, rounded up or down; the weights are those of log p(x)."""
        found = posterior(self.vae.model, self.vae.guide, self.x[:2], num_draws=3000, method="sir", num_particles=300)
        every = posterior(self.vae.model, self.vae.guide, self.x[:2], num_draws=300, method="guide", num_particles=300)
        expected = 3000 * every.weights.log_weights.softmax(0)
        for datum in range(2):
            same = found.draws["z"][:, None, datum, 0] == every.draws["z"][None, :, datum, 0]
            assert same.any(1).all() and ((same.sum(0) - expected[:, datum]).abs() < 1 + 1e-9).all()
        evidence = log_marginal(self.vae.model, self.vae.guide, self.x[:2], num_particles=300)
        torch.testing.assert_close(every.weights.ess, evidence.ess)
        torch.testing.assert_close(every.weights.pareto_k, evidence.pareto_k)

    def test_the_draws_come_with_their_own_weights(self):
        found = posterior(self.vae.model, self.vae.guide, self.x[:3], num_draws=50, num_particles=600)
        from pyro_vae.inference.weighing import log_density, sites_at, weigh

        likelihood, prior = weigh(self.vae.model, found.draws, self.x[:3])
        log_guide = log_density(sites_at(self.vae.guide, found.draws, self.x[:3], role="guide").values())
        torch.testing.assert_close(found.weights.log_weights, likelihood + prior - log_guide)

    def test_the_order_is_random(self):
        z = posterior(self.vae.model, self.vae.guide, self.x[:1], num_draws=2000).draws["z"][:, 0, 0]
        assert abs(torch.corrcoef(torch.stack([z[1:], z[:-1]]))[0, 1]) < 5 / 2000**0.5

    def test_smoothing_keeps_one_draw_from_being_all(self):
        vae, process = off_by(width=0.3)
        x = process.sample(20, seed=1)
        plain, smoothed = (posterior(vae.model, vae.guide, x, num_draws=9, method=m).ess for m in ("sir", "psis"))
        assert smoothed.median() > plain.median()

    @pytest.mark.parametrize("method", ["guide", "sir", "psis"])
    def test_a_datum_in_any_company(self, method):
        sizes = {"num_draws": 40, "method": method, "num_particles": 300}
        whole = posterior(self.vae.model, self.vae.guide, self.x, **sizes)
        part = posterior(self.vae.model, self.vae.guide, self.x[:52], max_rows=100, **sizes)
        other = posterior(self.vae.model, self.vae.guide, self.x, seed=1, **sizes)
        assert torch.equal(whole.draws["z"][:, :52], part.draws["z"])
        torch.testing.assert_close(whole.weights.pareto_k[:52], part.weights.pareto_k)
        assert not torch.equal(whole.draws["z"], other.draws["z"])


def test_several_sites_and_an_inner_plate():
    x = torch.randn(4, 3)
    sizes = {"num_draws": 30, "num_particles": 300}
    found = posterior(two_layer_model, two_layer_guide, x, max_plate_nesting=2, **sizes)
    assert {name: value.shape for name, value in found.draws.items()} == {"z": (30, 1, 4, 2), "top": (30, 1, 4, 2)}
    vae = HierarchicalVAE((4,), latent_dims=(3, 2))
    shapes = {k: v.shape for k, v in posterior(vae.model, vae.guide, torch.ones(4, 4), **sizes).draws.items()}
    assert shapes == {"z1": (30, 4, 3), "z2": (30, 4, 2)}


def test_a_context_by_name():
    vae, x = VAE((4,), latent_dim=2, context=(3,)), torch.ones(5, 4)
    c = torch.eye(3)[[0, 1, 2, 0, 1]]
    sizes = {"num_draws": 10, "num_particles": 50}
    whole = posterior(vae.model, vae.guide, x, c=c, **sizes).draws["z"]
    assert torch.equal(whole[:, :1], posterior(vae.model, vae.guide, x[:1], c=c[:1], **sizes).draws["z"])


def test_nothing_is_changed():
    vae = VAE((4,), latent_dim=2)
    state, before = {k: v.clone() for k, v in vae.state_dict().items()}, torch.get_rng_state()
    done = []
    posterior(vae.model, vae.guide, torch.ones(60, 4), num_draws=5, num_particles=20, progress=done.append)
    posterior(vae.model, vae.guide, torch.ones(2, 4), num_draws=8, hmc=HMC(num_warmup=2, num_leapfrog=2), method="hmc")
    assert vae.training and done == [50, 60] and torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) and value.grad is None for name, value in vae.state_dict().items())


def test_refusals():
    vae, x = VAE((4,), latent_dim=2), torch.ones(3, 4)
    with pytest.raises(UsageError, match="'guide', 'sir', 'psis', 'hmc', got 'mcmc'"):
        posterior(vae.model, vae.guide, x, method="mcmc")
    with pytest.raises(UsageError, match="num_draws 0"):
        posterior(vae.model, vae.guide, x, num_draws=0)
    point = VAE((4,), latent_dim=2, guide=Delta)
    with pytest.raises(UsageError, match="'z' of the guide is a Delta"):
        posterior(point.model, point.guide, x)

    def nowhere(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z.sum(-1) * float("nan"), 1.0), obs=x[:, 0])

    with pytest.raises(NumericalError, match="log-weights of datum 0"):
        posterior(nowhere, vae.guide, x)
