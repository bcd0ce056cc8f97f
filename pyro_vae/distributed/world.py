"""Several processes on one batch: rank and size of the group, and its collectives."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from itertools import count
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_vae.errors import PeerLost, UsageError
from pyro_vae.process.torch_internals import abort_process_group

TIMEOUT = 600.0
"""Seconds to wait for another process. Gloo notices at once a process that dies, so this is for one that hangs; it must
exceed the longest time between two collectives: compiling, reading data, writing to a slow disk."""


# ---- the processes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """The group of processes that train together. All processes must call its methods in the same order.

    With one process no method communicates, and `torch.distributed` is not used.

    Args:
        rank: rank of this process, from 0.
        size: number of processes.
        device: device of this process.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    _flat: dict[Any, tuple[Tensor, list[Tensor]]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def rows(self, n: int) -> slice:
        """This process's rows of a batch of `n`: contiguous, in order of rank, the sizes differing by at most 1.

        With fewer rows than processes some get none: such a process skips its program (Pyro has no empty plate) and
        adds zeros to the sums, so that the sum is that of one process and no process waits.

        Example:
            >>> [World(rank, 2).rows(7) for rank in range(2)]
            [slice(0, 4, None), slice(4, 7, None)]
        """
        least, more = divmod(n, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    @torch.no_grad()
    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over the processes, with the same bits on all of them.

        One reduction for all tensors of a dtype and device, in a buffer that is reused by the next call with the same
        shapes: the results are views of it, valid until that call.

        Args:
            tensors: of the same shapes, dtypes and order on every process.

        Returns:
            The sums, on the tensors' devices; with one process the tensors themselves.

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        if self.size == 1:
            return list(tensors)
        kinds: dict[Any, list[int]] = {}
        for i, tensor in enumerate(tensors):
            kinds.setdefault((tensor.dtype, tensor.device), []).append(i)
        summed: dict[int, Tensor] = {}
        for (_, device), places in kinds.items():
            group = [tensors[i] for i in places]
            flat, views = self._buffer(group)
            for view, tensor in zip(views, group, strict=True):
                view.copy_(tensor)
            self._together(lambda flat=flat: dist.all_reduce(flat))
            summed |= {i: view.to(device) for i, view in zip(places, views, strict=True)}
        return [summed[i] for i in range(len(tensors))]

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes: `sums` in place.

        If it fails, the tensors are unchanged.

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        if self.size > 1 and tensors:
            for tensor, total in zip(tensors, self.sums(tensors), strict=True):
                tensor.copy_(total)

    def gather(self, shard: Tensor) -> Tensor:
        """The shards of all processes, concatenated along dimension 0 in order of rank, on every process.

        Args:
            shard: `[n, *rest]`; n may differ between processes, and be 0; `rest` and the dtype may not.

        Returns:
            `[sum of n, *rest]`, on the shard's device, without gradients, bit for bit.

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        if self.size == 1:
            return shard.detach()
        lengths = [int(n) for n in self._all(torch.tensor([len(shard)]))]
        row = prod(shard.shape[1:])
        if not max(lengths) * row:
            return shard.new_empty(sum(lengths), *shard.shape[1:])
        padded = shard.new_zeros(max(lengths) * row)
        padded[: shard.numel()] = shard.detach().reshape(-1)
        parts = [
            part.view(shard.dtype)[: n * row] for part, n in zip(self._all(_as_bytes(padded)), lengths, strict=True)
        ]
        return torch.cat(parts).reshape(sum(lengths), *shard.shape[1:]).to(shard.device)

    def broadcast(self, data: bytes | None) -> bytes:
        """The bytes of process 0, on every process; those of other processes are ignored.

        Raises:
            UsageError: if process 0 passes None.
            PeerLost: if another process is gone or does not answer.
        """
        if self.main and data is None:
            raise UsageError("process 0 has nothing to broadcast: expected bytes, got None")
        if self.size == 1:
            return data or b""
        mine = data if self.main and data else b""
        length = self.largest(len(mine))
        if not length:
            return b""
        buffer = torch.frombuffer(bytearray(mine or length), dtype=torch.uint8).to(self._control)
        self._together(lambda: dist.broadcast(buffer, src=0))
        return buffer.cpu().numpy().tobytes()

    def largest(self, number: int) -> int:
        """The maximum of an integer over the processes, on every process; used for common decisions (to stop, to save).

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self._control)
        self._together(lambda: dist.all_reduce(value, op=dist.ReduceOp.MAX))
        return int(value)

    def barrier(self) -> None:
        """Wait for all processes.

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        self.largest(0)

    @property
    def _control(self) -> torch.device:
        """Device for small messages: the CPU if it has a backend, since gloo notices a dead process at once."""
        return torch.device("cpu") if _carries("cpu") else self.device

    def _buffer(self, group: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One flat tensor for a list of tensors, and views of it in their shapes."""
        first = group[0]
        key = (first.dtype, first.device, tuple(tensor.shape for tensor in group))
        if key not in self._flat:
            device = first.device if _carries(first.device.type) else self.device
            flat = torch.empty(sum(tensor.numel() for tensor in group), dtype=first.dtype, device=device)
            parts = flat.split([tensor.numel() for tensor in group])
            self._flat[key] = flat, [part.view(tensor.shape) for part, tensor in zip(parts, group, strict=True)]
        return self._flat[key]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, which have one shape."""
        tensor = tensor if _carries(tensor.device.type) else tensor.to(self.device)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._together(lambda: dist.all_gather(parts, tensor))
        return parts

    def _together(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:  # the narrowest class that gloo and nccl both raise
            raise PeerLost(self.rank, self.size, _reason(error)) from error


def _as_bytes(tensor: Tensor) -> Tensor:
    """A view as bytes, since gloo can't gather bool and some small float types."""
    return tensor.view(torch.uint8)


def _carries(device_type: str) -> bool:
    """Whether the process group has a backend for tensors of this kind."""
    return f"{device_type}:" in dist.get_backend_config()


def _reason(error: BaseException) -> str:
    """The first line of an error of gloo or nccl, without the place in its source."""
    return re.sub(r"^\[\S+:\d+\]\s*", "", str(error).strip().split("\n")[0])


# ---- joining and leaving ---------------------------------------------------------------------------------------------


@contextmanager
def connect(device: torch.device | str = "cpu", timeout: float = TIMEOUT) -> Iterator[World]:
    """Join the group of processes that `torchrun` has started, and leave it at the end.

    Tensors on the CPU are sent by gloo, those on CUDA devices by nccl. Without torchrun the group is this process
    alone. If the caller has initialised a process group, that is used and not closed.

    Args:
        device: device to compute on; for `"cuda"` each process takes the device of its `LOCAL_RANK`.
        timeout: seconds after which a process that does not answer counts as lost.

    Yields:
        The `World`.

    Raises:
        UsageError: if torchrun's environment variables are incomplete or wrong, or there is no device for this process.
        PeerLost: if the other processes can't be reached.

    Example:
        >>> with connect("cpu") as world:
        ...     world.size, world.main
        (1, True)
    """
    device, place = torch.device(device), None
    if dist.is_available() and dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size(), device)
        return
    place = _place()
    if place is None:
        yield World(device=device)
        return
    world = World(*place, _own_device(device))
    _join(world, timeout)
    try:
        yield world
    except BaseException:
        _leave(abort=world.device.type == "cuda")
        raise
    _leave()


def _place() -> tuple[int, int] | None:
    """(rank, size) from torchrun's environment variables; None without torchrun, or for a single process."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < size:
        raise UsageError(f"expected 0 <= RANK < WORLD_SIZE, got RANK={rank}, WORLD_SIZE={size}: start with torchrun")
    if size > 1 and (missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]):
        raise UsageError(
            f"RANK={rank} and WORLD_SIZE={size} are set but {' and '.join(missing)} not: start with torchrun, or unset "
            "RANK and WORLD_SIZE to run one process"
        )
    return (rank, size) if size > 1 else None


def _number(name: str) -> int:
    try:
        return int(os.environ[name])
    except ValueError as error:
        raise UsageError(
            f"the environment variable {name} must be a whole number, got {os.environ[name]!r}: start with torchrun, "
            "which sets it, or unset it to run one process"
        ) from error


def _own_device(device: torch.device) -> torch.device:
    """The device of this process; also makes it the current CUDA device."""
    if device.type != "cuda":
        return device
    if "LOCAL_RANK" not in os.environ:
        raise UsageError("LOCAL_RANK, the index of the CUDA device of a process, is not set: start with torchrun")
    local, count = _number("LOCAL_RANK"), torch.cuda.device_count()
    if not 0 <= local < count:
        raise UsageError(
            f"process {local} of this machine has no CUDA device, there are {count}: start at most {count} here "
            "(--nproc-per-node), or use --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


_joined = count()
"""Number of groups that this process has joined: a store lives longer than a group, and keeps its addresses."""


_stores: dict[tuple[str | None, ...], Any] = {}
"""Kept until the process ends: when it leaves a group, other processes may still read from the store."""


def _join(world: World, timeout: float) -> None:
    """Initialise the process group; on CUDA it also has gloo, for tensors on the CPU."""
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    if not dist.is_available() or not dist.is_gloo_available():
        raise UsageError("this build of torch has no gloo, which several processes need: run one process")
    # At import its functions take the current group as a default argument, which would keep our group alive.
    import_module("torch.distributed.nn.functional")
    wait = timedelta(seconds=timeout)
    try:
        with _blocking_nccl():
            store = _store(world, wait)
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=wait)
    except RuntimeError as error:
        raise PeerLost(world.rank, world.size, _reason(error)) from error
    except ValueError as error:
        raise UsageError(f"can't reach the other processes: {error}; start with torchrun") from error


def _store(world: World, wait: timedelta) -> "dist.Store":
    """The store by which the processes find each other, new for every group."""
    place = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if place not in _stores:
        _stores[place] = next(dist.rendezvous("env://", world.rank, world.size, timeout=wait))[0]
    store = dist.PrefixStore(f"pyro_vae/{next(_joined)}", _stores[place])
    store.set_timeout(wait)
    return store


@contextmanager
def _blocking_nccl() -> Iterator[None]:
    """Make nccl raise an error at a timeout; by default it ends the process, with nothing saved."""
    name = "TORCH_NCCL_BLOCKING_WAIT"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _leave(abort: bool = False) -> None:
    """Leave the process group. After an error nccl is aborted: a normal end would wait for the others."""
    if not dist.is_initialized():
        return
    (abort_process_group if abort else dist.destroy_process_group)()
