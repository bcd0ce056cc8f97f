r"""One kind of image as the anomaly of another: AUROC of -log p(x), which fails, and of scores that do not.

A model of Fashion-MNIST gives *higher* probability to MNIST, which it never saw (Nalisnick et al. 2019). Both are
binarised in the same way, each pixel by one Bernoulli draw of its grey level.

    python examples/fashion_against_mnist.py --data fashion_mnist.npz --anomalies mnist.npz --epochs 30 \
        --latent_dim 20 --valid_size 2000 --out runs/fashion

Without options it is the packaged digits against the same images upside down, in half a minute.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pyro_vae import VAE, fit, load, load_data, plots, score, seeded
from pyro_vae.data import Dataset
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.tasks.scores import detection, states, threshold


def main(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train and score in every way; returns, prints and saves the table."""
    torch.set_num_threads(options.threads)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    data, anomalies = _data(options)
    vae = _trained(data, out / "run", options)
    test, table = _some(data.split("test"), options.num_data), {}
    valid = data.split("valid")
    reference, calibration = (_some(valid[i::2], options.num_data) for i in (0, 1))
    path = out / f"table-{options.name}.json"
    for name, (method, settings) in _ways(options, data, vae, reference, out).items():
        start = perf_counter()
        normal, odd = (score(vae, x, method, **settings) for x in (test, anomalies))
        seconds = (perf_counter() - start) / (len(test) + len(anomalies))
        alarm = threshold(score(vae, calibration, method, **settings), options.false_alarms)
        measured = detection(normal, odd)
        table[name] = measured.summary() | {"seconds": seconds, "mean": normal.mean, "anomalies_mean": odd.mean}
        for kind, scores in (("false_alarms", normal), ("found", odd)):
            table[name][kind] = alarm.alarms(scores).double().mean().item()
        found = f"{table[name]['found']:.1%} found at {table[name]['false_alarms']:.1%} false alarms"
        print(f"| {name} | {measured.auroc} | {measured.fpr_at_95} | {found} | {1000 * seconds:.0f} |", flush=True)
        path.write_text(json.dumps(table, indent=1))
        if name.startswith("regret"):
            picture = plots.anomaly_scores(normal, odd, alarm.value)
            plots.save(picture, out / f"{name.replace(' ', '-').replace(',', '')}.png")
    return table


def _ways(
    options: argparse.Namespace, data: Dataset, vae: VAE, reference: Tensor, out: Path
) -> dict[str, tuple[str, dict[str, Any]]]:
    """The scores with their options, by name."""
    draws: Any = {"num_particles": options.num_particles}
    short: Any = {"particles": 4, "selection": 32, "num_particles": 100}
    ways: dict[str, tuple[str, dict[str, Any]]] = {
        "evidence": ("evidence", draws),
        "elbo": ("elbo", {}),
        "reconstruction": ("reconstruction", {}),
        "rate": ("rate", {}),
        "typicality": ("typicality", {"reference": score(vae, reference, **draws), **draws}),
        "complexity": ("complexity", draws),
        "density_of_states": ("density_of_states", {"reference": states(vae, reference, **draws), **draws}),
    }
    for steps in options.max_steps:
        ways[f"regret, {steps} steps"] = "regret", {"max_steps": steps, **short}
    if options.long:
        settings = {"max_steps": options.max_steps[-1], "particles": 16, "selection": 64, "num_particles": 200}
        ways["regret, 4 x the draws"] = "regret", settings
    if options.members > 1:
        others = [_trained(data, out / f"run-seed{s}", options, seed=s) for s in range(1, options.members)]
        for combine in ("waic", "variance"):
            ways[f"ensemble, {combine}"] = "ensemble", {"others": others, "combine": combine, **draws}
    if options.background_epochs:
        noisy = Dataset("mutated", _mutated(data.split("train"), options.mutation))
        background = _trained(noisy, out / "background", options, epochs=options.background_epochs)
        ways["ratio"] = "ratio", {"background": background, **draws}
    return {name: way for name, way in ways.items() if not options.ways or name.split(",")[0] in options.ways}


def _data(options: argparse.Namespace) -> tuple[Dataset, Tensor]:
    """What is trained on, and anomalies."""
    data = load_data(options.data, binarize="dynamic", valid_size=options.valid_size)
    if options.anomalies is None:
        return data, _some(data.split("test").flip(-2), options.num_data)
    return data, _some(load_data(options.anomalies, binarize="dynamic").split("test"), options.num_data)


def _some(x: Tensor, num: int) -> Tensor:
    """`num` data, evenly spread."""
    return x[torch.linspace(0, len(x) - 1, min(num, len(x))).long()]


def _mutated(x: Tensor, share: float) -> Tensor:
    """A share of the pixels drawn at random."""
    with seeded(0, "mutated"):
        return torch.where(torch.rand_like(x) < share, (torch.rand_like(x) < 0.5).to(x), x)


def _trained(data: Dataset, run: Path, options: argparse.Namespace, seed: int = 0, epochs: int | None = None) -> VAE:
    """A model, trained or from its run directory."""
    if not (run / "manifest.json").exists():
        network = partial(MLP, hidden=(options.hidden, options.hidden))
        with seeded(seed, "init"):
            vae = VAE(data.event_shape, options.latent_dim, encoder=network, decoder=network)
        settings: Any = {"batch_size": options.batch_size, "precision": options.precision, "seed": seed}
        adam = partial(torch.optim.Adam, lr=options.lr)
        epochs = options.epochs if epochs is None else epochs
        settings |= {"run": run, "progress": False, "device": "cpu"}
        fit(vae, data, epochs=epochs, optimizer=adam, lr_schedule=Cosine(), start_at_mean=True, **settings)
    vae: Any = load(run)
    return vae


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--anomalies", default=None)
    parser.add_argument("--ways", nargs="+", default=[], help="methods; all if not given")
    parser.add_argument("--name", default="all", help="of the table's file")
    parser.add_argument("--valid_size", type=int, default=0, help="hold out the last n of train; 0: the valid split")
    parser.add_argument("--num_data", type=int, default=1000, help="images of each kind, evenly spread")
    parser.add_argument("--false_alarms", type=float, default=0.05)
    parser.add_argument("--num_particles", type=int, default=200, help="K of all scores by log p(x)")
    parser.add_argument("--max_steps", type=int, nargs="+", default=[50, 200], help="of the searches of regret")
    parser.add_argument("--long", action="store_true", help="a search with four times the draws too")
    parser.add_argument("--members", type=int, default=1, help="models of the ensemble; 1 for no ensemble")
    parser.add_argument("--background_epochs", type=int, default=5, help="of the background model; 0 for no ratio")
    parser.add_argument("--mutation", type=float, default=0.2, help="share of mutated pixels, background model")
    parser.add_argument("--latent_dim", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--precision", default="float32", help="precision of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/fashion")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
