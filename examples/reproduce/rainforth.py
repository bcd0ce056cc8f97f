r"""Signal and noise of gradients against the number of particles K: Rainforth et al. 2018, their linear Gaussian model.

A tighter bound teaches the model better and the guide worse: with K particles the gradient of the guide falls as 1 / K
and its noise only as 1 / sqrt(K), so the ratio of the two falls as 1 / sqrt(K), while that of the model rises as
sqrt(K). `DReG` estimates the same gradient of the guide with noise that falls faster.

    z ~ N(mu, I), x | z ~ N(z, I), q(z | x) = N(A x + b, 2/3 I), 20 dimensions, 1024 data drawn from the model.

Parameters are the best ones (mu the mean of the data, A = I / 2, b = mu / 2) plus noise of standard deviation 0.01, as
published. The gradients are those of the package's objectives for the sum over all data, one for each repetition. The
signal-to-noise ratio of a block of parameters is

    |E[g]| / sqrt(tr Cov[g]),  with one E[g] for both objectives, from the draws of both.

The exact gradients that they tend to, with K to infinity, are written beside: K times the guide's tends to
-1/2 d/dphi sum_x E[w^2] / p(x)^2, where w = p(x, z) / q(z|x), and the model's to d/dmu sum_x log p(x).

    python examples/reproduce/rainforth.py                          # 6 minutes of one core
    python examples/reproduce/rainforth.py --quick --out runs/quick # some seconds
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import seeded
from pyro_vae.objectives import IWAE, DReG

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep, value

NAME = "rainforth"
TITLE = "Signal-to-noise ratio of the gradient against the number of particles (Rainforth et al. 2018)"
VARIANCE, NOISE = 2 / 3, 0.01
"""Of q(z|x) in each dimension; standard deviation of the parameters around the best ones."""
OBJECTIVES = {"IWAE": IWAE, "DReG": DReG}
BLOCKS = {"encoder": ("A", "b"), "decoder": ("mu",)}
RATIOS = [f"{objective} {block}" for block in BLOCKS for objective in OBJECTIVES]
BOOTSTRAPS = 1000
Parameters = dict[str, Tensor]


class Pair:
    """The two Pyro programs at R copies of the parameters, which give a gradient each: rows are copies times data."""

    def __init__(self, parameters: Parameters, copies: int) -> None:
        copied = {name: value.expand(copies, *value.shape).clone() for name, value in parameters.items()}
        self.parameters = {name: value.requires_grad_() for name, value in copied.items()}

    def model(self, x: Tensor) -> None:
        """p(x, z), for data `[R * N, d]`."""
        mu = self.parameters["mu"]
        with pyro.plate("data", len(x), dim=-1):
            rows = mu.unsqueeze(1).expand(-1, len(x) // len(mu), -1).reshape(x.shape)
            z = pyro.sample("z", dist.Normal(rows, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z|x)."""
        a, b = self.parameters["A"], self.parameters["b"]
        mean = (x.reshape(len(a), -1, x.shape[-1]) @ a.mT + b.unsqueeze(1)).reshape(x.shape)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, VARIANCE**0.5).to_event(1))


def problem(num: int, dim: int, seed: int) -> tuple[Tensor, Parameters]:
    """The data `[N, d]`, and the parameters near the best ones."""
    with seeded(seed, "rainforth"):
        x = torch.randn(dim) + torch.randn(num, dim) + torch.randn(num, dim)
        best = {"mu": x.mean(0), "A": torch.eye(dim) / 2, "b": x.mean(0) / 2}
        return x, {name: value + NOISE * torch.randn_like(value) for name, value in best.items()}


def gradients(objective: Any, x: Tensor, parameters: Parameters, options: argparse.Namespace) -> dict[str, Tensor]:
    """Independent estimates of the gradient of the bound for each block of parameters, `[R, size]`."""
    found: dict[str, list[Tensor]] = {block: [] for block in BLOCKS}
    together = max(1, options.rows // (objective.num_particles * len(x)))
    for start in range(0, options.repetitions, together):
        pair = Pair(parameters, min(together, options.repetitions - start))
        with seeded(options.seed, type(objective).__name__, objective.num_particles, start):
            for part in x.split(max(1, options.rows // objective.num_particles)):
                (-objective(pair.model, pair.guide, part.repeat(len(pair.parameters["mu"]), 1))).backward()
        for block, names in BLOCKS.items():
            parts: list[Any] = [pair.parameters[name].grad for name in names]
            found[block].append(torch.cat([part.flatten(1) for part in parts], 1).double())
    return {block: torch.cat(parts) for block, parts in found.items()}


def limits(x: Tensor, parameters: Parameters) -> dict[str, Tensor]:
    r"""What K times the guide's gradient, and the model's, tend to with K to infinity: exact.

    With v = 1/2 the variance of p(z|x), m its mean, s = 2/3 and u those of q(z|x), and P = 2 / v - 1 / s,

    .. math:: E_q[w^2] / p(x)^2 = \prod_j \sqrt{s / (v^2 P)} \exp\{(m_j - u_j)^2 / (v s P)\}
    """
    held = {name: value.double().requires_grad_() for name, value in parameters.items()}
    x, v, s = x.double(), 0.5, VARIANCE
    precision = 2 / v - 1 / s
    gap = (x + held["mu"]).detach() / 2 - (x @ held["A"].T + held["b"])
    log_square = 0.5 * x.shape[1] * log(s / (v**2 * precision)) + gap.square().sum(-1) / (v * s * precision)
    encoder = torch.autograd.grad(-log_square.exp().sum() / 2, [held["A"], held["b"]])
    decoder = (x - held["mu"].detach()).sum(0) / 2
    return {"encoder": torch.cat([part.flatten() for part in encoder]), "decoder": decoder}


def ratios(draws: dict[str, Any], block: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Signal-to-noise ratio of a block by each objective; the error by resampling the repetitions."""
    stream, count = np.random.default_rng(options.seed), options.repetitions
    even, again = np.ones((1, count)), stream.multinomial(count, np.full(count, 1 / count), (len(draws), BOOTSTRAPS))
    moments = {
        name: _moments(blocks[block].numpy(), np.concatenate([even, weights]) / count)
        for (name, blocks), weights in zip(draws.items(), again, strict=True)
    }
    signal = _signal(moments, count)
    found = {name: np.sqrt(signal / noise) for name, (_, noise) in moments.items()}
    return {f"{name} {block}": value(ratio[0], ratio[1:].std(ddof=1)) for name, ratio in found.items()}


def _moments(g: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean `[B, size]` and tr Cov `[B]` of repetitions `[R, size]`, weighted by each row of `weights`, `[B, R]`."""
    mean, count = weights @ g, weights.shape[1]
    variance = (weights @ g**2 - mean**2) * count / (count - 1)
    return mean, variance.sum(-1)


def _signal(moments: Any, count: int) -> np.ndarray:
    """|E[g]|^2 from the means of both objectives, which estimate one gradient, each weighted by its precision."""
    precision = sum(count / noise for _, noise in moments.values())
    mean = sum(mean * (count / noise)[:, None] for mean, noise in moments.values()) / precision[:, None]
    return ((mean**2).sum(-1) - 1 / precision).clip(min=1e-300)


def shares(draws: dict[str, Any], num_particles: int, block: str, exact: Tensor) -> dict[str, dict[str, float]]:
    """The mean gradient along its limit, as a share of it: 1 where K is large."""
    factor = num_particles if block == "encoder" else 1
    along = {name: blocks[block] @ exact / exact.square().sum() * factor for name, blocks in draws.items()}
    return {
        f"{name} {block}, share of the limit": value(share.mean().item(), (share.std() / len(share) ** 0.5).item())
        for name, share in along.items()
    }


def compute(num_particles: int, options: argparse.Namespace, folder: Path) -> None:
    """The ratios with K particles."""
    protocol = f"{options.num} data, {options.dim} dimensions, {options.repetitions} gradients, K = {num_particles}"
    keep(
        folder,
        {"seed": options.seed, "data": "drawn from the model", "protocol": protocol},
        partial(_values, num_particles, options),
    )


def _values(num_particles: int, options: argparse.Namespace) -> dict[str, Any]:
    x, parameters = problem(options.num, options.dim, options.seed)
    exact = limits(x, parameters)
    draws = {name: gradients(kind(num_particles), x, parameters, options) for name, kind in OBJECTIVES.items()}
    found: dict[str, Any] = {}
    for block in BLOCKS:
        found |= ratios(draws, block, options) | shares(draws, num_particles, block, exact[block])
    return {"num_particles": num_particles, "values": found}


def fitted(options: argparse.Namespace, folder: Path) -> None:
    """Slopes of log ratio in log K by least squares, over the three largest K."""
    parts = {k: record.read(options.runs / f"K{k}" / "part.json") for k in options.particles[-3:]}
    about = {"seed": options.seed, "data": "the ratios", "protocol": f"least squares over K = {[*parts]}"}
    measured = {k: part["values"] for k, part in parts.items() if part}
    if len(measured) == 3:
        about["made from"] = [part["finished"] for part in parts.values()]
        keep(folder, about, lambda: {"values": {name: slope(measured, name) for name in RATIOS}})


def slope(measured: dict[int, Any], name: str) -> dict[str, float]:
    """The slope of one ratio; its error from those of the points, which are independent."""
    x = np.log(list(measured))
    fit = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    ratio, error = (np.array([values[name][key] for values in measured.values()]) for key in ("value", "error"))
    return value(fit @ np.log(ratio), ((fit * error / ratio) ** 2).sum() ** 0.5)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    if options.quick:
        options.particles, options.num, options.repetitions = [1, 4, 16], 200, 20
    parts: dict[str, Callable[[Path], None]] = {f"K{k}": partial(compute, k, options) for k in options.particles}
    return record.run(options, NAME, TITLE, {**parts, "slopes": partial(fitted, options)})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.set_defaults(data_root=Path())  # needs no data
    parser.add_argument("--particles", type=int, nargs="+", default=[2**i for i in range(10)])
    parser.add_argument("--num", type=int, default=1024, help="data")
    parser.add_argument("--dim", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=120, help="gradients from which a ratio is computed")
    parser.add_argument("--rows", type=int, default=2**14, help="particles times data of one run of the programs")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
