"""Half the values of a table missing: MIWAE, which is `IWAE` on data with gaps, beside imputers of scikit-learn.

Breast cancer (569 x 30, with scikit-learn), standardised on all data, 50 % missing completely at random, the experiment
of Mattei & Frellsen 2019. Prints the mean squared error of the missing values for each mask and method. It needs the
extra `sklearn`, and takes some minutes for each mask.

    python examples/missing_data.py --masks 100 101 102
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - scikit-learn asks for it
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.linear_model import BayesianRidge
from torch import Tensor

from pyro_vae.autoencoders import VAE
from pyro_vae.data import as_dataset
from pyro_vae.likelihoods import Normal, StudentT
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Cosine
from pyro_vae.tasks import impute
from pyro_vae.training.fitting import fit

LIKELIHOODS = {
    "StudentT": partial(StudentT, df="learned", scale="per_element"),
    "Normal": partial(Normal, scale="per_element"),
}


def table(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The table, `[569, 30]`, and its mask, True where observed."""
    x = load_breast_cancer().data
    x = (x - x.mean(0)) / x.std(0)
    return x.astype(np.float32), np.random.default_rng(seed).random(x.shape) >= 0.5


def miwae(x: np.ndarray, options: argparse.Namespace, seed: int) -> np.ndarray:
    """E[x_mis | x_obs], `[569, 30]`, of a VAE trained on what is observed."""
    network = partial(MLP, hidden=(options.hidden,) * 2, activation="tanh")
    likelihood = LIKELIHOODS[options.likelihood]
    with seeded(seed, "init"):
        vae = VAE((x.shape[1],), 10, likelihood=likelihood, encoder=network, decoder=network, gaps=options.gaps)
    fit(
        vae,
        as_dataset(x, missing="nan"),
        IWAE(num_particles=options.K),
        epochs=options.epochs,
        batch_size=64,
        optimizer=partial(torch.optim.Adam, lr=options.lr),
        lr_schedule=Cosine(),
        seed=seed,
        progress=not options.quiet,
        device="cpu",
    )
    filled = impute(vae, torch.from_numpy(x), num_draws=1, num_particles=options.num_particles, seed=seed)
    return filled.best.numpy()


def average_of_runs(x: np.ndarray, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """The imputations of one run, and the average over all runs where there are several."""
    runs = [miwae(x, options, seed) for seed in range(options.runs)]
    averaged = {f"average of {len(runs)} runs": np.mean(runs, axis=0)} if len(runs) > 1 else {}
    return {"MIWAE": runs[0], **averaged}


def baselines(quick: bool) -> dict[str, Callable[..., Any]]:
    """Imputers of scikit-learn."""
    trees = ExtraTreesRegressor(n_estimators=5 if quick else 50, random_state=0)
    rounds = 2 if quick else 10
    return {
        "mean": SimpleImputer().fit_transform,
        "iterative ridge": IterativeImputer(BayesianRidge(), max_iter=rounds, random_state=0).fit_transform,
        "extra-trees": IterativeImputer(trees, max_iter=rounds, random_state=0).fit_transform,
        "5 nearest neighbours": KNNImputer(n_neighbors=5).fit_transform,
    }


def errors(options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Mean squared error of the missing values, by method."""
    truth, mask = table(seed)
    x = np.where(mask, truth, np.float32(np.nan))
    filled = average_of_runs(x, options)
    if options.baselines != "none":
        filled |= {name: impute(x) for name, impute in baselines(options.baselines == "quick").items()}
    return {name: float(((found - truth)[~mask] ** 2).mean()) for name, found in filled.items()}


def main(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure, print and save; returns the errors by mask."""
    torch.set_num_threads(1)
    found = {}
    for seed in options.masks:
        found[f"mask {seed}"] = errors(options, seed)
        print(
            f"mask {seed}:",
            ", ".join(f"{name} {value:.4f}" for name, value in found[f"mask {seed}"].items()),
            flush=True,
        )
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1))
    for name in next(iter(found.values())):
        values = Tensor([of_mask[name] for of_mask in found.values()])
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in values.tolist())} | {values.mean().item():.4f} |")
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, nargs="+", default=[100, 101, 102], help="seeds of the masks")
    parser.add_argument("--likelihood", choices=list(LIKELIHOODS), default="StudentT")
    parser.add_argument(
        "--gaps", choices=("zero", "mask", "learned"), default="zero", help="what the encoder gets there"
    )
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument(
        "--runs", type=int, default=1, help="trainings with other seeds, whose imputations are averaged"
    )
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--K", type=int, default=20, help="draws of the bound")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--num_particles", type=int, default=1000, help="draws of the imputation")
    parser.add_argument("--baselines", choices=("all", "quick", "none"), default="all")
    parser.add_argument("--out", type=Path, default=None, help="a .json for the errors")
    parser.add_argument("--quiet", action="store_true")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
