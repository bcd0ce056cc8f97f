"""The transitions of an annealed run for each block of data, by running the programs or a compiled graph of one."""

from collections.abc import Sequence
from math import ceil

import torch
from torch import Tensor, nn

from pyro_vae.compiling.caching import CacheKey, GraphCache
from pyro_vae.compiling.memory import Memory, remembering
from pyro_vae.compiling.recording import Graph, Unrecordable, record
from pyro_vae.evidence.annealing_moves import Terms, transition
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.programs import owners
from pyro_vae.inference.trajectories import Noise, Point
from pyro_vae.inference.unconstrained import Target
from pyro_vae.messages import log_once
from pyro_vae.process.seeding import seeded

_CACHED_ROWS = 400
"""Most (chain, datum) pairs in one run of a graph on a CPU: 8 chains of 50 data, whose values stay in its cache."""


_TOLERANCE = 1e-4
"""Largest difference of what a graph computes from what the programs do, relative to the largest of a tensor: rounding
gives 1e-6 or so."""


GRAPHS: GraphCache[Graph] = GraphCache(most=4)
"""Of the last runs."""


class Moves:
    """The transitions of one block of data.

    Args:
        target: the data.
        annealing: where the densities start, and the length of trajectories.
        chains: the most chains in one run.
        graph: of `transition`, for exactly so many chains; None to run the programs.
    """

    def __init__(self, target: Target, annealing: Annealing, chains: int, graph: Graph | None) -> None:
        self.target, self.num_leapfrog, self.chains, self.graph = target, annealing.num_leapfrog, chains, graph
        memory = _memory(target, annealing)
        self.terms, self.fixed = _terms(target, annealing.start, memory), [*target.data, *memory.tensors()]

    def at(self, z: Tensor) -> Point:
        """`(z, log f_0, log p(x, z) - log f_0, their gradients)`."""
        return _joined([[part, *self.terms(part, *self.fixed)] for part in z.split(self.chains)])

    def move(self, point: Point, beta: Tensor, angle: Tensor, scale: Tensor, noise: Noise) -> tuple[Point, Tensor]:
        """The points after a trajectory, and the acceptance probabilities; see `transition`."""
        z = point[0]
        chained = [*point, noise.normal(len(z), z.shape[-1]), noise.uniform(len(z), 2)]
        parts = zip(*(tensor.split(self.chains) for tensor in chained), strict=True)
        common = [beta.to(z.dtype), angle, scale]
        *moved, accept = _joined([self._run([*part[:5], *common, *part[5:]]) for part in parts])
        return tuple(moved), accept

    def _run(self, inputs: list[Tensor]) -> Sequence[Tensor]:
        if self.graph is None:
            return transition(self.terms, self.num_leapfrog, [*inputs, *self.fixed])
        have = len(inputs[0])
        chained = [_filled(x, self.chains) if number not in (5, 6, 7) else x for number, x in enumerate(inputs)]
        return [x[:have] for x in self.graph(*chained, *self.fixed)]


class Path:
    """Makes the transitions of each block of data.

    Args:
        annealing: the settings.
        max_rows: the most (chain, datum) pairs in one run of the decoder.
        compile: whether to record a graph and compile it; if that is impossible, the reason is logged.
    """

    def __init__(self, annealing: Annealing, max_rows: int, compile: bool) -> None:
        self.annealing, self.max_rows, self.compile = annealing, max_rows, compile
        self.recorded: tuple[Target, Graph, int] | None = None

    def moves(self, target: Target) -> Moves:
        """The transitions of a block."""
        if self.compile and self.recorded is None:
            self._record(target)
        if self.recorded is None or not target.has_supports_of(self.recorded[0]):
            return Moves(target, self.annealing, max(1, self.max_rows // target.num_data), None)
        _, graph, chains = self.recorded
        return Moves(target, self.annealing, chains, graph)

    def _record(self, target: Target) -> None:
        try:
            chains = self._chains(target)
            self.recorded = target, _graph(target, self.annealing, chains), chains
        except Unrecordable as error:
            self.compile = False
            log_once(f"annealing runs eagerly, not compiled: {error}")

    def _chains(self, target: Target) -> int:
        """In one run of a graph: equal parts of all chains, so that few rows are filled up."""
        on_cpu = target.data[0].device.type == "cpu"
        most = max(1, (min(self.max_rows, _CACHED_ROWS) if on_cpu else self.max_rows) // target.num_data)
        return ceil(self.annealing.num_chains / ceil(self.annealing.num_chains / most))


def start_draws(target: Target, annealing: Annealing, num: int, seed: int, first: int) -> Tensor:
    """Exact draws of the distribution at beta = 0, `[num, N, size]`."""
    if annealing.start == "prior":
        return target.draw_prior(num, seed, first)
    return target.draw_guide(num, seed, first)[0]


def _joined(parts: Sequence[Sequence[Tensor]]) -> Point:
    return tuple(torch.cat(column) if len(parts) > 1 else column[0] for column in zip(*parts, strict=True))


def _filled(tensor: Tensor, chains: int) -> Tensor:
    """With copies of the first chain up to this number."""
    missing = chains - len(tensor)
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) if missing else tensor


def _graph(target: Target, annealing: Annealing, chains: int) -> Graph:
    """The compiled graph of a transition: that of an earlier call where it still does what the programs do.

    Raises:
        Unrecordable: if there is none.
    """
    if not target.is_same_for_all_data:
        raise Unrecordable("the support of a latent site differs between the data")
    moves, found = Moves(target, annealing, chains, None), owners(target.model, target.guide)
    module, example = nn.ModuleList(found), _example(moves, annealing)

    def function(*inputs: Tensor) -> list[Tensor]:
        return transition(moves.terms, annealing.num_leapfrog, inputs)

    expected = function(*example)
    key = CacheKey.of((annealing.start, annealing.num_leapfrog, target.nesting), module, example)
    kept = GRAPHS.of(found[0]).get(key) if found else None
    if kept is not None and _difference(kept(*example), expected) <= _TOLERANCE:
        return kept
    graph = record(module, function, example, compile=True)
    if not (error := _difference(graph(*example), expected)) <= _TOLERANCE:
        raise Unrecordable(f"the graph's values differ from the programs' by {error:.2g} of the largest")
    if found:
        GRAPHS.keep(found[0], key, graph)
    return graph


def _example(moves: Moves, annealing: Annealing) -> list[Tensor]:
    """Inputs of a transition whose steps are short and all accepted, so that rounding decides nothing."""
    z = start_draws(moves.target, annealing, moves.chains, 0, 0)
    point = moves.at(z)
    with seeded(0, "record"):
        normal, uniform = torch.randn_like(z), torch.zeros_like(z[..., :1]).expand(*z.shape[:2], 2).contiguous()
    like, ones = z.new_full(z.shape[1:2], 0.5), torch.ones_like(z[0])
    return [*point, like, 0.1 * like[:, None], 0.1 * ones, normal, uniform, *moves.fixed]


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest of all tensors, each relative to its largest element; nan if any is nan."""
    errors = [(a - b).abs().max() / b.abs().max().clamp(min=1.0) for a, b in zip(ours, theirs, strict=True)]
    return torch.stack(errors).max().item()


def _memory(target: Target, annealing: Annealing) -> Memory:
    """What the programs compute from their weights alone, e.g. the components of a VampPrior."""
    z = start_draws(target, annealing, 1, 0, 0)
    with remembering() as memory:
        target.log_terms(z)
        if annealing.start == "guide":
            target.log_guide(z)
    return memory


def _terms(target: Target, start: str, memory: Memory) -> Terms:
    """By running the programs, with gradients in z alone; after the data come the remembered tensors."""
    num = len(target.data)

    def terms(z: Tensor, *tensors: Tensor) -> list[Tensor]:
        here = target.at(*tensors[:num])
        with torch.enable_grad(), remembering(memory.holding(tensors[num:])):
            z = z.detach().requires_grad_()
            log_likelihood, log_prior = here.log_terms(z)
            base = log_prior if start == "prior" else here.log_guide(z)
            rise = log_likelihood if start == "prior" else log_likelihood + log_prior - base
            gradients = [_gradient(value, z) for value in (base, rise)]
        return [base.detach(), rise.detach(), *gradients]

    return terms


def _gradient(value: Tensor, z: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(z)
    return torch.autograd.grad(value.sum(), z, retain_graph=True, materialize_grads=True)[0]
