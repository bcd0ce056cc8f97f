"""log p(x) by quadrature, for one or two latent dimensions: the truth that other estimates are held against."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyro_vae.backends import exact_products, fast_cpu
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence.estimates import BoundKind, Estimate
from pyro_vae.importance import Program, evaluation_mode
from pyro_vae.targets import Target
from pyro_vae.tiles import TILE_DATA

_CUT = 35.0
"""Nats below its maximum where p(x, z) is cut off: what lies outside is of the order of 1e-15 of the whole."""
_SEARCHES = 30
"""Boxes tried on a grid before the posterior mass counts as not found; each at most half the one before, or twice."""
_FEWEST = {1: 9, 2: 25}
"""Points of a grid that a box holds at least: the highest ones, where fewer are above the cut."""
_MOST_POINTS = 1 << 21
"""Points, over all data, of the grids that are searched at once; bounds memory."""
_DRAWS = 64
"""Draws of guide and prior that the first box holds."""
_SIDES = {1: (65, 129, 257, 513, 1025, 2049, 4097, 8193, 16385), 2: (33, 65, 129, 257, 513)}
"""Points a dimension, by the number of dimensions: the finest rule has 16,385 or 263,169 points a datum."""


@dataclass(frozen=True, eq=False, repr=False)
class Quadrature(Estimate):
    """Log p(x) by quadrature: `standard_error` is the change at the last refinement of the rule, not a random error.

    Args:
        log_p: the integral for each datum, `[N]`, nats.
        standard_error: the last change, `[N]`, nats; infinite where no box holds the mass.
        side: points a dimension in the last rule of each datum, `[N]`.
        tolerance: the change below which a rule counts as converged, nats.
    """

    log_p: Tensor
    standard_error: Tensor
    side: Tensor
    tolerance: float

    @property
    def method(self) -> str:
        """Its name."""
        return "quadrature"

    @property
    def bound(self) -> BoundKind:
        """No side: the error is of either sign."""
        return "consistent"

    @property
    def flagged(self) -> Tensor:
        """Which data's rules have not converged, `[N]` bool."""
        return ~(self.standard_error <= self.tolerance)

    @property
    def health(self) -> str:
        """The share that has not converged."""
        return f"not converged to {self.tolerance:g} nats for {self.unreliable:.1%}"


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

    The trapezoid rule on a box of each datum's own, whose axes follow the posterior: from a box around draws of guide
    and prior, the set where p(x, z) is within 35 nats of its maximum is found on a grid, the box laid around it in the
    frame of its covariance, and so on until the set fills the box. Then the number of points is doubled until log p(x)
    changes by less than `tolerance`. For smooth integrands the rule converges exponentially, and the change is far
    above the error that is left; with ReLU decoders it converges as the square of the spacing.

    Sites of bounded support are integrated in unconstrained coordinates. A mode so narrow that no point of a grid comes
    near it can be missed, unnoticed, beside a wide one.

    Args:
        model: Pyro program of p(x, z), with one data plate and one or two continuous latent dimensions in all.
        guide: Pyro program of q(z|x): only where to begin looking.
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        tolerance: the largest change at the last refinement, nats.
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
        >>> from pyro_vae.vae import VAE
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
) -> tuple[Tensor, Tensor, Tensor]:
    """(log_p, error, side) of one block of data, each `[block]`."""
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

    def log_integral(self, index: Tensor, box: _Box, side: int) -> Tensor:
        """Over the boxes of these data, by the rule with `side` points a dimension, `[n]`."""
        t, spacing = _grid(side, box.centre)
        sums = torch.stack([torch.logsumexp(joint, 0) for joint in self.on_grid(index, box, t)])
        return torch.logsumexp(sums, 0) + box.log_volume + box.centre.shape[-1] * log(spacing / 2)

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
    """The boxes around the posterior mass, and whose was found, `[N]` bool.

    The search for a datum ends when its own is done, so it does not depend on the other data. Where several modes are
    each too narrow for the grid, no box fits better, and a finer grid takes over.
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
    """Search for these data on grids of one fineness; boxes and who is settled are told in place.

    Returns:
        Those for whom it is too coarse. The others are settled, or their mass has no end.
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
    """A box closer to the mass; whether it is the last, and whether the grid is too coarse to tell, `[n]` bool."""
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


def _refine(density: _Density, box: _Box, settled: Tensor, tolerance: float) -> tuple[Tensor, Tensor, Tensor]:
    """Double the points of those data that need it: (log_p, the last change, points a dimension), `[N]`.

    The change is infinite for those whose box was not found.
    """
    first, *finer = _SIDES[box.centre.shape[-1]]
    log_p = density.log_integral(torch.arange(len(settled), device=settled.device), box, first)
    pending = settled.nonzero()[:, 0]
    error, used = torch.full_like(log_p, torch.inf), torch.full_like(log_p, first).long()
    for side in finer:
        if len(pending) == 0:
            break
        new = density.log_integral(pending, box[pending], side)
        error[pending], used[pending] = (new - log_p[pending]).abs(), side
        log_p[pending] = new
        pending = pending[~(error[pending] <= tolerance)]
    return log_p, error, used


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
    """The box around a set of grid points, in the frame of its covariance, with a cell to spare.

    Args:
        box: where the grid was laid.
        t: the grid, `[S, d]`.
        spacing: of the grid.
        inside: which points of each datum are in the set, `[S, N]` bool; some are.
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
