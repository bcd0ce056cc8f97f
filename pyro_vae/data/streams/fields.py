"""Which part of what a source gives is x, which the labels, the mask and the context."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyro_vae.arguments.remedies import nearest
from pyro_vae.arguments.values import shown
from pyro_vae.data.streams.elements import array_of, unequal
from pyro_vae.errors import DataError, UsageError

ROLES = ("x", "labels", "mask", "context")
"""x: the data; labels: classes, whole numbers; mask: True where observed; context: what a conditional VAE is given."""

Key = str | int
Fields = Mapping[str, Key]
"""The role of each part: by the name it has in a dictionary, or its place in a tuple."""

Block = dict[str, np.ndarray]
"""Some data in order: an array for each role, with the data in front."""

_LABELS = ("label", "labels", "y", "target", "targets", "class")
"""Names that labels usually have in a dictionary."""

HOW = "say which by fields={'x': ..., 'labels': ...}, of as_dataset or store_data"


def fields_of(value: Any) -> Fields | None:
    """The argument `fields`, checked.

    Raises:
        UsageError: for anything but None and a mapping from roles, x among them, to names or places.
    """
    if value is None:
        return None
    expected = f"fields: expected a dictionary from {', '.join(map(repr, ROLES))} to names or places"
    if not isinstance(value, Mapping) or "x" not in value:
        raise UsageError(f"{expected}, 'x' among them, got {shown(value)}")
    for role, key in value.items():
        if role not in ROLES:
            raise UsageError(f"{expected}, got {role!r}{nearest(str(role), ROLES)}")
        if isinstance(key, bool) or not isinstance(key, str | int):
            raise UsageError(f"{expected}, got {shown(key)} for {role!r}")
    return dict(value)


def parts_of(sample: Any, fields: Fields | None, where: str) -> dict[str, Any]:
    """The parts of one datum, or of one batch, by their roles.

    Without `fields` a tuple is x and labels; of a dictionary what is called label, labels, y or target is the labels,
    and the only other entry x; everything else is x.

    Args:
        sample: what the source gave.
        fields: the role of each part.
        where: what it is, for messages.

    Raises:
        DataError: if a part is not there.
        UsageError: if it is not clear what is what.
    """
    if isinstance(sample, Mapping):
        found = named_fields(list(sample), where) if fields is None else fields
    elif isinstance(sample, tuple | list) and not _is_row(sample):
        found = _placed(sample, where) if fields is None else fields
    elif fields is None or fields == {"x": 0}:
        return {"x": sample}
    else:
        raise UsageError(f"{where}: fields={dict(fields)} are for a dictionary or a tuple, got {type(sample).__name__}")
    return {role: _part(sample, role, key, where) for role, key in found.items()}


def named_fields(names: Sequence[Any], where: str) -> Fields:
    """The roles of the entries of a dictionary, by their names.

    Raises:
        UsageError: if more than one entry can be x.
    """
    labels = [name for name in names if isinstance(name, str) and name.lower() in _LABELS]
    others = [name for name in names if name not in labels]
    if len(others) != 1 or len(labels) > 1:
        raise UsageError(f"{where} has {', '.join(map(repr, names)) or 'no entry'}: {HOW}")
    return {"x": others[0], **({"labels": labels[0]} if labels else {})}


def _is_row(sample: Any) -> bool:
    """Whether a list is one datum, of Python's numbers."""
    return type(sample) is list and all(isinstance(part, bool | int | float) for part in sample)


def _placed(sample: Sequence[Any], where: str) -> Fields:
    if not 1 <= len(sample) <= 2:
        raise UsageError(f"{where} is a {type(sample).__name__} of {len(sample)} parts: {HOW}, from place 0")
    return {"x": 0, "labels": 1} if len(sample) == 2 else {"x": 0}


def _part(sample: Any, role: str, key: Key, where: str) -> Any:
    try:
        found = sample[key]
    except (KeyError, IndexError, TypeError):
        there = ", ".join(map(repr, sample)) if isinstance(sample, Mapping) else f"the places 0 to {len(sample) - 1}"
        raise DataError(f"{where} has no {key!r}, its {role}: it has {there}") from None
    if found is None:
        raise DataError(f"{where}: its {role} is None: give all data one, or leave {role} out by fields")
    return found


def block_of(parts: Mapping[str, Any], where: str) -> Block:
    """A batch, by roles, as arrays; what has no data in front is refused.

    Raises:
        DataError: for parts that are no numbers, or labels that are no classes.
    """
    block = {role: _in_role(role, array_of(value, f"{role} of {where}"), where) for role, value in parts.items()}
    sizes = {role: len(array) for role, array in block.items()}
    if len(set(sizes.values())) > 1:
        came = ", ".join(f"{size} of {role}" for role, size in sizes.items())
        raise DataError(f"{where}: expected as many of each part as data, got {came}{_doubt(parts)}")
    return block


def _doubt(parts: Mapping[str, Any]) -> str:
    return f": {HOW}; with {{'x': 0}} others are left out" if set(parts) == {"x", "labels"} else ""


def item_of(parts: Mapping[str, Any], where: str) -> Block:
    """The parts of one datum as arrays.

    Raises:
        DataError: for parts that are no numbers.
    """
    return {role: array_of(value, f"{role} of {where}") for role, value in parts.items()}


def stacked(items: Sequence[Block], first: int, split: str) -> Block:
    """Single data, by roles, as a block.

    Args:
        items: one for each datum.
        first: the number of the first, for messages.
        split: what they are part of, for messages.

    Raises:
        DataError: if they differ in parts, shapes or types.
    """
    for index, item in enumerate(items, first):
        where = f"{split} data[{index}]"
        if set(item) != set(items[0]):
            raise DataError(f"{where} has {_roles(item)}, and those before {_roles(items[0])}: give all the same")
        for role, array in item.items():
            check_continues(f"{role} of {where}", array, items[0][role].dtype, items[0][role].shape)
    where = f"{split} data[{first}:{first + len(items)}]"
    return block_of({role: np.stack([item[role] for item in items]) for role in items[0]}, where)


def check_continues(what: str, array: np.ndarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Refuse a datum, or data, of another type or shape than those before.

    Args:
        what: it is, for messages.
        array: the datum, or the first of several.
        dtype: the type of those before.
        shape: the shape of those before.

    Raises:
        DataError: if one differs.
    """
    if array.shape != shape:
        raise DataError(unequal(what, array.shape, shape))
    if array.dtype != dtype:
        raise DataError(f"{what} is {array.dtype}, and those before {dtype}: convert all to one type")


def _roles(parts: Mapping[str, Any]) -> str:
    return " and ".join(parts)


def _in_role(role: str, array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim == 0:
        raise DataError(f"{role} of {where} is a single number: expected a batch, [B, ...], with the data in front")
    if role == "labels":
        return _classes(array, where)
    if role == "mask":
        return _truths(array, where)
    return array[:, None] if role == "context" and array.ndim == 1 else array


def _classes(array: np.ndarray, where: str) -> np.ndarray:
    """Labels `[B]` as int64."""
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    with np.errstate(invalid="ignore"):  # nan is no whole number
        is_whole = flat.dtype.kind != "f" or bool((flat % 1 == 0).all())
    if flat.ndim != 1 or not is_whole:
        gap = " with nan among them" if flat.dtype.kind == "f" and bool(np.isnan(flat).any()) else ""
        came = f"{array.dtype} of shape {list(array.shape)}{gap}"
        remedy = (
            "number the classes, or leave them out: fields={'x': ...} names x alone; with 'context' they are inputs"
        )
        raise DataError(f"labels of {where} are {came}, expected a whole number for each datum: {remedy}")
    return flat.astype(np.int64)


def _truths(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype != np.bool_ and not bool(((array == 0) | (array == 1)).all()):
        raise DataError(f"mask of {where} is {array.dtype} with other values than 0 and 1: True means observed")
    return array.astype(np.bool_)
