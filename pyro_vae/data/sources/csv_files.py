"""Tables in text files: of numbers, with or without a header, as `numpy.savetxt` writes them; or of texts too."""

import csv
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.data.cells import EMPTY, Cells
from pyro_vae.data.sources.formats import READABLE, reading
from pyro_vae.errors import DataError

_DELIMITERS = (";", "\t", ",")


def read_csv(path: Path, empty: bool = False, with_texts: bool = False) -> Cells:
    """The fields of a table by column; every column is data, also one with labels.

    The delimiter is the first of `;`, tab, `,` and white space that the first line contains. The first line may name
    the columns, and must if there are texts; without names they are x1, x2, and so on. Lines that begin with `#` are
    comments. Fields may be in double quotes.

    Args:
        path: the file, in UTF-8.
        empty: whether an empty field of numbers, or one like NA or ?, is nan; else it is refused.
        with_texts: whether to keep all fields as they are written, numbers too; else a table of numbers becomes floats.

    Raises:
        DataError: with the line and the column of a field that is not a number where it has to be one; with the line
            of a text that is not UTF-8; in a table of texts, with the line of a comment that may be a row.
    """
    with reading(path):
        _check_encoding(path)
        first, fields, delimiter = _first_line(path)
        has_header = _names_columns(path, first, fields)
        names = tuple(name if has_header and name else f"x{n}" for n, name in enumerate(fields, 1))
        if with_texts:
            return _read_texts(path, first, has_header, names, delimiter)
        try:
            table = _read_numbers(path, first, fields, delimiter, has_header, _or_nan if empty else None)
        except _TextError as error:
            cells = _read_texts(path, first, True, names, delimiter)
            if cells.has_text:
                return cells
            raise DataError(str(error)) from error.__cause__
        names = names if len(set(names)) == len(names) else tuple(f"x{n}" for n in range(1, len(names) + 1))
        return Cells(f"can't read {path}", names, tuple(table.T))


def _check_encoding(path: Path) -> None:
    """Refuse what is not UTF-8, except in comments: different letters would be read as one and the same sign."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                if not line.lstrip().startswith(b"#"):
                    near = line[max(0, error.start - 10) : error.start + 10]
                    problem = f"line {number} is not UTF-8, at {near!r}: save the table as UTF-8"
                    raise DataError(f"can't read {path}: {problem}") from None


class _TextError(Exception):
    """A field of a table with names is not a number."""


def _read_texts(path: Path, first: int, has_header: bool, names: tuple[str, ...], delimiter: str | None) -> Cells:
    """All fields as they are written."""
    if has_header and delimiter:
        _check_comments(path, len(names), delimiter)
    rows, lines, end = [], [], 0
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.reader(_without_comments(file, delimiter), delimiter=delimiter or " ", skipinitialspace=True)
        for fields in reader:
            line, end = end + 1, reader.line_num  # a field in quotes may have several lines
            if line < first + has_header or _is_blank(fields, len(names)):
                continue
            if len(fields) != len(names):
                widths = f"line {line} has {len(fields)} columns, line {first} has {len(names)}"
                raise DataError(f"can't read {path}: {widths}")
            rows.append([sys.intern(field.strip()) for field in fields])
            lines.append(line)
    if not rows:
        raise DataError(f"can't read {path}: it has no rows below its first line, {_shown(list(names))}")
    columns = np.array([*rows, [None] * len(names)], object)[:-1].T  # with None: objects, whatever is in the rows
    return Cells(f"can't read {path}", names, tuple(columns), lines)


def _is_blank(fields: list[str], width: int) -> bool:
    """Whether a line has no row; one of delimiters alone is a row without a value."""
    return not fields or (len(fields) == 1 < width and not fields[0].strip())


def _check_comments(path: Path, width: int, delimiter: str) -> None:
    """Refuse a comment that has as many fields as a row: it may be the names, or a row whose first text begins so."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if line.lstrip().startswith("#") and len(_fields(line, delimiter)) == width > 1:
                problem = f"line {number} begins with #, as a comment, and has {width} fields, as a row"
                how = "delete a comment, take the # away from names, or put the first field in quotes if it is a value"
                raise DataError(f"can't read {path}: {problem}: {how}")


def _without_comments(file: Iterable[str], delimiter: str | None) -> Iterator[str]:
    """The lines, those of comments empty; with one space between fields that white space separates."""
    for line in file:
        text = "\n" if line.lstrip().startswith("#") else line
        yield text if delimiter else f"{' '.join(text.split())}\n"


def _or_nan(field: str) -> float:
    """The number of a field, nan for one without a value."""
    return math.nan if field.strip().lower() in EMPTY else float(field)


def _read_numbers(
    path: Path,
    first: int,
    fields: list[str],
    delimiter: str | None,
    has_header: bool,
    number: Callable[[str], float] | None,
) -> np.ndarray:
    with path.open(encoding="utf-8-sig", errors="replace") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "loadtxt: input contained no data")
        try:
            skipped = first if has_header else first - 1
            options = {"delimiter": delimiter, "skiprows": skipped, "quotechar": '"', "encoding": None}
            table = np.loadtxt(file, ndmin=2, converters=number, **options)
        except ValueError as error:
            problem = _problem(path, first, has_header, fields, delimiter, number or float)
            kind = _TextError if has_header and ", column " in problem else DataError
            raise kind(f"can't read {path}: {problem}") from error
    if table.size == 0:
        raise DataError(
            f"can't read {path}: it has no rows of numbers below its first line, {_shown(fields)}; expected {READABLE}"
        )
    return table


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """The lines that are neither empty nor comments: their numbers from 1, without and with a comment at their end."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if (text := line.partition("#")[0].strip(" \r\n\f")).strip():
                yield number, text, line.strip(" \r\n\f")


def _first_line(path: Path) -> tuple[int, list[str], str | None]:
    """The number of the first line, its fields, and the delimiter (None for white space)."""
    first = next(_lines(path), None)
    if first is None:
        raise DataError(f"can't read {path}: it has no line with data")
    number, text, whole = first
    outside = re.sub(r'"[^"]*"', "", whole)
    delimiter = next((mark for mark in _DELIMITERS if mark in outside), None)
    fields = _fields(text, delimiter)
    if delimiter and any(_number(field) is None for field in fields):  # names, which may have a #
        fields = _fields(whole, delimiter)
    return number, fields, delimiter


def _fields(text: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return next(csv.reader([" ".join(text.split())], delimiter=" "))
    return [field.strip() for field in next(csv.reader([text], delimiter=delimiter))]


def _number(field: str, number_of: Callable[[str], float] = float) -> float | None:
    try:
        return number_of(field) if "_" not in field else None
    except ValueError:
        return None


def _names_columns(path: Path, line: int, fields: list[str]) -> bool:
    """Whether the first line is a header: text, or consecutive column numbers with some text.

    Raises:
        DataError: if that is not clear, or a column without a name holds row numbers, which would be read as data.
    """
    numbers = [value for value in map(_number, fields) if value is not None]
    text = [field for field in fields if _number(field) is None and field.lower() not in EMPTY]
    if not text and (numbers or len(fields) == 1):
        return False
    if fields[0] == "" and len(fields) > 1:
        raise DataError(
            f"can't read {path}: line {line}, which names the columns, has no name for the first, as where pandas "
            "writes row numbers: save the table by to_csv(path, index=False)"
        )
    if numbers and (len(numbers) == 1 or numbers != [numbers[0] + i for i in range(len(numbers))]):
        raise DataError(
            f"can't read {path}: line {line} has both numbers and text ({text[0][:40]!r}): name all columns there or "
            "none, and leave columns of text out"
        )
    return True


def _problem(
    path: Path,
    first: int,
    has_header: bool,
    names: list[str],
    delimiter: str | None,
    number_of: Callable[[str], float],
) -> str:
    """The first field that is not a number, or the first line with another number of fields."""
    for number, text, _ in _lines(path):
        if number == first and has_header:
            continue
        fields = _fields(text, delimiter)
        if len(fields) != len(names):
            return f"line {number} has {len(fields)} columns, line {first} has {len(names)}"
        for column, field in enumerate(fields):
            if _number(field, number_of) is None:
                name = f" ({names[column]!r})" if has_header else ""
                return f"line {number}, column {column + 1}{name} {_remedy(field)}; expected {READABLE}"
    return f"expected a table of numbers with columns between {delimiter or 'spaces'!r}, quotes closed"


def _remedy(field: str) -> str:
    if field.lower() in EMPTY:
        gaps = f"pass {option('missing', spoken(repr('nan'), 'nan'))} if it was not observed"
        return f"has no value ({field!r}): {gaps}, or fill it in, or leave the row out"
    if re.fullmatch(r"[-+]?\d+,\d+", field):
        return f"is {field!r}: write decimals with a point, and thousands without a comma"
    return f"is {field[:40]!r}, not a number: leave such columns out, or name all columns in the first line"


def _shown(fields: list[str]) -> str:
    return repr(", ".join(fields)[:60])
