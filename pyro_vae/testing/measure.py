"""Integrals, sums and statistics to check densities and draws, in double precision.

Tests by draws state their false-alarm rate. The draws are seeded, so a result does not change between runs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import asinh
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.process.torch_internals import DispatchMode, argument_names
from pyro_vae.testing.contract import expect, not_applicable

LogDensity = Callable[[Tensor], Tensor]

POINTS = 50_001
"""Points on a line; with more, no compared digit changes."""
_PIECE = 20_000
_TAIL = 200_000
"""Values tried on each side of a discrete support without a bound."""


@dataclass(frozen=True)
class Grid:
    """Points of a support, with quadrature weights (1 for a discrete support).

    Args:
        points: `[n, *event]`, rising along the first dimension.
        weights: `[n, *event]`; ones where the support is discrete.
        discrete: whether the support is; one for all elements, or `[*event]`.
    """

    points: Tensor
    weights: Tensor
    discrete: bool | Tensor = False

    def masses(self, log_density: LogDensity) -> Tensor:
        """The probability at each point, `[n, *event]`; computed in pieces to limit memory."""
        return torch.cat([log_density(points) for points in self.points.split(_PIECE)]).exp() * self.weights


# ---- grids ---------------------------------------------------------------------------------------------------------


def grid_over(support: constraints.Constraint, draws: Tensor, reach: float = 1e12) -> Grid:
    """A grid on the support of one element.

    Args:
        support: a constraint on one number. A discrete one that is not torch's must list its points as `values`, or be
            evenly spaced. One that differs between elements lists theirs as `of_elements`.
        draws: `[m, *event]`, to locate the probability.
        reach: how far the grid goes into the tails, in half interquartile ranges of the draws.
    """
    if (of_elements := getattr(support, "of_elements", None)) is not None:
        each = zip(of_elements, draws.flatten(1).unbind(1), strict=True)
        return _side_by_side([grid_over(own, column, reach) for own, column in each], draws.shape[1:])
    if support.is_discrete:
        return _lattice(support, draws)
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is not None and high is not None:
        return _interval(float(low), float(high), draws)
    if low is not None:
        return _half_line(float(low), 1.0, draws)
    return line(draws, reach) if high is None else _half_line(float(high), -1.0, draws)


def _side_by_side(grids: list[Grid], event: torch.Size) -> Grid:
    """Grids of single elements as one, the shorter ones filled up with their last point, of no weight."""
    size = max(len(grid.points) for grid in grids)
    points = [torch.cat([grid.points, grid.points[-1:].expand(size - len(grid.points))]) for grid in grids]
    weights = [torch.cat([grid.weights, grid.weights.new_zeros(size - len(grid.weights))]) for grid in grids]
    discrete = torch.tensor([bool(grid.discrete) for grid in grids])
    stacked = [torch.stack(each, 1).unflatten(1, event) for each in (points, weights)]
    return Grid(stacked[0], stacked[1], discrete.reshape(event))


def line(draws: Tensor, reach: float = 1e6, points: int = POINTS) -> Grid:
    """The real line by x = c + s sinh(t), with c and s from the draws: fine near them, far in the tails.

    The trapezoid rule in t converges faster than any power for smooth densities; at a kink its error is 1e-7 or so.
    """
    centre, spread = _location(draws)
    end = asinh(reach)
    t = _column(torch.linspace(-end, end, points, dtype=torch.float64), draws)
    return Grid(centre + spread * t.sinh(), spread * t.cosh() * (2 * end / (points - 1)))


def _half_line(end: float, sign: float, draws: Tensor) -> Grid:
    """The half line from `end` by x = end +- s exp(t): far enough for the second moment of a log-normal of scale 6."""
    spread = (draws - end).abs().median(0).values
    t = _column(sign * torch.linspace(-100, 100, POINTS, dtype=torch.float64), draws)
    distance = spread * t.exp()
    return Grid(end + sign * distance, distance * (200 / (POINTS - 1)))


def _interval(low: float, high: float, draws: Tensor) -> Grid:
    """An interval by the logistic map."""
    t = _column(torch.linspace(-33, 33, POINTS, dtype=torch.float64), draws).expand(-1, *draws.shape[1:])
    share = t.sigmoid()
    return Grid(low + (high - low) * share, (high - low) * share * (-t).sigmoid() * (66 / (POINTS - 1)))


def _lattice(support: Any, draws: Tensor) -> Grid:
    """All points of a discrete support: torch's integers, the support's `values`, or evenly spaced points."""
    known = _known_points(support)
    points = _column((_spaced(support, draws) if known is None else known).double(), draws)
    points = points.expand(-1, *draws.shape[1:])
    return Grid(points, torch.ones_like(points), discrete=True)


def _known_points(support: Any) -> Tensor | None:
    if getattr(support, "values", None) is not None:
        return torch.as_tensor(support.values).sort().values
    if support is constraints.boolean:
        return torch.tensor([0.0, 1.0])
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None or type(support).__module__ != "torch.distributions.constraints":
        return None  # other classes may mean something else by bounds
    return torch.arange(int(low), int(low) + _TAIL if high is None else int(high) + 1, dtype=torch.float64)


def _spaced(support: Any, draws: Tensor) -> Tensor:
    """The lattice of the draws, inside the support."""
    drawn = draws.unique()
    step = drawn.diff().min() if len(drawn) > 1 else torch.ones((), dtype=draws.dtype)
    points = drawn[0] + step * torch.arange(-_TAIL, _TAIL, dtype=torch.float64)
    return points[support.check(points)]


def square(draws: Tensor, points: int = 301) -> Grid:
    """The plane: a `line` for each dimension, and their product. `draws` and the grid's points are `[n, 2]`."""
    axes = line(draws, 1e3, points)
    points_, weights = (torch.cartesian_prod(*a.unbind(-1)) for a in (axes.points, axes.weights))
    return Grid(points_, weights.prod(-1))


def _location(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Median and half the interquartile range of each element; 1 if all draws are equal."""
    low, centre, high = draws.double().quantile(torch.tensor([0.25, 0.5, 0.75]).double(), dim=0)
    return centre, torch.where(high > low, (high - low) / 2, 1.0)


def _column(values: Tensor, draws: Tensor) -> Tensor:
    """`[n]` as `[n, 1, ...]`, to go with `[m, *event]`."""
    return values.reshape(-1, *[1] * (draws.dim() - 1))


# ---- statistics ----------------------------------------------------------------------------------------------------


def expect_normalised(masses: Tensor, tolerance: float = 1e-6) -> None:
    """Probabilities `[n, *event]` must add up to 1."""
    total = masses.sum(0).reshape(-1)
    worst = total[(total - 1).abs().nan_to_num(nan=torch.inf).argmax()].item()
    expect(abs(worst - 1) <= tolerance, f"a total probability of 1 (within {tolerance:g})", f"{worst:.8g}")


def expect_distributed(draws: Tensor, grid: Grid, masses: Tensor) -> None:
    """Draws `[m, *event]` must follow probabilities `[n, *event]` on a grid.

    The two distribution functions must differ by less than 3.2 / sqrt(m): false alarms below 3e-9 for each element and
    any distribution (Dvoretzky-Kiefer-Wolfowitz inequality with Massart's constant).
    """
    discrete = torch.as_tensor(grid.discrete)
    share = masses.cumsum(0) - torch.where(discrete, 0, masses / 2)
    at = grid.points + torch.where(discrete, 1e-7 * (1 + grid.points.abs()), 0)  # equal up to rounding counts as equal
    drawn = torch.searchsorted(_rows(draws.double()).sort(-1).values, _rows(at), right=True).double() / len(draws)
    off = (drawn - _rows(share)).abs().max().item()
    allowed = 3.2 / len(draws) ** 0.5
    expect(off < allowed, f"draws that follow the density (distribution functions within {allowed:.3g})", f"{off:.3g}")


def _rows(values: Tensor) -> Tensor:
    """`[n, *event]` as `[elements, n]`."""
    return values.reshape(len(values), -1).T.contiguous()


def expect_mean(name: str, samples: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """The mean of samples `[n, ...]` must be as expected, within 5.5 standard errors: false alarms 4e-8 an entry."""
    samples, expected = samples.detach().double(), expected.detach().double()
    error, off = samples.std(0) / len(samples) ** 0.5, samples.mean(0) - expected
    worst = int((off.abs() - 5.5 * error - tolerance).nan_to_num(nan=torch.inf).argmax())
    got, wanted, error, off = (a.reshape(-1)[worst].item() for a in (samples.mean(0), expected, error, off))
    close = abs(off) <= 5.5 * error + tolerance + 1e-9 * abs(wanted)
    expect(close, f"{name} {wanted:.6g}", f"{got:.6g}, with standard error {error:.2g}")


def expect_boxes_filled(draw: Callable[[int], tuple[Tensor, Tensor]], boxes: int = 4) -> None:
    r"""Draws and their log-densities must agree: a box A has volume E[1(z in A) / q(z)].

    Works in any dimension and needs the density at its own draws alone. The boxes are centred at draws of high density;
    each is checked with other draws, within 5.5 standard errors.

    Args:
        draw: number of draws -> draws `[n, L]` and their log-densities `[n]`.
        boxes: number of boxes.
    """
    pilot, log_density = (a.double() for a in draw(2000))
    half = pilot.std(0) / 2
    if not (half > 1e-6).all():
        raise not_applicable("draws that do not vary have no density")
    z, log_q = (a.double() for a in draw(40_000))
    for centre in pilot[log_density[:20].topk(boxes).indices]:
        inside = ((z - centre).abs() < half).all(-1)
        volume = torch.where(inside, (-log_q - half.mul(2).log().sum()).exp(), 0.0)
        expect_mean("draws in proportion to their density: E[1(z in box) / q(z)] / volume", volume, torch.tensor(1.0))


# ---- noise ---------------------------------------------------------------------------------------------------------


class SameNoise(DispatchMode):
    """Inside, noise in single precision is noise in double precision, rounded: both precisions draw the same.

    Rounded towards zero, so that a number below 1 stays below 1.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        result = func(*map(_widened, args), **_widened_names(func, kwargs))
        if func.overloadpacket.__name__.endswith("_"):
            return args[0].copy_(_rounded(result, args[0].dtype))
        return _rounded(result, _wanted_type(func, args, kwargs)) if result.is_floating_point() else result


def _rounded(wide: Tensor, dtype: torch.dtype) -> Tensor:
    narrow = wide.to(dtype)
    return torch.where(narrow.double().abs() > wide.abs(), narrow.nextafter(torch.zeros_like(narrow)), narrow)


def _widened(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _widened_names(func: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    wide = {name: _widened(value) for name, value in kwargs.items()}
    takes_type = "dtype" in argument_names(func)
    return {**wide, "dtype": torch.float64} if takes_type else wide


def _wanted_type(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.dtype:
    tensors = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.is_floating_point()]
    return kwargs.get("dtype") or (tensors[0].dtype if tensors else torch.get_default_dtype())
