r"""Variance of the gradient for the guide: by the score function against through the draws, by number of latents.

For one batch of images and the same weights, the gradient of the ELBO for the encoder is computed many times:

    analytic KL           through the draws, the KL in closed form (Kingma & Welling 2013, estimator B)
    ELBO                  through the draws (their estimator A)
    sticking the landing  through the draws, without the score (Roeder et al. 2017)
    score, baseline       by the score function; less the mean over the datum's other draws (Kool et al. 2019)
    score                 by the score function alone (Williams 1992)

All are unbiased for the same gradient g, and all have 5 draws of z for each datum. What is compared is the ratio of
noise to signal, tr Cov[g] / |E[g]|^2, with the E[g] of the least noisy: so many times more draws are needed
for the same error. It is computed at the first weights and after a training by the ELBO.

    python examples/reproduce/score_function.py                               # two minutes of one core
    python examples/reproduce/score_function.py --quick --out runs/quick      # some seconds

Digits (packaged, binarised), 64-128-L, batch of 100, trained for 50 passes.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import seeded
from pyro_vae.objectives import ELBO, ScoreFunction, StickingTheLanding

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep, value
from training import about, autoencoder, binary, trained

NAME = "score_function"
TITLE = "Variance of the gradient: score function against reparameterised draws"
DRAWS = 5
ESTIMATORS: dict[str, Any] = {
    "analytic KL": ELBO(num_particles=DRAWS, analytic_kl=True),
    "ELBO": ELBO(num_particles=DRAWS),
    "sticking the landing": StickingTheLanding(num_particles=DRAWS),
    "score, baseline": ScoreFunction(num_particles=DRAWS),
    "score": ScoreFunction(num_particles=DRAWS, baseline="none"),
}
MOMENTS = ("at the start", "trained")
HIDDEN, BLOCKS = 128, 10
"""Width of both networks; number of blocks of gradients, from whose spread the errors are computed."""


def compute(latent: int, options: argparse.Namespace, folder: Path) -> None:
    """The ratios with so many latent dimensions, before and after the training."""
    data, epochs = binary("digits", None), 2 if options.quick else 50
    protocol = f"{latent} latent, hidden {HIDDEN}, {options.repetitions} gradients of a batch of 100, {DRAWS} draws"

    def values() -> dict[str, Any]:
        vae = autoencoder(data, latent, (HIDDEN,), options.seed)
        found = _ratios(vae, data, MOMENTS[0], options)
        trained(vae, data, ELBO(), folder, epochs=epochs, seed=options.seed, keep="last")
        return {"latent": latent, "values": found | _ratios(vae, data, MOMENTS[1], options)}

    keep(folder, about(data, options.seed, epochs, protocol), values)


def _ratios(vae: Any, data: Any, moment: str, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Noise-to-signal ratio of each estimator, with its error: that of the mean over the blocks."""
    x, found = data.split("test")[:100], {name: [] for name in ESTIMATORS}
    for name, objective in ESTIMATORS.items():
        for repetition in range(options.repetitions):
            with seeded(options.seed, moment, name, repetition):
                found[name].append(gradient(vae, objective, x))
    blocks = {name: torch.stack(g).double().reshape(BLOCKS, -1, g[0].numel()) for name, g in found.items()}
    best = min((g.flatten(0, 1) for g in blocks.values()), key=lambda g: g.var(0).sum())
    signal = best.mean(0).square().sum() - best.var(0).sum() / options.repetitions
    ratios = {name: g.var(1).sum(-1) / signal for name, g in blocks.items()}
    return {f"{name}, {moment}": value(r.mean().item(), (r.std() / BLOCKS**0.5).item()) for name, r in ratios.items()}


def gradient(vae: Any, objective: Any, x: Tensor) -> Tensor:
    """One estimate of the gradient for the encoder, `[size]`."""
    parameters = list(vae.encoder.parameters())
    found = torch.autograd.grad(objective(vae.model, vae.guide, x), parameters)
    return torch.cat([part.flatten() for part in found])


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    if options.quick:
        options.latent, options.repetitions = [2, 20], 20
    parts = {f"latent-{latent}": partial(compute, latent, options) for latent in options.latent}
    return record.run(options, NAME, TITLE, parts)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.set_defaults(data_root=Path())  # the data are in the package
    parser.add_argument("--latent", type=int, nargs="+", default=[2, 5, 10, 20, 50])
    parser.add_argument("--repetitions", type=int, default=200, help="gradients, a multiple of 10")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
