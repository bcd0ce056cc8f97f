"""Kingma & Welling 2013, Figure 3: the marginal likelihood against training samples, AEVB, wake-sleep, Monte Carlo EM.

    python examples/reproduce/aevb_figure3.py --data_root FOLDER                            # all, 1e7 samples: hours
    python examples/reproduce/aevb_figure3.py --data_root FOLDER --only n1000-mcem --samples 6e7
    python examples/reproduce/aevb_figure3.py --quick --out runs/quick                      # a minute

Grey MNIST in the Bernoulli cross-entropy, the first 1000 or 50,000 images, one tanh layer of 100, three latent
dimensions, Adagrad with the step of {0.01, 0.02, 0.1} that has the best training value after 1e5 samples, weights from
N(0, s^2), a N(0, 1) prior on the decoder's, batches of 100. Log p(x) is that of the first 1000 training and test
images, by importance sampling (in expectation too low); at the end of each training that of the test images by AEVB's
appendix D too (too high), beside importance sampling. The paper drew 50 codes with 4 leapfrog steps, at all points of
the curves. That is too few for chains of some data to agree, so here four chains make 200 steps to find their place,
draw 50 codes to fit the density and 50 for the mean, by 10 leapfrog steps each; and the density is a normal within an
ellipsoid, so that the ratios are bounded.

`mcem` is the algorithm of the authors' code (dpkingma/anglepy): all data are one batch, each datum keeps its chain, a
step is one trajectory of 10 leapfrog steps and 5 updates of the weights. `mcem-online` is the same with batches of 100.
The guide of both only learns to propose codes for importance sampling.
"""

import argparse
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import VAE, log_marginal
from pyro_vae.data import Dataset, load_data
from pyro_vae.evidence.appendix_d import appendix_d
from pyro_vae.inference import HMC
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, MonteCarloEM, WakeSleep

sys.path.append(str(Path(__file__).parent))

import record
from curves import Training, follow
from variances import NormalByVariance

NAME = "aevb_figure3"
TITLE = "The marginal likelihood against training samples seen (Kingma & Welling 2013, Figure 3)"
OBJECTIVES = {
    "aevb": ELBO(analytic_kl=True),
    "wake-sleep": WakeSleep(),
    "mcem": MonteCarloEM(),
    "mcem-online": MonteCarloEM(),
}
PARTS = {f"n{size}-{method}": (size, method) for size in (1000, 50_000) for method in OBJECTIVES}
"""Number of training data and method of each curve."""
MEASURED = 1000
LONG = HMC(num_warmup=200, num_leapfrog=10)
"""The chains of appendix D."""
PUBLISHED = 6e7


@dataclass(frozen=True)
class Marginal(Training):
    """A training whose log p(x) is measured.

    Args:
        num_particles: K of importance sampling.
        by_loss: whether the step is chosen by the loss, a lower bound; else by log p(x) of training data.
        hmc: the chains of appendix D.
    """

    num_particles: int = 1000
    by_loss: bool = True
    hmc: HMC = LONG

    def tried(self, step: float, folder: Path) -> float | None:
        """See `Training`."""
        if self.by_loss:
            return super().tried(step, folder)
        vae, _ = self.to(self.epochs(self.trial), step, folder)
        return round(self._importance(vae, "train").log_p.mean().item(), 3)

    def measured(self, vae: Any, epochs: int, rows: list[dict[str, float]]) -> dict[str, float]:
        """Log p(x) by importance sampling, with errors."""
        found: dict[str, float] = {"epochs": epochs, "samples": epochs * len(self.data.train)}
        with record.timed(self.cost):
            for split in ("test", "train"):
                estimate = self._importance(vae, split)
                mean, error = round(estimate.mean, 3), round(estimate.standard_error_data, 3)
                found |= {split: mean, f"{split}_error": error, f"{split}_flagged": estimate.unreliable}
        return {**found, "running": round(-sum(row["loss"] for row in rows) / len(rows), 3)}

    def _first(self, split: str) -> Tensor:
        return self.data.split(split)[:MEASURED]

    def _importance(self, vae: Any, split: str) -> Any:
        return log_marginal(vae.model, vae.guide, self._first(split), num_particles=self.num_particles, seed=self.seed)

    def end(self, folder: Path) -> None:
        """Add log p(x) of the test images by appendix D to the `part.json` of a finished curve, unless it is there."""
        part = record.read(folder / "part.json")
        if part.get("appendix_d", {}).get("samples") == part["samples"]:
            return
        vae, _ = self.to(part["passes"], part["step"], folder)
        with record.timed(self.cost):
            found = appendix_d(vae.model, vae.guide, self._first("test"), num_samples=50, hmc=self.hmc, seed=self.seed)
        value = {"value": round(found.mean, 3), "error": round(found.standard_error_data, 3)}
        density = {"samples": part["samples"], **value, "flagged": found.unreliable}
        record.save(folder / "part.json", part | self.cost | {"appendix_d": density})


def images(size: int, options: argparse.Namespace) -> Dataset:
    """The first training images, and the test images; in a quick run of the packaged digits."""
    if options.quick:
        digits = load_data("digits")
        return Dataset("digits", digits.split("train")[:200], test=digits.split("test")[:40])
    with np.load(options.data_root / "mnist.npz") as arrays:
        train, test = (torch.from_numpy(arrays[split]) for split in ("train", "test"))
    return Dataset(f"mnist.npz, first {size}", train[:size], test=test, divisor=255)


def autoencoder(event: tuple[int, ...], options: argparse.Namespace) -> VAE:
    """The paper's networks, all weights and biases from N(0, init^2)."""
    network = partial(MLP, hidden=(8 if options.quick else 100,), activation="tanh")
    parts = {"likelihood": partial(Bernoulli, grey=True), "guide": NormalByVariance}
    vae = VAE(event, 3, **parts, encoder=network, decoder=network)
    generator = torch.Generator().manual_seed(options.seed)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(0, options.init, generator=generator)
    return vae


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One curve."""
    size, method = PARTS[part]
    data = images(size, options)
    batch = len(data.train) if method == "mcem" else 100
    training = Marginal(
        partial(autoencoder, data.event_shape, options),
        data,
        OBJECTIVES[method],
        torch.optim.Adagrad,
        (0.01, 0.02, 0.1),
        seed=options.seed,
        compile=not options.quick,
        trial=200 if options.quick else max(1e5, 20 * batch),
        batch_size=batch,
        num_particles=50 if options.quick else 1000,
        by_loss="mcem" not in method,
        hmc=HMC(num_warmup=20, num_leapfrog=4) if options.quick else LONG,
    )
    about = {
        "data": data.protocol,
        "passes_published": round(PUBLISHED / len(data.train)),
        "protocol": f"3 latent, 100 hidden, {method}, batches of {batch}, weights from N(0, {options.init:g}^2)",
    }
    follow(training, options.samples or (400 if options.quick else 1e7), folder, about)
    training.end(folder)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the curves that are asked for; returns and saves the result."""
    parts = [part for part, (size, _) in PARTS.items() if not options.quick or size == 1000]
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.add_argument("--samples", type=float, help="training samples seen (1e7); more of them lengthen a training")
    parser.add_argument("--init", type=float, default=0.01, help="standard deviation s of the first weights and biases")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
