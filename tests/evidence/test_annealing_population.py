"""`evidence.annealing_population`: resampled chains give an unbiased estimate of p(x) with an honest error."""

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import UsageError
from pyro_vae.evidence.annealing import ais, bdmc
from pyro_vae.evidence.annealing_population import Population
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.trajectories import Noise
from tests.support.ppca import truth, vae_of


def population(log_weights, least_share, seed=0):
    chains, num_data = log_weights.shape
    like = torch.zeros(chains, num_data, 1).double()
    found = Population(chains, num_data, Noise(seed, "population", num_data=num_data, like=like), least_share)
    found.add(log_weights)
    return found


class TestPopulation:
    WEIGHTS = torch.tensor([[0.0, 1.0, 1.0], [0.5, 1.0, 0.0], [0.3, 1.0, 0.0], [0.2, 1.0, 0.0]]).double()

    def test_chains_are_drawn_as_often_as_their_weights_ask_for(self):
        """Of four, one with 0.5 of the weight twice, one with 0.3 once or twice; what they carry goes with them."""
        for seed in range(20):
            found = population(self.WEIGHTS.log(), 0.9, seed)
            values = torch.arange(4.0)[:, None].expand(4, 3)
            z, value = found.resampled((values[..., None], values))
            counts = [torch.bincount(value[:, datum].long(), minlength=4).tolist() for datum in range(3)]
            assert counts[0][:2] == [0, 2] and counts[0][2] in (1, 2) and sum(counts[0]) == 4
            assert counts[1:] == [[1, 1, 1, 1], [4, 0, 0, 0]]
            assert torch.equal(z[..., 0], value)

    def test_the_mean_weight_stays(self):
        found = population(self.WEIGHTS.log(), 0.9)
        before = found.log_weights.logsumexp(0)
        found.resampled((torch.zeros(4, 3, 1),))
        torch.testing.assert_close(found.log_weights.logsumexp(0), before)
        later = torch.randn(4, 3).double()
        found.add(later)
        torch.testing.assert_close(found.by_first_draw().logsumexp(0), found.log_weights.logsumexp(0))
        assert found.by_first_draw()[1:, 2].isneginf().all()

    def test_enough_effective_chains_are_left_alone(self):
        found, point = population(self.WEIGHTS.log(), 0.2), (torch.zeros(4, 3, 1),)
        assert found.resampled(point) is point
        torch.testing.assert_close(found.by_first_draw(), self.WEIGHTS.log())


@pytest.fixture(scope="module")
def ratios():
    """The estimate of p(x) over its exact value, of one datum 400 times with other noise, and the result."""
    process = truth(dim=6, latent=2)
    x = process.sample(1, seed=1).double().expand(400, -1)
    poor = Annealing(num_temperatures=12, num_chains=32, num_leapfrog=1, start="prior", resample=0.8)
    result = ais(vae_of(process).model, vae_of(process).guide, x, annealing=poor)
    return (result.log_p - process.log_prob(x)).exp(), result


class TestUnbiased:
    def test_the_mean_is_p_of_x(self, ratios):
        """Within 5 standard errors of less than 0.1, though a fifth of the first draws and more have no descendants."""
        found, result = ratios
        error = found.std() / len(found) ** 0.5
        assert result.log_weights.isneginf().double().mean() > 0.2
        assert error < 0.1 and abs(found.mean() - 1) < 5 * error

    def test_the_error_is_that_of_the_estimates(self, ratios):
        """The standard error of a datum's estimate against their spread over 400, which has an error of 4 %."""
        _, result = ratios
        assert 0.7 < result.standard_error.square().mean().sqrt() / result.log_p.std() < 1.4
        assert result.upper is None and result.interval is None
        assert torch.equal(result.flagged, result.spread > 1) and result.spread.isfinite().all()

    def test_both_sides_of_the_exact_value(self):
        process = truth(dim=6, latent=2)
        how = Annealing(num_temperatures=30, num_chains=16, num_leapfrog=1, start="prior", resample=0.8)
        both = bdmc(vae_of(process).model, vae_of(process).guide, 30, annealing=how, seed=1)
        assert both.lower.log_weights.isneginf().any() and both.upper.log_weights.isneginf().any()
        assert abs(both.gap.mean) < 4 * both.gap.standard_error_data < 0.6


@pytest.mark.usefixtures("few_adapted")
def test_a_datum_s_chains_do_not_depend_on_the_other_data():
    vae, x = VAE((4,), 2).double(), torch.rand(7, 4).round()
    how = Annealing(num_temperatures=5, num_chains=4, start="prior", resample=0.99)
    some, all_of_them = (ais(vae.model, vae.guide, x[:n], annealing=how).log_weights for n in (3, 7))
    torch.testing.assert_close(some, all_of_them[:, :3], rtol=0, atol=1e-9)


def test_a_share_is_at_most_one():
    with pytest.raises(UsageError, match="resample must be a share between 0"):
        Annealing(resample=8)
