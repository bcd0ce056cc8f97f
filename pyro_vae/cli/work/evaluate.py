"""`pyro-vae evaluate`: log p(x) of a split by one method or by all, with errors and health."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae.cli.work.evaluate_points import report_point_guide
from pyro_vae.cli.work.evaluate_results import (
    identity,
    places_of,
    readable,
    readable_all,
    result_of,
    result_of_all,
    save,
    save_all,
)
from pyro_vae.cli.work.places import Place
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.processes import joined
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_split, open_saved
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.diagnostics.collapse import collapse_warnings
from pyro_vae.distributed import World
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.evidence.base import Estimate
from pyro_vae.evidence.methods import METHODS, estimate, options_of
from pyro_vae.messages import Progress
from pyro_vae.tasks.classification import accuracy, classify

_SHARED = ("importance", "psis", "prior")
"""Methods that several processes can share, and that are cheap enough for all data by default."""
_BY_GUIDE = ("importance", "psis")
"""Methods that fail if the guide is a point."""
FEW = 100
"""Number of data by default for the other methods: each takes hundreds or thousands of times the work of importance
sampling."""


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    if options.num_data is not None and options.num_data < 1:
        raise UsageError(f"--num_data must be at least 1, got {options.num_data}")
    with joined(options.device) as world:
        with agreed(world):
            _check(options, world)
            saved = open_saved(options, world.device)
            chosen = load_split(saved, options, _num_data(options))
        x, inputs = chosen.x, chosen.inputs
        if options.method in _BY_GUIDE and report_point_guide(saved, chosen.data, x, inputs, options, world):
            return 0
        with agreed(world):
            places = places_of(saved, options) if world.main else {}
        if options.method == "all":
            _run_all(saved, chosen, options, places)
            return 0
        found = _estimate(options.method, saved, x, inputs, options, world)
    if world.main:
        _report(saved, chosen, options, found, places)
    return 0


def _num_data(options: Namespace) -> int | None:
    return options.num_data if options.num_data is not None or options.method in _SHARED else FEW


def _check(options: Namespace, world: World) -> None:
    """Refuse options that the method does not have, before anything is read."""
    if options.method not in _SHARED and world.size > 1:
        raise UsageError(f"--method {options.method} runs in one process: start it without torchrun")
    if options.precision != "float32" and options.method not in _BY_GUIDE:
        raise UsageError(f"--precision {options.precision} is for --method importance and psis, not {options.method}")
    settable = sorted(_known(options.method) - {*_OWN, *_INNER})
    for name in options.options or {}:
        if name not in settable:
            raise UsageError(
                f"--options.{name}: --method {options.method} has no such option. "
                + (f"It is --{name}" if name in _OWN else f"Known: {', '.join(settable) or 'none'}")
            )


def _known(method: str) -> set[str]:
    """The options of a method; for `all`, those that any method has."""
    return {name for known in (METHODS if method == "all" else [method]) for name in options_of(known)}


_OWN = ("num_particles", "seed", "max_rows", "compile", "precision")
"""Options of the command that are passed to the methods that have them."""
_INNER = ("world", "progress", "max_plate_nesting")
"""Options of methods that the command line does not offer."""


def _estimate(
    method: str, saved: SavedRun, x: Tensor, inputs: Mapping[str, Any], options: Namespace, world: World
) -> Estimate:
    """Estimate log p(x) of all of `x`; the progress shown is that of the first process."""
    own = {name: getattr(options, name) for name in _OWN} | {"world": world}
    own = {name: value for name, value in (own | (options.options or {})).items() if name in _known(method)}
    text = f"K = {options.num_particles}" if method in _SHARED else method
    with Progress(len(x), "datum", enabled=world.main and not options.quiet) as bar:
        show: Callable[[int], object] = lambda done: bar.show(min(len(x), done * world.size), text)  # noqa: E731
        return estimate(method, saved.vae.model, saved.vae.guide, x, **own, progress=show, **inputs)


def _report(saved: SavedRun, chosen: Chosen, options: Namespace, found: Estimate, places: Mapping[str, Place]) -> None:
    """Print and save the result of one method."""
    data, x, inputs = chosen.data, chosen.x, chosen.inputs
    result = result_of(saved, data, x, options, found) | _default(options) | identity(saved, x, inputs)
    result |= _collapse(saved, chosen) | _classified(saved, chosen)
    print_result(result if options.json else readable(result), as_json=options.json)
    save(places, options.split, found, result)


def _collapse(saved: SavedRun, chosen: Chosen) -> dict[str, Any]:
    """The active units, and warnings of collapse; nothing for one datum, or a guide without a site of known mean."""
    if len(chosen) < 2:
        return {}
    try:
        statistics = latent_statistics(saved.vae, chosen.x, **chosen.inputs)
    except UsageError:
        return {}
    return {"active_units": str(statistics), "warnings": collapse_warnings(statistics, _beta(saved.config))}


def _classified(saved: SavedRun, chosen: Chosen) -> dict[str, Any]:
    """The accuracy of q(y|x), if the model has classes and labels are known."""
    if not saved.vae.classes or chosen.labels is None or not (chosen.labels >= 0).any():
        return {}
    vae: Any = saved.vae
    known = chosen.labels >= 0
    rows, mask = known.to(chosen.x.device), chosen.inputs.get("mask")
    found = accuracy(classify(vae, chosen.x[rows], None if mask is None else mask[rows]), chosen.labels[known])
    return {"accuracy": {"mean": found.mean, "standard_error": found.standard_error, "num_data": len(found.correct)}}


def _beta(config: dict[str, Any]) -> float | None:
    """The weight beta of the KL at the end of training; None if the objective has none."""
    objective = config.get("objective")
    beta = objective.get("init_args", {}).get("beta") if isinstance(objective, dict) else None
    beta = beta.get("init_args", {}).get("end") if isinstance(beta, dict) else beta
    return beta if isinstance(beta, int | float) else None


def _run_all(saved: SavedRun, chosen: Chosen, options: Namespace, places: Mapping[str, Place]) -> None:
    """Run every method on the same data; a method that can't do the model gets the reason in place of numbers."""
    data, x, inputs = chosen.data, chosen.x, chosen.inputs
    found: dict[str, tuple[Estimate | str, float]] = {}
    for method in METHODS:
        start = time.perf_counter()
        try:
            outcome: Estimate | str = _estimate(method, saved, x, inputs, options, World())
        except (UsageError, NumericalError) as error:
            outcome = str(error)
        found[method] = outcome, time.perf_counter() - start
    result = result_of_all(saved, data, x, options, found) | _default(options) | identity(saved, x, inputs)
    print_result(result if options.json else readable_all(result), as_json=options.json)
    save_all(places, options.split, found, result)


def _default(options: Namespace) -> dict[str, str]:
    """A note if the method is expensive and so only some data were used."""
    if _num_data(options) == options.num_data:
        return {}
    return {"note": f"{FEW} data at most, as --method {options.method} is expensive; --num_data N for others"}
