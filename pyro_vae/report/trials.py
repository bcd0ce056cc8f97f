"""The proposals that promise most, tried: each fitted for some epochs, and its gain measured on held-out data."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.report.conclusions import Cost, Proposal
from pyro_vae.report.subject import Given
from pyro_vae.statistics.averages import number
from pyro_vae.statistics.gains import Gains
from pyro_vae.training.refit import compare_priors, refit_prior
from pyro_vae.training.refit_guide import compare_guides, refit_guide

MOST_TRIALS = 2
_DRAWS = 10


@dataclass(frozen=True)
class Trial:
    """A proposal that was tried.

    Args:
        cost: what it was to lower.
        gain: of the ELBO of held-out data, on the same draws.
        epochs: passes of its training, at most.
        seconds: how long it took.
    """

    cost: Cost
    gain: Gains
    epochs: int
    seconds: float

    def row(self) -> dict[str, str]:
        """It as a row of a table."""
        return {
            "tried": self.cost.what,
            "gain of the ELBO, nats per datum": f"{self.gain.gain:+.3f} (se {number(self.gain.standard_error)})",
            "found": self.gain.verdict,
            "cost": f"{self.epochs} epochs, {self.seconds:.0f} s",
        }

    def summary(self) -> dict[str, Any]:
        """It as plain numbers."""
        gain = {"mean": self.gain.gain, "standard_error": self.gain.standard_error, "verdict": self.gain.verdict}
        return {"what": self.cost.what, "gain": gain, "epochs": self.epochs, "seconds": round(self.seconds, 1)}


def trials(
    vae: Any, data: Dataset, held_out: Given, costs: Sequence[Cost], epochs: int, seed: int = 0, progress: bool = True
) -> list[Trial]:
    """Try the first two of the costs that have a proposal and are above their errors.

    The rest of the model stays as it is, so a gain is that of the part alone; in a training of the whole model it can
    be larger. A new prior raises log p(x) as well; a new guide only the bound.

    Args:
        vae: the VAE; left as it is.
        data: `train` is fitted to, and `valid` decides which epoch is kept.
        held_out: on which the gain is measured.
        costs: the largest first.
        epochs: passes of each training.
        seed: of the trainings and of the draws.
        progress: whether to show progress on standard error.
    """
    chosen = [cost for cost in costs if cost.proposal is not None and cost.is_certain][:MOST_TRIALS]
    return [_tried(vae, data, held_out, cost, epochs, seed, progress) for cost in chosen]


def _tried(vae: VAE, data: Dataset, held_out: Given, cost: Cost, epochs: int, seed: int, progress: bool) -> Trial:
    start, proposal = time.monotonic(), cost.proposal
    assert proposal is not None
    new = _fitted(vae, data, proposal, epochs=epochs, seed=seed, progress=progress)
    compare = compare_priors if "prior" in proposal.parts else compare_guides
    gain = compare(vae, new, held_out.x, num_particles=_DRAWS, seed=seed, **held_out.inputs)
    return Trial(cost, gain, epochs, time.monotonic() - start)


def _fitted(vae: VAE, data: Dataset, proposal: Proposal, **settings: Any) -> VAE:
    settings["optimizer"] = partial(torch.optim.Adam, lr=proposal.lr)
    if "prior" in proposal.parts:
        return refit_prior(vae, data, proposal.parts["prior"], **settings)
    return refit_guide(vae, data, **proposal.parts, **settings)
