"""Numbers of each datum in a file of a run, checked when they are read."""

import io
import struct
import zlib
from collections.abc import Sequence
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import CheckpointError

_MALFORMED = (ValueError, KeyError, OSError, EOFError, RuntimeError, MemoryError, BadZipFile, zlib.error, struct.error)
"""Errors that reading a damaged archive can raise."""


def columns(data: bytes, names: Sequence[str], where: str, remedy: str) -> list[Tensor]:
    """Arrays of an archive, each `[N]` in double precision.

    Args:
        data: the bytes of an `.npz`.
        names: the arrays wanted.
        where: the file, for messages.
        remedy: what to do about a damaged one.

    Raises:
        CheckpointError: if it is damaged, with the array.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = [torch.from_numpy(arrays[name]) for name in names]
    except _MALFORMED as error:
        raise CheckpointError(f"{where} is damaged ({remedy}): {error}") from error
    for name, column in zip(names, found, strict=True):
        if column.shape != found[0].shape or column.ndim != 1 or column.dtype != torch.float64:
            raise CheckpointError(f"{where} is damaged ({remedy}): {name} is {column.dtype} {list(column.shape)}")
    return found
