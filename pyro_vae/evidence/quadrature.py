"""log p(x) by quadrature, for one or two latent dimensions: the reference for other estimates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence.base import BoundKind, Estimate
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.inference.unconstrained import Target
from pyro_vae.process.isolation import isolated

_CUT = 35.0
"""Nats below its maximum at which p(x, z) is cut off: the mass outside is about 1e-15 of the whole."""
_SEARCHES = 30
"""Boxes tried on a grid before the posterior mass counts as not found; sizes change by a factor of 2 at most."""
_FEWEST = {1: 9, 2: 25}
"""Fewest points of a grid in a box: if fewer are above the cut, the highest ones."""
_MOST_POINTS = 1 << 21
"""Most points, over all data, of the grids that are searched at once; bounds memory."""
_DRAWS = 64
"""Draws of guide and prior that the first box contains."""
_SIDES = {1: (65, 129, 257, 513, 1025, 2049, 4097, 8193, 16385), 2: (33, 65, 129, 257, 513)}
"""Points a dimension, by the number of dimensions: the finest rule has 16,385 or 263,169 points a datum."""
_BLIND = 0.1
"""Change at the last refinement, nats, above which the rule says nothing: if only one of its points lies in the mass,
each doubling subtracts log 2, however far the value is from the truth."""


@dataclass(frozen=True, eq=False, repr=False)
class Quadrature(Estimate):
    """Log p(x) by quadrature: `standard_error` is a bound on the error, not a random error.

    Args:
        log_p: the integral for each datum, `[N]`, nats.
        standard_error: the change at the last refinement of the rule or half of that at the one before, whichever is
            larger, plus what may lie outside the box and the rounding, `[N]`, nats; infinite if no box contains the
            mass, or the last change is above 0.1. A single change can be small by chance.
        side: points a dimension in the last rule of each datum, `[N]`.
        rounding: the relative precision of the densities' type times the largest log p(x, z), `[N]`, nats.
        tolerance: the error, rounding apart, below which a rule counts as converged, nats.
    """

    log_p: Tensor
    standard_error: Tensor
    side: Tensor
    rounding: Tensor
    tolerance: float

    @property
    def method(self) -> str:
        """Its name."""
        return "quadrature"

    @property
    def bound(self) -> BoundKind:
        """On neither side: the error has either sign."""
        return "consistent"

    @property
    def standard_error_monte_carlo(self) -> float:
        """The bound on the error of `mean`, nats: the mean of the bounds, as errors of a rule need not cancel."""
        return self.standard_error.mean().item()

    @property
    def flagged(self) -> Tensor:
        """Which data's rules have not converged, `[N]` bool."""
        return ~(self.standard_error - self.rounding <= self.tolerance)

    @property
    def health(self) -> str:
        """The share that has not converged."""
        return f"not converged to {self.tolerance:g} nats for {self.unreliable:.1%}"


@isolated
@checked
def quadrature(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    tolerance: float = 1e-4,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Quadrature:
    r"""Integrate p(x, z) over one or two latent dimensions, datum by datum.

    .. math:: \log p(x) = \log \int p(x, z) \, dz \approx \log \Big( |A| h^d \sum_j p(x, m + A t_j) \Big)

    The trapezoid rule on a separate box for each datum, whose axes follow the posterior. From a box around draws of
    guide and prior, the set where p(x, z) is within 35 nats of its maximum is found on a grid, the box is placed around
    it in the frame of its covariance, and so on until the set fills the box. Then the number of points is doubled until
    log p(x) changes by less than `tolerance` twice in a row. For smooth integrands the rule converges exponentially,
    and the change is far larger than the remaining error; with ReLU decoders it converges as the square of the spacing,
    where a single change can be small by chance, and with a jump as the spacing: the larger of the last change and half
    of the one before is at least the error for one jump, and three times that for one kink, wherever it lies between
    the points.

    Sites of bounded support are integrated in unconstrained coordinates. A mode so narrow that no point of a grid comes
    near it can be missed without notice if there is a wide one too.

    Args:
        model: Pyro program of p(x, z), with one data plate and one or two continuous latent dimensions in all.
        guide: Pyro program of q(z|x): used only for the first box.
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        tolerance: the largest error, rounding apart, nats.
        seed: of the draws for the first box; the result hardly depends on it.
        max_rows: the most (datum, point) pairs in one run of the model; bounds memory.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data done so far, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        A `Quadrature`; tensors in double precision on the CPU.

    Raises:
        UsageError: for more than two latent dimensions, no data, or a tolerance or `max_rows` that is not positive.
        NumericalError: if p(x, z) is nan or infinite, or zero everywhere.

    References:
        Trefethen & Weideman 2014, The exponentially convergent trapezoidal rule.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=1)
        >>> quadrature(vae.model, vae.guide, torch.ones(3, 4)).flagged
        tensor([False, False, False])
    """
    if len(x) == 0 or not tolerance > 0 or max_rows < 1:
        raise UsageError(f"need data, tolerance > 0 and max_rows >= 1, got {len(x)} data, {tolerance:g} and {max_rows}")

    def target(index: Tensor) -> Target:
        first, *others = (a[index] for a in (x, *args))
        named = {name: a[index] for name, a in inputs.items()}
        return Target(model, guide, first, *others, max_plate_nesting=max_plate_nesting, **named)

    columns: list[tuple[Tensor, ...]] = []
    with evaluation_mode(model, guide), fast_cpu(), exact_products():
        for start in range(0, len(x), TILE_DATA):
            block = torch.arange(start, min(start + TILE_DATA, len(x)), device=x.device)
            columns.append(_integrate(target, block, tolerance, seed, max_rows))
            if progress is not None:
                progress(start + len(block))
    return Quadrature(*(torch.cat(column).cpu() for column in zip(*columns, strict=True)), tolerance=tolerance)


@dataclass(frozen=True, eq=False)
class _Box:
    """A parallelogram of each datum: z = centre + frame t, with t in [-1, 1]^d.

    Args:
        centre: `[N, d]`.
        frame: `[N, d, d]`, half an edge in each column.
    """

    centre: Tensor
    frame: Tensor

    def __getitem__(self, index: Tensor) -> "_Box":
        return _Box(self.centre[index], self.frame[index])

    def at(self, t: Tensor) -> Tensor:
        """The points z, `[S, N, d]`, at t, `[S, d]`."""
        return self.centre + torch.einsum("nij,sj->sni", self.frame, t)

    @property
    def log_volume(self) -> Tensor:
        """The log of its volume, `[N]`."""
        return torch.linalg.slogdet(self.frame).logabsdet + self.centre.shape[-1] * log(2)


def _integrate(
    target: Callable[[Tensor], Target], block: Tensor, tolerance: float, seed: int, max_rows: int
) -> tuple[Tensor, ...]:
    """(log_p, error, side, rounding) of one block of data, each `[block]`."""
    start, own = int(block[0]), target(block)
    _refuse(own.size)
    draws = torch.cat([own.draw_guide(_DRAWS, seed, start)[0], own.draw_prior(_DRAWS, seed, start)])
    density = _Density(target, block, max_rows, draws.dtype)
    box, settled = _search(density, _first_box(draws.double()))
    return _refine(density, box, settled, tolerance)


@dataclass(frozen=True)
class _Density:
    """Log p(x, z) on grids in the boxes of some data.

    Args:
        target: the density at the data of these positions in the whole set.
        block: the positions that `index` chooses from.
        max_rows: the most (datum, point) pairs in one run.
        dtype: of z.
    """

    target: Callable[[Tensor], Target]
    block: Tensor
    max_rows: int
    dtype: torch.dtype

    def on_grid(self, index: Tensor, box: _Box, t: Tensor) -> Iterator[Tensor]:
        """Of these data in their boxes at the points t, `[S, n]` in parts, double precision."""
        target = self.target(self.block[index])
        for part in t.split(max(1, self.max_rows // len(index))):
            yield target.log_joint(box.at(part).to(self.dtype)).double()

    def log_integral(self, index: Tensor, box: _Box, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Integrate over the boxes of these data, by the rule with `side` points a dimension.

        Returns:
            The log of the integral, a bound on the share outside, and the largest log p(x, z), `[n]` each. A tail that
            decays as a power of z, z^-2 or faster, has at most the mass of its density at the edge of the box times the
            half-width of the box.
        """
        t, spacing = _grid(side, box.centre)
        edge = (t.abs().amax(-1) > 1 - spacing / 2).split(max(1, self.max_rows // len(index)))
        sums, edges, highest = [], [], []
        for joint, outer in zip(self.on_grid(index, box, t), edge, strict=True):
            sums.append(joint.logsumexp(0))
            edges.append(joint.masked_fill(~outer[:, None], -torch.inf).logsumexp(0))
            highest.append(joint.amax(0))
        inside = torch.stack(sums).logsumexp(0)
        outside = (torch.stack(edges).logsumexp(0) - inside - log(spacing)).exp()
        log_p = inside + box.log_volume + box.centre.shape[-1] * log(spacing / 2)
        return log_p, outside, torch.stack(highest).amax(0)

    def check(self, index: Tensor, highest: Tensor) -> None:
        """Refuse a maximum that is not a number, or minus infinity."""
        if not highest.isfinite().all():
            first = int((~highest.isfinite()).nonzero()[0])
            raise NumericalError(
                f"the largest log p(x, z) of datum {int(self.block[index][first])} is {highest[first].item()}: look at "
                "the decoder's outputs for it"
            )


def _first_box(draws: Tensor) -> _Box:
    """Around draws `[S, N, d]`, with half their range on either side."""
    low, high = draws.amin(0), draws.amax(0)
    return _Box((low + high) / 2, torch.diag_embed((high - low).clamp(min=1e-6)))


def _search(density: _Density, box: _Box) -> tuple[_Box, Tensor]:
    """The boxes around the posterior mass, and for which data it was found, `[N]` bool.

    The search for a datum does not depend on the other data. If several modes are each too narrow for the grid, no box
    fits better, and a finer grid is used.
    """
    settled = torch.zeros(len(box.centre), dtype=torch.bool, device=box.centre.device)
    pending = torch.arange(len(settled), device=settled.device)
    for side in _SIDES[box.centre.shape[-1]]:
        parts = pending.split(max(1, _MOST_POINTS // side ** box.centre.shape[-1]))
        pending = torch.cat([_search_on(density, part, box, side, settled) for part in parts])
        if len(pending) == 0:
            break
    return box, settled


def _search_on(density: _Density, index: Tensor, box: _Box, side: int, settled: Tensor) -> Tensor:
    """Search for these data on grids of one fineness; boxes, and which data are settled, are updated in place.

    Returns:
        Those for which it is too coarse. The others are settled, or their mass is unbounded.
    """
    coarse = torch.zeros_like(settled)
    for _ in range(_SEARCHES):
        found, settled[index], coarse[index] = _closer(density, index, box[index], side)
        box.centre[index], box.frame[index] = found.centre, found.frame
        index = index[~(settled[index] | coarse[index])]
        if len(index) == 0:
            break
    return coarse.nonzero()[:, 0]


def _closer(density: _Density, index: Tensor, box: _Box, side: int) -> tuple[_Box, Tensor, Tensor]:
    """A box closer to the mass; whether it is the last one, and whether the grid is too coarse to decide, `[n]`
    bool.
    """
    t, spacing = _grid(side, box.centre)
    joint = torch.cat(list(density.on_grid(index, box, t)))
    highest, best = joint.max(0)
    density.check(index, highest)
    least = joint.topk(_FEWEST[t.shape[-1]], dim=0).values[-1]
    seen = least > highest - _CUT
    inside = (joint >= torch.minimum(least, highest - _CUT)) & (joint > -torch.inf)
    edge = ((joint > highest - _CUT) & (t.abs().amax(-1) > 1 - spacing / 2)[:, None]).any(0)
    around = _around(box, t, spacing, inside)
    wider = _Box(box.at(t)[best, torch.arange(len(index), device=best.device)], 2 * box.frame)
    new = _Box(
        torch.where(edge[:, None], wider.centre, around.centre),
        torch.where(edge[:, None, None], wider.frame, around.frame),
    )
    filled = ~edge & (new.log_volume > box.log_volume - log(2))
    return new, filled & seen, filled & ~seen


def _refine(density: _Density, box: _Box, settled: Tensor, tolerance: float) -> tuple[Tensor, ...]:
    """Double the points of those data that need it: (log_p, error, points a dimension, rounding), `[N]`.

    The error is infinite for those whose box was not found.
    """
    sides = _SIDES[box.centre.shape[-1]]
    log_p, outside, highest = density.log_integral(_all(settled), box, (sides[0] + 1) // 2)
    change, used = torch.full_like(log_p, torch.inf), torch.full_like(log_p, sides[0]).long()
    error, pending = change.clone(), _all(settled)
    for side in sides:
        if len(pending) == 0:
            break
        new, outside[pending], highest[pending] = density.log_integral(pending, box[pending], side)
        before, change[pending] = change[pending], (new - log_p[pending]).abs()
        error[pending] = _error(change[pending], before) + outside[pending]
        log_p[pending], used[pending] = new, side
        pending = pending[settled[pending] & ~(error[pending] <= tolerance)]
    error[~settled] = torch.inf
    rounding = torch.finfo(density.dtype).eps * highest.abs()
    return log_p, error + rounding, used, rounding


def _error(change: Tensor, before: Tensor) -> Tensor:
    """A bound on the error of a rule, from its change at the last two refinements."""
    return torch.where(change > _BLIND, torch.inf, torch.maximum(change, before / 2))


def _all(values: Tensor) -> Tensor:
    return torch.arange(len(values), device=values.device)


def _refuse(size: int) -> None:
    if size > 2:
        raise UsageError(
            f"quadrature takes 1 or 2 latent dimensions, and this model has {size}: its cost grows as points^{size}; "
            "take method importance, or ais"
        )


def _grid(side: int, like: Tensor) -> tuple[Tensor, float]:
    """The points of the rule in [-1, 1]^d, `[side^d, d]`, and their spacing."""
    axis = torch.linspace(-1, 1, side, dtype=torch.float64, device=like.device)
    points = torch.cartesian_prod(*[axis] * like.shape[-1])
    return points.reshape(-1, like.shape[-1]), 2 / (side - 1)


def _around(box: _Box, t: Tensor, spacing: float, inside: Tensor) -> _Box:
    """The box around a set of grid points, in the frame of its covariance, with a margin of one cell.

    Args:
        box: the box of the grid.
        t: the grid, `[S, d]`.
        spacing: of the grid.
        inside: which points of each datum are in the set, `[S, N]` bool; at least one.
    """
    weight = inside.to(t) / inside.sum(0)
    mean = weight.T @ t
    offset = t[:, None] - mean
    covariance = torch.einsum("sn,sni,snj->nij", weight, offset, offset)
    cell = torch.eye(t.shape[-1]).to(t) * spacing**2 / 12
    axes = torch.linalg.cholesky(covariance + cell)
    inverse = torch.linalg.inv(axes)
    across = torch.einsum("nij,snj->sni", inverse, offset)
    spare = spacing * inverse.abs().sum(-1)
    low = torch.where(inside[..., None], across, torch.inf).amin(0) - spare
    high = torch.where(inside[..., None], across, -torch.inf).amax(0) + spare
    centre = mean + torch.einsum("nij,nj->ni", axes, (low + high) / 2)
    frame = box.frame @ axes * ((high - low) / 2)[:, None, :]
    return _Box(box.centre + torch.einsum("nij,nj->ni", box.frame, centre), frame)
