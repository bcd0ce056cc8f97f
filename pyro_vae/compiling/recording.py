"""Run a program once, keep the tensor operations it made, and run only those from then on.

A Pyro program spends most of its time on a small batch in Python: handlers, plates, traces. `make_fx` records its
tensor operations, with those of the gradients, as one graph without Pyro or autograd; inductor compiles it. The
graph does the same operations with the same draws, so compiled and eager runs agree to rounding.

Shapes and Python branches of a graph are those of the recorded run. A program that reads a tensor's value (`.item()`,
`if tensor`) can't be recorded by `make_fx`: `Unrecordable` is raised.
"""

import logging
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from pyro_vae.compiling.kept_code import NotKept, Place, depends_on
from pyro_vae.compiling.listening import heard
from pyro_vae.compiling.memory import forgetting
from pyro_vae.compiling.rewrites import cheaper
from pyro_vae.messages import bars_contained, log_once
from pyro_vae.process.seeding import seeded
from pyro_vae.process.torch_cache import ensure_cache
from pyro_vae.process.torch_internals import compiled_alone, noting_shapes, traced

Runner = Callable[..., Sequence[Tensor]]


_log = logging.getLogger("pyro_vae")


_INDUCTOR = {
    "fallback_random": True,  # torch's own generators: the draws of an eager run
    "reorder_for_peak_memory": False,  # draws stay in the program's order
}


_ON_CPU = {
    "cpp_wrapper": True,  # no Python between two kernels
    "cpp.dynamic_threads": True,  # loops are shared out when they run: `training.threads` changes the number
}


_GRADIENTS_ON_CPU = {
    **_ON_CPU,
    "layout_optimization": False,  # "channels last": quicker without gradients, 1.5 times as slow with a ResNet's
}


_TRUSTING = {"cpp.vec_isa_ok": True} if platform.machine() in ("x86_64", "AMD64") else {}
"""The instructions that the CPU lists are not tried out first, by ten small programs that take as long as the rest."""


class Unrecordable(Exception):  # noqa: N818 - not an error: the caller runs the program itself
    """A program that can't be recorded as a graph; the message gives the reason."""


class Graph:
    """Recorded operations as a function of tensors: called with the inputs, it returns the outputs as a list.

    Compiled code reads the memory of an input as that of the example was laid out, so all are made contiguous.

    Args:
        run: the function, of the parameters followed by the inputs.
        parameters: the module's parameters, read at every call, so that in-place updates take effect.
        backend: what runs the graph: `"inductor"`, `"torch.compile"` or `"graph"`.
    """

    def __init__(self, run: Runner, parameters: Sequence[Tensor], backend: str) -> None:
        self.run, self.backend = run, backend
        self._parameters = [p.detach() for p in parameters]

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs for these inputs, without gradients."""
        with torch.no_grad():
            return list(self.run(*self._parameters, *(x.contiguous() for x in inputs)))


def record(
    module: nn.Module, function: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], compile: bool
) -> Graph:
    """Record `function(*inputs)`, in which the parameters of `module` may change from call to call.

    Args:
        module: whose parameters are inputs of the graph; other tensors that `function` reaches are constants in it.
        function: of tensors, to a sequence of tensors.
        inputs: an example of the inputs; shapes, types and devices are fixed by it.
        compile: whether to compile the graph by inductor; if that fails, the graph runs uncompiled, and the reason is
            logged.

    Raises:
        Unrecordable: if the function reads the values of its tensors, or fails when run.
    """
    names, parameters = _parameters_of(module)
    call = _Call(module, function)

    def run(*tensors: Tensor) -> list[Tensor]:
        replaced = dict(zip(names, tensors, strict=False))
        return list(torch.func.functional_call(call, replaced, tensors[len(names) :]))

    return _finish(run, parameters, inputs, compile)


def record_gradients(
    module: nn.Module,
    function: Callable[..., tuple[Tensor, Tensor]],
    inputs: Sequence[Tensor],
    compile: bool,
    check: Callable[[], None] = lambda: None,
) -> tuple[Graph, list[nn.Parameter]]:
    """Record a loss with its gradients.

    Args:
        module: whose parameters are differentiated.
        function: of tensors, to `(value, minimised)`: the loss to report, and the one to differentiate.
        inputs: an example of the inputs.
        compile: as for `record`.
        check: called after recording, before compiling, which takes seconds; may raise `Unrecordable`.

    Returns:
        A graph that returns the value followed by the gradients, and the parameters that they belong to: those that
        `minimised` depends on.

    Raises:
        Unrecordable: as `record`, and as `check`.
    """
    names, parameters = _parameters_of(module)
    call, used = _Call(module, function), []

    def run(*tensors: Tensor) -> list[Tensor]:
        replaced = tensors[: len(names)]
        value, minimised = torch.func.functional_call(
            call, dict(zip(names, replaced, strict=True)), tensors[len(names) :]
        )
        wanted = [p for p in replaced if p.requires_grad]
        gradients = torch.autograd.grad(minimised, wanted, allow_unused=True)
        used[:] = [i for i, g in zip(_trained(parameters), gradients, strict=True) if g is not None]
        return [value.detach(), *(g for g in gradients if g is not None)]

    graph = _finish(run, parameters, inputs, compile, replayed=True, check=check)
    return graph, [parameters[i] for i in used]


def _trained(parameters: Sequence[nn.Parameter]) -> list[int]:
    return [i for i, p in enumerate(parameters) if p.requires_grad]


class _Call(nn.Module):
    """A function as a module, so that `functional_call` can swap the parameters it uses."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def _parameters_of(module: nn.Module) -> tuple[list[str], list[nn.Parameter]]:
    named = dict(module.named_parameters())
    return [f"module.{name}" for name in named], list(named.values())


def _finish(
    run: Runner,
    parameters: Sequence[nn.Parameter],
    inputs: Sequence[Tensor],
    compile: bool,
    replayed: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Graph:
    ensure_cache()
    inputs = [x.contiguous() for x in inputs]
    copies = [p.detach().clone().requires_grad_(p.requires_grad) for p in parameters]
    example = [*(p.detach() for p in parameters), *inputs]
    options = _options(example, replayed)
    place = _place(run, [*copies, *inputs], options) if compile else None
    check()
    if place is not None and (kept := place.find()) is not None:
        return Graph(kept, parameters, "inductor")
    graph = _record(run, copies, inputs)
    check()
    if place is not None and place.key != getattr(_place(run, [*copies, *inputs], options), "key", None):
        place = None  # the programs change from call to call
    compiled, backend = _compiled(graph, example, options, place) if compile else (graph, "graph")
    return Graph(compiled, parameters, backend)


def _record(run: Runner, parameters: Sequence[Tensor], inputs: Sequence[Tensor]) -> GraphModule:
    try:
        with _recording(), noting_shapes():
            graph = traced(run, *parameters, *inputs)
    except Exception as error:  # a program can fail in any way
        raise Unrecordable(f"{type(error).__name__}: {_first_line(error)}") from error
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _place(run: Runner, inputs: Sequence[Tensor], options: Mapping[str, Any]) -> Place | None:
    """Where the code for these operations is kept; None where it is not, on a GPU or if there is no name for them."""
    if any(x.device.type != "cpu" for x in inputs):
        return None
    try:
        with _recording():
            return Place(*heard(run, inputs, depends_on(options)))
    except Exception:  # a program can fail in any way: recording it says how
        return None


@contextmanager
def _recording() -> Iterator[None]:
    with seeded(0, "record"), _quiet(), forgetting():
        yield


def _options(example: Sequence[Tensor], replayed: bool) -> dict[str, Any]:
    """Of inductor, for the devices of an example of the inputs.

    `replayed`: on a GPU as a CUDA graph, one launch for all its kernels; its outputs hold until the next call.
    """
    if any(x.is_cuda for x in example):
        return {**_INDUCTOR, "triton.cudagraphs": replayed}
    return {**_INDUCTOR, **(_GRADIENTS_ON_CPU if replayed else _ON_CPU), **_for_threads()}


def _compiled(
    graph: GraphModule, example: list[Tensor], options: Mapping[str, Any], place: Place | None
) -> tuple[Runner, str]:
    """The graph, compiled by the first backend that works, or uncompiled; and the name of the backend."""
    rewritten = cheaper(_copied(graph))
    plain = {name: value for name, value in options.items() if name not in {*_GRADIENTS_ON_CPU, *_for_threads()}}
    if place is not None:
        try:
            with _compiling():
                return place.compile(_copied(rewritten), example, {**options, **_TRUSTING}), "inductor"
        except NotKept as error:  # its code can't be kept, only compiled for this process
            _log.debug("the compiled code is not kept: %s", error)
        except Exception as error:  # private parts of torch may raise anything
            log_once(f"compiled code can't be kept ({type(error).__name__}: {_first_line(error)})")
    ways: list[tuple[str, Callable[[], Runner]]] = [
        ("inductor", lambda: compiled_alone(rewritten, example, dict(options))),
        ("torch.compile", lambda: _guarded(rewritten, example, plain)),
    ]
    for backend, build in ways:
        try:
            with _compiling():
                return build(), backend
        except Exception as error:  # private parts of torch may raise anything; the uncompiled graph still runs
            log_once(f"{backend} can't compile the graph ({type(error).__name__}: {_first_line(error)})")
    return graph, "graph"


def _copied(graph: GraphModule) -> GraphModule:
    """Another graph of the same operations, which holds the same tensors."""
    return GraphModule(graph, deepcopy(graph.graph))


def _for_threads() -> dict[str, int]:
    """The number of threads that loops are written for; it becomes part of inductor's cache key.

    At least two: what inductor writes for one thread is wrong on several, where each adds the whole of a sum, and its
    cache on disk would give it to a later process that has more.
    """
    return {"cpp.threads": max(2, torch.get_num_threads())}


def _guarded(graph: GraphModule, example: list[Tensor], options: dict[str, Any]) -> Runner:
    run = torch.compile(graph, options=options)
    run(*example)
    return run


@contextmanager
def _compiling() -> Iterator[None]:
    with seeded(0, "compile"), _quiet(), _contained(), torch.no_grad():
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress torch's messages on recording and compiling."""
    loggers = [logging.getLogger(name) for name in ("torch.utils.cpp_extension", "torch._inductor", "torch._dynamo")]
    levels: Mapping[logging.Logger, int] = {logger: logger.level for logger in loggers}
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextmanager
def _contained() -> Iterator[None]:
    """Restore what inductor changes in the process: the recursion limit, which it raises each time, and tqdm."""
    before = sys.getrecursionlimit()
    try:
        with bars_contained():
            yield
    finally:
        sys.setrecursionlimit(before)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else "no message"
