"""Rubin's rules: one estimate with its error from the estimates that several imputations give."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.values import as_array
from pyro_vae.errors import UsageError
from pyro_vae.process.isolation import isolated


@dataclass(frozen=True, eq=False)
class Pooled:
    r"""An estimate from m imputed data sets, and its error. All tensors `[...]`, double precision.

    Args:
        estimate: the mean of the m estimates.
        within: W, the mean of their variances: the error that complete data would leave.
        between: B, the variance of the estimates: what is not known of the missing values.
        degrees_of_freedom: of the t distribution of `(estimate - truth) / standard_error`; infinite where B is 0.
        num_imputations: m.
    """

    estimate: Tensor
    within: Tensor
    between: Tensor
    degrees_of_freedom: Tensor
    num_imputations: int

    @property
    def variance(self) -> Tensor:
        """The total variance `W + (1 + 1/m) B`."""
        return self.within + (1 + 1 / self.num_imputations) * self.between

    @property
    def standard_error(self) -> Tensor:
        """Its square root."""
        return self.variance.sqrt()

    @property
    def relative_increase(self) -> Tensor:
        """R, the relative increase in variance because values are missing: `(1 + 1/m) B / W`."""
        return (1 + 1 / self.num_imputations) * self.between / self.within

    @property
    def fraction_missing(self) -> Tensor:
        """The fraction of missing information, `(r + 2 / (df + 3)) / (r + 1)` with the df of large data sets."""
        large = _large_degrees(self.within, self.between, self.num_imputations)
        return (self.relative_increase + 2 / (large + 3)) / (self.relative_increase + 1)

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """The confidence interval of this level: its lower and upper ends, each `[...]`.

        Raises:
            UsageError: if `level` is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise UsageError(f"level must be between 0 and 1, got {level}")
        from scipy import stats  # takes a second: not at every import of the package

        quantile = torch.from_numpy(np.asarray(stats.t.isf((1 - level) / 2, self.degrees_of_freedom.numpy())))
        reach = quantile * self.standard_error
        return self.estimate - reach, self.estimate + reach

    def __repr__(self) -> str:
        if self.estimate.dim():
            worst = self.fraction_missing.max().item() if self.estimate.numel() else float("nan")
            return f"Pooled({list(self.estimate.shape)} estimates, fraction of missing information up to {worst:.3f})"
        low, high = self.interval()
        return (
            f"{self.estimate:.4g} (se {self.standard_error:.4g}, 95 % interval {low:.4g} to {high:.4g}, "
            f"fraction of missing information {self.fraction_missing:.3f})"
        )


@isolated
def pool(estimates: Tensor, variances: Tensor, complete_df: float | None = None) -> Pooled:
    r"""Combine what was computed from each of m imputed data sets, by Rubin's rules.

    .. math::
        \bar Q = \frac1m \sum_i Q_i, \quad W = \frac1m \sum_i U_i, \quad B = \frac1{m-1} \sum_i (Q_i - \bar Q)^2, \quad
        T = W + \Big(1 + \frac1m\Big) B

    With `r = (1 + 1/m) B / W` the degrees of freedom are `(m - 1) (1 + 1/r)^2`, for large data sets. With `complete_df`
    they are those of Barnard & Rubin (1999), which are never above it: take these for small ones.

    Compute the estimates from complete data sets, one from each imputation, and pool them; do not pool the data.

    Args:
        estimates: Q, one from each imputation, `[m, ...]`, m at least 2.
        variances: U, their squared standard errors, `[m, ...]`.
        complete_df: the degrees of freedom that the estimate would have if nothing were missing, e.g. `N - 1` for a
            mean.

    Returns:
        A `Pooled`.

    Raises:
        UsageError: if shapes differ, there are fewer than 2 imputations, a variance is negative, or a number is not
            finite.

    References:
        Rubin 1987, Multiple imputation for nonresponse in surveys. Barnard & Rubin 1999, Small-sample degrees of
        freedom with multiple imputation. van Buuren 2018, Flexible imputation of missing data, section 2.3 and 2.4.

    Example:
        >>> pool(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 1.0, 1.0]))
        2 (se 1.528, 95 % interval -1.719 to 5.719, fraction of missing information 0.665)
    """
    q, u = (_numbers(name, value) for name, value in (("estimates", estimates), ("variances", variances)))
    if q.shape != u.shape or q.dim() == 0 or len(q) < 2:
        raise UsageError(
            f"expected estimates and variances of one shape [m >= 2, ...], got {list(q.shape)} and {list(u.shape)}"
        )
    if (u < 0).any():
        raise UsageError(f"variances: expected squared standard errors, from 0, got {u.min().item():.6g}")
    if complete_df is not None and not complete_df > 0:
        raise UsageError(f"complete_df must be above 0, got {complete_df}")
    within, between = u.mean(0), q.var(0)
    return Pooled(q.mean(0), within, between, _degrees(within, between, len(q), complete_df), len(q))


def _numbers(name: str, value: object) -> Tensor:
    found = torch.as_tensor(as_array(name, value)).detach().double().cpu()
    if not found.isfinite().all():
        raise UsageError(f"{name}: expected finite numbers")
    return found


def _degrees(within: Tensor, between: Tensor, m: int, complete: float | None) -> Tensor:
    """The degrees of freedom, `[...]`."""
    large = _large_degrees(within, between, m)
    if complete is None:
        return large
    observed = (complete + 1) / (complete + 3) * complete * (1 - _share(within, between, m))
    return 1 / (1 / large + 1 / observed)


def _large_degrees(within: Tensor, between: Tensor, m: int) -> Tensor:
    """Those of Rubin 1987, `[...]`."""
    return (m - 1) / _share(within, between, m).square()


def _share(within: Tensor, between: Tensor, m: int) -> Tensor:
    """The share of the total variance that is due to missing values, `[...]`."""
    extra = (1 + 1 / m) * between
    return torch.where(extra > 0, extra / (within + extra), 0.0)
