"""`pyro-vae sample` and `pyro-vae reconstruct`: pictures, or arrays, out of a trained VAE."""

from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.draws import COLUMNS, columns, cycled, of_classes
from pyro_vae.cli.options import reconstruct_parser, sample_parser
from pyro_vae.cli.parsing import parse
from pyro_vae.cli.runs import SavedRun, load_split, open_saved, save_result
from pyro_vae.cli.tables import print_result
from pyro_vae.errors import UsageError
from pyro_vae.run_files import packed
from pyro_vae.semi_supervised import SemiSupervisedVAE
from pyro_vae.tasks import reconstruct, sample


def run_sample(argv: list[str]) -> int:
    """Run `pyro-vae sample` with its arguments; returns the exit code."""
    options = parse(sample_parser(), argv)
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, got {options.num}")
    saved = open_saved(options)
    given, across = _given(saved, options)
    drawn = sample(saved.vae, options.num, seed=options.seed, **given)
    path = _output(saved, options.out, "samples")
    arrays = {**drawn.latents, "mean": drawn.mean, "x": drawn.x, **given}
    _save(saved, options.out, path, arrays, lambda: plots.samples(drawn, columns=across))
    result = {"weights": saved.weights, "num": options.num, "seed": options.seed}
    told = {"context": "each" if options.context is None else options.context} if given else {}
    print_result({**result, **told, "saved": str(path)}, options.json)
    return 0


def _given(saved: SavedRun, options: Namespace) -> tuple[dict[str, Tensor], int]:
    """What the draws are given, by name, one for each, and the columns to show them in."""
    if saved.vae.shapes.context is None:
        if options.context is not None:
            raise UsageError("--context: this run knows neither classes nor another context, so leave it out")
        return {}, COLUMNS
    if options.context == "data":
        return {"context": _contexts_of_data(saved, options)}, COLUMNS
    classes = _num_classes(saved)
    if options.context in (None, "each"):
        return of_classes(saved.vae, cycled(torch.arange(classes), options.num)), columns(classes)
    if not 0 <= options.context < classes:
        raise UsageError(f"--context {options.context}: expected a class from 0 to {classes - 1}, 'each' or 'data'")
    return of_classes(saved.vae, cycled(torch.tensor([options.context]), options.num)), COLUMNS


def _contexts_of_data(saved: SavedRun, options: Namespace) -> Tensor:
    """The contexts of the first data, over and over where they are fewer than the draws."""
    context = load_split(saved, options, options.num).inputs.get("c")
    if context is None:
        raise UsageError("--context data: in this run a class is drawn, not given by the data: pass a class or 'each'")
    return cycled(context, options.num)


def _num_classes(saved: SavedRun) -> int:
    if isinstance(saved.vae, SemiSupervisedVAE):
        return saved.vae.classes
    if saved.config.get("context") != "labels":
        raise UsageError("this run is not conditioned on labels, so there is no class to draw: pass --context data")
    assert saved.vae.shapes.context is not None
    return saved.vae.shapes.context[0]


def run_reconstruct(argv: list[str]) -> int:
    """Run `pyro-vae reconstruct` with its arguments; returns the exit code."""
    options = parse(reconstruct_parser(), argv)
    saved = open_saved(options)
    chosen = load_split(saved, options, options.num)
    data, x = chosen.data, chosen.x
    mean = reconstruct(saved.vae, x, num_particles=options.num_particles, seed=options.seed, **chosen.inputs)
    path = _output(saved, options.out, "reconstructions")
    _save(saved, options.out, path, {"x": x, "mean": mean}, lambda: plots.reconstructions(x, mean))
    error = (x - mean).square().mean().item()
    result = {
        "data": data.protocol,
        "split": options.split,
        "weights": saved.weights,
        "num": len(x),
        "seed": options.seed,
    }
    print_result({**result, "mean_squared_error": error, "saved": str(path)}, options.json)
    return 0


def _output(saved: SavedRun, out: str | None, name: str) -> Path:
    path = saved.path / "pictures" / f"{name}.png" if out is None else Path(out)
    if path.suffix not in (".png", ".npz"):
        raise UsageError(f"--out must end in .png (a picture) or .npz (arrays), got {path.name!r}")
    return path


def _save(saved: SavedRun, out: str | None, path: Path, arrays: dict[str, Tensor], draw: Any) -> None:
    as_picture = path.suffix == ".png"
    data = plots.encoded(draw()) if as_picture else packed({name: value.cpu() for name, value in arrays.items()})
    save_result(saved, out, path, data)
