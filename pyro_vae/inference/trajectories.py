"""Chains of Hamiltonian Monte Carlo on one density for each datum: leapfrog trajectories, accepted chain by chain."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pyro_vae.errors import NumericalError
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.process.seeding import derive_seed, generator

JITTER = 0.2
"""Step sizes vary by this share either way from trajectory to trajectory, in addition to the number of steps."""


_DIVERGED = 1000.0
"""Loss of energy along a trajectory, nats, above which it counts as a divergence (Stan's limit)."""


_MOST_DOUBLINGS = 50


Point = tuple[Tensor, ...]
"""A position z `[chains, N, size]`, then values there `[chains, N]` and gradients `[chains, N, size]`."""


class Density(Protocol):
    """A density that chains can sample."""

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
    """A log-density with its gradient by autograd; parameters get no gradient.

    Args:
        log_density: from z `[chains, N, size]` to `[chains, N]`; each element depends on its chain and datum alone.
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
    """Random numbers of chains. Those of a datum do not depend on the data that follow.

    Each block of 50 data has its own stream.

    Args:
        seed: of the streams.
        *keys: names the streams.
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


class CallersNoise:
    """Random numbers of chains from torch's own generators, and trajectories of the full length, as in training steps.

    Args:
        like: positions `[chains, N, size]`, which give the number of data, the type and the device.
    """

    def __init__(self, like: Tensor) -> None:
        self.num_data, self.options = like.shape[1], {"dtype": like.dtype, "device": like.device}

    def integer(self, most: int) -> int:
        """Always `most`."""
        return most

    def normal(self, chains: int, size: int) -> Tensor:
        """Standard normal, `[chains, N, size]`."""
        return torch.randn(chains, self.num_data, size, **self.options)

    def uniform(self, chains: int, size: int) -> Tensor:
        """Uniform in [0, 1), `[chains, N, size]`."""
        return torch.rand(chains, self.num_data, size, **self.options)


class Walk:
    """The current points of all chains; `density` may be changed between steps.

    Args:
        density: the density that the chains sample.
        start: `[chains, N, size]`.
        num_leapfrog: most steps of a trajectory.
        noise: random numbers of these data.

    Raises:
        NumericalError: if the density at the start, or its gradient, is not finite.
    """

    def __init__(self, density: Density, start: Tensor, num_leapfrog: int, noise: Noise | CallersNoise) -> None:
        self.density, self.num_leapfrog, self.noise = density, num_leapfrog, noise
        self.point, self.evaluations = density.at(start), 1
        self.divergences = torch.zeros(start.shape[:2], dtype=torch.long, device=start.device)
        check_start(density.log(self.point), density.gradient(self.point))

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
        """The factor, `[N, 1]`, a power of 2, at which one leapfrog step is accepted about half of the time.

        Args:
            step: where to start, `[N, size]`; each datum's steps are multiplied by one factor.

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


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(*accepted.shape, *[1] * (new.dim() - accepted.dim())), new, old)


def check_start(log_density: Tensor, gradient: Tensor) -> None:
    """Refuse chains that start where their density or its gradient is not finite.

    Args:
        log_density: `[chains, N]`, nats.
        gradient: `[chains, N, size]`.

    Raises:
        NumericalError: if there are such chains; it names the first datum that has one.
    """
    bad = ~(log_density.isfinite() & gradient.isfinite().all(-1)).all(0)
    if bad.any():
        datum = int(bad.nonzero()[0])
        raise NumericalError(
            f"the log-density of datum {datum} where its chains start, or its gradient, is not finite "
            f"({log_density[:, datum].tolist()}): look at x, and at the decoder's outputs for it, or start elsewhere"
        )
