"""`Table`: the columns of a table, by which its fields become numbers, and numbers become a table again."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.remedies import nearest, part, spoken
from pyro_vae.data.cells import Cells, check_complete, numbers, texts
from pyro_vae.data.kinds import Column, Given, column_of, given_kinds
from pyro_vae.errors import DataError, UsageError


@dataclass(frozen=True)
class Table:
    """The columns of a table, in order: their names, kinds and levels.

    In a `Dataset` each column is one number: a number as it is, and of a column with levels the code of the level, 0,
    1, and so on. `frame` gives names and levels back.

    Args:
        columns: in the order in which the data have them.

    Example:
        >>> table = Table.of({"age": "count", "city": {"category": ["Basel", "Bern", "Chur"]}})
        >>> table.kinds
        ('count', 'category:3')
        >>> table.frame([[31.2, 2], [40, 0]])
           age   city
        0   31   Chur
        1   40  Basel
    """

    columns: tuple[Column, ...]

    @classmethod
    def of(cls, kinds: Mapping[str, Any]) -> "Table":
        """The table whose columns are described completely: as `described` does it, and as a run keeps it.

        Raises:
            UsageError: if the description is not of this form, or lacks the levels of a column.
        """
        given = given_kinds(kinds)
        for name, column in given.items():
            if column.kind in ("category", "ordered") and not column.levels:
                raise UsageError(f"kinds: {name}: expected the levels of a column that is {column.kind}, got none")
        return cls(tuple(Column(name, column.kind, column.levels) for name, column in given.items()))

    @property
    def described(self) -> dict[str, Any]:
        """The columns as plain data, by name.

        For instance `{"age": "real", "city": {"category": ["Basel", "Bern"]}}`.
        """
        return {column.name: column.described for column in self.columns}

    @property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds as `Mixed(kinds=...)` takes them."""
        return tuple(column.of_mixed for column in self.columns)

    def codes(self, cells: Cells, missing: float | str | None) -> np.ndarray:
        """The fields of a table as numbers, `[N, columns]`, double precision.

        Args:
            cells: a table with the same columns by name, in any order.
            missing: `"nan"` or the number that stands for a missing value, which the result has in the gaps.

        Raises:
            DataError: if a column is missing or unknown, a field has no value and `missing` does not say so, or it is
                not one that its column can have.
        """
        self._check_names(cells)
        of_each = [_codes(cells, column, missing) for column in self.columns]
        return np.stack(of_each, 1)

    def _check_names(self, cells: Cells) -> None:
        own, found = set(self.names), set(cells.names)
        absent = [name for name in self.names if name not in found]
        unknown = [name for name in cells.names if name not in own]
        if not absent and not unknown:
            return
        problem = f"lacks the column {absent[0]!r}" if absent else f"has an unknown column, {unknown[0]!r}"
        close = nearest(absent[0], unknown) if absent else ""
        columns = ", ".join(self.names[:10]) + (", ..." if len(self.names) > 10 else "")
        raise DataError(f"{cells.source}: it {problem}{close or '.'} Expected those of the training data: {columns}")

    def frame(self, x: Any) -> Any:
        """Numbers as a table: names, the levels of codes, and counts as whole numbers.

        A number between codes, such as a mean, gets the nearest level; a count is rounded. Levels that are whole
        numbers or truth values are that in the table; an ordered column of other levels is an ordered `Categorical`.

        Args:
            x: `[N, columns]`, a tensor or an array; nan becomes an empty field.

        Returns:
            A pandas `DataFrame`.

        Raises:
            UsageError: for another shape.
        """
        import pandas as pd

        rows = np.asarray(_precise(x) if isinstance(x, Tensor) else x)
        if rows.ndim != 2 or rows.shape[1] != len(self.columns):
            raise UsageError(f"x: expected shape [N, {len(self.columns)}], got {list(rows.shape)}")
        values = {column.name: _values(column, rows[:, i]) for i, column in enumerate(self.columns)}
        return pd.DataFrame(values)

    def check_kinds(self, kinds: Sequence[str] | None) -> None:
        """Refuse a likelihood that takes the codes for something else.

        Args:
            kinds: the kind of each column by the likelihood; None for one that has no kinds.

        Raises:
            UsageError: with the column.
        """
        for i, column in enumerate(self.columns):
            if kinds is None and len(column.levels) > 2:
                mixed = part("likelihood", "Mixed")
                raise UsageError(f"column {column.name!r} has levels, as {column.kind}: take {mixed}, or leave it out")
            if kinds is not None and column.levels and kinds[i] not in _that_fit(column):
                came = f"is {column.of_mixed} in the data and {kinds[i]} in the likelihood"
                agree = spoken("pass Mixed the kinds of data.table.kinds", "leave --vae.likelihood.kinds out")
                raise UsageError(f"column {column.name!r} {came}, which takes its codes for something else: {agree}")

    def summary(self, x: Tensor) -> str:
        """The columns in words: name, kind, levels or range, and number of gaps.

        Args:
            x: data `[N, columns]`, nan where not observed.
        """
        rows = [("column", "kind", "levels or range", "gaps")]
        rows += [_described(column, x[:, i].double()) for i, column in enumerate(self.columns)]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = ("  ".join(f"{cell:<{n}}" for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join(lines)


Kinds = Mapping[str, Any] | Sequence[str] | Table | Literal["guess"] | None
"""What a caller says of the columns of a table; see `load_data`."""


def table_of(cells: Cells, kinds: Kinds, missing: float | str | None) -> Table:
    """The columns of a table.

    Args:
        cells: its fields.
        kinds: `"guess"`; the kinds of all columns in order, as `Mixed` takes them; some columns' kinds by name, the
            others guessed; a `Table`, for the same columns; or None: the same as `"guess"` if there are texts, and
            otherwise numbers as they are.
        missing: what stands for a missing value.

    Raises:
        DataError: if a column can't be used.
        UsageError: if the kinds are not as described.
    """
    if isinstance(kinds, Table):
        return kinds
    if kinds is None and not cells.has_text:
        return Table(tuple(Column(name, "real") for name in cells.names))
    given = _given_kinds(cells, kinds)
    for name in given:
        if name not in cells.names:
            close = nearest(name, cells.names) or f": its columns are {', '.join(cells.names)}"
            raise UsageError(f"{spoken('', '--')}kinds: the table has no column {name!r}{close}")
    return Table(tuple(column_of(cells, name, given.get(name), _gap(missing)) for name in cells.names))


def _given_kinds(cells: Cells, kinds: Any) -> dict[str, Given]:
    if kinds is None or kinds == "guess":
        return {}
    if isinstance(kinds, list | tuple):
        kinds = [*kinds] * (len(cells.names) if len(kinds) == 1 else 1)
        if len(kinds) != len(cells.names):
            expected = f"expected one for each of {len(cells.names)} columns, or one for all"
            raise UsageError(f"kinds: {expected}, got {len(kinds)}")
        kinds = dict(zip(cells.names, kinds, strict=True))
    return given_kinds(kinds)


def _gap(missing: float | str | None) -> float | None:
    return None if missing is None or isinstance(missing, str) else missing


def _codes(cells: Cells, column: Column, missing: float | str | None) -> np.ndarray:
    """One column as numbers."""
    gap = _gap(missing)
    found = _level_codes(cells, column, gap) if column.levels else _checked_numbers(cells, column, gap)
    if missing != "nan":
        check_complete(cells, column.name, column.levels)
    return found if gap is None else np.where(np.isnan(found), gap, found)


def _checked_numbers(cells: Cells, column: Column, gap: float | None) -> np.ndarray:
    fields = cells.of(column.name)
    found = numbers(fields, gap)
    if found is None:
        row = next(i for i in range(len(fields)) if numbers(fields[i : i + 1]) is None)
        raise cells.refused(row, column.name, f"is {fields[row][:40]!r}, not a number: the column is {column.kind}")
    with np.errstate(invalid="ignore"):
        bad = ~np.isnan(found) & ~_ALLOWED[column.kind](found)
    beyond = np.abs(found) > np.finfo(np.float32).max
    if beyond.any() and cells.lines is not None:  # without lines it is refused with all other data
        row = int(beyond.argmax())
        problem = (
            f"is {found[row]:g}, beyond the numbers of single precision (3.4e38): correct it, or leave the row out"
        )
        raise cells.refused(row, column.name, problem)
    if bad.any():
        row = int(bad.argmax())
        raise cells.refused(
            row, column.name, f"is {found[row]:g}, and the column is {column.kind}: {_WORDS[column.kind]}"
        )
    return found


_ALLOWED = {
    "real": lambda x: np.ones(x.shape, bool),
    "positive": lambda x: x > 0,
    "count": lambda x: (x >= 0) & (x % 1 == 0),
    "binary": lambda x: (x == 0) | (x == 1),
}


_WORDS = {"positive": "numbers above 0", "count": "whole numbers from 0", "binary": "0 and 1"}


def _level_codes(cells: Cells, column: Column, gap: float | None) -> np.ndarray:
    find = _Finder(column.levels)
    found = np.empty(len(cells))
    for row, field in enumerate(texts(cells.of(column.name), column.levels, gap)):
        code = math.nan if field is None else find(field)
        if code is None:
            known = ", ".join(column.levels[:10]) + (", ..." if len(column.levels) > 10 else "")
            raise cells.refused(row, column.name, f"is {str(field)[:40]!r}, which is none of its levels: {known}")
        found[row] = code
    return found


class _Finder:
    """The code of a text: of the level itself, or of the only level that is the same number or truth value."""

    def __init__(self, levels: Sequence[str]) -> None:
        self.codes = {level: code for code, level in enumerate(levels)}
        meanings = [_meaning(level) for level in levels]
        self.meanings = {m: i for i, m in enumerate(meanings) if m is not None and meanings.count(m) == 1}

    def __call__(self, text: str) -> int | None:
        if text in self.codes:
            return self.codes[text]
        return self.meanings.get(_meaning(text))


def _meaning(text: str) -> Any:
    """A number, a truth value, or None for another text."""
    number = numbers(np.array([text], object))
    if number is not None and not np.isnan(number[0]):
        return float(number[0])
    return text.lower() if text.lower() in ("true", "false") else None


def _that_fit(column: Column) -> tuple[str, ...]:
    """Kinds of `Mixed` for a column with levels."""
    count = len(column.levels)
    return (f"category:{count}", f"ordered:{count}", *(("binary",) if count == 2 else ()))


def _precise(x: Tensor) -> Tensor:
    """On the CPU, of a type that NumPy has."""
    x = x.detach().cpu()
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _values(column: Column, x: np.ndarray) -> Any:
    """The numbers of one column as they stand in the table."""
    import pandas as pd

    gap = np.isnan(x)
    if column.levels:
        return _of_levels(column, np.where(gap, -1, np.rint(x).clip(0, len(column.levels) - 1)).astype(int))
    if column.kind not in ("count", "binary"):
        return x
    rounded = pd.Series(np.where(gap, 0, np.rint(x)).astype(np.int64))
    return rounded.astype("Int64").mask(gap) if gap.any() else rounded


def _of_levels(column: Column, codes: np.ndarray) -> Any:
    import pandas as pd

    kept, kind = _as_written(column.levels)
    if column.kind == "ordered" and kind == "object":
        return pd.Categorical.from_codes(codes, list(column.levels), ordered=True)
    found = pd.Series([kept[code] if code >= 0 else None for code in codes])
    if kind == "object":
        return found  # texts, of the type that this version of pandas gives them
    with_gaps = {"int": "Int64", "bool": "boolean"}
    return found.astype(with_gaps[kind] if (codes < 0).any() else kind)


def _as_written(levels: Sequence[str]) -> tuple[list[Any], str]:
    """The levels as whole numbers or truth values if they are written just so, and their type."""
    if set(levels) <= {"True", "False"}:
        return [level == "True" for level in levels], "bool"
    if all(level.removeprefix("-").isdecimal() and str(int(level)) == level for level in levels):
        return [int(level) for level in levels], "int"
    return list(levels), "object"


def _described(column: Column, x: Tensor) -> tuple[str, str, str, str]:
    gaps = int(x.isnan().sum())
    seen = x[~x.isnan()]
    span = f"{seen.min():g} to {seen.max():g}" if len(seen) else ""
    levels = (" < " if column.kind == "ordered" else ", ").join(column.levels)
    shown = levels if len(levels) <= 60 else f"{levels[:57]}..."
    return column.name, column.of_mixed, shown or span, str(gaps)
