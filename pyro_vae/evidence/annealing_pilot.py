"""The plan of an annealed run: each datum's temperatures and step sizes, from a short run of its own.

The noise of that run is independent of the noise of the runs whose weights count, and the plan is fixed before those
begin. Given it, every transition leaves its density invariant, so that weights stay unbiased.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi

import torch
from torch import Tensor

from pyro_vae.evidence.annealing_path import Moves, start_draws
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.inference.trajectories import Noise, Point, check_start
from pyro_vae.process.seeding import derive_seed

_FIRST_STEPS = 5
"""Trajectories at beta = 0 before annealing begins, to find step sizes."""


_LEAST_ADAPTED, _SHARE_ADAPTED = 40, 10
"""Fewest temperatures of the pilot run, which else has a tenth of all."""


_LEAST_CHAINS = 8
"""Chains of that run."""


_RATE = 0.5
"""How strongly a datum's step size reacts to the last acceptance of its chains."""


_FORGOTTEN = 0.1
"""Weight of the newest draws in the moving averages of a datum's moments."""


_LEAST_VARIANCE = 1e-6
"""Least variance of a dimension, relative to that of the starting distribution."""


_LEAST_SLOPE, _MOST_SLOPE = 0.1, 1e3
"""Bounds of the estimate of minus the covariance of z and the gradient, whose expectation is 1."""


_MOST_LINEAR = 0.95
"""Largest share of the rise that is taken to be linear: trajectories then turn by 136 degrees."""


_LEAST_LENGTH = 0.2
"""Least density of temperatures, relative to the mean."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Each datum's temperatures, and its step sizes at any of them.

    Args:
        betas: inverse temperatures, ascending from 0 to 1, `[T + 1, N]`, double.
        grid: those of the pilot run, the same for all data, `[K]`, double.
        log_angles: logarithms of the angle of a leapfrog step there, `[K, N, 1]`.
        log_scales: logarithms of the scale of each dimension there, `[K, N, size]`.
        evaluations: of the density, for each datum, that it took to find them.
    """

    betas: Tensor
    grid: Tensor
    log_angles: Tensor
    log_scales: Tensor
    evaluations: int

    def steps(self, beta: Tensor) -> tuple[Tensor, Tensor]:
        """The angles `[N, 1]` and scales `[N, size]` at temperatures `[N]`, by interpolation of the logarithms."""
        right = torch.searchsorted(self.grid, beta).clamp(1, len(self.grid) - 1)
        low, high = self.grid[right - 1], self.grid[right]
        share = ((beta - low) / (high - low)).to(self.log_scales.dtype)[:, None]
        data = torch.arange(len(beta), device=beta.device)
        angles, scales = (
            torch.lerp(values[right - 1, data], values[right, data], share).exp()
            for values in (self.log_angles, self.log_scales)
        )
        return angles, scales


class _Moments:
    """Variances of z, its covariances with both gradients and the mean slope of the rise, over about ten steps.

    Args:
        point: where the chains start.
    """

    def __init__(self, point: Point) -> None:
        self.values = _moments(point)
        self.least = _LEAST_VARIANCE * self.values[0] + torch.finfo(point[0].dtype).tiny

    def add(self, point: Point) -> None:
        """Add the chains' points, and reduce the weight of the earlier ones by a tenth."""
        self.values = torch.lerp(self.values, _moments(point), _FORGOTTEN)

    def scale(self, beta: float) -> Tensor:
        """Where a normal density in the chains' place would have its standard deviations, `[N, size]`.

        Its gradient is minus z divided by its variance; the ratio of their variance and covariance is therefore that
        variance, without the error of so few draws.
        """
        variance, base, rise = self.values[:3]
        slope = -(base + beta * rise) if beta else -base
        return (torch.maximum(variance, self.least) / slope.clamp(_LEAST_SLOPE, _MOST_SLOPE)).sqrt()

    def longest(self, scale: Tensor) -> Tensor:
        r"""The angle of a trajectory after which the log-weights have the least variance, `[N, 1]`.

        After an angle a, the linear part of the rise has the correlation c = cos a with that before, and its quadratic
        part c^2; sums over many temperatures vary in proportion to

        .. math:: l \frac{1 + c}{1 - c} + (1 - l) \frac{1 + c^2}{1 - c^2}, \qquad
            \text{which is least at } c = -\tan \tfrac{\arcsin l}{2}

        with l the linear part's share of the variance. Without it that is a right angle.
        """
        rise, slope = self.values[2:]
        linear, quadratic = (scale * slope).square().sum(-1), rise.square().sum(-1) / 2
        share = (linear / (linear + quadratic)).nan_to_num(0.0).clamp(max=_MOST_LINEAR)
        return (-(share.asin() / 2).tan()).acos()[:, None]


def _moments(point: Point) -> Tensor:
    """Of z and both gradients, `[4, N, size]`: the variance, two covariances with z, and the mean slope of the rise."""
    z, base, rise = point[0], *(slope.nan_to_num(0.0, 0.0, 0.0) for slope in point[3:])  # nan would never be forgotten
    centred = z - z.mean(0)
    found = [(centred * other).sum(0) / (len(z) - 1) for other in (centred, base, rise)]
    return torch.stack([*found, rise.mean(0)])


def pilot(moves: Moves, annealing: Annealing, seed: int, first: int, tick: Callable[[], None]) -> Plan:
    """Find a plan by a separate run, forwards over fewer temperatures.

    A datum's angle follows the acceptance of its chains (beyond a right angle, where a rejection costs more than it
    gains, it must be twice as near to 1); the scale of each dimension is that of the normal density with
    their variance and the slope of their gradients. Temperatures are spaced by equal parts of the thermodynamic length,
    the integral of the standard deviation of the rise over beta.

    Args:
        moves: of the data.
        annealing: how they will be used.
        seed: of the draws.
        first: the position of the first datum in the whole set.
        tick: called at each temperature.

    Returns:
        The plan.

    References:
        Gelman & Meng 1998, Simulating normalizing constants, section 4. Grosse, Maddison & Salakhutdinov 2013,
        Annealing between distributions by averaging moments, section 3.
    """
    seed, target = derive_seed(seed, "annealing pilot"), moves.target
    z = start_draws(target, annealing, _LEAST_CHAINS, seed, first)
    noise = Noise(seed, "transitions", num_data=target.num_data, first=first, like=z)
    point = moves.at(z)
    check_start(point[1], point[3])
    right = log(pi / 2 / annealing.num_leapfrog)
    moments, angle = _Moments(point), torch.full_like(z[0, :, :1], right)
    grid, found = annealing.betas(num_adapted(annealing)), []
    for beta in [0.0] * _FIRST_STEPS + grid:
        at = z.new_full((target.num_data,), beta)
        point, accept = moves.move(point, at, angle.exp(), moments.scale(beta), noise)
        moments.add(point)
        scale = moments.scale(beta)
        wanted = torch.where(angle > right, (1 + annealing.target_accept) / 2, annealing.target_accept)
        angle = angle + _RATE * (accept.mean(0)[:, None] - wanted)
        angle = torch.minimum(angle, (moments.longest(scale) / annealing.num_leapfrog).log())
        found.append((angle, scale.log(), point[2].double().std(0)))
        tick()
    angles, scales, spreads = (torch.stack(column) for column in zip(*found[_FIRST_STEPS:], strict=True))
    nodes = torch.tensor(grid, dtype=torch.float64, device=z.device)
    betas = _betas(annealing, nodes, spreads)
    return Plan(betas, nodes, angles, scales, _LEAST_CHAINS * (1 + annealing.num_leapfrog * (_FIRST_STEPS + len(grid))))


def num_adapted(annealing: Annealing) -> int:
    """Temperatures of the pilot run, after beta = 0."""
    return max(_LEAST_ADAPTED, annealing.num_temperatures // _SHARE_ADAPTED)


def num_ticks(annealing: Annealing) -> int:
    """How often that run reports its progress."""
    return _FIRST_STEPS + num_adapted(annealing) + 1


def _betas(annealing: Annealing, grid: Tensor, spreads: Tensor) -> Tensor:
    """The temperatures of each datum, `[T + 1, N]`; `spreads` are standard deviations of the rise, `[K, N]`."""
    if annealing.schedule == "adaptive":
        return _equal_lengths(grid, spreads, annealing.num_temperatures)
    betas = torch.tensor(annealing.betas(), dtype=torch.float64, device=grid.device)
    return betas[:, None].repeat(1, spreads.shape[1])


def _equal_lengths(grid: Tensor, spreads: Tensor, num: int) -> Tensor:
    """Points between which the integrals of the spreads are equal, `[num + 1, N]`; nowhere much sparser than even."""
    rates = torch.where(spreads.isfinite() & (spreads > 0), spreads, 1.0)
    rates = torch.nn.functional.avg_pool1d(rates.T[:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    widths = grid.diff()
    lengths = (rates[:, 1:] + rates[:, :-1]) / 2 * widths
    lengths = torch.maximum(lengths, _LEAST_LENGTH * lengths.sum(1, keepdim=True) * widths)
    ends = torch.nn.functional.pad(lengths.cumsum(1), (1, 0))
    wanted = torch.linspace(0, 1, num + 1, dtype=grid.dtype, device=grid.device) * ends[:, -1:]
    right = torch.searchsorted(ends, wanted).clamp(1, len(grid) - 1)
    low = ends.gather(1, right - 1)
    share = ((wanted - low) / (ends.gather(1, right) - low)).clamp(0, 1)
    betas = torch.lerp(grid[right - 1], grid[right], share)
    betas[:, 0], betas[:, -1] = 0.0, 1.0
    return betas.T.contiguous()
