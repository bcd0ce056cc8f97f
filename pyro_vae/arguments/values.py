"""Checks of single arguments: a value is converted if its meaning is clear, otherwise refused."""

from collections.abc import Sequence
from dataclasses import fields
from functools import partial
from inspect import Parameter, isabstract, signature
from numbers import Integral, Real
from os import PathLike
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args

import numpy as np
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from pyro_vae.arguments.remedies import nearest
from pyro_vae.errors import UsageError

T = TypeVar("T")


# ---- numbers ---------------------------------------------------------------------------------------------------------


def scalar(value: Any) -> Any:
    """A NumPy number, or an array or a tensor of no dimensions, as Python's own; all else as it is."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 0):
        return value.item()
    return value


def plain(value: Any) -> Any:
    """As `scalar`, also inside lists, dictionaries and partials; a vector of numbers becomes a list.

    Example:
        >>> plain([np.int64(3), torch.tensor(0.5), "x"])
        [3, 0.5, 'x']
    """
    value = scalar(value)
    if type(value) is list:
        return list(map(plain, value))
    if type(value) is tuple:
        return tuple(map(plain, value))
    if type(value) is dict:
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iufb":
        return value.tolist()
    if isinstance(value, partial):
        return partial(value.func, *map(plain, value.args), **plain(value.keywords))
    return value


def plain_fields(cls: type[T], by_class: bool = False) -> type[T]:
    """Let a dataclass have plain values of the right types in its fields, before it checks them.

    For use below `@dataclass`, or in `__init_subclass__` of a base class whose subclasses are dataclasses. Types are
    those of the annotations; in classes of users they are not checked, since these may mean more than they say.

    Args:
        cls: the dataclass.
        by_class: whether messages call a field `CLASS.FIELD`.
    """
    own, ours = cls.__dict__.get("__post_init__"), cls.__module__.startswith("pyro_vae.")

    def __post_init__(self: Any) -> None:  # noqa: N807 - it is one
        for name, value in list(vars(self).items()):
            if (found := plain(value)) is not value:
                object.__setattr__(self, name, found)
        for field in fields(self) if ours else ():
            name = f"{type(self).__name__}.{field.name}" if by_class else field.name
            _check_type(name, getattr(self, field.name), field.type)
        own(self) if own is not None else getattr(super(cls, self), "__post_init__", lambda: None)()

    cls.__post_init__ = __post_init__  # pyright: ignore[reportAttributeAccessIssue]
    return cls


def _check_type(name: str, value: Any, annotation: Any) -> None:
    """Refuse what is no number, or neither True nor False, where the annotation asks for that; others allow all."""
    kinds = set(get_args(annotation)) if isinstance(annotation, UnionType) else {annotation}
    if not kinds <= {int, float, bool, NoneType} or (value is None and NoneType in kinds):
        return
    if bool in kinds:
        truth(name, value)
    elif float in kinds:
        number(name, value)
    else:
        whole(name, value, None)


def whole(name: str, value: Any, least: int | None = 0) -> int:
    """A whole number; NumPy's too, but no bool and no float.

    Args:
        name: the argument, for the message.
        value: what came.
        least: the smallest one to take; None for any.

    Raises:
        UsageError: for anything else.
    """
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UsageError(f"{name}: expected a whole number, got {shown(value)}")
    if least is not None and value < least:
        raise UsageError(f"{name} must be at least {least}, got {value}")
    bits = 63 if least is None else 53  # of seeds, and of counts, that the files of a run may hold
    if abs(int(value)) >= 2**bits:
        raise UsageError(f"{name}: expected a whole number of less than 2^{bits}, got {shown(value)}")
    return int(value)


def number(name: str, value: Any) -> float:
    """A number.

    Raises:
        UsageError: for anything else.
    """
    value = scalar(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(f"{name}: expected a number, got {shown(value)}")
    return value  # pyright: ignore[reportReturnType] - as it came: an int stays one


def numbers(name: str, value: Any) -> list[float]:
    """Some numbers, of a list, a tuple or an array.

    Raises:
        UsageError: for anything else.
    """
    values = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise UsageError(f"{name}: expected numbers, e.g. (0.5, 0.9), got {shown(value)}")
    return [number(name, one) for one in values]


def truth(name: str, value: Any) -> bool:
    """True or False, NumPy's too.

    Raises:
        UsageError: for anything else.
    """
    value = scalar(value)
    if not isinstance(value, bool):
        raise UsageError(f"{name}: expected True or False, got {shown(value)}")
    return value


def choice(name: str, value: Any, known: Sequence[str]) -> None:
    """Refuse a value that is not one of the given names.

    Raises:
        UsageError: with the nearest and all of them.
    """
    if not isinstance(value, str) or value not in known:
        close = nearest(value, known) if isinstance(value, str) else ""
        raise UsageError(f"{name}: expected one of {', '.join(map(repr, known))}, got {shown(value)}{close}")


def shown(value: Any, length: int = 60) -> str:
    """A value in a message: short, and of an array only its kind."""
    if isinstance(value, np.ndarray | Tensor):
        return f"{'a tensor' if isinstance(value, Tensor) else 'an array'} of shape {list(value.shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= length else f"{text[:length]}..."


# ---- shapes ----------------------------------------------------------------------------------------------------------


def shape_of(name: str, value: Any, optional: bool = False) -> tuple[int, ...]:
    """A shape of at least one size, all positive; one that is given as a list, a `torch.Size` or an array too.

    Args:
        name: the argument, for the message.
        value: what came.
        optional: whether the message should offer None.

    Raises:
        UsageError: for anything else.
    """
    value = plain(value)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        raise UsageError(f"{name}: expected a shape, got the number {value}: ({value},) is that of a vector")
    sizes = list(map(plain, value)) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else []
    if not sizes or any(isinstance(n, bool) or not isinstance(n, Integral) or n < 1 for n in sizes):
        none = ", or None" if optional else ""
        raise UsageError(
            f"{name}: expected a tuple of positive whole numbers, the shape of one datum, e.g. (28, 28){none}, got "
            f"{shown(value)}"
        )
    return tuple(map(int, sizes))


# ---- data ------------------------------------------------------------------------------------------------------------


def as_array(name: str, data: Any) -> Tensor | np.ndarray:
    """Data as a tensor or an array: those as they are, tables of pandas and lists of numbers converted.

    Args:
        name: the argument, for the message.
        data: what came.

    Raises:
        UsageError: for what is no array, with what to do.
    """
    if isinstance(data, np.ma.MaskedArray):
        raise UsageError(f"{name}: {MASKED}")
    if isinstance(data, Tensor | np.ndarray):
        return data
    if isinstance(data, TorchDataset | DataLoader | IterableDataset):
        raise UsageError(
            f"{name}: expected data in one tensor or array [N, *event], got a {type(data).__name__}: make a Dataset of "
            "it, data = as_dataset(loader) of pyro_vae.data, for fit, and take data.split('train') of it"
        )
    if isinstance(data, str) or hasattr(data, "__fspath__"):
        raise UsageError(f"{name}: expected a tensor or an array, got {shown(data)}: read it first, by load_data(path)")
    if isinstance(data, list | tuple) or hasattr(data, "__array__"):
        return _converted(name, data)
    raise UsageError(f"{name}: expected a tensor or an array [N, *event], got {type(data).__name__} {shown(data)}")


MASKED = (
    "a masked array, whose mask would be lost: pass x.astype(float).filled(nan), and missing='nan' where it is taken"
)
"""What is said of one: NumPy's functions give the values behind the mask."""


def _converted(name: str, data: Any) -> np.ndarray:
    try:
        array = np.stack([np.asarray(x) for x in data]) if isinstance(data, list | tuple) else np.asarray(data)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{name}: expected rows of one shape, got a {type(data).__name__}: {error}") from error
    if array.dtype.kind not in "fiub":
        raise UsageError(
            f"{name}: expected numbers, got a {type(data).__name__} of {array.dtype}: leave out the others, or of a "
            "table take the codes of pyro_vae.data.as_dataset(table)"
        )
    return array


# ---- parts -----------------------------------------------------------------------------------------------------------


def factory(name: str, value: Any, base: type, strict: bool = True) -> Any:
    """What makes a part: a class, a `functools.partial` of one, or a function; with NumPy's numbers as Python's.

    Args:
        name: the argument, for the message.
        value: what came.
        base: what it has to make.
        strict: whether a class must be one of `base`.

    Raises:
        UsageError: for an instance, a name, a class of another kind, or an option that the class does not have.
    """
    cls = value.func if isinstance(value, partial) else value
    expected = f"{name}: expected a class of {home_of(base)}, or functools.partial(Class, option=...)"
    if isinstance(value, str):
        raise UsageError(f"{expected}, got the text {value!r}{_class_for(value, base)}")
    if isinstance(value, nn.Module | Optimizer | PyroOptim) or not callable(value):
        raise UsageError(f"{expected}, got {_instance(value)}")
    if isinstance(cls, type) and (
        (strict and not issubclass(cls, base)) or (isabstract(cls) and issubclass(cls, base))
    ):
        raise UsageError(f"{expected}, got {_kind(cls, base)}")
    if isinstance(value, partial):
        _check_options(name, value)
    return plain(value)


def _check_options(name: str, value: partial[Any]) -> None:
    """Refuse keywords that what a partial is of does not take."""
    try:
        known = signature(value.func).parameters
    except (TypeError, ValueError):  # some of C's have none
        return
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for option in value.keywords:
        if option not in known:
            cls, names = getattr(value.func, "__name__", str(value.func)), [n for n in known if n not in GIVEN]
            raise UsageError(
                f"{name}: {cls} has no option {option!r}{nearest(option, names) or '.'} Known: {', '.join(names)}"
            )


def _instance(value: Any) -> str:
    cls = type(value)
    if isinstance(value, nn.Module):
        return f"an instance of {cls.__name__}: pass the class itself, which is called with the sizes"
    if isinstance(value, Optimizer):
        name = f"torch.optim.{cls.__name__}"
        return f"an instance of {cls.__name__}: pass the class itself, {name}, or functools.partial({name}, lr=0.001)"
    if isinstance(value, PyroOptim):
        return "an optimizer of pyro.optim: pass one of torch.optim, e.g. functools.partial(torch.optim.Adam, lr=0.001)"
    return f"{cls.__name__} {shown(value)}"


def _class_for(name: str, base: type) -> str:
    """The class of a name, or the nearest one."""
    known = {cls.__name__: cls for cls in subclasses(base)}
    if name in known:
        return f": import the class, from {home_of(known[name])} import {name}, and pass it"
    return f"{nearest(name, known) or '.'} Known: {', '.join(known)}" if known else ""


def _kind(cls: type, base: type) -> str:
    """What a class is instead, with the one of the same name that may be meant."""
    names = ", ".join(known.__name__ for known in subclasses(base))
    if issubclass(cls, base):
        return f"the base class {cls.__name__}: take one of {names}"
    close = nearest(cls.__name__, names.split(", "))
    return f"{cls.__module__}.{cls.__name__}, which is no {base.__name__}{close or '.'} Known: {names}"


GIVEN = ("shapes", "in_shape", "out_shape", "params")
"""Arguments that the VAE passes to its parts."""


def home_of(cls: type) -> str:
    """The module that a public class is imported from."""
    names = cls.__module__.split(".")
    return ".".join(names[:2]) if names[0] == "pyro_vae" or names[:2] == ["torch", "optim"] else cls.__module__


def subclasses(base: type) -> list[type]:
    """The concrete public classes of an axis, by name."""
    found = {c for cls in base.__subclasses__() for c in [cls, *subclasses(cls)]}
    named = [cls for cls in found if not isabstract(cls) and not cls.__name__.startswith("_")]
    return sorted(named, key=lambda cls: cls.__name__)


def folder(name: str, value: Any) -> Any:
    """The path of a folder, or None.

    Raises:
        UsageError: for anything else.
    """
    if value is not None and not (isinstance(value, str | PathLike) and str(value)):
        raise UsageError(f"{name}: expected the path of a folder, or None, got {shown(value)}")
    return value


def value_of(name: str, value: Any, base: type) -> Any:
    """A part that is a value, such as an objective or a schedule.

    Args:
        name: the argument, for the message.
        value: what came.
        base: its class.

    Raises:
        UsageError: for a class in place of a value, or a name; anything else is left to the caller.
    """
    if isinstance(value, type) and not issubclass(value, base) and value.__module__.startswith("torch"):
        raise UsageError(f"{name}: expected an instance of a class of {home_of(base)}, got {_kind(value, base)}")
    if isinstance(value, type):
        raise UsageError(f"{name}: expected an instance, got the class {value.__name__}: write {value.__name__}(...)")
    if isinstance(value, str):
        raise UsageError(f"{name}: expected an instance, got the text {value!r}{_class_for(value, base)}")
    return value


def check_choice(name: str, value: str, literal: object) -> None:
    """Refuse a value that a `Literal` does not have."""
    if value not in get_args(literal):
        raise UsageError(f"unknown {name} {value!r}: choose one of {', '.join(get_args(literal))}")


def check_widths(name: str, widths: Sequence[int]) -> None:
    """Refuse widths that are not positive, and what is no list of them."""
    if isinstance(widths, int) and not isinstance(widths, bool):
        raise UsageError(f"{name}: expected a tuple of whole numbers, got the number {widths}: one is ({widths},)")
    if isinstance(widths, str) or not all(isinstance(n, int) and not isinstance(n, bool) for n in widths):
        raise UsageError(f"{name}: expected a tuple of whole numbers, e.g. (200, 100), got {widths!r}")
    if any(width < 1 for width in widths):
        raise UsageError(f"{name} must be positive, got {tuple(widths)}")


def check_dropout(dropout: float) -> None:
    """Refuse a share of dropped units outside [0, 1)."""
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout must be a share in [0, 1), got {dropout}")
