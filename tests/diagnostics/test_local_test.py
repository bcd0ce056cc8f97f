"""`diagnostics.local_test`: p-values that are uniform for the exact guide, small where a guide is wrong.

The seeds are fixed. An exact guide would be found wrong by another seed with a chance of 5 %.
"""

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.diagnostics.local_test import LocalC2ST, local_c2st
from pyro_vae.errors import UsageError
from pyro_vae.testing.spoiled_guides import KnownPair


def found(fault, num=60, **options):
    pair = KnownPair(fault)
    x = pair.process.sample(num, seed=7)
    given = {"num_simulated": 500, "num_draws": 50, "num_null": 99, **options}
    return x, local_c2st(pair.model, pair.guide, x, **given)


class TestVerdicts:
    def test_the_exact_posterior(self):
        _, result = found("exact")
        assert result.calibrated and "no difference found" in repr(result)
        assert abs(result.accuracy - 0.5) < 4 * result.accuracy_error

    @pytest.mark.parametrize("fault", ["narrow", "wide", "biased", "uncorrelated"])
    def test_wrong_guides(self, fault):
        _, result = found(fault)
        assert result.p_value == 0.01 and not result.calibrated and "differs" in repr(result)

    def test_where_a_guide_is_wrong_for_one_class(self):
        """The statistic ranks those data above the others: AUROC above 0.9, where 10 seeds gave 0.99 on average."""
        x, result = found("one class", 100)
        wrong = KnownPair("one class").in_class(x) > 0
        ahead = (result.statistic[wrong][:, None] > result.statistic[~wrong]).double().mean()
        assert not result.calibrated and ahead > 0.9

    def test_false_alarms_over_seeds(self):
        """40 tests by the exact guide, 5 % flagged: up to 7 (else a false alarm of 2e-3)."""
        small = {"num_simulated": 100, "num_null": 19, "num_draws": 20}
        flagged = [not found("exact", 10, seed=seed, **small)[1].calibrated for seed in range(40)]
        assert sum(flagged) <= 7


class TestNumbers:
    def test_p_values_by_hand(self):
        null = torch.tensor([[0.1, 0.3], [0.2, 0.4], [0.3, 0.5]]).double()
        result = LocalC2ST(torch.tensor([0.25, 0.6]).double(), torch.zeros(2), null, 0.5, 10, 5, seed=0, alpha=0.25)
        assert result.p_values.tolist() == [0.5, 0.25] and result.flagged.tolist() == [False, True]
        assert result.p_value == 0.25 and not result.calibrated

    def test_in_any_company(self):
        """A datum's numbers do not depend on the data after it; the simulated ones are the same."""
        x, whole = found("biased", 60)
        pair, done = KnownPair("biased"), []
        options = {"num_simulated": 500, "num_draws": 50, "num_null": 99, "progress": done.append}
        part = local_c2st(pair.model, pair.guide, x[:20], **options)
        torch.testing.assert_close(part.statistic, whole.statistic[:20], rtol=1e-9, atol=1e-12)
        assert done[-1] == 520

    def test_a_code_of_many_dimensions_and_an_image(self):
        vae = VAE((1, 8, 8), latent_dim=14)
        result = local_c2st(vae.model, vae.guide, torch.ones(3, 1, 8, 8), num_simulated=60, num_draws=20, num_null=19)
        assert result.statistic.isfinite().all() and result.null.shape == (19, 3)
        assert result.summary()["num_null"] == 19

    def test_refusals(self):
        vae = VAE((4,), latent_dim=2)
        with pytest.raises(UsageError, match=r"nothing can be flagged at alpha 0\.05: 19 or more"):
            local_c2st(vae.model, vae.guide, torch.zeros(3, 4), num_null=10)
        with pytest.raises(UsageError, match="num_simulated must be at least 1, got 0"):
            local_c2st(vae.model, vae.guide, torch.zeros(3, 4), num_simulated=0)
