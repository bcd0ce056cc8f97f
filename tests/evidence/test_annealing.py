"""`pyro_vae.evidence.annealing`: bounds against exact log p(x), what they do not depend on, and what is refused."""

import logging
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn

from pyro_vae.autoencoders import VAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.compiling.recording import record
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.evidence import annealing_path
from pyro_vae.evidence.annealing import ais, bdmc, reverse_ais
from pyro_vae.evidence.annealing_results import AnnealedEvidence, Annealing
from pyro_vae.guides import Delta, DiagonalNormal, FullNormal, InverseAutoregressiveFlow
from pyro_vae.inference.simulating import simulate
from pyro_vae.messages import log_once
from pyro_vae.networks import MLP
from pyro_vae.priors import ConditionalNormal
from tests.evidence.test_importance_sampling import normal_pair, two_layer_guide, two_layer_model
from tests.evidence.test_quadrature_exact import quadrature
from tests.support.networks import Dropping
from tests.support.ppca import make_exact, truth, vae_of
from tests.support.suites import slow_but

QUICK = Annealing(num_temperatures=10, num_chains=4, num_leapfrog=2, start="prior")
GOOD = Annealing(num_temperatures=150, num_chains=32, num_leapfrog=3, start="prior")


@pytest.fixture(scope="module")
def process():
    return truth(dim=6, latent=2)


@pytest.fixture(scope="module")
def sandwich(process):
    """A sandwich on 20 data of probabilistic PCA, and their exact log p(x)."""
    result = bdmc(vae_of(process).model, vae_of(process).guide, 20, annealing=GOOD, seed=1)
    return result, process.log_prob(result.x)


class TestAgainstExactValues:
    def test_a_good_schedule_is_within_a_tenth_of_a_nat(self, sandwich):
        """The mean over 20 data, from below and from above; standard errors of the chains are 0.03: 3 of them."""
        result, exact = sandwich
        assert abs(result.lower.mean - exact.mean()) < 0.1 and abs(result.upper.mean - exact.mean()) < 0.1
        assert abs(result.gap.mean) < min(0.2, 4 * result.gap.standard_error_data + 0.05)
        assert not result.lower.flagged.any()
        assert ((result.lower.log_p - exact).abs() < 5 * result.lower.standard_error).all()

    def test_a_poor_schedule_is_wide_and_flagged_and_still_bounds(self, process):
        """Five temperatures: below and above the truth on average by more than chance (3 standard errors, 0.3%)."""
        vae = vae_of(process)
        result = bdmc(vae.model, vae.guide, 50, annealing=Annealing(5, 2, 2, "prior"))
        exact = process.log_prob(result.x)
        for difference in (exact - result.lower.log_p, result.upper.log_p - exact):
            assert difference.mean() > 3 * difference.std() / 50**0.5
        assert result.gap.mean > 1 and result.flagged.double().mean() > 0.8
        assert result.lower.unreliable > 0.5

    @pytest.mark.usefixtures("few_adapted")
    def test_weights_are_unbiased_forwards(self, process):
        """E[w] = p(x) for few temperatures and badly mixing chains: the mean of 1500 within 5 standard errors."""
        vae, x = vae_of(process), process.sample(3, seed=1).double()
        how = Annealing(12, 1500, 2, "prior")
        self.assert_unbiased((ais(vae.model, vae.guide, x, annealing=how).log_weights - process.log_prob(x)).exp())

    def test_weights_are_unbiased_backwards(self, process):
        """E[1/w] = 1 / p(x), over exact draws of one datum's posterior, one for each chain (5 standard errors)."""
        vae, x = vae_of(process), process.sample(1, seed=1).double()
        mean, covariance = process.posterior(x)
        torch.manual_seed(0)
        z = torch.distributions.MultivariateNormal(mean[0], covariance).sample((6, 50))
        how = Annealing(40, len(z), 2, "prior")
        many = x.expand(50, -1)
        result = reverse_ais(vae.model, vae.guide, many, latents={"z": z}, annealing=how)
        self.assert_unbiased((result.log_weights + process.log_prob(many)).exp().reshape(-1, 1))

    def assert_unbiased(self, ratios):
        error = ratios.std(0) / len(ratios) ** 0.5
        assert (error < 0.15).all() and ((ratios.mean(0) - 1).abs() < 5 * error).all()

    def test_two_dimensions_by_quadrature(self):
        """A Bernoulli decoder with steep weights, whose posteriors are far from normal: each of 8 data within 0.1."""
        torch.manual_seed(0)
        vae = VAE((12,), 2, decoder=partial(MLP, hidden=(8,))).double()
        with torch.no_grad():
            vae.decoder.output.weight.mul_(8.0)
        x = simulate(vae.model, torch.zeros(8, 12).double(), seed=3).x
        result = ais(vae.model, vae.guide, x, annealing=GOOD)
        exact = quadrature(vae, x)
        assert (result.log_p - exact).abs().mean() < 0.1
        assert ((result.log_p - exact).abs() < 5 * result.standard_error + 1e-3).all()

    @pytest.mark.usefixtures("few_adapted")
    def test_the_exact_guide_gives_log_p_in_every_chain(self, process):
        vae, x = make_exact(vae_of(process), process), process.sample(5, seed=1).double()
        how = Annealing(num_temperatures=3, num_chains=4, num_leapfrog=2, start="guide")
        result = ais(vae.model, vae.guide, x, annealing=how)
        assert torch.allclose(result.log_weights, process.log_prob(x).expand(4, -1), atol=1e-8)
        assert torch.allclose(result.ess, torch.full((5,), 4.0).double()) and result.standard_error.max() < 1e-6

    def test_a_wide_guide_needs_fewer_temperatures_than_the_prior(self, process):
        vae, x = make_exact(vae_of(process), process), process.sample(10, seed=1).double()
        with torch.no_grad():
            vae.encoder.output.bias[2:4] += 0.7  # twice the posterior's scale
        few = {"num_temperatures": 30, "num_chains": 8, "num_leapfrog": 3}
        guide, prior = (ais(vae.model, vae.guide, x, annealing=Annealing(**few, start=s)) for s in ("guide", "prior"))
        assert guide.spread.mean() < 0.7 * prior.spread.mean()
        assert (guide.log_p - process.log_prob(x)).abs().mean() < 0.2
        assert "from the guide" in repr(guide)

    def test_the_linear_schedule(self, process):
        vae, x = vae_of(process), process.sample(5, seed=1).double()
        how = Annealing(100, 32, 3, "prior", schedule="linear")
        result = ais(vae.model, vae.guide, x, annealing=how)
        assert ((result.log_p - process.log_prob(x)).abs() < 5 * result.standard_error).all()

    def test_a_positive_latent_and_a_context(self):
        """z ~ LogNormal, x ~ Poisson(c z): the Jacobian and the input by name count; exact by quadrature."""

        def model(x, c):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.LogNormal(torch.zeros((), dtype=torch.float64), 1.0))
                pyro.sample("x", dist.Poisson(c * z), obs=x)

        def guide(x, c):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Gamma((1 + x), 1 + c))

        x, c = torch.tensor([0.0, 3.0, 20.0, 9.0]).double(), torch.tensor([1.0, 2.0, 0.5, 3.0]).double()
        grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
        joint = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Poisson(c * grid.exp()).log_prob(x)
        exact = torch.logsumexp(joint, 0) + (grid[1] - grid[0]).log()
        for start in ("prior", "guide"):
            how = Annealing(num_temperatures=75, num_chains=64, num_leapfrog=4, start=start)
            result = ais(model, guide, x, c=c, annealing=how)
            assert ((result.log_p - exact).abs() < 5 * result.standard_error + 1e-3).all()
            assert (result.log_p - exact).abs().mean() < 0.2

    @pytest.mark.slow
    def test_from_a_flow(self, process):
        """The density of a flow away from its own draws, and its gradient."""
        vae, x = vae_of(process, partial(InverseAutoregressiveFlow, hidden=(4,), context=2)), process.sample(4, seed=1)
        with torch.no_grad():
            vae.encoder.output.weight.zero_()  # as wide as the prior
        result = ais(vae.model, vae.guide, x.double(), annealing=Annealing(150, 8, 3))
        assert not result.flagged.any()
        assert ((result.log_p - process.log_prob(x)).abs() < 5 * result.standard_error.clamp(min=0.02)).all()

    def test_two_sites_and_an_inner_plate(self):
        """x ~ N(0, 2.5 11^T + I) once the latents are integrated out."""
        x = torch.randn(5, 3)
        how = Annealing(num_temperatures=75, num_chains=32, num_leapfrog=3, start="guide")
        result = ais(two_layer_model, two_layer_guide, x, annealing=how, max_plate_nesting=2)
        covariance = 2.5 * torch.ones(3, 3) + torch.eye(3)
        exact = torch.distributions.MultivariateNormal(torch.zeros(3), covariance).log_prob(x)
        assert ((result.log_p - exact).abs() < 5 * result.standard_error + 1e-2).all()


@pytest.mark.usefixtures("few_adapted")
class TestWhatItDoesNotDependOn:
    def test_the_company_of_a_datum(self):
        vae, x = VAE((4,), 2).double(), torch.rand(60, 4).round()
        whole, some, same = (ais(vae.model, vae.guide, x[:n], annealing=QUICK).log_weights for n in (60, 7, 60))
        assert torch.allclose(whole[:, :7], some, atol=1e-9) and torch.equal(whole, same)
        assert whole.shape == (4, 60)
        other = ais(vae.model, vae.guide, torch.cat([x[:50], 1 - x[50:]]), annealing=QUICK).log_weights
        assert torch.equal(whole[:, :50], other[:, :50]) and not torch.equal(whole[:, 50:], other[:, 50:])

    def test_the_size_of_a_run_of_the_decoder(self):
        vae, x = VAE((4,), 2).double(), torch.rand(7, 4).round()
        whole, cut = (ais(vae.model, vae.guide, x, annealing=QUICK, max_rows=n).log_weights for n in (4096, 10))
        assert torch.allclose(whole, cut, atol=1e-9)

    def test_training_mode_the_generators_and_the_weights(self):
        vae, x = VAE((4,), 2, decoder=Dropping, encoder=Dropping).double(), torch.rand(7, 4).round()
        before = {name: p.detach().clone() for name, p in vae.named_parameters()}
        state = torch.get_rng_state()
        vae.eval()
        one = ais(vae.model, vae.guide, x, annealing=QUICK).log_p
        vae.train()
        two = ais(vae.model, vae.guide, x, annealing=QUICK).log_p
        bdmc(vae.model, vae.guide, 3, annealing=QUICK)
        assert torch.equal(one, two) and vae.training and vae.decoder.dropout.training
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(p, before[name]) and p.grad is None for name, p in vae.named_parameters())
        assert all(p.requires_grad for p in vae.parameters())

    def test_scales_for_training(self):
        """A KL weight, or N / B of a subsampled plate, scales sites: it is no part of log p(x)."""
        model, guide = normal_pair()
        x = torch.randn(4, 1)
        plain = ais(model, guide, x, annealing=QUICK)
        scaled = ais(poutine.scale(model, 3.0), poutine.scale(guide, 3.0), x, annealing=QUICK)
        assert torch.equal(plain.log_weights, scaled.log_weights)

    def test_the_seed_it_does_depend_on(self):
        vae, x = VAE((4,), 2), torch.rand(7, 4).round()
        one, two = (ais(vae.model, vae.guide, x, annealing=QUICK, seed=seed).log_p for seed in (0, 1))
        assert not torch.equal(one, two)


class TestPrograms:
    def test_a_mask_of_observed_elements(self, process):
        """What is not observed does not count: log p of the others, exactly known."""
        vae, x = vae_of(process), process.sample(5, seed=1).double()
        mask = torch.tensor([True, False, True, True, False, True]).expand(5, -1)
        how = Annealing(75, 32, 3, "prior")
        result = ais(vae.model, vae.guide, torch.where(mask, x, torch.nan), mask, annealing=how)
        weight, bias = process.weight[mask[0]], process.bias[mask[0]]
        covariance = weight @ weight.T + process.scale**2 * torch.eye(4, dtype=torch.float64)
        exact = torch.distributions.MultivariateNormal(bias, covariance).log_prob(x[:, mask[0]])
        assert ((result.log_p - exact).abs() < 5 * result.standard_error + 1e-3).all()

    @pytest.mark.usefixtures("few_adapted")
    @pytest.mark.parametrize("start", slow_but(["guide"], ["prior", "guide"]))
    def test_layers_of_latents(self, start):
        vae = HierarchicalVAE((4,), latent_dims=(3, 2)).double()
        how = Annealing(num_temperatures=20, num_chains=4, num_leapfrog=2, start=start)
        result = bdmc(vae.model, vae.guide, 5, annealing=how)
        assert set(result.latents) == {"z1", "z2"} and result.gap.values.abs().max() < 3

    @pytest.mark.usefixtures("few_adapted")
    def test_a_conditional_model(self):
        vae = VAE((4,), 2, prior=ConditionalNormal, context=(3,)).double()
        c = torch.eye(3).repeat(3, 1)[:7]
        result = bdmc(vae.model, vae.guide, 7, annealing=QUICK, c=c)
        assert result.x.shape == (7, 4) and result.gap.values.isfinite().all()

    @pytest.mark.usefixtures("few_adapted")
    def test_progress_ends_at_the_number_of_data(self):
        vae, x, seen = VAE((4,), 2), torch.rand(60, 4).round(), []
        ais(vae.model, vae.guide, x, annealing=QUICK, progress=seen.append)
        assert seen == sorted(seen) and seen[-1] == 60 and 50 in seen and len(seen) > 10

    def test_evaluations_are_counted(self):
        """Every run of the decoder on four and eight chains of five data, by counting them."""
        vae, runs = VAE((4,), 2), []
        vae.decoder.register_forward_hook(lambda module, args, output: runs.append(args[0].shape[:-1].numel()))
        result = ais(vae.model, vae.guide, torch.ones(5, 4), annealing=QUICK)
        assert 4 * runs.count(4 * 5) + 8 * runs.count(8 * 5) == result.evaluations > 500


@pytest.mark.usefixtures("few_adapted")
class TestGraphs:
    @pytest.fixture(autouse=True)
    def _forget_what_was_logged(self):
        log_once.cache_clear()

    @pytest.mark.parametrize("start", ["prior", "guide"])
    @pytest.mark.parametrize("num", slow_but([7], [7, 60]))
    def test_agree_with_the_programs(self, monkeypatch, start, num):
        """Recorded but not compiled, whole blocks and filled-up ones, all chains at once or some."""
        recorded = []

        def recording(*args, compile):
            recorded.append(args)
            return record(*args, compile=False)

        monkeypatch.setattr(annealing_path, "record", recording)
        vae, x = VAE((4,), 2).double(), torch.rand(num, 4).round()
        how = Annealing(num_temperatures=10, num_chains=4, num_leapfrog=2, start=start)
        rows = 3 * min(num, 50)
        a, b = (ais(vae.model, vae.guide, x, annealing=how, compile=c, max_rows=rows) for c in (True, False))
        assert len(recorded) == 1 and torch.allclose(a.log_weights, b.log_weights, atol=1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize("guide", [DiagonalNormal, FullNormal])
    def test_compiled(self, guide):
        """With full covariance the gradients of the chains are laid out otherwise than their first points."""
        vae, x = VAE((16,), 2, guide=guide), torch.rand(7, 16).round()
        a, b = (ais(vae.model, vae.guide, x, annealing=QUICK, compile=c) for c in (True, False))
        assert torch.allclose(a.log_weights, b.log_weights, atol=1e-2)

    def test_programs_that_cannot_be_recorded_run_as_they_are(self, caplog):
        class Reading(nn.Module):
            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                    assert z.sum().item() < 1e9
                    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

            def guide(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

        pair, x = Reading(), torch.randn(5, 2)
        with caplog.at_level(logging.WARNING, "pyro_vae"):
            a = ais(pair.model, pair.guide, x, annealing=QUICK, compile=True)
        assert "annealing runs eagerly, not compiled" in caplog.text
        assert torch.equal(a.log_weights, ais(pair.model, pair.guide, x, annealing=QUICK, compile=False).log_weights)


class TestResults:
    def test_the_columns_and_what_is_told(self, sandwich):
        result, _ = sandwich
        lower, upper = result.lower, result.upper
        assert (lower.bound, lower.method, upper.bound, upper.method) == ("lower", "ais", "upper", "reverse ais")
        for evidence in (lower, upper):
            assert evidence.log_p.shape == evidence.standard_error.shape == evidence.flagged.shape == (20,)
            assert evidence.log_p.dtype == torch.float64 and (evidence.ess >= 1).all() and (evidence.ess <= 32).all()
            assert evidence.summary()["num_temperatures"] == 150 and evidence.summary()["bound"] == evidence.bound
            assert 0.8 < evidence.accept.mean() <= 1 and "150 temperatures" in repr(evidence)
        assert result.summary()["gap"] == result.gap.mean == pytest.approx(upper.mean - lower.mean)
        assert result.verdict in repr(result) and result.crossed in ("no", "within error")
        assert lower.standard_error_data == pytest.approx((lower.log_p.std() / 20**0.5).item())

    def test_standard_errors_of_known_weights(self):
        """Two chains, one with all the weight: ESS 1, error 1; equal ones: ESS 2, error 0."""
        weights = torch.tensor([[0.0, -3.0], [-50.0, -3.0]]).double()
        lower, upper = (AnnealedEvidence(weights, torch.ones(2), b, QUICK, 1, 0) for b in ("lower", "upper"))
        assert lower.log_p.tolist() == pytest.approx([-torch.tensor(2.0).log().item(), -3.0])
        assert upper.log_p.tolist() == pytest.approx([torch.tensor(2.0).log().item(), 3.0])
        assert lower.standard_error.tolist() == pytest.approx([1.0, 0.0]) and lower.ess.tolist() == pytest.approx(
            [1, 2]
        )
        assert lower.flagged.tolist() == [True, False]

    def test_one_chain_has_no_error_and_is_flagged(self):
        one = AnnealedEvidence(torch.zeros(1, 3).double(), torch.ones(3), "lower", QUICK, 1, 0)
        assert one.standard_error.isnan().all() and one.flagged.all()

    def test_schedules(self):
        for schedule in ("linear", "sigmoid"):
            betas = Annealing(num_temperatures=100, schedule=schedule).betas()
            assert betas[0] == 0 and betas[-1] == 1 and len(betas) == 101 and betas == sorted(betas)
            assert betas[50] == pytest.approx(0.5)
        assert Annealing(num_temperatures=1).betas() == [0, 1]


class TestSimulated:
    @pytest.mark.usefixtures("few_adapted")
    def test_plain_programs_need_an_example(self):
        model, guide = normal_pair()
        assert bdmc(model, guide, 5, torch.zeros(1), annealing=QUICK).gap.values.shape == (5,)
        with pytest.raises(UsageError, match="give `like`"):
            bdmc(model, guide, 5)
        with pytest.raises(UsageError, match="num_data must be at least 1"):
            bdmc(model, guide, 0, torch.zeros(1))

    def test_two_sites_and_an_inner_plate(self):
        """The exact draws of both sites go back into the flat vector: a gap near zero (4 standard errors, < 1e-4)."""
        how = Annealing(50, 16, 3)
        options = {"max_plate_nesting": 2, "to_x": lambda drawn: drawn["x"].T}
        gap = bdmc(two_layer_model, two_layer_guide, 20, torch.zeros(3), annealing=how, **options).gap
        assert abs(gap.mean) < 4 * gap.standard_error_data < 0.4


@pytest.mark.usefixtures("few_adapted")
class TestRefusals:
    def test_settings(self):
        with pytest.raises(UsageError, match="must be at least 1"):
            Annealing(num_temperatures=0)
        with pytest.raises(UsageError, match="start must be 'guide' or 'prior'"):
            Annealing(start="posterior")
        with pytest.raises(UsageError, match="target_accept"):
            Annealing(target_accept=1.0)

    def test_data_and_sites(self):
        vae = VAE((4,), 2)
        backwards = partial(reverse_ais, vae.model, vae.guide, torch.ones(2, 4), annealing=QUICK)
        with pytest.raises(DataError, match=r"one row for each datum, got 2 and \{'z': 3\}"):
            backwards(latents={"z": torch.zeros(1, 3, 2)})
        with pytest.raises(UsageError, match=r"latents: expected \['z'\], got \['w'\]"):
            backwards(latents={"w": torch.zeros(1, 2, 2)})
        with pytest.raises(DataError, match=r"expected data, .* got 0"):
            ais(vae.model, vae.guide, torch.ones(0, 4), annealing=QUICK)
        with pytest.raises(UsageError, match="max_rows must be at least 1"):
            ais(vae.model, vae.guide, torch.ones(2, 4), annealing=QUICK, max_rows=0)
        mixed = SemiSupervisedVAE((4,), classes=3, latent_dim=2)
        with pytest.raises(UsageError, match="'y' is discrete"):
            ais(mixed.model, mixed.guide, torch.ones(2, 4), annealing=QUICK)

    def test_a_guide_of_points_to_start_from(self):
        vae = VAE((4,), 2, guide=Delta)
        at_guide = Annealing(num_temperatures=10, num_chains=4, num_leapfrog=2, start="guide")
        with pytest.raises(UsageError, match="Delta"):
            ais(vae.model, vae.guide, torch.ones(2, 4), annealing=at_guide)
        assert ais(vae.model, vae.guide, torch.ones(2, 4), annealing=QUICK).log_p.isfinite().all()

    def test_a_broken_decoder(self):
        vae = VAE((4,), 2, guide=DiagonalNormal)
        with torch.no_grad():
            vae.decoder.output.bias.fill_(torch.nan)
        with pytest.raises(NumericalError, match="lower bound on log p"):
            ais(vae.model, vae.guide, torch.ones(2, 4), annealing=QUICK)
