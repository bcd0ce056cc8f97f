"""A table of the differences in log p(x) by guide, prior, objective and a second stochastic layer, in nats.

Every row is trained with `pyro-vae fit` for the same number of epochs and estimated with `pyro-vae evaluate` on the
same images with the same K; differences are paired by image. A row that has already been trained is not trained again.

    python examples/compare_parts.py --data static_mnist.npz --epochs 100 --out runs/parts           # hours
    python examples/compare_parts.py --data static_mnist.npz --tables guides objectives --out runs/parts

Without options it uses the packaged digits and few epochs, to test that everything runs.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_vae.cli import main as pyro_vae
from pyro_vae.statistics.averages import standard_error


def _dense(network: str, width: int, parts: tuple[str, ...] = ("encoder", "decoder"), **others: str) -> list[str]:
    options = {"hidden": f"[{width}, {width}]", **others}
    return [
        word
        for part in parts
        for word in (
            f"--vae.{part}",
            network,
            *(w for name in options for w in (f"--vae.{part}.{name}", options[name])),
        )
    ]


_ONE_LAYER = ["--vae.latent_dim", "50", *_dense("MLP", 200)]
_TWO_LAYERS = [
    *("--vae", "HierarchicalVAE", "--vae.latent_dims", "[100, 50]"),
    *_dense("MLP", 200),
    *_dense("MLP", 100, ("upper_encoder", "upper_decoder"), activation="tanh"),  # bounded; codes are not
]
_GATED = ["--vae.latent_dim", "40", *_dense("GatedMLP", 300)]

TABLES: dict[str, dict[str, list[str]]] = {
    "guides": {
        "DiagonalNormal": _ONE_LAYER,
        "FullNormal": [*_ONE_LAYER, "--vae.guide", "FullNormal"],
        "InverseAutoregressiveFlow": [*_ONE_LAYER, "--vae.guide", "InverseAutoregressiveFlow"],
    },
    "priors": {
        "StandardNormal": _GATED,
        "MixtureOfNormals": [*_GATED, "--vae.prior", "MixtureOfNormals", "--vae.prior.components", "500"],
        "VampPrior": [*_GATED, "--vae.prior", "VampPrior", "--vae.prior.components", "500"],
    },
    "objectives": {
        "ELBO": [*_ONE_LAYER, "--objective", "ELBO", "--objective.beta", "1.0"],
        "IWAE(5)": [*_ONE_LAYER, "--objective", "IWAE", "--objective.num_particles", "5"],
        "DReG(5)": [*_ONE_LAYER, "--objective", "DReG", "--objective.num_particles", "5"],
    },
    "layers": {"one": _ONE_LAYER, "two": _TWO_LAYERS},
}
"""Options of `pyro-vae fit` for each row; the others are compared with the first of a table. All but the table
of objectives use the command's KL warm-up, which IWAE does not have."""


def main(options: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Train, estimate, compare; returns and saves the tables."""
    out, tables = Path(options.out), {}
    for name in options.tables:
        runs = {row: _run(out, parts, options) for row, parts in TABLES[name].items()}
        first = next(iter(runs.values()))
        tables[name] = {row: _row(run, first) for row, run in runs.items()}
        print(_text(name, tables[name]))
        (out / "tables.json").write_text(json.dumps(tables, indent=1))
    return tables


def _run(out: Path, parts: list[str], options: argparse.Namespace) -> Path:
    """A trained and evaluated run; rows of two tables with the same parts share a run."""
    name = "-".join(word.strip("[]").replace(", ", "x") for word in parts if not word.startswith("--"))
    run, common = out / name, ["--data", options.data, "--epochs", str(options.epochs), "--seed", str(options.seed)]
    _call("fit", *common, "--precision", options.precision, *parts, "--run", str(run), *options.fit)
    wanted = {"num_particles": options.num_particles, "seed": options.seed}
    if not _evaluated(run, wanted, options.num_data):
        few = [] if options.num_data is None else ["--num_data", str(options.num_data)]
        words = [word for name, value in wanted.items() for word in (f"--{name}", str(value))]
        _call("evaluate", str(run), *words, *few)
    return run


def _evaluated(run: Path, wanted: dict[str, int], num_data: int | None) -> bool:
    path = run / "evidence-test.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    same = all(found.get(name) == value for name, value in wanted.items())
    return same and num_data in (None, found["num_data"])


def _call(*words: str) -> None:
    if (code := pyro_vae(list(words))) != 0:
        raise SystemExit(code)


def _row(run: Path, first: Path) -> dict[str, float]:
    """A run's evidence, and its difference from the first run's on the same images, with the paired error."""
    found = json.loads((run / "evidence-test.json").read_text())
    difference = _log_p(run) - _log_p(first)
    return {
        "nll": found["nll"],
        "standard_error_data": found["standard_error_data"],
        "standard_error_monte_carlo": found["standard_error_monte_carlo"],
        "unreliable": found["unreliable"],
        "elbo": found["elbo"],
        "active_units": found["active_units"],
        "better_by": float(difference.mean()),
        "standard_error_paired": standard_error(difference),
        "num_data": found["num_data"],
        "num_particles": found["num_particles"],
    }


def _log_p(run: Path) -> Tensor:
    with np.load(run / "evidence-test.npz") as arrays:
        return torch.from_numpy(arrays["log_p"])


def _text(name: str, rows: dict[str, dict[str, float]]) -> str:
    """A table in Markdown."""
    first = next(iter(rows))
    lines = [
        f"\n| {name} | NLL, nats | better than {first} by | ELBO | active units | flagged |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row, r in rows.items():
        nll = f"{r['nll']:.2f} ± {r['standard_error_data']:.2f} (Monte Carlo {r['standard_error_monte_carlo']:.3f})"
        better = "" if row == first else f"{r['better_by']:+.2f} ± {r['standard_error_paired']:.2f}"
        lines += [f"| {row} | {nll} | {better} | {r['elbo']:.2f} | {r['active_units']} | {r['unreliable']:.0%} |"]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--epochs", type=int, default=5, help="passes over the training data")
    parser.add_argument("--precision", default="float32", help="precision of training; log p(x) is always in float32")
    parser.add_argument("--num_particles", type=int, default=5000)
    parser.add_argument("--num_data", type=int, default=None, help="number of test images, evenly spread")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/parts", help="folder of the run directories")
    parser.add_argument("--fit", nargs=argparse.REMAINDER, default=[], help="further options of pyro-vae fit")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
