"""Coordinates of the plane: those of the code, in the order of what they carry, or principal axes of the codes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from pyro_vae.errors import UsageError
from pyro_vae.explore.subject import Explored
from pyro_vae.inference.moments import moments, normal_kl
from pyro_vae.inference.programs import evaluation_mode

FRAMES = ("coordinates", "principal")
_AROUND = 1.05
"""How much wider than codes and prior the range of a coordinate is."""


@dataclass(frozen=True, eq=False)
class Frame:
    r"""Coordinates w of a code z.

    .. math:: z = m + R w, \qquad w = R^T (z - m)

    Args:
        centre: m, `[L]`.
        axes: R, `[L, M]`, orthonormal columns; a code of one dimension has a second column of zeros, for the plane.
        names: of the coordinates.
        carried: what each carries, `[M]`, in units of `unit`.
        unit: "KL, nats" or "variance".
        low: the least value to show, `[M]`.
        high: the greatest.
    """

    centre: Tensor
    axes: Tensor
    names: tuple[str, ...]
    carried: Tensor
    unit: str
    low: Tensor
    high: Tensor

    def places(self, z: Tensor) -> Tensor:
        """The coordinates of codes `[*leading, L]`, `[*leading, M]`."""
        return (z.double().cpu() - self.centre) @ self.axes

    def codes(self, w: Tensor) -> Tensor:
        """The codes of coordinates `[*leading, M]`, `[*leading, L]`."""
        return self.centre + w.double() @ self.axes.T

    def covariance(self, covariance: Tensor) -> Tensor:
        """A covariance `[L, L]` in these coordinates, `[M, M]`."""
        return self.axes.T @ covariance.double().cpu() @ self.axes

    def plain(self) -> dict[str, Any]:
        """For the page."""
        names = ("carried", "low", "high")
        return {"names": list(self.names), "unit": self.unit, **{n: getattr(self, n).tolist() for n in names}}


def frames(explored: Explored) -> Mapping[str, Frame]:
    """The frames of a model, by name: for more than two dimensions also the principal axes of the data's codes."""
    found = {"coordinates": _coordinates(explored)}
    if explored.prior_draws.shape[1] > 2:
        found["principal"] = _principal(explored)
    return found


def frame_of(found: Mapping[str, Frame], name: str) -> Frame:
    """One of them.

    Raises:
        UsageError: for a code of two dimensions, which has only one.
    """
    if name not in found:
        raise UsageError(f"frame: this model has {', '.join(found)}, got {name!r}")
    return found[name]


def _coordinates(explored: Explored) -> Frame:
    codes = _codes(explored)
    size = codes.shape[1]
    carried, unit = _carried(explored, codes)
    order = carried.argsort(descending=True, stable=True) if size > 2 else torch.arange(size)
    axes = torch.eye(size, max(size, 2), dtype=torch.float64)
    axes[:, :size] = axes[:, order]
    names = [f"{explored.site}[{i}]" for i in order.tolist()]
    return _frame(explored, torch.zeros(size, dtype=torch.float64), axes, names, carried[order], unit)


def _principal(explored: Explored) -> Frame:
    codes = _codes(explored)
    centre = codes.mean(0)
    _, spread, axes = torch.linalg.svd(codes - centre, full_matrices=len(codes) < codes.shape[1])
    variance = torch.zeros(len(axes), dtype=torch.float64)
    variance[: len(spread)] = spread.square() / max(1, len(codes) - 1)
    names = [f"PC {i + 1}" for i in range(len(axes))]
    return _frame(explored, centre, axes.T, names, variance, "variance")


def _codes(explored: Explored) -> Tensor:
    return explored.encoded.mean[explored.site].flatten(1)


def _carried(explored: Explored, codes: Tensor) -> tuple[Tensor, str]:
    """KL of each coordinate from the prior where there is one code, else the variance of its mean over the data."""
    if not explored.single or not explored.has_elbo:
        return codes.var(0, correction=0), "variance"
    sd = explored.encoded.sd[explored.site].flatten(1)
    try:
        with evaluation_mode(explored.vae):
            prior = moments(explored.vae.prior_distribution(explored.inputs.get("c")), "the prior p(z)")
    except UsageError:  # p(z|c) without moments in closed form
        return codes.var(0, correction=0), "variance"
    return normal_kl(codes, sd, *prior).mean(0), "KL, nats"


def _frame(explored: Explored, centre: Tensor, axes: Tensor, names: list[str], carried: Tensor, unit: str) -> Frame:
    if axes.shape[1] > len(names):  # one dimension
        names, carried = [*names, ""], torch.cat([carried, carried.new_zeros(1)])
    both = torch.cat([_codes(explored), explored.prior_draws.cpu()])
    places = (both - centre) @ axes
    reach = places.abs().amax(0).clamp(min=1e-3) * _AROUND
    return Frame(centre, axes, tuple(names), carried, unit, -reach, reach)


def normal_moments(distribution: Distribution) -> tuple[Tensor, Tensor] | None:
    """Mean `[*batch, L]` and covariance `[*batch, L, L]` of a normal distribution; None for another one.

    Example:
        >>> normal_moments(Independent(Normal(torch.zeros(2), torch.tensor([1.0, 2.0])), 1))[1]
        tensor([[1., 0.],
                [0., 4.]])
    """
    if isinstance(distribution, Independent) and isinstance(distribution.base_dist, Normal):
        return distribution.mean, torch.diag_embed(distribution.variance)
    covariance = getattr(distribution, "covariance_matrix", None)
    return None if covariance is None else (distribution.mean, covariance)
