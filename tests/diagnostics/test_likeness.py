"""`diagnostics.likeness`: data that the model draws pass, others are named.

The seeds are fixed. Data of the model would be found different by another seed with a chance of 5 %.
"""

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.diagnostics.likeness import EvidenceCheck, evidence_check
from pyro_vae.errors import UsageError
from pyro_vae.testing.spoiled_guides import KnownPair

PAIR = KnownPair("exact")


def checked_at(x, **options):
    return evidence_check(PAIR.model, PAIR.guide, x, num_simulated=300, num_particles=20, **options)


@pytest.fixture(scope="module")
def own():
    return checked_at(PAIR.process.sample(100, seed=5))


class TestVerdicts:
    def test_data_of_the_model(self, own):
        assert own.consistent and own.verdict == "no difference found" and "no difference found" in repr(own)
        assert own.flagged.double().mean() < 0.05 + 4 * (0.05 * 0.95 / 100) ** 0.5  # 4 standard errors: 3e-5

    def test_the_numbers_are_log_p(self, own):
        """By the exact posterior as guide every estimate is exact."""
        torch.testing.assert_close(own.observed, PAIR.process.log_prob(PAIR.process.sample(100, seed=5)))

    @pytest.mark.parametrize(
        ("factor", "verdict"), [(2.0, "less likely than simulated data"), (0.3, "more likely than simulated data")]
    )
    def test_data_that_are_spread_otherwise(self, factor, verdict):
        found = checked_at(PAIR.process.sample(100, seed=5) * factor)
        assert not found.consistent and found.verdict == verdict

    def test_an_anomaly_among_good_data(self):
        x = PAIR.process.sample(50, seed=5)
        x[7] = torch.tensor([9.0, -9.0, 9.0, -9.0])
        found = checked_at(x)
        assert found.flagged[7] and found.p_values[7].item() == pytest.approx(2 / 301) and found.consistent

    def test_the_elbo_of_a_wrong_guide_is_exact_too(self):
        pair = KnownPair("narrow")
        x = pair.process.sample(100, seed=5)
        found = evidence_check(pair.model, pair.guide, x, num_simulated=300, num_particles=20, measure="ELBO")
        assert found.consistent and "ELBO" in repr(found) and found.standard_errors.isnan().all()


class TestNumbers:
    def test_tails_by_hand(self):
        simulated = torch.arange(1.0, 20.0).double()
        found = EvidenceCheck(
            torch.tensor([0.0, 10.0, 19.5]).double(), simulated, torch.zeros(3), "log p(x)", (0.0, 0.0), 5, 0, 0.1
        )
        assert found.lower.tolist() == [1 / 20, 11 / 20, 1.0] and found.upper.tolist() == [1.0, 11 / 20, 1 / 20]
        assert found.p_values.tolist() == [0.1, 1.0, 0.1] and found.flagged.tolist() == [True, False, True]

    def test_in_any_company(self, own):
        part = checked_at(PAIR.process.sample(100, seed=5)[:60])
        assert torch.equal(part.observed, own.observed[:60]) and torch.equal(part.simulated, own.simulated)

    def test_summary(self, own):
        told = own.summary()
        assert (
            told["num_simulated"] == 300
            and told["consistent"]
            and told["unreliable"].keys() == {"observed", "simulated"}
        )

    def test_of_one_datum_the_error_is_unknown(self):
        found = evidence_check(PAIR.model, PAIR.guide, torch.zeros(1, 4).double(), num_simulated=60, num_particles=5)
        assert "(se unknown)" in repr(found)

    def test_inputs_are_repeated(self):
        vae = VAE((4,), latent_dim=2, context=(3,))
        found = evidence_check(
            vae.model, vae.guide, torch.ones(5, 4), num_simulated=60, num_particles=5, c=torch.eye(3)[[0, 1, 2, 0, 1]]
        )
        assert found.simulated.shape == (60,)

    def test_refusals(self):
        with pytest.raises(UsageError, match=r"nothing can be flagged at alpha 0\.05: 40 or more"):
            evidence_check(PAIR.model, PAIR.guide, torch.zeros(3, 4).double(), num_simulated=20)
        with pytest.raises(UsageError, match="measure must be"):
            evidence_check(PAIR.model, PAIR.guide, torch.zeros(3, 4).double(), measure="elbo")
