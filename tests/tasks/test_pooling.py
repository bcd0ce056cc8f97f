"""`pool`: Rubin's rules against a published example and by hand."""

import pytest
import torch

from pyro_vae.errors import UsageError
from pyro_vae.tasks.pooling import pool

# SAS/STAT User's Guide, PROC MIANALYZE, "Reading Means and Standard Errors from a DATA= Data Set": means of Oxygen,
# RunTime and RunPulse of 31 men with five imputations, their standard errors, and what the procedure prints.
MEANS = [
    [47.0120, 10.4441, 171.216],
    [47.2407, 10.5040, 171.244],
    [47.4995, 10.5922, 171.909],
    [47.1485, 10.5279, 171.146],
    [47.0042, 10.4913, 172.072],
]
ERRORS = [
    [0.95984, 0.28520, 1.59910],
    [0.93540, 0.26661, 1.75638],
    [1.00766, 0.26302, 1.85795],
    [0.95439, 0.26405, 1.75011],
    [0.96528, 0.27275, 1.84807],
]


def near(found, expected, digits):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=0.6 * 10**-digits, rtol=0)


def test_the_published_example():
    """Its inputs are printed with 5 or 6 digits, and so the results agree to 3 to 5."""
    found = pool(torch.tensor(MEANS).double(), torch.tensor(ERRORS).double().square(), complete_df=30)
    near(found.estimate[:2], [47.180993, 10.511906], 3)
    near(found.between[:2], [0.041478, 0.002948], 4)
    near(found.within[:2], [0.930853, 0.073142], 4)
    near(found.variance[:2], [0.980626, 0.076679], 4)
    near(found.degrees_of_freedom[:2], [26.298, 26.503], 2)
    near(found.relative_increase[:2], [0.053471, 0.048365], 4)
    near(found.fraction_missing[:2], [0.051977, 0.047147], 4)
    low, high = found.interval()
    near(low[:2], [45.1466, 9.9432], 3)
    near(high[:2], [49.2154, 11.0806], 3)


def test_by_hand():
    """Estimates 1, 2, 3 with variances 1: W = 1, B = 1, T = 1 + 4/3, r = 4/3, df = 2 (1 + 3/4)^2 = 6.125."""
    found = pool(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3))
    assert found.estimate == 2 and found.within == 1 and found.between == 1
    near(found.variance, 7 / 3, 12)
    near(found.degrees_of_freedom, 6.125, 12)
    near(found.fraction_missing, (4 / 3 + 2 / 9.125) / (7 / 3), 12)
    small = pool(torch.tensor([1.0, 2.0, 3.0]), torch.ones(3), complete_df=10)
    near(small.degrees_of_freedom, 1 / (1 / 6.125 + 1 / (11 / 13 * 10 * 3 / 7)), 12)
    assert small.degrees_of_freedom < found.degrees_of_freedom


def test_without_missing_information_it_is_the_complete_analysis():
    found = pool(torch.tensor([[2.0], [2.0]]), torch.tensor([[4.0], [4.0]]))
    assert found.standard_error == 2 and found.fraction_missing == 0 and found.degrees_of_freedom == torch.inf
    near(found.interval(0.95)[1], [2 + 2 * 1.959963984540054], 12)
    near(pool(torch.full((2,), 2.0), torch.full((2,), 4.0), complete_df=20).degrees_of_freedom, 21 / 23 * 20, 12)
    assert "Pooled([1] estimates" in repr(found)


def test_coverage_of_pooled_intervals():
    """A mean of 40 normal data of which 20 are missing at random, imputed from their exact predictive distribution.

    Pooled 90 % intervals of 2000 data sets: their share is binomial, outside of 90 +- 3.3 % once in a million seeds.
    """
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 20, generator=stream, dtype=torch.float64)
    mean, rest = x.mean(1, keepdim=True), x.var(1, keepdim=True) * 19
    chi = torch.randn(50, 2000, 19, generator=stream, dtype=torch.float64).square().sum(-1, keepdim=True)
    sigma = (rest / chi).sqrt()
    mu = mean + sigma * torch.randn(50, 2000, 1, generator=stream, dtype=torch.float64) / 20**0.5
    filled = mu + sigma * torch.randn(50, 2000, 20, generator=stream, dtype=torch.float64)
    full = torch.cat([x.expand(50, -1, -1), filled], -1)
    low, high = pool(full.mean(-1), full.var(-1) / 40, complete_df=39).interval(0.9)
    assert abs(((low < 0) & (high > 0)).double().mean() - 0.9) < 0.033


@pytest.mark.parametrize(
    ("estimates", "variances", "options", "message"),
    [
        ([1.0], [1.0], {}, "m >= 2"),
        ([1.0, 2.0], [1.0], {}, "one shape"),
        ([1.0, 2.0], [1.0, -1.0], {}, "squared standard errors"),
        ([1.0, float("nan")], [1.0, 1.0], {}, "estimates: expected finite"),
        ([1.0, 2.0], [1.0, 1.0], {"complete_df": 0}, "complete_df must be above 0"),
    ],
)
def test_what_makes_no_sense_is_refused(estimates, variances, options, message):
    with pytest.raises(UsageError, match=message):
        pool(torch.tensor(estimates), torch.tensor(variances), **options)
    with pytest.raises(UsageError, match="level must be"):
        pool(torch.ones(2), torch.ones(2)).interval(1.0)
