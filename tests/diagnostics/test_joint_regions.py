"""`diagnostics.joint_regions`: TARP and HPD, flat for the exact posterior and not for wrong guides.

The seeds are fixed. An exact guide would be flagged by another seed with a chance of 5 % at most.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, SemiSupervisedVAE
from pyro_vae.diagnostics.joint_regions import ExpectedCoverage, expected_coverage
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.guides import Delta
from pyro_vae.inference.simulating import simulate
from pyro_vae.testing.spoiled_guides import KnownPair

BLANK = torch.zeros(400, 4).double()


def found(fault, num=400, **options):
    pair = KnownPair(fault)
    return expected_coverage(pair.model, pair.guide, BLANK[:num], num_draws=99, **options)


@pytest.fixture(scope="module")
def exact():
    return found("exact")


class TestVerdicts:
    def test_the_exact_posterior_is_calibrated(self, exact):
        assert exact.calibrated and exact.verdicts == {"TARP": "calibrated", "HPD": "calibrated"}
        assert not exact.coverage().flagged.any() and "no quantity flagged" in repr(exact)

    @pytest.mark.parametrize(
        ("fault", "hpd"),
        [("narrow", "regions too small"), ("wide", "regions too large"), ("uncorrelated", "misshapen")],
    )
    def test_wrong_guides_are_flagged(self, fault, hpd):
        assert found(fault).verdicts["HPD"] == hpd

    def test_the_prior_as_a_guide_is_found_by_points_that_depend_on_x(self):
        """On average over x the prior is right: HPD sees nothing."""
        pair = KnownPair("exact")

        def prior(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

        result = expected_coverage(pair.model, prior, BLANK, num_draws=99)
        assert result.verdicts["TARP"] != "calibrated" and result.verdicts["HPD"] == "calibrated"

    def test_false_alarms_over_seeds(self):
        """60 sets of 100 data by the exact guide, at most 5 % flagged: up to 9 (else a false alarm of 1e-3)."""
        flagged = [not found("exact", 100, seed=seed).calibrated for seed in range(1, 61)]
        assert sum(flagged) <= 9


class TestRanks:
    def test_by_densities_that_are_known(self):
        """HPD's rank among 4000 draws, less than 5 standard errors from a chi-square's distribution function."""
        pair, num = KnownPair("biased"), 20
        result = expected_coverage(pair.model, pair.guide, BLANK[:num], num_draws=4000)
        truth = simulate(pair.model, BLANK[:num])
        guide = pair.guide_at(truth.x)
        off = torch.linalg.solve_triangular(
            guide.scale_tril, (truth.latents["z"][0] - guide.mean)[..., None], upper=False
        )
        inside = 1 - (-off.square().sum((-1, -2)) / 2).exp()  # of a chi-square with 2 degrees of freedom
        assert ((result.ranks[:, 1] / 4000 - inside).abs() < 5 * 0.5 / 4000**0.5).all()

    def test_coverage_of_known_ranks(self):
        """Ranks 0 ... 19 once each: regions contain just what they should; and truths at the far end are in none."""
        ranks = torch.stack([torch.arange(20), torch.full((20,), 19)], 1)
        coverage = ExpectedCoverage(ranks, ("TARP", "HPD"), 19, seed=0).coverage((0.5, 0.9))
        torch.testing.assert_close(coverage.shares, torch.tensor([[0.5, 0.0], [0.9, 0.0]]).double())
        low, high = coverage.intervals()
        assert low[0, 0].item() == pytest.approx(0.27196, abs=1e-5)  # Clopper and Pearson's of 10 of 20
        assert high[0, 0].item() == pytest.approx(0.72804, abs=1e-5)
        assert low[0, 1] == 0 and high[0, 1].item() == pytest.approx(1 - 0.025 ** (1 / 20))

    def test_in_any_company(self, exact):
        assert torch.equal(found("exact", 60).ranks, exact.ranks[:60])
        assert not torch.equal(found("exact", 60, seed=1).ranks, exact.ranks[:60])
        done = []
        part = found("exact", 52, max_rows=64, progress=done.append)
        assert torch.equal(part.ranks, exact.ranks[:52]) and done == [50, 52]


class TestPrograms:
    def test_a_discrete_site(self):
        vae = SemiSupervisedVAE((4,), latent_dim=2, classes=3)
        result = expected_coverage(vae.model, vae.guide, torch.zeros(60, 4), num_draws=9)
        assert result.ranks.shape == (60, 2) and result.ranks.max() <= 9

    def test_what_was_not_observed_does_not_move_the_points(self):
        """The true code is not independent of elements that the guide does not see: an exact guide would be flagged."""
        pair = KnownPair("exact")

        def model(x, mask):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
                seen = dist.Normal(z @ pair.process.weight.T, 1.0).mask(mask).to_event(1)
                pyro.sample("x", seen, obs=x)

        def prior(x, mask):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

        nothing = torch.zeros(400, 4, dtype=torch.bool)
        assert expected_coverage(model, prior, BLANK, num_draws=99, mask=nothing).calibrated

    def test_refusals(self, exact):
        vae = VAE((4,), latent_dim=2)
        with pytest.raises(UsageError, match="alpha must be between 0 and 1"):
            expected_coverage(vae.model, vae.guide, torch.zeros(3, 4), alpha=0.0)
        with pytest.raises(UsageError, match=r"level 0\.999 needs more than 99 draws: 999 give"):
            exact.coverage((0.999,))
        with pytest.raises(UsageError, match="between 0 and 1"):
            exact.coverage((1.0,))
        point = VAE((4,), latent_dim=2, guide=Delta)
        with pytest.raises(UsageError, match="is a Delta"):
            expected_coverage(point.model, point.guide, torch.zeros(3, 4))

        def lost(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(torch.full((2,), float("nan")), 1.0).to_event(1))

        with pytest.raises(NumericalError, match="TARP, HPD is nan"):
            expected_coverage(vae.model, lost, torch.zeros(3, 4), num_draws=9)


def test_summary(exact):
    told = exact.summary()
    assert told["calibrated"] and told["num_data"] == 400 and told["coverage"]["shares"].keys() == {"TARP", "HPD"}
