"""What public functions guarantee to the calling process: `@isolated` decorates each one that runs programs.

Pyro's handlers, torch's switches and its default generator belong to the caller. So:

- One call at a time. A call from another thread waits (the logger `pyro_vae` says so once); to work in parallel, use
  processes. A call from inside another one (a callback, a user's program) does not wait. The package does not notice
  what other code does with Pyro in another thread at the same time: avoid that.
- The numbers are the same in each of the caller's modes: `torch.no_grad()`, `torch.inference_mode()`, autocast. Tensors
  that were made in inference mode are copied. A module with such weights is refused: they can't have gradients.
- A call inside a Pyro program of the caller is refused: an open `pyro.plate` would add its dimension to the programs
  that are run, and a `pyro.poutine.trace` would record their sites.
- Every switch has its old value afterwards, also after an error or Ctrl-C. What can't be restored is never changed: the
  allocator, signal handlers that Python did not install.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import signature
from itertools import chain
from typing import Any, ParamSpec, TypeVar

import torch
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.indep_messenger import IndepMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.errors import OutOfMemory, UsageError, lack_of_memory
from pyro_vae.process.pyro_internals import handlers
from pyro_vae.process.switches import put_back_on_error
from pyro_vae.process.torch_cache import environment_kept
from pyro_vae.process.turns import one_at_a_time

P = ParamSpec("P")


R = TypeVar("R")


_MOST_NESTED = 8
"""How deep arguments are searched for tensors: the inputs of a data set are nested, by name and split."""


_REMEDY = "make or load it outside of torch.inference_mode(), or take copy.deepcopy(module) outside of it"


def isolated(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function so that it keeps the guarantees above; inside, gradients are on."""
    return _isolated(function, lambda: True)


def isolated_keeping_gradients(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a function whose result has gradients if they are on in the caller."""
    return _isolated(function, torch.is_grad_enabled)


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that it runs outside inference mode and the tensors it makes can be trained."""

    @wraps(function)
    def outside(*args: P.args, **kwargs: P.kwargs) -> R:
        with ordinary_tensors():
            return function(*args, **kwargs)

    return outside


def in_any_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a method that computes gradients internally so that it works in inference mode too."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with ordinary_tensors():
            call: Callable[..., R] = function
            parts, named = ordinary((args, kwargs))
            return call(*parts, **named)

    return call


def _isolated(function: Callable[P, R], gradients: Callable[[], bool]) -> Callable[P, R]:
    name = function.__qualname__.removesuffix(".__init__").rpartition(".")[2]
    parameters = signature(function).parameters
    runs_programs = not _PROGRAMS.isdisjoint(parameters)
    sizes = [size for size in _SIZES if size in parameters]

    @wraps(function)
    def isolated(*args: P.args, **kwargs: P.kwargs) -> R:
        if _is_nested():
            with _usual_modes(gradients()):
                return function(*args, **kwargs)
        with (
            _inside(name),
            _explaining_memory(name, sizes),
            _usual_modes(gradients()),
            _refusing_inference_tensors(name),
        ):
            if runs_programs:  # once no other call runs: the handlers of its programs are in the same list
                _refuse_handlers(name)
            call: Callable[..., R] = function
            parts, named = ordinary((args, kwargs))
            return call(*parts, **named)

    return isolated


_PROGRAMS = {"model", "vae", "vqvae"}
"""Arguments that are programs, or have some."""


_SIZES = ("batch_size", "max_rows")
"""Arguments that bound how much memory a function takes."""


def _refuse_handlers(name: str) -> None:
    """Refuse handlers of the caller that would take part in the programs; one behind a `pyro.poutine.block` does not.

    A trace of parameters only is that of `pyro.infer.SVI` around its loss, and needs them.
    """
    hidden = False
    for handler in reversed(handlers()):
        if isinstance(handler, IndepMessenger):
            raise UsageError(
                f"{name} was called inside pyro.plate({handler.name!r}), which would add a dimension to the programs "
                "that it runs: call it outside of plates and programs"
            )
        if isinstance(handler, TraceMessenger) and not handler.param_only and not hidden:
            raise UsageError(
                f"{name} was called while a Pyro program is traced, and the trace would record the sites of the "
                "programs that it runs: call it outside of programs, or inside `with pyro.poutine.block():`"
            )
        hidden = hidden or isinstance(handler, BlockMessenger)


_here = threading.local()
"""Whether this thread is inside such a function."""


def _is_nested() -> bool:
    return getattr(_here, "inside", False) and not torch.is_inference_mode_enabled()


@contextmanager
def _inside(name: str) -> Iterator[None]:
    before = getattr(_here, "inside", False)
    with one_at_a_time(name), environment_kept(), put_back_on_error():
        _here.inside = True
        try:
            yield
        finally:
            _here.inside = before


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Run a block outside inference mode; gradients stay on or off."""
    if not torch.is_inference_mode_enabled():
        yield
        return
    with torch.inference_mode(False), torch.set_grad_enabled(False):
        yield


@contextmanager
def _usual_modes(gradients: bool) -> Iterator[None]:
    """Run a block without inference mode and autocast, with gradients on or off."""
    with ExitStack() as modes:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                modes.enter_context(torch.autocast(device, enabled=False))
        if torch.is_inference_mode_enabled():
            modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.set_grad_enabled(gradients))
        yield


def ordinary(value: Any, depth: int = 0) -> Any:
    """An argument with its inference tensors copied; the argument itself if there are none.

    Args:
        value: a tensor, a module, a program, or a mapping, list, tuple or dataclass of such.
        depth: how deep it lies in the arguments.

    Raises:
        UsageError: for a module whose weights were made in inference mode.
    """
    if isinstance(value, Tensor):
        return _copied(value)
    for module in (value, getattr(value, "__self__", None)):
        if isinstance(module, nn.Module):
            _check_module(module)
            return value
    return value if depth == _MOST_NESTED else _with_ordinary_parts(value, depth + 1)


def _copied(tensor: Tensor) -> Tensor:
    if not tensor.is_inference():
        return tensor
    with ordinary_tensors():
        return tensor.clone()


def _with_ordinary_parts(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping):
        made = {key: ordinary(part, depth) for key, part in value.items()}
        return made if _differ(made.values(), value.values()) else value
    if type(value) in (list, tuple):
        made = [ordinary(part, depth) for part in value]
        return type(value)(made) if _differ(made, value) else value
    if is_dataclass(value) and not isinstance(value, type):
        return _with_ordinary_fields(value, depth)
    return value


def _with_ordinary_fields(value: Any, depth: int) -> Any:
    parts = {field.name: getattr(value, field.name, None) for field in fields(value)}
    made = {name: ordinary(part, depth) for name, part in parts.items()}
    if not _differ(made.values(), parts.values()):
        return value
    other = copy(value)
    for name, part in made.items():
        object.__setattr__(other, name, part)
    return other


def _differ(made: Any, parts: Any) -> bool:
    return any(a is not b for a, b in zip(made, parts, strict=True))


def _check_module(module: nn.Module) -> None:
    if not any(tensor.is_inference() for tensor in chain(module.parameters(), module.buffers())):
        return
    named = chain(module.named_parameters(), module.named_buffers())
    name = next(name for name, tensor in named if tensor.is_inference())
    raise UsageError(
        f"{type(module).__name__}: {name!r} was made in torch.inference_mode(), so it takes no part in gradients: "
        f"{_REMEDY}"
    )


@contextmanager
def _refusing_inference_tensors(name: str) -> Iterator[None]:
    """Explain torch's error for inference tensors that are in no argument, e.g. in a program's closure."""
    try:
        yield
    except RuntimeError as error:
        if "nference tensor" not in str(error) or isinstance(error, UsageError):
            raise
        raise UsageError(
            f"{name} met a tensor or a weight that was made in torch.inference_mode(), which takes no part in "
            f"gradients: {_REMEDY}"
        ) from error


@contextmanager
def _explaining_memory(name: str, sizes: Sequence[str]) -> Iterator[None]:
    """Say which argument to make smaller where memory ends.

    Args:
        name: of the function.
        sizes: its arguments that bound how much memory it takes.
    """
    try:
        yield
    except Exception as error:
        lack = lack_of_memory(error)
        if lack is None:
            raise
        less = f"a smaller {' or '.join(sizes)}, or fewer data" if sizes else "fewer data, draws or rows at a time"
        first = str(lack).strip().partition("\n")[0]
        raise OutOfMemory(f"{name} ran out of memory: take {less} ({type(lack).__name__}: {first})") from lack
