"""Hamiltonian Monte Carlo on the codes of all data at once: a step size a datum, a decision to accept a chain.

Pyro's own HMC takes a batch as one state: it accepts or rejects all of it at once, so that its acceptance falls with
the number of data, and the step size is that of the worst datum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import Protocol

import torch
from torch import Tensor

from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import derive_seed, generator
from pyro_vae.statistics.convergence import bulk_ess, r_hat

MOST_R_HAT = 1.01
"""R-hat above which chains are taken not to have converged (Vehtari et al. 2021)."""


LEAST_ESS = 100
"""Effective draws, for each chain, below which estimates are not to be trusted (Vehtari et al. 2021)."""


JITTER = 0.2
"""Step sizes vary by this share either way from trajectory to trajectory, beside the number of steps."""


_DIVERGED = 1000.0
"""Change of energy along a trajectory, nats, from which on it has left the level set altogether (as Stan has it)."""


_MOST_DOUBLINGS = 50


Point = tuple[Tensor, ...]
"""A position z `[chains, N, size]`, followed by what is known there: values `[chains, N]`, gradients like z."""


class Density(Protocol):
    """A density to walk on, by what it knows at a point."""

    def at(self, z: Tensor) -> Point:
        """Evaluate at z."""
        ...

    def log(self, point: Point) -> Tensor:
        """The log-density, `[chains, N]`, nats."""
        ...

    def gradient(self, point: Point) -> Tensor:
        """Its gradient in z."""
        ...


class Differentiated:
    """A log-density with its gradient by autograd: in z alone, no gradient is left on any parameter.

    Args:
        log_density: of z `[chains, N, size]`, to `[chains, N]`; of each datum and chain by itself.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor]) -> None:
        self.log_density = log_density

    def at(self, z: Tensor) -> Point:
        """`(z, log-density, gradient)`."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            value = self.log_density(z)
            (gradient,) = torch.autograd.grad(value.sum(), z)
        return z.detach(), value.detach(), gradient

    def log(self, point: Point) -> Tensor:
        """See `Density`."""
        return point[1]

    def gradient(self, point: Point) -> Tensor:
        """See `Density`."""
        return point[2]


class Noise:
    """Random numbers of chains, by datum: those of a datum are the same whatever data follow.

    They are drawn for 50 data at a time, from one stream each.

    Args:
        seed: of the streams.
        *keys: what they are for.
        num_data: N.
        first: the position of the first datum in the whole set, a multiple of 50.
        like: gives the type and the device.
    """

    def __init__(self, seed: int, *keys: object, num_data: int, first: int = 0, like: Tensor) -> None:
        self.num_data, self.like = num_data, like
        starts = range(first, first + num_data, TILE_DATA)
        seeds = [derive_seed(seed, *keys, start) for start in starts]
        self.streams = [torch.Generator(like.device).manual_seed(seed) for seed in seeds]
        self.common = generator(seed, *keys, "common")

    def integer(self, most: int) -> int:
        """One for all data, uniform from 1 to `most`."""
        return int(torch.randint(1, most + 1, (), generator=self.common))

    def normal(self, chains: int, size: int) -> Tensor:
        """Standard normal, `[chains, N, size]`."""
        return self._draw(torch.randn, chains, size)

    def uniform(self, chains: int, size: int) -> Tensor:
        """Uniform in [0, 1), `[chains, N, size]`."""
        return self._draw(torch.rand, chains, size)

    def _draw(self, function: Callable[..., Tensor], chains: int, size: int) -> Tensor:
        options = {"dtype": self.like.dtype, "device": self.like.device}
        tiles = [function(chains, TILE_DATA, size, generator=stream, **options) for stream in self.streams]
        return torch.cat(tiles, 1)[:, : self.num_data]


@dataclass(frozen=True, eq=False)
class HMCResult:
    """Draws of chains, and their health.

    Args:
        draws: `[num_samples, chains, N, size]`.
        accept: mean acceptance probability, `[chains, N]`.
        step_size: of each datum, `[N]`, in units of `scale`.
        scale: standard deviations that the steps are scaled by, `[N, size]`.
        divergences: trajectories whose energy went out of bounds, `[chains, N]`.
        evaluations: gradients of the log-density for each datum and chain, warm-up and all.
        seed: of the noise.
    """

    draws: Tensor
    accept: Tensor
    step_size: Tensor
    scale: Tensor
    divergences: Tensor
    evaluations: int
    seed: int

    @cached_property
    def r_hat(self) -> Tensor:
        """Rank-normalised split R-hat, `[N, size]`, by ArviZ; nan with a single chain. About a millisecond each."""
        return torch.from_numpy(r_hat(self.draws.permute(2, 3, 1, 0).cpu().numpy()))

    @cached_property
    def ess(self) -> Tensor:
        """Bulk effective sample size of all chains, `[N, size]`, by ArviZ."""
        return torch.from_numpy(bulk_ess(self.draws.permute(2, 3, 1, 0).cpu().numpy()))

    @property
    def flagged(self) -> Tensor:
        """Which data's draws are not to be trusted, `[N]` bool.

        Those with an R-hat above 1.01 or unknown, fewer than 100 effective draws for each chain, or a divergence. The
        largest R-hat of 50 dimensions is above 1.01 by chance alone until chains are some 1000 draws long.
        """
        unmixed = ~(self.r_hat <= MOST_R_HAT).all(-1)
        short = ~(self.ess >= LEAST_ESS * self.draws.shape[1]).all(-1)
        return unmixed | short | (self.divergences.sum(0) > 0).cpu()

    def summary(self) -> dict[str, float | int]:
        """What to look at first, as plain numbers."""
        samples, chains, num_data, size = self.draws.shape
        return {
            "num_data": num_data,
            "size": size,
            "num_chains": chains,
            "num_samples": samples,
            "accept": self.accept.mean().item(),
            "r_hat_max": self.r_hat.max().item(),
            "ess_min": self.ess.min().item(),
            "divergences": int(self.divergences.sum()),
            "unreliable": self.flagged.double().mean().item(),
            "evaluations": self.evaluations * chains,
            "seed": self.seed,
        }

    def __repr__(self) -> str:  # without R-hat and ESS, which take their time
        samples, chains, num_data, size = self.draws.shape
        return (
            f"HMCResult({chains} chains of {samples} draws for N = {num_data} data of {size} dimensions, acceptance "
            f"{self.accept.mean().item():.2f}, {int(self.divergences.sum())} divergences, seed {self.seed})"
        )


@isolated
def hmc(
    log_density: Callable[[Tensor], Tensor],
    start: Tensor,
    num_samples: int,
    *,
    num_warmup: int = 300,
    num_leapfrog: int = 10,
    step_size: float | Tensor = 0.1,
    target_accept: float = 0.8,
    seed: int = 0,
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> HMCResult:
    r"""Draw from a density for every datum by Hamiltonian Monte Carlo, all data and chains side by side.

    .. math:: H(z, r) = -\log p(z) + \tfrac12 |r|^2, \qquad
        r \leftarrow r + \tfrac{\epsilon s}{2} \nabla \log p(z), \quad z \leftarrow z + \epsilon s r, \quad
        r \leftarrow r + \tfrac{\epsilon s}{2} \nabla \log p(z)

    Each chain of each datum accepts by itself. The warm-up finds each datum's step size by dual averaging of the
    acceptance of its chains, and the scale s of each of its dimensions from their draws; then both are fixed.
    Trajectories take 1 to `num_leapfrog` steps, as many for all data, drawn anew each time, and step sizes vary by 20%
    either way: none runs in closed orbits. A draw costs `(num_leapfrog + 1) / 2` gradients a chain on average.

    A datum's chains do not depend on the data that follow, up to rounding, nor on the caller's generators. Trajectories
    that end where the density is nan are rejected, and counted as divergences.

    Args:
        log_density: of z `[chains, N, size]` to `[chains, N]`, nats, up to a constant, differentiable, and of each
            chain and datum by itself; e.g. `Target.log_joint`.
        start: where the chains start, `[chains, N, size]`. R-hat sees most where they are spread widely.
        num_samples: draws to keep of each chain.
        num_warmup: draws before those, to adapt in; 0 keeps the step size.
        num_leapfrog: most steps of a trajectory.
        step_size: where the adaptation starts, one for all or `[N]`.
        target_accept: mean acceptance probability to adapt to.
        seed: of the noise.
        first: the position of the first datum in the whole set, a multiple of 50: it names the random streams.
        progress: called with the number of draws done, those of the warm-up included.

    Returns:
        An `HMCResult`, on the device of `start`.

    Raises:
        UsageError: if an argument is out of range.
        NumericalError: if the log-density at the start, or its gradient, is not finite.

    References:
        Neal 2011, MCMC using Hamiltonian dynamics. Hoffman & Gelman 2014, The No-U-Turn sampler, section 3.2. Vehtari
        et al. 2021, Rank-normalization, folding, and localization: an improved R-hat.

    Example:
        >>> scale = torch.tensor([0.01, 1.0, 100.0])[:, None]
        >>> result = hmc(lambda z: -(z / scale).square().sum(-1) / 2, torch.zeros(4, 3, 1), 200, num_warmup=200)
        >>> bool((result.draws.std((0, 1)) / scale - 1).abs().max() < 0.2)
        True
    """
    _check(start, num_samples, num_warmup, num_leapfrog, target_accept)
    density = Differentiated(log_density)
    walk = Walk(density, start, num_leapfrog, Noise(seed, "hmc", num_data=start.shape[1], first=first, like=start))
    adaptation = Adaptation(walk, step_size, target_accept, num_warmup)
    for done in range(num_warmup):
        adaptation.step()
        if progress is not None:
            progress(done + 1)
    step, draws, accept = adaptation.result(), [], torch.zeros_like(walk.point[1])
    walk.divergences = torch.zeros_like(walk.divergences)
    for done in range(num_samples):
        accept = accept + walk.step(step * adaptation.scale)
        draws.append(walk.point[0])
        if progress is not None:
            progress(num_warmup + done + 1)
    return HMCResult(
        torch.stack(draws),
        accept / num_samples,
        step.squeeze(-1),
        adaptation.scale,
        walk.divergences,
        walk.evaluations,
        seed,
    )


class Walk:
    """Chains on a density, which may be changed between steps.

    Args:
        density: what they walk on.
        start: `[chains, N, size]`.
        num_leapfrog: most steps of a trajectory.
        noise: of the data.

    Raises:
        NumericalError: if the density at the start, or its gradient, is not finite.
    """

    def __init__(self, density: Density, start: Tensor, num_leapfrog: int, noise: Noise) -> None:
        self.density, self.num_leapfrog, self.noise = density, num_leapfrog, noise
        self.point, self.evaluations = density.at(start), 1
        self.divergences = torch.zeros(start.shape[:2], dtype=torch.long, device=start.device)
        _check_start(density.log(self.point), density.gradient(self.point))

    def step(self, step: Tensor) -> Tensor:
        """Take every chain one trajectory further, or leave it where it is.

        Args:
            step: step sizes, `[N, size]` or `[N, 1]`.

        Returns:
            The acceptance probabilities, `[chains, N]`.
        """
        chains, _, size = self.point[0].shape
        uniform = self.noise.uniform(chains, 2)
        jittered = step * (1 + JITTER * (2 * uniform[..., :1] - 1))
        steps = self.noise.integer(self.num_leapfrog)
        new, change = self.trajectory(self.noise.normal(chains, size), jittered, steps)
        accepted = uniform[..., 1].log() < change
        self.divergences = self.divergences + ~(change > -_DIVERGED)
        self.point = tuple(_where(accepted, a, b) for a, b in zip(new, self.point, strict=True))
        return change.clamp(max=0).exp()

    def trajectory(self, momentum: Tensor, step: Tensor, num_leapfrog: int) -> tuple[Point, Tensor]:
        """Where leapfrog steps lead, and the logarithm of the probability to go there, `[chains, N]`, not cut at 0."""
        point, momentum = self.point, momentum
        before = self.density.log(point) - momentum.square().sum(-1) / 2
        momentum = momentum + step / 2 * self.density.gradient(point)
        for number in range(num_leapfrog):
            point = self.density.at(point[0] + step * momentum)
            share = 1.0 if number < num_leapfrog - 1 else 0.5
            momentum = momentum + share * step * self.density.gradient(point)
        self.evaluations += num_leapfrog
        change = self.density.log(point) - momentum.square().sum(-1) / 2 - before
        return point, change.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)

    def rough_step_size(self, step: Tensor) -> Tensor:
        """Each datum's step size doubled or halved until one leapfrog step is accepted half of the time, `[N, 1]`.

        Args:
            step: where to start, `[N, size]`; one number for a datum is what changes.

        References:
            Hoffman & Gelman 2014, algorithm 4.
        """
        chains, _, size = self.point[0].shape
        factor, momentum = torch.ones_like(step[:, :1]), self.noise.normal(chains, size)
        up = wanted = None
        for _ in range(_MOST_DOUBLINGS):
            high = self.trajectory(momentum, factor * step, 1)[1].clamp(max=0).exp().mean(0) > 0.5
            up = high if up is None else up
            wanted = high == up if wanted is None else wanted & (high == up)
            if not wanted.any():
                break
            factor = torch.where(wanted[:, None], factor * torch.where(up, 2.0, 0.5)[:, None], factor)
        return factor


class Adaptation:
    """The warm-up of a walk: step sizes by dual averaging, scales from its draws in two windows.

    Args:
        walk: the chains.
        step_size: where to start, one for all or `[N]`.
        target: acceptance probability.
        num_steps: how many there will be.
    """

    def __init__(self, walk: Walk, step_size: float | Tensor, target: float, num_steps: int) -> None:
        z = walk.point[0]
        self.walk, self.target, self.done = walk, target, 0
        self.scale = torch.ones_like(z[0])
        initial = torch.as_tensor(step_size, dtype=z.dtype, device=z.device).expand(len(z[0]))[:, None]
        self.steps = DualAveraging(self._rough(initial) if num_steps else initial, target)
        self.windows = {num_steps * share // 8 for share in (3, 6)} if num_steps >= 40 else set()
        self.opening = num_steps // 8
        self._open_window()

    def step(self) -> None:
        """One trajectory, and what it teaches."""
        accept = self.walk.step(self.steps.current * self.scale)
        self.steps.update(accept.mean(0)[:, None])
        self.done += 1
        if self.windows and self.opening < self.done <= max(self.windows):
            self._add(self.walk.point[0])
        if self.done in self.windows:
            self.scale = self._estimated_scale()
            self.steps = DualAveraging(self._rough(self.steps.average), self.target)
            self._open_window()

    def result(self) -> Tensor:
        """The step sizes found, `[N, 1]`."""
        return self.steps.average

    def _rough(self, step: Tensor) -> Tensor:
        return step * self.walk.rough_step_size(step * self.scale)

    def _open_window(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros_like(self.scale), torch.zeros_like(self.scale)

    def _add(self, z: Tensor) -> None:
        """Take in draws `[chains, N, size]`: mean and squared deviations without cancellation (Chan et al. 1983)."""
        mean, total = z.mean(0), self.count + len(z)
        shift = mean - self.mean
        within = (z - mean).square().sum(0)
        self.squares = self.squares + within + shift.square() * self.count * len(z) / total
        self.mean, self.count = self.mean + shift * len(z) / total, total

    def _estimated_scale(self) -> Tensor:
        """Standard deviations, drawn a little towards a fraction of those before, as Stan does: none is ever 0."""
        return ((self.squares + 5e-3 * self.scale.square()) / (self.count + 5)).sqrt()


class DualAveraging:
    """Step sizes that bring acceptance to a target: stochastic approximation on their logarithm, and its average.

    Args:
        step_size: where to start, `[N, 1]`; the search leans to ten times it.
        target: acceptance probability.

    References:
        Hoffman & Gelman 2014, section 3.2.
    """

    def __init__(self, step_size: Tensor, target: float) -> None:
        self.current, self.target, self.count = step_size, target, 0
        self.centre, self.short = step_size.log() + log(10), torch.zeros_like(step_size)
        self.log_average = step_size.log()

    @property
    def average(self) -> Tensor:
        """The average, which converges; the start where nothing was taken in."""
        return self.log_average.exp() if self.count else self.current

    def update(self, accept: Tensor) -> None:
        """Take in acceptance probabilities, `[N, 1]`."""
        self.count += 1
        t = self.count
        self.short = self.short + (self.target - accept - self.short) / (t + 10)
        logarithm = self.centre - t**0.5 / 0.05 * self.short
        weight = t**-0.75
        self.log_average = weight * logarithm + (1 - weight) * self.log_average
        self.current = logarithm.exp()


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(*accepted.shape, *[1] * (new.dim() - accepted.dim())), new, old)


def _check(start: Tensor, num_samples: int, num_warmup: int, num_leapfrog: int, target_accept: float) -> None:
    if start.dim() != 3 or 0 in start.shape or not start.is_floating_point():
        raise UsageError(f"start: expected real numbers [chains, N, size], got {start.dtype} {list(start.shape)}")
    if num_samples < 1 or num_warmup < 0 or num_leapfrog < 1:
        came = f"{num_samples}, {num_warmup} and {num_leapfrog}"
        raise UsageError(f"hmc needs num_samples >= 1, num_warmup >= 0 and num_leapfrog >= 1, got {came}")
    if not 0 < target_accept < 1:
        raise UsageError(f"target_accept must lie between 0 and 1, got {target_accept}")


def _check_start(log_density: Tensor, gradient: Tensor) -> None:
    bad = ~(log_density.isfinite() & gradient.isfinite().all(-1)).all(0)
    if bad.any():
        datum = int(bad.nonzero()[0])
        raise NumericalError(
            f"the log-density of datum {datum} where its chains start, or its gradient, is not finite "
            f"({log_density[:, datum].tolist()}): look at the decoder's outputs for it, or start elsewhere"
        )
