"""Log p(x) of real images from both sides: static MNIST, a mean-field guide and an inverse autoregressive flow.

    python examples/reproduce/two_sided_mnist.py --data_root FOLDER                                # an hour of one core
    python examples/reproduce/two_sided_mnist.py --quick --only "IAF, AIS" --out runs/quick        # a minute

Two networks 784-200-200-50, trained as in `iwae_tables.py`: the mean-field one is its row `static-1-vae-1`. The images
are spread evenly over the test images, the same for all parts. A part is a guide and a method: importance sampling, or
annealed importance sampling (AIS) from the guide. The density of the flow at other points than its draws takes a pass
for each dimension, so chains for the model trained with it start from a normal guide with full covariance that is
fitted to that model (`refit_guide`): log p(x) depends on the model alone.

The width of an interval is the upper end less the lower one, with three standard errors of each datum beyond both ends;
`width of the means` is the same of the means over the images. Seconds are of the process, with its threads.
"""

import argparse
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import ais, load, load_data, log_marginal, refit_guide
from pyro_vae.data import Dataset
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.evidence import Annealing, Estimate
from pyro_vae.guides import FullNormal
from pyro_vae.schedules import Cosine

sys.path.append(str(Path(__file__).parent))

import fitted
import iwae_tables
import record
from fitted import Row, Table
from keeping import keep, value

NAME = "two_sided_mnist"
TITLE = "Log p(x) of static MNIST between two bounds"
MEAN_FIELD, IAF = "static-1-vae-1", "static-1-iaf"
MODELS: dict[str, Row] = {
    MEAN_FIELD: iwae_tables.ROWS[MEAN_FIELD],
    IAF: Row("static", (*iwae_tables.MODELS["1"], *fitted.part("guide", "InverseAutoregressiveFlow")), 400),
}
METHODS: dict[str, tuple[str, Annealing | None]] = {
    "mean-field, importance sampling": (MEAN_FIELD, None),
    "mean-field, AIS": (MEAN_FIELD, Annealing()),
    "IAF, importance sampling": (IAF, None),
    "IAF, AIS": (IAF, Annealing(num_temperatures=500)),
}
"""For each part the model, and how its chains are annealed; None for importance sampling."""
REFITTED = {"IAF, AIS": 40}
"""Passes in which a normal guide is fitted to the model first, by Adam at 2e-3 falling by a cosine."""
NUM_DATA, DRAWS = 1000, 5000
QUICK_DATA, QUICK_DRAWS, QUICK = 20, 200, {"num_temperatures": 20, "num_chains": 8}
CERTAIN = 3.0
"""Standard errors beyond the ends of an interval."""


def compute(name: str, table: Table, folder: Path) -> None:
    """The interval of every image by one method; trains the model first, if it is not."""
    (model, how), quick, seed = METHODS[name], table.options.quick, table.options.seed
    how = how and replace(how, **(QUICK if quick else {}))
    draws, passes = QUICK_DRAWS if quick else DRAWS, REFITTED.get(name, 0)
    passes = min(passes, 1) if quick else passes
    table.train(model)
    root = table.options.data_root
    data = load_data("digits", binarize="dynamic") if quick else load_data(root / "static_mnist.npz")
    x = images(data, QUICK_DATA if quick else NUM_DATA)
    about = {
        "seed": seed,
        "data": "packaged digits" if quick else "static MNIST (Larochelle & Murray 2011)",
        "protocol": f"{len(x)} test images; {_said(how, draws, passes)}",
        "passes": table.epochs(model),
    }

    def found() -> dict[str, Any]:
        vae = load(table.run(model))
        if passes:
            how_fitted = {"optimizer": partial(torch.optim.Adam, lr=2e-3), "lr_schedule": Cosine(1, 0)}
            vae = refit_guide(vae, data, guide=FullNormal, epochs=passes, **how_fitted, seed=seed, progress=not quick)
        begun = time.perf_counter()
        estimate: Estimate = (
            log_marginal(vae.model, vae.guide, x, num_particles=draws, seed=seed)
            if how is None
            else ais(vae.model, vae.guide, x, annealing=how, seed=seed)
        )
        return {"values": values(estimate, (time.perf_counter() - begun) / len(x))}

    keep(folder, about, found)


def _said(how: Annealing | None, draws: int, passes: int) -> str:
    """A method in words."""
    if how is None:
        return f"K = {draws}"
    start = f"a normal guide with full covariance fitted in {passes} passes" if passes else "the guide"
    each = f"{how.num_chains} chains of {how.num_leapfrog} leapfrog steps at each"
    return f"{how.num_temperatures} temperatures from {start}, {each}"


def images(data: Dataset, num: int) -> Tensor:
    """Test images, evenly spread: those that `pyro-vae evaluate --num_data` takes."""
    assert data.test is not None
    return data.select("test", evenly_spread(len(data.test), num))


def values(estimate: Estimate, seconds: float) -> dict[str, Any]:
    """Both ends, the widths and the flags, with their errors."""
    interval = estimate.interval
    assert interval is not None
    lower, upper = interval.lower, interval.upper
    widths = upper.values - lower.values + CERTAIN * (lower.standard_errors + upper.standard_errors)
    share = interval.unreliable
    means = upper.mean - lower.mean + CERTAIN * (lower.standard_error_monte_carlo + upper.standard_error_monte_carlo)
    return {
        "lower": _mean(lower),
        "upper": _mean(upper),
        "width": value(widths.mean().item(), (widths.std() / len(widths) ** 0.5).item()),
        "width, largest": value(widths.max().item()),
        "width below 1.5 nats": _share((widths < 1.5).double().mean().item(), len(widths)),
        "width of the means": value(means),
        "flagged": _share(share, len(widths)),
        "seconds for an image": value(seconds),
    }


def _mean(end: Any) -> dict[str, Any]:
    return {**value(end.mean, end.standard_error_data), "monte_carlo_error": end.standard_error_monte_carlo}


def _share(share: float, n: int) -> dict[str, Any]:
    return value(share, (share * (1 - share) / n) ** 0.5)


def main(options: argparse.Namespace) -> dict[str, Any]:
    """Compute the parts that are asked for; returns and saves the result."""
    table = Table(MODELS, options, iwae_tables.SMALL)
    if options.list:
        print("\n".join(map(table.line, table.rows)))
        return {}
    return record.run(options, NAME, TITLE, {name: partial(compute, name, table) for name in METHODS})


def parser() -> argparse.ArgumentParser:
    """The options."""
    return fitted.parser(__doc__, NAME)


if __name__ == "__main__":
    record.script(main, parser())
