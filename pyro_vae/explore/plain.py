"""Results as plain data that JSON can hold: tensors as their shape and their numbers, little-endian, in base64."""

import base64
from typing import Any

import numpy as np
from torch import Tensor

_GREY = 255
"""Levels above 0 of a picture's pixels."""


def packed(values: Tensor) -> dict[str, Any]:
    """A tensor in single precision.

    Example:
        >>> import torch
        >>> packed(torch.tensor([1.0, 2.0]))
        {'shape': [2], 'float32': 'AACAPwAAAEA='}
    """
    return _packed(values.detach().cpu().numpy().astype("<f4"), "float32")


def packed_in_half(values: Tensor) -> dict[str, Any]:
    """A tensor rounded to 16 bits: 11 binary digits, up to 65504."""
    return _packed(values.detach().cpu().numpy().astype("<f2"), "float16")


def packed_exactly(values: Tensor) -> dict[str, Any]:
    """A tensor in as few bytes as single precision needs no more: in one each, where all are 0 and 1, or multiples of
    1/255.

    Example:
        >>> import torch
        >>> packed_exactly(torch.tensor([1.0, 0.0]))
        {'shape': [2], 'uint8': 'AQA=', 'of': 1}
    """
    numbers = values.detach().cpu().numpy().astype("<f4")
    for levels in (1, _GREY):
        near = np.nan_to_num(numbers * levels, nan=-1).round().clip(-1, _GREY)
        if (near >= 0).all() and ((near / levels).astype("<f4") == numbers).all():
            return {**_packed(near.astype("u1"), "uint8"), "of": levels}
    return _packed(numbers, "float32")


def packed_words(values: list[int]) -> dict[str, Any]:
    """The last 32 bits of whole numbers."""
    return _packed(np.array([value & 0xFFFFFFFF for value in values], "<u4"), "uint32")


def _packed(numbers: np.ndarray, name: str) -> dict[str, Any]:
    return {"shape": list(numbers.shape), name: base64.b64encode(numbers.tobytes()).decode()}
