"""`StoragePlan`: which files a pass will write, how large they are, and whether the disk has room for them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyro_vae.data.places import human, no_room

_SPARE = 2**20
"""Free space that is left beside the files, bytes: for their names and headers."""


@dataclass(frozen=True)
class PlannedArray:
    """A file with one array.

    Args:
        name: of the file, without `.npy`.
        shape: of the array, `[N, *shape]`.
        dtype: its type.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def row(self) -> str:
        """Type and shape of one datum, in words."""
        return f"{self.dtype} {list(self.shape[1:])}" if self.shape[1:] else str(self.dtype)


@dataclass(frozen=True)
class StoragePlan:
    """What a pass over data will write.

    Args:
        folder: where to.
        arrays: a file each.
        free: free space on that disk, bytes.
        exact: whether the numbers of data are known; else they are those of batches times the size of the first.

    Example:
        >>> plan = StoragePlan("digits", (PlannedArray("train", (10**6, 28, 28), np.dtype("u1")),), free=2**40)
        >>> print(plan)
        digits: 748 MiB for 1,000,000 data of train, and 1024 GiB are free
          train.npy  uint8 [28, 28]  748 MiB
    """

    folder: str
    arrays: tuple[PlannedArray, ...]
    free: int
    exact: bool = True

    @property
    def size(self) -> int:
        """Size of all files, bytes."""
        return sum(array.size for array in self.arrays)

    @property
    def fits(self) -> bool:
        """Whether the disk has room for them."""
        return self.size + _SPARE <= self.free

    @property
    def data(self) -> str:
        """How many data of each split, in words."""
        splits = [array for array in self.arrays if "_" not in array.name]
        return ", ".join(f"{array.shape[0]:,} data of {array.name}" for array in splits)

    def check(self, instead: str) -> None:
        """Refuse a pass whose result the disk has no room for.

        Args:
            instead: what to do, for the message.

        Raises:
            FileError: if so.
        """
        if not self.fits:
            about = "" if self.exact else "about "
            problem = f"{about}{human(self.size)} are needed for {about}{self.data}, and {human(self.free)} are free"
            raise no_room(Path(self.folder), f"{problem}: {instead}")

    def __str__(self) -> str:
        about = "" if self.exact else "about "
        first = f"{self.folder}: {about}{human(self.size)} for {about}{self.data}, and {human(self.free)} are free"
        rows = [(f"{array.name}.npy", array.row, human(array.size)) for array in self.arrays]
        widths = [max(len(row[i]) for row in rows) for i in range(2)]
        return "\n".join([first, *(f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in rows)])
