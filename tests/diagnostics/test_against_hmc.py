"""`diagnostics.against_hmc`: differences that are known for guides that are off by a known amount.

What is drawn is fixed. Exact guides would be flagged at a datum by another seed with a chance of 1 % at most.
"""

from dataclasses import replace

import pytest
import torch

from pyro_vae.autoencoders import SemiSupervisedVAE
from pyro_vae.diagnostics.against_hmc import HMCComparison, Off, compare_with_hmc
from pyro_vae.errors import UsageError
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.testing.spoiled_guides import KnownPair

HOW = HMC(num_chains=4, num_warmup=80, num_leapfrog=4)


def compared(fault, num=5, **options):
    pair = KnownPair(fault)
    x = pair.process.sample(num, seed=3)
    return compare_with_hmc(pair.model, pair.guide, x, num_draws=800, hmc=HOW, **options)


@pytest.fixture(scope="module")
def exact():
    return compared("exact")


def within(off, expected, errors=6):
    """6 standard errors of about 40 parts: fewer than 1 in 10,000 data by chance, for all numbers of a test."""
    return bool(((off.values - expected).abs() < errors * off.standard_errors).all())


class TestDifferences:
    def test_of_the_exact_posterior(self, exact):
        assert within(exact.mean, 0) and within(exact.log_sd, 0) and within(exact.correlation, 0)
        assert not exact.flagged.any() and exact.mean.standard_errors.max() < 0.15

    @pytest.mark.parametrize(
        ("fault", "mean", "log_sd", "correlation", "kind"),
        [
            pytest.param("biased", 0.3, 0.0, 0.0, "mean", marks=pytest.mark.slow),
            pytest.param("narrow", 0.0, -0.2231, 0.0, "sd", marks=pytest.mark.slow),
            ("uncorrelated", 0.0, 0.0, 0.7904, "correlation"),
        ],
    )
    def test_of_known_faults(self, fault, mean, log_sd, correlation, kind):
        result = compared(fault, tolerance=0.05)
        assert within(result.mean, mean) and within(result.log_sd, log_sd) and within(result.correlation, correlation)
        flagged = {name: flags.double().mean().item() for name, flags in result.by_kind.items()}
        assert max(flagged, key=flagged.get) == kind and flagged[kind] > 0.5

    def test_a_tolerance_flags_less(self, exact):
        wide = replace(exact, log_sd=Off(exact.log_sd.values + 0.4, exact.log_sd.standard_errors))
        assert wide.flagged.all() and not replace(wide, tolerance=0.5).flagged.any()


class TestErrors:
    def test_of_parts(self):
        """Chains that are constant within their parts: the error of the mean is that of 10 values a chain."""
        from pyro_vae.diagnostics.against_hmc import _error

        parts = torch.arange(20).double().reshape(10, 2)  # 10 parts of 2 chains
        chains = parts.repeat_interleave(5, 0)
        assert _error(chains[..., None], 10).item() == pytest.approx((parts.flatten().std() / 20**0.5).item())

    def test_root_mean_square_without_noise(self):
        off = Off(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 3.0]]))
        assert (
            off.root_mean_square == pytest.approx(8**0.5)
            and Off(torch.zeros(2, 0), torch.zeros(2, 0)).root_mean_square == 0
        )


def test_as_printed(exact):
    told = exact.summary()
    assert told["flagged"] == 0 and told["num_data"] == 5 and set(told["flagged_by"]) == {"mean", "sd", "correlation"}
    assert "off by more than 0.1: 0% of the data" in repr(exact) and isinstance(exact, HMCComparison)


def test_refusals():
    pair, x = KnownPair("exact"), torch.zeros(2, 4).double()
    with pytest.raises(UsageError, match="num_draws must be at least 80 for 4 chains, got 79"):
        compare_with_hmc(pair.model, pair.guide, x, num_draws=79)
    vae = SemiSupervisedVAE((4,), latent_dim=2, classes=3)
    with pytest.raises(UsageError, match="discrete"):
        compare_with_hmc(vae.model, vae.guide, torch.zeros(2, 4), num_draws=80)
