"""Which check of a guide sees which fault: a known posterior, five guides that are wrong in one way each.

The model is probabilistic PCA with a 2-dimensional code (`pyro_vae.testing.spoiled_guides`). Each check is run
many times with other draws; what is counted is how often it finds the guide wrong, at a false-alarm rate of 5 %:

    SBC, dimensions   ranks of each dimension of the code (Talts et al. 2018)
    SBC               the same with the ranks of norm, log p(x|z) and log q(z|x) (Modrak et al. 2023)
    TARP              coverage of balls around random points (Lemos et al. 2023)
    HPD               coverage of regions of highest density (Hermans et al. 2022)
    local C2ST        a classifier of simulated pairs, at 100 other data (Linhart et al. 2023)

and the factor by which regions of 90 % must grow to contain the truth as often as they say (conformal scaling).

    python examples/reproduce/spoiled_guides.py                               # four minutes of one core
    python examples/reproduce/spoiled_guides.py --quick --out runs/quick      # some seconds
"""

import argparse
import sys
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import torch

from pyro_vae.diagnostics import conformal_scaling, expected_coverage, local_c2st
from pyro_vae.diagnostics.calibration import Calibration, simulation_based_calibration
from pyro_vae.testing.spoiled_guides import FAULTS, KnownPair

sys.path.append(str(Path(__file__).parent))

import record
from keeping import keep, value

NAME = "spoiled_guides"
TITLE = "Which check of a guide sees which fault"
CHECKS = ("SBC, dimensions", "SBC", "TARP", "HPD", "local C2ST")
DRAWS, TESTED, ALPHA = 199, 100, 0.05


def compute(fault: Any, options: argparse.Namespace, folder: Path) -> None:
    """How often each check finds this guide wrong."""
    protocol = f"{options.repetitions} repetitions of {options.simulated} simulated data, {DRAWS} draws, alpha {ALPHA}"
    about = {"seed": options.seed, "data": "simulated", "protocol": protocol, "passes": 0, "samples": 0}
    keep(folder, about, lambda: {"values": _values(fault, options)})


def _values(fault: Any, options: argparse.Namespace) -> dict[str, Any]:
    first = options.seed * options.repetitions
    found = [_flags(KnownPair(fault), options.simulated, first + i) for i in range(options.repetitions)]
    flags = torch.tensor(found, dtype=torch.float64)
    shares = zip(CHECKS, flags.mean(0).tolist(), strict=True)
    counted = {name: value(share, sqrt(share * (1 - share) / len(flags))) for name, share in shares}
    return {**counted, "factor at 90 %": _factor(KnownPair(fault), options)}


def _flags(pair: KnownPair, simulated: int, seed: int) -> list[bool]:
    """Whether each check finds the guide wrong."""
    like = torch.zeros(simulated, 4, dtype=torch.float64)
    given: dict[str, Any] = {"num_draws": DRAWS, "alpha": ALPHA, "seed": seed}
    sbc = simulation_based_calibration(pair.model, pair.guide, like, **given)
    each = Calibration(sbc.ranks[:, :2], sbc.names[:2], DRAWS, seed, ALPHA)
    regions = expected_coverage(pair.model, pair.guide, like, **given).p_values <= ALPHA
    x = pair.process.sample(TESTED, seed)
    local = local_c2st(pair.model, pair.guide, x, num_simulated=simulated, alpha=ALPHA, seed=seed)
    return [not each.calibrated, not sbc.calibrated, *regions.tolist(), not local.calibrated]


def _factor(pair: KnownPair, options: argparse.Namespace) -> dict[str, float]:
    """The factor of the regions of the whole code, with a quarter of its 95 % interval as the error."""
    like = torch.zeros(10 * options.simulated, 4, dtype=torch.float64)
    found = conformal_scaling(pair.model, pair.guide, like, levels=[0.9], seed=options.seed)
    low, high = (end[0, 0].item() for end in found.intervals())
    return value(found.factors[0, 0].item(), (high - low) / 4)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what is asked for; returns and saves the result."""
    if options.quick:
        options.repetitions, options.simulated = 2, 100
    parts = {fault: partial(compute, fault, options) for fault in FAULTS}
    return record.run(options, NAME, TITLE, parts)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = record.options(__doc__, NAME)
    parser.set_defaults(data_root=Path())  # the data are simulated
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--simulated", type=int, default=500, help="data that the model draws for each check")
    return parser


if __name__ == "__main__":
    record.script(main, parser())
