"""Pareto's k of importance weights, and the weights smoothed by it, from their largest alone: the one seam to ArviZ."""

import warnings
from importlib.util import find_spec
from math import ceil, floor, log10

import numpy as np

_ROUNDING_ERRORS = 8
"""Rounding errors that a tail of equal weights may span: that of a sum is of either sign, and a tail has hundreds."""


def reliable_below(num_particles: int) -> float:
    """The Pareto k above which not to trust K weights: `min(1 - 1 / log10(K), 0.7)` (Vehtari et al. 2024)."""
    return min(1 - 1 / log10(num_particles), 0.7) if num_particles > 10 else 0.0


def tail_kept(num_particles: int) -> int:
    """Weights that must be kept so that `psislw` cuts the same tail from them as from all of them."""
    return min(num_particles, 5 * tail_length(num_particles) + 1)


def tail_length(num_particles: int) -> int:
    """Number of weights in the tail that Pareto's k is fitted to (Vehtari et al. 2024)."""
    return ceil(min(num_particles / 5, 3 * num_particles**0.5))


def pareto_k_of_tail(log_weights: np.ndarray, num_particles: int, rounding: np.ndarray | float = 0.0) -> np.ndarray:
    """Pareto's k of each row, from its largest weights, by ArviZ's `psislw`.

    `psislw` fits the `min(n/5, 3 sqrt(n / reff))` largest of the n weights it is given; with the relative efficiency
    chosen so that this number is that of all `num_particles`, the fit is the same as on all of them; see `smooth_tail`.

    Args:
        log_weights: the largest log-weights of each datum in any order, `[N, n]`, `n = tail_kept(num_particles)`.
        num_particles: K, the number of weights they are the largest of.
        rounding: the rounding error of each row's log-weights, nats, `[N]` or one for all.

    Returns:
        k for each row, `[N]`; -inf where the weights in the tail are all equal up to rounding, nan with fewer than 5 in
        the tail or where all weights are zero.
    """
    return smooth_tail(log_weights, num_particles, rounding)[1]


def smooth_tail(
    log_weights: np.ndarray, num_particles: int, rounding: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The largest weights with their tail replaced by the fitted Pareto's expected order statistics, by ArviZ.

    A tail is taken to be all equal where it spans less than 8 rounding errors, or 1e-6 nats: there are then only a few
    different numbers in it, no sample of a distribution with a density, and the fit can be anything up to infinity.

    Args:
        log_weights: as for `pareto_k_of_tail`, `[N, n]`.
        num_particles: K, the number of weights they are the largest of.
        rounding: the rounding error of each row's log-weights, nats, `[N]` or one for all.

    Returns:
        The log-weights, `[N, n]`, in the same order and unit, none above the largest; and k, `[N]`. Left as they are
        where the tail is all equal or has fewer than 5 weights.

    References:
        Vehtari et al. 2024, Pareto smoothed importance sampling.
    """
    length, kept = tail_length(num_particles), log_weights.shape[-1]
    smoothed = log_weights.copy()
    if length < 5:
        return smoothed, np.full(len(log_weights), np.nan)
    efficiency = 1.0 if kept == num_particles else _efficiency(kept, num_particles)
    ordered = np.sort(log_weights, -1)
    possible = np.isfinite(ordered[:, -1])
    equal = np.maximum(1e-6, _ROUNDING_ERRORS * np.asarray(rounding))
    wavy = possible & ~(np.where(possible, ordered[:, -1], 0) - ordered[:, -length - 1] < equal)
    k = np.where(possible, -np.inf, np.nan)
    if wavy.any():
        top, body = ordered[wavy, -1:], ordered[wavy, -length - 2]
        relative, k[wavy] = _psislw_weights(log_weights[wavy] - top, efficiency)
        smoothed[wavy] = _in_unit_of(log_weights[wavy], relative, body)
    return smoothed, k


def _efficiency(kept: int, num_particles: int) -> float:
    """The relative efficiency at which the tail of `kept` weights is as long as that of all, `3 sqrt(K)` rounded."""
    root = 3 * num_particles**0.5
    return 9 * kept / (floor(root) + 0.5 if _is_arviz_1() else ceil(root) - 0.5) ** 2


def _is_arviz_1() -> bool:
    """Whether ArviZ is of its second generation, which rounds the length of the tail down and not up."""
    return find_spec("arviz_stats") is not None


def _in_unit_of(log_weights: np.ndarray, smoothed: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Undo the normalisation of smoothed weights: those below the tail are unchanged, so one of them gives the
    constant.
    """
    at = np.argmax(log_weights == body[:, None], axis=-1)[:, None]
    with np.errstate(invalid="ignore"):  # a weight of zero gives no constant: then the weights are left unchanged
        shift = np.take_along_axis(log_weights, at, -1) - np.take_along_axis(smoothed, at, -1)
    return np.where(np.isfinite(shift), smoothed + shift, log_weights)


def _psislw(log_weights: np.ndarray, efficiency: float) -> np.ndarray:
    """Pareto's k alone."""
    return _psislw_weights(log_weights, efficiency)[1]


def _psislw_weights(log_weights: np.ndarray, efficiency: float) -> tuple[np.ndarray, np.ndarray]:
    """The one seam to ArviZ: 0.x takes log-weights, the array function of 1.x takes their negatives."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own refactoring, and overflows on purpose
        if _is_arviz_1():
            from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]

            smoothed, k = array_stats.psislw(-log_weights, r_eff=efficiency)
        else:
            import arviz

            smoothed, k = arviz.psislw(log_weights.copy(), reff=efficiency)
    return np.asarray(smoothed), np.atleast_1d(k)
