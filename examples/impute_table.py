"""A table with columns of several kinds, from a CSV with gaps to one without, and how far the imputed fields are off.

The script makes a table of people: two hidden traits decide age, income, visits, city, education and smoking. It hides
a share of the fields at random, writes `people.csv`, trains a VAE with the likelihood `Mixed` on it, whose kinds it
takes from the data, and writes `imputed.csv`. It prints the errors at the hidden fields with their standard errors,
beside those of the mean (numbers) or the most frequent level (all others). On the command line:

    pyro-vae fit --data people.csv --missing nan --kinds.education '[school, college, university]' \
        --vae.likelihood Mixed --vae.gaps mask --vae.latent_dim 4 --objective IWAE --run runs/people
    pyro-vae impute runs/people --split all --out imputed.csv
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import load_data
from pyro_vae.likelihoods import Mixed
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Cosine
from pyro_vae.tasks import impute
from pyro_vae.training.fitting import fit

EDUCATION = ["school", "college", "university"]


def people(num: int, seed: int) -> pd.DataFrame:
    """The complete table."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(2, num))
    noise = draw.normal(size=(3, num))
    city = np.stack([2 * a, -2 * a, 2 * b, -2 * b]) + draw.gumbel(size=(4, num))
    return pd.DataFrame(
        {
            "age": (45 + 10 * a + 4 * noise[0]).round(1),
            "income": np.exp(10 + 0.6 * b + 0.3 * noise[1]).round(-1),
            "visits": draw.poisson(np.exp(1 + 0.6 * a - 0.4 * b)),
            "city": np.array(["Basel", "Bern", "Chur", "Genf"])[city.argmax(0)],
            "education": np.array(EDUCATION)[np.digitize(b + 0.4 * noise[2], [-0.5, 0.7])],
            "smoker": np.where(draw.logistic(size=num) < 2 * a - 1, "yes", "no"),
        }
    )


def imputed(path: Path, options: argparse.Namespace) -> tuple[pd.DataFrame, float]:
    """The table of a CSV with its gaps filled, and the share of rows whose imputations are flagged."""
    data = load_data(path, missing="nan", kinds={"education": EDUCATION})
    assert data.table is not None
    x = data.split("train")
    print(data.table.summary(x), flush=True)
    network = partial(MLP, hidden=(options.hidden,) * 2)
    with seeded(options.seed, "init"):
        likelihood = partial(Mixed, kinds=data.table.kinds)
        vae = VAE(data.event_shape, 4, likelihood=likelihood, encoder=network, decoder=network, gaps="mask")
    adam = partial(torch.optim.Adam, lr=2e-3)
    settings: dict[str, Any] = {"optimizer": adam, "lr_schedule": Cosine(), "seed": options.seed, "device": "cpu"}
    fit(vae, data, IWAE(num_particles=10), epochs=options.epochs, progress=not options.quiet, **settings)
    found = impute(vae, x, num_draws=1, num_particles=options.num_particles, seed=options.seed)
    return data.table.frame(found.best), found.unreliable


def baseline(gappy: pd.DataFrame) -> pd.DataFrame:
    """Every gap filled by the mean of its column, or by its most frequent level."""
    levels = gappy.select_dtypes(exclude="number").columns
    return gappy.fillna({name: gappy[name].mode()[0] if name in levels else gappy[name].mean() for name in gappy})


def errors(truth: pd.DataFrame, filled: pd.DataFrame, hidden: np.ndarray) -> dict[str, dict[str, Any]]:
    """Of each column at its hidden fields: root mean squared error, or share of wrong levels, with standard errors."""
    found = {}
    for i, name in enumerate(truth):
        rows = hidden[:, i]
        if pd.api.types.is_numeric_dtype(truth[name]):
            squares = (truth[name][rows].astype(float) - filled[name][rows].astype(float)).to_numpy() ** 2
            rmse = squares.mean() ** 0.5
            error = squares.std(ddof=1) / len(squares) ** 0.5 / (2 * rmse)
            found[name] = {"measure": "RMSE", "value": rmse, "standard_error": error}
        else:
            wrong = (truth[name][rows].astype(str) != filled[name][rows].astype(str)).to_numpy(float)
            error = wrong.std(ddof=1) / len(wrong) ** 0.5
            found[name] = {"measure": "wrong", "value": wrong.mean(), "standard_error": error}
        found[name]["num_elements"] = int(rows.sum())
    return found


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Make the table, impute it, print and save the errors; returns them by method and column."""
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    truth = people(options.num, options.seed)
    hidden = np.random.default_rng(options.seed + 1).random(truth.shape) < options.hide
    gappy = truth.mask(hidden)
    gappy.to_csv(options.out / "people.csv", index=False)
    filled, flagged = imputed(options.out / "people.csv", options)
    filled.to_csv(options.out / "imputed.csv", index=False)
    found = {"VAE": errors(truth, filled, hidden), "mean or most frequent": errors(truth, baseline(gappy), hidden)}
    print(f"{options.num} rows, {options.hide:.0%} hidden, seed {options.seed}; {flagged:.1%} of the rows flagged")
    print("| column | measure | hidden | VAE | mean or most frequent |\n|---|---|---|---|---|")
    for name, own in found["VAE"].items():
        each = (f"{row[name]['value']:.3g} (se {row[name]['standard_error']:.2g})" for row in found.values())
        print(f"| {name} | {own['measure']} | {own['num_elements']} | {' | '.join(each)} |")
    (options.out / "table.json").write_text(json.dumps(found, indent=1))
    return found


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=2000, help="rows of the table")
    parser.add_argument("--hide", type=float, default=0.2, help="share of the fields to hide")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--num_particles", type=int, default=500, help="draws of the imputation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/impute_table"), help="a folder for the two CSV files")
    parser.add_argument("--quiet", action="store_true")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
