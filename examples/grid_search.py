"""A latent size chosen by log p(x) in scikit-learn's search, beside PCA, factor analysis and mixtures of normals.

The breast cancer data of scikit-learn (569 rows, 30 real columns), standardised inside a `Pipeline`. A quarter of the
rows is held out for the test. On the others `GridSearchCV` chooses the size of each model by its mean log p(x) in
cross-validation, and the chosen one, fitted again to all of them, is measured on the test rows. All are densities of
the same columns in the same units, so their log p(x) compare; that of the VAE is, in expectation, a lower bound.

    python examples/grid_search.py                                     # a few minutes
    python examples/grid_search.py --latent_dims 2 5 10 15 --epochs 400 --folds 5
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from pyro_vae.likelihoods import StudentT
from pyro_vae.networks import MLP
from pyro_vae.sklearn import VAETransformer


def main(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Search for each model; returns, prints and saves the table."""
    torch.set_num_threads(options.threads)
    x = load_breast_cancer().data
    train, test = train_test_split(x, test_size=0.25, random_state=options.seed)
    models = {name: found for name, found in _models(options).items() if name in options.models}
    table = {name: _searched(model, grid, train, test, options) for name, (model, grid) in models.items()}
    print(
        f"\n{len(train)} rows, {options.folds} folds; {len(test)} rows to test; nats per row, with their standard error"
    )
    print("| model | chosen | folds | test |\n|---|---|---:|---:|")
    for name, row in table.items():
        print(f"| {name} | {row['chosen']} | {row['folds']:.2f} | {row['test']:.2f} ± {row['error']:.2f} |")
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.json").write_text(json.dumps(table, indent=1))
    return table


def _models(options: argparse.Namespace) -> dict[str, tuple[Any, dict[str, list[Any]]]]:
    """Each model with the sizes that are tried."""
    network = partial(MLP, hidden=tuple(options.hidden))
    settings = {"epochs": options.epochs, "batch_size": options.batch_size, "learning_rate": options.lr}
    shared = {**settings, "encoder": network, "decoder": network, "num_particles": options.num_particles}
    vae = VAETransformer(**shared, random_state=options.seed)
    heavy = partial(StudentT, df="learned", scale="learned_each")
    mixture = GaussianMixture(reg_covar=1e-3, n_init=3, random_state=options.seed)
    sizes = {"latent_dim": options.latent_dims}
    return {
        "PCA": (PCA(), {"n_components": list(range(1, 25))}),
        "factor analysis": (FactorAnalysis(max_iter=3000), {"n_components": list(range(1, 17))}),
        "mixture of normals": (mixture, {"n_components": [1, 2, 3, 4], "covariance_type": ["full", "diag"]}),
        "VAE": (vae, sizes),
        "VAE, Student-t": (VAETransformer(**shared, likelihood=heavy, random_state=options.seed), sizes),
    }


def _searched(
    model: Any, grid: Any, train: np.ndarray, test: np.ndarray, options: argparse.Namespace
) -> dict[str, Any]:
    """What was chosen, its mean over the folds, and log p(x) of the test rows."""
    start = time.perf_counter()
    steps = Pipeline([("scale", StandardScaler()), ("model", model)])
    folds = KFold(options.folds, shuffle=True, random_state=options.seed)
    search = GridSearchCV(steps, {f"model__{name}": values for name, values in grid.items()}, cv=folds).fit(train)
    log_p = search.score_samples(test)
    chosen = ", ".join(str(value) for value in search.best_params_.values())
    tried = dict(
        zip(map(str, search.cv_results_["params"]), search.cv_results_["mean_test_score"].tolist(), strict=True)
    )
    row = {"chosen": chosen, "folds": float(search.best_score_), "test": float(log_p.mean())}
    row |= {
        "error": float(log_p.std(ddof=1) / len(test) ** 0.5),
        "tried": tried,
        "seconds": time.perf_counter() - start,
    }
    print(row, flush=True)
    return row


_MODELS = ("PCA", "factor analysis", "mixture of normals", "VAE", "VAE, Student-t")


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=_MODELS, default=_MODELS[:4])
    parser.add_argument("--latent_dims", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--hidden", type=int, nargs="+", default=[64])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--num_particles", type=int, default=500, help="K of log p(x)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/grid_search")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
