"""A training that is resumed and not repeated, and what is measured of the trained autoencoder."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import record
import torch
from keeping import value

from pyro_vae import VAE, fit, latent_statistics, load_data, log_marginal, seeded
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.evidence import bound
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.statistics.averages import standard_error

Values = dict[str, dict[str, float]]


def binary(name: str, root: Path | None) -> Dataset:
    """The packaged digits, binarised anew for each batch, or the statically binarised MNIST of a folder."""
    if name == "digits":
        return load_data("digits", binarize="dynamic")
    assert root is not None
    return load_data(root / "static_mnist.npz")


def autoencoder(data: Dataset, latent: int, hidden: tuple[int, ...], seed: int, **parts: Any) -> VAE:
    """A `VAE` with two perceptrons of the same hidden layers, whose first weights are a function of the seed."""
    with seeded(seed, "init"):
        network = partial(MLP, hidden=hidden)
        return VAE(data.event_shape, latent, encoder=network, decoder=network, **parts)


def trained(vae: Any, data: Dataset, objective: Any, folder: Path, **options: Any) -> Any:
    """The autoencoder after a training by Adam, 2e-3 falling to 0 by a cosine, from the training means.

    Args:
        vae: what to train.
        data: what on.
        objective: what is minimised.
        folder: of the part; the training is kept in `run` there.
        **options: of `fit`.
    """
    usual: dict[str, Any] = {"optimizer": partial(torch.optim.Adam, lr=2e-3), "lr_schedule": Cosine(1.0, 0.0)}
    usual |= {"start_at_mean": True, "device": "cpu", "save_every": 60.0, "progress": False}
    fit(vae, data, objective, run=folder / "run", **(usual | options))
    return vae


def measured(vae: Any, data: Dataset, num_particles: int, num: int, seed: int = 0) -> Values:
    """Rate, distortion and ELBO of all test data; log p(x) of `num` of them, evenly spread; active units of all.

    Nats per datum; errors are those from having so many data, but for the one of log p(x) that comes from the draws.
    """
    x = data.split("test")
    parts = bound(vae.model, vae.guide, x, num_particles=10, seed=seed)
    evidence = log_marginal(vae.model, vae.guide, x[evenly_spread(len(x), num)], num_particles=num_particles, seed=seed)
    columns = {"rate": parts.kl, "distortion": -parts.reconstruction, "ELBO": parts.elbo, "log p(x)": evidence.log_p}
    found = {name: value(column.mean().item(), standard_error(column)) for name, column in columns.items()}
    health = {
        "log p(x), error of the draws": evidence.standard_error_monte_carlo,
        "log p(x), share of data flagged": evidence.flagged.double().mean().item(),
        "active units": latent_statistics(vae, x).num_active,
    }
    return found | {name: value(number) for name, number in health.items()}


def about(data: Dataset, seed: int, epochs: int, protocol: str, **others: Any) -> dict[str, Any]:
    """What decides the values of a part."""
    samples = {"passes": epochs, "samples": epochs * len(data.train)}
    return {"seed": seed, "data": data.protocol, "protocol": protocol, **samples, **others}


def scoring(
    description: str | None, name: str, num_particles: int = 5000, num_data: int = 1000
) -> argparse.ArgumentParser:
    """The options of a script that estimates log p(x).

    Args:
        description: the docstring of the script.
        name: of the result.
        num_particles: K, unless given; 50 in a quick run.
        num_data: number of test data, unless given; 50 in a quick run.
    """
    parser = record.options(description, name)
    parser.add_argument("--num_particles", type=int, default=num_particles, help="K, draws for log p(x)")
    parser.add_argument("--num_data", type=int, default=num_data, help="test data for log p(x), evenly spread")
    return parser


def quickened(options: argparse.Namespace) -> None:
    """Take 50 draws and 50 data in a quick run."""
    if options.quick:
        options.num_particles, options.num_data = 50, 50
