"""log Z of a Boltzmann machine between two bounds: annealed importance sampling in both directions.

The path leads from independent bits (beta = 0, whose Z is known) to the machine (beta = 1):

    log f_beta(v) = v.((1 - beta) a_0 + beta a) + sum_j log(1 + exp(beta (b_j + (v W)_j)))

Neal 2001; Salakhutdinov & Murray 2008 (the forward direction); Grosse, Ghahramani & Adams 2015 (both directions).
"""

from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae.statistics.averages import squared_error_of_log_mean


@dataclass(frozen=True)
class Bracket:
    """log Z between two stochastic bounds, nats.

    Args:
        lower: log of the mean forward weight: below log Z in expectation, by Jensen's inequality.
        upper: minus log of the mean backward weight: above log Z in expectation, if the chains began at draws of the
            model.
        lower_error: standard error of `lower` (delta method).
        upper_error: standard error of `upper`.
        chains: how many chains in each direction.
        temperatures: how many steps each has.
    """

    lower: float
    upper: float
    lower_error: float
    upper_error: float
    chains: int
    temperatures: int

    @property
    def protocol(self) -> str:
        """One line: how it was found."""
        return f"AIS and reverse AIS, {self.chains} chains, {self.temperatures} temperatures"

    def contains(self, log_z: float, errors: float = 4.0) -> bool:
        """Whether log Z is inside, up to this many standard errors at each end."""
        low, high = self.lower - errors * self.lower_error, self.upper + errors * self.upper_error
        return low <= log_z <= high


@dataclass(frozen=True)
class Path:
    """Distributions between independent bits with logits `base` and a machine (`boltzmann.Machine`)."""

    machine: Any
    base: Tensor

    @property
    def log_z_of_base(self) -> float:
        """The log Z at beta = 0: independent visible bits, and hidden bits that are coins."""
        return softplus(self.base).sum().item() + len(self.machine.hidden) * log(2)

    def biases(self, beta: float) -> Tensor:
        """Visible biases at beta."""
        return (1 - beta) * self.base + beta * self.machine.visible

    def inputs(self, v: Tensor) -> Tensor:
        """The inputs of the hidden units, b + v W, `[N, H]`."""
        return v @ self.machine.weight + self.machine.hidden

    def log_ratio(self, v: Tensor, beta: float, after: float) -> Tensor:
        """The difference log f_after(v) - log f_beta(v), `[N]`."""
        inputs = self.inputs(v)
        hidden = softplus(after * inputs) - softplus(beta * inputs)
        return (after - beta) * (v @ (self.machine.visible - self.base)) + hidden.sum(1)

    def step(self, v: Tensor, beta: float) -> Tensor:
        """One step of Gibbs sampling that leaves f_beta as it is."""
        h = torch.bernoulli((beta * self.inputs(v)).sigmoid())
        return torch.bernoulli((beta * (h @ self.machine.weight.T) + self.biases(beta)).sigmoid())

    def weights(self, v: Tensor, betas: list[float]) -> Tensor:
        """Log-weights of chains that pass through the temperatures in this order, `[N]`, double precision."""
        total = torch.zeros(len(v), dtype=torch.float64)
        for beta, after in pairwise(betas):
            total += self.log_ratio(v, beta, after).double()
            v = self.step(v, after)
        return total


def bracket(machine: Any, base: Tensor, temperatures: int, draws: Tensor) -> Bracket:
    """Forward chains from the base, and backward chains from `draws` of the machine, as many of each.

    Args:
        machine: the machine.
        base: logits of the independent bits at beta = 0, `[64]`.
        temperatures: steps of the path, equally spaced.
        draws: draws of the machine's p(v), `[N, 64]`; if they are not, `upper` need not lie above log Z.
    """
    path = Path(machine, base)
    betas = [t / temperatures for t in range(temperatures + 1)]
    forward = path.weights(torch.bernoulli(base.sigmoid().expand(len(draws), -1)), betas)
    backward = path.weights(draws, betas[::-1])
    (lower, lower_error), (upper, upper_error) = log_mean(forward), log_mean(backward)
    start = path.log_z_of_base
    return Bracket(start + lower, start - upper, lower_error, upper_error, len(draws), temperatures)


def log_mean(log_weights: Tensor) -> tuple[float, float]:
    """The logarithm of the mean weight and its standard error."""
    ess = (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()
    error = squared_error_of_log_mean(ess, len(log_weights)).sqrt()
    return (log_weights.logsumexp(0) - log(len(log_weights))).item(), error.item()
