"""`Stream`: what can be passed over once, block by block, and how many data it has."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pyro_vae.data.streams.fields import Block
from pyro_vae.errors import DataError

_BLOCK = 2**20
"""About how many elements are in a block of what is cut into blocks here."""


@dataclass(frozen=True)
class Stream:
    """One pass over a source.

    Args:
        name: what it is, for messages, e.g. `"DataLoader"`.
        start: begins a pass over its blocks.
        size: how many data it has; None if only the number of its batches is known.
        batches: how many batches it has; None if its size is known.
        note: what is to be said before the pass.
    """

    name: str
    start: Callable[[], Iterator[Block]]
    size: int | None = None
    batches: int | None = None
    note: str = ""

    def first(self, num_data: int) -> "Stream":
        """The first `num_data` of its data.

        Raises:
            DataError: if it is known to have fewer.
        """
        if self.size is not None and self.size < num_data:
            raise DataError(f"num_data={num_data}: the {self.name} has only {self.size} data")
        return replace(self, start=lambda: _first(self.start(), num_data), size=num_data, batches=None)


def _first(blocks: Iterator[Block], num_data: int) -> Iterator[Block]:
    left = num_data
    for block in blocks:
        yield {role: array[:left] for role, array in block.items()}
        left -= len(block["x"])
        if left <= 0:
            return


def rows_of_block(elements: int) -> int:
    """How many data to take at a time, each of so many elements."""
    return max(1, _BLOCK // max(1, elements))


def ranges(size: int, rows: int) -> Iterator[slice]:
    """`size` rows, so many at a time."""
    return (slice(start, min(start + rows, size)) for start in range(0, size, rows))
