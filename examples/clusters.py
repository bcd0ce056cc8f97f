"""Digits clustered without labels by a VAE with a mixture prior, over several seeds: accuracy, NMI and ARI.

For each seed: train with a standard normal prior, fit 10 normals to the codes by EM, train all parameters together
(VaDE), assign the test images to clusters, and compare with their labels, which were not used before.

    python examples/clusters.py --data mnist.npz --valid_size 5000 --hidden 500 --lr 1e-3 --batch_size 100 --epochs 30

Without options it uses the packaged digits and takes a minute. As usual, clusters are matched with classes in the best
way for the test images.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from statistics import mean

import torch

from pyro_vae import VAE, cluster, clustering_scores, fit, load_data, plots, seeded, with_clusters
from pyro_vae.data import Dataset
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.tasks.clustering import Clustering

_NAMES = ("accuracy", "nmi", "ari")
_SHOWN = 10


def main(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train and score each seed; returns and saves the table."""
    data = load_data(options.data, binarize="dynamic", valid_size=options.valid_size)
    print(data.protocol)
    out, x, labels, rows = Path(options.out), data.split("test"), data.labels["test"], {}
    out.mkdir(parents=True, exist_ok=True)
    for seed in options.seeds:
        vae = _trained(data, seed, options)
        found = cluster(vae, x, seed=seed)
        scores = clustering_scores(found.assignments, labels)
        rows[f"seed {seed}"] = {name: getattr(scores, name) for name in (*_NAMES, "standard_error", "num_data")}
        plots.save(_picture(found, x, seed), out / f"clusters-{seed}.png")
        print(f"seed {seed}: {found}, {scores}")
    means = {name: mean(row[name] for row in rows.values()) for name in _NAMES}
    print(f"mean of {len(rows)} seeds: " + ", ".join(f"{name} {value:.3f}" for name, value in means.items()))
    (out / "table.json").write_text(json.dumps({**rows, "mean": means}, indent=1))
    return rows


def _trained(data: Dataset, seed: int, options: argparse.Namespace) -> VAE:
    network = partial(MLP, hidden=(options.hidden, options.hidden))
    with seeded(seed, "init"):
        vae = VAE(data.event_shape, options.latent_dim, encoder=network, decoder=network)
    settings = {"batch_size": options.batch_size, "precision": options.precision, "seed": seed}
    adam = partial(torch.optim.Adam, lr=options.lr)
    fit(vae, data, epochs=options.epochs, optimizer=adam, lr_schedule=Cosine(), start_at_mean=True, **settings)
    mixed = with_clusters(vae, data, components=options.components, seed=seed)
    fit(mixed, data, epochs=options.joint_epochs, optimizer=adam, lr_schedule=Cosine(), **settings)
    return mixed


def _picture(found: Clustering, x: torch.Tensor, seed: int) -> object:
    """One row for each cluster: the images with the highest probability of it."""
    surest = found.probabilities.topk(_SHOWN, 0).indices.T
    return plots.image_grid(
        x[surest].flatten(0, 1), columns=_SHOWN, title=f"Ten test images of each cluster, seed {seed}"
    )


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument(
        "--valid_size", type=int, default=0, help="hold out the last n of train; 0: use the valid split of the data"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--components", type=int, default=10)
    parser.add_argument("--latent_dim", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=60, help="with a standard normal prior")
    parser.add_argument("--joint_epochs", type=int, default=20, help="with the mixture")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch_size", type=int, default=50)
    parser.add_argument("--precision", default="float32", help="precision of the training")
    parser.add_argument("--out", default="runs/clusters")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
