r"""A VAE beside other models of the same data: what each can compute, what it can't, and how well.

Thirteen models of the packaged digits under dynamic binarisation (64 bits an image), trained on as many passes with as
wide layers: independent pixels, a mixture of Bernoullis, PCA, probabilistic PCA, factor analysis, a Gaussian mixture,
restricted Boltzmann machines, a VAE, an autoencoder, a denoising autoencoder, a generative stochastic network and a
generative adversarial network. Prints a table, and saves it with two figures below `--out`. It needs the extra
`sklearn`.

    python examples/compare_models.py                  # a minute or two
    python examples/compare_models.py --quick          # some seconds: fewer passes, fewer draws
"""

import argparse
import json
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from other_models import (
    adversarial,
    autoencoders,
    bernoullis,
    boltzmann,
    gaussians,
    independent,
    reporting,
    stochastic,
    variational,
)
from other_models.common import Budget, Data, Trained
from other_models.measuring import measure, paired

from pyro_vae import seeded

MODELS = {
    "independent": independent.train,
    "bernoullis": bernoullis.train,
    "rbm_small": partial(boltzmann.train, hidden=16, enumerated=True),
    "rbm": partial(boltzmann.train, hidden=128, enumerated=False),
    "vae": variational.train,
    "ppca": gaussians.probabilistic,
    "factors": gaussians.factors,
    "gmm": gaussians.mixture,
    "gsn": stochastic.train,
    "pca": gaussians.principal,
    "ae": autoencoders.train,
    "dae": partial(autoencoders.train, masked=0.25),
    "gan": adversarial.train,
}
QUICK = Budget(epochs=25, draws=200, temperatures=500, chains=200)
TASKS = ("log_p", "reconstruction", "accuracy", "imputation", "auroc", "two_sample")


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure every model; prints the table, saves it with the figures, and returns it."""
    result, trained, data = compare(options)
    print(reporting.table(result))
    if options.out is not None:
        save(result, trained, data, options.out)
    return result


def compare(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Trained], Data]:
    """The table as plain numbers, the trained models and the data."""
    budget = chosen(options)
    data = Data.load(options.num_data, budget.seed)
    trained = {name: train(name, data, budget) for name in options.models}
    rows = {name: measure(model, data, budget.seed) for name, model in trained.items()}
    for row in rows.values():
        row["vae_minus_this"] = paired(row, rows["vae"]) if "vae" in rows else None
    return {"protocol": protocol(data, budget), "budget": asdict(budget), "rows": rows}, trained, data


def chosen(options: argparse.Namespace) -> Budget:
    """The budget: the full or the quick one, with what was given on the command line."""
    given = {name: getattr(options, name) for name in vars(QUICK) if getattr(options, name) is not None}
    return replace(QUICK if options.quick else Budget(), **given)


def train(name: str, data: Data, budget: Budget) -> Trained:
    """One model, with the CPU time that its training took; that of the first may include imports."""
    start = time.process_time()
    with seeded(budget.seed, name):
        found = MODELS[name](data, budget)
    return replace(found, seconds=time.process_time() - start)


def protocol(data: Data, budget: Budget) -> str:
    """How all numbers were found, in a line."""
    return (
        f"{data.source.protocol}; the first {len(data.test)} test images; epochs {budget.epochs}, hidden layers of "
        f"{budget.hidden}, codes of {budget.latent}, seed {budget.seed}"
    )


def save(result: dict[str, Any], trained: dict[str, Trained], data: Data, out: Path) -> None:
    """The table as JSON, and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare_models.json").write_text(json.dumps(result, indent=1))
    reporting.families(result).savefig(out / "families.png", metadata={"Software": None})
    with seeded(result["budget"]["seed"], "pictures"):
        reporting.samples(trained, data).savefig(out / "samples.png", metadata={"Software": None})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--quick", action="store_true", help="fewer passes and draws")
    parser.add_argument("--num_data", type=int, default=200, help="test images, at most 200")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--hidden", type=int, help="width of a hidden layer")
    parser.add_argument("--latent", type=int, help="numbers in a code")
    parser.add_argument("--draws", type=int, help="draws of a datum in estimates of log p(x)")
    parser.add_argument("--temperatures", type=int, help="of annealed importance sampling")
    parser.add_argument("--chains", type=int, help="of annealed importance sampling and of Gibbs sampling")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--out", type=Path, default=None, help="a folder for the table and the figures")
    return parser


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(parser().parse_args())
