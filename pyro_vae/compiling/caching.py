"""Recorded graphs kept for later calls, each under a cache key: a second estimate need not record and compile again.

Without it, a second estimate of 100 data with K = 1000 takes 1.4 times as long where inductor's cache on disk is filled
(0.2 s more), and some ten seconds more where it is not (docs/performance.md).
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
    """Everything visible that a recorded graph is fixed to; graphs with equal keys may be used for one another.

    Plain attributes of modules (numbers, functions) can't be seen from outside, so whoever takes a graph from the cache
    compares it with the programs first.

    Args:
        recorded: what was recorded, and the numbers that it was recorded with.
        inputs: shape, dtype and device of each input.
        storage: address, dtype and device of each parameter and buffer. A kept graph holds its parameters' storage, so
            that no other tensor can have the address.
        buffers: how often each buffer was changed in place: a graph has buffers as constants.
        precisions: that of the products of each module, None for that of its weights.
        threads: of torch; a compiled graph divides its loops by their number.
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
        most: graphs kept for a module.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._kept: WeakKeyDictionary[nn.Module, dict[CacheKey, Kept]] = WeakKeyDictionary()

    def of(self, module: nn.Module) -> dict[CacheKey, Kept]:
        """The graphs of a module by key, oldest first."""
        return self._kept.setdefault(module, {})

    def keep(self, module: nn.Module, key: CacheKey, graphs: Kept) -> None:
        """Keep graphs, in the place of the oldest where there are `most`."""
        kept = self.of(module)
        while len(kept) >= self.most:
            del kept[next(iter(kept))]
        kept[key] = graphs

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()
