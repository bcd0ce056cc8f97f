r"""An upper bound on the logarithm of an expectation, from independent unbiased estimates of it.

The logarithm of a mean of weights is too low on average. Its tangents lie above the logarithm, so a tangent at a point
that is independent of an unbiased estimate, taken at that estimate, is too high on average.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

FOLDS = 50
"""Groups of weights: the upper bound is 50 / 49 times as far from the truth as with each weight alone."""


def fold_sums(log_weights: Tensor, first: int = 0) -> Tensor:
    """The sums of the weights of each fold, on the log scale; weight k is in fold `k mod FOLDS`.

    Args:
        log_weights: some of them, one after the other, `[k, N]`.
        first: the position of the first of these.

    Returns:
        `[FOLDS, N]`; -inf where a fold has none of them.
    """
    before = first % FOLDS
    whole = pad(log_weights, (0, 0, before, -(before + len(log_weights)) % FOLDS), value=-torch.inf)
    return whole.unflatten(0, (-1, FOLDS)).logsumexp(0)


def _sizes(count: int) -> Tensor:
    """How many of `count` weights each fold has, `[FOLDS]`."""
    return count // FOLDS + (torch.arange(FOLDS) < count % FOLDS)


def tangent_gap(log_sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    r"""How far the mean of the tangents lies above the logarithm of the mean, and the variance that it adds.

    With :math:`Y_f` the mean weight of fold f and :math:`c_f` that of all other folds, which is independent of it,

    .. math:: \log E[w] \le E\left[ \log c_f + \frac{Y_f}{c_f} - 1 \right]

    The mean of this over the folds, each counted by its share q_f of the weights, less the logarithm of the mean
    weight is a function of the shares r_f of the sum of the weights:

    .. math:: \sum_f \left[ \frac{r_f (r_f - q_f)}{1 - r_f} + q_f \log \frac{1 - r_f}{1 - q_f} \right] \ge 0

    It is about the squared standard error of the logarithm of the mean. The variance is that of the bound less that of
    the logarithm of the mean, both by the jackknife over the folds.

    Args:
        log_sums: what `fold_sums` returns of all weights, `[FOLDS, N]`.
        count: how many weights there are.

    Returns:
        The distance and the added variance, `[N]`, nats and their square, double precision. The distance is nan for one
        weight, and infinite where one fold has all the weight; the variance is nan for fewer than three weights, and
        where it would be infinite.

    References:
        Efron & Stein 1981, The jackknife estimate of variance.

    Example:
        >>> weights = torch.tensor([[1.0], [3.0]])
        >>> tangent_gap(fold_sums(weights.log()), 2)[0]
        tensor([0.5228], dtype=torch.float64)
    """
    folds = min(count, FOLDS)
    r = log_sums[:folds].double().softmax(0)
    if folds < 2:
        return torch.full_like(r[0], torch.nan), torch.full_like(r[0], torch.nan)
    q = (_sizes(count)[:folds, None].double() / count).to(r.device)
    others = 1 - torch.eye(folds, dtype=r.dtype, device=r.device).unsqueeze(-1)
    lower = (1 - r).log() - (1 - q).log()
    upper = lower + _gap(others * r / (1 - r).unsqueeze(1), others * q / (1 - q).unsqueeze(1))
    added = (folds - 1) / folds * (_squares(upper) - _squares(lower))
    return torch.where((r == 1).any(0), torch.inf, _gap(r, q)), added.clamp(min=0)


def _gap(r: Tensor, q: Tensor) -> Tensor:
    """The sum over the folds, the last dimension but one."""
    return (r * (r - q) / (1 - r) + q * ((1 - r) / (1 - q)).log()).sum(-2)


def _squares(x: Tensor) -> Tensor:
    return (x - x.mean(0)).square().sum(0)
