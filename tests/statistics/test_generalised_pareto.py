"""The generalised Pareto distribution: scipy's quantiles, and a fit that finds the shape of exact ones."""

import numpy as np
import pytest
from scipy.stats import genpareto

from pyro_vae.statistics.generalised_pareto import fitted, quantiles

P = (np.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize("k", [-0.4, -1e-17, 0.0, 1e-17, 0.2, 0.7, 1.5])
def test_quantiles_are_scipys(k):
    np.testing.assert_allclose(quantiles(P, k, 3.0), genpareto.ppf(P, k, scale=3.0), rtol=1e-12)


@pytest.mark.parametrize("k", [-0.4, 0.0, 0.2, 0.7, 1.5])
@pytest.mark.parametrize("sigma", [1e-200, 3.0, 1e200])
def test_the_fit_finds_shape_and_scale(k, sigma):
    """Of 20,000 quantiles: a sample's standard error of k would be 0.018 at most, (1 + k) / sqrt(n)."""
    found, scale = fitted(quantiles(P, k, sigma))
    assert abs(found - k) < 0.005 and abs(scale / sigma - 1) < 0.01


def test_the_prior_is_that_of_ten_observations():
    """k of n excesses is drawn towards 0.5 by 10 / (n + 10), so less for more of them."""
    few, many = ((np.arange(n) + 0.5) / n for n in (30, 3000))
    assert abs(fitted(quantiles(many, 0.1, 1.0))[0] - 0.1) < 0.01 < fitted(quantiles(few, 0.1, 1.0))[0] - 0.1 < 0.15
