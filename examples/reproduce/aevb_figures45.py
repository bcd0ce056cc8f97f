"""Kingma & Welling 2013, Figures 4 and 5: manifolds of two-dimensional codes, and samples by number of latents.

    python examples/reproduce/aevb_figures45.py --data_root FOLDER            # ten minutes of one core at most
    python examples/reproduce/aevb_figures45.py --quick --out runs/quick --pictures runs/quick

Figure 4: the means E[x|z] of Frey Face and MNIST over a grid of the unit square, which the inverse distribution
function of the normal maps to codes. Figure 5: means E[x|z] of draws z ~ p(z) of MNIST models with 2, 5, 10 and 20
latents. The networks are those of Figure 2. Where `aevb_figure2.py` has trained one (by Adagrad), it is taken from
there; others are trained for 1e6 samples by Adam, 1e-3. The pictures are written beside those of the documentation; the
bound on the test data is in the JSON file.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pyro_vae import fit, load, plots, sample
from pyro_vae.evidence import bound
from pyro_vae.objectives import ELBO
from pyro_vae.plots.images import labelled_grid
from pyro_vae.statistics.averages import standard_error
from pyro_vae.tasks.generation import manifold

sys.path.append(str(Path(__file__).parent))

import record
from aevb_figure2 import PROBLEMS, autoencoder
from keeping import keep, value
from training import about

NAME = "aevb_figures45"
TITLE = "Manifolds and samples (Kingma & Welling 2013, Figures 4 and 5)"
PARTS = {f"{name}-{latent}": (name, latent) for name, latent in [("frey", 2), *(("mnist", n) for n in (2, 5, 10, 20))]}
SAMPLES = 10
"""Draws in a row of Figure 5."""


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """A model with its bound on the test data."""
    name, latent = PARTS[part]
    data, before = PROBLEMS[name].data(options), _of_figure2(part, options)
    samples = 3e3 if options.quick else 1e6
    epochs = before.get("passes") or round(samples / len(data.train))
    how = "Figure 2's training by Adagrad" if before else "Adam, 1e-3"
    protocol = f"{latent} latent, {PROBLEMS[name].hidden} hidden, {how}"

    def values() -> dict[str, Any]:
        vae = _model(part, options) if before else _trained(part, data, epochs, options, folder)
        x = data.split("test")
        elbo = bound(vae.model, vae.guide, x, num_particles=1, seed=options.seed).elbo
        return {"values": {"test bound": value(elbo.mean().item(), standard_error(elbo))}}

    keep(folder, about(data, options.seed, epochs, protocol), values)


def _of_figure2(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `aevb_figure2.py` says of this model; empty where it has none."""
    found = {} if options.quick else record.read(options.figure2 / f"{part}-aevb" / "part.json")
    return found if found.get("values") else {}


def _trained(part: str, data: Any, epochs: int, options: argparse.Namespace, folder: Path) -> Any:
    name, latent = PARTS[part]
    hidden = 8 if options.quick else PROBLEMS[name].hidden
    vae = autoencoder(PROBLEMS[name], hidden, data.event_shape, latent, options.init, options.seed)
    usual: dict[str, Any] = {"weight_prior": 1.0, "keep": "last", "seed": options.seed, "progress": False}
    adam = partial(torch.optim.Adam, lr=1e-3)
    fit(vae, data, ELBO(analytic_kl=True), epochs=epochs, optimizer=adam, run=folder / "run", device="cpu", **usual)
    return vae


def _model(part: str, options: argparse.Namespace) -> Any:
    """The trained model."""
    before = _of_figure2(part, options)
    figure2 = options.figure2 / f"{part}-aevb" / f"step-{before['step']:g}" if before else None
    return load(figure2 or options.runs / part / "run", trust=["variances"])


def pictures(options: argparse.Namespace) -> dict[str, Any]:
    """Figure 4 for each data set, and Figure 5, of the models that are there; by name."""
    made = [part for part in PARTS if record.read(options.runs / part / "part.json").get("values")]
    models = {part: _model(part, options) for part in made}
    figures = {f"aevb-manifold-{p[:-2]}": plots.manifold(manifold(m)) for p, m in models.items() if p.endswith("-2")}
    rows = {part: model for part, model in models.items() if part.startswith("mnist")}
    if rows:
        means = torch.stack([sample(model, SAMPLES, seed=options.seed).mean for model in rows.values()])
        names = [f"{PARTS[part][1]} latent" for part in rows]
        figures["aevb-samples"] = labelled_grid(means, names, [""] * SAMPLES, "means E[x|z] of draws z ~ p(z)")
    return figures


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result, and the pictures."""
    result = record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in PARTS})
    for name, figure in pictures(options).items():
        plots.save(figure, options.pictures / f"{name}.png")
    return result


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.add_argument("--init", type=float, default=0.01, help="standard deviation s of the first weights and biases")
    runs, drawn = Path("runs/reproduce/aevb_figure2"), record.ROOT / "docs" / "pictures"
    parser.add_argument("--figure2", type=Path, default=runs, help="folder of the trainings of aevb_figure2.py")
    parser.add_argument("--pictures", type=Path, default=drawn, help="folder of the pictures")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
