"""The classes that can be named, and their options, from the imported package (`sources.py`: from its files)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from inspect import isabstract, isclass
from types import NoneType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin

from pyro_vae.cli.given import NOTHING
from pyro_vae.errors import UsageError
from pyro_vae.runs.old_paths import current

_REFUSED = ("LBFGS", "Muon", "SparseAdam")
"""Optimizers that training here cannot use: they need several losses per step, only matrices, or sparse gradients."""
AXES = (
    "priors",
    "likelihoods",
    "guides",
    "networks",
    "objectives",
    "schedules",
    "autoencoders",
    "channels",
    "trackers",
)
"""Rooms of what is chosen: a class in one of them can be named, and the reference has a page for it."""
_MODULES = (*(f"pyro_vae.{name}" for name in AXES), "torch.optim")
"""Modules whose classes can be named without their module."""


@dataclass(frozen=True)
class Axis:
    """The classes that an option accepts: those derived from certain base classes.

    Args:
        bases: the base classes.
        built_with: number of leading constructor arguments that are given when the object is built, not by the user.
        plain: annotation of plain values that are accepted too, e.g. a number in place of a schedule; None for none.
        later: placeholders for options whose values the data decide, for classes that have these options.
    """

    bases: tuple[type, ...]
    built_with: int = 0
    plain: Any = None
    later: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Option:
    """An option of a class.

    Args:
        kind: the annotation.
        default: the constructor's default as plain data; `NOTHING` if there is none.
        required: whether it must be given.
        help: its description in the class's docstring.
        axis: the classes that it accepts; None if it accepts only plain data.
    """

    kind: Any
    default: Any
    required: bool
    help: str
    axis: Axis | None


class Library(Protocol):
    """A place to look up classes: the imported package, or its source files."""

    def base(self, path: str) -> type:
        """The class that represents a base class."""
        ...

    def below(self, base: type) -> dict[str, type]:
        """The concrete subclasses of a base that can be named without their module, by name."""
        ...

    def at(self, path: str, axis: Axis, key: str) -> type:
        """The class at an import path, if the axis accepts it."""
        ...

    def options(self, cls: type, built_with: int) -> dict[str, Option]:
        """The options of a class's constructor by name, without its first `built_with` arguments."""
        ...

    def path(self, cls: type) -> str:
        """The import path that a run directory stores."""
        ...


def names_of(library: Library, axis: Axis) -> list[str]:
    """The names that a user can choose from, sorted."""
    names = {name for base in axis.bases for name in library.below(base)}
    return sorted(names - set(_REFUSED))


def axis_of(kind: Any) -> Axis | None:
    """The classes that an annotation allows: priors for `Callable[[Shapes], Prior]`, schedules for `float | Schedule`.

    None if it allows only plain data.
    """
    if get_origin(kind) in (Union, UnionType):
        parts = {part: axis_of(part) for part in get_args(kind)}
        found = [axis for axis in parts.values() if axis]
        plain = [part for part, axis in parts.items() if axis is None]
        bases = tuple(base for axis in found for base in axis.bases)
        built_with = max((axis.built_with for axis in found), default=0)
        union = Union[tuple(plain)] if plain else None  # noqa: UP007  # of a list of types
        return Axis(bases, built_with, union) if found else None
    if get_origin(kind) is Callable:
        arguments, made = get_args(kind) or ([], None)
        return Axis((made,), len(arguments)) if isclass(made) and isinstance(arguments, list) else None
    return Axis((kind,)) if isclass(kind) and kind is not NoneType and isabstract(kind) else None


class Imported:
    """Looks classes up in the imported package, in torch.optim, and at any import path."""

    def __init__(self) -> None:
        for module in _MODULES:
            import_module(module)

    def base(self, path: str) -> type:
        """The class at the path."""
        module, _, name = path.rpartition(".")
        return getattr(import_module(module), name)

    def below(self, base: type) -> dict[str, type]:
        """Found as subclasses of the base; no list of them is kept."""
        return {cls.__name__: cls for cls in sorted(_below(base), key=lambda cls: cls.__name__) if _is_named(cls)}

    def at(self, path: str, axis: Axis, key: str) -> type:
        """The class at an import path.

        Raises:
            UsageError: if there is none, or the axis does not accept it.
        """
        return self._of_axis(_imported(current(path), key), axis, key)

    def _of_axis(self, cls: Any, axis: Axis, key: str) -> type:
        known = ", ".join(names_of(self, axis))
        if not isclass(cls):
            raise UsageError(f"{key}: expected a class, got the {type(cls).__name__} {getattr(cls, '__name__', cls)}")
        if not issubclass(cls, axis.bases) and any(base.__name__ == "FromShapes" for base in axis.bases):
            raise UsageError(
                f"{key}: {cls.__name__} can't be a network: expected a torch.nn.Module that is built as "
                f"{cls.__name__}(in_shape, out_shape, ...)"
            )
        if not issubclass(cls, axis.bases) and all(Protocol in base.__mro__ for base in axis.bases):
            methods = ", ".join(sorted(set().union(*(base.__abstractmethods__ for base in axis.bases))))
            raise UsageError(f"{key}: expected a class with the methods {methods}, got {cls.__name__}. Known: {known}")
        if not issubclass(cls, axis.bases):
            names = " or ".join(base.__name__ for base in axis.bases)
            raise UsageError(f"{key}: expected a subclass of {names}, got {cls.__name__}. Known: {known}")
        if isabstract(cls) or cls in axis.bases:
            raise UsageError(f"{key}: {cls.__name__} is only a base: name one of {known}")
        return cls

    def options(self, cls: type, built_with: int) -> dict[str, Option]:
        """Read by jsonargparse, which also resolves `**kwargs` that are passed on to another class."""
        return _options_of(cls, built_with)

    def path(self, cls: type) -> str:
        """The public import path."""
        from pyro_vae.runs.describing import describe

        return describe(cls)["class_path"]


def _below(base: type) -> Iterable[type]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)


def _is_named(cls: type) -> bool:
    """Whether a class is concrete and can be named without its module."""
    return not isabstract(cls) and is_named(cls.__module__, cls.__name__)


def is_named(module: str, name: str) -> bool:
    """Whether a class can be named without its module."""
    return f"{module}.".startswith(tuple(f"{home}." for home in _MODULES)) and not name.startswith("_")


def _imported(path: str, key: str) -> Any:
    module, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        raise UsageError(f"{key}: {path!r} is no import path: expected MODULE.CLASS")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise UsageError(f"{key}: no module {error.name!r} for {path!r}: is its folder on the Python path?") from None
    try:
        return getattr(found, name)
    except AttributeError:
        raise UsageError(f"{key}: there is no {name!r} in the module {module!r}") from None


@cache
def _options_of(cls: type, built_with: int) -> dict[str, Option]:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, skip={built_with} if built_with else None, fail_untyped=False)
    actions = [action for action in parser._actions if hasattr(action, "_typehint") and ".help" not in action.dest]
    return {action.dest: _option(action) for action in actions}


def _option(action: Any) -> Option:
    kind, default = action._typehint, NOTHING if action.required else _described(action.default)
    return Option(kind, default, action.required, action.help or "", axis_of(kind))


def _described(default: Any) -> Any:
    """A default as plain data; `NOTHING` if that is not possible, and the constructor sets it."""
    from pyro_vae.runs.describing import describe

    try:
        return default if isinstance(default, dict) else describe(default)
    except UsageError:
        return NOTHING
