"""`pyro_vae.statistics.uniformity`: p-values and bands against every possible outcome, counted one by one."""

import itertools

import numpy as np
import pytest

from pyro_vae.statistics.uniformity import counts_below, p_values, sign_walk_p_value, simultaneous_band


def every(num_ranks, num_draws):
    """All outcomes of uniform ranks, each as likely as the others, `[N, outcomes]`."""
    return np.array(list(itertools.product(range(num_draws + 1), repeat=num_ranks))).T


@pytest.mark.parametrize(("num_ranks", "num_draws"), [(1, 1), (4, 3), (5, 2), (3, 5), (6, 3)])
def test_p_values_are_exact(num_ranks, num_draws):
    p = p_values(every(num_ranks, num_draws), num_draws)
    for value in np.unique(p.round(12)):
        assert (p <= value + 1e-9).mean() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("num_ranks", "num_draws"), [(4, 3), (5, 2), (6, 3)])
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2, 0.5])
def test_the_band_is_left_where_the_p_value_says(num_ranks, num_draws, alpha):
    ranks = every(num_ranks, num_draws)
    band, counts = simultaneous_band(num_ranks, num_draws, alpha), counts_below(ranks, num_draws)
    left = ((counts < band.lower[:, None]) | (counts > band.upper[:, None])).any(0)
    np.testing.assert_array_equal(left, p_values(ranks, num_draws) <= alpha)
    assert left.mean() <= alpha


def test_false_alarms_of_many_ranks():
    """Of 4000 uniform columns a share alpha is flagged, less for discreteness: within 4.9 standard errors (1e-6)."""
    p = p_values(np.random.default_rng(0).integers(0, 50, (200, 4000)), 49)
    for alpha in (0.05, 0.5):
        error = (alpha * (1 - alpha) / 4000) ** 0.5
        assert alpha - 0.01 - 4.9 * error < (p <= alpha).mean() < alpha + 4.9 * error


def test_the_band_is_symmetric_and_as_narrow_as_it_may_be():
    band = simultaneous_band(250, 49, 0.05)
    assert (np.diff(band.lower) >= 0).all() and (band.lower == 250 - band.upper[::-1]).all()
    assert 0.05 / 49 < band.pointwise < 0.05  # between what Bonferroni would take and a single look
    wider, narrower = (simultaneous_band(250, 49, alpha) for alpha in (0.01, 0.2))
    assert (
        (wider.upper >= band.upper).all()
        and (band.upper >= narrower.upper).all()
        and wider.upper[24] > narrower.upper[24]
    )


def test_ranks_that_are_not_uniform_are_found():
    generator = np.random.default_rng(0)
    narrow = np.where(generator.random((300, 1)) < 0.5, generator.integers(0, 10, (300, 1)), generator.integers(10, 20))
    assert p_values(narrow, 19)[0] < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
def test_the_walk_of_signs_is_exact(steps):
    size = np.arange(1, steps + 1)
    p = np.array([sign_walk_p_value(size * signs) for signs in itertools.product([-1, 1], repeat=steps)])
    for value in np.unique(p.round(12)):
        assert (p <= value + 1e-9).mean() == pytest.approx(value, abs=1e-12)


def test_the_walk_starts_at_the_largest_difference():
    assert sign_walk_p_value(np.array([-1, -2, 8, 9, 10])) == pytest.approx(1 - 18 / 32)
    assert sign_walk_p_value(np.array([0, 0])) == 1.0
