"""How often credible sets contain the truth, with exact binomial intervals and tests."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

LEVELS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True, eq=False)
class Coverage:
    """How often credible sets contain the truth.

    Args:
        levels: the levels of the sets, `[J]`.
        shares: shares of the data whose truth is inside, `[J, Q]`.
        names: names of the Q kinds of sets; `"log q(z|x)"` is the highest-density set of the whole code.
        num_data: N.
        alpha: probability that any share of a calibrated guide is flagged.
    """

    levels: Tensor
    shares: Tensor
    names: tuple[str, ...]
    num_data: int
    alpha: float = 0.05

    @property
    def standard_errors(self) -> Tensor:
        """Binomial standard errors of the shares for a calibrated guide, `[J]`."""
        return (self.levels * (1 - self.levels) / self.num_data).sqrt()

    def intervals(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Between what the true coverage lies, `[J, Q]` each: Clopper and Pearson's exact interval of each share.

        Args:
            confidence: probability of the equal-tailed interval, between 0 and 1.
        """
        from scipy.stats import beta  # takes a second: not at every import of the package

        tail, held = (1 - confidence) / 2, (self.shares * self.num_data).round().numpy()
        low = np.where(held > 0, beta.ppf(tail, held, self.num_data - held + 1), 0.0)
        high = np.where(held < self.num_data, beta.ppf(1 - tail, held + 1, self.num_data - held), 1.0)
        return torch.from_numpy(low), torch.from_numpy(high)

    @property
    def p_values(self) -> Tensor:
        """The two-sided exact binomial p-values, `[J, Q]`."""
        from scipy.stats import binom  # takes a second: not at every import of the package

        held = (self.shares * self.num_data).round().numpy()
        level = self.levels[:, None].numpy()
        below, above = binom.cdf(held, self.num_data, level), binom.sf(held - 1, self.num_data, level)
        return torch.from_numpy(np.minimum(1, 2 * np.minimum(below, above)))

    @property
    def flagged(self) -> Tensor:
        """Which shares differ from their level, `[J, Q]` bool: p-value at most `alpha / (J Q)`."""
        return self.p_values <= self.alpha / self.shares.numel()

    def summary(self) -> dict[str, Any]:
        """Levels, their standard errors and the shares as plain numbers."""
        shares = {name: column.tolist() for name, column in zip(self.names, self.shares.T, strict=True)}
        return {"levels": self.levels.tolist(), "standard_errors": self.standard_errors.tolist(), "shares": shares}
