"""`pyro-vae impute`: the gaps of data filled, and how far the imputations are off where the truth is known."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.impute_results import ENDINGS, Form, column_errors, contents, readable, summary
from pyro_vae.cli.work.places import Place, wanted
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_split, open_saved
from pyro_vae.errors import UsageError
from pyro_vae.messages import Progress
from pyro_vae.process.seeding import generator
from pyro_vae.tasks.imputing import Imputed, imputation_error, impute

_LEAST_DRAWS = 19
"""Of an interval of 90 %."""


@dataclass(frozen=True)
class Gappy:
    """Data with gaps.

    Args:
        chosen: the data.
        mask: which elements are observed and not hidden, `[N, *event]`.
        hidden: which were observed and are hidden, `[N, *event]`.
        inputs: further inputs of the programs, by name.
    """

    chosen: Chosen
    mask: Tensor
    hidden: Tensor
    inputs: dict[str, Any]


def run(options: Namespace) -> int:
    """Run `pyro-vae impute` with its options; returns the exit code."""
    _check(options)
    saved = _with_missing(open_saved(options), options.missing)
    place = _place(saved, options)
    data = _gappy(saved, options)
    imputed = _imputed(saved, data, options)
    error = imputation_error(imputed, data.chosen.x, data.hidden) if options.hide else None
    protocol = {"run": str(saved.path), "data": data.chosen.data.protocol, "split": options.split}
    settings = {name: getattr(options, name) for name in ("num_draws", "num_particles", "method", "seed")}
    of_columns = column_errors(saved.table, imputed, data.chosen.x, data.hidden) if options.hide else {}
    result = {**protocol, "weights": saved.weights, **settings, **summary(imputed, error), **of_columns}
    shown = result if options.json else readable(result)
    print_result({**shown, "saved": str(place.path)}, options.json)
    truth = torch.where(data.mask | data.hidden, data.chosen.x, torch.nan).cpu() if options.hide else None
    rows = ("all" if saved.table is None else "best") if options.rows == "auto" else options.rows
    place.write(contents(place.path.suffix, imputed, truth, Form(saved.table, rows == "all")))
    return 0


def _check(options: Namespace) -> None:
    """Refuse what makes no sense, before anything is read."""
    if not 0 <= options.hide < 1:
        raise UsageError(f"--hide: expected a share of the observed elements, from 0 to below 1, got {options.hide}")
    if options.hide and options.num_draws < _LEAST_DRAWS:
        raise UsageError(
            f"--hide measures intervals of 90 %, which take --num_draws {_LEAST_DRAWS} at least, got "
            f"{options.num_draws}"
        )


def _with_missing(saved: SavedRun, missing: Any) -> SavedRun:
    """The run, whose data are read with another sign of a gap if one is given."""
    return saved if missing is None else replace(saved, config={**saved.config, "missing": missing})


def _place(saved: SavedRun, options: Namespace) -> Place:
    """The file for the result, checked that it can be written."""
    event, of_data = saved.vae.shapes.event, [] if options.data is None else [Path(options.data).stem]
    name = "-".join(["imputed", *of_data, options.split, f"hide{options.hide:g}", f"seed{options.seed}"])
    drawable = _is_image(event) or options.hide > 0
    place = wanted(options.out, saved.path, f"pictures/{name}.png" if drawable else f"{name}.csv")
    if place.path.suffix not in ENDINGS:
        raise UsageError(f"--out must end in {', '.join(ENDINGS)}, got {place.path.name!r}")
    if place.path.suffix == ".png" and not drawable:
        raise UsageError(
            f"--out {place.path.name}: the picture of data of shape {event} compares with the truth: hide some "
            "observed elements (--hide 0.2), or give a file ending in .npz or .csv"
        )
    place.check()
    return place


def _is_image(event: tuple[int, ...]) -> bool:
    return len(event) > 1 and plots.drawable(event)


def _gappy(saved: SavedRun, options: Namespace) -> Gappy:
    """The data, with what is hidden of them."""
    chosen = load_split(saved, options, options.num)
    inputs = dict(chosen.inputs)
    mask = inputs.pop("mask", None)
    observed = torch.ones_like(chosen.x, dtype=torch.bool) if mask is None else mask.bool().expand(chosen.x.shape)
    noise = torch.rand(observed.shape, generator=generator(options.seed, "hide"))
    hidden = observed & (noise < options.hide).to(observed.device)
    mask = observed & ~hidden
    if mask.all():
        few = f"--hide {options.hide:g} of {prod(mask.shape)} elements hides none: give a larger share"
        raise UsageError(
            few if options.hide else "the data have no gaps: give others by --data, or hide some: --hide 0.2"
        )
    return Gappy(chosen, mask, hidden, inputs)


def _imputed(saved: SavedRun, data: Gappy, options: Namespace) -> Imputed:
    with Progress(len(data.chosen), "datum", enabled=not options.quiet) as bar:
        return impute(
            saved.vae,
            data.chosen.x,
            data.mask,
            options.num_draws,
            method=options.method,
            num_particles=options.num_particles,
            seed=options.seed,
            progress=lambda done: bar.show(min(done, len(data.chosen)), "imputing"),
            **data.inputs,
        )
