"""Recorded graphs kept for later calls, each under a cache key: a second estimate need not record and compile again.

Without it, a second estimate of 100 data with K = 1000 takes 1.4 times as long with inductor's cache on disk
(0.2 s more), and some ten seconds more without it (docs/performance.md).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Self, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pyro_vae.process.torch_internals import versions

Kept = TypeVar("Kept")


@dataclass(frozen=True)
class CacheKey:
    """All visible values that a recorded graph depends on; graphs with equal keys may be used for one another.

    Plain attributes of modules (numbers, functions) are not visible, so a graph from the cache must be compared with
    the programs before it is used.

    Args:
        recorded: name of the recorded function, and the numbers that it was recorded with.
        inputs: shape, dtype and device of each input.
        storage: address, dtype and device of each parameter and buffer. A kept graph holds its parameters' storage, so
            that no other tensor can have the address.
        buffers: version counter of each buffer: buffers are constants in a graph.
        precisions: dtype of the products of each module, None for that of its weights.
        threads: number of torch's threads; a compiled graph divides its loops by it.
    """

    recorded: Hashable
    inputs: Hashable
    storage: Hashable
    buffers: Hashable
    precisions: Hashable
    threads: int

    @classmethod
    def of(cls, recorded: Hashable, module: nn.Module, inputs: Sequence[Tensor]) -> Self:
        """The key of a graph of `module` at these inputs, now."""
        buffers = list(module.buffers())
        return cls(
            recorded,
            inputs=tuple((x.shape, x.dtype, x.device) for x in inputs),
            storage=tuple((x.data_ptr(), x.dtype, x.device) for x in (*module.parameters(), *buffers)),
            buffers=tuple(versions(buffers)),
            precisions=tuple(getattr(m, "compute_dtype", None) for m in module.modules()),
            threads=torch.get_num_threads(),
        )


class GraphCache(Generic[Kept]):
    """The latest graphs of each module, dropped together with the module.

    Args:
        most: maximum number of graphs for a module.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: WeakKeyDictionary[nn.Module, dict[CacheKey, Kept]] = WeakKeyDictionary()

    def of(self, module: nn.Module) -> dict[CacheKey, Kept]:
        """The graphs of a module by key, oldest first."""
        return self._kept.setdefault(module, {})

    def keep(self, module: nn.Module, key: CacheKey, graphs: Kept) -> None:
        """Keep graphs; replaces the oldest if there are already `most`."""
        kept = self.of(module)
        while len(kept) >= self.most:
            del kept[next(iter(kept))]
        kept[key] = graphs

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()
