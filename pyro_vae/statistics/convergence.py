"""Whether Markov chains have converged, by ArviZ: one seam for its two generations."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def r_hat(draws: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat of each quantity (Vehtari et al. 2021): 1 where the chains agree.

    Args:
        draws: `[..., chains, draws]`.

    Returns:
        `[...]`; nan with fewer than 2 chains or 4 draws, and where a chain has never moved.
    """
    chains, length = draws.shape[-2:]
    if chains < 2 or length < 4:
        return np.full(draws.shape[:-2], np.nan)
    return _for_each("rhat", draws)


def bulk_ess(draws: np.ndarray) -> np.ndarray:
    """Bulk effective sample size of each quantity, over all chains; arguments as for `r_hat`."""
    return _for_each("ess", draws) if draws.shape[-1] >= 4 else np.full(draws.shape[:-2], np.nan)


def _for_each(name: str, draws: np.ndarray) -> np.ndarray:
    rows = draws.reshape(-1, *draws.shape[-2:]).astype(float)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # ArviZ announces its own refactoring, and divides by zero on purpose
        statistic = _statistic(name)
        found = np.array([np.nan if np.ptp(row) == 0 else float(statistic(row)) for row in rows])
    return found.reshape(draws.shape[:-2])


def _statistic(name: str) -> Callable[[np.ndarray], Any]:
    """The array functions of 1.x take `[chains, draws]`, as `arviz.rhat` and `arviz.ess` of 0.x do."""
    try:
        from arviz_stats.base import array_stats  # pyright: ignore[reportMissingImports]
    except ImportError:
        import arviz

        return getattr(arviz, name)
    return getattr(array_stats, name)
