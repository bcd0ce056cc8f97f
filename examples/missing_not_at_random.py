"""White wine of which high values are missing: imputed with and without a model of why they are missing.

    python examples/missing_not_at_random.py winequality_white.csv

The data and the gaps of Ipsen, Mattei & Frellsen (2021, not-MIWAE): all rows, 11 standardised columns, and in the first
5 each value above the column's mean is missing. A linear decoder with 10 latent dimensions and one noise scale
(probabilistic PCA), an encoder of two layers of 128 tanh units, and the importance weighted bound with 20 draws,
trained twice: as if values were missing at random (MIWAE), and with a logistic curve p(observed|x) for each column
(`NotAtRandom`), by default with its known sign. Beside it the column means and scikit-learn's `IterativeImputer`.
Printed is the root mean squared error of the missing values, in standard deviations of a column.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae import VAE, fit, impute
from pyro_vae.autoencoders import NotAtRandom, SelfMasking
from pyro_vae.data import as_dataset
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.schedules import Cosine
from pyro_vae.tasks import imputation_error


def table(path: Path) -> Tensor:
    """The 11 columns, standardised; the grade is left out."""
    x = torch.from_numpy(np.loadtxt(path, delimiter=";", skiprows=1))[:, :11]
    return ((x - x.mean(0)) / x.std(0, correction=0)).float()


def observed_of(x: Tensor) -> Tensor:
    """What is observed: all but the values above the mean in the first half of the columns."""
    observed = torch.ones_like(x, dtype=torch.bool)
    half = x.shape[1] // 2
    observed[:, :half] = x[:, :half] <= x[:, :half].mean(0)
    return observed


def model_of(columns: int, missing: str, hidden: int, latent: int, linear: bool) -> VAE | NotAtRandom:
    """The model, without p(mask|x) for `missing="random"`."""
    encoder = partial(MLP, hidden=(hidden, hidden), activation="tanh")
    decoder = partial(MLP, hidden=()) if linear else encoder
    likelihood = partial(Normal, scale="learned")
    inner = partial(VAE, latent_dim=latent, likelihood=likelihood, encoder=encoder, decoder=decoder)
    return (
        inner((columns,))
        if missing == "random"
        else NotAtRandom((columns,), inner, partial(SelfMasking, missing=missing))
    )


def row(x: Tensor, missing: str, o: argparse.Namespace) -> dict[str, Any]:
    """One trained model, and how far its imputations are off."""
    torch.manual_seed(o.seed)
    observed, start = observed_of(x), time.monotonic()
    vae = model_of(x.shape[1], missing, o.hidden, o.latent, o.decoder == "linear")
    data, adam = as_dataset(x, mask=observed), partial(torch.optim.Adam, lr=o.lr)
    settings = {"epochs": o.epochs, "batch_size": o.batch_size, "lr_schedule": Cosine(end=0.05), "seed": o.seed}
    fit(vae, data, IWAE(o.num_particles), optimizer=adam, progress=False, **settings)
    imputed = impute(vae, x, observed, num_particles=o.draws, seed=o.seed)
    error = imputation_error(imputed, x)
    found = {"missing": missing, "rmse": error.rmse, "se": error.rmse_error, "coverage of 90 %": error.coverage}
    found |= {"crps": error.crps, "flagged": imputed.unreliable, "seconds": round(time.monotonic() - start)}
    if isinstance(vae, NotAtRandom) and isinstance(vae.missingness, SelfMasking):
        found["slopes"] = [round(w, 2) for w in vae.missingness.slope[: x.shape[1] // 2].tolist()]
    return found


def baselines(x: Tensor) -> dict[str, float]:
    """The errors of column means, and of scikit-learn's iterative imputation where it is installed."""
    observed = observed_of(x)
    gappy = torch.where(observed, x, torch.nan)
    guesses = {"column mean": gappy.nanmean(0).expand_as(x)}
    try:
        from sklearn.experimental import enable_iterative_imputer  # noqa: F401
        from sklearn.impute import IterativeImputer
    except ImportError:
        print("without scikit-learn there is no IterativeImputer")
    else:
        filled = IterativeImputer(max_iter=10, random_state=0).fit_transform(gappy.double().numpy())
        guesses["IterativeImputer"] = torch.from_numpy(filled)
    return {name: (guess - x)[~observed].square().mean().sqrt().item() for name, guess in guesses.items()}


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("data", type=Path, help="winequality-white.csv of the UCI repository")
    made.add_argument("--missing", nargs="+", default=["random", "high"], choices=["random", "high", "low", "free"])
    made.add_argument("--decoder", default="linear", choices=["linear", "mlp"])
    sizes = {"epochs": 150, "batch_size": 256, "num_particles": 20, "draws": 1000, "hidden": 128, "latent": 10}
    for name, default in {**sizes, "seed": 0}.items():
        made.add_argument(f"--{name}", type=int, default=default)
    made.add_argument("--lr", type=float, default=2e-2)
    made.add_argument("--rows", type=int, default=None, help="only so many, for a quick look")
    return made


def main(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Print a line for each method."""
    x = table(options.data)[: options.rows]
    found: list[dict[str, Any]] = [{"method": name, "rmse": rmse} for name, rmse in baselines(x).items()]
    for line in found:
        print(json.dumps(line), flush=True)
    for missing in options.missing:
        found.append(row(x, missing, options))
        print(json.dumps(found[-1]), flush=True)
    return found


if __name__ == "__main__":
    main(parser().parse_args())
