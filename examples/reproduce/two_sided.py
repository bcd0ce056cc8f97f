"""Log p(x) between two bounds, where it is known: is it there, and is the interval flagged where it is not?

Three models whose log p(x) is known, each with guides from too wide to far too narrow; k is the shape of the tail of
their weights, exact in the first two and as of the prior in the third:

    probabilistic PCA   4 elements, 2 latent dimensions; normal guides of 1.2 to 0.45 times the posterior's width
    Poisson mixture     counts with a Gamma distributed rate; Gamma guides with 0.8 to 4 times the posterior's
                        parameters, so of another variance
    Bernoulli           6 pixels, a nonlinear decoder, 2 latent dimensions, log p(x) by the trapezoid rule; the guide
                        is N(0, s^2), s from 1 to 0.45, whatever x is

An interval holds log p(x) if this is not more than three standard errors beyond an end. Each seed has other data and
other draws; the standard errors are those of the shares over the seeds. The last two parts compare the interval with
bidirectional Monte Carlo, which brackets log p(x) of data that the model has drawn.

    python examples/reproduce/two_sided.py                            # some minutes of one core
    python examples/reproduce/two_sided.py --quick --out runs/quick   # some seconds
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae import bdmc, log_marginal
from pyro_vae.data import LinearGaussian
from pyro_vae.evidence import Annealing, Estimate
from pyro_vae.process.seeding import seeded

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep, value

NAME = "two_sided"
TITLE = "Log p(x) between two bounds, where it is known"
CERTAIN = 3.0
"""Standard errors beyond its ends within which an interval holds log p(x)."""


@dataclass(frozen=True)
class Case:
    """A model with one guide.

    Args:
        model: p(x, z).
        guide: q(z|x).
        sample: data of a seed, `[N, ...]`, for their number and the seed.
        log_p: log p(x) of them, exact.
        k: the shape of the tail of the weights; below 0 where they are bounded.
    """

    model: Callable[[Tensor], None]
    guide: Callable[[Tensor], None]
    sample: Callable[[int, int], Tensor]
    log_p: Callable[[Tensor], Tensor]
    k: float


# ---- the models ------------------------------------------------------------------------------------------------------


def _normal(n: int) -> dist.TorchDistribution:
    return dist.Normal(torch.zeros(n).double(), 1.0).to_event(1)


def pca(width: float) -> Case:
    """Probabilistic PCA, and its posterior with other standard deviations."""
    weight = torch.tensor([[1.0, 0.5], [0.5, -1.0], [1.0, 1.0], [0.2, 0.7]]).double()
    process = LinearGaussian(weight, torch.zeros(4).double(), 0.8)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", _normal(2))
            pyro.sample("x", dist.Normal(z @ weight.T, process.scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        mean, covariance = process.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(mean, width**2 * covariance))

    return Case(model, guide, process.sample, process.log_prob, 1 - width**2)


def poisson(factor: float) -> Case:
    """Counts whose rate has a Gamma distribution, and its posterior with other parameters."""
    shape, rate = torch.tensor(2.0).double(), 0.5
    exact = dist.GammaPoisson(shape, rate)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Gamma(shape, rate))
            pyro.sample("x", dist.Poisson(z), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Gamma(factor * (shape + x), torch.tensor(factor * (rate + 1)).double()))

    def sample(num: int, seed: int) -> Tensor:
        with seeded(seed, "counts"):
            return exact.sample(torch.Size([num]))

    return Case(model, guide, sample, exact.log_prob, 1 - 1 / factor)


def bernoulli(scale: float) -> Case:
    """Pixels with a nonlinear decoder, and a guide that does not look at them."""
    with seeded(0, "decoder"):
        hidden, output = torch.randn(2, 8).double(), torch.randn(8, 6).double()

    def pixels(z: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=torch.tanh(z @ hidden) @ output).to_event(1)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", pixels(pyro.sample("z", _normal(2))), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), scale).to_event(1))

    def sample(num: int, seed: int) -> Tensor:
        with seeded(seed, "pixels"):
            return pixels(torch.randn(num, 2).double()).sample()

    return Case(model, guide, sample, partial(_by_trapezoids, pixels), 1 - scale**2)


def _by_trapezoids(pixels: Callable[[Tensor], dist.TorchDistribution], x: Tensor) -> Tensor:
    """Log p(x) of each different image: the integral over [-9, 9]^2, of which a normal has all but 1e-18."""
    line = torch.linspace(-9, 9, 181).double()
    z = torch.cartesian_prod(line, line)
    different, which = x.unique(dim=0, return_inverse=True)
    density = pixels(z.unsqueeze(1)).log_prob(different) + _normal(2).log_prob(z).unsqueeze(1)
    return density.logsumexp(0)[which] + 2 * log((line[1] - line[0]).item())


MODELS: dict[str, tuple[Callable[[float], Case], tuple[float, ...]]] = {
    "probabilistic PCA": (pca, (1.2, 0.8, 0.72, 0.6, 0.45)),
    "Poisson mixture": (poisson, (0.8, 1.4, 1.9, 2.7, 4.0)),
    "Bernoulli": (bernoulli, (1.0, 0.8, 0.72, 0.6, 0.45)),
}


BRACKETED = {"probabilistic PCA": 1.2, "Bernoulli": 1.0}
"""The guides whose intervals are compared with bidirectional Monte Carlo: neither is exact."""


# ---- known log p(x) --------------------------------------------------------------------------------------------------


def compute(name: str, num_particles: int, options: argparse.Namespace, folder: Path) -> None:
    """Shares of the data of one model, for each of its guides."""
    make, settings = MODELS[name]
    protocol = f"{options.seeds} seeds of {options.num_data} data, K = {num_particles}"
    about = {"seed": options.seed, "data": "simulated", "protocol": protocol, "passes": 0, "samples": 0}
    keep(folder, about, lambda: {"values": _values([make(setting) for setting in settings], num_particles, options)})


def _values(cases: list[Case], num_particles: int, options: argparse.Namespace) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for case in cases:
        seeds = [_counted(case, num_particles, options.num_data, seed) for seed in _seeds(options)]
        found |= {f"k = {case.k:.2f}, {what}": share for what, share in _shares(seeds)}
    return found


def _seeds(options: argparse.Namespace) -> range:
    return range(options.seed * options.seeds, (options.seed + 1) * options.seeds)


def _counted(case: Case, num_particles: int, num_data: int, seed: int) -> dict[str, Tensor]:
    """Which data are inside, flagged, and so on, `[N]` each."""
    x = case.sample(num_data, seed)
    found = log_marginal(case.model, case.guide, x, num_particles=num_particles, seed=seed)
    assert found.interval is not None and found.upper is not None and found.upper_standard_error is not None
    truth, upper = case.log_p(x), found.interval.upper
    above_lower = truth >= found.log_p - CERTAIN * found.standard_error
    inside = above_lower & (truth <= upper.values + CERTAIN * upper.standard_errors)
    by_draws = above_lower & (truth <= found.upper + CERTAIN * found.upper_standard_error)
    flagged = found.interval.flagged
    return {
        "inside": inside,
        "inside by the error of the draws": by_draws,
        "flagged": flagged,
        "missed and not flagged": ~inside & ~flagged,
        "width": upper.values - found.log_p + CERTAIN * (found.standard_error + upper.standard_errors),
    }


def _shares(seeds: list[dict[str, Tensor]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The mean of each number over all data, with its standard error over the seeds."""
    for name in seeds[0]:
        means = torch.stack([seed[name].double().mean() for seed in seeds])
        yield name, value(means.mean().item(), means.std().item() / len(means) ** 0.5)


# ---- bidirectional Monte Carlo ---------------------------------------------------------------------------------------


def compare(name: str, options: argparse.Namespace, folder: Path) -> None:
    """The interval beside a bracket, on data that the model has drawn."""
    temperatures = 10 if options.quick else 200
    how = Annealing(num_temperatures=temperatures, num_chains=options.chains)
    protocol = (
        f"{options.seeds} seeds of {options.num_bracketed} data; K = 5000; "
        f"{temperatures} temperatures, {options.chains} chains each way"
    )
    about = {"seed": options.seed, "data": "simulated", "protocol": protocol, "passes": 0, "samples": 0}
    keep(folder, about, lambda: {"values": _beside(MODELS[name][0](BRACKETED[name]), how, options)})


def _beside(case: Case, how: Annealing, options: argparse.Namespace) -> dict[str, Any]:
    """What is found of each seed, averaged."""
    like = case.sample(1, 0)[0]
    seeds = []
    for seed in _seeds(options):
        both = bdmc(case.model, case.guide, options.num_bracketed, like=like, annealing=how, seed=seed)
        found = log_marginal(case.model, case.guide, both.x, num_particles=5000, seed=seed)
        seeds.append(_differences(found, both.lower, both.upper))
    return dict(_shares(seeds))


def _differences(found: Estimate, below: Estimate, above: Estimate) -> dict[str, Tensor]:
    """By how far the ends differ, in nats, and whether interval and bracket have a point in common."""
    assert found.interval is not None
    lower, upper = found.interval.lower, found.interval.upper
    least = lower.values - CERTAIN * torch.hypot(lower.standard_errors, above.standard_error)
    most = upper.values + CERTAIN * torch.hypot(upper.standard_errors, below.standard_error)
    return {
        "overlap": (least <= above.log_p) & (below.log_p <= most),
        "lower end less that of the bracket": lower.values - below.log_p,
        "upper end less that of the bracket": upper.values - above.log_p,
        "width of the bracket": above.log_p - below.log_p,
        "width of the interval": upper.values - lower.values,
        "flagged": found.interval.flagged,
    }


# ---- the script ------------------------------------------------------------------------------------------------------


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    if options.quick:
        options.seeds, options.num_data, options.num_bracketed, options.chains = 2, 60, 4, 4
    parts: dict[str, Callable[[Path], None]] = {
        f"{name}, K = {k}": partial(compute, name, k, options) for name in MODELS for k in (500, 5000)
    }
    parts |= {f"{name}, bracket": partial(compare, name, options) for name in BRACKETED}
    return record.run(options, NAME, TITLE, parts)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.set_defaults(data_root=Path())  # the data are simulated
    parser.add_argument("--seeds", type=int, default=4, help="each has other data and other draws")
    parser.add_argument("--num_data", type=int, default=500)
    parser.add_argument("--num_bracketed", type=int, default=50, help="data of each seed that are bracketed")
    parser.add_argument("--chains", type=int, default=32, help="chains of annealing for each datum")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
