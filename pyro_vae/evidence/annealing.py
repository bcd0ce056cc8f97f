"""log p(x) by annealed importance sampling: from below for any data, from above for data that the model drew.

Importance sampling can fail without notice if the guide misses a part of the posterior. An annealed run moves from the
guide or the prior to the posterior by Markov chains. On simulated data a run backwards from an exact posterior draw
bounds log p(x) from the other side: the gap between the two bounds the error of both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence.annealing_moves import annealed
from pyro_vae.evidence.annealing_path import Moves, Path, start_draws
from pyro_vae.evidence.annealing_pilot import Plan, num_ticks, pilot
from pyro_vae.evidence.annealing_population import Population
from pyro_vae.evidence.annealing_results import AnnealedEvidence, Annealing
from pyro_vae.evidence.sandwich import Sandwich
from pyro_vae.inference.programs import Called, Program, evaluation_mode, owners
from pyro_vae.inference.simulating import ToX, simulate
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.inference.trajectories import Noise, check_start
from pyro_vae.inference.unconstrained import Target
from pyro_vae.inference.weighing import refuse_point_masses
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded

_MUCH_WORK = 2e12
"""Floating point operations above which compiling is worth its time: about ten seconds of work."""

Progress = Callable[[int], object]


@isolated
@checked
def ais(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    annealing: Annealing | None = None,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    compile: Literal["auto"] | bool = "auto",
    progress: Progress | None = None,
    **inputs: Tensor,
) -> AnnealedEvidence:
    r"""Bound log p(x) of every datum from below by annealed importance sampling.

    .. math:: f_\beta(z) = f_0(z)^{1 - \beta} p(x, z)^\beta, \qquad
        \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \left(\log p(x, z_{t-1}) - \log f_0(z_{t-1})\right)

    with z_0 drawn from f_0, the prior or the guide, and z_t from z_(t-1) by a trajectory of Hamiltonian Monte Carlo
    that leaves the density at beta_t invariant. E[w] = p(x), so that `log mean exp` over the chains is in expectation a
    lower bound, for every schedule and however badly the chains mix. Each datum has its own temperatures and step
    sizes. They are found by a pilot run of 8 chains over a tenth of the temperatures (40 at least). Its noise is
    independent of that of the run whose weights are used, and they are fixed before that begins, so w stays unbiased.
    With `Annealing(resample=0.5)` chains whose weights become small are replaced on the way (`Population`): the mean
    weight stays unbiased.

    A datum costs `num_chains num_temperatures num_leapfrog` runs of the decoder with its gradient, and those of the
    pilot run; the result counts them. With `start="guide"` each is a run of the guide too. The result is a function of
    `(x, annealing, seed)`. The other data in `x`, `max_rows` and the training mode change it by rounding at most, which
    long chains in single precision can turn into different draws.

    Args:
        model: Pyro program of p(x, z), with one data plate and continuous latent sites.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        annealing: how to anneal; None for `Annealing()`.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (chain, datum) pairs in one run of the decoder; bounds memory.
        max_plate_nesting: number of plate dimensions the programs use.
        compile: whether to run transitions as a compiled graph (some ten seconds first; it is kept for later calls);
            `"auto"` if there is enough work. Programs that can't be recorded run uncompiled, and the reason is logged.
        progress: called with the number of data done so far, in proportion to the temperatures.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        An `AnnealedEvidence`, a lower bound, in double precision on the CPU.

    Raises:
        DataError: if there are no data, or an input has not one row for each datum.
        UsageError: if a latent site is discrete, the guide to start from is a Delta, or `max_rows` is not positive.
        NumericalError: if a datum's densities are not finite where its chains start, or its bound is not finite.

    References:
        Neal 2001, Annealed importance sampling. Wu et al. 2017, On the quantitative analysis of decoder-based
        generative models.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> how = Annealing(num_temperatures=20, num_chains=4)
        >>> ais(vae.model, vae.guide, torch.ones(3, 4), annealing=how).log_p.shape
        torch.Size([3])
    """
    programs = _Programs(model, guide, tuple(inputs), max_plate_nesting)
    run = _Run(programs, annealing or Annealing(), seed, max_rows, compile)
    return run.bounds((x, *args, *inputs.values()), None, ("lower",), progress)["lower"]


@isolated
@checked
def reverse_ais(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    latents: Mapping[str, Tensor],
    annealing: Annealing | None = None,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    compile: Literal["auto"] | bool = "auto",
    progress: Progress | None = None,
    **inputs: Tensor,
) -> AnnealedEvidence:
    r"""Bound log p(x) of simulated data from above: `ais` backwards, from the codes that the data were drawn from.

    .. math:: z \sim p(z), \quad x \sim p(x|z) \quad\Rightarrow\quad z \sim p(z|x)

    The chains start at that exact draw of the posterior and go back to f_0; E[w] = 1 / p(x), so that minus
    `log mean exp` is in expectation an upper bound. It is one only for data that the model drew, from exactly these
    latents: for other data no exact draw is known, and the result bounds nothing.

    Args:
        model: as for `ais`.
        guide: as for `ais`.
        x: data that the model drew, `[N, *event]`; see `simulating.simulate`.
        *args: as for `ais`.
        latents: the latents they were drawn with, by site name, `[1, N, *event]`, inner plates before N.
        annealing: as for `ais`.
        seed: as for `ais`.
        max_rows: as for `ais`.
        max_plate_nesting: as for `ais`.
        compile: as for `ais`.
        progress: as for `ais`.
        **inputs: as for `ais`.

    Returns:
        An `AnnealedEvidence`, an upper bound, in double precision on the CPU.

    Raises:
        DataError, UsageError, NumericalError: as for `ais`; also if the latents are not the model's.

    References:
        Grosse, Ghahramani & Adams 2015, Sandwiching the marginal likelihood using bidirectional Monte Carlo.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> vae, z = VAE((4,), latent_dim=2), torch.zeros(1, 3, 2)
        >>> how = Annealing(num_temperatures=5, num_chains=2)
        >>> reverse_ais(vae.model, vae.guide, torch.ones(3, 4), latents={"z": z}, annealing=how).log_p.shape
        torch.Size([3])
    """
    programs = _Programs(model, guide, tuple(inputs), max_plate_nesting)
    run = _Run(programs, annealing or Annealing(), seed, max_rows, compile)
    return run.bounds((x, *args, *inputs.values()), latents, ("upper",), progress)["upper"]


@isolated
@checked
def bdmc(
    model: Program,
    guide: Program,
    num_data: int,
    like: Tensor | None = None,
    *args: Tensor,
    annealing: Annealing | None = None,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    compile: Literal["auto"] | bool = "auto",
    progress: Progress | None = None,
    **inputs: Tensor,
) -> Sandwich:
    r"""Draw data from the model and bound their log p(x) from both sides (bidirectional Monte Carlo).

    .. math:: E[\text{lower}] \le E[\log p(x)] \le E[\text{upper}]

    The gap shows how far `ais` with these settings can be from log p(x), on data like those that the model draws. It
    costs two runs of `ais` for each datum, which share their step sizes.

    Args:
        model: Pyro program of p(x, z), with one data plate and continuous latent sites.
        guide: Pyro program of q(z|x).
        num_data: how many data to draw.
        like: a tensor of one datum's shape, type and device; None for those of the module behind the programs.
        *args: further tensors with the data in front, passed to both programs.
        annealing: how to anneal; None for `Annealing()`.
        seed: seed of the data and of the chains.
        max_rows: as for `ais`.
        max_plate_nesting: as for `ais`.
        to_x: makes x of the observed sites' draws, as for `simulating.simulate`; None where one of them is x.
        compile: as for `ais`.
        progress: as for `ais`.
        **inputs: what the programs take by name, `[num_data, ...]`, e.g. the contexts `c` of a conditional model.

    Returns:
        A `Sandwich`.

    Raises:
        DataError, UsageError, NumericalError: as for `ais` and `simulating.simulate`.

    References:
        Grosse, Ghahramani & Adams 2015. Wu et al. 2017.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> bdmc(vae.model, vae.guide, 3, annealing=Annealing(num_temperatures=20, num_chains=4)).gap.values.shape
        torch.Size([3])
    """
    if num_data < 1:
        raise UsageError(f"num_data must be at least 1, got {num_data}")
    like = _example(model) if like is None else like
    blank = like.new_zeros(num_data, *like.shape)
    drawn = simulate(model, blank, *args, seed=seed, max_plate_nesting=max_plate_nesting, to_x=to_x, **inputs)
    programs = _Programs(model, guide, tuple(inputs), max_plate_nesting)
    run = _Run(programs, annealing or Annealing(), seed, max_rows, compile)
    bounds = run.bounds((drawn.x, *args, *drawn.inputs.values()), drawn.latents, ("lower", "upper"), progress)
    return Sandwich(bounds["lower"], bounds["upper"], drawn.x, drawn.latents)


def _example(model: Program) -> Tensor:
    """One datum of zeros, with the shape and type that the module of a program expects."""
    for owner in owners(model):
        weights, shapes = next(owner.parameters(), None), getattr(owner, "shapes", None)
        if weights is not None and shapes is not None:
            return torch.zeros(shapes.event, dtype=weights.dtype, device=weights.device)
    raise UsageError("the shape of x is not known from the model: give `like`, a tensor of one datum's shape and type")


@dataclass(frozen=True)
class _Programs:
    """A pair, the names of its last arguments and its plates."""

    model: Program
    guide: Program
    names: tuple[str, ...]
    nesting: int

    def target(self, data: Sequence[Tensor]) -> Target:
        model, guide = Called(self.model, self.names), Called(self.guide, self.names)
        return Target(model, guide, *data, max_plate_nesting=self.nesting)

    def refuse_point_masses(self, data: Sequence[Tensor]) -> None:
        with seeded(0, "structure"):
            refuse_point_masses(Called(self.guide, self.names), *data, max_plate_nesting=self.nesting)


Bound = Literal["lower", "upper"]


@dataclass(frozen=True)
class _Run:
    """One call: everything but the data."""

    programs: _Programs
    annealing: Annealing
    seed: int
    max_rows: int
    compile: Literal["auto"] | bool

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise UsageError(f"max_rows must be at least 1, got {self.max_rows}")

    def bounds(
        self,
        data: Sequence[Tensor],
        latents: Mapping[str, Tensor] | None,
        wanted: Sequence[Bound],
        progress: Progress | None,
    ) -> dict[Bound, AnnealedEvidence]:
        """The bounds of all data, block by block."""
        num_data, plate = len(data[0]), self.programs.nesting
        lengths = {name: value.shape[plate] for name, value in (latents or {}).items()}
        if num_data == 0 or any(length != num_data for length in lengths.values()):
            raise DataError(f"expected data, and latents with one row for each datum, got {num_data} and {lengths}")
        path = Path(self.annealing, self.max_rows, self._compiles(num_data * len(wanted)))
        with evaluation_mode(self.programs.model, self.programs.guide), fast_cpu(), exact_products():
            if self.annealing.start == "guide":
                self.programs.refuse_point_masses([x[:1] for x in data])
            blocks = [
                self._block(block, path, wanted, progress)
                for block in _blocks(data, latents, self._rows(data[0]), self.programs.nesting)
            ]
        return {bound: self._joined([block[bound] for block in blocks], bound) for bound in wanted}

    def _block(
        self, block: "_Block", path: Path, wanted: Sequence[Bound], progress: Progress | None
    ) -> dict[Bound, "_Weights"]:
        """The log-weights of one block."""
        how, moves = self.annealing, path.moves(self.programs.target(block.data))
        total = num_ticks(how) + how.num_temperatures * len(wanted)
        tick = _Ticker(progress, block.start, block.size, total)
        plan = pilot(moves, how, self.seed, block.start, tick)
        return {bound: self._bound(bound, moves, plan, block, tick).cut(block.size) for bound in wanted}

    def _bound(self, bound: Bound, moves: Moves, plan: Plan, block: "_Block", tick: "_Ticker") -> "_Weights":
        how, target = self.annealing, moves.target
        if bound == "lower":
            name, z, betas = "ais", start_draws(target, how, how.num_chains, self.seed, block.start), plan.betas
        else:
            assert block.latents is not None
            exact = target.flat(block.latents)
            name, z, betas = "reverse ais", exact.expand(how.num_chains, *exact.shape[1:]), plan.betas.flip(0)
        noise = Noise(self.seed, name, num_data=target.num_data, first=block.start, like=z)
        return _anneal(moves, z.contiguous(), betas, plan, how.resample, noise, tick)

    def _rows(self, x: Tensor) -> int:
        """Data in a block: on a CPU, with its small caches, those that noise is drawn for together; more on a GPU."""
        tiles = 1 if x.device.type == "cpu" else max(1, self.max_rows // (self.annealing.num_chains * TILE_DATA))
        return tiles * TILE_DATA

    def _compiles(self, num_data: int) -> bool:
        if self.compile != "auto":
            return self.compile
        parameters = sum(p.numel() for owner in owners(self.programs.model) for p in owner.parameters())
        how = self.annealing
        rows = num_data * how.num_chains * how.num_temperatures * how.num_leapfrog
        return 6 * parameters * rows >= _MUCH_WORK

    def _joined(self, parts: Sequence["_Weights"], bound: Bound) -> AnnealedEvidence:
        log_weights, accept = (torch.cat([getattr(p, name) for p in parts], -1) for name in ("log_weights", "accept"))
        evaluations = max(part.evaluations for part in parts)
        return AnnealedEvidence(log_weights, accept, bound, self.annealing, evaluations, self.seed)


@dataclass(frozen=True, eq=False)
class _Weights:
    """Log-weights `[chains, N]`, mean acceptance `[N]`, in double precision on the CPU, and evaluations a datum."""

    log_weights: Tensor
    accept: Tensor
    evaluations: int

    def cut(self, size: int) -> "_Weights":
        """The first data."""
        return _Weights(self.log_weights[:, :size].cpu(), self.accept[:size].cpu(), self.evaluations)


def _anneal(
    moves: Moves, z: Tensor, betas: Tensor, plan: Plan, least_share: float, noise: Noise, tick: "_Ticker"
) -> _Weights:
    """Move through the temperatures in the given order, and collect the weights.

    Backwards, the exact draw is moved at beta = 1 before it contributes; forwards, the first draws need no such move.
    """
    point, (chains, num_data) = moves.at(z), z.shape[:2]
    check_start(*annealed(point, betas[0].to(z.dtype)))
    population = Population(chains, num_data, noise, least_share)
    accept, made = torch.zeros(num_data, dtype=torch.float64, device=z.device), 0
    for number, (beta, after) in enumerate(pairwise(betas)):
        if number:
            point = population.resampled(point)
        if number or betas[0, 0]:
            point, taken = moves.move(point, beta, *plan.steps(beta), noise)
            accept, made = accept + taken.double().mean(0), made + 1
        population.add((after - beta) * point[2].double())
        tick()
    evaluations = chains * (1 + moves.num_leapfrog * made) + plan.evaluations
    return _Weights(population.by_first_draw(), accept / max(made, 1), evaluations)


@dataclass(frozen=True, eq=False)
class _Block:
    """Data that are annealed together.

    Args:
        start: the position of the first one.
        size: how many there are; further rows of `data` are padding.
        data: the block of each tensor.
        latents: exact draws, `[1, N, *site]`, if there are any.
    """

    start: int
    size: int
    data: Sequence[Tensor]
    latents: Mapping[str, Tensor] | None


def _blocks(data: Sequence[Tensor], latents: Mapping[str, Tensor] | None, rows: int, nesting: int) -> Iterator[_Block]:
    """Blocks with this many rows; if there are several, the last one is padded, so that one graph serves all."""
    num_data = len(data[0])
    for start in range(0, num_data, rows):
        size = min(rows, num_data - start)
        places = torch.arange(start, start + (rows if num_data > rows else size)).clamp(max=num_data - 1)
        exact = (
            None
            if latents is None
            else {name: value.index_select(nesting, places.to(value.device)) for name, value in latents.items()}
        )
        yield _Block(start, size, [x[places.to(x.device)] for x in data], exact)


@dataclass
class _Ticker:
    """Reports the progress within a block, as a number of data."""

    progress: Progress | None
    start: int
    size: int
    total: int
    done: int = field(default=0)

    def __call__(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.start + min(self.size, self.size * self.done // self.total))
