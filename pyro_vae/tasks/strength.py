"""How strong the noise of a channel is, from what was observed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.values import choice
from pyro_vae.channels import Channel, check_observed, through
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.best_member import Search
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.members import WithMembers, refined_params
from pyro_vae.process.isolation import isolated
from pyro_vae.tasks.ratios import log_ratios
from pyro_vae.tasks.restoring import with_gaps

Method = Literal["auto", "weights", "hmc"]
_NEGLIGIBLE = 20.0
"""Nats below the best, in sum, from where on a channel needs no better estimate."""
_TOO_COARSE = 0.5
"""Standard error of a sum, in nats, by which the odds of two channels are off by more than e^0.5 = 1.6."""


@dataclass(frozen=True, eq=False)
class Strength:
    """The posterior of a channel's setting over a grid, all data together, from a uniform prior on the grid.

    Args:
        channels: the channels of the grid.
        log_p: log p(y_1, ..., y_N) of each, `[G]`, nats.
        standard_error: its Monte Carlo standard error, `[G]`; by chains, that of the difference from the first guess.
        unreliable: share of the data whose log p(y), or its difference by chains, is flagged, `[G]`.
        probabilities: p(channel|y), `[G]`.
        method: "weights" or "hmc".
    """

    channels: Sequence[Channel]
    log_p: Tensor
    standard_error: Tensor
    unreliable: Tensor
    probabilities: Tensor
    method: str = "weights"

    @property
    def best(self) -> Channel:
        """The most probable channel."""
        return self.channels[int(self.probabilities.argmax())]

    @property
    def flagged(self) -> bool:
        """Whether the posterior is not to be trusted.

        So where it has mass and more than 5 % of the data are flagged, or the standard error of a sum is above half a
        nat.
        """
        mass = self.probabilities > 0.01
        return bool(((self.unreliable > 0.05) | ~(self.standard_error <= _TOO_COARSE))[mass].any())

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
    method: Method = "auto",
    hmc: HMC | None = None,
    **inputs: Tensor,
) -> Strength:
    r"""Infer the setting of a channel that all data share, e.g. the probability of a flip, over a grid.

    .. math:: p(s|y_1, \dots, y_N) \propto \prod_n p(y_n; s), \qquad s \text{ on the grid}

    First by importance sampling of each log p(y; s), with the same seed for all s. The errors of N data add up, so
    where that is flagged the differences of neighbours are estimated by Hamiltonian Monte Carlo, whose errors are
    much smaller, as the posteriors of neighbours overlap:

    .. math:: \log p(y; s') - \log p(y; s) = \log E_{p(z|y; s)} \left[ \frac{p(y|z; s')}{p(y|z; s)} \right]

    Args:
        vae: as for `restore`.
        y: observations `[N, *observed]`, nan where not observed.
        channels: the grid, e.g. `[BitFlip(p) for p in (0.02, 0.05, 0.1, 0.2)]`, in order.
        num_particles: K, draws of the guide for each datum.
        mask: True where an element of y was observed, in place of nan.
        refine: whether the guide is refined for each datum and setting first: slower, with much smaller errors.
        search: how it is refined; None for `Search(max_steps=300)`.
        seed: seed of all draws.
        method: `"weights"` for importance sampling alone, `"hmc"` for both, `"auto"` for chains where it is flagged.
            Chains need a model with one continuous code; without one `"auto"` is `"weights"`.
        hmc: settings of the chains; None for `HMC()`.
        **inputs: as for `restore`.

    Returns:
        A `Strength`.

    Raises:
        UsageError, DataError: as `restore`; or for `"hmc"` with a model that has no single continuous code.

    References:
        Gelman & Meng 1998, Simulating normalizing constants: from importance sampling to bridge sampling to path
        sampling.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.channels import BitFlip
        >>> y = torch.ones(3, 4)
        >>> grid = [BitFlip(0.1), BitFlip(0.3)]
        >>> infer_strength(VAE((4,), latent_dim=2), y, grid, refine=False, method="weights").log_p.shape
        torch.Size([2])
    """
    if not channels:
        raise UsageError("channels: expected at least one channel to compare")
    choice("method", method, ("auto", "weights", "hmc"))
    y, pairs = with_gaps(y, mask), [through(vae, channel) for channel in channels]
    for pair in pairs:
        check_observed(pair, y)
    if method == "hmc" and pairs[0].code_site is None:
        raise UsageError("method 'hmc' needs a model with one continuous code: take 'weights'")
    options = search or Search(max_steps=300)
    found = _by_weights(pairs, y, num_particles, options if refine else None, seed, inputs)
    if method == "weights" or pairs[0].code_site is None or (method == "auto" and not found.flagged):
        return found
    return _by_chains(found, pairs, y, options, hmc or HMC(), seed, inputs)


def _by_weights(
    pairs: Sequence[Any], y: Tensor, num_particles: int, search: Search | None, seed: int, inputs: Mapping[str, Any]
) -> Strength:
    """By log p(y; s) of each."""
    sums = []
    for pair in pairs:
        given, weighed = dict(inputs), pair
        if search is not None and pair.code_site is not None:
            given["params"] = refined_params(pair, y, search, seed, **inputs)
            weighed = WithMembers(pair)
        found = log_marginal(weighed.model, weighed.guide, y, num_particles=num_particles, seed=seed, **given)
        sums.append((found.log_p.sum(), found.standard_error.square().sum().sqrt(), found.flagged.double().mean()))
    log_p, error, unreliable = (torch.stack(column) for column in zip(*sums, strict=True))
    return Strength(tuple(pair.channel for pair in pairs), log_p, error, unreliable, log_p.softmax(0))


def _by_chains(
    found: Strength, pairs: Sequence[Any], y: Tensor, search: Search, hmc: HMC, seed: int, inputs: Mapping[str, Any]
) -> Strength:
    """With better differences from the best for those that are not far below it."""
    best, doubt = int(found.log_p.argmax()), 5 * (found.standard_error + found.standard_error.max())
    near = found.log_p.max() - found.log_p < _NEGLIGIBLE + doubt
    first, last = near.nonzero().aminmax()
    rows = torch.arange(int(first), int(last) + 1)
    ratios = log_ratios(pairs[int(first) : int(last) + 1], best - int(first), y, search, hmc, seed, inputs)
    log_p = found.log_p.index_copy(0, rows, found.log_p[best] + ratios.values)
    return replace(
        found,
        log_p=log_p,
        standard_error=found.standard_error.index_copy(0, rows, ratios.standard_errors),
        unreliable=found.unreliable.index_copy(0, rows, ratios.unreliable),
        probabilities=log_p.softmax(0),
        method="hmc",
    )
