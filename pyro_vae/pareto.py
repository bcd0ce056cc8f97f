"""Pareto's k of importance weights, from their largest alone: the one seam to ArviZ."""

import warnings
from math import ceil

import numpy as np


def tail_kept(num_particles: int) -> int:
    """Weights that must be kept so that `psislw` cuts the same tail from them as from all of them."""
    return min(num_particles, 5 * _tail_length(num_particles) + 1)


def _tail_length(num_particles: int) -> int:
    """Number of weights in the tail that Pareto's k is fitted to (Vehtari et al. 2024)."""
    return ceil(min(num_particles / 5, 3 * num_particles**0.5))


def pareto_k_of_tail(log_weights: np.ndarray, num_particles: int) -> np.ndarray:
    """Pareto's k of each row, from its largest weights, by ArviZ's `psislw`.

    `psislw` fits the `min(n/5, 3 sqrt(n / reff))` largest of the n weights it is given; with the relative efficiency
    chosen so that this number is that of all `num_particles`, the fit is the same as on all of them.

    Args:
        log_weights: the largest log-weights of each datum in any order, `[N, n]`, `n = tail_kept(num_particles)`.
        num_particles: K, the number of weights they are the largest of.

    Returns:
        k for each row, `[N]`; -inf where the weights in the tail are all equal, nan with fewer than 5 in the tail.
    """
    length, kept = _tail_length(num_particles), log_weights.shape[-1]
    if length < 5:
        return np.full(len(log_weights), np.nan)
    efficiency = 1.0 if kept == num_particles else 9 * kept / length**2 * (1 + 1e-9)
    centred = log_weights - log_weights.max(-1, keepdims=True)
    flat = np.ptp(centred, axis=-1) < 1e-6
    k = np.full(len(centred), -np.inf)
    if (~flat).any():
        k[~flat] = _psislw(centred[~flat], efficiency)
    return k


def _psislw(log_weights: np.ndarray, efficiency: float) -> np.ndarray:
    """The one seam to ArviZ: 0.x takes log-weights, the array function of 1.x takes their negatives."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own refactoring, and overflows on purpose
        try:
            from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]
        except ImportError:
            import arviz

            return np.atleast_1d(arviz.psislw(log_weights.copy(), reff=efficiency)[1])
        return np.atleast_1d(array_stats.psislw(-log_weights, r_eff=efficiency)[1])
