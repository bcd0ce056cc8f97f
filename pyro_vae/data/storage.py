"""Splits as they are stored, in memory or in a mapped file, and how they are read part by part."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor

from pyro_vae.data.places import check_room, scratch_folder
from pyro_vae.errors import DataError, UsageError, file_errors

Stored = Tensor | np.memmap
"""A split as a `Dataset` keeps it: floating point, uint8 or bool in memory, or any real numbers in a mapped file."""


CHUNK = 2**20
"""Elements that become floating point at a time: 4 MiB in single precision."""


LARGE = 2**28
"""Elements from which a mapped split as a whole becomes a tensor on the disk, not in memory: 1 GiB in single
precision."""


def is_large(x: Stored) -> bool:
    """Whether it is a mapped file that is not to be read into memory as a whole."""
    return not isinstance(x, Tensor) and x.size >= LARGE


def is_floating(x: Stored) -> TypeGuard[Tensor]:
    """Whether it is a floating point tensor, whose values mean themselves."""
    return isinstance(x, Tensor) and x.is_floating_point()


def kind(x: Stored) -> str:
    """The kind of numbers stored: bool, uint8, integer or float."""
    name = str(x.dtype).removeprefix("torch.")
    return name if name in ("bool", "uint8") else "integer" if "int" in name else "float"


def levels(splits: Iterable[Stored], divisor: float) -> int | None:
    """Values that a stored element over the divisor can have: `divisor + 1`, of bytes at most 256; None for floats."""
    kinds = {kind(x) for x in splits}
    if kinds == {"bool"} and divisor == 1:
        return 2
    if not kinds <= {"uint8", "integer"} or divisor != int(divisor):
        return None
    return min(int(divisor) + 1, 256) if kinds == {"uint8"} else int(divisor) + 1


def chunk_rows(x: Stored | np.ndarray, chunks: int = 1) -> int:
    """How many rows have as many elements as the given number of chunks."""
    return max(1, chunks * CHUNK // max(1, math.prod(x.shape[1:])))


def rows_at_once(x: Stored, most: int = 1000) -> int:
    """How many data a network is run on at once where only memory limits that: `most`, or fewer if they are large.

    Together at most 2^21 elements, since a density makes some twenty copies of them.

    Example:
        >>> rows_at_once(torch.zeros(5, 28, 28)), rows_at_once(torch.zeros(5, 3, 64, 64))
        (1000, 170)
    """
    return min(most, chunk_rows(x, 2))


def read_in_parts(x: Stored, rows: int | None = None) -> Iterator[Tensor]:
    """All rows in order, `rows` at a time (by default those of one chunk), each part as `read_in` gives it."""
    rows = rows or chunk_rows(x)
    return (read_in(x[start : start + rows]) for start in range(0, len(x), rows))


def read_in(x: Tensor | np.ndarray) -> Tensor:
    """Rows as a tensor: of a mapped file bytes as they are, all others in torch's default type."""
    if isinstance(x, Tensor):
        return x
    if x.dtype != np.uint8:
        return to_floats(x)
    return torch.from_numpy(np.array(x))  # a copy, since torch does not take what is read-only


def joined(parts: Iterable[Tensor], x: Stored, dtype: torch.dtype) -> Tensor:
    """The parts as one tensor of the shape of `x`; of a large mapped file, one that lies on the disk."""
    shape = tuple(x.shape)
    if is_large(x):
        whole = on_disk(shape, dtype)
    else:
        whole = torch.empty(shape, dtype=dtype, device=x.device if isinstance(x, Tensor) else "cpu")
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole


def on_disk(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor whose values lie in a file without a name, which is gone with the tensor.

    Raises:
        FileError: if the disk has no room for it.
    """
    number = math.prod(shape)
    with scratch_folder() as folder:
        path = Path(folder) / "values"
        check_room(path.parent, number * dtype.itemsize)
        with file_errors(path, "write"), path.open("xb") as file:
            os.posix_fallocate(file.fileno(), 0, number * dtype.itemsize)  # a full disk is an error here, a crash later
        return torch.from_file(str(path), shared=True, size=number, dtype=dtype).reshape(shape)


def private(x: np.memmap) -> Tensor:
    """A whole mapped file as a tensor that is mapped too; what is written to it stays in this process."""
    assert x.filename is not None
    own = np.memmap(x.filename, x.dtype, mode="c", offset=x.offset, shape=x.shape)
    return torch.from_numpy(own)


def to_floats(array: np.ndarray) -> Tensor:
    """A copy in torch's default type."""
    dtype = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
        return torch.from_numpy(array.astype(dtype))


def find(parts: Iterable[Tensor], bad: Callable[[Tensor], Tensor]) -> tuple[int, tuple[int, ...], float]:
    """How many elements are bad, where the first is, and its value."""
    count, start, first, value = 0, 0, (), math.nan
    for x in parts:
        where = bad(x)
        if count == 0 and where.any():
            row, *rest = where.nonzero()[0].tolist()
            first, value = (start + row, *rest), float(x[(row, *rest)])
        count, start = count + int(where.sum()), start + len(x)
    return count, first, value


def update_digest(digest: Any, x: Tensor) -> None:
    """Feed the type and the bytes of a tensor to a hash, part by part."""
    digest.update(str(x.dtype).encode())
    for part in x.split(chunk_rows(x)):
        digest.update(part.cpu().contiguous().flatten().view(torch.uint8).numpy())


def check_layout(split: str, x: Stored, train: Stored) -> None:
    """Refuse what can't be a split, or doesn't match train."""
    if not isinstance(x, Tensor | np.memmap):
        raise UsageError(f"{split} is a {type(x).__name__}, expected a Tensor or a numpy.memmap: use as_dataset")
    if isinstance(x, Tensor) and x.is_meta:
        raise DataError(f"{split} is on the meta device, where tensors have a shape but no values: give real data")
    shape = tuple(x.shape)
    if len(shape) < 2 or 0 in shape:
        raise DataError(f"{split} has shape {shape}; expected [N, *event] with no size 0 (a scalar datum is [N, 1])")
    if shape[1:] != tuple(train.shape[1:]):
        raise DataError(f"{split} has event shape {shape[1:]}, but train {tuple(train.shape[1:])}: make them equal")
    if isinstance(x, np.memmap):
        check_real(split, x)
    elif not (x.is_floating_point() or x.dtype in (torch.uint8, torch.bool)):
        remedy = "convert it, or use as_dataset, which scales integers"
        raise DataError(f"{split} is {x.dtype}, expected floating point, or uint8 with a divisor: {remedy}")


_ODD_KINDS = {
    "O": ("Python objects", "make it one array of numbers, e.g. by numpy.stack"),
    "U": ("text", "code it as numbers, or leave it out"),
    "S": ("text", "code it as numbers, or leave it out"),
    "M": ("dates or durations", "convert them to numbers, e.g. of days, by astype"),
    "m": ("dates or durations", "convert them to numbers, e.g. of days, by astype"),
    "c": ("complex", "give real and imaginary parts as two elements"),
    "V": ("columns with names", "make it an array by numpy.lib.recfunctions.structured_to_unstructured"),
}
"""By the kind of a NumPy type: what it holds, and what to do."""


def check_real(split: str, array: np.ndarray) -> None:
    """Refuse what is not an array of real numbers."""
    if array.dtype.kind not in "fiub" or array.ndim == 0:
        kind, remedy = _ODD_KINDS.get("V" if array.dtype.names else array.dtype.kind, ("", "give it a dimension for N"))
        came = f"{kind} ({array.dtype}) of shape {array.shape}" if kind else f"{array.dtype} of shape {array.shape}"
        raise DataError(f"{split} is {came}, expected real numbers [N, *event]: {remedy}")
