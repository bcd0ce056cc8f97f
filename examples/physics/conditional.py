"""A VAE p(x|T) of the states of a lattice, conditional on the temperature: states, their symmetries, training."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_vae import VAE, fit, seeded
from pyro_vae.data import Dataset
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.shapes import Shapes


class States(NamedTuple):
    """States of independent chains at each temperature."""

    temperature: Tensor
    """`[T]`, J/k_B, double precision."""
    x: Tensor
    """`[T, chains, kept, L, L]`: spins +-1, or angles in radians."""

    def halves(self) -> tuple["States", "States"]:
        """The first half of the chains of each temperature, and the second."""
        first, second = self.x.chunk(2, 1)
        return States(self.temperature, first), States(self.temperature, second)

    def rows(self) -> tuple[Tensor, Tensor]:
        """All states in one list `[N, L, L]`, with the temperature of each, `[N]`."""
        return self.x.flatten(0, 2), self.temperature.repeat_interleave(self.x.shape[1] * self.x.shape[2])

    def context(self, step: float = 0.0) -> Tensor:
        """What networks get of T + step of each state, `[N, 1]`: in standard deviations of the grid from its mean."""
        grid = self.temperature
        return ((self.rows()[1] + step - grid.mean()) / grid.std()).float().unsqueeze(-1)


def simulate(
    draw: Callable[[np.ndarray, int, int, np.random.Generator], np.ndarray],
    temperature: Tensor,
    size: int,
    chains: int,
    kept: int,
    seed: int,
) -> States:
    """Draw independent chains at each temperature, by `swendsen_wang.ising` or `.xy`, and keep states of each."""
    rng = np.random.default_rng([seed, size])
    x = draw(temperature.repeat_interleave(chains).numpy(), size, kept, rng)
    return States(temperature, torch.tensor(x).reshape(len(temperature), chains, kept, size, size))


def moved(x: Tensor, copies: int, seed: int) -> Tensor:
    """Each state in `copies` versions that have the same energy: shifted, turned and, by their sign, reflected.

    Args:
        x: `[N, L, L]`.
        copies: versions of each state.
        seed: of the choices; blocks of 64 states share one.

    Returns:
        `[copies * N, L, L]`.
    """
    rng = np.random.default_rng(seed)
    blocks = [block for _ in range(copies) for block in x.split(64)]
    return torch.cat([_moved(block, rng) for block in blocks])


def _moved(x: Tensor, rng: np.random.Generator) -> Tensor:
    down, right = rng.integers(x.shape[-1], size=2).tolist()
    turned = x.roll((down, right), (-2, -1)).rot90(int(rng.integers(4)), (-2, -1))
    return turned * int(rng.choice([-1, 1]))


def train(
    states: States,
    prepared: Callable[[Tensor], Tensor],
    likelihood: Callable[[Shapes], Likelihood],
    latent_dim: int,
    hidden: int,
    epochs: int,
    copies: int,
    seed: int,
) -> VAE:
    """Fit q(z|x, T) and p(x|z, T) p(z).

    Args:
        states: the training states.
        prepared: from states to the data of the likelihood.
        likelihood: of `VAE`.
        latent_dim: of `VAE`.
        hidden: width of the two hidden layers of each network.
        epochs: of `fit`.
        copies: versions of each state by symmetry.
        seed: of all that is random.
    """
    x, context = states.rows()[0], states.context()
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, c = prepared(moved(x[mixed], copies, seed)), context[mixed].repeat(copies, 1)
    network = partial(MLP, hidden=(hidden, hidden))
    with seeded(seed, "init"):
        vae = VAE(x.shape[1:], latent_dim, likelihood=likelihood, encoder=network, decoder=network, context=(1,))
    data = Dataset("lattice", x, inputs={"c": {"train": c}})
    adam = partial(torch.optim.Adam, lr=2e-3)
    fit(vae, data, epochs=epochs, batch_size=256, optimizer=adam, lr_schedule=Cosine(), seed=seed, progress=False)
    return vae
