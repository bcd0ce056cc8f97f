"""Plain data read from a file, checked once against a type: `TypedDict`, `list[int]`, `str | None`, `Literal[...]`.

It covers what JSON, YAML and CSV can contain. A bool is not a number here, and a whole number counts as a float too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pyro_vae.errors import CheckpointError


@dataclass(frozen=True)
class Rule:
    """A condition on a value, for `Annotated[type, Rule(...)]`.

    Args:
        holds: whether a value of the type meets it.
        words: what is expected, for the message.
    """

    holds: Callable[[Any], bool]
    words: str


_LARGEST = 1 << 53
"""Whole numbers below it are exact as floats; all counts are far smaller."""


Count = Annotated[int, Rule(lambda value: 0 <= value < _LARGEST, "a whole number from 0 on")]


Positive = Annotated[int, Rule(lambda value: 0 < value < _LARGEST, "a whole number from 1 on")]


Finite = Annotated[float, Rule(lambda value: isfinite(value), "a finite number")]


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping",
    list: "a list",
    NoneType: "null",
}


def check(value: Any, kind: Any, where: str) -> None:
    """Refuse a value that is not of the type.

    Args:
        value: plain data.
        kind: the type; a `TypedDict` allows further keys.
        where: what was read, for the message.

    Raises:
        CheckpointError: with the key, what was expected there and what came.

    Example:
        >>> check({"rows": [1, 2]}, dict[str, list[int]], "a.json")
        >>> check({"rows": [1, "x"]}, dict[str, list[int]], "a.json")
        Traceback (most recent call last):
        pyro_vae.errors.CheckpointError: a.json is damaged: rows.1: expected a whole number, got 'x'
    """
    if problem := fault(value, kind):
        raise CheckpointError(f"{where} is damaged: {problem}")


def fault(value: Any, kind: Any, key: str = "") -> str:
    """What is wrong with a value, with the key; empty if nothing."""
    kind, rules = _unwrapped(kind)
    origin = get_origin(kind)
    if kind is Any:
        return ""
    if is_typeddict(kind):
        return _fault_of_mapping(value, kind, key)
    if origin in (Union, UnionType):
        return _fault_of_union(value, get_args(kind), key)
    if origin in (list, dict) and isinstance(value, origin):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return next(filter(None, (fault(item, get_args(kind)[-1], _below(key, name)) for name, item in items)), "")
    if not _is_plain(value, kind):
        return _unexpected(value, rules[0].words if rules else _words(kind), key)
    return next((_unexpected(value, rule.words, key) for rule in rules if not rule.holds(value)), "")


def _fault_of_mapping(value: Any, kind: Any, key: str) -> str:
    if not isinstance(value, Mapping):
        return _unexpected(value, "a mapping", key)
    if missing := sorted(kind.__required_keys__ - value.keys()):
        return f"{_below(key, missing[0])} is missing"
    hints = get_type_hints(kind, include_extras=True)
    return next(filter(None, (fault(value[n], hints[n], _below(key, n)) for n in hints if n in value)), "")


def _fault_of_union(value: Any, kinds: tuple[Any, ...], key: str) -> str:
    """Empty if one of the alternatives fits; else the error of the mapping or list among them, which says most."""
    faults = [fault(value, kind, key) for kind in kinds]
    if not all(faults):
        return ""
    deeper = [text for text in faults if isinstance(value, dict | list) and not text.startswith(f"{key}: ")]
    return deeper[0] if deeper else _unexpected(value, " or ".join(_words(kind) for kind in kinds), key)


def _unwrapped(kind: Any) -> tuple[Any, list[Rule]]:
    if get_origin(kind) in (Required, NotRequired):
        return _unwrapped(get_args(kind)[0])
    if get_origin(kind) is Annotated:
        return kind.__origin__, [rule for rule in kind.__metadata__ if isinstance(rule, Rule)]
    return kind, []


def _is_plain(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if kind is float:
        return isinstance(value, float) or (type(value) is int and abs(value) < _LARGEST)
    kind = NoneType if kind is None else get_origin(kind) or kind
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _words(kind: Any) -> str:
    kind, rules = _unwrapped(kind)
    if rules:
        return rules[0].words
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    return "a mapping" if is_typeddict(kind) else _WORDS[NoneType if kind is None else get_origin(kind) or kind]


def _below(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _unexpected(value: Any, words: str, key: str) -> str:
    text = repr(value)
    return f"{key or 'the content'}: expected {words}, got {text if len(text) < 80 else text[:77] + '...'}"
