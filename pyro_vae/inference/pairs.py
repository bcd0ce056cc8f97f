"""A Pyro pair as two functions, by running its programs (`EagerPair`) or graphs recorded from them (`GraphPair`).

The functions are data -> draws and their log q(z|x), and (draws, data) -> log p(x, z). How programs become graphs:

1. `recorded` runs the programs once on a block of data (`Example`) and records a graph of each (`compiling.recording`).
   Shapes are fixed: a tile of draws, and a piece of a tile for log p(x, z). Whatever has another shape runs eagerly.
2. Parameters are inputs of a graph, read at each call. Tensors that the model computes from its weights alone
   (`compiling.memory`, e.g. the components of a VampPrior) are inputs of the second graph, computed once an estimate.
3. `GraphPair.check` compares graphs and programs on the same draws; graphs that differ are not used.
4. `GRAPHS` keeps the graphs for the next estimate under a `CacheKey` (`compiling.caching`). The key does not see
   everything, so graphs from the cache are checked again, at the cost of one run of the programs.
"""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from pyro_vae.compiling.caching import CacheKey, GraphCache
from pyro_vae.compiling.memory import Memory, remembering
from pyro_vae.compiling.recording import Graph, Unrecordable, record
from pyro_vae.inference.programs import Program, owners
from pyro_vae.inference.tiles import TILE_PARTICLES, Draws, Pair, cut, padded, pieces
from pyro_vae.inference.weighing import propose, weigh
from pyro_vae.messages import log_once
from pyro_vae.process.seeding import seeded

_BYTES = 1 << 21
"""Largest x of one run of the model on a CPU, in bytes of float32 (elements of x times rows times 4). Intermediate
values of graphs then stay in the CPU's cache, and those of programs in blocks that the C library's allocator keeps from
run to run. Without a bound log p(x) takes 1.06 and 1.5 times as long (docs/performance.md)."""


_TOLERANCES = {True: 1e-3, False: 1.0}
"""Largest difference between log p(x, z) of a graph and of the programs, nats, by whether all products are in the type
of the weights: rounding gives about 1e-4; bfloat16, where the two round at different places, 0.1."""


_DRAW_TOLERANCES = {True: 1e-3, False: 0.1}
"""The same for draws and their log q(z|x), absolute and relative."""


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
        particles = _particles(data, self.max_rows)
        return torch.cat([self.weigh(piece, data) for piece in pieces(latents, particles)])

    def weigh(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        """`log_joint` in one run of the model."""
        log_likelihood, log_prior = weigh(self.model, latents, *data, max_plate_nesting=self.nesting)
        return log_likelihood + log_prior

    def module(self) -> nn.Module:
        """The modules behind the programs, as one."""
        return nn.ModuleList(owners(self.model, self.guide))

    def is_exact(self) -> bool:
        """Whether all networks multiply in the type of their weights."""
        return all(getattr(m, "compute_dtype", None) is None for m in self.module().modules())

    def cache_key(self, data: Sequence[Tensor]) -> CacheKey:
        """Of graphs recorded on these data."""
        names = _name(self.model), _name(self.guide)
        return CacheKey.of((names, self.max_rows, self.nesting), self.module(), data)


@dataclass(frozen=True)
class Example:
    """One run of the programs: what graphs are recorded on and compared with; the same at each call.

    Args:
        latents: draws of a tile.
        log_guide: their log q(z|x), `[particles, data]`, nats.
        piece: the first draws, as many as a graph takes.
        memory: what the model remembered when it weighed them.
        log_joint: log p(x, z) of the piece, nats.
    """

    latents: Mapping[str, Tensor]
    log_guide: Tensor
    piece: Mapping[str, Tensor]
    memory: Memory
    log_joint: Tensor

    @classmethod
    def of(cls, pair: EagerPair, data: Sequence[Tensor], particles: int) -> Self:
        """Run the programs on a block, for one piece of the particles."""
        with seeded(0, "record"):
            latents, log_guide = pair.draw(padded(data))
        piece = next(pieces(cut(latents, TILE_PARTICLES, len(data[0]), pair.nesting), particles))
        with remembering() as memory:
            log_joint = pair.weigh(piece, data)
        return cls(latents, log_guide, piece, memory, log_joint)


@dataclass(frozen=True)
class Graphs:
    """Graphs of a pair for blocks of one shape. They hold the storage of its parameters but not the pair.

    Args:
        names: of the latent sites.
        shape: of the first of them in a piece.
        particles: in a piece.
        remembered: shapes of the remembered tensors (`compiling.memory`).
        draw: data to draws and their log q(z|x).
        weigh: a piece of draws, remembered tensors, and data to log p(x, z).
    """

    names: Sequence[str]
    shape: torch.Size
    particles: int
    remembered: Sequence[torch.Size]
    draw: Graph
    weigh: Graph

    @classmethod
    def of(cls, pair: EagerPair, data: Sequence[Tensor], compile: bool) -> Self:
        """Record both programs on a block of data; see `recorded`."""
        particles = _particles_of_graph(data, pair.max_rows)
        example = Example.of(pair, data, particles)
        names, memory = list(example.latents), example.memory

        def draw(*data: Tensor) -> list[Tensor]:
            latents, log_guide = pair.draw(data)
            return [*latents.values(), log_guide]

        def weigh(*tensors: Tensor) -> list[Tensor]:
            rest = iter(tensors)
            piece = {name: next(rest) for name in names}
            with remembering(memory.holding([next(rest) for _ in memory.tensors()])):
                return [pair.weigh(piece, list(rest))]

        module, inputs = pair.module(), [*example.piece.values(), *memory.tensors(), *data]
        drawing = record(module, draw, padded(data), compile)
        weighing = record(module, weigh, inputs, compile)
        return cls(names, inputs[0].shape, particles, memory.shapes(), drawing, weighing)


class GraphPair:
    """By graphs recorded from the programs: nothing of Pyro in the loop, and pieces that stay in the CPU's cache.

    Graphs have fixed shapes; what is left over at the end of the data or of the particles runs the programs. Call
    `check` first.

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
        return torch.cat([self._weigh(piece, data) for piece in pieces(latents, self.graphs.particles)])

    def _weigh(self, latents: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
        if latents[self.graphs.names[0]].shape != self.graphs.shape:
            return self.pair.weigh(latents, data)
        return self.graphs.weigh(*(latents[name] for name in self.graphs.names), *self._remembered, *data)[0]

    def check(self, data: Sequence[Tensor]) -> None:
        """Compare graphs and programs on the same draws, and take what the model remembers at the weights of now.

        Raises:
            Unrecordable: if they differ.
        """
        example = Example.of(self.pair, data, self.graphs.particles)
        self._check_draws(example, data)
        if example.memory.shapes() != self.graphs.remembered:
            raise Unrecordable("the programs remember other tensors than when the graph was made")
        self._remembered = example.memory.tensors()
        difference = (self._weigh(example.piece, data) - example.log_joint).abs().max().item()
        if not difference <= _TOLERANCES[self.pair.is_exact()]:
            raise Unrecordable(f"the graph's log-densities differ from the program's by {difference:.2g} nats")

    def _check_draws(self, example: Example, data: Sequence[Tensor]) -> None:
        with seeded(0, "record"):
            latents, log_guide = self.draw(padded(data))
        tolerance = _DRAW_TOLERANCES[self.pair.is_exact()]
        columns = [(name, latents[name], value) for name, value in example.latents.items()]
        for name, ours, theirs in [("log q(z|x)", log_guide, example.log_guide), *columns]:
            if not torch.allclose(ours, theirs, rtol=tolerance, atol=tolerance):
                raise Unrecordable(f"the graph's draws differ from the program's: {name}")


GRAPHS: GraphCache[Graphs] = GraphCache(most=4)
"""Of the last estimates: another data set, another precision, a smaller last block."""


def make_pair(pair: EagerPair, data: Sequence[Tensor], compile: bool) -> Pair:
    """The pair as graphs where asked for and possible, else as it is; the reason is logged."""
    if compile:
        try:
            return _compiled(pair, data)
        except Unrecordable as error:
            log_once(f"log p(x) is estimated eagerly, not compiled: {error}")
    return pair


def recorded(pair: EagerPair, data: Sequence[Tensor], compile: bool) -> GraphPair:
    """The pair as graphs that agree with the programs.

    Args:
        pair: the programs.
        data: a block, to record the graphs on.
        compile: whether to compile them.

    Raises:
        Unrecordable: if there are no such graphs, or they differ from the programs.
    """
    made = GraphPair(pair, Graphs.of(pair, data, compile))
    made.check(data)
    return made


def _compiled(pair: EagerPair, data: Sequence[Tensor]) -> GraphPair:
    """The pair's compiled graphs: those of an earlier call where they still do what the programs do."""
    found = owners(pair.model, pair.guide)
    if not found:
        return recorded(pair, data, compile=True)
    key = pair.cache_key(data)
    if key in (kept := GRAPHS.of(found[0])):
        with suppress(Unrecordable):
            again = GraphPair(pair, kept[key])
            again.check(data)
            return again
    made = recorded(pair, data, compile=True)
    GRAPHS.keep(found[0], key, made.graphs)
    return made


def _name(program: Program) -> Hashable:
    """The name of the program in its owner, and the names of its keyword arguments."""
    called = getattr(program, "program", program)
    return getattr(called, "__qualname__", type(called).__qualname__), getattr(program, "names", ())


def _particles(data: Sequence[Tensor], max_rows: int) -> int:
    """Particles in one run of the model: at most `max_rows` with the data, on a CPU an x of at most `_BYTES`."""
    if data[0].device.type == "cpu":
        max_rows = min(max_rows, _BYTES // (4 * max(1, data[0][0].numel())))
    return max(1, max_rows // len(data[0]))


def _particles_of_graph(data: Sequence[Tensor], max_rows: int) -> int:
    """Particles in one run of the graph: a divisor of the tile, since shapes are fixed; the whole tile on a GPU."""
    if data[0].device.type != "cpu":
        return TILE_PARTICLES
    limit = _particles(data, max_rows)
    return max(n for n in (1, 2, 5, 10, 25, 50, 125, 250) if n <= limit)
