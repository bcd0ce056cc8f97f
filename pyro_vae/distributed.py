"""Several processes on one batch: who we are among them, sums over them, and the noise of one process shared out.

    with connect("cpu") as world, ShardedNoise(world, len(x)):  # under torchrun; elsewhere a world of one process
        loss = objective(model, guide, x[world.rows(len(x))])

Every process holds all the weights and computes on its own rows of each batch. Its draws are its rows of the draws that
one process would make, so that after `World.sum_` of the gradients the result is that of one process, up to the order
in which floats are added.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from importlib import import_module
from itertools import count
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pyro_vae.errors import PeerLost, UsageError

TIMEOUT = 600.0
"""Seconds to wait for another process. One that dies is noticed at once (over gloo), so this is for one that hangs; it
must exceed the longest stretch that a process works alone: compiling, reading data, writing to a slow disk."""


# ---- the processes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them. All must call its methods in the same order.

    With one process every method is immediate and `torch.distributed` is never touched.

    Args:
        rank: which of them this is, from 0.
        size: how many there are.
        device: where this process computes.
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
        takes part in the sums with zeros, so that the sum is still that of one process and nobody waits for it.

        Example:
            >>> [World(rank, 2).rows(7) for rank in range(2)]
            [slice(0, 4, None), slice(4, 7, None)]
        """
        least, more = divmod(n, self.size)
        start = self.rank * least + min(self.rank, more)
        return slice(start, start + least + (self.rank < more))

    @torch.no_grad()
    def sums(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over the processes, the same bits on all of them.

        One reduction for all tensors of a dtype and device, through a buffer that is kept for the next call with the
        same shapes: the results are parts of it, to be used before that call.

        Args:
            tensors: of the same shapes, dtypes and order on every process.

        Returns:
            The sums, where the tensors are; with one process the tensors themselves.

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
            torch._foreach_copy_(views, group)
            self._together(lambda flat=flat: dist.all_reduce(flat))
            summed |= {i: view.to(device) for i, view in zip(places, views, strict=True)}
        return [summed[i] for i in range(len(tensors))]

    @torch.no_grad()
    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes: `sums` in place.

        Where it fails, the tensors are as they were.

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        if self.size > 1 and tensors:
            torch._foreach_copy_(list(tensors), self.sums(tensors))

    def gather(self, shard: Tensor) -> Tensor:
        """The shards of all processes, concatenated along dimension 0 in order of rank, on every process.

        Args:
            shard: `[n, *rest]`; n may differ between processes, and be 0; `rest` and the dtype may not.

        Returns:
            `[sum of n, *rest]`, on the shard's device, without gradients, to the bit.

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
        """The bytes of process 0, on every process; what the others pass is not looked at.

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
        """The largest of the processes' whole numbers, on every process: how they decide together (to stop, to save).

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        if self.size == 1:
            return number
        value = torch.tensor(number, device=self._control)
        self._together(lambda: dist.all_reduce(value, op=dist.ReduceOp.MAX))
        return int(value)

    def barrier(self) -> None:
        """Wait until every process is here.

        Raises:
            PeerLost: if another process is gone or does not answer.
        """
        self.largest(0)

    @property
    def _control(self) -> torch.device:
        """Where small messages travel: by the CPU if it has a backend, since gloo notices a dead process at once."""
        return torch.device("cpu") if _carries("cpu") else self.device

    def _buffer(self, group: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """One flat tensor for a list of tensors, and its parts in their shapes."""
        first = group[0]
        key = (first.dtype, first.device, tuple(tensor.shape for tensor in group))
        if key not in self._flat:
            device = first.device if _carries(first.device.type) else self.device
            flat = torch.empty(sum(tensor.numel() for tensor in group), dtype=first.dtype, device=device)
            parts = flat.split([tensor.numel() for tensor in group])
            self._flat[key] = flat, [part.view(tensor.shape) for part, tensor in zip(parts, group, strict=True)]
        return self._flat[key]

    def _all(self, tensor: Tensor) -> list[Tensor]:
        """A tensor of every process, all of one shape."""
        tensor = tensor if _carries(tensor.device.type) else tensor.to(self.device)
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        self._together(lambda: dist.all_gather(parts, tensor))
        return parts

    def _together(self, collective: Callable[[], object]) -> None:
        try:
            collective()
        except RuntimeError as error:  # gloo and nccl raise no narrower class in common
            raise PeerLost(self.rank, self.size, _reason(error)) from error


def _as_bytes(tensor: Tensor) -> Tensor:
    """Gloo gathers no booleans and few of the small floats, but bytes it does."""
    return tensor.view(torch.uint8)


def _carries(device_type: str) -> bool:
    """Whether the process group has a backend for tensors of this kind."""
    return device_type in {device.type for device in dist.group.WORLD._device_types}  # pyright: ignore


def _reason(error: BaseException) -> str:
    """The first line of an error of gloo or nccl, without the place in its source."""
    return re.sub(r"^\[\S+:\d+\]\s*", "", str(error).strip().split("\n")[0])


# ---- joining and leaving ---------------------------------------------------------------------------------------------


@contextmanager
def connect(device: torch.device | str = "cpu", timeout: float = TIMEOUT) -> Iterator[World]:
    """Join the processes that `torchrun` has started beside this one, and leave them at the end.

    Tensors on the CPU travel by gloo, those on CUDA devices by nccl. Outside torchrun the world is this process alone.
    A process group that is there already (the caller's) is used, and left alone.

    Args:
        device: where to compute; for `"cuda"` each process takes the device of its `LOCAL_RANK`.
        timeout: seconds after which a process that does not answer counts as lost.

    Yields:
        The `World`.

    Raises:
        UsageError: if torchrun's environment variables are incomplete or wrong, or there is no device for this process.
        PeerLost: if the others can't be met.

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
    """(rank, size) by torchrun's environment variables; None outside torchrun, and where it starts one process."""
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
    """The device of this process, made the current one."""
    if device.type != "cuda":
        return device
    if "LOCAL_RANK" not in os.environ:
        raise UsageError("LOCAL_RANK says which CUDA device a process takes, and is not set: start with torchrun")
    local, count = _number("LOCAL_RANK"), torch.cuda.device_count()
    if not 0 <= local < count:
        raise UsageError(
            f"process {local} of this machine has no CUDA device, there are {count}: start at most {count} here "
            "(--nproc-per-node), or use --device cpu"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


_joined = count()
"""How often this process has joined: a store outlives a group, and still has the addresses of its members."""
_stores: dict[tuple[str | None, ...], Any] = {}
"""Kept as long as the process: when it leaves a group the others may be about to read."""


def _join(world: World, timeout: float) -> None:
    """Make the process group; a world on CUDA has gloo beside nccl, for what is on the CPU."""
    backend = "cpu:gloo,cuda:nccl" if world.device.type == "cuda" else "gloo"
    if not dist.is_available() or not dist.is_gloo_available():
        raise UsageError("this build of torch has no gloo, by which processes talk: run one process")
    # Its functions take the group of the moment they are defined as a default, and would keep ours from ending.
    import_module("torch.distributed.nn.functional")
    wait = timedelta(seconds=timeout)
    try:
        with _blocking_nccl():
            store = _store(world, wait)
            dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=wait)
    except RuntimeError as error:
        raise PeerLost(world.rank, world.size, _reason(error)) from error
    except ValueError as error:
        raise UsageError(f"can't meet the other processes: {error}; start with torchrun") from error


def _store(world: World, wait: timedelta) -> "dist.Store":
    """Where the processes find one another, new for every group."""
    place = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT")
    if place not in _stores:
        _stores[place] = next(dist.rendezvous("env://", world.rank, world.size, timeout=wait))[0]
    store = dist.PrefixStore(f"pyro_vae/{next(_joined)}", _stores[place])
    store.set_timeout(wait)
    return store


@contextmanager
def _blocking_nccl() -> Iterator[None]:
    """Have nccl report a timeout as an error to who waits; by default it ends the process, with nothing saved."""
    name = "TORCH_NCCL_BLOCKING_WAIT"
    before = os.environ.get(name)
    os.environ.setdefault(name, "1")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _leave(abort: bool = False) -> None:
    """Leave the process group. After an error nccl is aborted: an orderly end would wait for the others."""
    if not dist.is_initialized():
        return
    leave = getattr(dist.distributed_c10d, "_abort_process_group", None) if abort else None
    (leave or dist.destroy_process_group)()


# ---- noise -----------------------------------------------------------------------------------------------------------


class ShardedNoise(Messenger):
    """Effect handler under which a program on this process's rows draws as one process would on the whole batch.

    At each unobserved site the random numbers are drawn for all `total` rows and this process's are kept. Draws of all
    processes, concatenated, are those of one process to the bit, and the generators end in the same state: start them
    from the same one on every process (`seeding.seeded`). With one process it does nothing.

    Args:
        world: the processes.
        total: rows of the whole batch; the program must run on `world.rows(total)` of them, in a plate at dimension -1.
        watch: whether to compare the generators' states between sites, to refuse random numbers that nobody shares out;
            about 0.3 ms a run on a CPU, so a loop may watch its first step alone.

    Raises:
        UsageError: if this process has no rows. Inside: for a site outside the data plate or in a subsampled one; for a
            draw that depends on other rows' parameters (Gamma, Poisson and whatever rejects proposals); and for random
            numbers drawn outside sample sites (dropout).

    Example:
        >>> import pyro
        >>> def guide(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         return pyro.sample("z", pyro.distributions.Normal(x, 1.0))
        >>> x, draws = torch.zeros(5), []
        >>> for rank in range(2):
        ...     world = World(rank, 2)
        ...     _ = torch.manual_seed(0)
        ...     with ShardedNoise(world, len(x)):
        ...         draws.append(guide(x[world.rows(len(x))]))
        >>> _ = torch.manual_seed(0)
        >>> bool((torch.cat(draws) == guide(x)).all())
        True
    """

    def __init__(self, world: World, total: int, watch: bool = True) -> None:
        super().__init__()
        rows = world.rows(total)
        if rows.start == rows.stop and world.size > 1:
            raise UsageError(
                f"a batch of {total} rows leaves none for process {world.rank} of {world.size}: skip the program there "
                "and add zeros to the sums"
            )
        self.world, self.total, self.own = world, total, rows
        self._watch = watch and world.size > 1
        self._state: list[bytes] = []

    def __enter__(self) -> "ShardedNoise":
        self._remember()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        if error[0] is None:
            self._check_nothing_drawn("after the last site")

    def _pyro_sample(self, msg: Any) -> None:
        drawn = msg["done"] or msg["is_observed"] or msg["value"] is not None
        if self.world.size == 1 or drawn or site_is_subsample(msg):
            return
        self._check_site(msg)
        self._check_nothing_drawn(f"before site {msg['name']!r}")
        with _WholeBatch(msg["name"], msg["fn"], self.own, self.total):
            msg["value"] = msg["fn"](*msg["args"], **msg["kwargs"])
        msg["done"] = True
        self._remember()

    def _check_site(self, msg: Any) -> None:
        """Refuse a site whose rows are not this process's rows of the batch."""
        rows = self.own.stop - self.own.start
        plates = [frame for frame in msg["cond_indep_stack"] if frame.dim == -1]
        if not isinstance(msg["fn"], TorchDistributionMixin) or not plates:
            raise UsageError(
                f"site {msg['name']!r} is not drawn from a Pyro distribution in a data plate at dimension -1, so it "
                f"has no rows to share out over processes: put it in one, {_ALONE}"
            )
        if (plates[0].size, plates[0].full_size) != (rows, rows):
            raise UsageError(
                f"site {msg['name']!r} is in a plate of {plates[0].size} of {plates[0].full_size} rows, expected all "
                f"{rows} rows of this process: run the program on them without subsampling, {_ALONE}"
            )

    def _remember(self) -> None:
        self._state = _generator_state() if self._watch else []

    def _check_nothing_drawn(self, where: str) -> None:
        if self._watch and _generator_state() != self._state:
            raise UsageError(
                f"random numbers were drawn outside the sample sites (dropout? a hidden site?), {where}: they can't be "
                f"shared out so that the result is that of one process; leave them out, {_ALONE}"
            )


_ALONE = "or run one process (without torchrun)"


def _generator_state() -> list[bytes]:
    """The state of torch's generators, whatever mode (tracing, fake tensors) the program runs in."""
    with _disable_current_modes():
        states = [torch.default_generator.get_state()]
        if torch.cuda.is_initialized() and not torch.cuda.is_current_stream_capturing():
            states.append(torch.cuda.get_rng_state())
        return [state.numpy().tobytes() for state in states]


_aten = torch.ops.aten
_SHARED_OUT = {
    *(_aten.rand, _aten.randn, _aten.randint, _aten.rand_like, _aten.randn_like, _aten.randint_like),
    *(_aten.normal_, _aten.uniform_, _aten.exponential_, _aten.cauchy_, _aten.log_normal_, _aten.geometric_),
    *(_aten.random_, _aten.bernoulli_, _aten.bernoulli, _aten.normal, _aten.multinomial),
}
"""Operations that take as many random numbers for a row whatever its parameters are, so that parameters of rows that
are elsewhere need not be known. Rejection samplers (gamma, Dirichlet, Poisson, binomial) don't."""
_LAYOUT = {_aten.rand_like, _aten.randn_like, _aten.randint_like}
"""Operations that number the elements by their place in memory."""


class _WholeBatch(TorchDispatchMode):
    """Inside one draw: random operations are done for the whole batch, and return this process's rows.

    At the level of dispatch, because there every random operation is seen, wherever it is called from, and tracers see
    what is done in its place.

    Args:
        site: the name of the site, for messages.
        fn: its distribution, with the rows of this process last in the batch shape.
        own: the rows of this process.
        total: rows of the whole batch.
    """

    def __init__(self, site: str, fn: Any, own: slice, total: int) -> None:
        super().__init__()
        self.site, self.own, self.total = site, own, total
        self.batch, self.event = tuple(fn.batch_shape), tuple(fn.event_shape)
        self.dim = len(self.batch) - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        if func.overloadpacket not in _SHARED_OUT or "out" in kwargs:
            raise self._refusal(func, "how many random numbers it takes may depend on the parameters of other rows")
        if func.overloadpacket is _aten.multinomial:
            return self._multinomial(func, *args, **kwargs)
        return self._draw(func, args, kwargs)

    def _draw(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Enlarge whatever has the shape of the draw, draw, and narrow."""
        size = _size_argument(func)
        in_place = func._schema.name.endswith("_")
        tensors = [a for a in args if isinstance(a, Tensor)]
        shape = tuple(args[size]) if size is not None else torch.broadcast_tensors(*tensors)[0].shape
        self._check(func, shape)
        if (in_place or func.overloadpacket in _LAYOUT) and not args[0].is_contiguous():
            raise self._refusal(func, "it draws in the order of memory, and its tensor is not contiguous")
        whole = [self._enlarge(a.expand(shape)) if isinstance(a, Tensor) else a for a in args]
        if size is not None:
            whole[size] = [*shape[: self.dim], self.total, *shape[self.dim + 1 :]]
        own = self._narrow(func(*whole, **kwargs))
        return args[0].copy_(own) if in_place else own

    def _multinomial(self, func: Any, probs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A categorical's draw, for which torch flattens the batch."""
        if probs.dim() != 2 or len(probs) != prod(self.batch):
            raise self._refusal(
                func, f"its probabilities have shape {tuple(probs.shape)}, the site's batch {self.batch}"
            )
        whole = self._enlarge(probs.reshape(*self.batch, probs.shape[-1])).flatten(0, -2)
        drawn = func(whole, *args, **kwargs)
        return self._narrow(drawn.unflatten(0, (*self.batch[:-1], self.total))).flatten(0, -2)

    def _enlarge(self, own: Tensor) -> Tensor:
        """With rows of ones, valid for every parameter, in the place of the others' rows."""
        before, _, after = self._parts()
        ones = [own.new_ones(*own.shape[: self.dim], n, *own.shape[self.dim + 1 :]) for n in (before, after)]
        return torch.cat([ones[0], own, ones[1]], self.dim)

    def _narrow(self, whole: Tensor) -> Tensor:
        before, rows, _ = self._parts()
        return whole.narrow(self.dim, before, rows).clone(memory_format=torch.contiguous_format)

    def _parts(self) -> tuple[int, int, int]:
        """Rows before this process's, its own, and after."""
        return self.own.start, self.own.stop - self.own.start, self.total - self.own.stop

    def _check(self, func: Any, shape: Sequence[int]) -> None:
        """Refuse a draw whose rows are not where the batch shape has them, or may be elsewhere too."""
        shape, batch = tuple(shape), self.batch
        extra = len(shape) - len(batch) - len(self.event)
        if shape[: len(batch)] != batch:
            raise self._refusal(func, f"its shape {shape} does not begin with the batch shape {batch}")
        if extra > 0 and shape[extra : extra + len(batch)] == batch:
            raise self._refusal(func, f"the batch shape {batch} is in its shape {shape} more than once")

    def _refusal(self, func: Any, why: str) -> UsageError:
        return UsageError(
            f"site {self.site!r} draws with {func}, which can't be shared out over processes so that the result is "
            f"that of one: {why}; take another distribution, {_ALONE}"
        )


@cache
def _is_random(func: Any) -> bool:
    """Whether an operation draws: torch tags most of those, and all others take a generator."""
    tagged = torch.Tag.nondeterministic_seeded in func.tags
    return tagged or any(argument.name == "generator" for argument in func._schema.arguments)


@cache
def _size_argument(func: Any) -> int | None:
    """The place of the argument `size`; None for an operation that has none."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("size") if "size" in names else None
