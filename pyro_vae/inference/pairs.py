"""A Pyro pair as one function from data to log-weights: by running the programs, or graphs recorded of them."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from pyro_vae.compiling.memory import Memory, remembering
from pyro_vae.compiling.recording import Graph, Unrecordable, record
from pyro_vae.inference.programs import Program, owners
from pyro_vae.inference.tiles import TILE_PARTICLES, Draws, Pair, cut, padded
from pyro_vae.inference.weighing import propose, weigh
from pyro_vae.messages import log_once
from pyro_vae.process.seeding import seeded

_CACHED, _KEPT = 1 << 22, 1 << 21
"""Most bytes of a run of the model on a CPU, counted as one float for each element of x and row. Those of a graph stay
in the cache. Those of the programs are kept by the allocator: from larger runs it gives the memory back to the system,
and faults it in again at each run (a quarter of the time at 12 MB)."""


_TOLERANCES = {True: 1e-3, False: 1.0}
"""Largest difference between a graph's log-densities and the programs', nats, where products are in full precision and
where not: rounding gives 1e-4 or so, and that of bfloat16, which each does in places of its own, 0.1."""


_DRAWS = {True: 1e-3, False: 0.1}
"""The same for draws and their log q(z|x), absolute and relative."""


_MOST_KEPT = 4
"""Graphs kept for a module: for the last block, another data set, another precision."""


@dataclass(frozen=True)
class EagerPair:
    """By running the programs.

    Args:
        model: p(x, z).
        guide: q(z|x).
        max_rows: the most (datum, particle) pairs in one run of the model.
        nesting: plate dimensions the programs use.
    """

    model: Program
    guide: Program
    max_rows: int
    nesting: int = 1

    def draw(self, data: Sequence[Tensor]) -> Draws:
        """See `Pair`."""
        proposal = propose(self.guide, *data, num_particles=TILE_PARTICLES, max_plate_nesting=self.nesting)
        return proposal.latents, proposal.log_guide

    def log_joint(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        """See `Pair`."""
        return torch.cat([self.weigh(part, data) for part in _parts(latents, _particles(data, self.max_rows, _KEPT))])

    def weigh(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        """`log_joint` in one run of the model."""
        log_likelihood, log_prior = weigh(self.model, latents, *data, max_plate_nesting=self.nesting)
        return log_likelihood + log_prior


@dataclass(frozen=True)
class Graphs:
    """A pair recorded for blocks of one shape; they hold its parameters' storage, not the pair, so they can be kept.

    Args:
        names: the latent sites.
        shape: of the first of them in a piece.
        rows: particles in a piece, which stays in the cache.
        kept: shapes of what the model remembers from run to run (`compiling.memory`): inputs, since weights may change.
        draw: data to draws and their log q(z|x).
        weigh: a piece of draws, what is remembered, and the data to log p(x, z).
    """

    names: Sequence[str]
    shape: torch.Size
    rows: int
    kept: Sequence[torch.Size]
    draw: Graph
    weigh: Graph


class GraphPair:
    """By graphs recorded from the programs: no Pyro in the loop, and pieces that stay in the cache.

    Graphs have fixed shapes; what is left over at the end of the data or of the particles runs the programs. `check`
    comes first.

    Args:
        pair: the programs.
        graphs: what was recorded from them.
    """

    def __init__(self, pair: EagerPair, graphs: Graphs) -> None:
        self.pair, self.graphs = pair, graphs
        self._remembered: list[Tensor] = []

    def draw(self, data: Sequence[Tensor]) -> Draws:
        """See `Pair`."""
        *values, log_guide = self.graphs.draw(*data)
        return dict(zip(self.graphs.names, values, strict=True)), log_guide

    def log_joint(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        """See `Pair`."""
        return torch.cat([self._run(part, data) for part in _parts(latents, self.graphs.rows)])

    def _run(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        if latents[self.graphs.names[0]].shape != self.graphs.shape:
            return self.pair.weigh(latents, data)
        return self.graphs.weigh(*(latents[name] for name in self.graphs.names), *self._remembered, *data)[0]

    def check(self, data: Sequence[Tensor]) -> None:
        """Run graphs and programs on the same draws, and take what the programs remember at these weights.

        Raises:
            Unrecordable: if they differ.
        """
        with seeded(0, "record"):
            latents, log_guide = self.pair.draw(padded(data))
        with seeded(0, "record"):
            drawn, log_guide_drawn = self.draw(padded(data))
        exact = _is_exact(_module(self.pair))
        for name, ours, theirs in [("log q(z|x)", log_guide_drawn, log_guide), *_pairs(drawn, latents)]:
            if not torch.allclose(ours, theirs, rtol=_DRAWS[exact], atol=_DRAWS[exact]):
                raise Unrecordable(f"the graph's draws differ from the program's: {name}")
        part = _piece(latents, data, self.pair.nesting, self.graphs.rows)
        with remembering() as memory:
            expected = self.pair.weigh(part, data)
        self._remembered = _tensors(memory)
        if [x.shape for x in self._remembered] != self.graphs.kept:
            raise Unrecordable("the programs remember other tensors than when the graph was made")
        difference = (self._run(part, data) - expected).abs().max().item()
        if not difference <= _TOLERANCES[exact]:
            raise Unrecordable(f"the graph's log-densities differ from the program's by {difference:.2g} nats")


def recorded(pair: EagerPair, data: Sequence[Tensor], compile: bool) -> GraphPair:
    """The pair as graphs.

    Args:
        pair: the programs.
        data: a block, to record the graphs on.
        compile: whether to compile them.

    Raises:
        Unrecordable: if there are no such graphs, or they differ from the programs.
    """
    module, rows = _module(pair), _rows_in_cache(data, pair.max_rows)

    def weigh(*tensors: Tensor) -> list[Tensor]:
        values, kept, own = _split(tensors, len(names), len(_tensors(memory)))
        with remembering(_held(memory, kept)):
            return [pair.weigh(dict(zip(names, values, strict=True)), own)]

    with seeded(0, "record"):
        latents, _ = pair.draw(padded(data))
    names, part = list(latents), _piece(latents, data, pair.nesting, rows)
    with remembering() as memory:
        pair.weigh(part, data)
    draw = record(module, lambda *x: _flat(pair.draw(x)), padded(data), compile)
    weighing = record(module, weigh, [*part.values(), *_tensors(memory), *data], compile)
    graphs = Graphs(names, _shape(part), rows, [x.shape for x in _tensors(memory)], draw, weighing)
    made = GraphPair(pair, graphs)
    made.check(data)
    return made


def _compiled(pair: EagerPair, data: Sequence[Tensor]) -> GraphPair:
    """The pair's compiled graphs: those of an earlier call where they still do what the programs do."""
    found = owners(pair.model, pair.guide)
    if not found:
        return recorded(pair, data, compile=True)
    kept, key = _kept.setdefault(found[0], {}), _key(pair, data)
    if key in kept:
        with suppress(Unrecordable):
            again = GraphPair(pair, kept[key])
            again.check(data)
            return again
    made = recorded(pair, data, compile=True)
    while len(kept) >= _MOST_KEPT:
        del kept[next(iter(kept))]
    kept[key] = made.graphs
    return made


_kept: WeakKeyDictionary[nn.Module, dict[Hashable, Graphs]] = WeakKeyDictionary()
"""Graphs of each module, which go with it."""


def _key(pair: EagerPair, data: Sequence[Tensor]) -> Hashable:
    """What graphs are fixed to, as far as it can be told; `GraphPair.check` sees to the rest."""
    module = _module(pair)
    tensors = [*module.parameters(), *module.buffers()]
    return (
        (_name(pair.model), _name(pair.guide)),
        tuple((x.shape, x.dtype, x.device) for x in data),
        tuple((x.data_ptr(), x.dtype, x.device) for x in tensors),
        tuple(b._version for b in module.buffers()),
        tuple(getattr(m, "compute_dtype", None) for m in module.modules()),
        (pair.max_rows, pair.nesting, torch.get_num_threads()),
    )


def _name(program: Program) -> Hashable:
    """Which of its owner's programs it is, and what it takes by name."""
    called = getattr(program, "program", program)
    return getattr(called, "__qualname__", type(called).__qualname__), getattr(program, "names", ())


def _module(pair: EagerPair) -> nn.Module:
    return nn.ModuleList(owners(pair.model, pair.guide))


def _is_exact(module: nn.Module) -> bool:
    """Whether all networks compute in the type of their weights."""
    return all(getattr(m, "compute_dtype", None) is None for m in module.modules())


def make_pair(pair: EagerPair, data: Sequence[Tensor], compile: bool) -> Pair:
    """The pair as graphs where asked for and possible, else as it is; the reason is logged."""
    if compile:
        try:
            return _compiled(pair, data)
        except Unrecordable as error:
            log_once(f"log p(x) is estimated eagerly, not compiled: {error}")
    return pair


def _parts(latents: Mapping[str, Tensor], particles: int) -> Iterator[dict[str, Tensor]]:
    for first in range(0, len(next(iter(latents.values()))), particles):
        yield {name: value[first : first + particles] for name, value in latents.items()}


def _shape(latents: Mapping[str, Tensor]) -> torch.Size:
    return next(iter(latents.values())).shape


def _piece(latents: Mapping[str, Tensor], data: Sequence[Tensor], nesting: int, rows: int) -> dict[str, Tensor]:
    """The first piece of a tile's draws."""
    return next(_parts(cut(latents, TILE_PARTICLES, len(data[0]), nesting), rows))


def _pairs(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    return [(name, ours[name], value) for name, value in theirs.items()]


def _tensors(memory: Memory) -> list[Tensor]:
    return [tensor for tensors in memory.values() for tensor in tensors]


def _held(memory: Memory, tensors: Sequence[Tensor]) -> Memory:
    """The same with other tensors, in order."""
    rest = iter(tensors)
    return {module: tuple(next(rest) for _ in known) for module, known in memory.items()}


def _split(tensors: Sequence[Tensor], *sizes: int) -> list[Sequence[Tensor]]:
    """So many each, and the rest."""
    parts, start = [], 0
    for size in sizes:
        parts.append(tensors[start : start + size])
        start += size
    return [*parts, tensors[start:]]


def _flat(draws: Draws) -> list[Tensor]:
    latents, log_guide = draws
    return [*latents.values(), log_guide]


def _particles(data: Sequence[Tensor], max_rows: int, most: int) -> int:
    """Particles in one run of the model: at most `max_rows` with the data, and on a CPU at most so many bytes."""
    if data[0].device.type == "cpu":
        max_rows = min(max_rows, most // (4 * max(1, data[0][0].numel())))
    return max(1, max_rows // len(data[0]))


def _rows_in_cache(data: Sequence[Tensor], max_rows: int) -> int:
    """Particles in one run of the graph: a divisor of the tile, since shapes are fixed; the whole of it on a GPU."""
    if data[0].device.type != "cpu":
        return TILE_PARTICLES
    limit = _particles(data, max_rows, _CACHED)
    return max(n for n in (1, 2, 5, 10, 25, 50, 125, 250) if n <= limit)
