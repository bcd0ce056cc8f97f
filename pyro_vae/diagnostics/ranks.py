"""Ranks of a true code among a guide's draws: their distribution, its band, and an exact test of uniformity."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.values import whole
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.process.seeding import generator
from pyro_vae.statistics.uniformity import Band, counts_below, p_values, simultaneous_band

CLEAR = 2.0
"""A shift, or a spread, of the ranks is reported if it is larger than this many standard errors."""


@dataclass(frozen=True, eq=False, repr=False)
class Ranks(ABC):
    r"""Ranks of the truth among L draws in some quantities, and whether they are uniform.

    The probability of a false alarm is for all quantities together: `alpha` is divided by their number (Bonferroni).

    Args:
        ranks: the ranks, `[N, Q]`, from 0 to L; ties are broken at random.
        names: names of the Q quantities.
        num_draws: L.
        seed: seed of the draws.
        alpha: probability that any quantity of a calibrated guide is flagged.
    """

    ranks: Tensor
    names: tuple[str, ...]
    num_draws: int
    seed: int
    alpha: float = 0.05

    @property
    def points(self) -> Tensor:
        """The points of the distribution function, `k / (L + 1)` for k = 0 ... L + 1, `[L + 2]`."""
        return torch.arange(self.num_draws + 2, dtype=torch.float64) / (self.num_draws + 1)

    @cached_property
    def difference(self) -> Tensor:
        """The share of ranks below k minus its expectation k / (L + 1), at `points`, `[L + 2, Q]`."""
        counts = counts_below(self.ranks.numpy(), self.num_draws)
        inner = torch.from_numpy(counts).double() / len(self.ranks)
        nothing = torch.zeros(1, len(self.names), dtype=torch.float64)
        return torch.cat([nothing, inner, nothing + 1]) - self.points[:, None]

    @property
    def band(self) -> tuple[Tensor, Tensor]:
        """The bounds of `difference` at `points`, `[L + 2]` each; a quantity outside them at any point is flagged.

        A calibrated guide leaves them at any point in any quantity with probability at most `alpha`.
        """
        band = self._band
        zero = np.zeros(1)
        lower, upper = (np.concatenate([zero, side / len(self.ranks), zero + 1]) for side in (band.lower, band.upper))
        return torch.from_numpy(lower) - self.points, torch.from_numpy(upper) - self.points

    @cached_property
    def p_values(self) -> Tensor:
        """The exact probability that ranks of a calibrated guide are as unlikely at some point, `[Q]`."""
        return torch.from_numpy(p_values(self.ranks.numpy(), self.num_draws))

    @property
    def flagged(self) -> Tensor:
        """Which quantities are not calibrated, `[Q]` bool: p-value at most `alpha / Q`."""
        return self.p_values <= self.alpha / len(self.names)

    @property
    def calibrated(self) -> bool:
        """Whether nothing is flagged. With few data large errors stay undetected; `band` shows how large."""
        return not self.flagged.any()

    @property
    def verdicts(self) -> dict[str, str]:
        """A verdict on each quantity, in words: `"calibrated"`, or what is wrong."""
        flagged = self.flagged.tolist()
        shift, spread = (value.tolist() for value in self._shift_and_spread())
        return {
            name: self._verdict(*found) if bad else "calibrated"
            for name, bad, *found in zip(self.names, flagged, shift, spread, strict=True)
        }

    def summary(self) -> dict[str, Any]:
        """The verdicts and p-values as plain numbers."""
        return {
            "calibrated": self.calibrated,
            "alpha": self.alpha,
            "verdicts": self.verdicts,
            "p_values": dict(zip(self.names, self.p_values.tolist(), strict=True)),
            "num_data": len(self.ranks),
            "num_draws": self.num_draws,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        bad = [f"{name} {verdict}" for name, verdict in self.verdicts.items() if verdict != "calibrated"]
        found = ", ".join(bad) if bad else "no quantity flagged"
        sizes = f"Q = {len(self.names)}, N = {len(self.ranks)}, L = {self.num_draws}"
        return f"{type(self).__name__}({found}; {sizes}, alpha {self.alpha}, seed {self.seed})"

    @abstractmethod
    def _verdict(self, shift: float, spread: float) -> str:
        """What is wrong with a flagged quantity.

        Args:
            shift: mean of the ranks minus that of uniform ranks, in standard errors.
            spread: the same of their variance.
        """

    @property
    def _band(self) -> Band:
        return simultaneous_band(len(self.ranks), self.num_draws, self.alpha / len(self.names))

    def _fractions(self) -> Tensor:
        return (self.ranks.double() + 0.5) / (self.num_draws + 1)

    def _variance(self) -> float:
        """The variance of a uniform rank, as a fraction."""
        cells = self.num_draws + 1
        return (cells**2 - 1) / (12 * cells**2)

    def _shift_and_spread(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of the ranks minus those of uniform ranks, in standard errors, `[Q]` each."""
        n, fractions = len(self.ranks), self._fractions()
        shift = (fractions.mean(0) - 0.5) / (self._variance() / n) ** 0.5
        return shift, (fractions.var(0, correction=0) - self._variance()) / (1 / 180 / n) ** 0.5


def check(x: Tensor, alpha: float, **sizes: int) -> None:
    """What all checks of calibration are asked for.

    Args:
        x: data.
        alpha: probability of a false alarm.
        **sizes: numbers that must be at least 1, by name.

    Raises:
        UsageError: if a number is out of range, or there are no data.
    """
    for name, value in sizes.items():
        whole(name, value, 1)
    if len(x) == 0:
        raise UsageError("x: expected at least 1 datum, got none")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha must be between 0 and 1, got {alpha}")


def ranked(truth: Tensor, draws: Tensor, seed: int, start: int) -> Tensor:
    """The rank of the truth in each quantity; ties are broken at random.

    Args:
        truth: values of the truth, `[block, Q]`.
        draws: values of the draws, `[L, block, Q]`.
        seed: seed of the ties.
        start: the position of the block's first datum.

    Returns:
        Whole numbers from 0 to L, `[block, Q]`.
    """
    return untied((draws < truth).sum(0), (draws == truth).sum(0), seed, start)


def untied(below: Tensor, equal: Tensor, seed: int, start: int) -> Tensor:
    """The rank among draws of which some are below and some equal, `[block, Q]` each; other arguments as there."""
    ties = torch.rand(TILE_DATA, below.shape[-1], generator=generator(seed, "ties", start), dtype=torch.float64)
    return below + (ties[: len(below)] * (equal + 1)).floor().long()


def without_nan(values: Tensor, names: Sequence[str]) -> Tensor:
    """The same values, `[..., Q]`.

    Raises:
        NumericalError: if one is nan; names the quantity.
    """
    if (bad := values.isnan().flatten(0, -2).any(0)).any():
        found = ", ".join(name for name, is_bad in zip(names, bad.tolist(), strict=True) if is_bad)
        raise NumericalError(f"{found} is nan at a draw: look at the guide's and the decoder's outputs")
    return values
