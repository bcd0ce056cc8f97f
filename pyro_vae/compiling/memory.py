"""What a program computes from its weights alone, computed once for many runs of it.

An estimate of log p(x) runs a model some hundred times for each block of data, and a prior that is made of q(z|u) at
inputs of its own (`VampPrior`) would run the encoder on all of them each time. While weights stay as they are, such a
part hands its tensors to `remember` and gets them back by `recall`. That is nobody's promise but that of whoever enters
`remembering`; outside of it nothing is remembered.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor, nn

Memory = dict[nn.Module, tuple[Tensor, ...]]


_active: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembering(known: Mapping[nn.Module, Sequence[Tensor]] | None = None) -> Iterator[Memory]:
    """Let modules remember, for the time of the block, what depends on weights alone.

    Whoever enters promises that inside no weight, mode or type of products changes, and that no gradient for a weight
    is wanted. Within another one it begins anew.

    Args:
        known: what is remembered from the start.

    Example:
        >>> module = nn.Linear(2, 3)
        >>> with remembering() as memory:
        ...     remember(module, [module.weight.exp()])
        ...     same = recall(module)[0] is recall(module)[0]
        >>> same, len(memory), recall(module)
        (True, 1, None)
    """
    memory: Memory = {module: tuple(tensors) for module, tensors in (known or {}).items()}
    token = _active.set(memory)
    try:
        yield memory
    finally:
        _active.reset(token)


@contextmanager
def forgetting() -> Iterator[None]:
    """Compute everything anew for the time of the block: where operations are recorded, what is remembered would be a
    constant.
    """
    token = _active.set(None)
    try:
        yield
    finally:
        _active.reset(token)


def recall(module: nn.Module) -> tuple[Tensor, ...] | None:
    """What a module has remembered; None where there is nothing."""
    memory = _active.get()
    return None if memory is None else memory.get(module)


def remember(module: nn.Module, tensors: Sequence[Tensor] | None) -> None:
    """Keep tensors that depend on a module's weights alone, without their gradients; nothing where nobody remembers.

    Args:
        module: whose they are.
        tensors: what to keep; None for what can't be kept.
    """
    memory = _active.get()
    if memory is not None and tensors is not None:
        memory[module] = tuple(tensor.detach() for tensor in tensors)
