"""What every score returns: a number for each datum, its error, and whether to believe it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.statistics.averages import Averaged, OverData, number


@dataclass(frozen=True, eq=False, repr=False)
class Scores(OverData):
    """How anomalous each datum is by one method; higher is more anomalous.

    Args:
        values: the score of each datum, `[N]`, nats, double precision.
        standard_error: its error from the finite number of draws, `[N]`, nats; 0 where nothing was drawn, nan where it
            is not known.
        flagged: where the value is not to be trusted within its error, `[N]` bool.
        method: the name of the method.
        elements: the share of each element of the datum, `[N, *event]`, nats; None where the method has none. What they
            sum to is said by the method.
        num_particles: K, draws for each datum; 0 for a method without draws.
        seed: seed of the draws.
    """

    values: Tensor
    standard_error: Tensor
    flagged: Tensor
    method: str
    elements: Tensor | None = None
    num_particles: int = 0
    seed: int = 0

    @classmethod
    def of(cls, averaged: Averaged, method: str, flagged: Tensor | None = None, **further: Any) -> "Scores":
        """Scores from averages of draws; what is not finite is flagged."""
        values = averaged.values.detach().double().cpu()
        bad = ~values.isfinite()
        flags = bad if flagged is None else flagged.cpu() | bad
        return cls(values, averaged.standard_errors.detach().double().cpu(), flags, method, **further)

    @property
    def _averaged(self) -> Averaged:
        return Averaged(self.values, self.standard_error)

    def most_anomalous(self, num: int) -> Tensor:
        """The indices of the `num` data with the highest scores, highest first."""
        order = self.values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).argsort(descending=True)
        return order[:num]

    def summary(self) -> dict[str, float | int | str]:
        """The averages as plain numbers, with their protocol."""
        names = ("mean", "standard_error_data", "standard_error_monte_carlo", "unreliable")
        protocol = {"num_data": len(self), "num_particles": self.num_particles, "seed": self.seed}
        return {"method": self.method, **{name: getattr(self, name) for name in names}, **protocol}

    def columns(self) -> dict[str, Tensor]:
        """What is known of each datum, `[N]` by name."""
        return {"score": self.values, "standard_error": self.standard_error, "flagged": self.flagged}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        errors = f"se(data) {number(self.standard_error_data)}, se(draws) {number(self.standard_error_monte_carlo)}"
        drawn = f", K = {self.num_particles}, seed {self.seed}" if self.num_particles else ""
        mean = f"mean {self.mean:.3f} nats per datum"
        return f"Scores({self.method}: {mean}, {errors}, flagged {self.unreliable:.1%}, N = {len(self)}{drawn})"


def values_of(scores: Scores | Tensor) -> Tensor:
    """The numbers of scores that may come as plain numbers, `[N]`, double precision, on the CPU."""
    return torch.as_tensor(scores.values if isinstance(scores, Scores) else scores).detach().double().cpu().flatten()
