r"""Rate, distortion and log p(x) along beta: what a weight of the KL other than 1 costs (Higgins et al. 2017).

The bound is -D - R, with the distortion D = E_q[-log p(x|z)] and the rate R = KL(q(z|x) || p(z)); beta trades one for
the other along a curve (Alemi et al. 2018). `ELBO(beta=...)` is what is minimised, without a warm-up; log p(x) is
always that of the model p(x, z), by importance sampling with K draws.

    python examples/reproduce/beta_vae.py --data_root FOLDER --only digits-0.1 digits-0.25 ...   # a minute each
    python examples/reproduce/beta_vae.py --data_root FOLDER                  # with static MNIST: two hours of one core
    python examples/reproduce/beta_vae.py --quick --out runs/quick            # some seconds

Digits: 64-128-8, 400 passes. Static MNIST: 784-200-200-50, 50 passes. Adam, 2e-3 falling to 0 by a cosine, batches of
100, the weights of the epoch that is best on the validation data by the objective. Rate and distortion are of all test
data with 10 draws, log p(x) of 1000 of them at most.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from pyro_vae.objectives import ELBO
from pyro_vae.plots.base import BLUE, GREY, ORANGE, TEXT, dress, make_figure

sys.path.append(str(Path(__file__).parent))

import record
from keeping import column, keep
from training import about, autoencoder, binary, measured, trained

NAME = "beta_vae"
TITLE = "Rate, distortion and log p(x) along beta"
BETAS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 10.0)
SETTINGS: dict[str, dict[str, Any]] = {
    "digits": {"latent": 8, "hidden": (128,), "epochs": 400},
    "mnist": {"latent": 50, "hidden": (200, 200), "epochs": 50},
}
PARTS = {f"{name}-{beta:g}": (name, beta) for name in SETTINGS for beta in BETAS}


def compute(part: str, options: argparse.Namespace, folder: Path) -> None:
    """One training and its measures."""
    name, beta = PARTS[part]
    size = SETTINGS[name] | ({"epochs": 3, "hidden": (32,)} if options.quick else {})
    data = binary(name, options.data_root)
    protocol = f"beta = {beta:g}, {size['latent']} latent, hidden {size['hidden']}, K = {options.num_particles}"
    described = about(data, options.seed, size["epochs"], protocol, num_data=options.num_data, beta=beta)

    def values() -> dict[str, Any]:
        vae = autoencoder(data, size["latent"], size["hidden"], options.seed)
        trained(vae, data, ELBO(beta=beta), folder, epochs=size["epochs"], seed=options.seed)
        return {"values": measured(vae, data, options.num_particles, options.num_data, options.seed)}

    keep(folder, described, values)


def draw(result: dict[str, Any]) -> Any:
    """For each data set the curve of distortion against rate, and the bounds against beta."""
    names = [name for name in SETTINGS if any(part.startswith(f"{name}-") for part in result["parts"])]
    figure = make_figure(9, 3.9 * len(names))
    for name, (left, right) in zip(names, figure.subplots(len(names), 2, squeeze=False), strict=True):
        parts = [part for part in result["parts"] if part.startswith(f"{name}-")]
        _draw_curve(left, result, name, parts)
        _draw_bounds(right, result, name, parts)
    return figure


def _draw_curve(axes: Any, result: dict[str, Any], name: str, parts: list[str]) -> None:
    (rate, rate_error), (distortion, error) = (column(result, parts, what) for what in ("rate", "distortion"))
    axes.errorbar(rate, distortion, error, rate_error, fmt="o-", ms=4, color=BLUE, capsize=2)
    for part, x, y in zip(parts, rate, distortion, strict=True):
        axes.annotate(f"{PARTS[part][1]:g}", (x, y), (4, 4), textcoords="offset points", fontsize=TEXT)
    if f"{name}-1" in parts:
        one = parts.index(f"{name}-1")
        axes.axline((rate[one], distortion[one]), slope=-1, color=GREY, lw=1, ls="--")
    dress(axes, f"{name}: distortion against rate, by beta", "rate, nats; dashed: where the ELBO is that of beta = 1")
    axes.set_ylabel("distortion, nats", fontsize=TEXT)


def _draw_bounds(axes: Any, result: dict[str, Any], name: str, parts: list[str]) -> None:
    for what, colour in (("log p(x)", ORANGE), ("ELBO", BLUE)):
        height, error = column(result, parts, what)
        betas = [PARTS[part][1] for part in parts]
        axes.errorbar(betas, height, error, fmt="o-", ms=4, color=colour, capsize=2, label=what)
    axes.set_xscale("log")
    dress(axes, f"{name}: log p(x) and its bound", "beta")
    axes.set_ylabel("nats per datum", fontsize=TEXT)
    axes.legend(frameon=False, fontsize=TEXT)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    if options.quick:
        options.num_particles, options.num_data = 50, 50
    parts = [part for part in PARTS if not options.quick or part in ("digits-0.1", "digits-1", "digits-10")]
    return record.run(options, NAME, TITLE, {part: partial(compute, part, options) for part in parts})


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.add_argument("--num_particles", type=int, default=5000, help="K, draws for log p(x)")
    parser.add_argument("--num_data", type=int, default=1000, help="test data for log p(x), evenly spread")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
