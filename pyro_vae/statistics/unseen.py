"""How much of a mean of weights may lie in weights that are larger than any that was drawn."""

import torch
from torch import Tensor

from pyro_vae.statistics.pareto import tail_length
from pyro_vae.statistics.reliability import posterior_of_k

_LARGEST_K = 0.95
"""A larger k counts as this one: at 1 the mean is infinite."""


def unseen(pareto_k: Tensor, tail_start: Tensor, tail_excess: Tensor, num_particles: int) -> Tensor:
    r"""By which share of itself a mean of K weights is too low if none of them is among the largest 1 in K.

    .. math:: \frac1K \left( E[w \mid w > w_K] - 1 \right), \qquad
        E[w \mid w > w_K] = w_K + \frac{\sigma + k (w_K - u)}{1 - k}, \qquad
        w_K = u + \frac{\sigma}{k} \left( M^k - 1 \right)

    The M largest weights, above u, are taken to be Pareto distributed with shape k, and the mean of all weights is 1.
    A sample without a weight above :math:`w_K` comes up in more than a third of all cases, and then k-hat is too low,
    too. So k is not that of the datum alone: the result is averaged over the posterior of k given the k-hat of all data
    (`reliability.untrustworthy`). The scale :math:`\sigma = k m / (2^k - 1)` is that of the median excess m over u.

    Args:
        pareto_k: k-hat of each datum, `[N]`; -inf where all weights in the tail are equal, nan where not known.
        tail_start: u, the largest weight below the tail, in units of the mean weight, `[N]`.
        tail_excess: m, by how much the median weight of the tail is above u, in the same unit, `[N]`.
        num_particles: K, the number of weights.

    Returns:
        The share, `[N]`, double precision; 0 for equal weights and where k-hat is nan.

    References:
        Vehtari et al. 2024, Pareto smoothed importance sampling: the tail of the weights.

    Example:
        >>> light, heavy = (torch.full((50,), k) for k in (0.1, 0.6))
        >>> [unseen(k, torch.full((50,), 2.0), torch.full((50,), 0.5), 1000)[0].item() > 0.01 for k in (light, heavy)]
        [False, True]
    """
    known = pareto_k.isfinite() | (pareto_k == torch.inf)
    found = torch.zeros(len(pareto_k), dtype=torch.float64, device=pareto_k.device)
    if known.any():
        grid, posterior = posterior_of_k(pareto_k[known], num_particles, 0.5)
        beyond = posterior @ _beyond(grid, tail_length(num_particles))
        found[known] = (tail_start[known] + tail_excess[known] * beyond - 1) / num_particles
    return found.clamp(min=0)


def _beyond(k: Tensor, tail: int) -> Tensor:
    """The mean excess over u of weights above the largest of a tail, in units of the median excess, for each k."""
    k = torch.where(k.abs() < 1e-6, 1e-6, k.clamp(max=_LARGEST_K))
    scale = k / (2**k - 1)
    largest = scale * (tail**k - 1) / k
    return largest + (scale + k * largest) / (1 - k)
