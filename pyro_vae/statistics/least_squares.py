"""Least-squares classifiers of two classes: many labellings of the same data at once, in closed form."""

import torch
from torch import Tensor


def fit_classifiers(features: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    r"""Ridge regressions of labels on the same features.

    .. math:: w_h = (F^T F + \lambda M I)^{-1} F^T y_h

    The probability of class +1 is estimated by :math:`(1 + f^T w) / 2`. All labellings share one matrix, so hundreds of
    them cost little more than one.

    Args:
        features: F, `[M, D]`.
        labels: y, +1 or -1, `[M, H]`.
        penalty: lambda, above 0, beside the mean squares of the features.

    Returns:
        Weights `[D, H]`, and the prediction of each row by the others, `[M, H]` (exact leave-one-out).

    Example:
        >>> side = torch.tensor([[-1.0], [1.0], [-2.0], [2.0]], dtype=torch.float64)
        >>> weights, left_out = fit_classifiers(side, side.sign(), 0.1)
        >>> bool((left_out.sign() == side.sign()).all())
        True
    """
    size, columns = features.shape
    matrix = features.T @ features + penalty * size * torch.eye(columns, dtype=features.dtype)
    factor = torch.linalg.cholesky(matrix)
    weights = torch.cholesky_solve(features.T @ labels, factor)
    leverage = torch.linalg.solve_triangular(factor, features.T, upper=False).square().sum(0)
    residual = (labels - features @ weights) / (1 - leverage)[:, None]
    return weights, labels - residual
