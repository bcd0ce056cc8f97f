"""Are ranks uniform? Exact p-values, and simultaneous bands for the empirical distribution function.

The ranks of N draws among L others, where all L + 1 come from one distribution, fall into L + 1 cells with equal
probability. The counts C_k of ranks below k are then binomial, and together a Markov chain, so the chance that all of
them stay within bounds is a product of small matrices: no simulation.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_ROUNDING = 1e-9
"""Chances that differ by less, relatively, are the same: no count may be left out that is as unlikely as another."""


@dataclass(frozen=True, eq=False)
class Band:
    r"""Bounds that contain all counts of ranks below k simultaneously, with probability at least 1 - alpha.

    Args:
        lower: least count of ranks below k, k = 1 ... L, `[L]`.
        upper: greatest count, `[L]`.
        pointwise: the chance of each count alone to leave, that makes alpha for all.
    """

    lower: np.ndarray
    upper: np.ndarray
    pointwise: float


def counts_below(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """How many ranks are below k, for k = 1 ... L.

    Args:
        ranks: whole numbers from 0 to L, `[N, Q]`.
        num_draws: L.

    Returns:
        Counts, `[L, Q]`.

    Example:
        >>> counts_below(np.array([[0], [2], [2]]), num_draws=2).ravel().tolist()
        [1, 1]
    """
    return np.stack([(ranks < k).sum(0) for k in range(1, num_draws + 1)])


@lru_cache(maxsize=32)
def simultaneous_band(num_ranks: int, num_draws: int, alpha: float) -> Band:
    r"""The narrowest band of equal pointwise chances that the counts of uniform ranks leave at most alpha of the time.

    .. math:: P\left(\min_k 2 \min\{P(B_k \le C_k), P(B_k \ge C_k)\} \le \gamma\right) \le \alpha, \qquad
        B_k \sim \mathrm{Binomial}(N, k / (L + 1))

    with the largest such gamma. A count leaves the band exactly where `p_values` are at most alpha.

    Args:
        num_ranks: N.
        num_draws: L.
        alpha: the chance of a false alarm.

    Returns:
        The band.

    References:
        Säilynoja, Bürkner & Vehtari 2022, Graphical test for discrete uniformity and its applications in
        goodness-of-fit evaluation and multiple sample comparison.

    Example:
        >>> band = simultaneous_band(num_ranks=100, num_draws=9, alpha=0.05)
        >>> band.lower[4], band.upper[4]  # of the 50 ranks that are expected in the lower half
        (np.int64(37), np.int64(63))
    """
    tails = _tails(num_ranks, num_draws)
    attained = np.unique(np.concatenate([[0.0], *(side[side <= alpha] for side in tails)]))
    low, high = 0, len(attained)  # the chance to leave rises with the pointwise chance
    while high - low > 1:
        middle = (low + high) // 2
        fits = _chance_to_leave(num_ranks, num_draws, attained[middle]) <= alpha
        low, high = (middle, high) if fits else (low, middle)
    return Band(*_bounds(num_ranks, num_draws, attained[low]), float(attained[low]))


def p_values(ranks: np.ndarray, num_draws: int) -> np.ndarray:
    """The chance that uniform ranks' counts are anywhere as unlikely as these are somewhere.

    Args:
        ranks: whole numbers from 0 to L, `[N, Q]`, each column by itself.
        num_draws: L.

    Returns:
        One for each column, `[Q]`: exact, and at most alpha for at most alpha of uniform ranks.

    Example:
        >>> p_values(np.array([[0, 0], [1, 0], [2, 0], [3, 0]]), num_draws=3).round(4).tolist()
        [1.0, 0.0078]
    """
    counts, (below, above) = counts_below(ranks, num_draws), _tails(len(ranks), num_draws)
    rows = np.arange(num_draws)[:, None]
    least = np.minimum(below[rows, counts], above[rows, counts]).min(0)
    return np.array([_chance_to_leave(len(ranks), num_draws, float(level)) for level in least])


@lru_cache(maxsize=4)
def _tails(num_ranks: int, num_draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Twice the binomial chances of at most, and of at least, each count, `[L, N + 1]`."""
    from scipy.stats import binom  # takes a second: not at every import of the package

    chance = np.arange(1, num_draws + 1)[:, None] / (num_draws + 1)
    below = 2 * binom.cdf(np.arange(num_ranks + 1), num_ranks, chance)
    return below, below[::-1, ::-1]


def _bounds(num_ranks: int, num_draws: int, pointwise: float) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest count whose two chances are both above `pointwise`, `[L]` each."""
    below, above = _tails(num_ranks, num_draws)
    limit = pointwise * (1 + _ROUNDING)
    return (below <= limit).sum(1), num_ranks - (above <= limit).sum(1)


def _chance_to_leave(num_ranks: int, num_draws: int, pointwise: float) -> float:
    """The chance that some count leaves the bounds.

    The cells' counts are independent Poisson numbers given their sum, so the chance to stay is a chain of convolutions.
    """
    from scipy.stats import poisson

    lower, upper = _bounds(num_ranks, num_draws, pointwise)
    if (lower > upper).any():
        return 1.0
    cell = poisson.pmf(np.arange(num_ranks + 1), num_ranks / (num_draws + 1))
    stay, least = np.ones(1), 0
    for low, high in [*zip(lower, upper, strict=True), (num_ranks, num_ranks)]:
        reached = np.convolve(stay, cell[: high - least + 1])[: high - least + 1]
        stay, least = (reached[low - least :], low) if low > least else (reached, least)
    return float(min(max(1 - stay[-1] / poisson.pmf(num_ranks, num_ranks), 0.0), 1.0))


def sign_walk_p_value(differences: np.ndarray) -> float:
    r"""Butler's test that a distribution is symmetric about 0: the exact p-value of a random walk of signs.

    .. math:: D = \max_x |F(-x) - (1 - F(x^-))|

    Walking from the largest difference to the smallest, the signs are fair coins if the distribution is symmetric, and
    N D is the farthest that their sum gets from 0.

    Args:
        differences: whole or real numbers, `[N]`; zeros say nothing.

    Returns:
        The chance that fair coins get as far.

    References:
        Butler 1969, A test for symmetry using the sample distribution function.

    Example:
        >>> round(sign_walk_p_value(np.array([1.0, 2.0, 3.0])), 6)  # the chance of three like coins
        0.25
    """
    moved = differences[differences != 0]
    if len(moved) == 0:
        return 1.0
    walk = np.cumsum(np.sign(moved[np.argsort(-np.abs(moved), kind="stable")]))
    return _chance_to_reach(int(np.abs(walk).max()), len(moved))


def _chance_to_reach(distance: int, steps: int) -> float:
    """That a fair walk gets `distance` from 0: one minus that of staying, by the modes of a walk between two walls."""
    odd = np.arange(1, 2 * distance, 2)
    angle = odd * np.pi / (4 * distance)
    modes = (-1.0) ** ((odd - 1) // 2) / np.tan(angle) * np.cos(2 * angle) ** steps
    return float(min(max(1 - modes.sum() / distance, 0.0), 1.0))
