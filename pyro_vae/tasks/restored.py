"""`Restored`: draws of x given y, their health, and how they compare with the truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.channels import Channel
from pyro_vae.errors import UsageError
from pyro_vae.process.seeding import generator
from pyro_vae.statistics.averages import Averaged, number, standard_error
from pyro_vae.statistics.intervals import crps

METHODS = ("encoder", "refined", "gibbs", "hmc")
"""How z given y was drawn: weighed draws of q(z| fill-in of y); of q refined for the datum; Metropolis-within-Gibbs, in
turn with x; Hamiltonian Monte Carlo."""


@dataclass(frozen=True, eq=False)
class Restored:
    r"""Draws of x ~ p(x|y) for each datum.

    Args:
        draws: `[num_draws, N, *event]`, on the CPU.
        mean: E[x|y], an average over the draws of z of E[x|y, z], `[N, *event]`.
        sd: the standard deviation of x given y, `[N, *event]`.
        latents: the draws of z by site, `[num_draws, N, ...]`.
        known: which elements of x the observation determines, `[N, *event]` bool; measures leave them out.
        used: the method by which z was drawn, an index of `METHODS`, `[N]`.
        ess: effective sample size of the draws of z, `[N]`.
        pareto_k: of their weights, `[N]`; nan for chains, which have none.
        flagged: which data's draws are not to be trusted by any method that was tried, `[N]` bool.
        log_p: log p(y), `[N]`, nats.
        log_p_standard_error: its Monte Carlo standard error, `[N]`.
        log_p_flagged: which of them are not to be trusted, `[N]` bool.
        channel: p(y|x).
        seed: seed of the draws.
        truth: x itself, `[N, *event]`, where it is known.
        log_p_truth: log p(x_true|y), `[N]`, nats; None without a truth, or where p(y|x) has no density.
        log_p_truth_standard_error: its Monte Carlo standard error, `[N]`.
    """

    draws: Tensor
    mean: Tensor
    sd: Tensor
    latents: Mapping[str, Tensor]
    known: Tensor
    used: Tensor
    ess: Tensor
    pareto_k: Tensor
    flagged: Tensor
    log_p: Tensor
    log_p_standard_error: Tensor
    log_p_flagged: Tensor
    channel: Channel
    seed: int
    truth: Tensor | None = None
    log_p_truth: Tensor | None = None
    log_p_truth_standard_error: Tensor | None = None

    @property
    def methods(self) -> dict[str, int]:
        """For how many data each method gave the draws."""
        return {name: int((self.used == index).sum()) for index, name in enumerate(METHODS)}

    @property
    def unreliable(self) -> float:
        """Share of the data whose draws are `flagged`."""
        return self.flagged.double().mean().item()

    def interval(self, level: float = 0.9) -> Tensor:
        """The equal-tailed interval of each element, `[2, N, *event]`: quantiles (1 - level) / 2 and (1 + level) / 2.

        Raises:
            UsageError: if the level is not between 0 and 1.
        """
        _check_level(level)
        cuts = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=self.draws.dtype)
        return torch.stack([torch.quantile(self.draws[:, n], cuts, dim=0) for n in range(self.draws.shape[1])], 1)

    @property
    def mean_squared_error(self) -> Averaged:
        """Of `mean`, over the elements of each datum that are not known."""
        return self._averaged((self.mean - self._truth).square())

    @property
    def crps(self) -> Averaged:
        r"""The continuous ranked probability score, averaged over the elements of each datum that are not known.

        .. math:: CRPS(x) = E|X - x| - \tfrac12 E|X - X'|

        In the units of x, lower is better; for a certain forecast it is the absolute error. By the unbiased
        formula over all pairs of draws.

        References:
            Gneiting & Raftery 2007, Strictly proper scoring rules, prediction, and estimation.
        """
        if len(self.draws) < 2:
            raise UsageError("the CRPS needs at least 2 draws")
        num_data, truth = self.draws.shape[1], self._truth
        return self._averaged(torch.stack([crps(self.draws[:, n], truth[n]) for n in range(num_data)]))

    def coverage(self, level: float = 0.9) -> Averaged:
        r"""Share of the elements that are not known whose truth lies in the equal-tailed interval, for each datum.

        By the rank of the truth among the draws, ties broken at random,

        .. math:: u = \frac{\#\{x_s < x\} + V (\#\{x_s = x\} + 1)}{S + 1}, \qquad V \sim U(0, 1)

        which is uniform where x and its draws come from one distribution, also of binary elements: then `level` of
        them have u between (1 - level) / 2 and (1 + level) / 2.

        Raises:
            UsageError: if the level is not between 0 and 1, or there is no truth.
        """
        _check_level(level)
        less = (self.draws < self._truth).sum(0)
        equal = (self.draws == self._truth).sum(0)
        ties = torch.rand(self._truth.shape, generator=generator(self.seed, "coverage"), dtype=torch.float64)
        u = (less + ties * (equal + 1)) / (len(self.draws) + 1)
        return self._averaged(((u > (1 - level) / 2) & (u < (1 + level) / 2)).double())

    def summary(self) -> dict[str, Any]:
        """What the command prints."""
        found: dict[str, Any] = {
            "log_p": self.log_p.mean().item(),
            "log_p_standard_error_data": standard_error(self.log_p),
            "log_p_flagged": self.log_p_flagged.double().mean().item(),
            "methods": self.methods,
            "unreliable": self.unreliable,
            "ess_median": self.ess.median().item(),
        }
        if self.truth is not None:
            measures = {"mean_squared_error": self.mean_squared_error, "coverage_90": self.coverage(0.9)}
            measures |= {"crps": self.crps} if len(self.draws) > 1 else {}
            for name, measure in measures.items():
                found |= {name: measure.mean, f"{name}_standard_error": measure.standard_error_data}
        if self.log_p_truth is not None:
            found["log_p_truth"] = self.log_p_truth.mean().item()
            found["log_p_truth_standard_error_data"] = standard_error(self.log_p_truth)
        return found

    def __repr__(self) -> str:
        by = ", ".join(f"{name} {num}" for name, num in self.methods.items() if num)
        return (
            f"Restored({self.draws.shape[1]} data through {self.channel}, {len(self.draws)} draws each, by {by}, "
            f"flagged {self.unreliable:.1%}, log p(y) = {number(self.log_p.mean().item())}, seed {self.seed})"
        )

    @property
    def _truth(self) -> Tensor:
        if self.truth is None:
            raise UsageError("this needs the truth: restore(..., truth=x)")
        return self.truth

    def _averaged(self, values: Tensor) -> Averaged:
        """Means over the elements of each datum that are not known; data without any are left out."""
        open_ = (~self.known & ~self._truth.isnan()).flatten(1)
        some = open_.any(1)
        means = torch.where(open_, values.double().flatten(1), 0.0).sum(1)[some] / open_.sum(1)[some]
        return Averaged(means, torch.full_like(means, torch.nan))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise UsageError(f"level must lie between 0 and 1, got {level}")
