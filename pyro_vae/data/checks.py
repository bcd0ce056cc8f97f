"""What a `Dataset` refuses: divisors, values, labels and inputs that cannot be used."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from pyro_vae.arguments.remedies import spoken
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.preparation import Binarization, Preparation
from pyro_vae.data.storage import Stored, find, is_floating
from pyro_vae.data.tables import Table
from pyro_vae.errors import DataError, UsageError


def check_binarization(binarization: str, exact: LinearGaussian | None, has_gaps: bool = False) -> None:
    """Refuse an unknown binarisation, and one of data whose evidence is known, or that have gaps then."""
    if binarization not in get_args(Binarization):
        raise UsageError(f"expected a binarisation of {get_args(Binarization)}, got {binarization!r}")
    if exact is not None and binarization != "none":
        raise UsageError("the known evidence of the generating process is not that of binarised data: pass exact=None")
    if exact is not None and has_gaps:
        raise UsageError("the known evidence of the generating process is that of complete data: pass exact=None")


def check_divisor(name: str, value: float) -> None:
    """Refuse what no single-precision value can be divided by."""
    limits = torch.finfo(torch.float32)
    if not limits.tiny <= value <= limits.max:
        raise UsageError(f"expected a {name} above 0 (from {limits.tiny:.3g} to {limits.max:.3g}), got {value}")


def check_divided(splits: Mapping[str, Stored], divisor: float) -> None:
    """Refuse a divisor that is out of range, or that is given with floating point numbers."""
    check_divisor("divisor", divisor)
    for split, x in splits.items():
        if divisor != 1 and is_floating(x):
            raise UsageError(
                f"a divisor of {divisor:g} is for uint8 and mapped files, but {split} is {x.dtype}: divide it"
            )


def check_table(table: Table | None, event_shape: tuple[int, ...]) -> None:
    """Refuse a table with another number of columns than the data."""
    if table is not None and event_shape != (len(table.columns),):
        names = ", ".join(table.names[:10]) + (", ..." if len(table.names) > 10 else "")
        raise DataError(f"expected a table with the columns {names}, got data of shape {list(event_shape)}")


def check_values(split: str, x: Stored, how: Preparation) -> None:
    """Refuse a split with values that are not finite, or outside [0, 1] where the preparation needs that."""
    allowed = _in_unit_interval if how.on_unit_interval else torch.isfinite
    if all(bool(allowed(values).all()) for values in how.scale.parts(x)):
        return
    count, first, _ = find(how.scale.parts(x), lambda values: ~torch.isfinite(values))
    if count:
        where = f"{count} NaN or infinite values, the first at {first}"
        gaps = spoken("missing='nan'", "--missing nan to fit or impute")
        advice = f"drop those rows or replace the values; if NaN means not observed, pass {gaps}"
        raise DataError(f"{split} has {where}: {advice}")
    count, first, value = find(how.scale.parts(x), lambda values: ~_in_unit_interval(values))
    raise DataError(how.refusal(f"{split} has {count} values outside [0, 1], the first is {value:g} at {first}", x))


def _in_unit_interval(x: Tensor) -> Tensor:
    return (x >= 0) & (x <= 1)


def check_labels(split: str, labels: Tensor, splits: Mapping[str, Stored]) -> None:
    """Refuse labels that are not one integer for each datum of a split."""
    if split not in splits:
        raise DataError(f"labels are given for the split {split!r}, but there are only {', '.join(splits)}")
    if labels.shape != splits[split].shape[:1] or labels.is_floating_point() or labels.is_complex():
        came = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(f"the labels of {split} are {came}, expected {len(splits[split])} integers")


def check_inputs(name: str, tensors: Mapping[str, Tensor], splits: Mapping[str, Stored]) -> None:
    """Refuse an input that does not have one finite value of the same shape for each datum of every split."""
    if set(tensors) != set(splits):
        raise DataError(f"{name!r} is given for {', '.join(tensors) or 'no split'}, expected {', '.join(splits)}")
    for split, x in tensors.items():
        shape = (len(splits[split]), *tensors["train"].shape[1:])
        if tuple(x.shape) != shape or 0 in shape:
            raise DataError(f"{name!r} of {split} has shape {list(x.shape)}, expected {list(shape)}")
        if x.is_floating_point() and not x.isfinite().all():
            raise DataError(f"{name!r} of {split} has values that are not finite: replace them")
