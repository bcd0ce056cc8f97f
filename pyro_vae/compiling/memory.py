"""A cache for values that a module computes from its weights alone, for many runs.

An estimate of log p(x) runs a model some hundred times for each block of data. A prior that is a mixture of
q(z|u) at learned inputs u (`VampPrior`) would run the encoder on all of them each time. Such a module stores its
tensors by `remember` and gets them back by `recall`. The caller of `remembering` guarantees that weights do not change
inside; outside of it nothing is stored. Without the cache, log p(x) takes 1.3 to 1.5 times as long with a
VampPrior of 500 components, 1.1 times with 50 (docs/performance.md).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self

import torch
from torch import Tensor, nn


class Memory(dict[nn.Module, tuple[Tensor, ...]]):
    """Remembered tensors by the module that computed them."""

    def tensors(self) -> list[Tensor]:
        """All of them, module by module: inputs of a recorded graph."""
        return [tensor for tensors in self.values() for tensor in tensors]

    def shapes(self) -> list[torch.Size]:
        """The shapes of `tensors()`."""
        return [tensor.shape for tensor in self.tensors()]

    def holding(self, tensors: Sequence[Tensor]) -> Self:
        """The same modules with other tensors, in the order of `tensors()`."""
        rest = iter(tensors)
        return type(self)({module: tuple(next(rest) for _ in known) for module, known in self.items()})


_active: ContextVar[Memory | None] = ContextVar("memory", default=None)


@contextmanager
def remembering(known: Memory | None = None) -> Iterator[Memory]:
    """Inside the block, modules cache values that depend on weights alone.

    The caller guarantees that inside no weight, mode or precision of products changes, and that no gradient for a
    weight is needed. A nested block starts with an empty memory.

    Args:
        known: initial contents, which are copied.

    Example:
        >>> module = nn.Linear(2, 3)
        >>> with remembering() as memory:
        ...     remember(module, [module.weight.exp()])
        ...     same = recall(module)[0] is recall(module)[0]
        >>> same, len(memory), recall(module)
        (True, 1, None)
    """
    memory = Memory(known or {})
    token = _active.set(memory)
    try:
        yield memory
    finally:
        _active.reset(token)


@contextmanager
def forgetting() -> Iterator[None]:
    """Switch the cache off inside the block: in a recorded graph a cached tensor would be a constant."""
    token = _active.set(None)
    try:
        yield
    finally:
        _active.reset(token)


def recall(module: nn.Module) -> tuple[Tensor, ...] | None:
    """The cached tensors of a module, or None."""
    memory = _active.get()
    return None if memory is None else memory.get(module)


def remember(module: nn.Module, tensors: Sequence[Tensor] | None) -> None:
    """Cache tensors that depend on a module's weights alone, without gradients; only inside `remembering`.

    Args:
        module: the module that computed them.
        tensors: the tensors; None to store nothing.
    """
    memory = _active.get()
    if memory is not None and tensors is not None:
        memory[module] = tuple(tensor.detach() for tensor in tensors)
