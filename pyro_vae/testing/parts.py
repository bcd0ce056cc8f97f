"""The parts of an axis, and which of their options to try.

A class is tried with its defaults and with the values in its signature: every value of a `Literal` and both values of
a `bool`, in all combinations if there are at most 12, otherwise one at a time. For other options (numbers, tuples,
parts) the class lists the values to try, each entry added to the defaults:

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"hidden": ()}, {"hidden": (5, 4), "activation": "softplus"})

A combination that the class refuses by `UsageError` is left out, but some combination must accept each value.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from itertools import product
from math import prod
from pkgutil import walk_packages
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pyro_vae.errors import UsageError
from pyro_vae.shapes import Shapes

_MOST = 12
"""At most this many combinations are all tried."""


@dataclass(frozen=True)
class Part:
    """A class with options, and the sizes to check it with.

    Args:
        cls: the class.
        options: keyword arguments other than the sizes.
        event: shape of one datum.
        latent: number of latent dimensions.
    """

    cls: type
    options: Mapping[str, Any] = field(default_factory=dict)
    event: tuple[int, ...] = (2, 3)
    latent: int = 2

    @property
    def factory(self) -> Any:
        """What a VAE accepts as a part: the class, or a partial of it."""
        return partial(self.cls, **self.options) if self.options else self.cls

    def __call__(self, *sizes: Any) -> Any:
        """A fresh instance."""
        return self.cls(*sizes, **self.options)

    def shapes(self, latent: int | None = None, context: tuple[int, ...] | None = None) -> Shapes:
        """The sizes, with another number of latent dimensions or a context."""
        return Shapes(self.event, self.latent if latent is None else latent, context)

    def __str__(self) -> str:
        return f"{self.cls.__name__}({_listed(self.options)})"


def parts_of(value: Any, variants: bool = True, **sizes: Any) -> list[Part]:
    """The settings to check of a class (its defaults and options), or of a `functools.partial` of one (that alone).

    Args:
        value: a class, or a partial of one with keywords.
        variants: whether to try the options of a class.
        **sizes: `event` and `latent`, as for `Part`.

    Raises:
        UsageError: if it is neither.
    """
    if isinstance(value, type):
        options = options_of(value) if variants else [{}]
        return [Part(value, chosen, **sizes) for chosen in options]
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        return [Part(value.func, value.keywords, **sizes)]
    raise UsageError(f"expected a class, or a functools.partial of one with keywords, got {value!r}")


def options_of(cls: type) -> list[dict[str, Any]]:
    """The options to try a class with, defaults first; the class may refuse some combinations."""
    offered = offered_by(cls)
    if prod(1 + len(values) for values in offered.values()) <= _MOST:
        choices = [[{}, *({name: value} for value in values)] for name, values in offered.items()]
        derived = [{k: v for chosen in combination for k, v in chosen.items()} for combination in product(*choices)]
    else:
        derived = [{}, *({name: value} for name, values in offered.items() for value in values)]
    return derived + [dict(options) for options in vars(cls).get("variants", ()) if dict(options) not in derived]


def offered_by(cls: type) -> dict[str, list[Any]]:
    """For each option of a class annotated as `Literal` or `bool`, its values other than the default."""
    signature = inspect.signature(cls, eval_str=True)
    found = {name: _values(p.annotation, p.default) for name, p in signature.parameters.items()}
    return {name: values for name, values in found.items() if values}


def concrete_classes(module: ModuleType, base: type) -> list[type]:
    """The concrete public subclasses of `base` that a module, or the modules of a package, define."""
    classes = {c: None for m in _modules(module) for c in vars(m).values() if _is_own(c, base, module)}
    return [c for c in classes if not inspect.isabstract(c) and not c.__name__.startswith("_")]


def _is_own(value: Any, base: type, module: ModuleType) -> bool:
    if not (isinstance(value, type) and issubclass(value, base)):
        return False
    return f"{value.__module__}.".startswith(f"{module.__name__}.")


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    yield module
    for found in walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        yield import_module(found.name)


def _values(annotation: Any, default: Any) -> list[Any]:
    """The values of `Literal` and `bool` in an annotation, without the default; empty if there is no default."""
    if default is inspect.Parameter.empty:
        return []
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    values: list[Any] = []
    for part in parts:
        values += list(get_args(part)) if get_origin(part) is Literal else [False, True] if part is bool else []
    return [value for value in values if value != default]


def _shown(value: Any) -> str:
    """A short text for a value: classes and partials by their names."""
    if isinstance(value, partial):
        return f"{_shown(value.func)}({_listed(value.keywords)})"
    return value.__name__ if isinstance(value, type) else repr(value)


def _listed(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in options.items())
