"""`statistics.unseen`: how much a mean of weights misses, compared with the mean of a Pareto distribution."""

import math

import numpy as np
import pytest
import torch

from pyro_vae.statistics.pareto import pareto_k_of_tail, tail_kept, tail_length
from pyro_vae.statistics.unseen import unseen


def drawn(k, num_particles, num_data, seed=0):
    """Weights of a generalised Pareto distribution of shape k and scale 1, `[K, N]`, whose mean is 1 / (1 - k)."""
    p = np.random.default_rng(seed).random((num_particles, num_data))
    return (p**-k - 1) / k


def tail_of(weights, mean):
    """k-hat, the start of the tail and its median excess, in units of a mean."""
    falling = np.sort(weights, 0)[::-1]
    length = tail_length(len(weights))
    k = pareto_k_of_tail(np.log(falling[: tail_kept(len(weights))].T), len(weights))
    start = falling[length] / mean
    return (*map(torch.from_numpy, (k, start.copy(), falling[length // 2] / mean - start)), len(weights))


@pytest.mark.parametrize("num_particles", [500, 5000])
@pytest.mark.parametrize("k", [0.2, 0.4, 0.6])
def test_of_pareto_weights(k, num_particles):
    """The exact share: p (x_p + (1 + k x_p) / (1 - k) - m) / m at p = 1 / K. Mean of 400 data: within a fifth of it."""
    mean, largest = 1 / (1 - k), (num_particles**k - 1) / k
    exact = (largest + (1 + k * largest) / (1 - k) - mean) / num_particles / mean
    found = unseen(*tail_of(drawn(k, num_particles, 400), mean))
    assert found.mean().item() == pytest.approx(exact, rel=0.2)
    assert found.std() < 0.4 * found.mean()  # by k-hat of each datum alone it would be as large as the mean


def test_it_does_not_follow_the_k_hat_of_a_datum():
    """Among data that are alike, a low k-hat is chance: the share is that of the others."""
    k = torch.full((200,), 0.5).double()
    k[0] = 0.2
    found = unseen(k, torch.full((200,), 3.0), torch.ones(200), 500)
    assert found[0].item() == pytest.approx(found[1].item(), rel=0.1)


def test_equal_and_unknown_weights():
    """Nothing is added for weights that are all equal, nor where k-hat is not known; infinity counts as 0.95."""
    k = torch.tensor([-math.inf, math.nan, math.inf]).double()
    found = unseen(k, torch.ones(3), torch.tensor([0.0, 1.0, 1.0]), 500)
    assert found[:2].tolist() == [0, 0] and 0 < found[2] < math.inf
    assert unseen(k[:2], torch.ones(2), torch.ones(2), 5).tolist() == [0, 0]


def test_never_below_zero():
    """A tail that ends below the mean weight, as of nearly equal ones, misses nothing."""
    assert unseen(torch.full((20,), -0.9), torch.full((20,), 0.5), torch.full((20,), 0.01), 500).tolist() == [0.0] * 20
