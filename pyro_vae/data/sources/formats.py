"""The format of a file by its first bytes; for formats that are not read here, how to convert them."""

import csv
import errno
import gzip
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pyro_vae.errors import DataError, FileError

READABLE = ".npz, .npy, CSV, Parquet or IDX"


DAMAGED = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    MemoryError,
    TypeError,
    SyntaxError,
    ArithmeticError,
    tokenize.TokenError,
    csv.Error,
    zipfile.BadZipFile,
    zlib.error,
)
"""Errors that reading a damaged file can raise."""


Format = Literal["npy", "zip", "gzip", "idx", "parquet", "text"]


_OURS: dict[bytes, Format] = {
    b"\x93NUMPY": "npy",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gzip",
    b"\x00\x00\x08": "idx",
    b"PAR1": "parquet",
}


_ARRAYS = "save its arrays by numpy.savez(path, train=..., test=...)"


_PICTURE = "one picture: give the folder with all of them"


_FOREIGN = {
    b"\x89HDF\r\n": f"an HDF5 file: read it with h5py (an .h5ad by anndata.read_h5ad, for fit) and {_ARRAYS}",
    b"ARROW1": f"an Arrow file: read it with pandas and {_ARRAYS}",
    b"MATLAB": f"a MATLAB file: read it with scipy.io.loadmat and {_ARRAYS}",
    b"SQLite": f"a database: read it with pandas and {_ARRAYS}",
    b"\x80": f"a pickle, which can run any code when it is read: read it where you trust it, and {_ARRAYS}",
    b"\x89PNG": _PICTURE,
    b"\xff\xd8\xff": _PICTURE,
    b"%PDF": "a document",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"\xff\xfe": "text in UTF-16: save it as UTF-8",
    b"\xfe\xff": "text in UTF-16: save it as UTF-8",
}


_CONTROL = frozenset(range(32)) - frozenset(b"\t\n\r\f")


def format_of(path: Path) -> Format:
    """The format of a file.

    Raises:
        DataError: if it can't be read here, with how to convert it if that is known.
    """
    with reading(path), path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise DataError(f"can't read {path}: it is empty (0 bytes)")
    known: list[Format] = [name for start, name in _OURS.items() if head.startswith(start)]
    if known:
        return known[0]
    foreign = next((text for start, text in _FOREIGN.items() if head.startswith(start)), None)
    if foreign is None and not _CONTROL & set(head):
        return _text_of(path, head)
    raise DataError(f"can't read {path}: it is {foreign or _unknown(head)}; expected {READABLE}")


def _text_of(path: Path, head: bytes) -> Format:
    """`"text"`, which may be a table, unless the file's extension is that of another format."""
    if path.suffix in (".npz", ".npy", ".gz"):
        begins = head[:20].decode(errors="replace")
        raise DataError(f"can't read {path}: it is not an {path.suffix} file but text, beginning {begins!r}")
    return "text"


def _unknown(head: bytes) -> str:
    return f"of an unknown format, beginning {head[:8]!r}"


@contextmanager
def reading(path: Path, what: str = "") -> Iterator[None]:
    """Turn errors inside from a damaged file into a `DataError` with its path, errors of the system into a `FileError`.

    Args:
        path: the file.
        what: the part of it that is read, for messages.

    Raises:
        DataError: if the contents are not as expected.
        FileError: if the system can't read it.
    """
    try:
        yield
    except DataError:
        raise
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise FileError.of(error, path, "read") from error
        raise DataError(f"can't read {f'{what} of ' if what else ''}{path}: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The error in one line, without a library's advice to read unsafe files."""
    text = " ".join(str(error).split())
    if "pickle" in text or "max_header_size" in text:
        return "its header is damaged"
    if isinstance(error, zipfile.BadZipFile):
        return f"it is a damaged .npz file, or another kind of file ({text}); expected {READABLE}"
    if isinstance(error, MemoryError):
        return "it is too large for the memory of this machine"
    return text or type(error).__name__


def check_memory(path: Path, size: int, instead: str) -> None:
    """Refuse arrays larger than this machine's memory before they are read: a small file may unpack to many bytes.

    Args:
        path: the file.
        size: bytes in memory.
        instead: what to do, for the message.

    Raises:
        DataError: if `size` is larger than the memory.
    """
    there = memory()
    if there is not None and size > there:
        came = f"its arrays take {size / 2**30:.1f} GiB, but this machine has {there / 2**30:.1f}"
        raise DataError(f"can't read {path}: {came}: {instead}")


def memory() -> int | None:
    """Bytes of memory of this machine; None if unknown."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def opened(path: Path):
    """The open file, decompressed while it is read if it is `.gz`."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
