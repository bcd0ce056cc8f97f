"""Which Pareto k to trust: each is estimated from few draws, so those of all data are judged together."""

from math import ceil, floor

import torch
from torch import Tensor

from pyro_vae.statistics.pareto import reliable_below, tail_length

_MOST_DOUBT = 0.2
"""The posterior probability that k is above the threshold from which on a datum is flagged."""


_SIZEABLE, _LESS_DOUBT = 0.2, 0.05
"""Share of the data flagged from which on less doubt is enough for the rest, and how much."""


_SCATTER = 1.1
"""Standard deviation of k-hat over its asymptotic one, as simulated for K from 50 to 5000."""


_PRIOR = 10
"""Weight of the prior that draws the fitted k towards 0.5, in draws (Vehtari et al. 2024, appendix G)."""


_LOWEST, _HIGHEST, _STEP = -1.0, 1.5, 0.05
"""The values that k may have, and their coarsest spacing; what is beyond counts as the last of them."""


_ROUNDS = 300
"""Rounds of EM."""


def error_bar_below(num_particles: int) -> float:
    """The Pareto k above which not to trust the error bar of a mean of K weights: `min(1 - 1 / log10(K), 0.5)`.

    From k = 0.5 on weights have no finite variance, so the central limit theorem does not hold, and intervals of two
    standard errors cover the less, the higher k is. With few draws k-hat must be lower still, as for `reliable_below`.
    """
    return min(reliable_below(num_particles), 0.5)


def untrustworthy(pareto_k: Tensor, num_particles: int, below: float) -> Tensor:
    r"""Which data's k is likely above a threshold, given the k-hat of all data.

    .. math:: \hat k_i \sim N(k_i, s(k_i)^2), \qquad s(k) = 1.1 (1 + k) \sqrt M / (M + 10), \qquad k_i \sim G

    M is the number of weights in the tail. A single k-hat is computed from the same draws as the estimate: where these
    missed the tail, it is low *and* log p(x) is too low, so that choosing the data with a low k-hat chooses those that
    are underestimated. So the distribution G of k over the data is estimated from all k-hat (its most likely value on a
    grid, by EM, with one datum's worth of prior spread evenly), and a datum is flagged where the posterior probability
    of k above the threshold, given the other data, is more than 0.2; if more than a fifth of the data are flagged, then
    the rest from 0.05 on. If all data are similar, all or none are flagged, independent of their own k-hat; if they
    fall into groups far enough apart, each group is judged by itself; a datum alone is judged by its k-hat and the
    error of it, which says little for one datum and few draws: take more data, or more draws.

    Args:
        pareto_k: k-hat of each datum, `[N]`; -inf where all weights in the tail are equal, nan where not known.
        num_particles: K, the number of weights that each is estimated from.
        below: the threshold.

    Returns:
        `[N]` bool; True where k-hat is nan. Equal weights say nothing against a datum, unless more than a fifth of all
        data are flagged: those may have drawn what this one has not.

    References:
        Vehtari et al. 2024, Pareto smoothed importance sampling. Laird 1978, Nonparametric maximum likelihood
        estimation of a mixing distribution. Efron & Morris 1972, Limiting the risk of Bayes and empirical Bayes
        estimators.

    Example:
        >>> low_and_high = torch.cat([torch.full((50,), 0.1), torch.full((50,), 0.9)])
        >>> untrustworthy(low_and_high, 5000, below=0.5).sum()
        tensor(50)
    """
    equal = pareto_k == -torch.inf
    doubt = torch.where(equal, 0.0, 1.0).double()
    known = ~equal & ~pareto_k.isnan()
    if known.any():
        grid, posterior = posterior_of_k(pareto_k[known], num_particles, below)
        doubt[known] = posterior[:, grid > below].sum(1)
    flagged = doubt > _MOST_DOUBT
    return equal | (doubt > _LESS_DOUBT) if flagged.double().mean() > _SIZEABLE else flagged


def posterior_of_k(pareto_k: Tensor, num_particles: int, between: float) -> tuple[Tensor, Tensor]:
    """The posterior of the Pareto k of each datum, given the k-hat of all data; see `untrustworthy`.

    Args:
        pareto_k: k-hat of each datum, `[N]`, finite or +inf.
        num_particles: K, the number of weights that each is estimated from.
        between: a value that is halfway between two of those that k may have.

    Returns:
        Values of k, `[G]`, and their probabilities for each datum, `[N, G]`; double precision.
    """
    tail = tail_length(num_particles)
    grid = _grid(tail, between, pareto_k)
    step = grid[1] - grid[0]
    nearest = ((pareto_k.double() - grid[0]) / step).clamp(0, len(grid) - 1).round().long()
    counts = torch.bincount(nearest, minlength=len(grid)).double()
    return grid, _posterior(_likelihood(grid, tail), counts)[nearest]


def _grid(tail: int, below: float, like: Tensor) -> Tensor:
    """Values of k, the threshold halfway between two of them, at most 0.4 standard deviations of a k-hat apart."""
    step = min(_STEP, 0.4 * _SCATTER * tail**0.5 / (tail + _PRIOR))
    first, last = floor((_LOWEST - below) / step), ceil((_HIGHEST - below) / step)
    return below + step * (torch.arange(first, last, dtype=torch.float64, device=like.device) + 0.5)


def _likelihood(grid: Tensor, tail: int) -> Tensor:
    """The density of each k-hat on the grid (rows) given each k (columns)."""
    scatter = _SCATTER * (1 + grid.clamp(min=-0.5)) * tail**0.5 / (tail + _PRIOR)
    return torch.exp(-((grid[:, None] - grid) / scatter).square() / 2) / scatter


def _posterior(likelihood: Tensor, counts: Tensor) -> Tensor:
    """The posterior of k for each k-hat on the grid, by the distribution of k over the *other* data, in rows.

    If the distribution included its own k-hat, a datum would confirm itself; a single datum has the uniform prior.
    """
    size = len(counts)
    total = counts.sum() + 1
    weights = torch.full_like(counts, 1 / size)
    for _ in range(_ROUNDS):
        weights = (counts @ _normalised(likelihood * weights) + 1 / size) / total
    others = (total * weights - _normalised(likelihood * weights)).clamp(min=1 / size)
    return _normalised(likelihood * others)


def _normalised(rows: Tensor) -> Tensor:
    return rows / rows.sum(1, keepdim=True)
