"""`importance` and `log_marginal` on any Pyro pair: shapes, masks, scales, plates, chunks, health, refusals."""

import math
import warnings
from importlib.metadata import version

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.importance import psis_diagnostic
from torch import nn

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.evidence import Evidence, bound, log_marginal
from pyro_vae.evidence.importance_sampling import _Sums
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import importance
from pyro_vae.statistics import pareto
from pyro_vae.statistics.pareto import pareto_k_of_tail, smooth_tail, tail_kept
from tests.support.suites import slow_but


def two_layer_model(x):
    """A user's own program: two latent sites and a factor of pixels in a plate of their own."""
    with pyro.plate("data", len(x), dim=-1):
        top = pyro.sample("top", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        z = pyro.sample("z", dist.Normal(top, 0.5).to_event(1))
        mean = z.sum(-1)
        with pyro.plate("pixels", x.shape[-1], dim=-2):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x.T)


def two_layer_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.mean(-1, keepdim=True).expand(-1, 2) / 2, 0.8).to_event(1))
        pyro.sample("top", dist.Normal(z * 0.8, 0.6).to_event(1))


def exact_two_layer(x):
    """z = top + e: each x_d = sum(z) + noise, so x is normal with covariance 2 (1 + 0.25) 11^T + I."""
    d = x.shape[-1]
    covariance = 2.5 * torch.ones(d, d) + torch.eye(d)
    return torch.distributions.MultivariateNormal(torch.zeros(d), covariance).log_prob(x)


def normal_pair(scale=1.0, width=1.2):
    """z ~ N(0, 1), x ~ N(z, scale); guide of a chosen width around the posterior mean."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        variance = 1 / (1 + scale**-2)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x * variance / scale**2, width * variance**0.5).to_event(1))

    return model, guide


def rounds_down():
    """Whether the ArviZ that is installed rounds the length of the tail down."""
    return int(version("arviz").partition(".")[0]) >= 1


@pytest.fixture
def tail_of_arviz(monkeypatch):
    """As many weights in the tail as the ArviZ that is installed takes."""
    if rounds_down():
        monkeypatch.setattr(pareto, "tail_length", lambda num: int(min(num / 5, 3 * num**0.5)))


class TestImportance:
    def test_two_latent_sites_and_an_inner_plate(self):
        x = torch.randn(5, 3)
        samples = importance(two_layer_model, two_layer_guide, x, num_particles=7, max_plate_nesting=2)
        assert samples.log_weights.shape == samples.kl.shape == (7, 5)
        assert set(samples.latents) == {"z", "top"}
        evidence = log_marginal(two_layer_model, two_layer_guide, x, num_particles=20_000, max_plate_nesting=2)
        assert ((evidence.log_p - exact_two_layer(x)).abs() < 5 * evidence.standard_error).all()

    def test_a_datum_does_not_see_another(self):
        vae = VAE((4,), latent_dim=2)
        x = torch.rand(6, 4).round()
        values = importance(vae.model, vae.guide, x, num_particles=3).latents
        from pyro_vae.inference.weighing import weigh

        whole = weigh(vae.model, values, x)[0]
        for i in range(6):
            alone = weigh(vae.model, {"z": values["z"][:, i : i + 1]}, x[i : i + 1])[0]
            torch.testing.assert_close(whole[:, i : i + 1], alone)

    def test_scales_are_ignored_and_masks_count(self):
        model, guide = normal_pair()
        x = torch.randn(4, 1)
        pyro.set_rng_seed(0)
        plain = importance(model, guide, x, num_particles=5)
        pyro.set_rng_seed(0)
        scaled = importance(poutine.scale(model, 3.0), poutine.scale(guide, 3.0), x, num_particles=5)
        torch.testing.assert_close(plain.log_weights, scaled.log_weights)
        pyro.set_rng_seed(0)
        masked = importance(poutine.mask(model, torch.tensor([True, False, True, True])), guide, x, num_particles=5)
        assert (masked.log_likelihood[:, 1] == 0).all() and (masked.log_likelihood[:, 0] != 0).all()

    def test_subsampling_does_not_scale(self):
        """A plate that scales by N / B for training must not enter log p(x), as it does in Pyro's RenyiELBO."""

        def model(x):
            with pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        x = torch.randn(3, 1)
        evidence = log_marginal(model, normal_pair()[1], x, num_particles=2000)
        exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(x.squeeze(-1)).double()
        assert ((evidence.log_p - exact).abs() < 5 * evidence.standard_error).all()

    def test_gradients_flow(self):
        vae = VAE((4,), latent_dim=2)
        importance(vae.model, vae.guide, torch.ones(3, 4), num_particles=2).log_weights.sum().backward()
        assert all(p.grad is not None for p in vae.parameters())

    def test_refusals(self):
        vae, x = VAE((4,), latent_dim=2), torch.ones(3, 4)
        with pytest.raises(UsageError, match="num_particles must be at least 1"):
            importance(vae.model, vae.guide, x, num_particles=0)

        def outside(x):
            pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

        with pytest.raises(UsageError, match="'z' of the guide is not in a data plate"):
            importance(vae.model, outside, x, num_particles=2)
        with pytest.raises(UsageError, match=r"latent sites .*'z'"):
            importance(two_layer_model, guide_of("top"), x, num_particles=2, max_plate_nesting=2)
        with pytest.raises(UsageError, match="not sites of the model"):
            importance(vae.model, guide_of("z", "w"), x, num_particles=2)
        with pytest.raises(UsageError, match="no sample site"):
            importance(vae.model, lambda x: None, x, num_particles=2)


def guide_of(*names):
    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            for name in names:
                pyro.sample(name, dist.Normal(torch.zeros(2), 1.0).to_event(1))

    return guide


class TestLogMarginal:
    @pytest.fixture
    def vae(self):
        return VAE((4,), latent_dim=2).double()

    @pytest.fixture
    def x(self):
        return torch.rand(120, 4).round().double()

    @pytest.mark.parametrize("max_rows", [1, 77, 1000, 10**6])
    def test_does_not_depend_on_chunks(self, vae, x, max_rows):
        few = x[:55]
        a = log_marginal(vae.model, vae.guide, few, num_particles=300)
        b = log_marginal(vae.model, vae.guide, few, num_particles=300, max_rows=max_rows)
        for name in ("log_p", "standard_error", "ess", "pareto_k", "elbo"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("n", [1, 49, 50, 51, 99])
    def test_does_not_depend_on_the_data_that_follow(self, vae, x, n):
        whole = log_marginal(vae.model, vae.guide, x, num_particles=60)
        part = log_marginal(vae.model, vae.guide, x[:n], num_particles=60)
        torch.testing.assert_close(part.log_p, whole.log_p[:n], rtol=1e-9, atol=1e-9)

    def test_seed(self, vae, x):
        first, again, other = (log_marginal(vae.model, vae.guide, x, num_particles=30, seed=s) for s in (0, 0, 1))
        assert torch.equal(first.log_p, again.log_p) and not torch.equal(first.log_p, other.log_p)

    def test_uses_as_many_particles_as_asked(self, x):
        """Counts the decoder's rows."""
        for num_particles in (1, 249, 250, 251, 600):
            vae, rows = VAE((4,), latent_dim=2).double(), []
            vae.decoder.register_forward_hook(
                lambda module, inputs, output, rows=rows: rows.append(output[..., 0, 0].numel())
            )
            log_marginal(vae.model, vae.guide, x[:7], num_particles=num_particles)
            assert sum(rows) == 7 * num_particles

    def test_never_moves_a_weight_nor_the_training_mode_nor_the_generator(self, x):
        vae = VAE((4,), latent_dim=2).double()
        vae.decoder.output = nn.Sequential(vae.decoder.output, nn.Dropout(0.5), nn.BatchNorm1d(4, dtype=torch.float64))
        vae.decoder.forward = lambda z: vae.decoder.output(vae.decoder.hidden(z).flatten(0, -2)).reshape(
            *z.shape[:-1], 1, 4
        )
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        results = []
        for mode in (True, False):
            vae.train(mode)
            results.append(log_marginal(vae.model, vae.guide, x[:9], num_particles=40).log_p)
            assert vae.training is mode and vae.decoder.output[1].training is mode
        assert torch.equal(torch.rand(2), expected)
        assert torch.equal(*results)
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())

    def test_extra_arguments_follow_the_data(self, vae, x):
        mask = torch.rand(120, 4) < 0.5
        evidence = log_marginal(vae.model, vae.guide, x, mask, num_particles=40)
        alone = log_marginal(vae.model, vae.guide, x[:60], mask[:60], num_particles=40)
        torch.testing.assert_close(evidence.log_p[:60], alone.log_p)
        nothing = log_marginal(vae.model, vae.guide, x, torch.zeros_like(mask), num_particles=4000)
        assert (nothing.log_p.abs() < 5 * nothing.standard_error + 1e-12).all()  # p of nothing is 1

    def test_averages_and_errors(self):
        log_p, error = torch.tensor([1.0, 2.0, 6.0]).double(), torch.tensor([0.1, 0.2, 0.2]).double()
        k = torch.tensor([0.1, 0.9, math.nan]).double()
        evidence = Evidence(log_p, error, torch.ones(3), k, log_p - 1, num_particles=5000, seed=0)
        assert evidence.mean == pytest.approx(3) and evidence.elbo_mean == pytest.approx(2)
        assert evidence.standard_error_data == pytest.approx(np.std([1, 2, 6], ddof=1) / 3**0.5)
        assert evidence.standard_error_monte_carlo == pytest.approx(0.3 / 3)
        assert evidence.threshold == 0.5 and evidence.unreliable == pytest.approx(2 / 3)
        assert "at least 0.1000, k-hat > 0.50 for 66.7%, flagged 66.7%, THE MEAN TOO" in repr(evidence)

    def test_one_particle_and_one_datum(self, vae, x):
        evidence = log_marginal(vae.model, vae.guide, x[:1], num_particles=1)
        torch.testing.assert_close(evidence.log_p, evidence.elbo)
        assert evidence.standard_error.isnan().all() and evidence.unreliable == 1
        assert math.isnan(evidence.standard_error_data)

    def test_memory_is_bounded_by_rows_whatever_k(self, x):
        """The largest run of the decoder stays below `max_rows`, and what is kept grows as sqrt(K)."""
        vae, rows = VAE((4,), latent_dim=2).double(), []
        vae.decoder.register_forward_hook(lambda module, inputs, output: rows.append(output[..., 0, 0].numel()))
        log_marginal(vae.model, vae.guide, x[:50], num_particles=1000, max_rows=500)
        assert max(rows) <= 500
        assert tail_kept(10**8) < 10**6

    def test_refusals(self, vae, x):
        for name in ("num_particles", "max_rows"):
            with pytest.raises(UsageError, match=f"{name}: expected at least 1, got 0"):
                log_marginal(vae.model, vae.guide, x, **{name: 0})
        with pytest.raises(UsageError, match="data: expected at least 1, got 0"):
            log_marginal(vae.model, vae.guide, x[:0])
        broken = x.clone()
        broken[57] = math.nan
        with pytest.raises(DataError, match=r"outside the support .* the first is nan at \(57, 0\)"):
            log_marginal(vae.model, vae.guide, broken, num_particles=10)
        with pytest.raises(NumericalError, match="datum 57 is nan"):  # programs that do not say what they allow
            log_marginal(lambda x: vae.model(x), lambda x: vae.guide(x), broken, num_particles=10)


class TestParetoK:
    def test_known_shape(self):
        """Weights with an exact Pareto tail: k is found within 0.15 (about 5 standard deviations at this K)."""
        rng = np.random.default_rng(0)
        for k in (0.3, 0.5, 0.9):
            log_w = -k * np.log(rng.uniform(size=(20, 20_000)))
            top = np.sort(log_w, -1)[:, -tail_kept(20_000) :]
            assert abs(pareto_k_of_tail(top, 20_000).mean() - k) < 0.15 / 20**0.5 * 3

    @pytest.mark.parametrize("num_particles", [30, 100, 400, 1000, 5000, 10_000, 50_000])
    def test_tail_alone_gives_the_same_as_all_weights(self, num_particles):
        log_w = np.random.default_rng(1).standard_normal((4, num_particles)) * np.array([[0.3], [1], [2], [5]])
        kept = np.sort(log_w, -1)[:, -tail_kept(num_particles) :]
        assert np.array_equal(pareto_k_of_tail(kept, num_particles), pareto_k_of_tail(log_w, num_particles))

    @pytest.mark.parametrize("num_particles", [30, 100, 400, 2500, 10_000])
    def test_it_is_arvizs(self, num_particles):
        """Where K / 5 or 3 sqrt(K) is whole: ArviZ 0.x rounds the length of the tail up, as here, and 1.x down."""
        self._is_arvizs(num_particles)

    @pytest.mark.parametrize("num_particles", [99, 226, 500, 5000])
    @pytest.mark.usefixtures("tail_of_arviz")
    def test_the_length_of_the_tail_is_all_that_differs(self, num_particles):
        """Where it is not whole, with as many weights in the tail as the ArviZ that is installed takes."""
        self._is_arvizs(num_particles)

    @pytest.mark.skipif(not rounds_down(), reason="ArviZ 0.x rounds the length of the tail up, as this package does")
    def test_one_weight_in_the_tail_makes_a_difference(self):
        log_w = np.random.default_rng(2).standard_normal((200, 5000)) * 2
        difference = np.abs(pareto_k_of_tail(log_w, 5000) - psis_of_arviz(log_w)[1])
        assert 0 < difference.max() < 0.05

    def _is_arvizs(self, num_particles):
        log_w = np.random.default_rng(2).standard_normal((4, num_particles)) * np.array([[0.3], [1], [2], [5]])
        np.testing.assert_allclose(pareto_k_of_tail(log_w, num_particles), psis_of_arviz(log_w)[1], rtol=1e-12)

    def test_ties_and_weights_of_zero_are_arvizs(self):
        """A tail of few different weights; and one whose cutoff is a weight of zero."""
        log_w = np.round(np.random.default_rng(3).standard_normal((3, 400)), 1)
        log_w[1, :370], log_w[2, :397] = -np.inf, -np.inf
        k = pareto_k_of_tail(log_w, 400)
        np.testing.assert_allclose(k, psis_of_arviz(log_w)[1], rtol=1e-12)
        assert np.isfinite(k[:2]).all() and k[2] == np.inf

    def test_few_or_equal_weights(self):
        assert np.isnan(pareto_k_of_tail(np.zeros((2, 10)), 10)).all()
        assert (pareto_k_of_tail(np.full((2, 100), -3.0), 100) == -np.inf).all()

    def test_a_bad_datum_is_not_hidden_by_the_batch(self):
        """One datum far in the tail of its guide: flagged, and it alone."""
        model, guide = normal_pair(width=1.1)

        def too_narrow_for_one(x):
            width = torch.where(torch.arange(len(x)) == 3, 0.25, 1.1).unsqueeze(-1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x / 2, width * 0.5**0.5).to_event(1))

        evidence = log_marginal(model, too_narrow_for_one, torch.randn(8, 1), num_particles=4000)
        assert evidence.flagged.tolist() == [i == 3 for i in range(8)]
        assert log_marginal(model, guide, torch.randn(8, 1), num_particles=4000).unreliable == 0

    def test_a_joint_k_hat_hides_what_ours_shows(self):
        """Pyro's diagnostic weighs the whole batch with one weight: at some seeds all is well with it (below 0.7).

        One of 20 data has a guide of a fifth of its posterior's width; the others' are a little wide, which is healthy,
        but their noise covers its tail. Ours flags that datum, and it alone, at all of those seeds.
        """
        model, _ = normal_pair()

        def guide(x):
            width = torch.where(torch.arange(len(x)) == 3, 0.2, 1.3).unsqueeze(-1)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x / 2, width * 0.5**0.5).to_event(1))

        x, hidden = torch.randn(20, 1), 0
        for seed in range(12):
            pyro.set_rng_seed(seed)
            if psis_diagnostic(model, guide, x, num_particles=1000, max_plate_nesting=1) < 0.7:
                hidden += 1
                evidence = log_marginal(model, guide, x, num_particles=5000, seed=seed)
                assert evidence.flagged.tolist() == [i == 3 for i in range(20)]
        assert hidden


def psis_of_arviz(log_w):
    """The smoothed log-weights of ArviZ, normalised, and k. 0.x takes log-weights, 1.x their negatives."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        import arviz

        if hasattr(arviz, "psislw"):
            return arviz.psislw(log_w.copy())
        from arviz_stats.base import array_stats

        return array_stats.psislw(-log_w)


def smoothed_by_arviz(log_w):
    """The smoothed log-weights of ArviZ, not normalised."""
    normalised, lowest = psis_of_arviz(log_w)[0], log_w.argmin(-1)[:, None]
    return normalised + np.take_along_axis(log_w - normalised, lowest, -1)


class TestSmoothed:
    """Pareto-smoothed weights: those of ArviZ on all of them, from the largest and two sums alone."""

    @pytest.mark.parametrize("num_particles", [30, 400, 5000])
    @pytest.mark.usefixtures("tail_of_arviz")
    def test_the_estimate_is_arvizs_mean(self, num_particles):
        """Log-weights of light and of heavy tails, far from zero, in uneven parts."""
        spread = np.array([[0.3], [1], [2], [5]])
        log_w = np.random.default_rng(1).standard_normal((4, num_particles)) * spread - 700
        sums = _Sums(num_particles)
        for part in torch.from_numpy(log_w).T.split(17):
            sums.add(part, torch.zeros(()))
        log_p, error, ess, k, elbo, *_ = sums.result(0, smoothed=True)
        w = torch.from_numpy(smoothed_by_arviz(log_w))
        expected = torch.logsumexp(w, -1)
        torch.testing.assert_close(log_p, expected - math.log(num_particles), rtol=0, atol=1e-9)
        torch.testing.assert_close(ess, (2 * expected - torch.logsumexp(2 * w, -1)).exp(), rtol=1e-8, atol=0)
        plain = sums.result(0)
        assert torch.equal(k, plain[3]) and torch.equal(elbo, plain[4]) and (log_p != plain[0]).all()
        n = num_particles
        torch.testing.assert_close(error, ((1 / ess - 1 / n) * n / (n - 1)).sqrt())

    def test_order_is_kept(self):
        log_w = np.random.default_rng(1).standard_normal((3, 1000)) * 2
        smoothed, _ = smooth_tail(log_w, 1000)
        assert (np.argsort(smoothed, -1) == np.argsort(log_w, -1)).mean() > 0.99
        assert (smoothed.max(-1) <= log_w.max(-1) + 1e-9).all()
        body = np.argsort(log_w, -1)[:, :-100]
        assert np.array_equal(np.take_along_axis(smoothed, body, -1), np.take_along_axis(log_w, body, -1))

    def test_the_tail_is_the_fitted_pareto(self):
        """Weights of an exact Pareto tail: the smoothed ones are its quantiles, within the noise of the fit."""
        log_w = -0.5 * np.log(np.random.default_rng(0).uniform(size=(1, 20_000)))
        smoothed, k = smooth_tail(np.sort(log_w, -1)[:, -tail_kept(20_000) :], 20_000)
        tail = np.sort(smoothed, -1)[0, -400:-40]
        rank = np.arange(400, 40, -1) - 0.5
        assert abs(tail + 0.5 * np.log(rank / 20_000)).max() < 0.1 and abs(k[0] - 0.5) < 0.15

    def test_less_noise_where_the_tail_is_heavy(self):
        """k = 0.75: over 400 data the smoothed estimates are closer to the truth, at every one of 3 seeds."""
        model, guide = normal_pair(width=0.5)
        x = torch.randn(400, 1)
        exact = torch.distributions.Normal(0.0, 2**0.5).log_prob(x.squeeze(-1)).double()
        for seed in range(3):
            found = [log_marginal(model, guide, x, num_particles=250, seed=seed, smoothed=s) for s in (True, False)]
            smoothed, plain = ((e.log_p - exact).square().mean().sqrt().item() for e in found)
            assert smoothed < plain
        assert found[0].method == "psis" and found[0].bound == "consistent" and "psis: log p(x)" in repr(found[0])
        assert found[1].method == "importance" and found[1].bound == "lower" and "method" not in found[1].summary()

    def test_equal_or_few_weights_are_left_alone(self):
        sums = _Sums(100)
        sums.add(torch.full((100, 2), -3.0), torch.zeros(()))
        assert sums.result(0, smoothed=True)[0].tolist() == pytest.approx([-3.0, -3.0])
        sums = _Sums(10)
        sums.add(torch.randn(10, 2), torch.zeros(()))
        torch.testing.assert_close(sums.result(0, smoothed=True)[0], sums.result(0)[0])

    def test_weights_of_zero(self):
        """Half of the draws where p(x, z) = 0, and nearly all: a number, and never nan."""
        for zeros in (500, 990):
            log_w = torch.randn(1000, 3, dtype=torch.float64)
            log_w[:zeros] = -torch.inf
            sums = _Sums(1000)
            sums.add(log_w, torch.zeros(()))
            smoothed, plain = (sums.result(0, smoothed=s)[0] for s in (True, False))
            assert (smoothed - plain).abs().max() < 0.5

    def test_ties_at_the_top_are_no_heavy_tail(self):
        """Bounded weights, many of them at the bound: what a tail can do no better than."""
        log_w = np.where(np.random.default_rng(0).uniform(size=(2, 1000)) < 0.9, 0.1, -np.inf)
        kept = np.sort(log_w, -1)[:, -tail_kept(1000) :]
        smoothed, k = smooth_tail(kept, 1000)
        assert (k == -np.inf).all() and np.array_equal(smoothed, kept)
        assert np.isnan(smooth_tail(np.full((1, tail_kept(1000)), -np.inf), 1000)[1]).all()

    @pytest.mark.parametrize("max_rows", [7, 10**6])
    def test_does_not_depend_on_chunks(self, max_rows):
        vae, x = VAE((4,), latent_dim=2).double(), torch.rand(55, 4).round().double()
        a = log_marginal(vae.model, vae.guide, x, num_particles=300, smoothed=True)
        b = log_marginal(vae.model, vae.guide, x[:52], num_particles=300, smoothed=True, max_rows=max_rows)
        torch.testing.assert_close(a.log_p[:52], b.log_p, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("particles", slow_but([500], [500, 2000]))
def test_bound_agrees_with_log_marginals_elbo(particles):
    """Two estimates of one number from different draws, 120 data: within 5 standard errors."""
    vae, x = VAE((4,), latent_dim=2).double(), torch.rand(120, 4).round().double()
    a = bound(vae.model, vae.guide, x, num_particles=particles).elbo.mean()
    b = log_marginal(vae.model, vae.guide, x, num_particles=particles).elbo.mean()
    spread = importance(vae.model, vae.guide, x, num_particles=particles).log_weights.std(0)
    assert (a - b).abs() < 5 * (2 * spread.square().sum() / particles).sqrt() / 120


def test_evaluation_mode_restores_each_module_on_error():
    vae = VAE((4,), latent_dim=2).train()
    vae.encoder.eval()
    with pytest.raises(RuntimeError), evaluation_mode(vae.model, vae.guide):
        assert not vae.decoder.training
        raise RuntimeError
    assert vae.training and vae.decoder.training and not vae.encoder.training
