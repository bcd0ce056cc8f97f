"""What `pyro-vae impute` prints and saves."""

import csv
import io
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.runs.files import packed
from pyro_vae.statistics.averages import number
from pyro_vae.tasks.imputing import ImputationError, Imputed

ENDINGS = (".png", ".npz", ".csv")
"""Of the file: a picture, arrays, a table."""


def summary(imputed: Imputed, error: ImputationError | None) -> dict[str, Any]:
    """All numbers."""
    missing = (~imputed.mask).double()
    found: dict[str, Any] = {
        "num_data": len(imputed.mask),
        "missing": missing.mean().item(),
        "sd": (imputed.sd.double().sum() / missing.sum()).item(),
        "ess_median": imputed.ess.median().item(),
        "unreliable": imputed.unreliable,
    }
    return found if error is None else {**found, "error": asdict(error)}


def readable(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result for readers: with units, and each error next to its number."""
    r = dict(result)
    first = {name: r.pop(name) for name in ("run", "data", "split", "weights")}
    draws, particles = r.pop("num_draws"), r.pop("num_particles")
    lines = {
        "imputed": f"{r.pop('missing'):.2%} of the elements of {r.pop('num_data')} data, {draws} draws each",
        "method": f"{r.pop('method')}, K = {particles} draws, seed {r.pop('seed')}",
        "standard deviation": f"{r.pop('sd'):.4g} on average, in the unit of the data",
        "median ESS": f"{r.pop('ess_median'):.0f}",
        "flagged": f"{r.pop('unreliable'):.1%} of the data: their imputations are not to be trusted",
    }
    return {**first, **lines, **_error_lines(r.pop("error", None)), **r}


def _error_lines(e: Mapping[str, Any] | None) -> dict[str, str]:
    if e is None:
        return {}
    level = f"{e['level']:.0%}"
    return {
        "hidden": f"{e['num_elements']} elements, whose truth is known",
        "RMSE": f"{e['rmse']:.4f} (se {number(e['rmse_error'], '.4f')}), of the best values",
        "coverage": f"{e['coverage']:.2%} (se {e['coverage_error']:.2%}), of intervals of {level}",
        "CRPS": f"{e['crps']:.4f} (se {number(e['crps_error'], '.4f')}), of the draws",
    }


def contents(ending: str, imputed: Imputed, truth: Tensor | None) -> bytes:
    """The file, by its ending."""
    if ending == ".png":
        return plots.encoded(plots.imputations(imputed, truth))
    return packed(_arrays(imputed, truth)) if ending == ".npz" else _table(imputed)


def _arrays(imputed: Imputed, truth: Tensor | None) -> dict[str, Tensor]:
    """What is known of each datum, by name."""
    names = ("draws", "best", "sd", "mask", "ess", "flagged")
    further = {"pareto_k": imputed.pareto_k, "truth": truth}
    latents = {f"latent_{name}": value for name, value in imputed.codes.draws.items()}
    found = {**{name: getattr(imputed, name) for name in names}, **further, **latents}
    return {name: value for name, value in found.items() if value is not None}


def _table(imputed: Imputed) -> bytes:
    """A row for each datum and imputation: 0 has the best values, 1 and so on the draws."""
    text, size = io.StringIO(), imputed.best[0].numel()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["imputation", "row", *(f"x{n}" for n in range(1, size + 1))])
    for imputation, filled in enumerate([imputed.best, *imputed.draws]):
        rows = filled.flatten(1)
        shortest = rows.numpy() if rows.dtype != torch.bfloat16 else rows.float().numpy()
        writer.writerows([imputation, row, *map(str, values)] for row, values in enumerate(shortest))
    return text.getvalue().encode()
