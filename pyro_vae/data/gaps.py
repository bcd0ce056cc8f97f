"""Gaps: elements of data that were not observed. A mask, an input of the programs, says which; the data have nan there.

The mask is True where an element was observed. Storage has 0 in the gaps, as `Dataset.batch` gives it; what reads whole
splits (`split`, `chunks`, `select`) has nan there, so that nobody mistakes a gap for a value.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.arguments.values import as_array, scalar, shown
from pyro_vae.data.storage import Stored, check_real, chunk_rows, private
from pyro_vae.errors import DataError, UsageError
from pyro_vae.statistics.running import Running

MASK = "mask"
"""The name of the mask among the inputs of the programs; it stays bool."""


Missing = Literal["nan", "mask"] | float | None
"""How a source says that an element was not observed: nan, an array of its own, or a number in its place."""


_log = logging.getLogger("pyro_vae")


def missing_of(value: Any) -> Missing:
    """The argument `missing`, checked; a float nan means `"nan"`.

    Raises:
        UsageError: for anything but None, `"nan"`, `"mask"` and a finite number.
    """
    value = scalar(value)
    if value is None or value in ("nan", "mask"):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf"):
        return value
    if isinstance(value, float) and isnan(value):
        return "nan"
    expected = "'nan', 'mask', or the number that stands for a missing value"
    raise UsageError(f"{spoken('', '--')}missing: expected {expected}, got {shown(value)}")


def masks_of(arrays: Mapping[str, Any], missing: Missing, masks: Any = None) -> dict[str, Tensor]:
    """The mask of each split, bool; none where nothing is said of gaps.

    Args:
        arrays: the splits as they were read, arrays or tensors.
        missing: what stands for an element that was not observed.
        masks: True where observed: one for each split by name, or that of train.

    Raises:
        DataError: if the masks do not fit the splits.
        UsageError: if both are given.
    """
    if masks is not None and missing not in (None, "mask"):
        raise UsageError(f"give one of {option('missing', missing)} and mask, which say the same")
    if masks is not None or missing == "mask":
        given = dict(masks) if isinstance(masks, Mapping) else {"train": masks}
        return _given(arrays, given)
    if missing is None:
        return {}
    found = {split: _observed(split, x, missing) for split, x in arrays.items()}
    if missing != "nan" and all(bool(mask.all()) for mask in found.values()):
        _log.warning("no value of the data is %s, so nothing is missing", missing)
    return found


def filled(array: np.ndarray, mask: Tensor | None) -> np.ndarray:
    """With 0 where not observed; as it is without a mask, and a mapped file that has 0 there already.

    Args:
        array: a split.
        mask: True where observed, of its shape.
    """
    if mask is None or (isinstance(array, np.memmap) and is_zero_in_gaps(array, mask)):
        return array
    return np.where(mask.cpu().numpy(), array, array.dtype.type(0))


def is_zero_in_gaps(x: np.memmap, mask: Tensor) -> bool:
    """Whether a mapped file has 0 wherever its mask says that nothing was observed; read part by part."""
    rows = chunk_rows(x)
    parts = (slice(start, start + rows) for start in range(0, len(x), rows))
    return not any(x[part][~mask[part].cpu().numpy()].any() for part in parts)


def _given(arrays: Mapping[str, Any], masks: Mapping[str, Any]) -> dict[str, Tensor]:
    """Masks of the user's own, checked; of a file they may be bytes, 0 and 1."""
    found = {}
    for split, mask in masks.items():
        if isinstance(mask, np.memmap):
            mask = private(mask)
        if not isinstance(mask, Tensor):
            mask = torch.from_numpy(np.array(as_array("mask", mask)))
        if mask.dtype != torch.bool and bool(((mask == 0) | (mask == 1)).all()):
            mask = mask.bool()
        found[split] = mask
    check_masks(found, {split: tuple(x.shape) for split, x in arrays.items()})
    return found


def _observed(split: str, x: Tensor | np.ndarray, missing: float | str) -> Tensor:
    """True where a value is neither nan, nor the number that stands for none."""
    if isinstance(x, Tensor):
        return ~x.isnan() if missing == "nan" else x != torch.as_tensor(missing, dtype=x.dtype)
    check_real(split, x)
    if missing == "nan":
        return torch.from_numpy(~np.isnan(x))
    exact = x.dtype.type(missing) if x.dtype.kind == "f" else missing  # single precision has another -99.9
    return torch.from_numpy(np.asarray(x != exact))


def check_masks(masks: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse masks that do not have one truth value for each element of every split.

    Raises:
        DataError: with the split.
    """
    if set(masks) != set(shapes):
        arrays = ", ".join(f"{split}_{MASK}" for split in shapes)
        raise DataError(
            f"a mask is given for {', '.join(masks) or 'no split'}, expected {', '.join(shapes)}: add the other arrays "
            f"to the .npz ({arrays}), or say by {option('missing', 'nan')} or a number what stands for a gap"
        )
    for split, shape in shapes.items():
        mask = masks[split]
        if mask.dtype != torch.bool:
            raise DataError(f"the mask of {split} is {mask.dtype}, expected bool (True where observed): convert it")
        if tuple(mask.shape) != shape:
            raise DataError(f"the mask of {split} has shape {list(mask.shape)}, expected that of x, {list(shape)}")


def without_gaps(splits: Mapping[str, Stored], masks: Mapping[str, Tensor]) -> dict[str, Stored]:
    """The splits as a `Dataset` stores them, with 0 in the gaps, once the masks are found to fit.

    Raises:
        DataError: if a mask does not fit.
        UsageError: for a mapped file that has other values than 0 there, where nothing can be filled in.
    """
    check_masks(masks, {split: tuple(x.shape) for split, x in splits.items()})
    found: dict[str, Stored] = {}
    for split, x in splits.items():
        if isinstance(x, Tensor):
            found[split] = torch.where(masks[split].to(x.device), x, x.new_zeros(()))
        elif is_zero_in_gaps(x, masks[split]):
            found[split] = x
        else:
            raise UsageError(
                f"{split} is a mapped file, in which nothing can be filled in: store it with 0 where nothing was "
                "observed, as store_data does, or read it into memory by numpy.array"
            )
    return found


def check_each_observed(mask: Tensor | None, names: Sequence[str] = ()) -> None:
    """Refuse to learn from data where no datum has some element. A datum without any element is allowed.

    Data that a trained model is used on may be so: a table of one row with a gap is imputed.

    Raises:
        DataError: with the element.
    """
    if mask is not None and (never := ~mask.any(0)).any():
        where = tuple(never.nonzero()[0].tolist())
        name = f"column {where[0] + 1}" if len(where) == 1 else f"element {where}"
        name += f" ({names[where[0]]!r})" if names else ""
        others = f" (and {int(never.sum()) - 1} more)" if never.sum() > 1 else ""
        raise DataError(f"{name}{others} is observed in no datum of train, so nothing can be learned of it: drop it")


def with_gaps(parts: Iterator[Tensor], mask: Tensor | None, value: float = torch.nan) -> Iterator[Tensor]:
    """The data part by part, with nan, or another value, in the gaps; as they are without a mask."""
    start = 0
    for x in parts:
        rows = slice(start, start + len(x))
        yield x if mask is None else torch.where(mask[rows].to(x.device), x, value)
        start += len(x)


def moments(parts: Iterator[Tensor], mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element, over the data that have it, in double precision."""
    check_each_observed(mask)
    total, start = Running(), 0
    for x in parts:
        total.add(x, None if mask is None else mask[start : start + len(x)].to(x.device))
        start += len(x)
    mean, std, _ = total.moments()
    return mean, std


def share_missing(mask: Tensor) -> str:
    """In words, how much of train is missing."""
    return f"{1 - mask.sum().item() / mask.numel():.1%} of train missing"
