"""The labels and the contexts of a source, as a `Dataset` has them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.remedies import spoken
from pyro_vae.data.sources import Raw
from pyro_vae.data.storage import check_real, to_floats
from pyro_vae.errors import DataError


def contexts_of(arrays: Mapping[str, np.ndarray], source: str | Path) -> dict[str, Tensor]:
    """Bytes as they are (0 and 1 mean themselves), all others in floating point."""
    if not arrays:
        raise DataError(
            f"{source} has no array 'train_context': add one, or take another context than "
            f"{spoken(repr('array'), 'array')}"
        )
    for split, x in arrays.items():
        check_real(f"{split}_context", x)
    return {
        split: torch.from_numpy(x.copy()) if x.dtype in (np.uint8, np.bool_) else to_floats(x)
        for split, x in arrays.items()
    }


def labels_of(split: str, raw: Raw) -> Tensor:
    """The labels of a split.

    Raises:
        DataError: if they are not classes, one for each datum.
    """
    return _integers(split, raw.labels[split], len(raw.arrays.get(split, ())))


def _integers(split: str, labels: np.ndarray | str, size: int) -> Tensor:
    if isinstance(labels, str):
        raise DataError(f"the labels of {split}: {labels}")
    is_real = labels.dtype.kind in "iubf"
    with np.errstate(invalid="ignore"):  # what is not finite is no integer
        is_whole = bool((labels % 1 == 0).all()) if labels.dtype.kind == "f" else is_real
    if not is_whole or labels.size != size:
        text = "text" if labels.dtype.kind in "US" else str(labels.dtype)
        came = f"{labels.dtype} of shape {labels.shape}" if is_real else text
        number = "numpy.unique(labels, return_inverse=True)[1]"
        remedy = "" if is_real else f": number the classes of all splits together, by {number}"
        raise DataError(
            f"the labels of {split} are {came}, expected {size} whole numbers, those of the classes{remedy}"
        )
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))
