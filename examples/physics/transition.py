r"""Heat capacity and transition temperature, from log p(x|T) of a model or from energies, with intervals.

If p(x|T) is the Boltzmann distribution, log p(x|T) = -E(x)/T - log Z(T). Its mean is minus the entropy S, its variance
is the heat capacity C = T dS/dT, and its slope is (E - <E>) / T^2. So there are several ways to C, which differ when
the model is not exact; `curves` has them. All are divided by the number of spins N.
"""

from collections.abc import Callable

import numpy as np
import torch
from ising_vae import Measured
from torch import Tensor

WINDOW = (1.999, 2.801)
"""Temperatures whose heat capacities decide where the peak is, J/k_B."""
DEGREE = 4
"""Of the polynomial through these heat capacities."""


def curves(of: Measured, temperature: Tensor, spins: int) -> dict[str, Tensor]:
    """The heat capacity by each way, k_B per spin, `[T]`, double precision.

    Args:
        of: the test states.
        temperature: `[T]`, J/k_B.
        spins: N.

    Returns:
        - `"differences"`: T times the slope of the cross entropy H(T) = -E[log p(x|T)], by central differences;
        - `"fluctuations"`: the same slope at one temperature, -Cov(E, log p)/T - T E[slope of log p]: the first term is
          how the states change with T, the second how the model does;
        - `"variance"`: Var(log p(x|T));
        - `"slopes"`: T^2 Var(slope of log p), the Fisher information about T;
        - `"energy"`: Var(E)/T^2, from the energies alone, for comparison.
    """
    t = temperature.double()
    log_p, slope, energy = (value.flatten(1) for value in (of.log_p, of.slope, of.energy))
    covariance = ((energy - energy.mean(1, keepdim=True)) * log_p).mean(1)
    found = {
        "differences": t * torch.gradient(-log_p.mean(1), spacing=(t,))[0],
        "fluctuations": -covariance / t - t * slope.mean(1),
        "variance": log_p.var(1),
        "slopes": t**2 * slope.var(1),
        "energy": energy.var(1) / t**2,
    }
    return {name: value / spins for name, value in found.items()}


def resampled(of: Measured, rng: np.random.Generator) -> Measured:
    """A bootstrap sample: at each temperature as many whole chains as there are, drawn with replacement."""
    num, chains = of.log_p.shape[:2]
    rows = torch.arange(num).unsqueeze(1), torch.tensor(rng.integers(chains, size=(num, chains)))
    return Measured(*(value[rows] for value in of))


def peak(temperature: Tensor, heat_capacity: Tensor) -> float:
    """Where the polynomial through the heat capacities of `WINDOW` has its maximum, J/k_B."""
    t, c = temperature.double().numpy(), heat_capacity.numpy()
    inside = (t > WINDOW[0]) & (t < WINDOW[1])
    centre, fine = t[inside].mean(), np.linspace(t[inside].min(), t[inside].max(), 2001)
    fitted = np.polynomial.Polynomial.fit(t[inside] - centre, c[inside], min(DEGREE, inside.sum() - 1))
    return float(fine[fitted(fine - centre).argmax()])


def extrapolated(peaks: dict[int, float]) -> float:
    """The temperature at 1/L = 0 on the line through the peaks of lattices of size L, by least squares.

    Peaks of the Ising model move as 1/L, to leading order: the correlation length is |T/T_c - 1|^-1 and it is cut
    off at L.
    """
    slope_and_limit = np.polyfit([1 / size for size in peaks], list(peaks.values()), 1)
    return float(slope_and_limit[1])


def intervals(
    measured: dict[int, Measured], temperature: Tensor, resamples: int, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """The peak of each lattice and their limit, by each way, with 95 % intervals of the bootstrap over chains.

    Args:
        measured: the test states of each size L.
        temperature: `[T]`, J/k_B.
        resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Returns:
        Way -> `"8"`, ..., `"limit"` -> `value`, `low`, `high`; `"binder"` and `"binder decoded"` have `"limit"` alone:
        where the Binder cumulants of the smallest and largest lattice are equal.
    """
    rng = np.random.default_rng(seed)
    value = _transitions(measured, temperature)
    drawn = [
        _transitions({size: resampled(of, rng) for size, of in measured.items()}, temperature) for _ in range(resamples)
    ]
    return {
        way: {name: _interval(found, [one[way][name] for one in drawn]) for name, found in row.items()}
        for way, row in value.items()
    }


def _interval(value: float, drawn: list[float]) -> dict[str, float]:
    """The value with its interval; bootstrap samples that have none (nan) are left out."""
    low, high = torch.tensor(drawn).nanquantile(torch.tensor([0.025, 0.975])).tolist()
    return {"value": value, "low": low, "high": high}


def _transitions(measured: dict[int, Measured], temperature: Tensor) -> dict[str, dict[str, float]]:
    """Way -> the peak of each lattice, and the limit."""
    by_size = {size: curves(of, temperature, size**2) for size, of in measured.items()}
    found = {}
    for way in next(iter(by_size.values())):
        peaks = {size: peak(temperature, by_way[way]) for size, by_way in by_size.items()}
        found[way] = {**{str(size): t for size, t in peaks.items()}, "limit": extrapolated(peaks)}
    small, large = measured[min(measured)], measured[max(measured)]
    for name, of in _ORDERS.items():
        found[name] = {"limit": crossing(temperature, binder(of(small)), binder(of(large)))}
    return found


_ORDERS: dict[str, Callable[[Measured], Tensor]] = {
    "binder": lambda of: of.magnetisation,
    "binder decoded": lambda of: of.decoded,
}


def binder(order: Tensor) -> Tensor:
    """Binder's cumulant 1 - <m^4> / (3 <m^2>^2), `[T]`, of an order parameter `[T, chains, kept]`."""
    square = order.flatten(1).square()
    return 1 - square.square().mean(1) / (3 * square.mean(1).square())


def crossing(temperature: Tensor, small: Tensor, large: Tensor) -> float:
    """Where `large - small` falls below zero, by a parabola through temperatures from 2.0 to 2.5 J/k_B; else nan."""
    inside = (temperature > 1.999) & (temperature < 2.501)
    t, difference = temperature[inside].numpy(), (large - small)[inside].numpy()
    fine = np.linspace(t[0], t[-1], 2001)
    above = fine[np.polyval(np.polyfit(t - t.mean(), difference, 2), fine - t.mean()) > 0]
    return float(above[-1]) if len(above) and above[-1] < fine[-1] else float("nan")
