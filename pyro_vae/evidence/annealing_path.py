"""Densities between the prior (or the guide) and the posterior, and the step sizes of the Markov chains on them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pyro_vae.compiling.recording import Graph, Unrecordable, record
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.programs import owners
from pyro_vae.inference.trajectories import Noise, Point, Walk
from pyro_vae.inference.unconstrained import Target
from pyro_vae.messages import log_once
from pyro_vae.process.seeding import derive_seed

_SCALE_DRAWS = 64
"""Draws of the starting distribution from which the scale of each dimension is computed."""


_FIRST_STEPS = 20
"""Trajectories at beta = 0 before annealing begins, to find step sizes."""


_LEAST_ADAPTED, _SHARE_ADAPTED = 100, 5
"""Fewest temperatures of the run that finds step sizes, which else has a fifth of all."""


_RATE = 0.5
"""How strongly a datum's step size reacts to the last acceptance of its chains."""


_LEAST_CHAINS = 8
"""Chains of that run."""


_FORGOTTEN = 0.1
"""Weight of the newest draws in the moving average of a datum's scale."""


_LEAST_VARIANCE = 1e-6
"""Least variance of a dimension, relative to that of the starting distribution."""


_TOLERANCE = 1e-4
"""Largest difference of a recorded log-density, or gradient, from the programs', relative to the largest of them all:
rounding gives 1e-6 or so."""


Terms = Callable[..., list[Tensor]]
"""Of z and the data: log f_0(z), log p(x, z) - log f_0(z), `[chains, N]`, and the gradients of both in z."""


class Bridge:
    r"""The density f_0(z)^(1 - beta) p(x, z)^beta, f_0 being the prior or the guide; `beta` may be set at any time.

    At every point both ends and their gradients are known, so that a change of temperature costs nothing.

    Args:
        terms: of z alone.
        max_rows: the most (chain, datum) pairs in one run of them.
    """

    def __init__(self, terms: Terms, max_rows: int) -> None:
        self.terms, self.max_rows, self.beta = terms, max_rows, 0.0

    def at(self, z: Tensor) -> Point:
        """`(z, log f_0, log p(x, z) - log f_0, their gradients)`."""
        parts = [self.terms(part) for part in z.split(max(1, self.max_rows // z.shape[1]))]
        return (z, *(torch.cat(column) if len(parts) > 1 else column[0] for column in zip(*parts, strict=True)))

    def log(self, point: Point) -> Tensor:
        """See `hmc.Density`."""
        return point[1] + self.beta * point[2] if self.beta else point[1]

    def gradient(self, point: Point) -> Tensor:
        """See `hmc.Density`."""
        return point[3] + self.beta * point[4] if self.beta else point[3]


class Bridges:
    """Makes the bridge of each block of data, by running the programs or a graph recorded from them.

    Args:
        annealing: where the bridges start.
        max_rows: the most (chain, datum) pairs in one run.
        compile: whether to record a graph and compile it; if that is impossible, the reason is logged.
    """

    def __init__(self, annealing: Annealing, max_rows: int, compile: bool) -> None:
        self.start, self.max_rows, self.compile = annealing.start, max_rows, compile
        self.recorded: tuple[Target, Graph, torch.Size] | None = None

    def bridge(self, target: Target, chains: int) -> Bridge:
        """The bridge of a block, for this number of chains."""
        if self.compile and self.recorded is None:
            self._record(target, min(chains, max(1, self.max_rows // target.num_data)))
        return Bridge(self._terms(target), self.max_rows)

    def _terms(self, target: Target) -> Terms:
        eager = _terms(target, self.start)
        if self.recorded is None or not target.has_supports_of(self.recorded[0]):
            return lambda z: eager(z, *target.data)
        _, graph, shape = self.recorded
        return lambda z: graph(z, *target.data) if z.shape == shape else eager(z, *target.data)

    def _record(self, target: Target, chains: int) -> None:
        try:
            self.recorded = target, self._graph(target, chains), torch.Size([chains, target.num_data, target.size])
        except Unrecordable as error:
            self.compile = False
            log_once(f"annealing runs eagerly, not compiled: {error}")

    def _graph(self, target: Target, chains: int) -> Graph:
        if not target.is_same_for_all_data:
            raise Unrecordable("the support of a latent site differs between the data")
        terms, example = _terms(target, self.start), [target.draw_prior(chains), *target.data]
        module = nn.ModuleList(owners(target.model, target.guide))
        graph = record(module, terms, example, compile=True)
        for ours, theirs in zip(graph(*example), terms(*example), strict=True):
            error = ((ours - theirs).abs() / theirs.abs().max().clamp(min=1.0)).max().item()
            if not error <= _TOLERANCE:
                raise Unrecordable(f"the graph's values differ from the programs' by {error:.2g} of the largest")
        return graph


def _terms(target: Target, start: str) -> Terms:
    """By running the programs, with gradients in z alone."""

    def terms(z: Tensor, *data: Tensor) -> list[Tensor]:
        here = target.at(*data)
        with torch.enable_grad():
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


@dataclass(frozen=True, eq=False)
class Steps:
    """Each datum's step sizes at each temperature.

    Args:
        betas: the inverse temperatures at which they are known, ascending from 0 to 1.
        log_sizes: their logarithms there for each dimension, `[len(betas), N, size]`.
        evaluations: of the density, for each datum, that it took to find them.
    """

    betas: Sequence[float]
    log_sizes: Tensor
    evaluations: int

    def at(self, beta: float) -> Tensor:
        """Step sizes at a temperature, `[N, size]`, by linear interpolation of the logarithms."""
        right = min(max(bisect_right(self.betas, beta), 1), len(self.betas) - 1)
        low, high = self.betas[right - 1], self.betas[right]
        return torch.lerp(self.log_sizes[right - 1], self.log_sizes[right], (beta - low) / (high - low)).exp()


class _Scale:
    """Standard deviations of each datum's chains, over about the last ten of their draws.

    Args:
        draws: of the start, `[num, N, size]`.
    """

    def __init__(self, draws: Tensor) -> None:
        self.mean, self.variance = draws.mean(0), draws.var(0)
        self.least = _LEAST_VARIANCE * self.variance + torch.finfo(draws.dtype).tiny

    @property
    def value(self) -> Tensor:
        """`[N, size]`."""
        return torch.maximum(self.variance, self.least).sqrt()

    def add(self, z: Tensor) -> None:
        """Add draws `[chains, N, size]`, and reduce the weight of the earlier ones by a tenth."""
        shift = z.mean(0) - self.mean
        old = (1 - _FORGOTTEN) * (self.variance + _FORGOTTEN * shift.square())
        self.mean, self.variance = self.mean + _FORGOTTEN * shift, old + _FORGOTTEN * z.var(0, correction=0)


def adapted(
    target: Target, bridge: Bridge, annealing: Annealing, seed: int, first: int, tick: Callable[[], None]
) -> Steps:
    """Find step sizes by a separate run, forwards over fewer temperatures.

    A datum's step size follows the acceptance of its chains; within it each dimension is scaled by their standard
    deviation. The noise is independent of that of the runs whose weights count, and the sizes are fixed before those
    begin: given them, every transition leaves its density invariant, so that weights stay unbiased.

    Args:
        target: the data.
        bridge: from the start to their posterior.
        annealing: how they will be used.
        seed: of the draws.
        first: the position of the first datum in the whole set.
        tick: called at each temperature.

    Returns:
        The sizes at the temperatures of this run.
    """
    seed, chains = derive_seed(seed, "annealing steps"), max(_LEAST_CHAINS, annealing.num_chains)
    draws = start_draws(target, annealing, max(_SCALE_DRAWS, chains), seed, first)
    noise = Noise(seed, "transitions", num_data=target.num_data, first=first, like=draws)
    bridge.beta = 0.0
    walk, scale = Walk(bridge, draws[:chains], annealing.num_leapfrog, noise), _Scale(draws)
    size = walk.rough_step_size(scale.value).log()
    betas, found = annealing.betas(num_adapted(annealing)), []
    for beta in [0.0] * _FIRST_STEPS + betas:
        bridge.beta = beta
        accept = walk.step(size.exp() * scale.value).mean(0)[:, None]
        scale.add(walk.point[0])
        size = size + _RATE * (accept - annealing.target_accept)
        found.append(size + scale.value.log())
        tick()
    return Steps(betas, torch.stack(found[_FIRST_STEPS:]), walk.evaluations * chains)


def num_adapted(annealing: Annealing) -> int:
    """Temperatures of the run that finds step sizes, after beta = 0."""
    return max(_LEAST_ADAPTED, annealing.num_temperatures // _SHARE_ADAPTED)


def num_ticks(annealing: Annealing) -> int:
    """How often that run reports its progress."""
    return _FIRST_STEPS + num_adapted(annealing) + 1


def start_draws(target: Target, annealing: Annealing, num: int, seed: int, first: int) -> Tensor:
    """Exact draws of the distribution at beta = 0, `[num, N, size]`."""
    if annealing.start == "prior":
        return target.draw_prior(num, seed, first)
    return target.draw_guide(num, seed, first)[0]
