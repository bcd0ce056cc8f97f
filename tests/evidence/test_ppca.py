"""Truth in closed form: every estimator and objective on probabilistic PCA."""

from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from pyro_vae.evidence import bound, log_marginal
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.inference.weighing import importance
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Cosine
from pyro_vae.training.fitting import fit
from tests.support.ppca import make_exact, truth, vae_of


@pytest.fixture
def process():
    return truth()


@pytest.fixture
def exact(process):
    return make_exact(vae_of(process), process)


@pytest.fixture
def x(process):
    return process.sample(64, seed=1)


class TestExactPosterior:
    """With the exact posterior as guide every log-weight is log p(x), whatever the draw."""

    def test_log_weights(self, process, exact, x):
        samples = importance(exact.model, exact.guide, x, num_particles=20)
        assert samples.log_weights.shape == (20, 64)
        torch.testing.assert_close(samples.log_weights, process.log_prob(x).expand(20, 64), rtol=0, atol=1e-9)

    def test_log_weights_in_single_precision(self, process, exact, x):
        samples = importance(exact.float().model, exact.guide, x.float(), num_particles=20)
        torch.testing.assert_close(samples.log_weights.double(), process.log_prob(x).expand(20, 64), rtol=0, atol=1e-4)

    @pytest.mark.parametrize("num_particles", [2, 100, 5000])
    def test_log_marginal(self, process, exact, x, num_particles):
        evidence = log_marginal(exact.model, exact.guide, x, num_particles=num_particles)
        torch.testing.assert_close(evidence.log_p, process.log_prob(x), rtol=0, atol=1e-9)
        torch.testing.assert_close(evidence.elbo, process.log_prob(x), rtol=0, atol=1e-9)
        assert evidence.standard_error.max() < 1e-6
        torch.testing.assert_close(evidence.ess, torch.full((64,), float(num_particles)).double())
        if num_particles >= 100:
            assert (evidence.pareto_k == -torch.inf).all() and evidence.unreliable == 0

    @pytest.mark.parametrize("analytic_kl", [False, True])
    @pytest.mark.parametrize("num_particles", [1, 4])
    def test_objective(self, process, exact, x, analytic_kl, num_particles):
        """The ELBO is log p(x) without noise (a dense normal has no closed-form KL in torch, so both ways sample)."""
        loss = ELBO(num_particles=num_particles, analytic_kl=analytic_kl)(exact.model, exact.guide, x)
        torch.testing.assert_close(loss, -process.log_prob(x).sum(), rtol=0, atol=1e-7)

    def test_gradient_of_the_guide_vanishes_on_average(self, exact, x):
        """At the exact posterior the expected gradient is zero; 300 draws, each of 72 entries within 5.5 se: < 3e-6."""
        parameters = list(exact.encoder.parameters())
        draws = []
        for _ in range(300):
            gradients = torch.autograd.grad(ELBO()(exact.model, exact.guide, x), parameters)
            draws.append(torch.cat([g.reshape(-1) for g in gradients]))
        stacked = torch.stack(draws)
        assert (stacked.mean(0).abs() < 5.5 * stacked.std(0) / 300**0.5).all()


class TestAnyGuide:
    """With another guide: the ELBO in closed form, importance sampling within its own stated error."""

    @pytest.fixture
    def vae(self, process):
        return vae_of(process, guide=DiagonalNormal)

    def exact_elbo(self, vae, process, x):
        q = vae.encode(x).base_dist
        gap = kl_divergence(MultivariateNormal(q.loc, torch.diag_embed(q.scale**2)), self.posterior(process, x))
        return process.log_prob(x) - gap

    def posterior(self, process, x):
        mean, covariance = process.posterior(x)
        return MultivariateNormal(mean, covariance)

    def test_elbo_and_its_terms(self, process, vae, x):
        """20,000 draws for each datum, mean over 64: within 5 standard errors, measured from 20 repeats."""
        draws = [bound(vae.model, vae.guide, x, num_particles=1000, seed=s) for s in range(20)]
        means = torch.stack([d.elbo.mean() for d in draws])
        expected = self.exact_elbo(vae, process, x).mean()
        assert (means.mean() - expected).abs() < 5 * means.std() / 20**0.5
        kl = kl_divergence(vae.encode(x).base_dist, Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())).sum(
            -1
        )
        got = torch.stack([d.kl.mean() for d in draws])
        assert (got.mean() - kl.mean()).abs() < 5 * got.std() / 20**0.5
        torch.testing.assert_close(draws[0].elbo, draws[0].reconstruction - draws[0].kl)

    @pytest.mark.parametrize("analytic_kl", [False, True])
    def test_gradient_of_the_elbo(self, process, vae, x, analytic_kl):
        """Unbiased for the gradient of the closed form: 400 draws, each of 42 entries within 5.5 se: < 2e-6."""
        parameters = list(vae.encoder.parameters())
        expected = torch.autograd.grad(-self.exact_elbo(vae, process, x).sum(), parameters)
        flat = torch.cat([g.reshape(-1) for g in expected])
        draws = []
        for _ in range(400):
            gradients = torch.autograd.grad(ELBO(analytic_kl=analytic_kl)(vae.model, vae.guide, x), parameters)
            draws.append(torch.cat([g.reshape(-1) for g in gradients]))
        stacked = torch.stack(draws)
        assert ((stacked.mean(0) - flat).abs() < 5.5 * stacked.std(0) / 400**0.5).all()

    def test_standard_errors_cover(self, process):
        """z = (estimate - truth) / se over 1,000 data with healthy weights is standard normal.

        The variance of 1,000 z-scores lies in 1 +- 0.25 and 95 % intervals cover 0.95 +- 0.035: five standard
        deviations each (sqrt(2/1000) = 0.045, sqrt(.95 * .05 / 1000) = 0.0069): false alarm below 1e-5.
        """
        vae = make_exact(vae_of(process), process)
        with torch.no_grad():  # a guide a little too wide: finite variance, known to be well behaved
            vae.encoder.output.bias[3:6] += 0.15
        x = process.sample(1000, seed=2)
        evidence = log_marginal(vae.model, vae.guide, x, num_particles=1000)
        z = (evidence.log_p - process.log_prob(x)) / evidence.standard_error
        assert evidence.unreliable < 0.02
        assert 0.75 < z.var() < 1.25
        assert 0.915 < (z.abs() < 1.96).double().mean() < 0.985
        error = evidence.standard_error_monte_carlo
        assert abs(evidence.mean - process.log_prob(x).mean().item()) < 5 * error

    @pytest.mark.slow
    @pytest.mark.parametrize("guide", [DiagonalNormal, FullNormal])
    def test_trained_guide_is_within_two_hundredths_of_a_nat(self, guide):
        """A guide trained from scratch, decoder frozen: importance sampling at K = 5000 finds log p(x)."""
        process = truth(dim=5, latent=2, scale=1.0)
        vae = vae_of(process, guide=guide, hidden=(32,))
        vae.decoder.requires_grad_(False)
        adam = partial(torch.optim.Adam, lr=2e-2)
        fit(vae, process.sample(2000, seed=3), epochs=60, optimizer=adam, lr_schedule=Cosine(), progress=False)
        x = process.sample(200, seed=4)
        evidence = log_marginal(vae.model, vae.guide, x, num_particles=5000)
        assert abs(evidence.mean - process.log_prob(x).mean().item()) < 0.02
        assert evidence.elbo_mean < evidence.mean

    def test_trained_from_scratch_reaches_the_truth(self):
        """Model and guide learned: the test log p(x) comes within 0.05 nats of the generating process's."""
        process = truth(dim=5, latent=2, scale=1.0)
        vae = vae_of(truth(dim=5, latent=2, scale=1.0, seed=9), hidden=(32,))
        adam = partial(torch.optim.Adam, lr=1e-2)
        fit(vae, process.sample(5000, seed=3), epochs=15, optimizer=adam, lr_schedule=Cosine(), progress=False)
        x = process.sample(500, seed=4)
        evidence = log_marginal(vae.model, vae.guide, x, num_particles=500)
        assert abs(process.log_prob(x).mean().item() - evidence.mean) < 0.05


def test_beta_does_not_move_the_evidence(process, x):
    """Training weights are not part of p(x, z): a scaled objective and scaled sites leave log p(x) as it is."""
    from pyro import poutine

    vae = vae_of(process)
    plain = log_marginal(vae.model, vae.guide, x, num_particles=50)
    scaled = log_marginal(poutine.scale(vae.model, 7.0), poutine.scale(vae.guide, 3.0), x, num_particles=50)
    torch.testing.assert_close(plain.log_p, scaled.log_p)


def test_beta_weighs_the_kl_alone(process, x):
    """loss(beta) is linear in beta with slope KL, by sampling and in closed form, at the same noise."""
    vae = vae_of(process, guide=DiagonalNormal, hidden=(4,))
    for analytic_kl in (False, True):
        losses = []
        for beta in (0.0, 0.5, 1.0, 3.0):
            with seeded(0):
                losses.append(ELBO(beta=beta, analytic_kl=analytic_kl)(vae.model, vae.guide, x).item())
        slopes = [(b - a) / (t - s) for a, b, s, t in zip(losses, losses[1:], (0, 0.5, 1), (0.5, 1, 3), strict=False)]
        assert slopes == pytest.approx([slopes[0]] * 3)
        if analytic_kl:
            q = vae.encode(x).base_dist
            zero = torch.zeros((), dtype=torch.float64)
            assert slopes[0] == pytest.approx(kl_divergence(q, Normal(zero, zero + 1)).sum().item())


def test_nonlinear_encoder_runs_once_a_call(process, x):
    """The guide's network sees each datum once, not once a particle."""
    vae = vae_of(process, hidden=(4,))
    rows = []
    vae.encoder.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape))
    importance(vae.model, vae.guide, x, num_particles=11)
    assert rows == [x.shape]
    assert isinstance(vae.encoder, MLP)
