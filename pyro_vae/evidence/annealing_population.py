"""The weights of annealed chains, and chains that take the place of those that have almost none (SMC)."""

from math import log

import torch
from torch import Tensor

from pyro_vae.inference.trajectories import Noise, Point


class Population:
    r"""The log-weights of the chains of each datum, and from which first draw each of them comes.

    Where the effective share of a datum's chains, `(sum w)^2 / (C sum w^2)`, is below a limit, C chains are drawn from
    them in proportion to their weights, and go on with the mean weight each. The mean weight at the end is an unbiased
    estimate of p(x) with or without (sequential Monte Carlo).

    Args:
        chains: C.
        num_data: N.
        noise: of the chains.
        least_share: the limit; 0 for never.

    References:
        Del Moral, Doucet & Jasra 2006, Sequential Monte Carlo samplers. Chan & Lai 2013, A general theory of particle
        filters in hidden Markov models (the error from the weights of all descendants of each first draw).
    """

    def __init__(self, chains: int, num_data: int, noise: Noise, least_share: float) -> None:
        device = noise.like.device
        self.noise, self.least_share = noise, least_share
        self.log_weights = torch.zeros(chains, num_data, dtype=torch.float64, device=device)
        self.first = torch.arange(chains, device=device)[:, None].expand(chains, num_data)
        self._places = torch.arange(chains, dtype=torch.float64, device=device)

    def add(self, log_weights: Tensor) -> None:
        """Multiply the weights of all chains, `[C, N]`."""
        self.log_weights = self.log_weights + log_weights

    def resampled(self, point: Point) -> Point:
        """The point, where the limit is passed with the chains that were drawn."""
        if not self.least_share:
            return point
        uniform = self.noise.uniform(1, 1)[0, :, 0].double()  # at each temperature, so that data share no decision
        shares, chains = self.log_weights.softmax(0), len(self.log_weights)
        poor = shares.square().sum(0) * (self.least_share * chains) > 1
        if not poor.any():
            return point
        drawn = self._systematic(shares, uniform)
        chosen = torch.where(poor, drawn, torch.arange(chains, device=drawn.device)[:, None])
        mean = self.log_weights.logsumexp(0) - log(chains)
        self.log_weights = torch.where(poor, mean, self.log_weights)
        self.first = self.first.gather(0, chosen)
        return tuple(_chains(tensor, chosen) for tensor in point)

    def by_first_draw(self) -> Tensor:
        """The log-weights of all descendants of each first draw, `[C, N]`, -inf of one that has none."""
        if not self.least_share:
            return self.log_weights
        most = self.log_weights.amax(0)
        sums = torch.zeros_like(self.log_weights).scatter_add(0, self.first, (self.log_weights - most).exp())
        return sums.log() + most

    def _systematic(self, shares: Tensor, uniform: Tensor) -> Tensor:
        """Chains in proportion to their shares, `[C, N]`: at C evenly spaced points of the cumulated shares."""
        points = ((self._places + uniform[:, None]) / len(shares)).contiguous()
        found = torch.searchsorted(shares.cumsum(0).T.contiguous(), points, right=True)
        return found.clamp(max=len(shares) - 1).T


def _chains(tensor: Tensor, chosen: Tensor) -> Tensor:
    """The chosen chains of each datum."""
    return tensor.gather(0, chosen.reshape(*chosen.shape, *[1] * (tensor.dim() - 2)).expand_as(tensor))
