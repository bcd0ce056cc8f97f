"""`Cells`: the fields of a table as they came, by column: numbers or texts, and which of them are empty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.errors import DataError, UsageError

EMPTY = ("", "na", "n/a", "nan", "null", "none", "?", "-")
"""Fields without a value in a column of numbers, in lower case."""


_EMPTY_TEXT = ("", "na", "n/a", "nan", "null", "?")
"""Fields without a value in a column of texts: "none" may be a level there."""


@dataclass(frozen=True, eq=False)
class Cells:
    """The fields of a table.

    Args:
        source: the name of the table in messages.
        names: of the columns, each once.
        columns: one array for each name: floats, or objects that are texts, with None where there is nothing.
        lines: the line of each row in its file; None for a table that comes from no file.
    """

    source: str
    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    lines: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if len(set(self.names)) < len(self.names):
            twice = [name for i, name in enumerate(self.names) if name in self.names[:i]]
            raise DataError(f"{self.source}: it has two columns called {twice[0]!r}: rename one")

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def has_text(self) -> bool:
        """Whether a column has texts that are not numbers."""
        return any(numbers(column) is None for column in self.columns)

    def of(self, name: str) -> np.ndarray:
        """The fields of a column."""
        return self.columns[self.names.index(name)]

    def refused(self, row: int, name: str, problem: str) -> DataError:
        """The error of one field."""
        place = f"row {row}" if self.lines is None else f"line {self.lines[row]}"
        return DataError(f"{self.source}: {place}, column {self.names.index(name) + 1} ({name!r}) {problem}")


def numbers(column: np.ndarray, gap: float | None = None) -> np.ndarray | None:
    """The fields of a column as floats, nan where there is no value; None if one of them is text.

    Args:
        column: floats, or texts.
        gap: a number that stands for no value.

    Example:
        >>> numbers(np.array(["1", "", "2.5"], object)), numbers(np.array(["1", "x"], object))
        (array([1. , nan, 2.5]), None)
    """
    if column.dtype != object:
        found = column.astype(np.float64)
    elif (parsed := [_number(field) for field in column]) and None in parsed:
        return None
    else:
        found = np.array(parsed, np.float64)
    return found if gap is None else np.where(found == gap, np.nan, found)


def _number(field: str | None) -> float | None:
    """The number of a field, nan for none, None for text."""
    if field is None or field.strip().lower() in EMPTY:
        return math.nan
    try:
        return None if "_" in field else float(field)
    except ValueError:
        return None


def texts(column: np.ndarray, levels: Sequence[str] = (), gap: float | None = None) -> list[str | None]:
    """The fields of a column as texts, None where there is no value.

    Args:
        column: floats, or texts.
        levels: texts that are values, even if they look like none.
        gap: a number that stands for no value.

    Example:
        >>> texts(np.array([1.0, 2.5, np.nan])), texts(np.array(["a", "?", "none"], object))
        (['1', '2.5', None], ['a', None, 'none'])
    """
    fields = map(text_of, column) if column.dtype != object else column
    known = set(levels)
    return [None if _is_empty(field, gap) and field not in known else field for field in fields]


def _is_empty(field: str | None, gap: float | None) -> bool:
    return field is None or field.lower() in _EMPTY_TEXT or (gap is not None and _number(field) == gap)


def text_of(value: Any) -> str:
    """A level as text: a whole number without a point.

    Example:
        >>> text_of(3.0), text_of(2.5), text_of("S"), text_of(True)
        ('3', '2.5', 'S', 'True')
    """
    whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return str(int(value)) if whole else str(value)


def check_complete(cells: Cells, name: str, levels: Sequence[str] = ()) -> None:
    """Refuse a column of texts with fields that have no value.

    Args:
        cells: the table.
        name: of the column.
        levels: texts that are values, even if they look like none; empty for a column of numbers.

    Raises:
        DataError: with the first.
    """
    if (column := cells.of(name)).dtype != object:
        return  # nan among floats is refused with all other data
    found = texts(column, levels) if levels else numbers(column)
    empty = (row for row, value in enumerate([] if found is None else found) if value is None or value != value)
    row = next(empty, None)
    if row is not None:
        came = repr(column[row] or "")
        gaps = f"pass {option('missing', spoken(repr('nan'), 'nan'))} if it was not observed"
        raise cells.refused(row, name, f"has no value ({came}): {gaps}, or fill it in, or leave the row out")


def cells_of(frame: Any, source: str = "the table") -> Cells:
    """The fields of a pandas `DataFrame`.

    Args:
        frame: the table.
        source: its name in messages.

    Raises:
        UsageError: for a column that has neither numbers nor texts nor truth values, or a name that is no text.
    """
    names = [str(name) for name in frame.columns]
    columns = tuple(_of_series(name, frame.iloc[:, i]) for i, name in enumerate(names))
    if not columns or not len(frame):
        raise DataError(f"the table has {len(frame)} rows and {len(names)} columns: expected at least one of each")
    return Cells(source, tuple(names), columns)


def _of_series(name: str, series: Any) -> np.ndarray:
    from pandas.api import types

    if types.is_datetime64_any_dtype(series) or types.is_timedelta64_dtype(series):
        raise UsageError(f"column {name!r} has dates or times: {DATE_REMEDY}")
    if types.is_numeric_dtype(series) and not types.is_bool_dtype(series) and not types.is_complex_dtype(series):
        return series.to_numpy(np.float64, na_value=np.nan)
    empty = series.isna().to_numpy()
    if any(isinstance(value, _NESTED) for value in series[~empty].head(_LOOKED_AT)):
        raise UsageError(f"column {name!r} has lists, arrays or bytes, not one value a row: {_NESTED_REMEDY}")
    fields = [None if gap else text_of(value) for value, gap in zip(series.tolist(), empty, strict=True)]
    return np.array([*fields, None], object)[:-1]  # with None, so that it is an array of objects whatever is in it


def levels_of(frame: Any) -> dict[str, Any]:
    """The kinds that a pandas `DataFrame` itself says: of its columns of dtype `category`, with their levels."""
    found = {}
    for i, name in enumerate(frame.columns):
        categories = getattr(frame.dtypes.iloc[i], "categories", ())
        if len(categories) > 1 and frame.dtypes.iloc[i].name == "category":
            kind = "ordered" if frame.dtypes.iloc[i].ordered else "category"
            found[str(name)] = {kind: [text_of(level) for level in categories]}
    return found


_LOOKED_AT = 100
"""How many fields of a column of objects are looked at."""


_NESTED = (list, tuple, dict, set, np.ndarray, bytes)
"""What a field of a table can't be."""


_NESTED_REMEDY = "leave it out, or give such arrays alone, e.g. numpy.stack(frame['name'])"


DATE_REMEDY = "give a number in its place, such as the year, or the days since a day, or leave the column out"
