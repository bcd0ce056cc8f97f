"""`as_dataset`: what a caller has as a `Dataset`: an array, a table, or what gives data piece by piece."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from torch import Tensor

from pyro_vae.arguments.remedies import option
from pyro_vae.arguments.values import as_array, number
from pyro_vae.data.annotations import contexts_of, labels_of
from pyro_vae.data.cells import cells_of, levels_of
from pyro_vae.data.checks import check_divisor
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.gaps import MASK, Missing, filled, masks_of, missing_of
from pyro_vae.data.scaling import refuse_unscaled, scaled
from pyro_vae.data.sources import read
from pyro_vae.data.storing.stores import stored_for_now
from pyro_vae.data.streams import Fields, is_stream
from pyro_vae.data.tables import Kinds, Table, table_of
from pyro_vae.errors import UsageError


def as_dataset(
    data: Any,
    *,
    missing: float | Literal["nan"] | None = None,
    mask: Any = None,
    kinds: Kinds = None,
    divide_by: float | None = None,
    fields: Fields | None = None,
    num_data: int | None = None,
    progress: bool = True,
) -> Dataset:
    """The data as a `Dataset`; an array or a tensor becomes its train split.

    Values are kept and scaled as `load_data` does it. A NumPy array is copied; a tensor of floats or bytes, and a
    `numpy.memmap`, are not.

    What gives data piece by piece, as a torch `DataLoader` does, is passed over once. Up to 256 MiB the data are then
    in memory; larger ones are mapped from a file that is deleted when the process ends. `store_data` keeps the file, so
    that the next process needs no pass, and commands can read it.

    Args:
        data: a `Dataset` (returned as it is), or `[N, *event]`: a tensor, an array, a table of pandas, or a list of
            numbers; or any other source of `store_data`, also a dictionary of splits.
        missing: `"nan"`, or the number, that stands for an element that was not observed; None where all were.
        mask: True where an element was observed, `[N, *event]` bool, in place of `missing`.
        kinds: of the columns of a pandas `DataFrame`, as for `load_data`.
        divide_by: divide all values by this, as for `load_data`.
        fields: which part of a datum is what, as for `store_data`.
        num_data: how many data to take, as for `store_data`.
        progress: whether to show the plan and the progress of a pass over data above 256 MiB.

    Raises:
        DataError: as `Dataset`, and for integers whose scale is not known; or as `store_data`.
        UsageError: for anything else; or both `missing` and `mask`.
        FileError: if the disk has no room for data above 256 MiB.

    Example:
        >>> as_dataset([[0.0, 1.0, 2.0]] * 10).protocol
        'array: values as given; not binarised; train 10; shape 3'
        >>> as_dataset(torch.tensor([[1.0, torch.nan], [2.0, 3.0]]), missing="nan").observed("train")
        tensor([[ True, False],
                [ True,  True]])
        >>> from torch.utils.data import TensorDataset
        >>> labelled = TensorDataset(torch.rand(10, 3), torch.arange(10))
        >>> as_dataset({"train": labelled, "test": labelled}).labels["test"][:4]
        tensor([0, 1, 2, 3])
    """
    divide_by = None if divide_by is None else number("divide_by", divide_by)
    if divide_by is not None:
        check_divisor("divide_by", divide_by)
    if isinstance(data, Dataset):
        if any(value is not None for value in (missing, mask, kinds, divide_by, fields, num_data)):
            raise UsageError("a Dataset is taken as it is: missing, mask, kinds, ... are for what is made one")
        return data
    if missing_of(missing) == "mask":
        raise UsageError("missing='mask' is for a file that has masks: pass mask=..., True where observed")
    if is_stream(data):
        return _of_stream(data, missing_of(missing), mask, kinds, divide_by, fields, num_data, progress)
    if fields is not None or num_data is not None:
        raise UsageError(f"fields and num_data are for data that come piece by piece, not {type(data).__name__}")
    if _is_frame(data):
        return _of_frame(data, kinds, missing_of(missing), mask, divide_by)
    if kinds is not None:
        raise UsageError(f"kinds are for a table with names, a pandas DataFrame: got {type(data).__name__}")
    if not isinstance(data, Tensor) or not data.is_meta:
        data = as_array("data", data)
    masks = masks_of({"train": data}, missing_of(missing), mask)
    inputs = {MASK: masks} if masks else {}
    if isinstance(data, Tensor) and (data.is_floating_point() or data.is_meta) and divide_by is None:
        return Dataset("array", data.detach(), inputs=inputs)
    splits, divisor, preparation = scaled({"train": filled(_array(data), masks.get("train"))}, divide_by)
    train = splits["train"]
    if isinstance(data, Tensor) and isinstance(train, Tensor):
        train = train.to(data.device)
    return Dataset("array", train, preparation=preparation, divisor=divisor, inputs=inputs)


def _is_frame(data: Any) -> bool:
    return hasattr(data, "columns") and hasattr(data, "iloc")


def _of_frame(frame: Any, kinds: Kinds, missing: Missing, mask: Any, divide_by: float | None) -> Dataset:
    """A pandas `DataFrame` with its names; one of numbers alone as an array is read."""
    cells, own = cells_of(frame), levels_of(frame)
    if own and not isinstance(kinds, Table | list | tuple):
        kinds = {**own, **(kinds if isinstance(kinds, Mapping) else {})}
    table = table_of(cells, kinds, missing)
    values = np.asarray(frame)
    plain = kinds is None and values.dtype.kind in "fiub"
    if divide_by is not None and not plain:
        raise UsageError(f"{option('divide_by', f'{divide_by:g}')} is for numbers of one kind: leave it out")
    gaps: Any = missing
    numbers = values if plain else table.codes(cells, missing)
    data = as_dataset(numbers, missing=gaps, mask=mask, divide_by=divide_by)
    return replace(data, table=table, origin={"kinds": table.described})


def _array(data: Tensor | np.ndarray) -> np.ndarray:
    """As a NumPy array, copied if the `Dataset` would otherwise share its memory."""
    if isinstance(data, Tensor):
        return data.detach().cpu().numpy()
    kept = data.dtype in (np.uint8, np.bool_) and not isinstance(data, np.memmap)
    return data.copy() if kept else data


def _of_stream(
    data: Any,
    missing: Missing,
    mask: Any,
    kinds: Kinds,
    divide_by: float | None,
    fields: Fields | None,
    num_data: int | None,
    progress: bool,
) -> Dataset:
    """What gives data piece by piece: passed over once, and mapped from files that have no name any more."""
    if mask is not None or kinds is not None:
        given = "mask" if mask is not None else "kinds"
        remedy = "name it by fields={'x': ..., 'mask': ...}" if given == "mask" else "they are for a table"
        raise UsageError(f"{given} is for an array or a table, not for {type(data).__name__}: {remedy}")
    with stored_for_now(data, fields, missing, num_data, progress, partial(_check_first, divide_by)) as (folder, small):
        raw = read(folder, None, False, contexts=True, gaps="mask")
        arrays = {split: np.array(x) if small else x for split, x in raw.arrays.items()}
        masks = masks_of(arrays, "mask", raw.masks) if raw.masks else {}
        contexts = contexts_of(raw.contexts, folder) if raw.contexts else {}
        splits: Any
        splits, divisor, preparation = scaled(arrays, divide_by)
        return Dataset(
            type(data).__name__,
            **splits,
            labels={split: labels_of(split, raw) for split in raw.labels},
            preparation=preparation,
            divisor=divisor,
            inputs={name: x for name, x in {"c": contexts, MASK: masks}.items() if x},
        )


def _check_first(divide_by: float | None, x: np.ndarray) -> None:
    """Refuse integers that a pass would find to have no scale, by the first of them."""
    if divide_by is None:
        refuse_unscaled(x)
