"""How well single coordinates of a code agree with known factors of the data: MIG, SAP and DCI, with errors."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from math import nan
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import DataError, MissingPackage, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import derive_seed, generator
from pyro_vae.tasks.scores.detection import Measure

_BINS = 20
"""Of a coordinate or a factor with more values than this."""

Model = Literal["lasso", "trees"]


@isolated
def mig(codes: Tensor, factors: Tensor, *, num_resamples: int = 100, level: float = 0.95, seed: int = 0) -> Measure:
    r"""The mutual information gap: for each factor, how much more one coordinate knows of it than any other does.

    .. math:: MIG = \frac1K \sum_k \frac{I(z_{j_k}; v_k) - \max_{j \ne j_k} I(z_j; v_k)}{H(v_k)}, \qquad
        j_k = \arg\max_j I(z_j; v_k)

    It is 1 where each factor is a function of one coordinate and independent of all others, and 0 where no coordinate
    knows more than another one. A coordinate or factor with more than 20 values is cut into 20 bins of equal width
    (Locatello et al. 2019; Chen et al. have the density of q(z|x) in place of bins). With N data, the information of
    independent quantities is about (bins - 1)(values - 1) / 2N nats too large; the gap has most of that cancelled.

    Args:
        codes: `[N, L]`, e.g. `encode_data(vae, x).codes`.
        factors: `[N, K]`, or `[N]` of one.
        num_resamples: resamples of the bootstrap over the data, at least 2.
        level: probability of the interval, which is normal, with the bootstrap's standard error.
        seed: seed of the resamples.

    Returns:
        A `Measure`.

    Raises:
        DataError: if the arrays do not fit, or a factor has one value only.

    References:
        Chen et al. 2018, Isolating sources of disentanglement in variational autoencoders. Locatello et al. 2019,
        Challenging common assumptions in the unsupervised learning of disentangled representations.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(3))
        >>> round(mig(factors.flip(1), factors).value, 6)
        1.0
    """
    z, v = _checked(codes, factors)
    table = _Table(z, v)
    return _measure(lambda rows: table.gap(rows), len(z), num_resamples, level, seed, "mig")


@isolated
def sap(codes: Tensor, factors: Tensor, *, num_resamples: int = 100, level: float = 0.95, seed: int = 0) -> Measure:
    r"""The separated attribute predictability: the gap of the best two coordinates in predicting each factor.

    .. math:: SAP = \frac1K \sum_k (S_{j_k k} - \max_{j \ne j_k} S_{jk}), \qquad S_{jk} = \mathrm{corr}(z_j, v_k)^2

    S is the R^2 of a line, which Kumar et al. take for factors that are numbers; give a factor that is a category as a
    column of 0 and 1 for each class. It is 1 where each factor is a linear function of one coordinate that others are
    uncorrelated with.

    Args:
        codes: `[N, L]`.
        factors: `[N, K]`, or `[N]` of one.
        num_resamples: resamples of the bootstrap over the data, at least 2.
        level: probability of the interval.
        seed: seed of the resamples.

    Returns:
        A `Measure`.

    Raises:
        DataError: if the arrays do not fit, or a factor has one value only.

    References:
        Kumar et al. 2018, Variational inference of disentangled latent concepts from unlabeled observations.

    Example:
        >>> factors = torch.cartesian_prod(torch.arange(4), torch.arange(3))
        >>> round(sap(-2.0 * factors, factors).value, 6)
        1.0
    """
    z, v = _checked(codes, factors)

    def gap(rows: Tensor) -> float:
        return _gap(_squared_correlations(z[rows], v[rows]))

    return _measure(gap, len(z), num_resamples, level, seed, "sap")


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness.

    Args:
        disentanglement: 1 if each coordinate serves one factor alone, 0 if all serve all alike.
        completeness: 1 if each factor is in one coordinate alone.
        informativeness: R^2 of the factors' predictions on held-out data, at most 1.
        importance: of each coordinate for each factor, `[L, K]`, columns summing to 1 or all 0.
        model: what predicts.
    """

    disentanglement: Measure
    completeness: Measure
    informativeness: Measure
    importance: Tensor
    model: str

    def summary(self) -> dict[str, Any]:
        """The three as plain numbers."""
        names = ("disentanglement", "completeness", "informativeness")
        return {**{name: vars(getattr(self, name)) for name in names}, "model": self.model}


@isolated
def dci(
    codes: Tensor,
    factors: Tensor,
    *,
    model: Model = "lasso",
    num_resamples: int = 20,
    level: float = 0.95,
    seed: int = 0,
) -> DCI:
    r"""Disentanglement, completeness and informativeness, by how much each coordinate helps to predict each factor.

    With R_jk the importance of coordinate j for factor k, `|weight|` of the lasso on standardised coordinates or the
    importance of the boosted trees:

    .. math:: D = \sum_j \rho_j \Big(1 - H_K\Big(\frac{R_{j\cdot}}{\sum_k R_{jk}}\Big)\Big), \qquad
        C = \frac1K \sum_k \Big(1 - H_L\Big(\frac{R_{\cdot k}}{\sum_j R_{jk}}\Big)\Big), \qquad
        \rho_j = \frac{\sum_k R_{jk}}{\sum_{jk} R_{jk}}

    with entropies to the base of the number of their terms. Both are 0 where no coordinate helps. Three quarters of the
    data are fitted, a quarter judges the predictions. The lasso's penalty is chosen once, by cross-validation.

    Args:
        codes: `[N, L]`.
        factors: `[N, K]`, or `[N]` of one; numbers.
        model: `"lasso"`, or `"trees"`, which is slower and finds what is not linear.
        num_resamples: fits to resamples of the data, at least 2.
        level: probability of the intervals.
        seed: seed of split, resamples and trees.

    Returns:
        A `DCI`.

    Raises:
        MissingPackage: without scikit-learn.
        DataError: if the arrays do not fit, a factor has one value only, or there are fewer than 20 data.

    References:
        Eastwood & Williams 2018, A framework for the quantitative evaluation of disentangled representations.

    Example:
        >>> codes = torch.rand(60, 2)
        >>> found = dci(codes, (codes * 3).floor(), num_resamples=2)
        >>> found.importance.shape
        torch.Size([2, 2])
    """
    if find_spec("sklearn") is None:
        raise MissingPackage("scikit-learn", "sklearn", "dci")
    if model not in ("lasso", "trees"):
        raise UsageError(f"unknown model {model!r}: choose one of lasso, trees")
    z, v = _checked(codes, factors)
    if len(z) < 20:
        raise DataError(f"dci fits to three quarters of the data: expected at least 20, got {len(z)}")
    order = torch.randperm(len(z), generator=generator(seed, "dci", "split"))
    held, fitted = order[: len(z) // 4], order[len(z) // 4 :]
    predictors = _Predictors(z, v, fitted, model, seed)
    once = predictors.of(fitted, held)
    many = []
    for _, stream in zip(range(_resamples(num_resamples, level)), _streams(seed, "dci"), strict=False):
        rows = (part[torch.randint(len(part), (len(part),), generator=stream)] for part in (fitted, held))
        many.append(_scores(*predictors.of(*rows)))
    errors = torch.tensor(many, dtype=torch.float64).std(0).tolist()
    measures = [_interval(value, error, level) for value, error in zip(_scores(*once), errors, strict=True)]
    return DCI(*measures, importance=once[0], model=model)


class _Predictors:
    """A regression of each factor on the standardised coordinates."""

    def __init__(self, z: Tensor, v: Tensor, fitted: Tensor, model: str, seed: int) -> None:
        from sklearn.linear_model import LassoCV

        self.model, self.seed = model, derive_seed(seed, "dci", "model") % 2**32
        self.z = ((z - z[fitted].mean(0)) / z[fitted].std(0).clamp(min=1e-12)).numpy()
        self.v = ((v - v[fitted].mean(0)) / v[fitted].std(0).clamp(min=1e-12)).numpy()
        self.penalties = [nan] * len(self.v.T)
        if model == "lasso":
            search = LassoCV(cv=5, random_state=self.seed)
            self.penalties = [search.fit(self.z[fitted], column[fitted]).alpha_ for column in self.v.T]

    def of(self, fitted: Tensor, held: Tensor) -> tuple[Tensor, float]:
        """Importance `[L, K]`, fitted to some rows, and the mean R^2 on others, which is not below 0."""
        found = [self._of_factor(k, fitted.numpy(), held.numpy()) for k in range(self.v.shape[1])]
        importance = np.stack([one for one, _ in found], 1)
        importance = importance / np.maximum(importance.sum(0, keepdims=True), 1e-12)
        return torch.from_numpy(importance), float(np.mean([r2 for _, r2 in found]))

    def _of_factor(self, k: int, fitted: np.ndarray, held: np.ndarray) -> tuple[np.ndarray, float]:
        from sklearn.ensemble import GradientBoostingRegressor
        from sklearn.linear_model import Lasso

        lasso = self.model == "lasso"
        make: Any = Lasso(self.penalties[k]) if lasso else GradientBoostingRegressor(random_state=self.seed)
        predictor = make.fit(self.z[fitted], self.v[fitted, k])
        importance = np.abs(predictor.coef_) if lasso else predictor.feature_importances_
        return importance.astype(np.float64), max(0.0, float(predictor.score(self.z[held], self.v[held, k])))


def _scores(importance: Tensor, informativeness: float) -> tuple[float, float, float]:
    """D, C and informativeness."""
    total = importance.sum(1)
    share = total / total.sum().clamp(min=1e-300)
    disentanglement = (share * _certainty(importance)).sum().item()
    return disentanglement, _certainty(importance.T).mean().item(), informativeness


def _certainty(importance: Tensor) -> Tensor:
    """1 less the entropy of each row, to the base of its length; 0 for a row of zeros."""
    total = importance.sum(1, keepdim=True)
    p = importance / total.clamp(min=1e-300)
    entropy = -torch.special.xlogy(p, p).sum(1)
    most = torch.tensor(float(max(2, importance.shape[1])), dtype=torch.float64).log()
    return torch.where(total.squeeze(1) > 0, 1 - entropy / most, 0.0)


class _Table:
    """Codes and factors as bins, whose joint counts are one `bincount`."""

    def __init__(self, z: Tensor, v: Tensor) -> None:
        codes, factors = ([_binned(column) for column in a.T] for a in (z, v))
        self.bins = 1 + max(int(column.max()) for column in codes + factors)
        pairs = torch.stack([torch.stack([a * self.bins + b for b in factors]) for a in codes])
        self.shape = pairs.shape[:2]
        offsets = torch.arange(self.shape.numel()).reshape(*self.shape, 1) * self.bins**2
        self.places = pairs + offsets

    def gap(self, rows: Tensor) -> float:
        """The mutual information gap of some data."""
        places = self.places[..., rows].flatten()
        counts = places.bincount(minlength=self.shape.numel() * self.bins**2).double()
        joint = counts.reshape(*self.shape, self.bins, self.bins) / len(rows)
        code, factor = _entropy(joint.sum(-1)), _entropy(joint.sum(-2))
        information = code + factor - _entropy(joint.flatten(-2))
        return _gap(information / factor.clamp(min=1e-300))


def _entropy(p: Tensor) -> Tensor:
    return -torch.special.xlogy(p, p).sum(-1)


def _binned(column: Tensor) -> Tensor:
    """The number of each value, or of its bin, from 0."""
    values, place = column.unique(return_inverse=True)
    if len(values) <= _BINS:
        return place
    low, high = column.min(), column.max()
    return ((column - low) / (high - low) * _BINS).long().clamp(max=_BINS - 1)


def _squared_correlations(z: Tensor, v: Tensor) -> Tensor:
    """`[L, K]`; 0 where one of the two does not vary."""
    z, v = z - z.mean(0), v - v.mean(0)
    scale = z.square().sum(0)[:, None] * v.square().sum(0)
    return torch.where(scale > 0, (z.T @ v).square() / scale.clamp(min=1e-300), 0.0)


def _gap(table: Tensor) -> float:
    """The mean over the columns of the largest less the second largest entry."""
    if len(table) == 1:
        return table.mean().item()
    best = table.topk(2, dim=0).values
    return (best[0] - best[1]).mean().item()


def _checked(codes: Any, factors: Any) -> tuple[Tensor, Tensor]:
    z, v = (torch.as_tensor(a).detach().cpu().double() for a in (codes, factors))
    v = v.unsqueeze(1) if v.dim() == 1 else v
    if z.dim() != 2 or v.dim() != 2 or len(z) != len(v) or len(z) < 2 or 0 in (*z.shape, *v.shape):
        raise DataError(f"expected codes [N, L] and factors [N, K], N >= 2, got {list(z.shape)} and {list(v.shape)}")
    if not (z.isfinite().all() and v.isfinite().all()):
        raise DataError("expected finite codes and factors: leave out data whose factors are not known")
    constant = (v == v[0]).all(0).nonzero().flatten().tolist()
    if constant:
        raise DataError(f"factor {constant[0]} has one value for all data, so there is nothing to know of it")
    return z, v


def _measure(
    statistic: Callable[[Tensor], float], size: int, num_resamples: int, level: float, seed: int, stream: str
) -> Measure:
    """A number of data, with the standard error of the bootstrap."""
    count = _resamples(num_resamples, level)
    value = statistic(torch.arange(size))
    draws = generator(seed, stream)
    resampled = [statistic(torch.randint(size, (size,), generator=draws)) for _ in range(count)]
    return _interval(value, torch.tensor(resampled, dtype=torch.float64).std().item(), level)


def _resamples(num_resamples: int, level: float) -> int:
    if num_resamples < 2 or not 0 < level < 1:
        raise UsageError(f"need num_resamples >= 2 and level between 0 and 1, got {num_resamples} and {level}")
    return num_resamples


def _interval(value: float, error: float, level: float) -> Measure:
    """The normal interval: percentiles would inherit the bias that resamples have, which repeat data."""
    half = NormalDist().inv_cdf((1 + level) / 2) * error
    return Measure(value, value - half, value + half, error)


def _streams(seed: int, name: str) -> Any:
    """A generator for each resample."""
    index = 0
    while True:
        yield generator(seed, name, index)
        index += 1
