r"""Each digit in turn as the anomaly: AUROC of every score, for models that never saw that digit.

The protocol is that of An & Cho (2015): train on nine digits, score test images of all ten, and call the tenth the
anomaly. Images are binarised dynamically; the test images by one fixed draw. Reference data and thresholds are from
images of the nine digits that were held out from training.

    python examples/held_out_digits.py --data mnist.npz --digits 0 1 2 3 4 5 6 7 8 9 \
        --latent_dims 2 20 --valid_size 2000 --num_data 2000 --out runs/held_out

Without options it uses the packaged digits, holds out two of them, and takes half a minute. What is done is saved below
`--out`, and not done again.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import VAE, fit, load, load_data, score, seeded
from pyro_vae.data import Dataset
from pyro_vae.networks import MLP
from pyro_vae.schedules import Cosine
from pyro_vae.tasks.scores import detection, states, threshold

_PUBLISHED = dict(zip(range(10), (0.96, 0.73, 0.97, 0.94, 0.73, 0.92, 0.95, 0.77, 0.92, 0.66), strict=True))
"""Area under the ROC curve of -ELBO on MNIST, 2 latent dimensions, each digit held out (Tonnaer et al.)."""


def main(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Train and score every digit and size of code; returns and prints the table."""
    torch.set_num_threads(options.threads)
    out, table = Path(options.out), {}
    out.mkdir(parents=True, exist_ok=True)
    for latent in options.latent_dims:
        for digit in options.digits:
            name = f"digit{digit}-latent{latent}"
            path = out / f"{name}.json"
            if not path.exists():
                path.write_text(json.dumps(_cell(options, digit, latent, out / name), indent=1))
            table[name] = json.loads(path.read_text())
    _print(options, table)
    return table


def _cell(options: argparse.Namespace, digit: int, latent: int, run: Path) -> dict[str, Any]:
    """The measures of all scores for one digit and one size of the code."""
    data, test, labels = _data(options, digit)
    vae = _trained(data, latent, run, options)
    others = [_trained(data, latent, Path(f"{run}-seed{s}"), options, seed=s) for s in range(1, options.members)]
    noisy = _mutated(data, options.mutation)
    background = _trained(noisy, latent, Path(f"{run}-background"), options, epochs=options.background_epochs)
    valid = data.split("valid")
    reference, calibration = valid[::2][: options.num_reference], valid[1::2][: options.num_reference]
    draws: Any = {"num_particles": options.num_particles}
    given: dict[str, dict[str, Any]] = {
        "evidence": draws,
        "elbo": {},
        "reconstruction": {},
        "rate": {},
        "regret": {"max_steps": options.max_steps, "particles": 4, "selection": 32, "num_particles": 100},
        "typicality": {"reference": score(vae, reference, **draws), **draws},
        "complexity": draws,
        "ratio": {"background": background, **draws},
        "density_of_states": {"reference": states(vae, reference, **draws), **draws},
        **({"ensemble": {"others": others, **draws}} if others else {}),
    }
    is_anomaly, cell = labels == digit, {}
    for method, settings in given.items():
        found = score(vae, test, method, **settings).values
        alarm = threshold(score(vae, calibration, method, **settings).values, options.false_alarms).alarms(found)
        measures = detection(found[~is_anomaly], found[is_anomaly]).summary()
        rates = {"false_alarms": alarm[~is_anomaly].double().mean().item()}
        rates["found"] = alarm[is_anomaly].double().mean().item()
        cell[method] = {**measures, **rates}
        print(f"{run.name} {method}: AUROC {measures['auroc']}, {rates}", flush=True)
    return cell


def _data(options: argparse.Namespace, digit: int) -> tuple[Dataset, Tensor, Tensor]:
    """Nine digits to train on; and test images of all ten with their labels."""
    source = load_data(options.data)
    x: Any = source.train[source.labels["train"] != digit]
    valid = x[-options.valid_size :]
    nine = Dataset(
        f"{source.name} without {digit}",
        x[: -options.valid_size],
        valid,
        source.test,
        binarization="dynamic",
        divisor=source.divisor,
    )
    rows = torch.linspace(0, len(source.labels["test"]) - 1, options.num_data).long().unique()
    return nine, nine.split("test")[rows], source.labels["test"][rows]


def _mutated(data: Dataset, share: float) -> Dataset:
    """The same data with a share of the binarised pixels drawn at random: background statistics without digits."""
    x = data.split("train")
    with seeded(0, "mutated"):
        mutated = torch.where(torch.rand_like(x) < share, (torch.rand_like(x) < 0.5).to(x), x)
    return Dataset(f"{data.name}, mutated", mutated)


def _trained(
    data: Dataset, latent: int, run: Path, options: argparse.Namespace, seed: int = 0, epochs: int | None = None
) -> VAE:
    """A model, trained or from its run directory."""
    if not (run / "manifest.json").exists():
        network = partial(MLP, hidden=(options.hidden, options.hidden))
        with seeded(seed, "init"):
            vae = VAE(data.event_shape, latent, encoder=network, decoder=network)
        settings: Any = {"batch_size": options.batch_size, "precision": options.precision, "seed": seed}
        adam = partial(torch.optim.Adam, lr=options.lr)
        epochs = options.epochs if epochs is None else epochs
        settings |= {"run": run, "progress": False, "device": "cpu"}
        fit(vae, data, epochs=epochs, optimizer=adam, lr_schedule=Cosine(), start_at_mean=True, **settings)
    vae: Any = load(run)
    return vae


def _print(options: argparse.Namespace, table: dict[str, dict[str, Any]]) -> None:
    """AUROC with intervals: a row for each score, a column for each digit."""
    for latent in options.latent_dims:
        cells = {digit: table[f"digit{digit}-latent{latent}"] for digit in options.digits}
        print(f"\n| {latent} latent | {' | '.join(map(str, cells))} | mean |\n|---|{'---|' * (len(cells) + 1)}")
        for method in next(iter(cells.values())):
            each = [cell[method]["auroc"] for cell in cells.values()]
            shown = [f"{a['value']:.2f} ({a['low']:.2f}-{a['high']:.2f})" for a in each]
            print(f"| `{method}` | {' | '.join(shown)} | {sum(a['value'] for a in each) / len(each):.3f} |")
        if options.data != "digits" and latent == 2:
            print(f"| published, -ELBO | {' | '.join(f'{_PUBLISHED[digit]:.2f}' for digit in cells)} | |")


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--digits", type=int, nargs="+", default=[1, 6], help="which are held out, in turn")
    parser.add_argument("--latent_dims", type=int, nargs="+", default=[2])
    parser.add_argument("--valid_size", type=int, default=200, help="images of the nine digits held out of training")
    parser.add_argument("--num_data", type=int, default=200, help="test images, evenly spread")
    parser.add_argument("--num_reference", type=int, default=1000, help="images for references, and for thresholds")
    parser.add_argument("--false_alarms", type=float, default=0.05)
    parser.add_argument("--num_particles", type=int, default=200, help="K of all scores by log p(x)")
    parser.add_argument("--max_steps", type=int, default=100, help="of the search of regret")
    parser.add_argument("--members", type=int, default=1, help="models of the ensemble; 1 for no ensemble")
    parser.add_argument("--mutation", type=float, default=0.2, help="share of mutated pixels, background model")
    parser.add_argument("--hidden", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=18)
    parser.add_argument("--background_epochs", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--precision", default="float32", help="precision of the training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/held_out")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
