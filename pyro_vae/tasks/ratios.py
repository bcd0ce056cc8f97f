"""Ratios of p(y; s) between neighbouring settings s of a channel, by chains from the posterior of one of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from pyro_vae.inference.best_member import Search
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.members import WithMembers, refined_params
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.tiles import pieces
from pyro_vae.inference.weighing import sites_at
from pyro_vae.statistics.pareto import reliable_below, smooth_tail
from pyro_vae.statistics.reliability import untrustworthy
from pyro_vae.tasks.chains import CHAIN_DATA, hamiltonian_chains, rows_of

_KEPT = 1000
"""Draws of the chains of a datum that are weighed."""
_PIECE = 25
"""Draws in one run of the model."""
_UNHEALTHY = 0.05
"""Share of flagged data from which on chains of a nearer setting are run."""


@dataclass(frozen=True, eq=False)
class Ratios:
    """Log p(y_1, ..., y_N; s) of each setting less that of one of them, all `[G]`.

    Args:
        values: the differences, nats.
        standard_errors: their Monte Carlo standard errors.
        unreliable: share of the data whose chains or weights are flagged.
    """

    values: Tensor
    standard_errors: Tensor
    unreliable: Tensor


@dataclass(frozen=True, eq=False)
class _Step:
    """The same from the setting of some chains to another, of each datum, `[N]`."""

    value: Tensor
    squared_error: Tensor
    flagged: Tensor

    @classmethod
    def none(cls, num: int) -> Self:
        """To the reference itself."""
        zeros = torch.zeros(num, dtype=torch.double)
        return cls(zeros, zeros, torch.zeros(num, dtype=torch.bool))

    def then(self, other: Self) -> Self:
        """One after the other."""
        added = self.value + other.value, self.squared_error + other.squared_error
        return type(self)(*added, self.flagged | other.flagged)


@dataclass(frozen=True, eq=False)
class _Chains:
    """Draws of p(z|y; s), and what they say of other settings."""

    pair: Any
    y: Tensor
    latents: dict[str, Tensor]
    ess: Tensor
    flagged: Tensor
    inputs: Mapping[str, Any]

    @classmethod
    def run(cls, pair: Any, y: Tensor, search: Search, hmc: HMC, seed: int, inputs: Mapping[str, Any]) -> Self:
        """Hamiltonian Monte Carlo from draws of the refined guide."""
        params, members = refined_params(pair, y, search, seed, **inputs), WithMembers(pair)
        drawn = hamiltonian_chains(members, y, {"params": params, **inputs}, _KEPT, hmc, seed)
        latents = {name: value.to(y.device) for name, value in drawn.latents.items()}
        return cls(pair, y, latents, drawn.ess.clamp(max=_KEPT), drawn.flagged, inputs)

    def step(self, other: Any) -> _Step:
        """To another setting: the log of the mean of p(y|z; s') / p(y|z; s)."""
        log_w = self._log_likelihood(other) - self._own
        k = torch.from_numpy(smooth_tail(np.ascontiguousarray(log_w.T), _KEPT)[1])
        heavy = untrustworthy(k, _KEPT, reliable_below(_KEPT))
        variance = log_w.softmax(0).square().sum(0) * _KEPT - 1  # of the weights, whose mean is 1
        return _Step(log_w.logsumexp(0) - log(_KEPT), variance.clamp(min=0) / self.ess, self.flagged | heavy)

    @cached_property
    def _own(self) -> Tensor:
        """Log p(y|z; s) of the setting of the chains."""
        return self._log_likelihood(self.pair)

    def _log_likelihood(self, pair: Any) -> Tensor:
        """Log p(y|z; s) of each draw and datum, `[draws, N]`."""
        found = []
        with torch.no_grad(), evaluation_mode(pair.model):
            for piece in pieces(self.latents, _PIECE):
                site = sites_at(pair.model, piece, self.y, **self.inputs)[pair.site]
                found.append(site["fn"].log_prob(site["value"]).double().cpu())
        return torch.cat(found)


def log_ratios(
    pairs: Sequence[Any], reference: int, y: Tensor, search: Search, hmc: HMC, seed: int, inputs: Mapping[str, Any]
) -> Ratios:
    r"""Log p(y; s) - log p(y; s_0) of settings in order, summed over the data.

    .. math:: \frac{p(y; s')}{p(y; s)} = E_{p(z|y; s)} \left[ \frac{p(y|z; s')}{p(y|z; s)} \right]

    The chains are those of s_0; where their weights for a setting are not healthy, further chains are run at the last
    setting before it, and the ratios multiplied.

    Args:
        pairs: of programs for y, one for each setting, with one continuous code.
        reference: the place of s_0 among them.
        y: observations `[N, *observed]`.
        search: how the guides that chains start from are refined.
        hmc: settings of the chains.
        seed: seed of all draws.
        inputs: further inputs of the programs, `[N, ...]`, or one row for all.
    """
    totals = []
    for start in range(0, len(y), CHAIN_DATA):
        rows = slice(start, start + CHAIN_DATA)
        steps = _steps(pairs, reference, y[rows], search, hmc, seed + start, rows_of(inputs, rows))
        sums = [torch.stack([s.value.sum(), s.squared_error.sum(), s.flagged.double().sum()]) for s in steps]
        totals.append(torch.stack(sums, -1))
    value, squared_error, flagged = torch.stack(totals).sum(0)
    return Ratios(value, squared_error.sqrt(), flagged / len(y))


def _steps(
    pairs: Sequence[Any], reference: int, y: Tensor, search: Search, hmc: HMC, seed: int, inputs: Mapping[str, Any]
) -> list[_Step]:
    """To each setting."""
    chains = _Chains.run(pairs[reference], y, search, hmc, seed, inputs)
    up = _walk(chains, pairs[reference + 1 :], search, hmc, seed, inputs)
    down = _walk(chains, pairs[:reference][::-1], search, hmc, seed, inputs)
    return [*down[::-1], _Step.none(len(y)), *up]


def _walk(
    chains: _Chains, pairs: Sequence[Any], search: Search, hmc: HMC, seed: int, inputs: Mapping[str, Any]
) -> list[_Step]:
    """To one setting after the other, in one direction."""
    base, last, found = _Step.none(len(chains.y)), None, []
    for pair in pairs:
        step = chains.step(pair)
        if last is not None and step.flagged.double().mean() > _UNHEALTHY:
            base, chains = found[-1], _Chains.run(last, chains.y, search, hmc, seed, inputs)
            step = chains.step(pair)
        found.append(base.then(step))
        last = pair
    return found
