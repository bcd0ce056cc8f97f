"""The XY model seen by a VAE: its code is the direction of the magnetisation; and the Kosterlitz-Thouless transition.

States are angles, so the likelihood is von Mises (`von_mises.py`, a part of this example's own). A VAE p(x|T) with a
code of two numbers is trained on states drawn by Swendsen and Wang's algorithm. Beside it stand quantities of the
states themselves: the energy's fluctuations, and the helicity modulus, which finds the transition.

    python examples/physics/xy.py --out runs/xy

It takes about ten minutes on two cores, and writes a table and two pictures.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import swendsen_wang
import tables
import torch
import xy_figures
from conditional import States, simulate, train
from helicity import energies, kosterlitz_thouless, stiffness, winding
from torch import Tensor
from von_mises import VonMises

from pyro_vae import VAE, log_marginal
from pyro_vae.plots import save


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Simulate, train and measure; returns and saves the table."""
    temperature, out = torch.tensor(options.temperatures, dtype=torch.float64), Path(options.out)
    drawn = {
        size: simulate(swendsen_wang.xy, temperature, size, 2 * options.chains, options.kept, options.seed)
        for size in options.sizes
    }
    states, others = drawn[options.sizes[0]].halves()
    sizes = {name: getattr(options, name) for name in ("hidden", "epochs", "copies", "seed")}
    vae = train(states, Tensor.float, VonMises, latent_dim=2, **sizes)
    test = States(temperature, others.x[:, :, :: options.every])
    table = {"temperature": temperature.tolist(), **_of_model(vae, test, options), **_of_states(drawn, options)}
    tables.write(table, out)
    save(xy_figures.circles(codes(vae, test), directions(test), temperature), out / "circles.png")
    save(xy_figures.transition(table, options.sizes), out / "transition.png")
    _tell(table)
    return table


@torch.no_grad()
def codes(vae: VAE, states: States) -> Tensor:
    """E[z|x, T], `[T, chains, kept, 2]`."""
    z = vae.encode(states.rows()[0].float(), c=states.context()).mean
    return z.reshape(*states.x.shape[:3], 2)


def directions(states: States) -> Tensor:
    """Magnetisation per spin as a complex number, `[T, chains, kept]`: its angle is the direction."""
    return torch.exp(1j * states.x).mean((-1, -2))


def alignment(z: Tensor, magnetisation: Tensor) -> Tensor:
    """How well the angle of the code follows that of the magnetisation, `[T]`, from 0 to 1.

    The length of the mean of exp(i (angle of z - angle of m)). The latent plane may be turned and reflected, which is
    the same for all states: of both orientations the better one of all temperatures together counts.

    Args:
        z: codes, `[T, chains, kept, 2]`.
        magnetisation: complex, `[T, chains, kept]`.
    """
    code = torch.complex(z[..., 0], z[..., 1]).to(magnetisation.dtype)
    both = [(_unit(code) * _unit(m)).flatten(1).mean(1) for m in (magnetisation.conj(), magnetisation)]
    return max(both, key=lambda means: means.mean().abs().item()).abs()


def _unit(value: Tensor) -> Tensor:
    return value / value.abs().clamp(min=1e-12)


def _of_model(vae: VAE, states: States, options: argparse.Namespace) -> dict[str, Any]:
    """Alignment of the code, and the heat capacity by the variance of log p(x|T), with bootstrap errors over chains."""
    z, m = codes(vae, states), directions(states)
    x, shape = states.rows()[0].float(), states.x.shape[:3]
    keywords = {"c": states.context(), "num_particles": options.num_particles, "seed": options.seed}
    evidence = log_marginal(vae.model, vae.guide, x, **keywords)
    log_p, spins = evidence.log_p.reshape(shape), x[0].numel()
    return {
        "alignment": _with_errors(alignment, (z, m), options),
        "size of the code": _with_errors(lambda z: z.norm(dim=-1).flatten(1).mean(1), (z,), options),
        "heat capacity, variance": _with_errors(lambda v: v.flatten(1).var(1) / spins, (log_p,), options),
        "evidence": evidence.summary(),
    }


def _of_states(drawn: dict[int, States], options: argparse.Namespace) -> dict[str, Any]:
    """Without a model: magnetisation, heat capacity, helicity modulus and the transition that it gives."""
    first, temperature = drawn[options.sizes[0]], next(iter(drawn.values())).temperature
    energy, t = energies(first.x), temperature
    windings = {size: winding(states.x) for size, states in drawn.items()}
    low, high = min(windings), max(windings)

    def transition(small: Tensor, large: Tensor) -> Tensor:
        return kosterlitz_thouless(t, {low: stiffness(small, t, low), high: stiffness(large, t, high)})

    return {
        "magnetisation": _with_errors(lambda m: m.abs().flatten(1).mean(1), (directions(first),), options),
        "heat capacity, energy": _with_errors(
            lambda e: e.flatten(1).var(1) / t**2 / first.x[0, 0, 0].numel(), (energy,), options
        ),
        **{
            f"helicity, L = {size}": _with_errors(lambda w, size=size: stiffness(w, t, size), (w,), options)
            for size, w in windings.items()
        },
        "transition": _with_errors(transition, (windings[low], windings[high]), options),
    }


def _with_errors(of: Any, values: tuple[Tensor, ...], options: argparse.Namespace) -> dict[str, Any]:
    """A statistic of chains, its standard error and its 95 % interval by the bootstrap over chains.

    A bootstrap sample has the same chains of all values, `[T, chains, ...]`: they may belong together.
    """
    rng = np.random.default_rng(options.seed)
    num, chains = values[0].shape[:2]
    rows, drawn = torch.arange(num).unsqueeze(1), []
    for _ in range(options.resamples):
        columns = torch.tensor(rng.integers(chains, size=(num, chains)))
        drawn.append(of(*(value[rows, columns] for value in values)).double())
    low, high = (torch.stack(drawn).nanquantile(q, 0).tolist() for q in (0.025, 0.975))
    error = torch.stack(drawn).std(0).tolist()
    return {"value": of(*values).tolist(), "standard_error": error, "low": low, "high": high}


def _tell(table: dict[str, Any]) -> None:
    for t, aligned, error, c, of_energy in zip(
        table["temperature"],
        table["alignment"]["value"],
        table["alignment"]["standard_error"],
        table["heat capacity, variance"]["value"],
        table["heat capacity, energy"]["value"],
        strict=True,
    ):
        print(f"T = {t:.2f}: alignment {aligned:.3f} ± {error:.3f}, heat capacity {c:.2f}, by energy {of_energy:.2f}")
    found = table["transition"]
    print(f"T_KT = {found['value']:.3f}, 95 % interval {found['low']:.3f} to {found['high']:.3f}; literature 0.8929")


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    grid = [0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5]
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 16], help="L; the VAE is of the first")
    parser.add_argument("--temperatures", type=float, nargs="+", default=grid, help="rising, J/k_B")
    parser.add_argument("--chains", type=int, default=150, help="to train on, and as many to test on, per temperature")
    parser.add_argument("--kept", type=int, default=12, help="states of a chain")
    parser.add_argument("--every", type=int, default=3, help="of the states of test chains each so many is used")
    parser.add_argument("--copies", type=int, default=2, help="versions of each training state by symmetry")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--num_particles", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=200, help="of the bootstrap over chains")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/xy")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
