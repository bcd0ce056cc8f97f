r"""What other libraries print as log p(x), or as a bound on it, for the same weights, beside the exact value.

The model is linear and Gaussian, so log p(x) is known: z ~ N(0, I), x | z ~ N(W z + b, I), with 32 dimensions of x
and 16 of z. The guide is the best normal with independent dimensions; its exact divergences from the posterior are
in the result. 100 data are drawn from the model. What is printed is compared, in nats per datum, with

* the exact log p(x), and
* the importance weighted bound with the same number of particles K, as this package computes it.

Each number is the mean of several repetitions; its error is their standard error, and the data are the same in all.

    python examples/reproduce/other_libraries.py                                # some minutes of one core
    python examples/reproduce/other_libraries.py --quick --out runs/quick       # some seconds

pythae runs in an environment of its own, which `benchmarks/environments.py` makes when it is first needed; where that
is not possible (and with `--quick`, unless it is there), its part is left out.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import RenyiELBO
from pyro.infer.importance import vectorized_importance_weights
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import log_marginal, seeded
from pyro_vae.data import LinearGaussian
from pyro_vae.objectives import IWAE

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import environments
import record
from keeping import keep, value

NAME = "other_libraries"
TITLE = "What other libraries print for the same weights"
DATA, BATCH = 100, 10
"""Number of data, and of those in a batch where a plate is subsampled or a batch is weighed as a whole."""


class Pair:
    """The linear model and its guide as a Pyro user writes them, on the rows that a plate gives."""

    def __init__(self, process: LinearGaussian, x: Tensor) -> None:
        mean, covariance = process.posterior(x)
        self.process, self.mean, self.covariance = process, mean, covariance
        self.scale = torch.linalg.inv(covariance).diagonal().rsqrt()

    def model(self, x: Tensor, size: int | None = None) -> None:
        """p(x, z) of data `[B, D]`; of a batch out of `size` data, if that is given."""
        with self._plate(x, size):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(self.scale), 1.0).to_event(1))
            mean = z @ self.process.weight.double().T + self.process.bias.double()
            pyro.sample("x", dist.Normal(mean, self.process.scale).to_event(1), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> None:
        """q(z|x): the means are exact, the variances those of one dimension given the others."""
        with self._plate(x, size):
            pyro.sample("z", dist.Normal(self.process.posterior(x)[0], self.scale).to_event(1))

    def _plate(self, x: Tensor, size: int | None) -> Any:
        return pyro.plate("data", len(x) if size is None else size, subsample=torch.arange(len(x)), dim=-1)


def problem(seed: int) -> tuple[Pair, Tensor]:
    """The programs and the data, in double precision."""
    process = LinearGaussian.random(dim=32, latent=16, scale=1.0, seed=seed)
    x = process.sample(DATA, seed).double()
    return Pair(process, x), x


def exact(pair: Pair, x: Tensor) -> dict[str, Any]:
    """Log p(x) and the divergences of the guide and the posterior, in closed form: no error."""
    zero = torch.zeros_like(pair.scale)
    guide = MultivariateNormal(zero, scale_tril=pair.scale.diag())
    posterior = MultivariateNormal(zero, pair.covariance)
    return {
        "log p(x)": value(pair.process.log_prob(x).mean().item()),
        "KL(q(z|x) || p(z|x))": value(kl_divergence(guide, posterior).item()),
        "KL(p(z|x) || q(z|x))": value(kl_divergence(posterior, guide).item()),
    }


def ours(pair: Pair, x: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """The bound as `IWAE` and `log_marginal` give it."""
    found = {}
    for k in options.particles:
        found[f"bound, K = {k}"] = _mean(-IWAE(k)(pair.model, pair.guide, x).item() / DATA for _ in _turns(options, k))
    k = max(options.particles)
    evidence = (log_marginal(pair.model, pair.guide, x, num_particles=k, seed=s) for s in range(options.repetitions))
    return found | {f"log_marginal, K = {k}": _mean(e.mean for e in evidence)}


def pyros(pair: Pair, x: Tensor, options: argparse.Namespace) -> dict[str, Any]:
    """Pyro's `RenyiELBO(alpha=0)` on all data and in subsampled batches; one importance weight for a batch."""
    found = {}
    for k in options.particles:
        elbo = RenyiELBO(alpha=0, num_particles=k, vectorize_particles=True, max_plate_nesting=1)
        whole = partial(elbo.loss, pair.model, pair.guide, x)
        found[f"RenyiELBO, K = {k}"] = _mean(-whole() / DATA for _ in _turns(options, k))
        batches = x.split(BATCH)  # each loss is an estimate for all data, and they are averaged
        losses = (np.mean([elbo.loss(pair.model, pair.guide, b, DATA) for b in batches]) for _ in _turns(options, k))
        found[f"RenyiELBO, {BATCH} of {DATA} data in the plate, K = {k}"] = _mean(-loss / DATA for loss in losses)
        joint = (sum(_importance(pair, b, k) for b in batches) for _ in _turns(options, k))
        found[f"vectorized_importance_weights, {BATCH} data at a time, K = {k}"] = _mean(
            total / DATA for total in joint
        )
    return found


def _importance(pair: Pair, x: Tensor, k: int) -> float:
    """Its estimate of the batch's log p(x)."""
    log_weights, _, _ = vectorized_importance_weights(pair.model, pair.guide, x, num_samples=k, max_plate_nesting=1)
    return (log_weights.logsumexp(0) - log(k)).item()


def pythae(pair: Pair, x: Tensor, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The values of `get_nll` and of the loss of `IWAE`, in an environment of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    mean_at_zero = pair.process.posterior(torch.zeros_like(x[:1]))[0].squeeze(0)
    gain = pair.process.posterior(torch.eye(x.shape[1]).double())[0] - mean_at_zero
    arrays = {"x": x, "weight": pair.process.weight, "bias": pair.process.bias}
    arrays |= {"gain": gain.T, "mean_at_zero": mean_at_zero, "log_variance": 2 * pair.scale.log()}
    np.savez(folder / "problem.npz", **{name: array.numpy() for name, array in arrays.items()})
    words = [folder / "problem.npz", "--repetitions", options.repetitions, "--seed", options.seed]
    script = Path(__file__).with_name("other_libraries_pythae.py")
    command = [environments.python("pythae"), script, *words, "--particles", *options.particles]
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return {name: _mean(values) for name, values in json.loads(done.stdout).items()}


def _turns(options: argparse.Namespace, k: int) -> Iterator[int]:
    """The repetitions, each with its own draws."""
    for repetition in range(options.repetitions):
        with seeded(options.seed, NAME, k, repetition), torch.no_grad():
            yield repetition


def _mean(values: Iterable[float]) -> dict[str, float]:
    every = np.array(list(values))
    return value(every.mean(), every.std(ddof=1) / len(every) ** 0.5)


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One part: of one library."""
    pair, x = problem(options.seed)
    about = {"seed": options.seed, "data": f"{DATA} draws of the model"}
    if part == "exact":
        return keep(folder, about, lambda: {"values": exact(pair, x)})
    about |= {"protocol": f"K = {options.particles}, {options.repetitions} repetitions"}
    if part == "pythae":
        if options.quick and not environments.made("pythae"):
            return print("pythae is not there: left out")
        return keep(folder, about, lambda: {"values": pythae(pair, x, options, folder)})
    about["library"] = f"pyro-ppl {version('pyro-ppl')}" if part == "pyro" else f"pyro_vae {version('pyro-vae')}"
    return keep(folder, about, lambda: {"values": {"ours": ours, "pyro": pyros}[part](pair, x, options)})


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    if options.quick:
        options.particles, options.repetitions = [5, 150], 5
    parts = ("exact", "ours", "pyro", "pythae")
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.set_defaults(data_root=Path())  # needs no data
    parser.add_argument("--particles", type=int, nargs="+", default=[5, 50, 500, 5000])
    parser.add_argument("--repetitions", type=int, default=20, help="from which the errors are computed")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
