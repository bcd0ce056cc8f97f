"""Draws from p(z|x), or from an approximation, and their health for each datum."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import spoken
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.compiling.memory import remembering
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.hamiltonian import HMC, HMCResult, hmc
from pyro_vae.inference.pairs import EagerPair
from pyro_vae.inference.programs import Called, Program, evaluation_mode
from pyro_vae.inference.sites import in_order
from pyro_vae.inference.tiles import TILE_DATA, TILE_PARTICLES, draws, pieces
from pyro_vae.inference.unconstrained import Target
from pyro_vae.inference.weighing import model_order, refuse_point_masses
from pyro_vae.messages import ByShapes
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import generator, seeded
from pyro_vae.statistics.pareto import reliable_below, smooth_tail
from pyro_vae.statistics.reliability import untrustworthy
from pyro_vae.statistics.rounding import rounding_error

Method = Literal["guide", "sir", "psis", "hmc"]


Function = Callable[[Mapping[str, Tensor], Sequence[Tensor]], Tensor]
"""Of draws by site name, `[particles, batch, *event]`, and the data: values `[particles, batch, ...]`."""


METHODS = ("guide", "sir", "psis", "hmc")


GUIDE_EFFICIENCY = 0.9
"""Least ESS / K of a guide whose own draws pass for the posterior's: no mean of theirs is then off by more than a third
of its standard deviation under q, sqrt(K / ESS - 1), as chi-squared(p || q) = K / ESS - 1."""


@dataclass(frozen=True, eq=False, repr=False)
class Weights(ByShapes):
    """The importance weights behind draws, all in double precision on the CPU.

    Args:
        log_weights: log p(x, z) - log q(z|x) of each draw, `[num_draws, N]`, nats, before any smoothing.
        ess: effective number of guide's draws, `(sum w)^2 / sum w^2`, `[N]`, between 1 and K.
        pareto_k: shape of the tail of all K weights, `[N]`; -inf where all are equal, nan where K is too small.
        num_particles: K, draws of the guide for each datum.
    """

    log_weights: Tensor
    ess: Tensor
    pareto_k: Tensor
    num_particles: int

    @property
    def threshold(self) -> float:
        """The Pareto k above which not to trust the weights: `min(1 - 1 / log10(K), 0.7)` (Vehtari et al. 2024)."""
        return reliable_below(self.num_particles)

    @property
    def heavy(self) -> Tensor:
        """Which data's weights are not to be trusted, `[N]` bool: Pareto k likely above `threshold`, or unknown.

        The k-hat of all data are judged together; see `reliability.untrustworthy`.
        """
        return untrustworthy(self.pareto_k, self.num_particles, self.threshold)


@dataclass(frozen=True, eq=False)
class Posterior:
    r"""Draws of the latent sites for each datum, and their health.

    Args:
        draws: by site name, `[num_draws, N, *event]`, in the order in which the model draws the sites; in inner plates
            `[num_draws, *plates, N, *event]`. Those of the chains of `"hmc"` follow each other.
        method: how they were drawn.
        seed: the seed of the draws.
        weights: those of the guide's draws; None for `"hmc"`.
        chains: the chains of `"hmc"`; else None.
        expected: the posterior mean of the function `expect`, `[N, ...]`, double precision; None without one.
    """

    draws: Mapping[str, Tensor]
    method: str
    seed: int
    weights: Weights | None = None
    chains: HMCResult | None = None
    expected: Tensor | None = None

    @property
    def num_draws(self) -> int:
        """Draws of each datum."""
        return len(next(iter(self.draws.values())))

    @property
    def num_chains(self) -> int:
        """Chains that the draws are of, one after the other."""
        return 1 if self.chains is None else self.chains.draws.shape[1]

    @property
    def pareto_k(self) -> Tensor | None:
        """Shape of the tail of the weights, `[N]`; None for `"hmc"`, which has none."""
        return None if self.weights is None else self.weights.pareto_k

    @property
    def ess(self) -> Tensor:
        """Effective sample size, `[N]`: of the weights; of the chains in the dimension where it is least."""
        return self._chains.ess.amin(-1) if self.weights is None else self.weights.ess

    @property
    def r_hat(self) -> Tensor | None:
        """R-hat of the chains, `[N]`, in the dimension where it is greatest; None but for `"hmc"`."""
        return None if self.chains is None else self.chains.r_hat.amax(-1)

    @property
    def flagged(self) -> Tensor:
        """Which data's draws are not to be trusted, `[N]` bool.

        Of weights: Pareto k above its threshold or unknown, as the guide then misses a part of the posterior, which no
        weight brings back. The guide's own draws, which are not weighed, also where ESS / K is below 0.9. Of chains:
        R-hat above 1.01, fewer than 100 effective draws for each, or a divergence.
        """
        if self.weights is None:
            return self._chains.flagged
        wide_of_it = self.weights.ess < GUIDE_EFFICIENCY * self.weights.num_particles
        return self.weights.heavy | wide_of_it if self.method == "guide" else self.weights.heavy

    @property
    def unreliable(self) -> float:
        """Share of the data whose draws are `flagged`."""
        return self.flagged.double().mean().item()

    def __repr__(self) -> str:
        sites = ", ".join(f"{name} {list(value.shape)}" for name, value in self.draws.items())
        made = f"{self.num_chains} chains" if self.weights is None else f"K = {self.weights.num_particles} draws"
        health = f"median ESS {self.ess.median():.0f}, flagged {self.unreliable:.1%}"
        return f"Posterior({sites} by {self.method!r} from {made}, {health}, seed {self.seed})"

    @property
    def _chains(self) -> HMCResult:
        assert self.chains is not None
        return self.chains


@isolated
@checked
def posterior(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_draws: int = 1000,
    method: Method = "psis",
    num_particles: int = 5000,
    hmc: HMC | None = None,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
    expect: Function | None = None,
    **inputs: Tensor,
) -> Posterior:
    r"""Draw from p(z|x) for every datum.

    - `"guide"`: z ~ q(z|x). As accurate as the guide is.
    - `"sir"`: sampling-importance-resampling. K draws of the guide, of which each is taken in proportion to its weight
      `w_k = p(x, z_k) / q(z_k|x)`: right in the limit of K, wherever the guide reaches.
    - `"psis"`: the same with the largest weights replaced by the order statistics of a fitted Pareto distribution,
      so that no single draw dominates; less noise for a little bias.
    - `"hmc"`: Hamiltonian Monte Carlo from draws of the guide. Right in the limit of long chains, also where the guide
      does not reach; slower by far. Continuous sites only.

    Resampling is systematic: a draw is taken `num_draws w_k / sum w` times, rounded up or down at random, so draws
    repeat, and are worth about ESS independent ones. The order is random. The result is a function of `(x, num_draws,
    method, num_particles, seed)` and not on later data; the weights are those of `log_marginal` with the same
    seed and K. The guide draws twice in place of keeping K codes: memory is that of the result, and 16 K bytes for each
    of 50 data.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        num_draws: draws for each datum.
        method: guide | sir | psis | hmc.
        num_particles: K, draws of the guide that are weighed, at least `num_draws` of them for `"guide"`.
        hmc: settings of `"hmc"`; each chain gives `num_draws / num_chains` draws, rounded up. None for `HMC()`.
        seed: seed of the draws; the caller's generators are left alone.
        max_rows: the most (datum, particle) pairs in one run of the model; bounds memory.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data done so far.
        expect: a function of the latents `[particles, batch, *event]`, by site name, and of the list of the data of a
            block (`x`, `*args` and `**inputs` in their order), with values `[particles, batch, ...]`. Its posterior
            mean is computed from all K draws with their weights (smoothed for `"psis"`, equal for `"guide"`), or from
            all draws of the chains: less noise than from `num_draws` draws.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        A `Posterior`, on the CPU; draws in the precision of the programs, the rest in double precision.

    Raises:
        UsageError: if a size is not positive, the method is unknown, or a site of the guide is a Delta.
        NumericalError: if a datum's log-weights are all -inf, or one is nan or +inf.

    References:
        Rubin 1988, Using the SIR algorithm to simulate posterior distributions. Vehtari et al. 2024, Pareto smoothed
        importance sampling. Yao et al. 2018, Yes, but did it work? Evaluating variational inference.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> posterior(vae.model, vae.guide, torch.ones(3, 4), num_draws=10, num_particles=100).draws["z"].shape
        torch.Size([10, 3, 2])
    """
    _check(method, len(x), num_draws=num_draws, num_particles=num_particles, max_rows=max_rows)
    data = (x, *args, *inputs.values())
    pair = EagerPair(Called(model, list(inputs)), Called(guide, list(inputs)), max_rows, max_plate_nesting)
    report = progress or (lambda done: None)
    with evaluation_mode(model, guide), fast_cpu(), exact_products(), remembering():
        with seeded(seed, "structure"):
            refuse_point_masses(pair.guide, *(a[:1] for a in data), max_plate_nesting=max_plate_nesting)
        if method == "hmc":
            draws_of, chains = _by_hmc(pair, data, num_draws, hmc or HMC(), seed, report)
            return Posterior(draws_of, method, seed, None, chains, _plain_mean(expect, draws_of, data, pair))
        draws_of, weights, expected = _by_weights(pair, data, num_draws, method, num_particles, seed, report, expect)
        one = {name: value[:1].to(x.device) for name, value in draws_of.items()}
        order = model_order(pair.model, one, *data, max_plate_nesting=max_plate_nesting)
    return Posterior(in_order(draws_of, order), method, seed, weights, None, expected)


def _check(method: str, size: int, **numbers: int) -> None:
    if method not in METHODS:
        raise UsageError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if size == 0 or min(numbers.values()) < 1:
        numbers = {name: number for name, number in numbers.items() if number < 1} or numbers
        came = ", ".join(f"{spoken('', '--')}{name} {number}" for name, number in numbers.items())
        raise UsageError(f"need data, and numbers of at least 1, got {size} data and {came}")


def _by_weights(
    pair: EagerPair,
    data: Sequence[Tensor],
    num_draws: int,
    method: str,
    num_particles: int,
    seed: int,
    report: Callable[[int], object],
    expect: Function | None,
) -> tuple[dict[str, Tensor], Weights, Tensor | None]:
    """Draws of the guide, as they come or resampled, their weights and means of a function, block by block."""
    num_particles, blocks = max(num_particles, num_draws) if method == "guide" else num_particles, []
    for start in range(0, len(data[0]), TILE_DATA):
        block = [a[start : start + TILE_DATA] for a in data]
        blocks.append(_block(pair, block, start, num_draws, method, num_particles, seed, expect))
        report(start + len(block[0]))
    latents, means, *columns = zip(*blocks, strict=True)
    log_w, ess, k = (torch.cat(column, -1) for column in columns)
    expected = None if expect is None else torch.cat(means)
    return _joined(latents, pair.nesting), Weights(log_w, ess, k, num_particles), expected


def _by_hmc(
    pair: EagerPair, data: Sequence[Tensor], num_draws: int, how: HMC, seed: int, report: Callable[[int], object]
) -> tuple[dict[str, Tensor], HMCResult]:
    """Draws of chains that start at draws of the guide, for as many data at a time as `max_rows` allows."""
    rows, num_samples = (
        max(1, pair.max_rows // (how.num_chains * TILE_DATA)) * TILE_DATA,
        -(-num_draws // how.num_chains),
    )
    latents, results = [], []
    for start in range(0, len(data[0]), rows):
        part = [a[start : start + rows] for a in data]
        target = Target(pair.model, pair.guide, *part, max_plate_nesting=pair.nesting)
        result = hmc(
            target.log_joint,
            target.draw_guide(how.num_chains, seed, start)[0],
            num_samples,
            settings=how,
            seed=seed,
            first=start,
            progress=partial(_tell, report, start, len(part[0]), how.num_warmup + num_samples),
        )
        flat = result.draws.transpose(0, 1).flatten(0, 1)
        latents.append({name: value.cpu() for name, value in target.latents(flat).items()})
        results.append(result)
    return _joined(latents, pair.nesting), _one(results)


def _tell(report: Callable[[int], object], start: int, size: int, total: int, done: int) -> None:
    """The data done so far, in proportion to the draws of those at work."""
    report(start + size * done // total)


def _joined(parts: Sequence[Mapping[str, Tensor]], dim: int) -> dict[str, Tensor]:
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}


def _one(results: Sequence[HMCResult]) -> HMCResult:
    """The chains of all data."""
    axes = {"draws": 2, "accept": 1, "step_size": 0, "scale": 0, "divergences": 1}
    joined = {name: torch.cat([getattr(result, name).cpu() for result in results], dim) for name, dim in axes.items()}
    return HMCResult(**joined, evaluations=results[0].evaluations, seed=results[0].seed)


def _block(
    pair: EagerPair,
    data: Sequence[Tensor],
    start: int,
    num_draws: int,
    method: str,
    num_particles: int,
    seed: int,
    expect: Function | None,
) -> tuple[dict[str, Tensor], Tensor | None, Tensor, Tensor, Tensor]:
    """The draws of one block, the means of `expect`, the draws' log-weights `[num_draws, block]`, the ESS and Pareto's
    k of each datum.
    """
    log_w, rounding = _weighed(pair, data, start, num_particles, seed)
    tails = smooth_tail(np.ascontiguousarray(log_w.T), num_particles, rounding.numpy())
    smoothed, k = map(torch.from_numpy, tails)
    used = smoothed.T if method == "psis" else log_w
    first = torch.arange(num_draws)[:, None].expand(-1, len(data[0]))
    chosen = first if method == "guide" else _resample(used, num_draws, start, seed)
    shares = (torch.zeros_like(used) if method == "guide" else used).softmax(0)
    mean = None if expect is None else _Mean(expect, data, shares, pair.max_rows)
    latents = _pick(pair, data, start, chosen, num_particles, seed, mean)
    ess = torch.exp(2 * used.logsumexp(0) - (2 * used).logsumexp(0)).clamp(1, num_particles)
    return latents, None if mean is None else mean.total, log_w.gather(0, chosen), ess, k


class _Mean:
    """The weighted mean of a function of draws that come piece by piece.

    Args:
        expect: the function.
        data: a block of data.
        shares: the normalised weights of all draws, `[particles, block]`, on the CPU.
        max_rows: the most (datum, particle) pairs in one call.
    """

    def __init__(self, expect: Function, data: Sequence[Tensor], shares: Tensor, max_rows: int) -> None:
        self.expect, self.data, self.shares, self.done = expect, data, shares, 0
        self.particles = max(1, max_rows // len(data[0]))
        self.total = torch.zeros(())

    def add(self, latents: Mapping[str, Tensor]) -> None:
        """Take the next draws; those of weight 0 for all data are left out."""
        for piece in pieces(latents, self.particles):
            size = len(next(iter(piece.values())))
            shares = self.shares[self.done : self.done + size]
            self.done += size
            if shares.any():
                values = self.expect(piece, self.data).double().cpu()
                self.total = self.total + torch.einsum("kn,kn...->n...", shares, values)


def _plain_mean(
    expect: Function | None, latents: Mapping[str, Tensor], data: Sequence[Tensor], pair: EagerPair
) -> Tensor | None:
    """The mean of a function over the draws of chains, `[N, ...]`."""
    if expect is None:
        return None
    size, means = len(next(iter(latents.values()))), []
    for start in range(0, len(data[0]), TILE_DATA):
        block = [a[start : start + TILE_DATA] for a in data]
        count = len(block[0])
        mean = _Mean(expect, block, torch.full((size, count), 1 / size, dtype=torch.float64), pair.max_rows)
        mean.add({name: v.narrow(pair.nesting, start, count).to(block[0].device) for name, v in latents.items()})
        means.append(mean.total)
    return torch.cat(means)


def _weighed(
    pair: EagerPair, data: Sequence[Tensor], start: int, num_particles: int, seed: int
) -> tuple[Tensor, Tensor]:
    """The log-weights of one block, `[num_particles, block]`, and their rounding errors, `[block]`."""
    drawn = draws(pair, data, start, num_particles, seed, pair.nesting)
    terms = [(pair.log_joint(latents, data), log_guide) for latents, log_guide in drawn]
    log_w = torch.cat([(log_joint - log_guide).double().cpu() for log_joint, log_guide in terms])
    rounding = torch.stack([rounding_error(*torch.broadcast_tensors(*both)) for both in terms]).amax(0)
    return _usable(log_w, start), rounding.cpu()


def _usable(log_w: Tensor, start: int) -> Tensor:
    total = log_w.logsumexp(0)
    if not total.isfinite().all():
        datum = int((~total.isfinite()).nonzero()[0])
        raise NumericalError(
            f"the log-weights of datum {start + datum} add up to {total[datum].item()}: one is nan or infinite, or all "
            "are -inf; look at x, and at the decoder's and the encoder's outputs for it"
        )
    return log_w


def _resample(log_w: Tensor, num_draws: int, start: int, seed: int) -> Tensor:
    """Which particle each draw of each datum is, `[num_draws, block]`: systematic, in random order."""
    stream, size = generator(seed, "posterior", start), log_w.shape[1]
    offset = torch.rand(TILE_DATA, generator=stream, dtype=torch.float64)[:size]
    order = torch.rand(num_draws, TILE_DATA, generator=stream)[:, :size].argsort(0)
    upto = log_w.softmax(0).cumsum(0).T.contiguous()
    places = (torch.arange(num_draws, dtype=torch.float64) + offset[:, None]) / num_draws
    chosen = torch.searchsorted(upto, places * upto[:, -1:], right=True).T
    return chosen.clamp(max=len(log_w) - 1).gather(0, order)


def _pick(
    pair: EagerPair,
    data: Sequence[Tensor],
    start: int,
    chosen: Tensor,
    num_particles: int,
    seed: int,
    mean: _Mean | None,
) -> dict[str, Tensor]:
    """The chosen draws by site, `[num_draws, *plates, block, *event]`, out of the same tiles that were weighed."""
    found: dict[str, Tensor] = {}
    tiles = draws(pair, data, start, num_particles, seed, pair.nesting)
    for first, (latents, _) in zip(range(0, num_particles, TILE_PARTICLES), tiles, strict=True):
        if mean is not None:
            mean.add(latents)
        rows, columns = ((chosen >= first) & (chosen < first + TILE_PARTICLES)).nonzero(as_tuple=True)
        for name, value in latents.items():
            value = value.movedim(pair.nesting, 1).cpu()
            kept = found.setdefault(name, value.new_empty(*chosen.shape, *value.shape[2:]))
            kept[rows, columns] = value[chosen[rows, columns] - first, columns]
    return {name: value.movedim(1, pair.nesting) for name, value in found.items()}
