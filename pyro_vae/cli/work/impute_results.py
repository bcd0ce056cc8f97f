"""What `pyro-vae impute` prints and saves."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.outputs import as_csv
from pyro_vae.data import Table
from pyro_vae.runs.files import packed
from pyro_vae.statistics.averages import number, standard_error
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
    columns = _column_lines(r.pop("columns", {}))
    errors = _error_lines(r.pop("error", None))
    if columns:  # their units differ, and levels have none: what mixes them is no number to read
        errors = {name: text for name, text in errors.items() if name not in ("RMSE", "CRPS")}
    return {**first, **lines, **errors, **columns, **r}


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


@dataclass(frozen=True)
class Form:
    """The form of a .csv.

    Args:
        table: the columns; None for data without names.
        with_draws: whether to write the draws too, below the best values.
    """

    table: Table | None
    with_draws: bool


def column_errors(table: Table | None, imputed: Imputed, truth: Tensor, hidden: Tensor) -> dict[str, Any]:
    """How far the best values of each column of a table are off where they were hidden; nothing without a table."""
    if table is None:
        return {}
    off, hidden = imputed.best.double() - truth.cpu().double(), hidden.cpu()
    each = zip(table.columns, off.unbind(1), hidden.unbind(1), strict=True)
    found = {c.name: _error_of(bool(c.levels) or c.kind == "binary", values[at]) for c, values, at in each if at.any()}
    return {"columns": found}


def _error_of(has_levels: bool, off: Tensor) -> dict[str, Any]:
    """The share of wrong levels, or the root mean squared error, with its standard error."""
    values = (off.abs() > 0.5).double() if has_levels else off.square()
    mean, error = values.mean().item(), standard_error(values)
    root = mean**0.5
    of_root = error / (2 * root) if root else 0.0
    named = {"wrong": mean, "wrong_error": error} if has_levels else {"rmse": root, "rmse_error": of_root}
    return {"num_elements": len(off), **named}


def _column_lines(columns: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, e in columns.items():
        if "wrong" in e:
            text = f"{e['wrong']:.1%} wrong (se {number(100 * e['wrong_error'], '.1f')} %)"
        else:
            text = f"RMSE {e['rmse']:.4g} (se {number(e['rmse_error'], '.2g')})"
        found[f"hidden {name}"] = f"{text}, of {e['num_elements']} values"
    return found


def contents(ending: str, imputed: Imputed, truth: Tensor | None, form: Form) -> bytes:
    """The file, by its ending."""
    if ending == ".png":
        return plots.encoded(plots.imputations(imputed, truth))
    if ending == ".npz":
        return packed(_arrays(imputed, truth))
    filled = [imputed.best, *(imputed.draws if form.with_draws else ())]
    return _unnamed(filled, form.with_draws) if form.table is None else _named(form.table, filled, form.with_draws)


def _arrays(imputed: Imputed, truth: Tensor | None) -> dict[str, Tensor]:
    """What is known of each datum, by name."""
    names = ("draws", "best", "sd", "mask", "ess", "flagged")
    further = {"pareto_k": imputed.pareto_k, "truth": truth}
    latents = {f"latent_{name}": value for name, value in imputed.codes.draws.items()}
    found = {**{name: getattr(imputed, name) for name in names}, **further, **latents}
    return {name: value for name, value in found.items() if value is not None}


def _named(table: Table, filled: Sequence[Tensor], numbered: bool) -> bytes:
    """The table itself; numbered, one below the other: imputation 0 has the best values, 1 and so on the draws."""
    if not numbered:
        return as_csv(table, filled[0])
    import pandas as pd

    frames = [table.frame(x) for x in filled]
    joined = pd.concat(frames, keys=range(len(frames)), names=["imputation", "row"]).reset_index()
    return joined.to_csv(index=False, lineterminator="\n").encode()


def _unnamed(filled: Sequence[Tensor], numbered: bool) -> bytes:
    """The same for data without names: their elements are x1, x2, and so on."""
    text, size = io.StringIO(), filled[0][0].numel()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(["imputation", "row"] if numbered else []), *(f"x{n}" for n in range(1, size + 1))])
    for imputation, x in enumerate(filled):
        rows = x.flatten(1)
        shortest = rows.numpy() if rows.dtype != torch.bfloat16 else rows.float().numpy()
        for row, values in enumerate(shortest):
            writer.writerow([*([imputation, row] if numbered else []), *map(str, values)])
    return text.getvalue().encode()
