"""`diagnostics.predictive`: a right model passes, a wrong one is flagged, and the replications are those of p(x|z)."""

import pytest
import torch

from pyro_vae.autoencoders import VAE, SemiSupervisedVAE
from pyro_vae.diagnostics.predictive import STATISTICS, PredictiveCheck, posterior_predictive_check
from pyro_vae.errors import NumericalError, UsageError
from tests.evidence.test_importance_sampling import two_layer_guide, two_layer_model
from tests.support.guides import off_by

SIZES = {"num_particles": 10, "num_draws": 200}


@pytest.fixture(scope="module")
def vae():
    return off_by()[0]


@pytest.fixture(scope="module")
def x():
    return off_by()[1].sample(70, seed=1).double()


class TestVerdicts:
    """The seeds are fixed; a right model would be flagged by another with a chance of 5 % at most."""

    @pytest.mark.parametrize("method", ["guide", "prior"])
    def test_data_of_the_model_pass(self, vae, x, method):
        found = posterior_predictive_check(vae.model, vae.guide, x, method=method, **SIZES)
        assert not found.flagged.any() and found.names == tuple(STATISTICS) and found.unreliable == 0
        assert found.replicated.shape == (200, 4) and found.method == method

    def test_data_that_are_wider_do_not(self, vae, x):
        found = posterior_predictive_check(vae.model, vae.guide, 1.5 * x, method="prior", **SIZES)
        assert found.flagged[1] and found.p_values[1] < 0.01 and "sd p = 0.000 FLAGGED" in repr(found)

    def test_nor_data_that_are_moved(self, vae, x):
        found = posterior_predictive_check(vae.model, vae.guide, x - 3, method="prior", **SIZES)
        assert found.flagged[0] and found.p_values[0] > 0.99

    def test_nor_noise_that_is_wrong_at_the_datas_own_codes(self, vae, x):
        """Rounded data have less noise about their codes than the model puts there."""
        flat = x.mean(1, keepdim=True).expand(-1, 4)
        within = {"within": lambda y: (y - y.mean(1, keepdim=True)).square().mean()}
        found = posterior_predictive_check(vae.model, vae.guide, flat, statistics=within, **SIZES)
        assert found.flagged.all() and found.p_values[0] == 1

    def test_a_guide_that_is_off_is_told(self, x):
        vae, _ = off_by(shift=1.0)
        assert posterior_predictive_check(vae.model, vae.guide, x, **SIZES).unreliable == 1


class TestReplications:
    def test_moments(self, vae, x):
        """The mean of the replications of a datum's first element, within 5 standard errors of W E[z|x] + b (6e-7)."""
        process = off_by()[1]
        first = {"first": lambda y: y[0, 0]}
        found = posterior_predictive_check(vae.model, vae.guide, x, statistics=first, **SIZES).replicated[:, 0]
        mean, covariance = process.posterior(x[0])
        weight = process.weight[0]
        variance = (weight @ covariance @ weight).item() + process.scale**2
        expected = (process.bias[0] + mean @ weight).item()
        assert found.mean().item() == pytest.approx(expected, abs=5 * (variance / 200) ** 0.5)
        assert found.var().item() == pytest.approx(variance, rel=5 * (2 / 200) ** 0.5)

    def test_a_statistic_sees_whole_data_sets(self, vae, x):
        shapes = []

        def seen(y):
            shapes.append(y.shape)
            return 0.0

        done = []
        sizes = {**SIZES, "num_draws": 45, "alpha": 0.05}
        posterior_predictive_check(vae.model, vae.guide, x, statistics={"seen": seen}, progress=done.append, **sizes)
        assert shapes == [x.shape] * 46 and done == [10, 20, 30, 40, 45]

    @pytest.mark.parametrize("method", ["guide", "prior"])
    def test_in_any_company(self, vae, x, method):
        first = {"first": lambda y: y[3, 1]}
        sizes = {"statistics": first, "method": method, "num_particles": 10}
        whole = posterior_predictive_check(vae.model, vae.guide, x, num_draws=55, **sizes)
        part = posterior_predictive_check(vae.model, vae.guide, x[:5], num_draws=48, **sizes)
        other = posterior_predictive_check(vae.model, vae.guide, x, num_draws=55, seed=1, **sizes)
        assert torch.equal(whole.replicated[:48], part.replicated)
        assert not torch.equal(whole.replicated, other.replicated)

    def test_any_programs(self):
        sizes = {**SIZES, "max_plate_nesting": 2, "to_x": lambda sites: sites["x"].T}
        found = posterior_predictive_check(two_layer_model, two_layer_guide, torch.randn(6, 3), **sizes)
        assert found.replicated[:, 1].isfinite().all()
        vae, x = VAE((4,), latent_dim=2, context=(3,)), torch.ones(5, 4)
        posterior_predictive_check(vae.model, vae.guide, x, c=torch.eye(3)[[0, 1, 2, 0, 1]], **SIZES)
        mixed = SemiSupervisedVAE((4,), classes=3, latent_dim=2)
        assert posterior_predictive_check(mixed.model, mixed.guide, x, **SIZES).flagged[0]


class TestNumbers:
    found = PredictiveCheck(
        torch.tensor([0.0, 3.0, 1.5]).double(),
        torch.arange(4)[:, None].expand(4, 3).double(),
        ("a", "b", "c"),
        "prior",
        0,
        0,
    )

    def test_p_values(self):
        """Replications 0, 1, 2, 3 against 0, 3 and 1.5."""
        assert self.found.p_values.tolist() == [0.875, 0.125, 0.5]
        assert self.found.two_sided.tolist() == pytest.approx([2 * 2 / 5, 2 * 2 / 5, 1.0])
        assert self.found.standard_errors[2].item() == 0.25

    def test_summary(self):
        told = self.found.summary()
        assert told["statistics"]["a"]["mean"] == 1.5 and told["statistics"]["b"]["p_value"] == 0.125

    def test_the_statistics(self):
        x = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        values = [statistic(x).item() for statistic in STATISTICS.values()]
        assert values == pytest.approx([1.0, 2**0.5, 0.5, 0.5**0.5])


def test_refusals(vae, x):
    with pytest.raises(UsageError, match="'hmc', 'prior', got 'all'"):
        posterior_predictive_check(vae.model, vae.guide, x, method="all")
    with pytest.raises(UsageError, match=r"nothing can be flagged at alpha 0\.05: num_draws must be 160"):
        posterior_predictive_check(vae.model, vae.guide, x, num_draws=100)
    with pytest.raises(UsageError, match="need a statistic"):
        posterior_predictive_check(vae.model, vae.guide, x, statistics={})
    with pytest.raises(NumericalError, match="'nan': nan"):
        posterior_predictive_check(vae.model, vae.guide, x, statistics={"nan": lambda y: float("nan")})
