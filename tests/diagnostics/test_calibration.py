"""`diagnostics.calibration`: flat for the exact posterior, and not for guides that are too narrow, too wide or biased.

The seeds are fixed. A calibrated guide would be flagged by another seed with a chance of 5 % at most.
"""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.data import LinearGaussian
from pyro_vae.diagnostics.calibration import Calibration, simulation_based_calibration
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.guides import Delta, InverseAutoregressiveFlow
from pyro_vae.inference.simulating import simulate
from tests.evidence.test_importance_sampling import two_layer_guide, two_layer_model
from tests.support.guides import off_by
from tests.support.networks import Dropping

BLANK = torch.zeros(400, 4).double()


def calibrate(shift=0.0, width=1.0, **options):
    vae, _ = off_by(shift, width)
    return simulation_based_calibration(vae.model, vae.guide, BLANK, num_draws=79, **options)


@pytest.fixture(scope="module")
def exact():
    return calibrate()


@pytest.fixture(scope="module")
def narrow():
    return calibrate(width=0.7)


@pytest.fixture(scope="module")
def biased():
    return calibrate(shift=0.4)


class TestVerdicts:
    def test_the_exact_posterior_is_calibrated(self, exact):
        assert exact.calibrated and set(exact.verdicts.values()) == {"calibrated"}
        assert exact.names == ("z[0]", "z[1]", "norm", "log p(x|z)", "log q(z|x)") and exact.ranks.shape == (400, 5)
        assert not exact.coverage().flagged.any() and not exact.location().flagged.any()
        assert "no quantity flagged" in repr(exact)

    def test_a_narrow_guide_is_not(self, narrow):
        assert narrow.verdicts["z[0]"] == narrow.verdicts["z[1]"] == "too narrow" and not narrow.calibrated
        assert narrow.verdicts["log q(z|x)"] == "too high"  # its draws lie where it is dense, the truth does not
        assert "z[0] too narrow" in repr(narrow)

    def test_nor_a_wide_one(self):
        assert calibrate(width=1.5).verdicts["z[0]"] == "too wide"

    def test_nor_one_beside_the_posterior(self, biased):
        assert biased.verdicts["z[0]"] == biased.verdicts["z[1]"] == "too high"
        assert calibrate(shift=-0.4).verdicts["z[1]"] == "too low"

    def test_the_prior_as_a_guide_is_found_by_the_likelihood_alone(self):
        """Over all simulated data the prior is the posterior: ranks of z are uniform, those of log p(x|z) are not."""
        vae, _ = off_by()

        def prior(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

        result = simulation_based_calibration(vae.model, prior, BLANK, num_draws=79)
        verdicts = result.verdicts
        assert verdicts["z[0]"] == verdicts["z[1]"] == "calibrated" and verdicts["log p(x|z)"] == "too low"


class TestBand:
    def test_flagged_is_outside(self, exact, narrow, biased):
        for result in (exact, narrow, biased):
            lower, upper = result.band
            left = ((result.difference < lower[:, None] - 1e-12) | (result.difference > upper[:, None] + 1e-12)).any(0)
            assert torch.equal(left, result.flagged)
            assert result.points.shape == lower.shape == (81,) and (result.difference[[0, -1]].abs() < 1e-12).all()

    def test_more_quantities_widen_it(self, exact):
        wider = Calibration(exact.ranks.repeat(1, 4), exact.names * 4, exact.num_draws, seed=0)
        assert (wider.band[1] >= exact.band[1]).all() and (wider.band[1] > exact.band[1]).any()

    def test_false_alarms_over_seeds(self):
        """300 sets of uniform ranks of 5 quantities, at most 5 % flagged: up to 29 (else a false alarm of 3e-4)."""
        ranks = torch.from_numpy(np.random.default_rng(0).integers(0, 20, (300, 100, 5)))
        flagged = [not Calibration(r, tuple("abcde"), 19, seed=0).calibrated for r in ranks]
        assert 1 <= sum(flagged) <= 29


class TestCoverage:
    def test_of_known_ranks(self):
        """Ranks 0 ... 19 once each: central sets hold just what they should; and all at the end hold nothing."""
        ranks = torch.stack([torch.arange(20), torch.zeros(20).long()], 1)
        found = Calibration(ranks, ("even", "low"), 19, seed=0).coverage((0.5, 0.9))
        torch.testing.assert_close(found.levels, torch.tensor([0.5, 0.9]).double())
        torch.testing.assert_close(found.shares, torch.tensor([[0.5, 0.0], [0.9, 0.0]]).double())
        assert found.standard_errors.tolist() == pytest.approx([(0.25 / 20) ** 0.5, (0.09 / 20) ** 0.5])
        assert found.flagged.tolist() == [[False, True], [False, True]]
        assert found.p_values[:, 0].tolist() == [1.0, 1.0]

    def test_the_densest_set_is_one_sided(self):
        ranks = torch.arange(20)[:, None]
        found = Calibration(ranks, ("log q(z|x)",), 19, seed=0).coverage((0.9,))
        assert found.shares.item() == pytest.approx(0.9)
        assert Calibration(ranks * 0, ("log q(z|x)",), 19, seed=0).coverage((0.9,)).shares.item() == 0
        assert Calibration(ranks * 0 + 19, ("log q(z|x)",), 19, seed=0).coverage((0.9,)).shares.item() == 1

    def test_of_a_guide_as_narrow_as_known(self, narrow):
        """A normal's central set at 0.7 times its width holds what it must."""
        normal = torch.distributions.Normal(0.0, 1.0)
        found = narrow.coverage((0.5, 0.8, 0.9))
        for level, shares in zip(found.levels, found.shares, strict=True):
            expected = (2 * normal.cdf(0.7 * normal.icdf((1 + level) / 2)) - 1).item()
            assert (shares[:2] - expected).abs().max() < 5 * 0.5 / 20 + 0.01  # 5 standard errors, and 79 draws' own
        assert found.flagged[1:, :2].all()

    def test_refusals(self, exact):
        with pytest.raises(UsageError, match=r"level 0\.99 needs more than 79 draws: 199 give"):
            exact.coverage((0.99,))
        with pytest.raises(UsageError, match="between 0 and 1"):
            exact.coverage((1.0,))


class TestLocation:
    def test_bias_and_not_width(self, narrow, biased):
        assert not narrow.location().flagged[:2].any()
        found = biased.location()
        assert found.flagged[:2].all() and (found.bias[:2] < -0.05).all()

    def test_numbers(self):
        ranks = torch.tensor([[0, 3], [1, 3], [2, 3], [3, 3]])
        found = Calibration(ranks, ("even", "high"), 3, seed=0).location()
        assert found.bias.tolist() == pytest.approx([0.0, 0.375])
        assert found.p_values.tolist() == pytest.approx([1.0, 2 * 2**-4])


class TestRanks:
    def test_by_hand(self):
        """The number of draws below, of each datum, drawn again."""
        vae, _ = off_by(shift=0.4)
        x = torch.zeros(3, 4).double()
        seen = {}

        def mean(latents, x):
            seen.setdefault("x", x)
            seen.setdefault("shapes", []).append(latents["z"].shape)
            return latents["z"].sum(-1)

        own = {"sum": mean}
        result = simulation_based_calibration(vae.model, vae.guide, x, num_draws=300, summaries=own)
        assert result.names[-1] == "sum" and seen["shapes"] == [(1, 3, 2), (250, 3, 2), (50, 3, 2)]
        truth = simulate(vae.model, x)
        assert torch.equal(seen["x"], truth.x)
        exact_mean, covariance = off_by()[1].posterior(truth.x)
        sd = covariance.diagonal().sqrt()
        normal = torch.distributions.Normal(exact_mean + 0.4 * sd, sd)
        expected = normal.cdf(truth.latents["z"][0])
        assert ((result.ranks[:, :2] / 300 - expected).abs() < 5 * 0.5 / 300**0.5).all()

    def test_ties_are_broken_at_random(self):
        """A quantity that is always the same has uniform ranks."""
        flat = {"flat": lambda latents, x: torch.zeros(latents["z"].shape[:2])}
        vae, _ = off_by()
        ranks = simulation_based_calibration(vae.model, vae.guide, BLANK, num_draws=9, summaries=flat).ranks[:, -1]
        assert ranks.bincount(minlength=10).min() > 15 and ranks.max() == 9

    def test_in_any_company(self):
        vae, _ = off_by()
        whole = simulation_based_calibration(vae.model, vae.guide, BLANK[:60], num_draws=30).ranks
        done = []
        part = simulation_based_calibration(
            vae.model, vae.guide, BLANK[:52], num_draws=30, max_rows=64, progress=done.append
        )
        assert torch.equal(whole[:52], part.ranks) and done == [50, 52]
        other = simulation_based_calibration(vae.model, vae.guide, BLANK[:60], num_draws=30, seed=1).ranks
        assert not torch.equal(whole, other)

    def test_nothing_is_changed(self):
        vae = VAE((4,), latent_dim=2, encoder=Dropping)
        x, before = torch.zeros(4, 4), torch.get_rng_state()
        state = {name: value.clone() for name, value in vae.state_dict().items()}
        first, second = (simulation_based_calibration(vae.model, vae.guide, x, num_draws=9).ranks for _ in range(2))
        assert torch.equal(first, second) and vae.training and torch.equal(before, torch.get_rng_state())
        assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())


class TestPrograms:
    def test_several_sites(self):
        vae = HierarchicalVAE((4,), latent_dims=(2, 1))
        names = simulation_based_calibration(vae.model, vae.guide, torch.zeros(10, 4), num_draws=9).names
        assert names[:3] == ("z2[0]", "z1[0]", "z1[1]")  # as the model draws them

    def test_a_context_is_given(self):
        vae = VAE((4,), latent_dim=2, context=(3,))
        c = torch.eye(3)[torch.arange(10) % 3]
        assert (
            simulation_based_calibration(vae.model, vae.guide, torch.zeros(10, 4), num_draws=9, c=c).ranks.shape[0]
            == 10
        )

    def test_a_flow_and_a_mask(self):
        """The density of a flow at a code that is not its own draw, and data with elements that are not observed."""
        vae = VAE((4,), latent_dim=2, guide=partial(InverseAutoregressiveFlow, transforms=1, hidden=(4,)))
        mask = torch.arange(80).reshape(20, 4) % 3 > 0
        result = simulation_based_calibration(vae.model, vae.guide, torch.zeros(20, 4), num_draws=9, mask=mask)
        assert result.ranks.shape == (20, 5)

    def test_a_discrete_site(self):
        vae = SemiSupervisedVAE((4,), latent_dim=2, classes=3)
        result = simulation_based_calibration(vae.model, vae.guide, torch.zeros(60, 4), num_draws=9)
        assert "y[0]" in result.names and result.ranks.max() <= 9

    def test_sites_that_are_not_x(self):
        x = torch.zeros(300, 3)
        with pytest.raises(UsageError, match=r"'x' is drawn as \[3, .*say by to_x="):
            simulation_based_calibration(two_layer_model, two_layer_guide, x, max_plate_nesting=2)
        sizes = {"num_draws": 39, "max_plate_nesting": 2, "to_x": lambda sites: sites["x"].T}
        result = simulation_based_calibration(two_layer_model, two_layer_guide, x, **sizes)
        assert result.names[:4] == ("top[0]", "top[1]", "z[0]", "z[1]") and not result.calibrated


class TestSimulate:
    def test_moments_are_the_models(self):
        """Mean and covariance of 2000 data within 6 standard errors of the closed form (20 numbers: 4e-8)."""
        vae, process = off_by()
        assert isinstance(process, LinearGaussian)
        x = simulate(vae.model, torch.zeros(2000, 4).double()).x
        covariance = process.weight @ process.weight.T + process.scale**2 * torch.eye(4)
        sd = covariance.diagonal().sqrt()
        assert ((x.mean(0) - process.bias).abs() < 6 * sd / 2000**0.5).all()
        assert ((torch.cov(x.T) - covariance).abs() < 6 * 2**0.5 * sd[:, None] * sd / 2000**0.5).all()

    def test_the_code_is_that_of_the_datum(self):
        vae, process = off_by()
        drawn = simulate(vae.model, torch.zeros(500, 4).double())
        residual = drawn.x - drawn.latents["z"][0] @ process.weight.T - process.bias
        assert residual.std().item() == pytest.approx(process.scale, rel=0.1)

    def test_refusals(self):
        def factor(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.factor("energy", -z.sum(-1))

        def nothing(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))

        def second(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                pyro.sample("label", dist.Normal(z.sum(-1), 1.0), obs=x.sum(-1))

        def far(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z * float("inf"), 1.0).to_event(1), obs=x)

        x = torch.zeros(3, 2)
        for model, error, message in (
            (factor, UsageError, "a factor 'energy'"),
            (nothing, UsageError, "no observed site"),
            (second, UsageError, "'label' is drawn as .* no such input"),
            (far, NumericalError, "draw of site 'x' of the model is not finite"),
        ):
            with pytest.raises(error, match=message):
                simulate(model, x)


def test_refusals():
    vae = VAE((4,), latent_dim=2)
    with pytest.raises(UsageError, match="alpha must be between 0 and 1"):
        simulation_based_calibration(vae.model, vae.guide, torch.zeros(3, 4), alpha=1.0)
    point = VAE((4,), latent_dim=2, guide=Delta)
    with pytest.raises(UsageError, match="is a Delta"):
        simulation_based_calibration(point.model, point.guide, torch.zeros(3, 4))
    broken = {"broken": lambda latents, x: latents["z"].sum(-1) * float("nan")}
    with pytest.raises(NumericalError, match="broken is nan"):
        simulation_based_calibration(vae.model, vae.guide, torch.zeros(3, 4), num_draws=5, summaries=broken)


def test_summary(narrow):
    told = narrow.summary()
    assert told["verdicts"]["z[0]"] == "too narrow" and told["num_data"] == 400 and not told["calibrated"]
    assert told["coverage"]["shares"]["z[0]"][0] < 0.45
