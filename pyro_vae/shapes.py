"""The sizes that every part is built with, given once to the VAE."""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Shapes:
    """The sizes of one datum, of its code, and of what both may be conditioned on.

    Args:
        event: shape of one datum x, e.g. `(28, 28)`; every entry at least 1.
        latent: number of latent dimensions of z, at least 1.
        context: shape of one datum's context c, e.g. `(10,)` for a one-hot label; None without context.
    """

    event: tuple[int, ...]
    latent: int
    context: tuple[int, ...] | None = None

    @property
    def event_size(self) -> int:
        """Number of elements of one datum."""
        return prod(self.event)


@dataclass(frozen=True)
class CodeShapes(Shapes):
    """The sizes of an autoencoder whose code is discrete: a codebook's entry at each of some positions.

    `latent` counts the numbers that the decoder is given: positions times the entries' dimension.

    Args:
        codes: the positions, `(n,)` or a grid `(height, width)`; every entry at least 1.
        codebook_size: how many codes there are, K; a code is one of 0, ..., K - 1.
    """

    codes: tuple[int, ...] = (1,)
    codebook_size: int = 2

    @property
    def positions(self) -> int:
        """Number of positions."""
        return prod(self.codes)
