"""Kingma & Welling 2013, Figure 2: the bound against training samples seen, AEVB and wake-sleep, MNIST and Frey Face.

    python examples/reproduce/aevb_figure2.py --data_root FOLDER                            # all, 1e7 samples: hours
    python examples/reproduce/aevb_figure2.py --data_root FOLDER --only mnist-20-aevb frey-10-aevb --samples 3e7
    python examples/reproduce/aevb_figure2.py --quick --out runs/quick                      # half a minute

The protocol is the paper's: encoder and decoder with one tanh layer (MNIST 500, Frey Face 200), batches of 100, one
draw of z, the bound with the analytic KL, Adagrad with the step of {0.01, 0.02, 0.1} that has the best training bound
after 1e5 samples, all weights and biases drawn from N(0, 0.01^2), a N(0, 1) prior on the decoder's. MNIST is grey, in
the Bernoulli cross-entropy; Frey Face is divided by 256, under a normal density whose mean goes through a sigmoid.
Wake-sleep has the same networks and optimizer. Two curves are not in the paper: AEVB by Adam, and, for one number of
dimensions, AEVB with first weights from N(0, 0.1^2), the other way to read the paper's "sampled from N(0, 0.01)".

The paper does not say how the data were split: MNIST has 60,000 / 10,000 here, Frey Face 1,565 / 200.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae import VAE
from pyro_vae.data import Dataset, load_data
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, Objective, WakeSleep

sys.path.append(str(Path(__file__).parent))

import record
from curves import Training, follow
from variances import NormalByVariance, SigmoidNormal

NAME = "aevb_figure2"
TITLE = "The bound against training samples seen (Kingma & Welling 2013, Figure 2)"


@dataclass(frozen=True)
class Method:
    """What is trained how.

    Args:
        objective: what is minimised.
        optimizer: its class.
        steps: the steps to choose from.
        init: standard deviation of the first weights and biases.
    """

    objective: Objective
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adagrad
    steps: tuple[float, ...] = (0.01, 0.02, 0.1)
    init: float = 0.01


BOUND = ELBO(analytic_kl=True)
METHODS = {
    "aevb": Method(BOUND),
    "wake-sleep": Method(WakeSleep()),
    "adam": Method(BOUND, torch.optim.Adam, steps=(3e-4, 1e-3, 3e-3)),
    "wide": Method(BOUND, init=0.1),
}


@dataclass(frozen=True)
class Problem:
    """A data set of the figure.

    Args:
        file: in the folder of the data.
        divisor: of the pixels.
        hidden: width of both networks.
        latent: numbers of latent dimensions.
        likelihood: of a pixel.
        published: training samples that the published curves reach.
    """

    file: str
    divisor: int
    hidden: int
    latent: tuple[int, ...]
    likelihood: Callable[..., Any]
    published: float

    def data(self, options: argparse.Namespace) -> Dataset:
        """Train and test; in a quick run a part of the packaged digits."""
        if options.quick:
            digits = load_data("digits")
            return Dataset("digits", digits.split("train")[:300], test=digits.split("test")[:50])
        with np.load(options.data_root / self.file) as arrays:
            train, test = (torch.from_numpy(arrays[split]) for split in ("train", "test"))
        return Dataset(self.file, train, test=test, divisor=self.divisor)


PROBLEMS = {
    "mnist": Problem("mnist.npz", 255, 500, (20, 10, 3, 5, 200), partial(Bernoulli, grey=True), 2.5e8),
    "frey": Problem("frey_faces.npz", 256, 200, (10, 2, 5, 20), SigmoidNormal, 1e8),
}
PARTS = {
    f"{name}-{latent}-{method}": (name, latent, method)
    for method in METHODS
    for name, problem in PROBLEMS.items()
    for latent in (problem.latent[:1] if method == "wide" else problem.latent)
}
"""Data, number of latent dimensions and method of each curve."""


def autoencoder(problem: Problem, hidden: int, event: tuple[int, ...], latent: int, init: float, seed: int) -> VAE:
    """The paper's networks, all weights and biases from N(0, init^2)."""
    network = partial(MLP, hidden=(hidden,), activation="tanh")
    parts = {"likelihood": problem.likelihood, "guide": NormalByVariance}
    vae = VAE(event, latent, **parts, encoder=network, decoder=network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.normal_(0, init, generator=generator)
    return vae


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One curve."""
    name, latent, way = PARTS[part]
    problem, method = PROBLEMS[name], METHODS[way]
    data, hidden = problem.data(options), 8 if options.quick else problem.hidden
    training = Training(
        partial(autoencoder, problem, hidden, data.event_shape, latent, method.init, options.seed),
        data,
        method.objective,
        method.optimizer,
        method.steps,
        seed=options.seed,
        compile=not options.quick,
        trial=300 if options.quick else 1e5,
    )
    about = {
        "data": data.protocol,
        "passes_published": round(problem.published / len(data.train)),
        "protocol": f"{latent} latent, {hidden} hidden, {way}, first weights from N(0, {method.init:g}^2)",
    }
    follow(training, options.samples or (3e3 if options.quick else 1e7), folder, about)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the curves that are asked for; returns and saves the result."""
    first = {name: problem.latent[0] for name, problem in PROBLEMS.items()}
    parts = [part for part, (name, latent, _) in PARTS.items() if not options.quick or latent == first[name]]
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.add_argument("--samples", type=float, help="training samples seen (1e7); more of them lengthen a training")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
