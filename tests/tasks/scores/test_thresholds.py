"""Conformal thresholds: their guarantee by enumeration and by the Beta law."""

from itertools import product

import pytest
import torch
from scipy import stats

from pyro_vae.errors import DataError, UsageError
from pyro_vae.tasks.scores import Scores, threshold


def scores(values, method="elbo"):
    values = torch.as_tensor(values, dtype=torch.float64)
    return Scores(values, torch.zeros_like(values), torch.zeros(len(values), dtype=torch.bool), method)


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (9, 0.25), (19, 0.05), (20, 0.3), (99, 0.01), (99, 0.07)])
def test_exact_for_exchangeable_data(n, alpha):
    """Of n + 1 different scores each is equally likely the new one: the share of alarms is floor(alpha (n+1))/(n+1)."""
    every = torch.randperm(n + 1, generator=torch.Generator().manual_seed(n)).double()
    alarms = 0
    for new in range(n + 1):
        found = threshold(torch.cat([every[:new], every[new + 1 :]]), alpha)
        alarms += int(found.alarms(every[new : new + 1]))
    assert alarms / (n + 1) == found.expected_rate <= alpha
    assert found.expected_rate > alpha - 1 / (n + 1)


def test_ties_only_lower_the_rate():
    """All sequences of 5 scores of 3 values: over the 5 places of the new one, never more than the promise."""
    for every in product([0.0, 1.0, 2.0], repeat=5):
        total = 0
        for new in range(5):
            others = torch.tensor([v for i, v in enumerate(every) if i != new])
            total += int(threshold(others, 0.4).alarms(torch.tensor([every[new]])))
        assert total / 5 <= 0.4


def test_the_realised_rate_has_the_beta_law():
    """Scores uniform on [0, 1], so that a calibration's rate is 1 - value; Kolmogorov-Smirnov, false alarm 1e-3."""
    draws = torch.rand(2000, 199, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [threshold(row, 0.05) for row in draws]
    rates = [1 - t.value for t in found]
    law = stats.beta(10, 190)
    assert stats.kstest(rates, law.cdf).pvalue > 1e-3
    low, high = found[0].interval(0.9)
    assert (low, high) == pytest.approx((law.ppf(0.05), law.ppf(0.95)))
    inside = sum(low <= rate <= high for rate in rates)
    assert stats.binomtest(inside, 2000, 0.9).pvalue > 1e-3


def test_alarms():
    found = threshold(scores(range(1, 100)), 0.05)
    assert found.value == 95 and found.rank == 5 and found.method == "elbo"
    assert found.alarms(scores([95.0, 95.1])).tolist() == [False, True]
    assert found.alarms(torch.tensor([float("nan")])).tolist() == [True]
    assert repr(found) == (
        "Threshold(95.000: P(false alarm) <= 0.0500, realised rate 0.0166 to 0.1002 with 95 %, n = 99)"
    )
    with pytest.raises(UsageError, match="'elbo' scores, and these are of 'rate'"):
        found.alarms(scores([1.0], "rate"))


def test_refusals():
    with pytest.raises(UsageError, match=r"give at least 99, or false_alarms=0\.02"):
        threshold(torch.arange(50.0), 0.01)
    assert threshold(torch.arange(99.0), 0.01).rank == 1
    for alpha in (0, 1, 1.5, "much", True):
        with pytest.raises(UsageError, match="between 0 and 1"):
            threshold(torch.arange(99.0), alpha)
    for values in (torch.tensor([float("nan")] * 3), torch.tensor([])):
        with pytest.raises(DataError, match="numbers to calibrate by"):
            threshold(values, 0.5)
