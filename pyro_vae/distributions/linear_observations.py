"""y = A x + e of independent normal elements x, which makes y dense: its density, and what it says of x."""

from math import log, pi
from typing import Any

import torch
from torch import Tensor


class LinearObservation:
    r"""y = A x + e, of x with independent variances v and normal noise e of standard deviation s.

    .. math:: y \sim N(A m, C), \quad C = A V A^T + s^2 I; \qquad E[x|y] = m + V A^T C^{-1} (y - A m)

    With M observations of D elements, what is factorised has min(M, D) rows: C itself, or by Woodbury's identity and
    the determinant lemma

    .. math:: C^{-1} = \frac{I - A V^{1/2} H^{-1} V^{1/2} A^T / s^2}{s^2}, \quad \log|C| = \log|H| + M \log s^2, \quad
        H = I + V^{1/2} A^T A V^{1/2} / s^2

    That takes min(M, D)^3 operations, once for each row of variances: once in all where all data have the same. Each
    residual takes M D more. In double precision.

    Args:
        matrix: A, `[M, D]`.
        variance: v, `[*rows, D]`; rows of the same variances need not be repeated.
        std: s, above 0.
        seen: which elements of y were observed, `[*rows, M]` bool; None for all. Others are left out.
    """

    def __init__(self, matrix: Tensor, variance: Tensor, std: float, seen: Tensor | None = None) -> None:
        self.matrix, self.std, self.variance = matrix.double(), std, variance.double()
        self.seen = None if seen is None else seen.double()
        self.few = matrix.shape[0] < matrix.shape[1]
        self.factor: Tensor = torch.linalg.cholesky(self._of_y() if self.few else self._of_x())

    def log_density(self, residual: Tensor) -> Tensor:
        """Log p(y|m), `[*rows]`, nats, for residuals y - A m, `[*rows, M]`."""
        r = self._kept(residual.double())
        num = r.new_tensor(float(r.shape[-1])) if self.seen is None else self.seen.sum(-1)
        log_det = 2 * self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if self.few:  # rows that were not observed have s^2 on the diagonal, and nothing beside it
            log_det = log_det + (num - r.shape[-1]) * 2 * log(self.std)
            square = (r * solve(self.factor, r)).sum(-1)
        else:
            log_det, u = log_det + num * 2 * log(self.std), self._onto_x(r)
            square = r.square().sum(-1) / self.std**2 - (u * solve(self.factor, u)).sum(-1)
        return (-0.5 * (square + log_det + num * log(2 * pi))).to(residual.dtype)

    def gain(self, residual: Tensor) -> Tensor:
        """E[x|y] - m, `[*rows, D]`, for residuals y - A m, `[*rows, M]`."""
        r = self._kept(residual.double())
        if self.few:
            found = self.variance * (self._kept(solve(self.factor, r)) @ self.matrix)
        else:
            found = self.variance.sqrt() * solve(self.factor, self._onto_x(r))
        return found.to(residual.dtype)

    @property
    def remaining(self) -> Tensor:
        """Var[x|y] of each element, `[*rows, D]`."""
        if self.few:
            rows = self.matrix if self.seen is None else self.matrix * self.seen.unsqueeze(-1)
            known = torch.linalg.solve_triangular(self.factor, rows, upper=False).square().sum(-2)
            return self.variance - self.variance.square() * known
        one = torch.eye(self.matrix.shape[1]).to(self.factor)
        return self.variance * torch.linalg.solve_triangular(self.factor, one, upper=False).square().sum(-2)

    def _of_y(self) -> Tensor:
        """C, with zeros beside the diagonal for what was not observed."""
        dense = (self.matrix * self.variance.unsqueeze(-2)) @ self.matrix.T
        if self.seen is not None:
            dense = dense * self.seen.unsqueeze(-1) * self.seen.unsqueeze(-2)
        return dense + self.std**2 * torch.eye(len(self.matrix)).to(dense)

    def _of_x(self) -> Tensor:
        """H."""
        rows = self.matrix if self.seen is None else self.matrix * self.seen.unsqueeze(-1)
        root = self.variance.sqrt()
        dense = root.unsqueeze(-1) * (rows.mT @ rows) * root.unsqueeze(-2) / self.std**2
        return dense + torch.eye(dense.shape[-1]).to(dense)

    def _onto_x(self, r: Tensor) -> Tensor:
        return self.variance.sqrt() * (r @ self.matrix) / self.std**2

    def _kept(self, values: Tensor) -> Tensor:
        return values if self.seen is None else values * self.seen


def solve(factor: Tensor, values: Tensor) -> Tensor:
    """(L L^T)^-1 v for factors L `[*rows, m, m]` and values `[*leading, m]`, to which the rows broadcast.

    Values with one factor are columns of one problem, so that factors are not repeated in memory.
    """
    last: Any = factor.shape[-3] if factor.dim() > 2 else 1
    if factor.shape[:-2].numel() != last or (last > 1 and values.shape[-2] != last):
        return torch.cholesky_solve(values.unsqueeze(-1), factor).squeeze(-1)
    columns = values.reshape(-1, last, values.shape[-1]).permute(1, 2, 0)
    found = torch.cholesky_solve(columns, factor.reshape(last, *factor.shape[-2:]))
    return found.permute(2, 0, 1).reshape(values.shape)


def distinct(rows: Tensor, dims: int) -> Tensor:
    """Without the repetitions in leading dimensions that `expand` made, which have size 1 in their place.

    Args:
        rows: `[*leading, *event]`.
        dims: of the event.
    """
    for dim in range(rows.dim() - dims):
        if rows.stride(dim) == 0:
            rows = rows.narrow(dim, 0, 1)
    return rows
