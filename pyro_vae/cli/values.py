"""Converts values of options (words of the command line, or plain data from YAML) to an annotated type."""

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from inspect import isclass
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from pyro_vae.arguments.remedies import closest
from pyro_vae.runs.safe_yaml import YamlError, load_yaml

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"}
_UNTYPED = ("UntypedType", "UnvalidatedType")
"""Types that jsonargparse uses if an annotation is missing or can't be read."""
_LISTS = (tuple, list, Sequence, Iterable)


class UnfitError(ValueError):
    """A value of another type than expected; the message is one line, `expected ..., got ...`."""


def converted(value: Any, kind: Any) -> Any:
    """Convert a value to a type.

    Where a list is expected, a single value means a list of one, and `3,4` means `[3, 4]`.

    Args:
        value: a word, or plain data.
        kind: an annotation: numbers, booleans, text, `Literal`, lists and tuples of these, unions, `Any`; any other
            is left to jsonargparse.

    Raises:
        UnfitError: if it can't be converted.

    Example:
        >>> converted("200", tuple[int, ...]), converted("1e-3", float | None), converted("null", float | None)
        ((200,), 0.001, None)
    """
    if kind in (Any, object, None) or type(kind).__name__ in _UNTYPED:
        return loaded(value)
    if kind in _WORDS:
        return _simple(value, kind)
    if get_origin(kind) is Literal:
        return _literal(value, kind)
    if get_origin(kind) in (Union, UnionType):
        return _any_of(value, kind)
    if get_origin(kind) in _LISTS:
        return _list(value, kind)
    return _other(value, kind)


def loaded(value: Any) -> Any:
    """The meaning of a word in YAML; other values unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return None if value == "None" else load_yaml(whole_number(value))
    except YamlError:
        return value


def whole_number(word: str) -> str:
    """A whole number with an exponent rewritten in digits, e.g. 1e3 as 1000; any other word unchanged."""
    if not re.fullmatch(r"[-+]?\d{1,12}(\.\d{1,12})?[eE]\+?\d{1,2}", word.strip()):
        return word
    number = Decimal(word.strip())
    return str(int(number)) if number == int(number) else word


def _simple(value: Any, kind: type) -> Any:
    found = value if kind is str else loaded(value)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        found = _float(found)
    if not isinstance(found, kind) or (kind is int and isinstance(found, bool)):
        raise _mistake(value, kind)
    return found


def _float(number: int) -> float | None:
    try:
        return float(number)
    except OverflowError:
        return None


def _literal(value: Any, kind: Any) -> Any:
    for allowed in get_args(kind):
        if any(type(found) is type(allowed) and found == allowed for found in (value, loaded(value))):
            return allowed
    raise _mistake(value, kind)


def _any_of(value: Any, kind: Any) -> Any:
    """The first type that fits; text is tried last, so that `null` means null where null is allowed."""
    for part in sorted(get_args(kind), key=lambda part: part is str):
        try:
            return converted(value, part)
        except UnfitError:
            continue
    raise _mistake(value, kind)


def _list(value: Any, kind: Any) -> Any:
    found = loaded(value)
    if isinstance(found, str):
        found = [part.strip() for part in found.split(",")]
    elif isinstance(found, int | float):
        found = [found]
    of = get_args(kind)
    if not isinstance(found, list | tuple):
        raise _mistake(value, kind)
    fixed = get_origin(kind) is tuple and Ellipsis not in of
    if fixed and len(found) != len(of):
        raise _mistake(value, kind)
    parts = of if fixed else [of[0]] * len(found)
    try:
        items = [converted(item, part) for item, part in zip(found, parts, strict=True)]
    except UnfitError as error:
        raise _mistake(value, kind) from error
    return tuple(items) if get_origin(kind) is tuple else items


def _other(value: Any, kind: Any) -> Any:
    """Convert with jsonargparse, which knows paths, enums, dataclasses and more."""
    if isclass(kind) and kind.__module__.startswith("torch"):
        raise _mistake(value, kind)
    parser = ArgumentParser(exit_on_error=False)
    try:
        parser.add_argument("--value", type=kind)
        found = parser.parse_object({"value": value}).value
    except Exception as error:
        raise _mistake(value, kind) from error
    if found is None:
        raise _mistake(value, kind)
    return found.as_dict() if isinstance(found, Namespace) else found


def unfit(value: Any, kind: Any) -> str:
    """The message for a value that does not fit a type, with the nearest choice or else with what is expected."""
    choices = [str(choice) for choice in _choices(kind)]
    if choices and isinstance(value, str):
        others = [word for word in _union_words(kind) if word.strip("'") not in choices]
        return f"unknown value {value!r}{suggest(value, [*choices, *others])}"
    return f"expected {expected(kind)}, got {shown(value)}"


def _union_words(kind: Any) -> list[str]:
    return [word for part in get_args(kind) for word in _parts(part)] if get_origin(kind) in (Union, UnionType) else []


def _mistake(value: Any, kind: Any) -> UnfitError:
    return UnfitError(unfit(value, kind))


def _choices(kind: Any) -> list[Any]:
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [choice for part in get_args(kind) for choice in _choices(part)]


def expected(kind: Any) -> str:
    """The values of a type, in words.

    Example:
        >>> expected(float | Literal["learned"] | None), expected(tuple[int, ...])
        ("a number, 'learned' or null", 'a list of whole numbers such as [200,100]')
    """
    if kind in _WORDS:
        return _WORDS[kind]
    if get_origin(kind) is Literal:
        return _either([repr(choice) for choice in get_args(kind)])
    if get_origin(kind) in (Union, UnionType):
        return _either(_union_words(kind))
    if get_origin(kind) in _LISTS:
        return _list_words(kind)
    if get_origin(kind) is dict:
        return "values by name"
    return "another value" if kind is None else f"a {getattr(kind, '__name__', kind)}"


def _parts(kind: Any) -> list[str]:
    """The words for one member of a union; none for a tensor, which can't be typed."""
    if isclass(kind) and kind.__module__.startswith("torch"):
        return []
    return [repr(choice) for choice in get_args(kind)] if get_origin(kind) is Literal else [expected(kind)]


def _list_words(kind: Any) -> str:
    of = get_args(kind)
    if get_origin(kind) is tuple and Ellipsis not in of:
        return f"{len(of)} values, {' and '.join(expected(part) for part in of)}, such as [0.1,0.9]"
    item = of[0] if of else Any
    several = {int: "whole numbers such as [200,100]", float: "numbers such as [0.1,0.9]", str: "texts"}
    return f"a list of {several.get(item, expected(item))}"


def _either(words: Sequence[str]) -> str:
    words = list(dict.fromkeys(words))
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def shown(value: Any) -> str:
    """A value as a user writes it, shortened if it is long."""
    text = repr(value) if isinstance(value, str) else {"None": "null"}.get(str(value), str(value))
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 80 else f"{text[:77]}..."


def suggest(name: str, known: Iterable[str]) -> str:
    """`, did you mean X? Known: ...`."""
    known = list(dict.fromkeys(known))
    close = closest(name, known, cutoff=0.5)
    return f"{f', did you mean {close!r}?' if close else '.'} Known: {', '.join(known) or 'none'}"
