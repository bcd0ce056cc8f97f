"""The seam to what torch keeps private. Each name may change with a release: `tests/house/test_private_names.py` lists
them, and `pyproject.toml` bounds torch's version.

Torch's compiler takes seconds to import, so it is imported where it is used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import unwrap
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.fx import GraphModule
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

__all__ = [
    "DispatchMode",
    "abort_process_group",
    "argument_names",
    "changes_in_place",
    "compile_library",
    "compiled_alone",
    "fused_adam",
    "load_library",
    "noting_shapes",
    "operation_name",
    "outside_modes",
    "traced",
    "versions",
    "without_compiler",
]

outside_modes = _disable_current_modes
"""A context in which no dispatch mode (tracing, fake tensors) is active."""


class DispatchMode(TorchDispatchMode):
    """A class whose `__torch_dispatch__` sees every operation on tensors inside its `with` block.

    torch wraps that method so that its compiler leaves it alone, and imports the compiler for that, which takes 2 s.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


def traced(function: Callable[..., Any], *inputs: Any) -> GraphModule:
    """Run a function once and return the tensor operations that it made, those of autograd included, as a graph."""
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(function)(*inputs)


def traced_for_any_batch(function: Callable[..., Any], *inputs: Any, decomposed: bool) -> GraphModule:
    """As `traced`, but for inputs with any size of the first dimension.

    Args:
        function: of tensors.
        *inputs: an example, whose first dimension is neither 0 nor 1, nor that of any other: equal sizes are taken for
            the same size.
        decomposed: whether derivatives of torch's functions are written by simpler operations.
    """
    from torch._decomp import decomposition_table
    from torch.fx.experimental.proxy_tensor import make_fx

    table = {operation: rule for operation, rule in decomposition_table.items() if "backward" in str(operation)}
    record = make_fx(function, table if decomposed else {}, tracing_mode="symbolic", _allow_non_fake_inputs=True)
    return record(*inputs)


@contextmanager
def noting_shapes() -> Iterator[None]:
    """One fake mode, in which `traced` notes the shape of every value.

    Without one in its context it makes another for each value, and recording takes 1.5 times as long.
    """
    from torch._guards import TracingContext, tracing
    from torch._subclasses.fake_tensor import FakeTensorMode

    with tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True))):
        yield


def compiled_alone(graph: GraphModule, example: list[Any], options: dict[str, Any]) -> Callable[..., Sequence[Tensor]]:
    """The graph compiled by inductor for inputs like the example, and run on it once.

    Without dynamo and its guards: shapes never change, so nothing need be checked at each call. With them a training
    step of 100 data takes 1.04 times as long (docs/performance.md).
    """
    import torch._inductor as inductor
    import torch._inductor.config as config

    with config.patch(options):
        run = inductor.standalone_compile(graph, example, dynamic_shapes="from_example_inputs")
        run(*example)
    return run


def compile_library(graph: GraphModule, example: list[Any], options: Mapping[str, Any], file: Path) -> None:
    """Compile a graph by inductor for inputs like the example, on the CPU, into a file that `load_library` loads."""
    import torch._inductor as inductor

    inductor.aot_compile(graph, tuple(example), options={**options, "aot_inductor.output_path": str(file)})


def calls_python(file: Path) -> bool:
    """Whether code of `compile_library` calls an operation through Python, which it can only in a package of torch's.

    Such a call fails, and writes to the process's standard error.
    """
    return b"aoti_torch_proxy_executor_call_function" in file.read_bytes()


def load_library(file: Path) -> Callable[[list[Tensor]], list[Tensor]]:
    """The function in a file of `compile_library`, without the compiler.

    Raises:
        RuntimeError: if there is no such file, or it can't be loaded.
    """
    return torch._C._aoti.AOTIModelContainerRunnerCpu(str(file), 1).run  # pyright: ignore[reportAttributeAccessIssue]


_MARKED = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
"""Methods of torch's optimizers that its compiler must not compile."""


@cache
def without_compiler(cls: type[Optimizer]) -> type[Optimizer]:
    """A class of `torch.optim` that makes the same steps without importing torch's compiler, which takes 2 s.

    torch wraps these methods in a request to the compiler, not to compile them or to split its graph there, and imports
    it for that. The methods themselves are below the wrappers. The one of `step` also switches gradients off; torch
    adds its hooks to a new `step` itself.
    """
    methods = {name: unwrap(getattr(cls, name)) for name in _MARKED} | {"step": torch.no_grad()(unwrap(cls.step))}
    return type(cls.__name__, (cls,), methods | {"__module__": cls.__module__})


def fused_adam(decoupled: bool, *tensors: Sequence[Tensor], **options: Any) -> None:
    """The kernel of Adam's update of many parameters, in place, or of AdamW's, whose weight decay is decoupled.

    Args:
        decoupled: whether AdamW's.
        *tensors: parameters, gradients, means, squares, largest squares (none without amsgrad), counts of the steps,
            this one included.
        **options: the numbers of the optimizer.
    """
    kernel: Callable[..., None] = torch._fused_adamw_ if decoupled else torch._fused_adam_
    kernel(*tensors, **options)


def versions(tensors: Iterable[Tensor]) -> list[int]:
    """How often each tensor was changed in place."""
    return [tensor._version for tensor in tensors]


@cache
def argument_names(operation: Any) -> list[str]:
    """Of an operation as a dispatch mode sees it."""
    return [argument.name for argument in operation._schema.arguments]


def operation_name(operation: Any) -> str:
    """Its name without that of the overload, e.g. `"aten::add"`."""
    return operation._schema.name


@cache
def changes_in_place(operation: Any) -> bool:
    """Whether an operation writes its result into its first argument."""
    return operation_name(operation).endswith("_")


def abort_process_group() -> None:
    """Leave torch.distributed's group without waiting for the others, where this torch can."""
    getattr(dist.distributed_c10d, "_abort_process_group", dist.destroy_process_group)()
