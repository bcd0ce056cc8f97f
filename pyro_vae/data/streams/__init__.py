"""What gives data piece by piece, as blocks of arrays: each source is passed over once, and never held whole.

Its files:

    stream.py         Stream: a pass over a source, and how many data it has
    fields.py         which part of what comes is x, which labels, mask and context
    elements.py       tensors, arrays, pictures, sparse matrices and tables as arrays
    checked.py        what a pass refuses: another shape or type than before, values that are not finite
    torch_data.py     torch's Dataset and DataLoader, iterables of batches
    hugging_face.py   data sets of Hugging Face
    annotated.py      AnnData
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from pyro_vae.arguments.values import shown
from pyro_vae.data.streams.annotated import annotated_stream, is_annotated
from pyro_vae.data.streams.elements import is_picture
from pyro_vae.data.streams.fields import ROLES, Block, Fields, block_of, fields_of
from pyro_vae.data.streams.hugging_face import hugging_face_stream, is_hugging_face
from pyro_vae.data.streams.stream import Stream, ranges, rows_of_block
from pyro_vae.data.streams.torch_data import is_streamed, torch_stream
from pyro_vae.errors import UsageError

SPLITS = {"train": "train", "valid": "valid", "test": "test", "validation": "valid", "val": "valid"}
"""The split of each name that a dictionary of splits may have."""


def is_stream(source: Any) -> bool:
    """Whether it gives data piece by piece, or by split: all that is no array, no table and no list of numbers."""
    if isinstance(source, Mapping):
        return True
    if isinstance(source, Tensor | np.ndarray | list | tuple | str | bytes) or hasattr(source, "__fspath__"):
        return False
    known = is_annotated(source) or is_hugging_face(source) or is_streamed(source)
    if known or isinstance(source, TorchDataset | DataLoader):
        return True
    is_array = hasattr(source, "__array__") or (hasattr(source, "columns") and hasattr(source, "iloc"))
    has_data = hasattr(source, "__iter__") or (hasattr(source, "__getitem__") and hasattr(source, "__len__"))
    return has_data and not is_array and not is_picture(source) and not isinstance(source, type)


def by_split(source: Any) -> dict[str, Any]:
    """The source of each split: of a dictionary of splits its entries, else all is train.

    Raises:
        UsageError: for a dictionary without train, or with a name that is no split.
    """
    if not isinstance(source, Mapping):
        return {"train": source}
    unknown = [name for name in source if name not in SPLITS]
    found = {SPLITS[name]: value for name, value in source.items() if name not in unknown}
    if unknown or "train" not in found or len(found) < len(source):
        names = ", ".join(map(repr, source)) or "nothing"
        raise UsageError(f"data: expected a dictionary of splits, train and perhaps valid and test, got one of {names}")
    return found


def stream_of(source: Any, fields: Fields | None, split: str, num_data: int | None = None) -> Stream:
    """The stream of a source.

    Args:
        source: a `Dataset` or a `DataLoader` of torch, an iterable of batches, a data set of Hugging Face, an
            `AnnData`, an array or a table of numbers.
        fields: which of its parts is what; None to find out.
        split: what the data are part of, for messages.
        num_data: the first so many of its data; None for all, which is refused where no end is known.

    Raises:
        UsageError, DataError: for anything else.
    """
    if isinstance(source, str | bytes) or hasattr(source, "__fspath__"):
        raise UsageError(f"expected data, got {shown(source)}: load_data reads files and folders")
    if isinstance(source, type) or is_picture(source) or isinstance(source, Mapping):
        raise UsageError(f"expected data, many in order, got {shown(source)}")
    if is_annotated(source):
        stream = annotated_stream(source, fields, split)
    elif is_hugging_face(source):
        stream = hugging_face_stream(source, fields, split)
    elif isinstance(source, Tensor | np.ndarray) or (hasattr(source, "columns") and hasattr(source, "iloc")):
        stream = _of_array(source, fields, split)
    else:
        stream = torch_stream(source, fields, split, num_data)
    return stream if num_data is None else stream.first(num_data)


def _of_array(source: Any, fields: Fields | None, split: str) -> Stream:
    """An array, a tensor, or a table of numbers, part by part."""
    if fields is not None:
        raise UsageError(f"fields are for data of several parts: a {type(source).__name__} is x")
    if len(source.shape) == 0:
        raise UsageError("expected data [N, *event], got a single number")
    rows = source.iloc if hasattr(source, "iloc") else source

    def blocks() -> Iterator[Block]:
        for part in ranges(len(source), rows_of_block(int(np.prod(source.shape[1:])))):
            yield block_of({"x": rows[part]}, f"{split} data[{part.start}:{part.stop}]")

    return Stream(type(source).__name__, blocks, size=len(source))


__all__ = ["ROLES", "SPLITS", "Block", "Fields", "Stream", "by_split", "fields_of", "is_stream", "stream_of"]
