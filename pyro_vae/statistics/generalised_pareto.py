"""The generalised Pareto distribution, that excesses over a high threshold follow: its fit and quantiles."""

import numpy as np

_PRIOR_OF_B, _PRIOR_OF_K, _PRIOR_WEIGHT = 3, 0.5, 10
"""Of the authors cited: the spread of the prior of b, and the mean of that of k with its weight in observations."""


@np.errstate(all="ignore")  # members of the grid that are far off overflow on purpose: their weight is 0
def fitted(excesses: np.ndarray) -> tuple[float, float]:
    r"""The shape k and the scale sigma of excesses over a threshold, by an approximate posterior mean.

    .. math:: P(X > x) = (1 + k x / \sigma)^{-1 / k}

    With :math:`b = -k / \sigma` the likelihood is highest at :math:`k(b) = \frac1n \sum_i \log(1 - b x_i)`, so one
    dimension is left: b is averaged over a grid with the weights of its profile likelihood. k is then drawn towards
    0.5 as by ten observations.

    Args:
        excesses: in rising order, the largest positive, `[n]`, n at least 5.

    Returns:
        k and sigma; not finite where the excesses have no such fit.

    References:
        Zhang & Stephens 2009, A new and efficient estimation method for the generalized Pareto distribution. Vehtari
        et al. 2024, Pareto smoothed importance sampling: the prior of k.
    """
    n = len(excesses)
    size = 30 + int(n**0.5)
    b = 1 - np.sqrt(size / (np.arange(1, size + 1, dtype=float) - 0.5))
    b = b / (_PRIOR_OF_B * excesses[int(n / 4 + 0.5) - 1]) + 1 / excesses[-1]
    k = np.log1p(-b[:, None] * excesses).mean(1)
    profile = n * (np.log(-(b / k)) - k - 1)
    weights = 1 / np.exp(profile - profile[:, None]).sum(1)
    kept = weights >= 10 * np.finfo(float).eps
    b, weights = b[kept], weights[kept]
    mean_b = np.sum(b * (weights / weights.sum()))
    mean_k = np.log1p(-mean_b * excesses).mean()
    return (n * mean_k + _PRIOR_WEIGHT * _PRIOR_OF_K) / (n + _PRIOR_WEIGHT), -mean_k / mean_b


def quantiles(probabilities: np.ndarray, k: float, sigma: float) -> np.ndarray:
    r"""The values that are exceeded with probability 1 - p: :math:`\sigma ((1 - p)^{-k} - 1) / k`.

    Args:
        probabilities: p, between 0 and 1, `[n]`.
        k: the shape; at 0 the distribution is exponential.
        sigma: the scale.
    """
    rate = -np.log1p(-probabilities)
    return sigma * (rate if abs(k) < np.finfo(float).eps else np.expm1(k * rate) / k)
