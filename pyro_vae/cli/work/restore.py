"""`pyro-vae restore`: data from what was observed of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.channels import Channel
from pyro_vae.cli.parsing import named
from pyro_vae.cli.work.outputs import output_of, save_output
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_split, open_saved
from pyro_vae.data.sources.numpy_files import read_npy
from pyro_vae.data.storage import check_real, to_floats
from pyro_vae.errors import UsageError
from pyro_vae.messages import remark
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import resolve
from pyro_vae.tasks.restored import Restored
from pyro_vae.tasks.restoring import restore
from pyro_vae.tasks.strength import Strength, infer_strength


def run(options: Namespace) -> int:
    """Run `pyro-vae restore` with its options; returns the exit code."""
    if options.channel is None:
        raise UsageError("--channel: expected a class, got null: name one, or leave it out for Missing")
    with _about(f"--channel {options.channel.class_path.rpartition('.')[2]}"):
        channel: Channel = resolve(options.channel.as_dict(), named(options.channel))
    if options.num < 1:
        raise UsageError(f"--num must be at least 1, got {options.num}")
    grid = _grid(channel, options.strengths)
    saved = open_saved(options)
    place = output_of(saved, options, "restored", _slug(channel))
    y, truth, given, about = _observed(saved, options, channel)
    found = _strength(saved, y, grid, options, given) if grid else None
    channel = found.best if found is not None else channel
    restored = _restored(saved, y, truth, channel, options, given)
    result = {**about, "weights": saved.weights, "channel": str(channel), **_settings(options, len(y)), **_told(found)}
    print_result({**result, **restored.summary(), "saved": str(place.path)}, options.json)
    draw = lambda: plots.restorations(_first(restored), y[:_SHOWN])  # noqa: E731
    save_output(place, _arrays(restored, y), draw, saved.table, _best(restored, saved))
    return 0


def _best(restored: Restored, saved: SavedRun) -> Tensor:
    """A row for each datum: means, but of a category of a table the level that was drawn most often."""
    columns = () if saved.table is None else saved.table.columns
    unordered = torch.tensor([column.kind == "category" for column in columns])
    return torch.where(unordered, restored.draws.mode(0).values, restored.mean) if columns else restored.mean


_SHOWN = 16
"""Data in a picture."""


def _slug(channel: Channel) -> str:
    values = [str(getattr(channel, field.name)) for field in fields(channel)]  # pyright: ignore[reportArgumentType]
    return "-".join([type(channel).__name__.lower(), *(v for v in values if len(v) < 20 and "/" not in v)])


def _grid(channel: Channel, text: str | None) -> list[Channel]:
    """The channels that `--strengths` asks for."""
    if text is None:
        return []
    name, _, values = text.partition("=")
    known = [field.name for field in fields(channel)]  # pyright: ignore[reportArgumentType]
    if name not in known:
        raise UsageError(
            f"--strengths {text}: expected OPTION=VALUE,VALUE,... with an option of {type(channel).__name__}: "
            f"{', '.join(known)}"
        )
    try:
        numbers = [float(value) for value in values.split(",")]
    except ValueError:
        raise UsageError(f"--strengths {text}: expected numbers after {name}=, separated by commas") from None
    with _about(f"--strengths {text}"):
        numbers = [whole if isinstance(getattr(channel, name), int) and (whole := int(v)) == v else v for v in numbers]
        return [replace(channel, **{name: value}) for value in sorted(numbers)]  # pyright: ignore[reportArgumentType]


@contextmanager
def _about(typed: str) -> Iterator[None]:
    """What a channel says of its own fields, after the words that gave them."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{typed}: {error}") from error


def _observed(
    saved: SavedRun, options: Namespace, channel: Channel
) -> tuple[Tensor, Tensor | None, dict[str, Tensor], dict[str, Any]]:
    """y, the truth where it is known, further inputs of the programs, and what to print of them."""
    if options.observed is None:
        chosen: Chosen = load_split(saved, options, options.num)
        inputs = {name: value for name, value in chosen.inputs.items() if name != "mask"}
        y = _drawn(saved, chosen, channel, options.seed)
        return y, chosen.x, inputs, {"data": chosen.data.protocol, "split": options.split}
    if saved.vae.shapes.context is not None:
        raise UsageError("--observed: this run is conditioned on a context, which a file of observations lacks")
    array = read_npy(Path(options.observed))
    check_real(f"--observed {options.observed}", array)
    return to_floats(array[: options.num]).to(saved.device), None, {}, {"data": f"observations of {options.observed}"}


def _drawn(saved: SavedRun, chosen: Chosen, channel: Channel, seed: int) -> Tensor:
    """Data seen through the channel; what was never observed of x is not observed of y either."""
    mask = chosen.inputs.get("mask")
    with seeded(seed, "observe"):
        y = channel.draw(saved.vae.likelihood.filled(chosen.x, mask))
    if mask is None:
        return y
    if y.shape != chosen.x.shape:
        raise UsageError(
            f"--channel {type(channel).__name__}: its observations mix elements of x, so it needs complete data, and "
            f"{chosen.data.name} has gaps: take a channel that sees each element alone, such as Missing or BitFlip"
        )
    return y.masked_fill(~mask, torch.nan)


def _restored(
    saved: SavedRun, y: Tensor, truth: Tensor | None, channel: Channel, options: Namespace, given: dict[str, Any]
) -> Restored:
    sampling = {name: getattr(options, name) for name in ("num_draws", "num_particles", "method", "seed")}
    return restore(saved.vae, y, channel, truth=truth, progress=_Methods(len(y)), **sampling, **given)


class _Methods:
    """Says which method is at work, and on how many data."""

    def __init__(self, num: int) -> None:
        self.num, self.last = num, ""

    def __call__(self, method: str, done: int) -> None:
        if method != self.last:
            remark(_WORDS[method])
            self.last = method


_WORDS = {
    "encoder": "drawing z by the encoder",
    "refining": "refining q(z|y) for the data whose draws are not healthy",
    "refined": "drawing z by the refined guide",
    "gibbs": "drawing z and x in turn, by Metropolis-within-Gibbs, for the data whose draws are not healthy",
    "hmc": "drawing z by Hamiltonian Monte Carlo for the data whose draws are still not healthy",
}


def _strength(saved: SavedRun, y: Tensor, grid: list[Channel], options: Namespace, given: dict[str, Any]) -> Strength:
    remark(f"inferring the strength over {len(grid)} values")
    how = {"num_particles": options.num_particles, "seed": options.seed}
    by = "weights" if options.method in ("encoder", "refined") else "auto"  # chains only where they were not ruled out
    return infer_strength(saved.vae, y, grid, method=by, **how, **given)


def _settings(options: Namespace, num: int) -> dict[str, Any]:
    return {"num": num, **{name: getattr(options, name) for name in ("num_draws", "num_particles", "seed")}}


def _told(found: Strength | None) -> dict[str, Any]:
    """The posterior of the strength."""
    if found is None:
        return {}
    low, high = found.interval()
    table = {str(channel): round(p, 6) for channel, p in zip(found.channels, found.probabilities.tolist(), strict=True)}
    flagged = {"strength_flagged": found.flagged}
    return {"strength_interval_90": [str(low), str(high)], "strength_probabilities": table, **flagged}


def _first(restored: Restored) -> Restored:
    """The data that a picture shows."""
    rows = slice(_SHOWN)
    truth = None if restored.truth is None else restored.truth[rows]
    return replace(restored, draws=restored.draws[:, rows], mean=restored.mean[rows], sd=restored.sd[rows], truth=truth)


def _arrays(restored: Restored, y: Tensor) -> dict[str, Tensor]:
    low, high = restored.interval()
    names = ("draws", "mean", "sd", "used", "ess", "pareto_k", "flagged", "log_p", "log_p_standard_error", "known")
    truth = {} if restored.truth is None else {"truth": restored.truth}
    latents = {f"latent_{name}": value for name, value in restored.latents.items()}
    return {"y": y, "lower_90": low, "upper_90": high, **{n: getattr(restored, n) for n in names}, **truth, **latents}
