"""How strong the noise of a channel is, from what was observed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.channels import Channel, check_observed, through
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.best_member import Search
from pyro_vae.inference.members import WithMembers, refined_params
from pyro_vae.process.isolation import isolated
from pyro_vae.tasks.restoring import with_gaps


@dataclass(frozen=True, eq=False)
class Strength:
    """The posterior of a channel's setting over a grid, all data together, from a uniform prior on the grid.

    Args:
        channels: the channels of the grid.
        log_p: log p(y_1, ..., y_N) of each, `[G]`, nats.
        standard_error: its Monte Carlo standard error, `[G]`.
        unreliable: share of the data whose log p(y) is flagged, `[G]`.
        probabilities: p(channel|y), `[G]`.
    """

    channels: Sequence[Channel]
    log_p: Tensor
    standard_error: Tensor
    unreliable: Tensor
    probabilities: Tensor

    @property
    def best(self) -> Channel:
        """The most probable channel."""
        return self.channels[int(self.probabilities.argmax())]

    @property
    def flagged(self) -> bool:
        """Whether the posterior is not to be trusted: more than 5 % of the data are flagged where it has mass."""
        return bool((self.unreliable[self.probabilities > 0.01] > 0.05).any())

    def interval(self, level: float = 0.9) -> tuple[Channel, Channel]:
        """The first and the last channel of the equal-tailed interval, in the order of the grid."""
        below = self.probabilities.cumsum(0)
        cuts = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=below.dtype)
        first, last = torch.searchsorted(below, cuts).clamp(max=len(below) - 1).tolist()
        return self.channels[first], self.channels[last]

    def __repr__(self) -> str:
        low, high = self.interval()
        health = ", FLAGGED" if self.flagged else ""
        return f"Strength(best {self.best}, 90 % from {low} to {high}, of {len(self.channels)}{health})"


@isolated
@checked
def infer_strength(
    vae: Any,
    y: Tensor,
    channels: Sequence[Channel],
    num_particles: int = 1000,
    mask: Tensor | None = None,
    refine: bool = True,
    search: Search | None = None,
    seed: int = 0,
    **inputs: Tensor,
) -> Strength:
    r"""Infer the setting of a channel that all data share, e.g. the probability of a flip, over a grid.

    .. math:: p(s|y_1, \dots, y_N) \propto \prod_n p(y_n; s), \qquad s \text{ on the grid}

    Each log p(y; s) is estimated by importance sampling, with the same seed for all s.

    Args:
        vae: as for `restore`.
        y: observations `[N, *observed]`, nan where not observed.
        channels: the grid, e.g. `[BitFlip(p) for p in (0.02, 0.05, 0.1, 0.2)]`, in order.
        num_particles: K, draws of the guide for each datum.
        mask: True where an element of y was observed, in place of nan.
        refine: whether the guide is refined for each datum and setting first: slower, with much smaller errors.
        search: how it is refined; None for `Search(max_steps=300)`.
        seed: seed of all draws.
        **inputs: as for `restore`.

    Returns:
        A `Strength`.

    Raises:
        UsageError, DataError: as `restore`.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.channels import BitFlip
        >>> y = torch.ones(3, 4)
        >>> infer_strength(VAE((4,), latent_dim=2), y, [BitFlip(0.1), BitFlip(0.3)], refine=False).log_p.shape
        torch.Size([2])
    """
    if not channels:
        raise UsageError("channels: expected at least one channel to compare")
    y, sums = with_gaps(y, mask), []
    for channel in channels:
        pair: Any = through(vae, channel)
        check_observed(pair, y)
        given: dict[str, Any] = dict(inputs)
        if refine and pair.code_site is not None:
            given["params"] = refined_params(pair, y, search or Search(max_steps=300), seed, **inputs)
            pair = WithMembers(pair)
        found = log_marginal(pair.model, pair.guide, y, num_particles=num_particles, seed=seed, **given)
        sums.append((found.log_p.sum(), found.standard_error.square().sum().sqrt(), found.flagged.double().mean()))
    log_p, error, unreliable = (torch.stack(column) for column in zip(*sums, strict=True))
    return Strength(tuple(channels), log_p, error, unreliable, log_p.softmax(0))
