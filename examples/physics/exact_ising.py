"""Exact thermodynamics of the Ising model on an L x L torus: Kaufman's formula, and a sum over all states.

Energies are in units of the coupling J, temperatures in J/k_B, entropies and heat capacities in k_B: an entropy is in
nats. The energy of spins s = +-1 is E(s) = -sum of s_i s_j over the 2 L^2 pairs of neighbours, and
p(s|T) = exp(-E(s)/T) / Z(T).
"""

from math import log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

CRITICAL = 2 / log(1 + sqrt(2))
"""The temperature of the transition of the infinite lattice (Onsager 1944): 2.26919 J/k_B."""


class Thermodynamics(NamedTuple):
    """Of one lattice, divided by the number of spins; each `[*temperatures]`, double precision."""

    entropy: Tensor
    """S/N, nats: log Z + E/T."""
    energy: Tensor
    """E/N, in J: the slope -d log Z / d(1/T)."""
    heat_capacity: Tensor
    """C/N = dE/dT, in k_B; dS/dT = C/T."""


def thermodynamics(temperature: Tensor, size: int) -> Thermodynamics:
    """Entropy, energy and heat capacity of an L x L torus from Kaufman's log Z, by automatic differentiation.

    Args:
        temperature: T in J/k_B, positive.
        size: L, at least 3 (on 2 x 2 each pair of neighbours has two bonds).
    """
    beta = (1 / temperature.double()).requires_grad_()
    log_z = log_partition(beta, size)
    (slope,) = torch.autograd.grad(log_z.sum(), beta, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), beta)
    found = (log_z - beta * slope, -slope, beta**2 * curvature)
    return Thermodynamics(*(value.detach() / size**2 for value in found))


def log_partition(beta: Tensor, size: int) -> Tensor:
    r"""Kaufman's log Z of an L x L torus, nats, in double precision.

    .. math::
        Z = \tfrac12 (2 \sinh 2\beta)^{N/2} \Big[
            \prod_{odd} 2\cosh\tfrac{L\gamma_l}2 + \prod_{odd} 2\sinh\tfrac{L\gamma_l}2
            + \prod_{even} 2\cosh\tfrac{L\gamma_l}2 + \prod_{even} 2\sinh\tfrac{L\gamma_l}2 \Big]

    with :math:`\cosh \gamma_l = \cosh 2\beta \coth 2\beta - \cos(\pi l / L)` for l = 1 ... 2L - 1, and
    :math:`\gamma_0 = 2\beta + \log\tanh\beta`, which changes its sign at the critical temperature.

    Args:
        beta: 1/T in units of 1/J, positive, double precision.
        size: L, at least 3.

    References:
        Kaufman 1949, Crystal statistics II. Ferdinand & Fisher 1969, Bounded and inhomogeneous Ising models I.
    """
    index = torch.arange(1, 2 * size, dtype=torch.float64)
    b = beta.unsqueeze(-1)
    other = torch.acosh((2 * b).cosh() / (2 * b).tanh() - (torch.pi * index / size).cos())
    half = size / 2 * torch.cat([2 * b + b.tanh().log(), other], -1)
    (log_odd, odd), (log_even, even) = (_products(half[..., start::2]) for start in (1, 0))
    rest = torch.log(1 + odd + (log_even - log_odd).exp() * (1 + even))
    return size**2 / 2 * (2 * (2 * beta).sinh()).log() - log(2) + log_odd + rest


def _products(x: Tensor) -> tuple[Tensor, Tensor]:
    """The log of the product of 2 cosh x, and the product of tanh x: that of 2 sinh x is the first times the second.

    The first x may be 0, where torch's second derivative of a product over all would be wrong.
    """
    return torch.logaddexp(x, -x).sum(-1), x[..., 0].tanh() * x[..., 1:].tanh().prod(-1)


def enumerated(temperature: Tensor, size: int) -> Thermodynamics:
    """The same from all 2^(L^2) states, for L = 3 and 4; temperatures `[T]`."""
    energy = energies(all_states(size))
    beta = 1 / temperature.double().unsqueeze(-1)
    log_weight = -beta * energy
    p = log_weight.softmax(-1)
    mean = (p * energy).sum(-1)
    entropy = log_weight.logsumexp(-1) + beta[:, 0] * mean
    variance = (p * (energy - mean.unsqueeze(-1)).square()).sum(-1)
    return Thermodynamics(*(value / size**2 for value in (entropy, mean, beta[:, 0] ** 2 * variance)))


def all_states(size: int) -> Tensor:
    """All spins +-1 of an L x L lattice, `[2^(L^2), L, L]`, double precision."""
    number = torch.arange(2 ** (size**2)).unsqueeze(-1)
    bits = (number >> torch.arange(size**2)) & 1
    return (2.0 * bits.double() - 1).reshape(-1, size, size)


def energies(spins: Tensor) -> Tensor:
    """E(s) of each lattice of spins +-1 `[*leading, L, L]`, in J."""
    return -(spins * (spins.roll(1, -1) + spins.roll(1, -2))).sum((-1, -2))


def critical_entropy() -> float:
    """S/N of the infinite lattice at its transition, nats: log(2)/2 + 2 G/pi - sqrt(2)/T_c; G is Catalan's number."""
    return log(2) / 2 + 2 * 0.915965594177219 / torch.pi - sqrt(2) / CRITICAL
