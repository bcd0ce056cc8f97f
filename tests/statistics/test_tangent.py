"""`statistics.tangent`: the upper bound on the logarithm of a mean, against its definition, and by enumeration."""

from itertools import product
from math import inf, log

import numpy as np
import pytest
import torch

from pyro_vae.statistics.tangent import FOLDS, _sizes, fold_sums, tangent_gap

TAILS = {"light": 0.3, "heavy": 2.0, "very heavy": 30.0}
"""Standard deviations of normal log-weights."""


def normal(spread, count, num_data=6, seed=0):
    stream = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, num_data, generator=stream, dtype=torch.float64)


def by_definition(log_weights, folds):
    """The mean of the tangents, by loops over folds in plain NumPy, each counted by its number of weights."""
    w = np.exp(np.asarray(log_weights))
    fold, total = np.arange(len(w)) % folds, 0.0
    for f in set(fold):
        c, y = w[fold != f].mean(0), w[fold == f].mean(0)
        total = total + (fold == f).mean() * (np.log(c) + y / c - 1)
    return total


class TestTangentGap:
    @pytest.mark.parametrize("spread", [0.3, 2.0])
    @pytest.mark.parametrize("count", [2, 3, 49, 50, 51, 137, 500])
    def test_it_is_the_mean_of_the_tangents(self, count, spread):
        """Also where the folds are of two sizes, or fewer than 50 have a weight."""
        w = normal(spread, count)
        upper = w.logsumexp(0) - log(count) + tangent_gap(fold_sums(w), count)[0]
        np.testing.assert_allclose(upper.numpy(), by_definition(w, FOLDS), rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("spread", TAILS.values(), ids=TAILS)
    @pytest.mark.parametrize("count", [2, 3, 16, 50, 77])
    def test_it_is_never_negative(self, count, spread):
        assert (tangent_gap(fold_sums(normal(spread, count, 200)), count)[0] >= 0).all()

    def test_equal_weights_have_none(self):
        for count in (3, 50, 130):
            gap, added = tangent_gap(fold_sums(torch.full((count, 3), -1000.0).double()), count)
            assert gap.abs().max() < 1e-14 and added.abs().max() < 1e-14

    @pytest.mark.parametrize("values", [(1.0, 3.0), (0.01, 1.0), (0.5, 50.0)])
    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_in_expectation_it_bounds_the_logarithm_of_the_mean(self, values, count):
        """By enumeration of all draws of a weight that has two values, a third of the time the second one."""
        draws = torch.tensor(list(product((0, 1), repeat=count))).T
        probability = torch.where(draws == 1, 1 / 3, 2 / 3).double().prod(0)
        w = torch.tensor(values).double().log()[draws]
        lower = w.logsumexp(0) - log(count)
        upper = lower + tangent_gap(fold_sums(w), count)[0]
        truth = log(2 / 3 * values[0] + values[1] / 3)
        assert (probability * lower).sum() < truth < (probability * upper).sum()

    def test_about_the_squared_standard_error(self):
        """For light tails 50 / 49 of it: the mean of 1000, each off by 20 %, within 3 % (5 standard errors)."""
        w = normal(0.2, 500, 1000)
        gap = tangent_gap(fold_sums(w), 500)[0].mean()
        squared = (w.softmax(0).square().sum(0) - 1 / 500).mean()
        assert gap.item() == pytest.approx(50 / 49 * squared.item(), rel=0.03)

    def test_one_fold_knows_nothing_and_one_weight_alone_bounds_nothing(self):
        assert all(x.isnan().all() for x in tangent_gap(fold_sums(normal(1.0, 1)), 1))
        alone = torch.tensor([[0.0], [-800.0], [-900.0]])
        assert tangent_gap(fold_sums(alone), 3)[0].item() == inf

    def test_the_standard_error_is_that_of_repeated_draws(self):
        """Of 3000 repetitions with 16 weights and with 500 in folds: within 10 %.

        The standard error of a standard deviation of 3000 is 1.3 %, more for these skewed ones: false alarm below 1e-4.
        """
        for spread, count in ((0.5, 16), (1.0, 500)):
            w = normal(spread, count, 3000)
            gap, added = tangent_gap(fold_sums(w), count)
            r = w.softmax(0)
            squared = (r.square().sum(0) - 1 / count) * count / (count - 1)
            upper = w.logsumexp(0) + gap
            assert (squared + added).mean().sqrt().item() == pytest.approx(upper.std().item(), rel=0.1)


class TestFolds:
    @pytest.mark.parametrize("cut", [7, 50, 120])
    def test_they_do_not_depend_on_how_the_weights_are_cut(self, cut):
        w = normal(1.0, 130)
        parts = [fold_sums(part, first) for part, first in zip(w.split(cut), range(0, 130, cut), strict=True)]
        torch.testing.assert_close(torch.stack(parts).logsumexp(0), fold_sums(w))

    def test_every_weight_is_in_one_fold(self):
        w = normal(1.0, 130)
        torch.testing.assert_close(fold_sums(w).logsumexp(0), w.logsumexp(0))
        assert _sizes(130).tolist() == [3] * 30 + [2] * 20 and _sizes(3).sum() == 3
        torch.testing.assert_close(fold_sums(w)[7], w[7::50].logsumexp(0))
