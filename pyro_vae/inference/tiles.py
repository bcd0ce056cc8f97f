"""Log-weights of any number of particles in bounded memory: random numbers come in tiles of fixed size.

Each tile of `TILE_DATA` data and `TILE_PARTICLES` particles has its own random stream, so that a result does not
depend on how the work is cut, on the data that follow, nor on how many processes share it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyro_vae.process.seeding import seeded

TILE_DATA = 50


TILE_PARTICLES = 250


Draws = tuple[Mapping[str, Tensor], Tensor]


class Pair(Protocol):
    """A Pyro pair on blocks of data."""

    def draw(self, data: Sequence[Tensor]) -> Draws:
        """`TILE_PARTICLES` draws for each of `TILE_DATA` data, by site name, and their log q(z|x)."""
        ...

    def log_joint(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        """Log p(x, z) of draws, `[particles, data]`, nats."""
        ...


def log_weights(
    pair: Pair, data: Sequence[Tensor], start: int, num_particles: int, seed: int, nesting: int = 1
) -> Iterator[Tensor]:
    """Log-weights of one block of at most `TILE_DATA` data, tile by tile, `[at most TILE_PARTICLES, block]`, nats.

    Args:
        pair: the programs.
        data: the block's data.
        start: the position of its first datum in the whole set, which names its streams.
        num_particles: how many in all.
        seed: of the draws.
        nesting: plate dimensions the programs use.
    """
    for latents, log_guide in draws(pair, data, start, num_particles, seed, nesting):
        yield pair.log_joint(latents, data) - log_guide


def draws(
    pair: Pair,
    data: Sequence[Tensor],
    start: int,
    num_particles: int,
    seed: int,
    nesting: int = 1,
    stream: str = "log_marginal",
) -> Iterator[Draws]:
    """The guide's draws that `log_weights` weighs, and their log q(z|x), tile by tile; arguments as there.

    The first draws do not depend on `num_particles`, and each call returns the same draws.

    Args:
        pair: the programs.
        data: the block's data.
        start: the position of its first datum in the whole set.
        num_particles: how many in all.
        seed: of the draws.
        nesting: plate dimensions the programs use.
        stream: whose draws they are; others than those of log p(x) have another name.
    """
    for first in range(0, num_particles, TILE_PARTICLES):
        with seeded(seed, stream, start, first):
            latents, log_guide = pair.draw(padded(data))
        particles, size = min(TILE_PARTICLES, num_particles - first), len(data[0])
        yield cut(latents, particles, size, nesting), log_guide[:particles, :size]


def padded(data: Sequence[Tensor]) -> list[Tensor]:
    """The block with its last datum repeated up to `TILE_DATA`, so that a datum's noise is the same in any company."""
    size = len(data[0])
    return [torch.cat([x, x[-1:].expand(TILE_DATA - size, *x.shape[1:])]) if size < TILE_DATA else x for x in data]


def filled(latents: Mapping[str, Tensor], particles: int, nesting: int = 1) -> dict[str, Tensor]:
    """The same of a tile of draws: the last draw repeated up to `particles`, the last datum up to `TILE_DATA`."""
    for dim, size in ((0, particles), (nesting, TILE_DATA)):
        index = torch.arange(size).clamp(max=next(iter(latents.values())).shape[dim] - 1)
        latents = {name: value.index_select(dim, index.to(value.device)) for name, value in latents.items()}
    return dict(latents)


def pieces(latents: Mapping[str, Tensor], particles: int) -> Iterator[dict[str, Tensor]]:
    """Draws cut into parts of at most `particles` along dimension 0."""
    for first in range(0, len(next(iter(latents.values()))), particles):
        yield {name: value[first : first + particles] for name, value in latents.items()}


def cut(latents: Mapping[str, Tensor], particles: int, size: int, nesting: int) -> dict[str, Tensor]:
    """The first `particles` draws of the first `size` data of a tile."""
    return {name: value[:particles].narrow(nesting, 0, size) for name, value in latents.items()}
