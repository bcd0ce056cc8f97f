"""Completes what a user gave to the description of an object: its class, and all options with their values.

The options of a class, and their defaults, are those of its constructor. The command's own default, for an option where
the user names no class, is merged before, by `Given.over`.
"""

from collections.abc import Iterable
from typing import Any

from pyro_vae.cli.given import NOTHING, Given, given_of
from pyro_vae.cli.library import Axis, Library, Option, names_of
from pyro_vae.cli.values import UnfitError, converted, expected, loaded, shown, suggest
from pyro_vae.errors import UsageError


def described(given: Given, axis: Axis, key: str, library: Library) -> dict[str, Any]:
    """Describe the named class with all its options: the given values, and the class's defaults for the others.

    Args:
        given: what the user gave, merged with the command's default.
        axis: which classes are allowed.
        key: the name of the option, for messages.
        library: where classes are looked up.

    Returns:
        `{"class_path": ..., "init_args": {...}}`, made of plain data only.

    Raises:
        UsageError: for an unknown class or option, or a value of the wrong type.
    """
    cls = find(given.value, axis, key, library)
    options = library.options(cls, axis.built_with)
    if unknown := [name for name in given.options if name not in options]:
        raise UsageError(
            f"{key}: {cls.__name__} has no option {unknown[0]!r}{suggest(unknown[0], shown_of(options, axis))}"
        )
    values = {n: _value(option, given.options.get(n), f"{key}.{n}", library) for n, option in options.items()}
    values |= {name: value for name, value in axis.later.items() if values.get(name, value) is NOTHING}
    if missing := [name for name, option in options.items() if option.required and values[name] is NOTHING]:
        raise UsageError(f"{key}: {cls.__name__} needs the option {missing[0]!r}: --{key}.{missing[0]} VALUE")
    values = {name: value for name, value in values.items() if value is not NOTHING}
    return {"class_path": library.path(cls), **({"init_args": values} if values else {})}


def shown_of(options: Iterable[str], axis: Axis) -> list[str]:
    """The names of options, without those that the data decide."""
    return [name for name in options if name not in axis.later]


def find(name: Any, axis: Axis, key: str, library: Library) -> type:
    """Find a class by its name or its import path.

    Raises:
        UsageError: if there is none, or it is not allowed here.
    """
    known = names_of(library, axis)
    if not isinstance(name, str) or not name:
        came = "" if name is NOTHING else f", got {shown(name)}"
        raise UsageError(f"{key}: expected the name of a class{came}. Known: {', '.join(known)}")
    if "(" in name:
        head = name.partition("(")[0]
        raise UsageError(
            f"{key}: expected the name of a class alone, got {name!r}: write --{key} {head}, and its options "
            f"as --{key}.OPTION VALUE. Known: {', '.join(known)}"
        )
    if "." in name:
        return library.at(name, axis, key)
    found = {name: cls for base in axis.bases for name, cls in library.below(base).items()}
    if name not in found:
        raise UsageError(f"{key}: unknown class {name!r}{suggest(name, known)}")
    return found[name]


def _value(option: Option, given: Given | None, key: str, library: Library) -> Any:
    """The value of one option; `NOTHING` if it was not given and has no default."""
    given = given or Given()
    if option.axis is None:
        return _converted(given.plain(), option.kind, key) if given else _default(option)
    given = given.over(given_of(option.default, key)) if option.default is not NOTHING else given
    if not given:
        return NOTHING
    if not _is_plain(given.value, option.axis):
        return described(given, option.axis, key, library)
    names = ", ".join(names_of(library, option.axis))
    if given.options:
        problem = f"{shown(given.value)} has no option {next(iter(given.options))!r}"
        raise UsageError(f"{key}: {problem}: name a class before it, by --{key} CLASS. Known: {names}")
    return _converted(given.value, option.axis.plain, key, names)


def _default(option: Option) -> Any:
    """The default, converted like a given value if it has the annotated type."""
    try:
        return option.default if option.default is NOTHING else converted(option.default, option.kind)
    except UnfitError:
        return option.default


def _converted(value: Any, kind: Any, key: str, classes: str = "") -> Any:
    try:
        return converted(value, kind)
    except UnfitError as error:
        if not classes:
            raise UsageError(f"{key}: {error}") from None
        came = f"expected {expected(kind)} or a class ({classes}), got {shown(value)}"
        raise UsageError(f"{key}: {came}") from None


def _is_plain(value: Any, axis: Axis) -> bool:
    """Whether a value is plain data (e.g. a number for a schedule) where that is allowed, not the name of a class."""
    if axis.plain is None or value is NOTHING:
        return False
    try:
        converted(value, axis.plain)
    except UnfitError:
        return not isinstance(loaded(value), str)
    return True
