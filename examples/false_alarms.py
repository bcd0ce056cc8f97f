r"""Whether conformal thresholds keep their promise: the rate of false alarms on data that are not anomalous.

Thresholds are calibrated on validation data and applied to test data, once; and to many random divisions of both
together, over which the mean rate has to be the promised one. The first is also a test of whether the two sets are
exchangeable, which the promise assumes.

    python examples/false_alarms.py --case static runs/static static_mnist.npz none 0 \
        --case fashion runs/fashion/run fashion_mnist.npz dynamic 2000

Without options it is the packaged digits, in some seconds.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import VAE, fit, load, load_data, score, seeded
from pyro_vae.networks import MLP
from pyro_vae.tasks.scores import threshold


def main(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Measure every case, score and rate; returns, prints and saves the table."""
    torch.set_num_threads(options.threads)
    out, table = Path(options.out), {}
    out.mkdir(parents=True, exist_ok=True)
    print("| data, score, promise | valid to test: rate (95 % range) | mean of divisions (se) |\n|---|---|---|")
    for name, run, source, binarize, valid_size in options.case or [("digits", None, "digits", "dynamic", 0)]:
        data: Any = load_data(source, binarize=binarize, valid_size=int(valid_size))
        vae: Any = load(run) if run else _trained(data, out / "digits")
        valid, test = (_some(data.split(split), options.num_data) for split in ("valid", "test"))
        for method in options.methods:
            known, new = (score(vae, x, method, seed=s).values for s, x in enumerate((valid, test)))
            for rate in options.false_alarms:
                found = _measured(known, new, rate, options.divisions)
                table[f"{name}, {method}, {rate:g}"] = found
                low, high = found["range"]
                once = f"{found['rate']:.4f} ({low:.4f} to {high:.4f})"
                mean = f"{found['mean']:.5f} ({found['standard_error']:.5f})"
                print(f"| {name}, {method}, {found['promise']:.5f} | {once} | {mean} |", flush=True)
    (out / "table.json").write_text(json.dumps(table, indent=1))
    return table


def _measured(known: Tensor, new: Tensor, rate: float, divisions: int) -> dict[str, Any]:
    """The rate of false alarms, once and over random divisions of all scores into two sets of the same sizes."""
    from scipy.stats import betabinom

    found = threshold(known, rate)
    law = betabinom(len(new), found.rank, len(known) + 1 - found.rank)
    pool, rates = torch.cat([known, new]), []
    stream = torch.Generator().manual_seed(0)
    for _ in range(divisions):
        mixed = pool[torch.randperm(len(pool), generator=stream)]
        again = threshold(mixed[: len(known)], rate)
        rates.append(again.alarms(mixed[len(known) :]).double().mean())
    every = torch.stack(rates)
    return {
        "promise": found.expected_rate,
        "rate": found.alarms(new).double().mean().item(),
        "range": [float(law.ppf(p)) / len(new) for p in (0.025, 0.975)],
        "mean": every.mean().item(),
        "standard_error": (every.std() / divisions**0.5).item(),
        "num_calibration": len(known),
        "num_new": len(new),
    }


def _some(x: Tensor, num: int) -> Tensor:
    """`num` data, evenly spread."""
    return x[torch.linspace(0, len(x) - 1, min(num, len(x))).long()]


def _trained(data: Any, run: Path) -> VAE:
    if not (run / "manifest.json").exists():
        network = partial(MLP, hidden=(64,))
        with seeded(0, "init"):
            vae = VAE(data.event_shape, 4, encoder=network, decoder=network)
        fit(vae, data, epochs=30, optimizer=partial(torch.optim.Adam, lr=3e-3), run=run, progress=False, device="cpu")
    vae: Any = load(run)
    return vae


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    case = ("NAME", "RUN", "DATA", "BINARIZE", "VALID_SIZE")
    parser.add_argument("--case", nargs=5, action="append", default=[], metavar=case, help="a run and its data")
    parser.add_argument("--methods", nargs="+", default=["elbo", "reconstruction", "rate"])
    parser.add_argument("--false_alarms", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--num_data", type=int, default=2000, help="of each split, evenly spread")
    parser.add_argument("--divisions", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", default="runs/false_alarms")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
