"""`pyro-vae sample` and `pyro-vae reconstruct`: pictures or arrays from a trained VAE."""

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.draws import NUM, Drawn, cycled, full_rows, of_classes, of_each_class
from pyro_vae.cli.work.outputs import output_of, save_output
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import DataSettings, SavedRun, load_split, open_saved
from pyro_vae.errors import UsageError
from pyro_vae.tasks.generation import reconstruct, sample


def run_sample(options: Namespace) -> int:
    """Run `pyro-vae sample` with its options; returns the exit code."""
    if options.num is not None and options.num < 1:
        raise UsageError(f"--num must be at least 1, got {options.num}")
    saved = open_saved(options)
    options.num = options.num or _default_num(saved, options)
    shown = _given(saved, options)
    context = {"context": "each" if options.context is None else options.context} if shown.given else {}
    place = output_of(saved, options, "samples", *(f"context{value}" for value in context.values()))
    drawn = sample(saved.vae, options.num, seed=options.seed, **shown.given)
    result = {"weights": saved.weights, "num": options.num, "seed": options.seed}
    print_result({**result, **context, "saved": str(place.path)}, options.json)
    given = {"context" if name == "c" else name: value for name, value in shown.given.items()}  # as in data files
    arrays = {**drawn.latents, "mean": drawn.mean, "x": drawn.x, **given}
    draw = lambda: plots.samples(drawn, columns=shown.columns, labels=shown.labels)  # noqa: E731
    save_output(place, arrays, draw, saved.table, drawn.x)
    return 0


def _default_num(saved: SavedRun, options: Namespace) -> int:
    """64, or enough to fill the last row if each row has one draw of each class."""
    each = _is_conditional(saved) and options.context in (None, "each")
    return full_rows(_num_classes(saved), NUM) if each else NUM


def _given(saved: SavedRun, options: Namespace) -> Drawn:
    """The inputs of the draws, and how they are shown."""
    if not _is_conditional(saved):
        if options.context is not None:
            raise UsageError("--context: this run knows neither classes nor another context, so leave it out")
        return Drawn({})
    if options.context == "data":
        return Drawn({"c": _contexts_of_data(saved, options)})
    classes = _num_classes(saved)
    if options.context in (None, "each"):
        return of_each_class(saved.vae, classes, options.num)
    if not 0 <= options.context < classes:
        raise UsageError(f"--context {options.context}: expected a class from 0 to {classes - 1}, 'each' or 'data'")
    return of_classes(saved.vae, cycled(torch.tensor([options.context]), options.num))


def _contexts_of_data(saved: SavedRun, options: Namespace) -> Tensor:
    """The contexts of the first data, repeated if there are fewer data than draws."""
    context = load_split(saved, options, options.num).inputs.get("c")
    if context is None:
        raise UsageError("--context data: in this run a class is drawn, not given by the data: pass a class or 'each'")
    return cycled(context, options.num)


def _is_conditional(saved: SavedRun) -> bool:
    """Whether draws can be of a class or given a context."""
    return bool(saved.vae.classes) or saved.vae.shapes.context is not None


def _num_classes(saved: SavedRun) -> int:
    if saved.vae.classes:
        return saved.vae.classes
    if DataSettings.of(saved.config).context != "labels":
        raise UsageError("this run is not conditioned on labels, so there is no class to draw: pass --context data")
    assert saved.vae.shapes.context is not None
    return saved.vae.shapes.context[0]


def run_reconstruct(options: Namespace) -> int:
    """Run `pyro-vae reconstruct` with its options; returns the exit code."""
    saved = open_saved(options)
    chosen = load_split(saved, options, options.num)
    data, x = chosen.data, chosen.x
    place = output_of(saved, options, "reconstructions", options.split)
    mean = reconstruct(saved.vae, x, num_particles=options.num_particles, seed=options.seed, **chosen.inputs)
    observed = chosen.inputs.get("mask", torch.ones_like(x, dtype=torch.bool))
    error = (x - mean.to(x.device))[observed].square().mean().item()
    result = {
        "data": data.protocol,
        "split": options.split,
        "weights": saved.weights,
        "num": len(x),
        "seed": options.seed,
    }
    print_result({**result, "mean_squared_error": error, "saved": str(place.path)}, options.json)
    save_output(place, {"x": x, "mean": mean}, lambda: plots.reconstructions(x, mean), saved.table, mean)
    return 0
