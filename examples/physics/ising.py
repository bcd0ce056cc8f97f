"""The Ising model seen by a VAE: its order parameter, its entropy, its heat capacity and its transition temperature.

For each size L the script draws states by Swendsen and Wang's algorithm, and trains a VAE p(x|T) on half of the chains.
On the others it estimates log p(x|T) by importance sampling. The model knows neither the energy nor the magnetisation.
It is compared with the exact entropy and heat capacity of the same torus (Kaufman 1949).

    python examples/physics/ising.py --out runs/ising

It takes about ten minutes on two cores, and writes a table and three pictures.
"""

import argparse
from pathlib import Path
from typing import Any

import ising_figures
import numpy as np
import swendsen_wang
import tables
import torch
from conditional import States, simulate, train
from exact_ising import CRITICAL, thermodynamics
from ising_vae import Measured, measure, ups
from torch import Tensor
from transition import curves, extrapolated, intervals, peak, resampled

from pyro_vae.likelihoods import Bernoulli
from pyro_vae.plots import save


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate, train and measure; returns and saves the table."""
    temperature = torch.tensor(options.temperatures, dtype=torch.float64)
    measured, table = {}, {}
    for size in options.sizes:
        measured[size], health = _of_one_size(temperature, size, options)
        table[f"L = {size}"] = _compared(measured[size], temperature, size, options.seed) | {"health": health}
        print(f"L = {size}", _told(table[f"L = {size}"]))
    found = intervals(measured, temperature, options.resamples, options.seed)
    table["transition"] = {**found, "exact curves, same fit": _exact_limit(temperature, options.sizes)}
    _tell_limits(table["transition"])
    _write(measured, temperature, table, Path(options.out))
    return table


def _of_one_size(temperature: Tensor, size: int, options: argparse.Namespace) -> tuple[Measured, dict[str, float]]:
    """Draw, train on the first half of the chains, and measure on the others."""
    drawn = simulate(swendsen_wang.ising, temperature, size, 2 * options.chains, options.kept, options.seed)
    states, others = drawn.halves()
    sizes = {name: getattr(options, name) for name in ("latent_dim", "hidden", "epochs", "copies", "seed")}
    vae = train(states, ups, Bernoulli, **sizes)
    thinned = States(temperature, others.x[:, :, :: options.every])
    return measure(vae, thinned, options.num_particles, options.seed)


def _compared(of: Measured, temperature: Tensor, size: int, seed: int) -> dict[str, Any]:
    """The measurements of one size with their standard errors (bootstrap over chains), beside the exact values."""
    exact, by_way = thermodynamics(temperature, size), curves(of, temperature, size**2)
    rng = np.random.default_rng(seed)
    drawn = [_numbers(resampled(of, rng), temperature, size) for _ in range(100)]
    errors = {name: torch.stack([one[name] for one in drawn]).std(0).tolist() for name in drawn[0]}
    return {
        "temperature": temperature.tolist(),
        "values": {name: value.tolist() for name, value in _numbers(of, temperature, size).items()},
        "standard_errors": errors,
        "exact": {name: value.tolist() for name, value in exact._asdict().items()},
        "peak": {way: peak(temperature, value) for way, value in by_way.items()},
        "exact_peak": peak(temperature, exact.heat_capacity),
    }


def _numbers(of: Measured, temperature: Tensor, size: int) -> dict[str, Tensor]:
    """Cross entropy, energy and heat capacities per spin, and how the code goes with the magnetisation."""
    return {
        "cross_entropy": -of.log_p.flatten(1).mean(1) / size**2,
        "energy": of.energy.flatten(1).mean(1) / size**2,
        **{f"heat capacity, {way}": value for way, value in curves(of, temperature, size**2).items()},
        "correlation": torch.corrcoef(torch.stack([of.code.flatten(), of.magnetisation.flatten()]))[0, 1].abs(),
        "correlation of absolute values": torch.corrcoef(
            torch.stack([of.code.flatten().abs(), of.magnetisation.flatten().abs()])
        )[0, 1],
    }


def _exact_limit(temperature: Tensor, sizes: list[int]) -> float:
    """What the fit of peaks and the extrapolation give for the exact heat capacities: how far both are off."""
    return extrapolated({size: peak(temperature, thermodynamics(temperature, size).heat_capacity) for size in sizes})


def _told(row: dict[str, Any]) -> str:
    gap = np.array(row["values"]["cross_entropy"]) - np.array(row["exact"]["entropy"])
    found, error = (row[name]["correlation"] for name in ("values", "standard_errors"))
    health, peaks = row["health"], ", ".join(f"{way} {value:.3f}" for way, value in row["peak"].items())
    return (
        f"KL(true || model) {gap.min():.3f} to {gap.max():.3f} nats per spin; correlation of code and magnetisation "
        f"{found:.3f} ± {error:.3f}; peaks: {peaks}, exact {row['exact_peak']:.3f}; "
        f"{health['unreliable']:.0%} of {health['num_data']} states flagged at K = {health['num_particles']}; "
        f"with more draws log p(x|T) is {health['change']:+.4f} ± {health['change_standard_error']:.4f} nats per state"
    )


def _tell_limits(found: dict[str, Any]) -> None:
    for way in (way for way, row in found.items() if isinstance(row, dict)):
        value, low, high = found[way]["limit"].values()
        print(f"{way:15} T_c = {value:.3f}, 95 % interval {low:.3f} to {high:.3f}")
    of_exact = found["exact curves, same fit"]
    print(f"exact T_c = {CRITICAL:.3f}; the same fit to the exact curves gives {of_exact:.3f}")


def _write(measured: dict[int, Measured], temperature: Tensor, table: dict[str, Any], out: Path) -> None:
    """The table and the pictures."""
    tables.write(table, out)
    largest = max(measured)
    save(ising_figures.order(measured[largest], temperature, largest), out / "order.png")
    save(ising_figures.thermodynamic(table[f"L = {largest}"], largest), out / "thermodynamics.png")
    save(ising_figures.limits(table["transition"], list(measured)), out / "transition.png")


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    near, far = np.arange(2.0, 2.81, 0.05), (1.6, 1.7, 1.8, 1.9, 2.9, 3.0, 3.1, 3.2)
    grid = sorted(float(round(t, 2)) for t in (*near, *far))
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 12, 16], help="L, two or more")
    parser.add_argument("--temperatures", type=float, nargs="+", default=grid, help="rising, J/k_B")
    parser.add_argument("--chains", type=int, default=200, help="to train on, and as many to test on, per temperature")
    parser.add_argument("--kept", type=int, default=12, help="states of a chain")
    parser.add_argument("--every", type=int, default=3, help="of the states of test chains each so many is used")
    parser.add_argument("--copies", type=int, default=2, help="versions of each training state by symmetry")
    parser.add_argument("--latent_dim", type=int, default=8)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--num_particles", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=400, help="of the bootstrap over chains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/ising")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
