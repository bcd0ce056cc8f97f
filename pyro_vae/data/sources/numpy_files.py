"""Arrays in an `.npy` or an `.npz`; their types and sizes are checked before they are read."""

import logging
import math
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pyro_vae.arguments.remedies import nearest
from pyro_vae.data.sources.formats import READABLE, check_memory, reading
from pyro_vae.errors import DataError

_log = logging.getLogger("pyro_vae")


_MAGIC = b"\x93NUMPY"
"""What an `.npy` file begins with."""


_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


_OBJECTS = (
    "Python objects (dtype object), not numbers: make it one array of numbers, e.g. by numpy.stack, and save that"
)


class Header(NamedTuple):
    """The header of an array; `start` bytes of the file come before its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy(path: Path) -> np.ndarray:
    """The array of an `.npy`, memory-mapped.

    Raises:
        DataError: if it is damaged, or contains Python objects.
    """
    with reading(path):
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise DataError(f"can't read {path}: it is no .npy file: give one, as numpy.save writes it")
            file.seek(0)
            header = _header(file)
        if header is None:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        _check(header, path.stat().st_size, f"the array of {path}")
        if header.size == 0:  # an empty array can't be mapped
            return np.zeros(header.shape, header.dtype)
        return np.load(path, mmap_mode="r", allow_pickle=False)


class Arrays:
    """The arrays of an `.npz`, each read on access.

    Args:
        path: the file.

    Raises:
        DataError: if it is not an archive of arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path), zipfile.ZipFile(path) as archive:
            files = archive.namelist()
        self.names = [name.removesuffix(".npy") for name in files if name.endswith(".npy")]
        if files and not self.names:
            raise DataError(f"can't read {path}: {_archive_of(files)}; expected {READABLE}")

    def check_memory(self, names: Iterable[str]) -> None:
        """Refuse arrays that are damaged, or together larger than memory, before any of them is read."""
        size = 0
        with reading(self.path), zipfile.ZipFile(self.path) as archive:
            for name in names:
                header = self._look(archive, name)
                size += 0 if header is None else header.size
        check_memory(self.path, size, "save the data as one .npy, which is mapped and may be larger than memory")

    def __getitem__(self, name: str) -> np.ndarray:
        """An array, read into memory."""
        with reading(self.path, repr(name)), zipfile.ZipFile(self.path) as archive:
            header = self._look(archive, name)
            if header is not None:
                check_memory(self.path, header.size, "save it as an .npy, which is mapped")
            with archive.open(f"{name}.npy") as file:
                return np.lib.format.read_array(file, allow_pickle=False)

    def _look(self, archive: zipfile.ZipFile, name: str) -> Header | None:
        entry = archive.getinfo(f"{name}.npy")
        with archive.open(entry) as file:
            header = _header(file)
        if header is not None:
            _check(header, entry.file_size, f"{name!r} of {self.path}")
        return header

    def warn_of_others(self, used: Iterable[str], known: Iterable[str]) -> None:
        """Warn of arrays that are not read, with the most similar known name.

        Args:
            used: the names that are read.
            known: all names that have a meaning.
        """
        used, known = set(used), list(known)
        for name in self.names:
            if name not in used:
                close = nearest(name, [other for other in known if other not in used])
                _log.warning(
                    "%s: the array %r is not read%s Known: %s", self.path, name, close or ".", ", ".join(known)
                )


def _header(file: IO[bytes]) -> Header | None:
    """The header of an array in a file; None for a version of the format without public reader in numpy."""
    read = _HEADERS.get(np.lib.format.read_magic(file))
    if read is None:
        return None
    shape, _, dtype = read(file)
    return Header(shape, dtype, file.tell())


def _check(header: Header, size: int, what: str) -> None:
    """Refuse an array of Python objects, and one with fewer or more bytes of values than its header states."""
    if header.dtype.hasobject:
        raise DataError(f"{what} holds {_OBJECTS}")
    if any(n < 0 for n in header.shape):
        raise DataError(f"can't read {what}: its header is damaged, with the shape {header.shape}")
    held = size - header.start
    if held < header.size:
        raise DataError(
            f"can't read {what}: it is cut off, with {held} bytes of values where shape {header.shape} of "
            f"{header.dtype} has {header.size}"
        )
    if held > header.size:
        raise DataError(
            f"can't read {what}: {held - header.size} bytes follow its values: save one array in a file, several by "
            "numpy.savez"
        )


def _archive_of(files: list[str]) -> str:
    shown = ", ".join(map(repr, files[:3])) + (", ..." if len(files) > 3 else "")
    if "[Content_Types].xml" in files:
        return "it is a spreadsheet or a document: save the table as CSV"
    if any(name.endswith("/data.pkl") for name in files):
        return "it was saved by torch.save: save it by numpy.savez(path, train=train.numpy(), test=test.numpy())"
    return f"it is an archive of {shown}, none an array saved by numpy.savez"
