"""The random numbers of one process for several: each gets its rows of the draws of one process.

Inside a sample site every process draws the random numbers of the whole batch and keeps its rows, at a cost of about
4 % of an eager training step of 100 rows. Random streams for blocks of rows would need no interception, but would
change the results of one process, run its programs once for each block, and repeat draws that are made once for a batch
(docs/performance.md).
"""

from collections.abc import Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.distributed.world import World
from pyro_vae.errors import UsageError
from pyro_vae.process.torch_internals import DispatchMode, argument_names, changes_in_place, outside_modes


class ShardedNoise(Messenger):
    """Effect handler under which a program on this process's rows draws as one process would on the whole batch.

    At each unobserved site the random numbers are drawn for all `total` rows and this process's are kept. Draws of all
    processes, concatenated, are those of one process to the bit, and the generators end in the same state: start them
    from the same one on every process (`seeding.seeded`). With one process it does nothing.

    Args:
        world: the processes.
        total: rows of the whole batch; the program must run on `world.rows(total)` of them, in a plate at dimension -1.
        watch: whether to compare the generators' states between sites, to refuse random numbers drawn outside sites;
            about 0.3 ms a run on a CPU, so a loop may watch its first step alone.

    Raises:
        UsageError: if this process has no rows. Inside: for a site outside the data plate or in a subsampled one; for a
            draw that depends on other rows' parameters (rejection samplers, e.g. Gamma and Poisson); and for random
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
                f"distributed with the result of one process; leave them out, {_ALONE}"
            )


_ALONE = "or run one process (without torchrun)"


def _generator_state() -> list[bytes]:
    """The state of torch's generators, also inside a mode (tracing, fake tensors)."""
    with outside_modes():
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
"""Operations that use the same number of random numbers for every value of a row's parameters, so that those of other
processes' rows are not needed. Rejection samplers (gamma, Dirichlet, Poisson, binomial) are not among them."""


_LAYOUT = {_aten.rand_like, _aten.randn_like, _aten.randint_like}
"""Operations that draw the elements in their order in memory."""


class _WholeBatch(DispatchMode):
    """Inside one draw: random operations run for the whole batch and return this process's rows.

    A dispatch mode sees every random operation, independent of its caller, and tracers see the operations that replace
    it.

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
        """Enlarge the tensor arguments to the whole batch, draw, and narrow."""
        size = _size_argument(func)
        in_place = changes_in_place(func)
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
        """The tensor with rows of ones, valid for every parameter, for the rows of other processes."""
        before, _, after = self._parts()
        ones = [own.new_ones(*own.shape[: self.dim], n, *own.shape[self.dim + 1 :]) for n in (before, after)]
        return torch.cat([ones[0], own, ones[1]], self.dim)

    def _narrow(self, whole: Tensor) -> Tensor:
        before, rows, _ = self._parts()
        return whole.narrow(self.dim, before, rows).clone(memory_format=torch.contiguous_format)

    def _parts(self) -> tuple[int, int, int]:
        """Numbers of rows before this process's, of this process, and after."""
        return self.own.start, self.own.stop - self.own.start, self.total - self.own.stop

    def _check(self, func: Any, shape: Sequence[int]) -> None:
        """Refuse a draw whose shape does not begin with the batch shape, or contains it twice."""
        shape, batch = tuple(shape), self.batch
        extra = len(shape) - len(batch) - len(self.event)
        if shape[: len(batch)] != batch:
            raise self._refusal(func, f"its shape {shape} does not begin with the batch shape {batch}")
        if extra > 0 and shape[extra : extra + len(batch)] == batch:
            raise self._refusal(func, f"the batch shape {batch} is in its shape {shape} more than once")

    def _refusal(self, func: Any, why: str) -> UsageError:
        return UsageError(
            f"site {self.site!r} draws with {func}, which can't be distributed over processes with the result of "
            f"one: {why}; take another distribution, {_ALONE}"
        )


@cache
def _is_random(func: Any) -> bool:
    """Whether an operation draws: torch tags most of these, and the others have a `generator` argument."""
    tagged = torch.Tag.nondeterministic_seeded in func.tags
    return tagged or "generator" in argument_names(func)


@cache
def _size_argument(func: Any) -> int | None:
    """The place of the argument `size`; None for an operation that has none."""
    names = argument_names(func)
    return names.index("size") if "size" in names else None
