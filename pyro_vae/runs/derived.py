"""A run directory made from another one: a trained autoencoder with a part replaced, and the run it comes from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from pyro_vae.runs.describing import describe, vae_parts
from pyro_vae.runs.directory import Run
from pyro_vae.runs.formats import MADE_BY
from pyro_vae.runs.state import State
from pyro_vae.runs.texts import read_config, read_manifest


class Derived:
    """A run directory for another run with some of its parts replaced.

    Args:
        run: the directory, open.
        source: manifest of the source run.
    """

    def __init__(self, run: Run, source: Mapping[str, Any]) -> None:
        self.run, self.source = run, source

    def save(self, vae: nn.Module) -> None:
        """Write the weights; from then on the directory holds a run, with the training progress of its source."""
        kept = {name: self.source["progress"].get(name) for name in ("epoch", "step", "best_epoch", "data")}
        self.run.save(State(vae.state_dict(), {}, {}, kept))


@contextmanager
def derived_run(
    source: str | Path, out: str | Path, parts: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[Derived]:
    """Open the run directory of a derived run before the work begins, so that errors of writing come at once.

    Its config is that of the source, with the parts replaced, and an entry `refit` with the source, the sha256 of its
    weights, the replaced parts and the settings. By this entry `pyro-vae fit --config` knows that it is not the config
    of a training.

    Args:
        source: the run directory of the source; it is only read.
        out: the new run directory. If it holds the same run from an earlier call, it is written again.
        parts: the new parts of the autoencoder, by the name of its argument: classes, or partials of them.
        settings: how the parts are made, as plain data.

    Raises:
        CheckpointError: if `source` holds no run, or `out` is in use or holds another run (also if it is the source).
        UsageError: for a part that can't be described.
    """
    config, manifest = read_config(Path(source)), read_manifest(Path(source))
    cls, arguments = vae_parts(config.get("vae", {}))
    new = {**arguments, **{name: describe(part) for name, part in parts.items()}}
    config["vae"] = {"class_path": cls, "init_args": new} if "class_path" in config["vae"] else new
    which = "best" if manifest["progress"].get("best_epoch") else "weights"  # what `load` takes
    record = {"run": str(Path(source).resolve()), "weights": manifest["files"][which]["sha256"], **settings}
    record["replaced"] = {name: arguments.get(name) for name in parts}
    run = Run(out, {**config, MADE_BY: record}, rewritten=True)
    try:
        yield Derived(run, manifest)
    finally:
        run.close()
