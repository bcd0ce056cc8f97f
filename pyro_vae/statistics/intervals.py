"""How good predictions by draws are, where the truth is known: coverage of intervals, and the CRPS."""

import numpy as np
import torch
from torch import Tensor


def interval(draws: Tensor, level: float) -> tuple[Tensor, Tensor]:
    r"""The equal-tailed interval of independent draws that covers one more draw with probability `level`.

    .. math:: P(x_{(r)} < x < x_{(s)}) = \frac{s - r}{m + 1}

    for the r-th and s-th smallest of m draws of a continuous quantity; in between, linear (Weibull's quantiles). With
    fewer than `2 / (1 - level) - 1` draws the interval is that of the least and the greatest, which covers less.

    Args:
        draws: `[m, ...]`.
        level: the probability, between 0 and 1.

    Returns:
        The ends of the interval, each `[...]`, double precision.

    Example:
        >>> low, high = interval(torch.arange(1.0, 20.0), 0.9)
        >>> low.item(), high.item()
        (1.0, 19.0)
    """
    tail = (1 - level) / 2
    ends = np.quantile(draws.double().numpy(), [tail, 1 - tail], axis=0, method="weibull")
    low, high = torch.from_numpy(np.asarray(ends))
    return low, high


def crps(draws: Tensor, truth: Tensor) -> Tensor:
    r"""The continuous ranked probability score of draws, in the unit of the data; less is better.

    .. math:: E|x - y| - \tfrac12 E|x - x'|, \qquad x, x' \sim p

    with its unbiased estimate from m draws (the "fair" CRPS). For one draw the second term is not known, and is left
    out: the absolute error.

    Args:
        draws: `[m, ...]`.
        truth: y, `[...]`.

    Returns:
        `[...]`, double precision.

    References:
        Gneiting & Raftery 2007, Strictly proper scoring rules, prediction, and estimation. Ferro 2014, Fair scores for
        ensemble forecasts.

    Example:
        >>> crps(torch.tensor([0.0, 2.0]), torch.tensor(1.0))
        tensor(0., dtype=torch.float64)
    """
    draws, size = draws.double(), len(draws)
    error = (draws - truth.double()).abs().mean(0)
    if size == 1:
        return error
    places = torch.arange(1, size + 1, dtype=torch.float64) * 2 - size - 1
    spread = torch.einsum("m,m...->...", places, draws.sort(0).values) / (size * (size - 1))
    return error - spread
