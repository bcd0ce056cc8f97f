r"""Posterior collapse: how many codes are in use with and without KL warm-up, free bits and a cyclical schedule.

Early in a training a code says little of x, and its KL costs more than it saves: dimensions are switched off, many of
them for good. Four ways of training the same network:

    none      the ELBO from the start
    warm-up   beta rises from 0 to 1 over the first fifth of the passes (Sonderby et al. 2016)
    free-bits the KL of a dimension costs nothing below 0.1 nats, in the mean of a batch (Kingma et al. 2016)
    cyclical  beta rises from 0 to 1 in the first half of each of five cycles (Fu et al. 2019)

A dimension is active where the variance of its posterior mean over the test data is above 0.01.

    python examples/reproduce/collapse.py --data_root FOLDER                  # with static MNIST: an hour of one core
    python examples/reproduce/collapse.py --quick --out runs/quick            # some seconds

Digits: 64-200-200-30, 200 passes, three seeds. Static MNIST: 784-200-200-50, 25 passes, one seed. Adam, 2e-3 falling to
0 by a cosine, batches of 100, the weights of the last pass. Values with several seeds are means over them, with the
standard error of that mean; with one, the errors are those from having so many data.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae import latent_statistics
from pyro_vae.objectives import ELBO, FreeBits
from pyro_vae.schedules import Cyclical, Linear

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep, value
from training import about, autoencoder, binary, measured, quickened, scoring, trained

NAME = "collapse"
TITLE = "Posterior collapse by the way of training"
WAYS: dict[str, Callable[[int], Any]] = {
    "none": lambda epochs: ELBO(),
    "warm-up": lambda epochs: ELBO(beta=Linear(0.0, 1.0, share=0.2)),
    "free-bits": lambda epochs: FreeBits(nats=0.1),
    "cyclical": lambda epochs: ELBO(beta=Cyclical(0.0, 1.0, period=epochs / 5, rise=0.5)),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"latent": 30, "hidden": (200, 200), "epochs": 200, "seeds": 3},
    "mnist": {"latent": 50, "hidden": (200, 200), "epochs": 25, "seeds": 1},
}
PARTS = {f"{name}-{way}": (name, way) for name in SETTINGS for way in WAYS}


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """The trainings of one way, by all seeds, and their measures."""
    name, way = PARTS[part]
    size = SETTINGS[name] | ({"epochs": 5, "hidden": (32,), "seeds": 2} if options.quick else {})
    data, seeds = binary(name, options.data_root), range(options.seed, options.seed + size["seeds"])
    protocol = f"{way}, {size['latent']} latent, hidden {size['hidden']}, seeds {[*seeds]}, K = {options.num_particles}"
    described = about(data, options.seed, size["epochs"], protocol, num_data=options.num_data)
    keep(folder, described, lambda: _joined([_one(data, way, size, seed, options, folder) for seed in seeds]))


def _one(data: Any, way: str, size: dict[str, Any], seed: int, options: argparse.Namespace, folder: Path) -> Any:
    """The values of one training, and the KL of each dimension, from the largest to the smallest."""
    vae, where = autoencoder(data, size["latent"], size["hidden"], seed), folder / f"seed-{seed}"
    objective = WAYS[way](size["epochs"])
    trained(vae, data, objective, where, epochs=size["epochs"], seed=seed, keep="last")
    kl: Any = latent_statistics(vae, data.split("test")).kl
    values = measured(vae, data, options.num_particles, options.num_data, options.seed)
    return values, kl.sort(descending=True).values.numpy()


def _joined(found: list[Any]) -> dict[str, Any]:
    """Means over the seeds; of one seed, its own values."""
    kl = np.stack([kl for _, kl in found]).mean(0)
    curves = {"curves": {"KL of each dimension": [round(float(v), 4) for v in kl]}}
    values, count = [values for values, _ in found], len(found)
    if count == 1:
        return {"values": values[0], **curves}
    every = {name: np.array([one[name]["value"] for one in values]) for name in values[0]}
    return {"values": {n: value(v.mean(), v.std(ddof=1) / count**0.5) for n, v in every.items()}, **curves}


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    quickened(options)
    parts = [part for part in PARTS if not options.quick or part.startswith("digits")]
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    return scoring(__doc__, NAME)


if __name__ == "__main__":
    record.script(main, parser())
