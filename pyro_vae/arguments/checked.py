"""`checked`: a decorator of public functions that checks their arguments, by the names of the parameters.

`x` is data, `model` a program, `num_particles` a whole number from 1, and so on: values are converted if their meaning
is clear (an array to a tensor, NumPy's numbers to Python's), and anything else is refused in one line.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from types import NoneType
from typing import Any, ParamSpec, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor, nn

from pyro_vae.arguments.remedies import nearest
from pyro_vae.arguments.values import as_array, number, numbers, scalar, shown, whole
from pyro_vae.errors import DataError, UsageError
from pyro_vae.shapes import Shapes

P = ParamSpec("P")


R = TypeVar("R")


_WHOLE = (
    "num_particles",
    "num_draws",
    "num_samples",
    "num_chains",
    "num_warmup",
    "num_leapfrog",
    "max_rows",
    "max_plate_nesting",
    "batch",
    "num",
    "num_data",
    "num_simulated",
    "num_null",
    "side",
    "components",
    "restarts",
    "steps",
    "epochs",
    "batch_size",
    "patience",
    "seed",
)
"""Parameters that are whole numbers; their ranges are checked by the functions."""


_TENSORS = ("mask", "c", "like", "labels")
"""Parameters that are tensors, in addition to `x`."""


_INPUTS = ("mask", "c")
"""Those of them that may come as arrays or lists."""


_FUNCTIONS = ("progress", "to_x")
"""Parameters that are functions, or None."""


_SETTINGS = ("annealing", "hmc")
"""Parameters that are a value of the class that they are annotated with, or None."""


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a public function refuse arguments that it can't take, in one line, and convert those that are plain.

    By name: `x` and what follows it (`*args`, `**inputs`) becomes tensors that fit one another and the model;
    `model` and `guide` are programs, `vae` a module that has both; numbers of things are whole. None is for the
    function to judge where it is the default.

    Raises:
        UsageError: for an argument of another kind, or one that the function does not have.
        DataError: for data of another shape than the model's, or with values that its likelihood gives no probability
            to.
    """
    return _checked_with(function, _check_data)


def checked_but_values(function: Callable[P, R]) -> Callable[P, R]:
    """As `checked`, for a function that takes of `x` the shape and the type, and never looks at its values."""
    return _checked_with(function, _check_shape)


def _checked_with(
    function: Callable[P, R], check: Callable[[Any, Tensor, Sequence[Any], Mapping[str, Any]], None]
) -> Callable[P, R]:
    """A function whose arguments are checked, `x` by `check(module, x, args, inputs)`."""
    known = signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            given = known.bind(*args, **kwargs)
        except TypeError as error:
            raise UsageError(_misfit(function.__name__, known, kwargs, error)) from None
        _check_all(function.__name__, known, given.arguments, check)
        return function(*given.args, **given.kwargs)

    return call


def _misfit(function: str, known: Signature, kwargs: Mapping[str, Any], error: TypeError) -> str:
    names = [name for name, parameter in known.parameters.items() if parameter.kind in _NAMED]
    unknown = next((name for name in kwargs if name not in names), None)
    if unknown is not None and "unexpected keyword" in str(error):
        return f"{function} has no argument {unknown!r}{nearest(unknown, names) or '.'} Known: {', '.join(names)}"
    needed = [name for name in names if known.parameters[name].default is Parameter.empty]
    return f"{function}: {error}; it is called as {function}({', '.join(needed)}, ...)"


_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def _check_all(function: str, known: Signature, given: dict[str, Any], check: Callable[..., None]) -> None:
    """Check, and convert in place, the arguments of a call."""
    for name, value in given.items():
        parameter = known.parameters[name]
        if parameter.kind in _NAMED and not (value is None and _may_be_none(parameter)):
            is_program = name in ("model", "guide") and "model" in known.parameters  # else a class, to make a guide
            given[name] = program(name, value) if is_program else _checked(name, value, parameter.annotation)
    rows = len(given["x"]) if isinstance(given.get("x"), Tensor) else None
    for name, parameter in known.parameters.items():
        if parameter.kind is Parameter.VAR_POSITIONAL and name in given:
            given[name] = tuple(_further(function, known, i, x, rows) for i, x in enumerate(given[name]))
        elif parameter.kind is Parameter.VAR_KEYWORD and name in given and name == "inputs":
            options = [other for other, p in known.parameters.items() if p.kind in _NAMED]
            given[name] = {n: _input(function, n, x, options, rows) for n, x in given[name].items()}
    if isinstance(given.get("x"), Tensor):
        module = _owner(given.get("vae", given.get("before", given.get("model"))))
        check(module, given["x"], given.get("args", ()), {**given, **given.get("inputs", {})})


def _may_be_none(parameter: Parameter) -> bool:
    return parameter.default is None or NoneType in get_args(parameter.annotation)


def _checked(name: str, value: Any, kind: Any) -> Any:
    if name in ("vae", "before", "after"):
        return pair_of(value, name)
    if name == "x" or (name in _INPUTS and kind in (Tensor, Tensor | None)):
        found = tensor(name, value)  # that of one datum too, for all data alike
        return _truths(found) if name == "mask" else found
    if name in _TENSORS and isinstance(value, np.ndarray):
        return torch.as_tensor(value)
    if name in _FUNCTIONS and kind is not bool and not callable(value):
        raise UsageError(f"{name}: expected a function, got {shown(value)}")
    if name in _SETTINGS:
        return _setting(name, value, kind)
    if kind == Sequence[float]:
        return numbers(name, value)
    if name in _WHOLE:
        return whole(name, value, 1 if name == "max_plate_nesting" else None)
    return number(name, value) if kind in (float, float | None) else scalar(value)


def _setting(name: str, value: Any, kind: Any) -> Any:
    expected: Any = next(one for one in (kind, *get_args(kind)) if is_dataclass(one))
    if not isinstance(value, expected):
        raise UsageError(f"{name}: expected {expected.__name__}(...), got {shown(value)}")
    return value


def _input(function: str, name: str, value: Any, options: Sequence[str], rows: int | None) -> Any:
    """One of `**inputs`: a tensor, or an option that was misspelt."""
    if name == "context" and name not in options:
        raise UsageError(f"{function} takes the values of a context as c=...: `context` is the name of its shape")
    if isinstance(scalar(value), bool | int | float | str) or callable(value):
        raise UsageError(
            f"{function} has no option {name!r}{nearest(name, options) or '.'} Known: {', '.join(options)}"
        )
    return _beside(name, value, rows)


def _further(function: str, known: Signature, index: int, value: Any, rows: int | None) -> Any:
    """One of `*args`: a tensor for the programs, or an option that was given without its name."""
    kinds = [parameter.kind for parameter in known.parameters.values()]
    place = f"argument {kinds.index(Parameter.VAR_POSITIONAL) + index + 1} of {function}"
    if isinstance(scalar(value), bool | int | float | str) or callable(value):
        options = [name for name, parameter in known.parameters.items() if parameter.kind is Parameter.KEYWORD_ONLY]
        raise UsageError(
            f"{place}: expected a tensor that the programs take after x, got {shown(value)}: give options by name, "
            f"one of {', '.join(options)}"
        )
    return _beside(place, value, rows)


def _beside(name: str, value: Any, rows: int | None) -> Any:
    """The further inputs of the programs: with one row for each datum, or one for all."""
    if value is None:
        return None
    value = tensor(name, value)
    if rows is not None and (value.dim() == 0 or len(value) not in (1, rows)):
        raise DataError(f"{name}: expected {rows} rows, as many as x has, got shape {list(value.shape)}")
    return value if rows is None or len(value) == rows else value.expand(rows, *value.shape[1:])


def _truths(mask: Tensor) -> Tensor:
    if mask.dtype is not torch.bool:
        raise UsageError(f"mask: expected bool, True where an element was observed, got {mask.dtype}")
    return mask


def tensor(name: str, data: Any) -> Tensor:
    """Data as a tensor: floating point in torch's default type, where they came as an array, a table or a list.

    A tensor is left as it is; truth values and whole numbers keep their type, which programs convert.

    Args:
        name: the argument, for the message.
        data: what came.

    Raises:
        UsageError: for what is no array of numbers.
    """
    if isinstance(data, Tensor):
        found = data
    else:
        if hasattr(data, "event_shape") and hasattr(data, "split"):
            raise UsageError(
                f"{name}: expected a tensor, got a Dataset: take one of its splits, e.g. data.split('test')"
            )
        array = as_array(name, data)
        if not isinstance(array, Tensor) and array.dtype.kind not in "fiub":
            raise UsageError(f"{name}: expected numbers, got an array of {array.dtype}")
        found = torch.as_tensor(np.ascontiguousarray(array).copy())
        found = found.to(torch.get_default_dtype()) if found.is_floating_point() else found
    if found.is_meta:
        raise UsageError(f"{name} is on the meta device, where tensors have a shape but no values: give real data")
    if found.is_complex():
        raise UsageError(f"{name}: expected real numbers, got {found.dtype}: give real and imaginary parts as elements")
    if found.dim() == 0:
        raise UsageError(f"{name}: expected data [N, ...], got a single number")
    return found


def _owner(value: Any) -> Any:
    """The module behind a program, a program itself, or a module."""
    return getattr(value, "__self__", value)


def _check_shape(module: Any, x: Tensor, args: Sequence[Any] = (), inputs: Mapping[str, Any] | None = None) -> None:
    """Refuse data of another shape than the model's, or that lie on another device."""
    shapes = getattr(module, "shapes", None)
    event = tuple(shapes.event) if isinstance(shapes, Shapes) else None
    if event is not None and tuple(x.shape[1:]) != event:
        raise DataError(
            f"x: expected shape [N >= 1, {', '.join(map(str, event))}], got {list(x.shape)}{_hint(x, event)}"
        )
    parameter = next(module.parameters(), None) if isinstance(module, nn.Module) else None
    if parameter is not None and parameter.device != x.device:
        raise UsageError(
            f"x is on {x.device}, but the model on {parameter.device}: pass x.to({str(parameter.device)!r})"
        )


def _check_data(module: Any, x: Tensor, args: Sequence[Any], inputs: Mapping[str, Any]) -> None:
    """Refuse also observed values that the model gives no probability to.

    Args:
        module: what has the programs. An autoencoder says which data are allowed by its likelihood, another module by a
            method `check_data`, such as a pair for what was observed through a channel; the rest take anything.
        x: data `[N, *event]`.
        args: what the programs take after x.
        inputs: what they take by name, and other arguments.
    """
    _check_shape(module, x)
    if callable(own := getattr(module, "check_data", None)):
        own(x)
        return
    check = getattr(getattr(module, "likelihood", None), "check", None)
    if check is None or len(x) == 0:
        return
    mask = next((value for value in (*args, inputs.get("mask")) if _is_mask(value)), None)
    try:
        mask = None if mask is None else mask.expand(x.shape)
    except RuntimeError:  # of another shape than the data: the function says so
        return
    check(x, mask=mask)


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype is torch.bool


def _hint(x: Tensor, event: tuple[int, ...]) -> str:
    """What to do about data of another shape than the model's, where that is plain."""
    if tuple(x.shape) == event:
        return f": one datum is x[None], shape {[1, *event]}"
    if len(event) == 3 and tuple(x.shape[1:]) == (*event[1:], event[0]):
        return ": channels come first: pass x.movedim(-1, 1)"
    return ""


def program(name: str, value: Any) -> Any:
    """A Pyro program.

    Raises:
        UsageError: for what can't be called, or a whole VAE in place of its programs.
    """
    if hasattr(value, "model") and hasattr(value, "guide"):
        raise UsageError(f"{name}: expected a program, got a {type(value).__name__}: pass vae.model and vae.guide")
    if isinstance(value, type) or not callable(value):
        raise UsageError(f"{name}: expected a Pyro program, such as vae.{name}, got {shown(value)}")
    return value


def pair_of(value: Any, name: str = "vae") -> Any:
    """A module that has both programs.

    Args:
        value: what came.
        name: the argument, for the message.

    Raises:
        UsageError: for anything else, e.g. the class or the path of a run.
    """
    if isinstance(value, str) or hasattr(value, "__fspath__"):
        raise UsageError(f"{name}: expected a VAE, got {shown(value)}: pass load({str(value)!r})")
    if isinstance(value, type) or not all(callable(getattr(value, name, None)) for name in ("model", "guide")):
        raise UsageError(
            f"{name}: expected a VAE, or another module with programs `model` and `guide`, got {shown(value)}"
        )
    return value
