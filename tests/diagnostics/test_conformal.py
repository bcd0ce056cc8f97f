"""`diagnostics.conformal`: factors that are known for guides of known width, and the promise of the scaled sets."""

from dataclasses import replace
from math import inf

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import plots
from pyro_vae.autoencoders import SemiSupervisedVAE
from pyro_vae.diagnostics.conformal import ConformalScaling, conformal_scaling
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.simulated_codes import Simulation
from pyro_vae.testing.spoiled_guides import KnownPair

BLANK = torch.zeros(400, 4).double()


def scaled(fault, **options):
    pair = KnownPair(fault)
    return conformal_scaling(pair.model, pair.guide, BLANK, num_draws=198, **options)


@pytest.fixture(scope="module")
def narrow():
    return scaled("narrow")


def scores(*values):
    """A result with one level, 0.5, and these scores of one kind of set."""
    column = torch.tensor(values, dtype=torch.float64)[None, :, None]
    return ConformalScaling(torch.tensor([0.5]).double(), column, torch.ones(1, 1).double(), ("all together",), 8, 0)


class TestFactors:
    def test_of_known_widths(self, narrow):
        """A guide of 0.8 times the width needs 1 / 0.8: inside the intervals of 99.99 %, at every level."""
        low, high = narrow.intervals(0.9999)
        assert ((low < 1.25) & (high > 1.25)).all() and narrow.flagged.any() and not narrow.calibrated
        low, high = scaled("wide").intervals(0.9999)
        assert ((low < 0.8) & (high > 0.8)).all()

    def test_the_exact_posterior_needs_none(self):
        result = scaled("exact")
        low, high = result.intervals(0.9999)
        assert ((low < 1) & (high > 1)).all() and result.calibrated

    def test_order_statistics_by_hand(self):
        """Of 5 scores at level 0.5 the third; of 4 too: ceil(2.5). The interval by the binomial of 5 and 1/2."""
        assert (
            scores(0.3, 0.1, 0.5, 0.2, 0.4).factors.item() == 0.3 and scores(0.1, 0.2, 0.3, 0.4).factors.item() == 0.3
        )
        low, high = scores(0.1, 0.2, 0.3, 0.4, 0.5).intervals(0.6)
        assert (low.item(), high.item()) == (0.2, 0.4)  # X_(2) to X_(4) holds the median with probability 0.625
        assert scores(0.5, 2.0).coverage.shares.item() == 0.5

    def test_too_few_data_say_nothing_of_an_end(self):
        """X_(1) to X_(5) holds the median with probability 0.94: for 95 % there is neither end; for 90 % both."""
        few = scores(0.1, 0.2, 0.3, 0.4, 0.5)
        assert [end.item() for end in few.intervals(0.95)] == [0.0, inf]
        assert [end.item() for end in few.intervals(0.9)] == [0.1, 0.5]
        assert "(0.00 to inf)" in repr(replace(few, scores=few.scores.expand(1, 5, 2), names=("all together", "z")))
        assert type(plots.conformal_scaling(few)).__name__ == "Figure"

    def test_as_printed(self, narrow):
        told = repr(narrow)
        assert "regions of 90% grow by 1." in told and "intervals by at most" in told and "n = 400" in told
        row = narrow.summary()["sets"]["z[0]"]
        assert len(row["factor"]) == 4 and row["coverage_before"][2] < 0.87


class TestPromise:
    @pytest.mark.parametrize("fault", ["narrow", "biased", "uncorrelated"])
    def test_scaled_sets_of_new_data_contain_the_truth(self, fault):
        """400 data of another seed: the share is within 5 standard errors, from both sets of data, of the level."""
        pair, result = KnownPair(fault), scaled(fault)
        simulation = Simulation(pair.model, pair.guide, BLANK, seed=1)
        inside, between = [], []
        with simulation.running():
            for start, simulated in simulation.blocks():
                codes = simulation.codes(start, simulated, 198)
                low, high = result.credible_intervals(codes.draws)
                inside.append(result.regions(codes.draws, codes.truth))
                between.append((low < codes.truth) & (codes.truth < high))
        error = (result.levels * (1 - result.levels) * 2 / 400).sqrt()
        assert ((torch.cat(inside, 1).double().mean(1) - result.levels).abs() < 5 * error).all()
        shares = torch.cat(between, 1).double().mean(1)
        assert ((shares - result.levels[:, None]).abs() < 5 * error[:, None]).all()

    def test_a_new_datum_by_counting(self):
        """Each of 6 exchangeable scores is the new one as often, and the factor of the others covers 3 of them."""
        values = [0.7, 0.2, 0.9, 0.4, 0.6, 0.1]
        covered = [
            v <= scores(*(u for j, u in enumerate(values) if j != i)).factors.item() for i, v in enumerate(values)
        ]
        assert sum(covered) / 6 == 0.5  # k = ceil(0.5 * 6) = 3 of 6


class TestRefusals:
    def test_levels_and_sizes(self, narrow):
        with pytest.raises(UsageError, match=r"level 0\.99 needs more than 98 draws: 198 or more"):
            pair = KnownPair("exact")
            conformal_scaling(pair.model, pair.guide, BLANK, levels=(0.99,), num_draws=98)
        with pytest.raises(UsageError, match=r"10 simulated data can't promise level 0\.95: give at least 19"):
            conformal_scaling(pair.model, pair.guide, BLANK[:10], levels=(0.95,))
        with pytest.raises(UsageError, match="between 0 and 1"):
            conformal_scaling(pair.model, pair.guide, BLANK, levels=(1.5,))
        with pytest.raises(UsageError, match="num_draws must be 4 for each"):
            conformal_scaling(pair.model, pair.guide, BLANK, levels=(0.5,), num_draws=6)
        with pytest.raises(UsageError, match=r"draws: expected \[198, N, 2\], .* got \[50, 3, 2\]"):
            narrow.credible_intervals(torch.zeros(50, 3, 2))

    def test_a_discrete_site(self):
        vae = SemiSupervisedVAE((4,), latent_dim=2, classes=3)
        with pytest.raises(UsageError, match="'y' is discrete, and credible sets by distance are of continuous codes"):
            conformal_scaling(vae.model, vae.guide, torch.zeros(40, 4), levels=(0.5,))

    def test_a_code_that_does_not_vary(self):
        still = dist.Normal(torch.ones(1), 1e-30).to_event(1)  # in single precision each draw is 1

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", still)
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", still)

        with pytest.raises(NumericalError, match="do not vary in every direction"):
            conformal_scaling(model, guide, torch.zeros(60, 1), levels=(0.5,), num_draws=40)
