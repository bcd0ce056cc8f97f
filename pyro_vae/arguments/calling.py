"""`Called`: parts and autoencoders whose constructor answers a wrong call in one line that says how it is written.

A part is built by the VAE, which knows the sizes; what a user passes is its class. `Normal()` is the usual slip.
"""

from collections.abc import Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Any

from pyro_vae.arguments.remedies import nearest
from pyro_vae.arguments.values import GIVEN, shown
from pyro_vae.errors import UsageError


class Called:
    """Mixin of a base class that checks the arguments of its subclasses' constructors."""

    role: str | None = None
    """The argument of `VAE` that takes the class; None for an autoencoder, which users call themselves."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__init__" in vars(cls):
            _watch(cls)


def _watch(cls: type[Called]) -> None:
    """Check the arguments of a class's own constructor, unless a subclass's calls it."""
    own = cls.__init__
    known = signature(own)

    @wraps(own)
    def __init__(self: Any, *args: Any, **keywords: Any) -> None:  # noqa: N807 - it replaces __init__
        if type(self).__init__ is cls.__init__:
            _check(type(self), known, args, keywords)
        own(self, *args, **keywords)

    cls.__init__ = __init__  # pyright: ignore[reportAttributeAccessIssue]


def _check(cls: type[Called], known: Signature, args: tuple[Any, ...], keywords: Mapping[str, Any]) -> None:
    names = [name for name in known.parameters if name != "self"]
    given = dict(zip(names, args, strict=False)) | dict(keywords)
    sizes = [name for name in GIVEN if name in names and not _is_size(given.get(name))]
    if cls.role is not None and sizes:
        options = ", ".join(f"{name}={shown(value)}" for name, value in keywords.items() if name not in GIVEN)
        made = f"functools.partial({cls.__name__}, {options or 'option=...'})"
        raise UsageError(
            f"{cls.__name__} is built by the VAE, which gives it {' and '.join(sizes)}: pass the class itself, "
            f"{cls.role}={cls.__name__}, or {cls.role}={made}"
        )
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.parameters.values())
    if not takes_any and (unknown := [name for name in keywords if name not in names]):
        options = [name for name in names if name not in GIVEN]
        close = nearest(unknown[0], options) or "."
        raise UsageError(f"{cls.__name__} has no argument {unknown[0]!r}{close} Known: {', '.join(options) or 'none'}")
    try:
        known.bind(None, *args, **keywords)
    except TypeError as error:
        needed = [name for name in names if known.parameters[name].default is Parameter.empty]
        call = f"{cls.__name__}({', '.join(needed)}, ...)" if needed else f"{cls.__name__}()"
        raise UsageError(f"{cls.__name__}: {error}; it is called as {call}") from None


def _is_size(value: Any) -> bool:
    return value is not None and not isinstance(value, bool | int | float | str)
