"""The true posterior on a grid, of a model whose code has two dimensions: log p(x, z), normalised by quadrature."""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import NumericalError
from pyro_vae.explore.plain import packed
from pyro_vae.inference.unconstrained import Target

_CUT = 25.0
"""Nats below its maximum at which p(x, z) is cut off: the mass outside is below 1e-9 of the whole."""
_COARSE, _FINE = 33, 101
"""Points a dimension while the mass is looked for, and of the grid that is shown."""
_SEARCHES = 25
"""Boxes that are tried at most."""
DRAWS = 64
"""Draws of guide and prior that the first box contains."""
_ROWS = 4096
"""Codes in one run of the model."""


@dataclass(frozen=True, eq=False)
class GridPosterior:
    """p(z|x) on a grid.

    Args:
        low: the lower corner, `[2]`.
        high: the upper corner, `[2]`.
        log_density: log p(z|x), `[side, side]`, nats; rows along z[1], columns along z[0].
        log_p: log p(x) by the trapezoid rule, nats.
        error: how far log p(x) changes if every second point is left out, nats. The rule converges exponentially for
            smooth densities and as the square of the spacing for ReLU decoders, so it is more than the remaining error.
        found: whether the mass lies inside the box.
    """

    low: Tensor
    high: Tensor
    log_density: Tensor
    log_p: float
    error: float
    found: bool

    def plain(self) -> dict[str, Any]:
        """For the page."""
        box = {"low": self.low.tolist(), "high": self.high.tolist()}
        return {**box, "log_density": packed(self.log_density), "found": self.found}


def grid_posterior(target: Target, seed: int = 0) -> GridPosterior:
    r"""The true posterior of one datum on a grid around its mass.

    .. math:: p(z|x) = \frac{p(x, z)}{\int p(x, z) \, dz} \approx \frac{p(x, z)}{h_1 h_2 \sum_{ij} p(x, z_{ij})}

    The box is looked for from draws of guide and prior: it contains all points of a coarse grid within 25 nats of
    the maximum, and becomes smaller or larger until they fill it. A second mode that is far narrower than the first
    can be missed.

    Args:
        target: the densities of a pair at one datum, over two dimensions.
        seed: of the draws for the first box.

    Returns:
        A `GridPosterior`.

    Raises:
        NumericalError: if log p(x, z) has no finite maximum.
    """
    draws = target.draw_guide(DRAWS, seed)[0][:, 0]

    def log_joint(z: Tensor) -> Tensor:
        rows = z.reshape(-1, 1, 2).to(draws).split(_ROWS)
        return torch.cat([target.log_joint(part)[:, 0] for part in rows]).double().cpu().reshape(z.shape[:2])

    reached = torch.cat([torch.stack(prior_reach(target, seed)), draws.double().cpu()])
    low, high, found = _located(log_joint, reached.amin(0), reached.amax(0))
    joint = log_joint(points(low, high, _FINE))
    area = ((high - low) / (_FINE - 1)).log().sum().item()
    log_p = joint.logsumexp((0, 1)).item() + area
    every_second = joint[::2, ::2].logsumexp((0, 1)).item() + area + 2 * log(2)
    return GridPosterior(low, high, joint - log_p, log_p, abs(log_p - every_second), found)


def prior_reach(target: Target, seed: int = 0) -> tuple[Tensor, Tensor]:
    """The corners of a box around draws of the prior, `[L]` each: the same for every datum."""
    draws = target.draw_prior(DRAWS, seed)[:, 0].double().cpu()
    return draws.amin(0), draws.amax(0)


def points(low: Tensor, high: Tensor, side: int) -> Tensor:
    """A grid, `[side, side, 2]`: rows along the second coordinate."""
    first, second = (torch.linspace(0, 1, side, dtype=torch.float64) * (high - low)[i] + low[i] for i in (0, 1))
    second, first = torch.meshgrid(second, first, indexing="ij")
    return torch.stack([first, second], -1)


def _located(log_joint: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The corners of a box around the mass, from a first one on, and whether it was found."""
    margin = (high - low).clamp(min=1e-6) / 2
    low, high = low - margin, high + margin
    for _ in range(_SEARCHES):
        joint = log_joint(points(low, high, _COARSE))
        if not joint.max().isfinite():
            raise NumericalError(f"the largest log p(x, z) is {joint.max().item()}: look at the decoder's outputs")
        before = high - low
        low, high, inside = _closer(low, high, joint > joint.max() - _CUT)
        if inside and bool((high - low > before / 2).all()):
            return low, high, True
    return low, high, False


def _closer(low: Tensor, high: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, bool]:
    """The box around the points of a coarse grid that are seen, wider where they touch its edge."""
    step = (high - low) / (_COARSE - 1)
    new_low, new_high, inside = low.clone(), high.clone(), True
    for axis, line in enumerate((seen.any(0), seen.any(1))):
        first, *_, last = [*(at := line.nonzero()[:, 0].tolist()), at[-1]]
        touches = first == 0, last == _COARSE - 1
        width = (high - low)[axis] / 2
        new_low[axis] = low[axis] - width if touches[0] else low[axis] + (first - 1) * step[axis]
        new_high[axis] = high[axis] + width if touches[1] else low[axis] + (last + 1) * step[axis]
        inside = inside and not any(touches)
    return new_low, new_high, inside
