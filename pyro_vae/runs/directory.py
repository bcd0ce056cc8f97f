"""A run directory that is being written or resumed: its state, its lock, and whether its settings agree."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from pyro_vae.arguments.remedies import spoken
from pyro_vae.errors import CheckpointError
from pyro_vae.runs import files as run_files
from pyro_vae.runs.describing import with_defaults
from pyro_vae.runs.formats import (
    KINDS,
    TENSORS,
    format_metrics,
)
from pyro_vae.runs.loading import read_tensors
from pyro_vae.runs.locking import lock
from pyro_vae.runs.safe_yaml import dump_yaml, load_yaml
from pyro_vae.runs.state import MISFIT, State, tensor_bytes
from pyro_vae.runs.texts import FORMAT, read_config, read_manifest, read_metrics

_TEMPORARY = r"(?:[0-9a-f]{12}\.)?tmp"


_SWEPT = re.compile(rf"{TENSORS}|\.(?:{TENSORS}|config\.yaml|metrics\.csv|manifest\.json)\.{_TEMPORARY}")
"""Files that may be deleted: those that only a save writes. All other files in the directory are the user's."""


_UNSAVED = re.compile(rf"(?:{'|'.join(KINDS)})-0+-0+\.safetensors")
"""Files that a training may leave if it ends before its first manifest."""


_NOTHING_SAVED = {"config.yaml", "lock"}
"""All that a run holds before its first save."""


_ADDED = {"keep": "best", "start_from": None}
"""Settings that older versions did not write, with the values that describe what those versions did."""


_SHOWN_CHANGES = 5
"""Most settings that a message names if they differ from those of the run."""


_LONGEST_VALUE = 40


_IGNORED = ("device", "run")
"""Settings that may differ when a run is resumed: they say where it runs and is saved."""


class Run:
    """An open run directory, locked against other processes until it is closed.

    Args:
        path: the directory; made if it is not there.
        config: what the training is, as plain data.
        rewritten: whether the files of an incomplete run with the same config may be overwritten, if no training is
            lost with them.
        unused: settings that have no effect in this training, so that they may differ from those of the run.
        longer: whether it may have more epochs than the run: where nothing in it depends on their number.

    Raises:
        CheckpointError: if another process has locked it, it holds a run with another config or without its manifest,
            or something that is not a regular file has the name of one of its files.
        FileError: if it can't be made, read or written.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        rewritten: bool = False,
        unused: Collection[str] = (),
        longer: bool = False,
    ) -> None:
        self.path, self._ignored, self._may_be_longer = Path(path), {*_IGNORED, *unused}, longer
        self._made = not os.path.lexists(self.path)
        run_files.make_directory(self.path)
        self._lock = lock(self.path)
        try:
            self._keep_config(_plain(config), rewritten)
        except BaseException:
            self.close()
            raise

    def _keep_config(self, config: dict[str, Any], rewritten: bool) -> None:
        begun = run_files.has(self.path, "manifest.json")
        if not begun:
            self._refuse_remains(config, rewritten)
        elif changes := self._changes(config):
            raise CheckpointError(
                f"{self.path} holds a run with other settings: use these to resume it, or another directory. "
                f"Different: {_few(changes)}{self._hint(config)}"
            )
        if not begun or self._is_longer(read_config(self.path), config):
            run_files.write(self.path, "config.yaml", dump_yaml(config).encode())

    def _hint(self, config: Mapping[str, Any]) -> str:
        """Why a run that is to have more epochs can't have them, and what to do."""
        if self._may_be_longer or not config.get("epochs", 0) > read_config(self.path).get("epochs", 0):
            return ""
        begin = spoken(f"start_from={str(self.path)!r}", f"--start_from {self.path}")
        return (
            ". A run can have more epochs only if its lr_schedule and all numbers of its objective are constant; "
            f"another run can begin with its weights: {begin}"
        )

    def _is_longer(self, begun: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
        return self._may_be_longer and config["epochs"] > begun["epochs"]

    def _changes(self, config: dict[str, Any]) -> list[str]:
        begun = read_config(self.path)
        begun = {**begun, "epochs": config["epochs"]} if self._is_longer(begun, config) else begun
        ignored = self._ignored | (set() if "kinds" in begun else {"kinds"})  # older versions did not write them
        old, new = (
            {name: value for name, value in _completed(found).items() if name not in ignored}
            for found in (begun, config)
        )
        return _differences(old, new)

    def _refuse_remains(self, config: dict[str, Any], rewritten: bool) -> None:
        """Refuse to start a training among the files of a run whose manifest is lost."""
        remains = _remains(self.path)
        if not remains or (rewritten and read_config(self.path) == config):
            return
        raise CheckpointError(
            f"{self.path} holds what a run has left ({', '.join(remains)}) without its manifest.json, so it can't be "
            "resumed and is not begun anew: restore manifest.json from a copy, or use another directory"
        )

    def restore(self) -> State | None:
        """The latest state, or None if nothing has been saved yet."""
        if not run_files.has(self.path, "manifest.json"):
            return None
        manifest = read_manifest(self.path)
        tensors = {kind: read_tensors(self.path, manifest, kind) for kind in KINDS}
        files = {kind: f"{self.path}/{manifest['files'][kind]['name']}: {MISFIT[kind]}" for kind in KINDS}
        rows = read_metrics(self.path)
        if len(rows) < manifest["rows"]:
            raise CheckpointError(
                f"{self.path}/metrics.csv is damaged: it has {len(rows)} rows, manifest.json says {manifest['rows']}"
            )
        return State(**tensors, progress=manifest["progress"], rows=rows[: manifest["rows"]], files=files)

    def save(self, state: State) -> None:
        """Write a state; the previous one stays valid until the new one is complete."""
        stamp = f"{state.progress['epoch']:06d}-{state.progress['step']:06d}"
        files = {}
        for kind in KINDS:
            tensors = getattr(state, kind)
            data = tensor_bytes(tensors)
            name = f"{kind}-{stamp}.safetensors"
            run_files.write(self.path, name, data)
            proof = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "tensors": sorted(tensors)}
            files[kind] = {"name": name, **proof}
        run_files.write(self.path, "metrics.csv", format_metrics(state.rows))
        manifest = {
            "format": FORMAT,
            "pyro_vae": version(),
            "files": files,
            "rows": len(state.rows),
            "progress": state.progress,
        }
        run_files.write(self.path, "manifest.json", json.dumps(manifest, indent=1).encode())
        run_files.remove(self.path, _SWEPT, {entry["name"] for entry in files.values()})

    def close(self) -> None:
        """Release the lock; a directory that was made for this run goes again if nothing was saved in it."""
        if self._made:
            with suppress(OSError):  # it is only in the way
                if {path.name for path in self.path.iterdir()} <= _NOTHING_SAVED:
                    for name in _NOTHING_SAVED:
                        (self.path / name).unlink(missing_ok=True)
                    self.path.rmdir()
        self._lock.close()


def _remains(path: Path) -> list[str]:
    """Files in a directory without manifest that a training has left after its first save."""
    names = run_files.regular_files(path)
    found = [name for name in names if re.fullmatch(TENSORS, name) and not _UNSAVED.fullmatch(name)]
    rows = "metrics.csv" in names and run_files.read(path, "metrics.csv", run_files.LARGEST_TEXT)
    return [*found, *(["metrics.csv"] if rows else [])]


@contextmanager
def open_run(
    path: str | Path | None, config: Mapping[str, Any], unused: Collection[str] = (), longer: bool = False
) -> Iterator[Run | None]:
    """`Run(path, config, unused=unused, longer=longer)`, closed at the end; None for no path."""
    run = None if path is None else Run(path, config, unused=unused, longer=longer)
    try:
        yield run
    finally:
        if run is not None:
            run.close()


def version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version("pyro-vae")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it will be read back."""
    return load_yaml(dump_yaml(dict(config)))


def _completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with all options that this version has."""
    return with_defaults({**_ADDED, **config})


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in {**old, **new} for d in _differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [f"{key} is {_brief(old)} there, {_brief(new)} here"]


def _few(changes: Sequence[str]) -> str:
    """Some of the differences, those of a part before those of its options, and how many are left out."""
    further = len(changes) - _SHOWN_CHANGES
    keys = [text.partition(" ")[0] for text in changes]
    settings = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    rank = {key: (settings.index(key.partition(".")[0]), key.count(".")) for key in keys}
    shown = sorted(changes, key=lambda text: rank[text.partition(" ")[0]])[:_SHOWN_CHANGES]
    return "; ".join(shown) + (f"; and {further} more" if further > 0 else "")


def _brief(value: Any) -> str:
    """A setting as short text: for a class its name."""
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        return value["class_path"].rpartition(".")[2]
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
