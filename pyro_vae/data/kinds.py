"""The kind of each column of a table: guessed from its values, or as the user says."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyro_vae.arguments.remedies import nearest, spoken
from pyro_vae.arguments.values import shown
from pyro_vae.data.cells import DATE_REMEDY, Cells, numbers, text_of, texts
from pyro_vae.errors import DataError, UsageError

KINDS = ("real", "positive", "count", "binary", "category", "ordered")


_FEW = 10
"""Most values of whole numbers that are taken for levels in an order."""


_ENOUGH = 30
"""Fewest values by which levels can be told from counts."""


_LARGE = 1000
"""Median from which whole numbers are taken for rounded measurements."""


_EXACT = 2**24
"""Whole numbers up to here are exact in single precision."""


_DATE = re.compile(r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4})([T ].*)?|\d{1,2}:\d{2}(:.*)?")


_DIGITS = r"\d+([.,]\d+)?"


_THOUSANDS = r"\d{1,3}([,.'\u2019 \u00a0\u202f]\d{3})+([.,]\d+)?"


_UNITS = r"[$\u20ac\u00a3%]"


_MARKED = re.compile(rf"[-+]?({_THOUSANDS}|{_UNITS} ?({_THOUSANDS}|{_DIGITS})|({_THOUSANDS}|{_DIGITS}) ?{_UNITS})")
"""Numbers with marks of thousands, or with the sign of a currency or of percent."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        name: as it stands in the table.
        kind: real | positive | count | binary | category | ordered.
        levels: the text of each code 0, 1, ... of a category, of an ordered column, and of a binary one whose values
            are not 0 and 1; empty for numbers.
    """

    name: str
    kind: str
    levels: tuple[str, ...] = ()

    @property
    def of_mixed(self) -> str:
        """The kind as `Mixed` names it, e.g. `"category:3"`."""
        return f"{self.kind}:{len(self.levels)}" if self.kind in ("category", "ordered") else self.kind

    @property
    def described(self) -> Any:
        """The kind as plain data, e.g. `"real"` or `{"category": ["Basel", "Bern"]}`."""
        return {self.kind: list(self.levels)} if self.levels else self.kind


@dataclass(frozen=True)
class Given:
    """What a user says of a column.

    Args:
        kind: one of `KINDS`.
        levels: their texts in order; empty if they are to be found.
        count: how many there are; None if it is not said.
    """

    kind: str
    levels: tuple[str, ...] = ()
    count: int | None = None


def given_kinds(kinds: Mapping[str, Any]) -> dict[str, Given]:
    """What the argument `kinds` says, by the column's name.

    Raises:
        UsageError: if it is not as `load_data` describes it.
    """
    if not isinstance(kinds, Mapping):
        raise UsageError(f"{spoken('', '--')}kinds: expected the kind of each column by its name, got {shown(kinds)}")
    return {str(name): _given(str(name), value) for name, value in kinds.items()}


def _given(name: str, value: Any) -> Given:
    if isinstance(value, list | tuple):
        return Given("ordered", _levels(name, value))
    if isinstance(value, Mapping) and len(value) == 1 and isinstance(next(iter(value.values())), list | tuple):
        (kind, levels), *_ = value.items()
        return Given(_known(name, kind, LEVELLED), _levels(name, levels))
    kind, _, count = value.partition(":") if isinstance(value, str) else (value, "", "")
    if not count:
        return Given(_known(name, kind, KINDS))
    if not count.isdecimal() or int(count) < 2:
        raise UsageError(f"{_at(name)}: expected a number of levels from 2 after {kind}:, got {count!r}")
    return Given(_known(name, kind, ("category", "ordered")), count=int(count))


LEVELLED = ("category", "ordered", "binary")
"""Kinds that can have levels."""


def _at(name: str) -> str:
    return f"{spoken('', '--')}kinds: {name}"


def _known(name: str, kind: Any, known: Sequence[str]) -> str:
    if not isinstance(kind, str) or kind not in known:
        close = nearest(kind, known) if isinstance(kind, str) else ""
        also = ", or a list of the levels in their order" if known == KINDS else ""
        raise UsageError(f"{_at(name)}: expected one of {', '.join(known)}{also}, got {shown(kind)}{close}")
    return kind


def _levels(name: str, levels: Sequence[Any]) -> tuple[str, ...]:
    """The levels as texts; in YAML an unquoted yes or no is a truth value, so these are refused."""
    if any(isinstance(level, bool) for level in levels):
        raise UsageError(f"{_at(name)}: write the levels in quotes: YAML takes an unquoted yes or no for true or false")
    found = tuple(text_of(level) for level in levels if isinstance(level, str | int | float))
    if len(found) < max(2, len(levels)) or len(set(found)) < len(found):
        raise UsageError(f"{_at(name)}: expected at least two different levels, texts or numbers, got {shown(levels)}")
    return found


# ---- what the user says ----------------------------------------------------------------------------------------------


def column_of(cells: Cells, name: str, given: Given | None, gap: float | None) -> Column:
    """The column of this name, of the kind that is given, or else of the kind that its values suggest.

    Args:
        cells: the table.
        name: of the column.
        given: what the user says.
        gap: a number that stands for no value.

    Raises:
        DataError: if it can't be of the kind, or no kind suggests itself.
    """
    if given is None:
        column = _guessed(cells, name, gap)
    elif given.kind not in LEVELLED:
        column = Column(name, given.kind)
    else:
        return Column(name, given.kind, given.levels or _found_levels(cells, name, given, gap))
    if not column.levels:
        _check_precision(cells, name, gap)
    return column


def _check_precision(cells: Cells, name: str, gap: float | None) -> None:
    """Refuse numbers, such as long identifiers, of whose spread single precision loses more than a hundredth."""
    values = numbers(cells.of(name), gap)
    if values is None or not (seen := values[np.abs(values) <= np.finfo(np.float32).max]).size:
        return
    lost = np.abs(seen - seen.astype(np.float32)).max()
    if lost > 0.01 * seen.std() > 0:
        came = f"has numbers up to {np.abs(seen).max():.6g} that differ by too little for single precision (7 digits)"
        how = "leave it out if they are identifiers, otherwise subtract a number from all"
        raise DataError(f"{cells.source}: column {name!r} {came}: {how}")


def _found_levels(cells: Cells, name: str, given: Given, gap: float | None) -> tuple[str, ...]:
    values = numbers(cells.of(name), gap)
    if given.kind == "binary" and values is not None and _among(values, (0, 1)):
        return ()
    if given.count is not None and values is not None:  # codes, as `Mixed` takes them
        return tuple(map(str, range(given.count)))
    if given.kind == "ordered" and values is None:
        example = spoken(f"kinds={{{name!r}: ['low', 'high']}}", f"--kinds '{{{name}: [low, high]}}'")
        raise UsageError(
            f"{_at(name)}: texts have no order of their own: give the levels from lowest to highest, {example}"
        )
    found = _in_order(texts(cells.of(name), gap=gap), values)
    expected = given.count or (2 if given.kind == "binary" else None)
    if len(found) < 2 or (expected is not None and len(found) != expected):
        few = f"{expected} different values" if expected else "at least 2 different values"
        raise DataError(f"{cells.source}: column {name!r} as {given.kind}: expected {few}, got {_some(found)}")
    return found


def _in_order(fields: list[str | None], values: np.ndarray | None) -> tuple[str, ...]:
    """The different texts: as numbers in their order, one for each number, otherwise by the alphabet."""
    if values is None:
        return tuple(sorted({field for field in fields if field is not None}, key=lambda text: (text.lower(), text)))
    by_number = {value: field for field, value in zip(fields, values, strict=True) if field is not None}
    return tuple(by_number[value] for value in sorted(by_number))


def _some(levels: Sequence[str]) -> str:
    more = f" and {len(levels) - 5} more" if len(levels) > 5 else ""
    return (", ".join(map(repr, levels[:5])) or "none") + more


def _among(values: np.ndarray, known: Sequence[float]) -> bool:
    return bool(np.isin(values[~np.isnan(values)], known).all())


# ---- what the values suggest -----------------------------------------------------------------------------------------


def _guessed(cells: Cells, name: str, gap: float | None) -> Column:
    values = numbers(cells.of(name), gap)
    if values is None:
        return _guessed_text(cells, name, gap)
    values = values[np.isfinite(values)]  # what is infinite is refused later
    if not len(values):
        raise DataError(f"{cells.source}: column {name!r} has no value at all: leave it out")
    kind = kind_of_numbers(values)
    levels = map(str, range(int(values.min()), int(values.max()) + 1)) if kind == "ordered" else ()
    return Column(name, kind, tuple(levels))


def kind_of_numbers(values: np.ndarray) -> str:
    """The kind of a column of numbers, by its values.

    - 0 and 1: binary;
    - whole numbers from 0 with a median below 1000: count. But if they are at most 10 neighbouring numbers, and in at
      least 30 rows their frequencies have a better BIC than a negative binomial with their mean and variance, ordered;
      and if there are more and their variance is far below their mean (4 standard errors of the ratio for Poisson
      counts), real;
    - other numbers above 0, amounts of money among them, that a log-normal distribution fits better than a normal one:
      positive;
    - all others: real.

    Args:
        values: finite, at least one.

    References:
        Schwarz 1978, Estimating the dimension of a model: the BIC.

    Example:
        >>> kind_of_numbers(np.array([0.0, 1.0, 1.0])), kind_of_numbers(np.array([-1.5, 2.0]))
        ('binary', 'real')
    """
    different = np.unique(values)
    if set(different) == {0, 1}:
        return "binary"
    if len(different) == 1:
        return "real"
    if values.min() < 0 or np.median(values) >= _LARGE or values.max() > _EXACT or (values % 1 != 0).any():
        return "positive" if values.min() > 0 and _is_skewed(values) else "real"
    if values.max() - values.min() < _FEW:
        return "ordered" if len(values) >= _ENOUGH and _are_levels(values) else "count"
    return "real" if values.var() < values.mean() * (1 - 4 * (2 / len(values)) ** 0.5) else "count"


def _are_levels(values: np.ndarray) -> bool:
    """Whether the frequencies of the values have a better BIC than a negative binomial (or a Poisson) distribution."""
    from scipy import stats

    mean, variance = values.mean(), values.var()
    counts: Any = stats.poisson(mean)
    if variance > mean:
        counts = stats.nbinom(mean**2 / (variance - mean), mean / variance)
    _, times = np.unique(values, return_counts=True)
    of_levels = (times * np.log(times / len(values))).sum() - (len(times) - 1) / 2 * np.log(len(values))
    return bool(of_levels > counts.logpmf(values).sum() - (1 + (variance > mean)) / 2 * np.log(len(values)))


def _is_skewed(values: np.ndarray) -> bool:
    """Whether the greatest log-likelihood of a log-normal is above that of a normal: log s(x) > log s(log x) + m."""
    logs = np.log(values)
    return bool(np.log(values.std()) > np.log(logs.std()) + logs.mean()) if logs.std() > 0 else False


def _guessed_text(cells: Cells, name: str, gap: float | None) -> Column:
    fields = texts(cells.of(name), gap=gap)
    levels, seen = _in_order(fields, None), [field for field in fields if field is not None]
    _refuse_numbers_and_dates(cells, name, fields)
    if {level.lower() for level in levels} <= {"true", "false"} and levels:
        return Column(name, "binary", _truths(levels))
    if len(levels) < 2:
        raise DataError(f"{cells.source}: column {name!r} has one text alone, {min(levels)!r}: leave it out")
    if len(levels) > max(20, len(seen) // 10):
        how = spoken(f"kinds={{{name!r}: 'category'}}", f"--kinds '{{{name}: category}}'")
        came = f"has {len(levels)} different texts in {len(seen)} rows, as names and identifiers have"
        raise DataError(f"{cells.source}: column {name!r} {came}: leave it out, or pass {how}")
    return Column(name, "binary" if len(levels) == 2 else "category", levels)


def _truths(levels: Sequence[str]) -> tuple[str, str]:
    """False and true, as they are written in the column."""
    written = {level.lower(): level for level in levels}
    as_is = next(how for how in (str.title, str.upper, str.lower) if how(levels[0]) == levels[0] or how is str.lower)
    return written.get("false", as_is("false")), written.get("true", as_is("true"))


def _refuse_numbers_and_dates(cells: Cells, name: str, fields: Sequence[str | None]) -> None:
    """Refuse texts that mean a number or a day.

    Raises:
        DataError: with the first.
    """
    seen = [(row, field) for row, field in enumerate(fields) if field is not None]
    dates = [(row, field) for row, field in seen if _DATE.fullmatch(field)]
    if dates and len(seen) - len(dates) <= len(seen) // 10:
        raise cells.refused(dates[0][0], name, f"is {dates[0][1]!r}, not a number but a date or a time: {DATE_REMEDY}")
    for row, field in seen:
        if re.fullmatch(r"[-+]?\d+,\d+", field):
            raise cells.refused(row, name, f"is {field!r}: write decimals with a point, and thousands without a comma")
        if _MARKED.fullmatch(field) and numbers(np.array([field], object)) is None:
            how = spoken(f"kinds={{{name!r}: 'category'}}", f"--kinds '{{{name}: category}}'")
            come = "write numbers by digits and a decimal point alone; for levels without an order"
            raise cells.refused(row, name, f"is {field!r}: {come} pass {how}")
        if re.fullmatch(r"[-+]?\d+(_\d+)+", field):
            raise cells.refused(row, name, f"is {field!r}, not a number: write digits alone")
    odd = [(row, field) for row, field in seen if numbers(np.array([field], object)) is None]
    if len(odd) <= len(seen) // 10 and len(odd) < len(seen):
        row, field = odd[0]
        raise cells.refused(row, name, f"is {field[:40]!r}, not a number as nearly all others: correct or empty it")
