r"""The helicity modulus of the XY model, and the Kosterlitz-Thouless transition.

If the spins at one edge are turned by a small angle, the free energy rises: its second derivative is the helicity
modulus. It falls from 2T/pi to 0 at the transition of the infinite lattice (Nelson & Kosterlitz 1977). On an
L x L lattice it is larger, and at the transition only slowly less so (Weber & Minnhagen 1988):

.. math:: \Upsilon(L) = \frac{2T}\pi \Big(1 + \frac1{2 \log L + c}\Big)
"""

from math import log, pi

import torch
from torch import Tensor


def energies(angle: Tensor) -> Tensor:
    """E = -sum of cos(a_i - a_j) over pairs of neighbours, `[*leading]`, in J, of angles `[*leading, L, L]`."""
    return -winding(angle)[..., :2].sum(-1)


def winding(angle: Tensor) -> Tensor:
    """Sums of cos and of sin of the differences of neighbours along each axis: `[*leading, 4]`, cos, cos, sin, sin."""
    steps = [angle.roll(-1, axis) - angle for axis in (-1, -2)]
    return torch.stack([f(step).sum((-1, -2)) for f in (torch.cos, torch.sin) for step in steps], -1)


def stiffness(of: Tensor, temperature: Tensor, size: int) -> Tensor:
    r"""The helicity modulus, `[T]`, in J, as the mean over both axes.

    .. math:: \Upsilon = \frac1{L^2} \Big\langle \sum \cos(a_i - a_j) \Big\rangle
        - \frac1{L^2 T} \Big\langle \Big(\sum \sin(a_i - a_j)\Big)^2 \Big\rangle

    Args:
        of: from `winding`, `[T, chains, kept, 4]`.
        temperature: `[T]`.
        size: L.
    """
    cosines, sines = of[..., :2], of[..., 2:]
    means = [value.flatten(1).mean(1) for value in (cosines, sines.square())]
    return (means[0] - means[1] / temperature) / size**2


def kosterlitz_thouless(temperature: Tensor, helicity: dict[int, Tensor]) -> Tensor:
    """Where two lattices agree with Weber and Minnhagen's law for one c; 0-dim, J/k_B, nan if nowhere.

    At the transition 1 / (pi Y(L) / 2T - 1) grows by exactly 2 log(L' / L) from L to L'. Below it grows less, above
    more: the excess is interpolated linearly where it changes its sign first. Temperatures where a helicity modulus is
    at 2T/pi or below are above the transition.

    Args:
        temperature: `[T]`, rising.
        helicity: modulus of two sizes L, each `[T]`.
    """
    small, large = sorted(helicity)
    inverse = {size: 1 / (pi * y / (2 * temperature) - 1) for size, y in helicity.items()}
    excess = inverse[large] - inverse[small] - 2 * log(large / small)
    excess = torch.where((inverse[small] > 0) & (inverse[large] > 0), excess, torch.inf)
    first = int((excess > 0).int().argmax())
    if first == 0 or not excess[first].isfinite():
        return torch.tensor(torch.nan, dtype=temperature.dtype)
    (t0, t1), (e0, e1) = temperature[first - 1 : first + 1], excess[first - 1 : first + 1]
    return t0 - e0 * (t1 - t0) / (e1 - e0)
