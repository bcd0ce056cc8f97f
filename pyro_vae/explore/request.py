"""What the page asks for: the fields of a request, each checked as it is read."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor

from pyro_vae.errors import UsageError

_LARGEST = 1e30
"""Largest size of a number: its double is finite in single precision too."""


class Request:
    """The fields of a request, plain data of any kind.

    Args:
        fields: by name.
        known: the names that there can be.

    Raises:
        UsageError: for another name, or what is not fields by name.

    Example:
        >>> Request({"index": 3}, ["index"]).whole("index", 0, 9)
        3
    """

    def __init__(self, fields: Any, known: Sequence[str]) -> None:
        if not isinstance(fields, Mapping):
            raise UsageError(f"expected fields by name, got a {type(fields).__name__}")
        if unknown := [name for name in fields if name not in known]:
            raise UsageError(f"unknown field {unknown[0][:40]!r}: known are {', '.join(known)}")
        self.fields = fields

    def whole(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number of a range; `default` where the field is not there.

        Raises:
            UsageError: if it is none.
        """
        value = self.fields.get(name, default)
        if type(value) is not int or not low <= value <= high:
            raise UsageError(f"{name}: expected a whole number from {low} to {high}, got {_short(value)}")
        return value

    def number(self, name: str, low: float, high: float, default: float) -> float:
        """A number of a range."""
        value = self.fields.get(name, default)
        if not _is_number(value) or not low <= value <= high:
            raise UsageError(f"{name}: expected a number from {low:g} to {high:g}, got {_short(value)}")
        return float(value)

    def truth(self, name: str) -> bool:
        """True or false; false where the field is not there."""
        value = self.fields.get(name, False)
        if type(value) is not bool:
            raise UsageError(f"{name}: expected true or false, got {_short(value)}")
        return value

    def choice(self, name: str, options: Sequence[str]) -> str:
        """One of some texts; the first where the field is not there."""
        value = self.fields.get(name, options[0])
        if not isinstance(value, str) or value not in options:
            raise UsageError(f"{name}: expected {' or '.join(map(repr, options))}, got {_short(value)}")
        return value

    def numbers(self, name: str, size: int, gaps: bool = False) -> Tensor:
        """`size` numbers, `[size]` in double precision.

        Args:
            name: of the field.
            size: how many.
            gaps: whether null, which becomes nan, is allowed.
        """
        value = self.fields.get(name)
        if not isinstance(value, list) or len(value) != size:
            came = f"{len(value)} of them" if isinstance(value, list) else _short(value)
            raise UsageError(f"{name}: expected {size} numbers, got {came}")
        return torch.tensor([_number(name, one, gaps) for one in value], dtype=torch.float64)

    def rows(self, name: str, size: int, most: int) -> Tensor:
        """One to `most` rows of `size` numbers, `[rows, size]`."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise UsageError(f"{name}: expected 1 to {most} rows of {size} numbers, got {_short(value)}")
        return torch.stack([Request({name: row}, [name]).numbers(name, size) for row in value])

    def wholes(self, name: str, size: int, below: int) -> list[int]:
        """`size` whole numbers from 0 to `below` - 1."""
        return _wholes(name, self.numbers(name, size), below).tolist()

    def rows_of_wholes(self, name: str, size: int, most: int, below: int) -> Tensor:
        """One to `most` rows of `size` whole numbers from 0 to `below` - 1, `[rows, size]` int64."""
        return _wholes(name, self.rows(name, size, most), below)


def _wholes(name: str, values: Tensor, below: int) -> Tensor:
    if not ((values % 1 == 0) & (values >= 0) & (values < below)).all():
        raise UsageError(f"{name}: expected whole numbers from 0 to {below - 1}")
    return values.long()


def _number(name: str, value: Any, gaps: bool) -> float:
    if value is None and gaps:
        return float("nan")
    if not _is_number(value) or not abs(value) <= _LARGEST:
        raise UsageError(f"{name}: expected finite numbers, got {_short(value)}")
    return float(value)


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number, and not a truth value."""
    return type(value) in (int, float)


def _short(value: Any) -> str:
    """A value in a message: of lists and objects the type alone, which may be long."""
    return repr(value)[:40] if isinstance(value, int | float | str | None) else f"a {type(value).__name__}"
