"""Swendsen and Wang's algorithm for spins on a torus, for any number of independent chains at once.

A step draws for every bond whether it is there, finds the clusters that bonds connect, and flips each with probability
1/2. Far fewer steps are needed than by single spins: at the transition of a 16 x 16 lattice the energy forgets its
start in a few. Spins with directions (XY) are flipped along a random axis, as in Wolff's embedding.

References:
    Swendsen & Wang 1987, Nonuniversal critical dynamics in Monte Carlo simulations. Wolff 1989, Collective Monte Carlo
    updating for spin systems.
"""

from collections.abc import Callable

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

WARM_UP, BETWEEN = 30, 3
"""Steps of a chain before the first state that is kept, and from one to the next."""


def ising(temperature: np.ndarray, size: int, kept: int, rng: np.random.Generator) -> np.ndarray:
    """States of independent chains of the Ising model, which start ordered and random in turn.

    Args:
        temperature: of each chain, `[C]`, J/k_B.
        size: L.
        kept: states of each chain to keep, `BETWEEN` steps apart after the first `WARM_UP` steps.
        rng: the source of randomness.

    Returns:
        Spins +-1, `[C, kept, L, L]`, int8.
    """
    spins = rng.choice(np.array([-1, 1], np.int8), (len(temperature), size, size))
    spins[::2] = 1
    return _states(lambda s: s * flips(s.astype(float), 1 / temperature, rng), spins, kept)


def xy(temperature: np.ndarray, size: int, kept: int, rng: np.random.Generator) -> np.ndarray:
    """States of the XY model, E = -sum of cos(a_i - a_j): angles in [-pi, pi), `[C, kept, L, L]`; else as `ising`."""
    angle = rng.uniform(-np.pi, np.pi, (len(temperature), size, size))
    angle[::2] = 0

    def step(angle: np.ndarray) -> np.ndarray:
        axis = rng.uniform(-np.pi, np.pi, (len(temperature), 1, 1))
        turned = 2 * axis + np.pi - angle  # the reflection that changes the sign of cos(angle - axis)
        return np.where(flips(np.cos(angle - axis), 1 / temperature, rng) < 0, turned, angle)

    return (_states(step, angle, kept) + np.pi) % (2 * np.pi) - np.pi


def _states(step: Callable[[np.ndarray], np.ndarray], state: np.ndarray, kept: int) -> np.ndarray:
    """The states to keep."""
    found = []
    for count in range(WARM_UP + BETWEEN * kept):
        state = step(state)
        if count >= WARM_UP and (count - WARM_UP) % BETWEEN == 0:
            found.append(state)
    return np.stack(found, 1)


def flips(along: np.ndarray, beta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sign for each spin, the same in each cluster, `[C, L, L]`, int8; `along` are the spins along the axis."""
    number, nodes = along.size, np.arange(along.size).reshape(along.shape)
    pairs = []
    for axis in (1, 2):
        energy = -along * np.roll(along, -1, axis)
        bonded = rng.random(along.shape) < -np.expm1(np.minimum(2 * beta[:, None, None] * energy, 0))
        pairs.append((nodes[bonded], np.roll(nodes, -1, axis)[bonded]))
    first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(number, number))
    count, cluster = connected_components(graph, directed=False)
    return rng.choice(np.array([-1, 1], np.int8), count)[cluster].reshape(along.shape)
