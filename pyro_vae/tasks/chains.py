"""Chains of latents given y, as the tasks draw them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import posterior

CHAIN_DRAWS = 4000
"""Least draws of the chains of a datum: with fewer, R-hat is above 1.01 by chance. As many as asked for are kept."""
CHAIN_DATA = 200
"""Data whose chains are held in memory at a time."""


@dataclass(frozen=True, eq=False)
class Chains:
    """Draws of latents given y, and their health.

    Args:
        latents: by site (`"x"` too, where it is one), `[num_draws, N, ...]`, evenly spread over the chains.
        ess: effective size of all draws, the least of what is followed, `[N]`.
        flagged: which are not to be trusted: R-hat above 1.01, or fewer than 100 effective draws a chain; `[N]` bool.
    """

    latents: dict[str, Tensor]
    ess: Tensor
    flagged: Tensor


def hamiltonian_chains(
    pair: Any,
    y: Tensor,
    inputs: Mapping[str, Any],
    num_draws: int,
    hmc: HMC,
    seed: int,
    tell: Callable[[int], object] | None = None,
) -> Chains:
    """Draws of Hamiltonian chains over the latent sites.

    Args:
        pair: of programs for y, `model` and `guide`.
        y: observations `[N, *observed]`.
        inputs: further inputs of the programs.
        num_draws: draws of each datum that are kept.
        hmc: settings of the chains.
        seed: seed of the draws.
        tell: called with the number of data done so far.
    """
    options: dict[str, Any] = {"method": "hmc", "hmc": hmc, "seed": seed, "progress": tell, **inputs}
    drawn = posterior(pair.model, pair.guide, y, num_draws=max(num_draws, CHAIN_DRAWS), **options)
    chosen = torch.arange(num_draws) * drawn.num_draws // num_draws
    return Chains({name: value[chosen] for name, value in drawn.draws.items()}, drawn.ess, drawn.flagged)


def chain_length(num_chains: int) -> int:
    """Draws of each of so many chains that are enough to judge them by."""
    return -(-CHAIN_DRAWS // num_chains)


def rows_of(inputs: Mapping[str, Any], rows: Tensor | slice) -> dict[str, Any]:
    """The inputs of some data; one row is for all."""
    return {name: value if len(value) == 1 else value[rows] for name, value in inputs.items()}
