"""Lengths of curves in the metric that a decoder pulls back to codes, and the shortest curve between two codes."""

import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import NumericalError
from pyro_vae.tasks.codes.curves import Bent, Curve

Mean = Callable[[Tensor], Tensor]
"""E[x|z], `[rows, D]`, for codes `[rows, latent]`."""

_POINTS = 32
"""Of the Gauss-Legendre rule along a curve."""
_ROUNDS = 300
"""The most iterations of L-BFGS."""


def lengths(mean: Mean, curve: Curve) -> Tensor:
    """The length of each curve, `[P]`: how far E[x|z] travels."""
    return (_weights(curve_device(curve))[:, None] * _speeds(mean, curve)).sum(0)


def unevenness(mean: Mean, curve: Curve) -> Tensor:
    """The relative standard deviation of the speed of E[x|z] along each curve, `[P]`."""
    weights, speeds = _weights(curve_device(curve))[:, None], _speeds(mean, curve)
    length = (weights * speeds).sum(0)
    variance = (weights * (speeds - length).square()).sum(0)
    return torch.where(length > 0, variance.sqrt() / length.clamp(min=1e-300), 0.0)


def shortest(mean: Mean, curve: Bent) -> Bent:
    """Bend curves until their energy is least, all pairs at once; each counts relative to its energy as it came.

    Args:
        mean: the map to E[x|z], in double precision.
        curve: where the search starts; its ends are held.

    Raises:
        NumericalError: if an energy is not finite.
    """
    with torch.enable_grad():
        first = _energies(mean, curve).detach()
        if not first.isfinite().all():
            raise NumericalError("the length of a path is not finite: look at the decoder's output between these codes")
        bends = curve.bends.clone().requires_grad_(True)
        search = torch.optim.LBFGS(
            [bends],
            max_iter=_ROUNDS,
            history_size=30,
            tolerance_grad=1e-9,
            tolerance_change=1e-13,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            total = (_energies(mean, curve.bent(bends)) / first.clamp(min=1e-300)).sum()
            bends.grad = torch.autograd.grad(total, [bends])[0].contiguous()
            return total

        search.step(loss)
    found = curve.bent(bends.detach())
    better = (_energies(mean, found) < first)[:, None, None]
    return curve.bent(torch.where(better, found.bends, curve.bends))


def _energies(mean: Mean, curve: Curve) -> Tensor:
    """Half of the mean squared speed of each curve, `[P]`."""
    return (_weights(curve_device(curve))[:, None] * _velocities(mean, curve).square().sum(-1)).sum(0) / 2


def _speeds(mean: Mean, curve: Curve) -> Tensor:
    """|d E[x|z(t)] / dt| at the points of the rule, `[T, P]`."""
    return _velocities(mean, curve).norm(dim=-1)


def _velocities(mean: Mean, curve: Curve) -> Tensor:
    """The derivative of E[x|z(t)] by t at the points of the rule, `[T, P, D]`."""
    t = torch.from_numpy(_rule()[0]).to(curve_device(curve))

    def along(times: Tensor) -> Tensor:
        z = curve(times)
        return mean(z.flatten(0, 1)).reshape(*z.shape[:2], -1)

    with warnings.catch_warnings():  # torch's first jvp in a process compiles its own code by what it deprecates
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.func.jvp(along, (t,), (torch.ones_like(t),))[1]  # pyright: ignore[reportReturnType]


def _weights(device: torch.device) -> Tensor:
    return torch.from_numpy(_rule()[1]).to(device)


def curve_device(curve: Curve) -> torch.device:
    """Where a curve's ends are."""
    return curve.start.device  # pyright: ignore[reportAttributeAccessIssue]


@cache
def _rule() -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of the Gauss-Legendre rule on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(_POINTS)
    return (points + 1) / 2, weights / 2
