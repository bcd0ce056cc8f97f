r"""Grey images by a continuous Bernoulli and by a Bernoulli, scored by the density (Loaiza-Ganem & Cunningham 2019).

A Bernoulli's cross-entropy of grey values is no density. Its normalised form is

    p(x | z) = prod_d C(lambda_d) lambda_d^x_d (1 - lambda_d)^(1 - x_d),

the continuous Bernoulli. Two networks with the same first weights are trained, one by each, and both are scored as
models of that density: the decoder of either gives the logits of lambda. log p(x) is by importance sampling with K
draws of each model's own guide, and their difference is paired, datum by datum.

    python examples/reproduce/continuous_bernoulli.py --data_root FOLDER      # half an hour of one core
    python examples/reproduce/continuous_bernoulli.py --quick --out runs/quick

784-500-20, grey MNIST (pixels / 255), 60,000 / 10,000, 30 passes, Adam 1e-3, batches of 100, no dropout (published: 0.9
kept, batches of 50, K = 100), the last weights. The packaged digits (divided by 16) have 64-128-8 and 400 passes.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_vae import load_data, log_marginal
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.likelihoods import Bernoulli, ContinuousBernoulli
from pyro_vae.objectives import ELBO
from pyro_vae.statistics.averages import standard_error

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep, value
from training import about, autoencoder, quickened, scoring, trained

NAME = "continuous_bernoulli"
TITLE = "Continuous Bernoulli and Bernoulli on grey images, scored by the density"
LIKELIHOODS = {"continuous": ContinuousBernoulli, "bernoulli": partial(Bernoulli, grey=True)}
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"latent": 8, "hidden": (128,), "epochs": 400},
    "mnist": {"latent": 20, "hidden": (500,), "epochs": 30},
}
PARTS = {f"{name}-{part}": (name, part) for name in SETTINGS for part in (*LIKELIHOODS, "difference")}


def grey(name: str, root: Path | None) -> Dataset:
    """Train and test, in [0, 1]."""
    if name == "digits":
        return load_data("digits")
    assert root is not None
    with np.load(root / "mnist.npz") as arrays:
        train, test = (torch.from_numpy(arrays[split]) for split in ("train", "test"))
    return Dataset("mnist.npz", train, test=test, divisor=255)


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One training and its score, or the difference of two."""
    name, likelihood = PARTS[part]
    if likelihood == "difference":
        return _difference(name, options, folder)
    size = SETTINGS[name] | ({"epochs": 3, "hidden": (32,)} if options.quick else {})
    data = grey(name, options.data_root)
    protocol = f"{likelihood}, {size['latent']} latent, hidden {size['hidden']}, K = {options.num_particles}"
    described = about(data, options.seed, size["epochs"], protocol, num_data=options.num_data)
    return keep(folder, described, lambda: {"values": _scored(data, likelihood, size, options, folder)})


def _scored(data: Dataset, likelihood: str, size: dict[str, Any], options: argparse.Namespace, folder: Path) -> Any:
    """Log p(x) and the ELBO under the density; the trained weights are put under the continuous Bernoulli."""
    make = partial(autoencoder, data, size["latent"], size["hidden"], options.seed)
    vae, scored = make(likelihood=LIKELIHOODS[likelihood]), make(likelihood=ContinuousBernoulli)
    adam = partial(torch.optim.Adam, lr=1e-3)
    usual: dict[str, Any] = {"epochs": size["epochs"], "seed": options.seed, "lr_schedule": None, "optimizer": adam}
    trained(vae, data, ELBO(), folder, keep="last", **usual)
    scored.load_state_dict(vae.state_dict())
    x = data.split("test")
    x = x[evenly_spread(len(x), options.num_data)]
    found = log_marginal(scored.model, scored.guide, x, num_particles=options.num_particles, seed=options.seed)
    np.savez(folder / "log_p.npz", log_p=found.log_p.numpy())
    return {
        "log p(x)": value(found.mean, found.standard_error_data),
        "log p(x), error of the draws": value(found.standard_error_monte_carlo),
        "log p(x), share of data flagged": value(found.flagged.double().mean().item()),
        "ELBO": value(found.elbo.mean().item(), standard_error(found.elbo)),
    }


def _difference(name: str, options: argparse.Namespace, folder: Path) -> None:
    """Of log p(x), the continuous Bernoulli's less the Bernoulli's, once both are there."""
    parts = [options.runs / f"{name}-{likelihood}" for likelihood in LIKELIHOODS]
    made = [record.read(part / "part.json") for part in parts]
    if all(part.get("values") for part in made):
        described = {"seed": options.seed, "data": made[0]["data"], "protocol": "paired, datum by datum"}
        described["made from"] = [part["finished"] for part in made]
        first, second = (torch.from_numpy(np.load(part / "log_p.npz")["log_p"]) for part in parts)
        gain = first - second
        keep(folder, described, lambda: {"values": {"gain": value(gain.mean().item(), standard_error(gain))}})


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    quickened(options)
    parts = [part for part in PARTS if not options.quick or part.startswith("digits")]
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    return scoring(__doc__, NAME, num_particles=100, num_data=10_000)


if __name__ == "__main__":
    record.script(main, parser())
