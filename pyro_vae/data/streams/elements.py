"""What a source gives, as NumPy arrays: tensors, arrays, pictures, sparse matrices, tables, numbers."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.values import MASKED, shown
from pyro_vae.errors import DataError

_MODES = {"1": "1", "L": "L", "RGB": "RGB", "I;16": "I;16", "I;16B": "I;16", "I;16L": "I;16", "LA": "L", "P": "RGB"}
"""The modes of Pillow that are kept, or converted without asking; all others become RGB."""


def array_of(value: Any, where: str) -> np.ndarray:
    """One element of a source as an array of real numbers, on the CPU.

    A picture of Pillow becomes `[height, width]` if it is grey, else `[channels, height, width]`. The rows of a pandas
    table become floats. A list becomes one array of its elements.

    Args:
        value: what came.
        where: what it is, for messages, e.g. `"x of train data[0:100]"`.

    Raises:
        DataError: for anything else, or rows of different shapes.
    """
    found = _converted(value, where)
    if found.dtype.kind not in "fiub":
        raise DataError(f"{where}: expected numbers, got {_kind(found)}")
    native = found.dtype.newbyteorder("=")
    return found.astype(native, copy=False)


def _converted(value: Any, where: str) -> np.ndarray:
    if isinstance(value, Tensor):
        return _of_tensor(value)
    if isinstance(value, np.ma.MaskedArray):
        raise DataError(f"{where}: {MASKED}")
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1 and value.size:
        return _of_list(list(value), where)
    if isinstance(value, np.ndarray | np.generic | bool | int | float):
        return np.asarray(value)
    if is_picture(value):
        return _of_picture(value)
    if hasattr(value, "toarray"):  # a sparse matrix
        return np.asarray(value.toarray())
    if hasattr(value, "columns") and hasattr(value, "iloc"):
        return _of_table(value, where)
    if isinstance(value, list | tuple) and value:
        return _of_list(value, where)
    if hasattr(value, "__array__"):
        return _converted(np.asarray(value), where)
    raise DataError(f"{where}: expected numbers, a tensor, an array or a picture, got {_named(value)}")


def _named(value: Any) -> str:
    return "None" if value is None else f"{type(value).__name__} {shown(value)}"


def _kind(array: np.ndarray) -> str:
    texts = {"U": "text", "S": "text", "O": "Python objects", "M": "dates", "m": "durations", "c": "complex numbers"}
    return f"{texts.get(array.dtype.kind, 'something else')} ({array.dtype})"


def _of_tensor(value: Tensor) -> np.ndarray:
    dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
    dense = dense.float() if dense.dtype == torch.bfloat16 else dense  # exact; NumPy has no such type
    return dense.cpu().resolve_conj().resolve_neg().numpy()


def is_picture(value: Any) -> bool:
    """Whether it is an image of Pillow, which is not imported."""
    return all(hasattr(value, name) for name in ("mode", "size", "convert", "getbands"))


def _of_picture(value: Any) -> np.ndarray:
    mode = _MODES.get(value.mode, "RGB")
    pixels = np.asarray(value if value.mode == mode else value.convert(mode))
    return np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels


def _of_table(value: Any, where: str) -> np.ndarray:
    try:
        return value.to_numpy(
            np.float64, na_value=np.nan
        )  # one type for all parts: a column of whole numbers may have gaps later
    except (ValueError, TypeError) as error:
        texts = [str(name) for name, column in value.items() if column.dtype.kind not in "fiub"]
        raise DataError(f"{where}: the columns {', '.join(texts[:5])} are no numbers: leave them out") from error


def _of_list(value: Any, where: str) -> np.ndarray:
    if all(isinstance(part, bool | int | float) for part in value):
        return np.asarray(value)
    arrays = [_converted(part, where) for part in value]
    first = arrays[0]
    for index, array in enumerate(arrays):
        if array.shape != first.shape:
            raise DataError(unequal(f"{where}: datum {index}", array.shape, first.shape))
    return np.stack(arrays)


def unequal(what: str, shape: tuple[int, ...], before: tuple[int, ...]) -> str:
    """The message for a datum of another shape than those before."""
    return f"{what} has shape {list(shape)}, and those before {list(before)}: make all of one shape, e.g. by a resize"
