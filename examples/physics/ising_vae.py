"""What the VAE of the Ising model says of test states, and what is known of them without it."""

from functools import partial
from typing import NamedTuple

import torch
from conditional import States
from exact_ising import energies
from torch import Tensor

from pyro_vae import VAE, log_marginal
from pyro_vae.evidence import Evidence

STEP = 0.02
"""Half the difference of temperatures, J/k_B, from which slopes of log p(x|T) are taken."""
CHECKED, MORE = 300, 20
"""States whose log p(x|T) is estimated again, and with how many times the draws."""


class Measured(NamedTuple):
    """What is known of each test state; each `[T, chains, kept]`, double precision."""

    log_p: Tensor
    """log p(x|T) of the VAE by importance sampling, nats."""
    slope: Tensor
    """Its derivative with respect to T, from the same draws of z at T + STEP and T - STEP, nats per J/k_B."""
    energy: Tensor
    """E(x), J, which the VAE was never given."""
    magnetisation: Tensor
    """Mean of the spins."""
    code: Tensor
    """E[z|x, T], the coordinate with the largest variance of its mean."""
    decoded: Tensor
    """Mean over the spins of E[x|z, T] at the posterior mean of z: a magnetisation that went through the code."""


def ups(spins: Tensor) -> Tensor:
    """The data of the Bernoulli likelihood: whether a spin is up."""
    return spins > 0


def measure(vae: VAE, states: States, num_particles: int, seed: int) -> tuple[Measured, dict[str, float]]:
    """What is known of each state, and the protocol and health of the importance sampling."""
    spins = states.rows()[0].double()
    x, shape = ups(spins).float(), states.x.shape[:3]
    estimate = partial(log_marginal, vae.model, vae.guide, x, num_particles=num_particles, seed=seed)
    evidence = estimate(c=states.context())
    above, below = (estimate(c=states.context(step)).log_p for step in (STEP, -STEP))
    found = (evidence.log_p, (above - below) / (2 * STEP), energies(spins), spins.mean((-1, -2)))
    measured = [value.reshape(shape) for value in (*found, *_codes(vae, x, states.context()))]
    return Measured(*measured), _health(vae, x, states.context(), evidence, seed)


def _health(vae: VAE, x: Tensor, c: Tensor, evidence: Evidence, seed: int) -> dict[str, float]:
    """The protocol and health of the estimate, and the mean change by `MORE` times the draws, nats per state."""
    some = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:CHECKED]
    num_particles = MORE * evidence.num_particles
    again = log_marginal(vae.model, vae.guide, x[some], c=c[some], num_particles=num_particles, seed=seed + 1)
    change, summary = again.log_p - evidence.log_p[some], evidence.summary()
    return {
        **{name: summary[name] for name in ("num_particles", "num_data", "unreliable", "pareto_k_above", "bias")},
        "standard_error_monte_carlo": evidence.standard_error_monte_carlo,
        "change": change.mean().item(),
        "change_standard_error": change.std().item() / len(change) ** 0.5,
        "checked": len(change),
    }


@torch.no_grad()
def _codes(vae: VAE, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinate of the mean code that varies most, and the magnetisation of what the mean code decodes to."""
    z = vae.encode(x, c=c).mean
    decoded = 2 * vae.decode(z, c=c).mean - 1
    return z[:, z.var(0).argmax()].double(), decoded.mean((-1, -2)).double()
