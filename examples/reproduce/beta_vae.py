r"""Rate, distortion and log p(x) along beta: what a weight of the KL other than 1 costs (Higgins et al. 2017).

The bound is -D - R, with the distortion D = E_q[-log p(x|z)] and the rate R = KL(q(z|x) || p(z)); beta trades one for
the other along a curve (Alemi et al. 2018). `ELBO(beta=...)` is what is minimised, without a warm-up; log p(x) is
always that of the model p(x, z), by importance sampling with K draws.

    python examples/reproduce/beta_vae.py --data_root FOLDER --only digits-0.1 digits-0.25 ...   # a minute each
    python examples/reproduce/beta_vae.py --data_root FOLDER                  # with static MNIST: two hours of one core
    python examples/reproduce/beta_vae.py --quick --out runs/quick            # some seconds

Digits: 64-128-8, 400 passes. Static MNIST: 784-200-200-50, 50 passes. Adam, 2e-3 falling to 0 by a cosine, batches of
100, the weights of the epoch that is best on the validation data by the objective. Rate and distortion are of all test
data with 10 draws, log p(x) of 1000 of them at most.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae.objectives import ELBO

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep
from training import about, autoencoder, binary, measured, quickened, scoring, trained

NAME = "beta_vae"
TITLE = "Rate, distortion and log p(x) along beta"
BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"latent": 8, "hidden": (128,), "epochs": 400},
    "mnist": {"latent": 50, "hidden": (200, 200), "epochs": 50},
}
PARTS = {f"{name}-{beta:g}": (name, beta) for name in SETTINGS for beta in BETAS}


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One training and its measures."""
    name, beta = PARTS[part]
    size = SETTINGS[name] | ({"epochs": 3, "hidden": (32,)} if options.quick else {})
    data = binary(name, options.data_root)
    protocol = f"beta = {beta:g}, {size['latent']} latent, hidden {size['hidden']}, K = {options.num_particles}"
    described = about(data, options.seed, size["epochs"], protocol, num_data=options.num_data, beta=beta)

    def values() -> dict[str, Any]:
        vae = autoencoder(data, size["latent"], size["hidden"], options.seed)
        trained(vae, data, ELBO(beta=beta), folder, epochs=size["epochs"], seed=options.seed)
        return {"values": measured(vae, data, options.num_particles, options.num_data, options.seed)}

    keep(folder, described, values)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    quickened(options)
    parts = [part for part in PARTS if not options.quick or part in ("digits-0.1", "digits-1", "digits-10")]
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    return scoring(__doc__, NAME)


if __name__ == "__main__":
    record.script(main, parser())
