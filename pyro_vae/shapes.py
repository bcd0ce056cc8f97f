"""The sizes every part is built from, written once on the VAE."""

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Shapes:
    """The sizes of one datum, of its code, and of what both may be conditioned on.

    Args:
        event: shape of one datum x, e.g. `(28, 28)`; every entry at least 1.
        latent: number of latent dimensions of z, at least 1.
        context: shape of one datum's context c, e.g. `(10,)` for a one-hot label; None where there is none.
    """

    event: tuple[int, ...]
    latent: int
    context: tuple[int, ...] | None = None

    @property
    def event_size(self) -> int:
        """Number of elements of one datum."""
        return prod(self.event)
