"""`pyro-vae compare`: runs ranked by log p(x) of the same data, with the errors of the differences."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.streams import say
from pyro_vae.cli.work.places import Place
from pyro_vae.cli.work.printing import table
from pyro_vae.cli.work.saved_runs import SavedRun, load_split, open_saved
from pyro_vae.data import Dataset
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.diagnostics.comparison import Comparison, compare
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.messages import Progress, finite
from pyro_vae.runs.saved_evidence import read_saved

_COLUMNS = ("log_p", "standard_error", "ess", "pareto_k", "elbo")


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    _check(options)
    place = None if options.out is None else Place(Path(options.out))
    if place is not None:
        place.check()
    runs = [_open(options, path) for path in options.runs]
    for other in runs[1:]:
        _check_same(runs[0], other)
    found, reused = {}, []
    for entry in runs:
        saved = _saved_evidence(entry, options)
        found[entry.name] = _estimate(entry, options) if saved is None else saved
        reused += [] if saved is None else [entry.name]
    comparison = compare(found)
    _report(comparison, runs[0].data, reused, options)
    if place is not None:
        place.write(plots.encoded(plots.comparison(comparison)))
    return 0


@dataclass(frozen=True)
class _Entry:
    """A run, and the data that it is compared on."""

    name: str
    saved: SavedRun
    data: Dataset
    x: Tensor
    inputs: dict[str, Any]

    @property
    def data_sha256(self) -> str:
        return fingerprint(self.x, **self.inputs)


def _check(options: Namespace) -> None:
    paths = [Path(path).resolve() for path in options.runs]
    if len(set(paths)) != len(paths) or len(paths) < 2:
        raise UsageError(f"compare needs two or more different runs, got {' '.join(options.runs)}")
    if options.num_data is not None and options.num_data < 1:
        raise UsageError(f"--num_data must be at least 1, got {options.num_data}")
    if options.out is not None and Path(options.out).suffix != ".png":
        raise UsageError(f"--out must end in .png, got {options.out!r}")


def _open(options: Namespace, path: str) -> _Entry:
    saved = open_saved(options, run=path)
    chosen = load_split(saved, options, options.num_data)
    return _Entry(path, saved, chosen.data, chosen.x, chosen.inputs)


def _check_same(first: _Entry, other: _Entry) -> None:
    """Refuse runs whose log p(x) can't be compared: other data, another c, or a density and a probability."""
    if first.x.shape != other.x.shape or not _same_values(first.x, other.x):
        raise UsageError(
            f"log p(x) of different data can't be compared: {first.name} has {first.data.protocol}, and {other.name} "
            f"has {other.data.protocol}; fit both to data prepared the same way, or give the same by --data"
        )
    if first.data_sha256 != other.data_sha256:
        names = [", ".join(entry.inputs) or "nothing" for entry in (first, other)]
        raise UsageError(
            f"log p(x|c) given different c can't be compared: {first.name} is given {names[0]} in addition to x, and "
            f"{other.name} {names[1]}"
        )
    kinds = {
        entry.name: "a probability" if entry.saved.vae.likelihood.discrete else "a density" for entry in (first, other)
    }
    if len(set(kinds.values())) > 1:
        found = ", ".join(f"that of {name} is {kind}" for name, kind in kinds.items())
        raise UsageError(f"a density and a probability have no unit in common: p(x|z) {found}")


def _same_values(first: Tensor, other: Tensor) -> bool:
    """Whether the values are equal; nan, where nothing was observed, equals nan."""
    return bool(((first == other) | (first.isnan() & other.isnan())).all())


def _saved_evidence(entry: _Entry, options: Namespace) -> Evidence | None:
    """The evidence that `evaluate` saved for the same data, weights, K and seed; None if there is none."""
    saved = read_saved(entry.saved.path, options.split, _COLUMNS)
    if saved is None:
        return None
    summary, columns = saved
    expected = {"num_particles": options.num_particles, "seed": options.seed, "data_sha256": entry.data_sha256}
    expected |= {"weights_sha256": entry.saved.weights_sha256}
    same = all(summary.get(name) == value for name, value in expected.items())
    if not same or summary.get("method", "importance") != "importance" or len(columns[0]) != len(entry.x):
        return None
    return Evidence(*columns, num_particles=options.num_particles, seed=options.seed, data=entry.data_sha256)


def _estimate(entry: _Entry, options: Namespace) -> Evidence:
    vae, x = entry.saved.vae, entry.x
    with Progress(len(x), "datum", enabled=not options.quiet) as bar:
        try:
            return log_marginal(
                vae.model,
                vae.guide,
                x,
                num_particles=options.num_particles,
                seed=options.seed,
                max_rows=options.max_rows,
                progress=lambda done: bar.show(done, entry.name),
                **entry.inputs,
            )
        except UsageError as error:
            raise UsageError(f"{entry.name}: {error}") from error


def _report(comparison: Comparison, data: Dataset, reused: Sequence[str], options: Namespace) -> None:
    protocol = {"data": data.protocol, "split": options.split, "num_particles": options.num_particles}
    result = {**protocol, "seed": options.seed, "num_data": comparison.num_data, "reused": list(reused)}
    picture = {} if options.out is None else {"saved": options.out}
    if options.json:
        say(json.dumps(finite({**result, **comparison.summary(), **picture}), indent=1))
        return
    shown = {**result, "reused": ", ".join(reused) or "nothing: all estimated now", **picture}
    say(f"{table(shown)}\n\n{comparison}\n\n{_verdict(comparison)}")


def _verdict(comparison: Comparison) -> str:
    """The conclusion from the table in words, and which estimates are doubtful."""
    close = [model.name for model in comparison.models[1:] if not model.is_worse]
    lines = [f"best: {comparison.best}; nats per datum, differences and their errors from it, by pairs"]
    if close:
        lines.append(f"within two standard errors of it: {', '.join(close)}")
    doubted = [f"{m.name} ({m.flagged:.1%})" for m in comparison.models if m.flagged > 0]
    if doubted:
        lines.append(
            f"flagged data (k-hat too high), so possibly underestimated: {', '.join(doubted)}; take more draws"
        )
    return "\n".join(lines)
