"""A run directory: what a training is, what it has learned, and proof that it is whole.

    config.yaml                        everything needed to repeat the run; `pyro-vae fit --config` takes it
    manifest.json                      which files are current, their sha256, and how far the run is
    weights-*.safetensors              the latest weights; optimizer-*, best-* likewise
    metrics.csv                        one row an epoch

Every file is written beside its place, synced and renamed, and the manifest last: whenever a process dies, the manifest
names complete files. There is no pickle, and a description is turned into a class only where its module is trusted.
`run_files` reads and writes the files, `run_schema` says what is in them, `restoring` which tensors fit.
"""

import errno
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from os import PathLike
from pathlib import Path
from typing import Any, Self

import safetensors.torch
from torch import Tensor

from pyro_vae import run_files
from pyro_vae.arguments import shown
from pyro_vae.describing import build_vae, with_defaults
from pyro_vae.errors import CheckpointError, FileError, PyroVaeError, UsageError
from pyro_vae.isolation import isolated
from pyro_vae.restoring import SizedLike, as_precise, restore_weights
from pyro_vae.run_schema import (
    KINDS,
    TENSORS,
    Format,
    Manifest,
    check_config,
    format_metrics,
    parse_json,
    parse_metrics,
)
from pyro_vae.safe_yaml import YamlError, dump_yaml, load_yaml
from pyro_vae.seeding import seeded

FORMAT = 1
_TEMPORARY = r"(?:[0-9a-f]{12}\.)?tmp"
_SWEPT = re.compile(rf"{TENSORS}|\.(?:{TENSORS}|config\.yaml|metrics\.csv|manifest\.json)\.{_TEMPORARY}")
"""What may be deleted: files that only a save writes. All others in the directory are the user's."""
_UNSAVED = re.compile(rf"(?:{'|'.join(KINDS)})-0+-0+\.safetensors")
"""What a training may leave that ends before its first manifest."""
_ADDED = {"keep": "best"}
"""Settings that older versions did not write, and what they did."""
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What parsing a file that someone has changed is known to raise, beside the parser's own errors."""
_SHOWN_CHANGES = 5
"""Settings that are named where a run has others."""
_LONGEST_VALUE = 40
_IGNORED = ("device", "run")
"""Settings that may differ when a run is resumed: where, not what."""


_MISFIT = {
    "weights": "the weights do not fit this training",
    "optimizer": "the optimizer's tensors do not fit this training",
    "best": "the best weights do not fit this training",
}


# ---- the state of a training ---------------------------------------------------------------------------------------


@dataclass
class State:
    """All a training needs to go on as if it had never stopped.

    Args:
        weights: the module's state dict.
        optimizer: the optimizer's tensors by `index/name`.
        best: the state dict with the best validation value so far; empty where none is kept.
        progress: plain numbers: epoch, step, sums of the epoch under way, best bound, ...
        rows: the rows of metrics.csv, one an epoch.
        files: the beginning of what is said where one of the three does not fit.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]
    progress: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=lambda: {kind: f"process 0: {_MISFIT[kind]}" for kind in KINDS})

    def to_bytes(self) -> bytes:
        """As bytes for another process: the length of the JSON, the JSON, safetensors."""
        plain = json.dumps({"progress": self.progress, "rows": self.rows}).encode()
        tensors = {f"{kind}/{name}": t for kind in KINDS for name, t in getattr(self, kind).items()}
        return len(plain).to_bytes(8, "little") + plain + _tensor_bytes(tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`."""
        start = 8 + int.from_bytes(data[:8], "little")
        kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
        for key, tensor in safetensors.torch.load(data[start:]).items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = tensor
        return cls(**kinds, **json.loads(data[8:start]))


class Run:
    """An open run directory, locked against every other process until closed.

    Args:
        path: the directory; made if it is not there.
        config: what the training is, as plain data.
        rewritten: whether the files of a run with the very same config, that is not whole, may be written again, since
            no training is lost with them.
        unused: settings that change nothing in this training, which may differ from those of the run.

    Raises:
        CheckpointError: if another process has it, it holds a run with another config or one without its manifest, or
            something else is in the place of its files.
        FileError: if it can't be made, read or written.
    """

    def __init__(
        self, path: str | Path, config: Mapping[str, Any], rewritten: bool = False, unused: Collection[str] = ()
    ) -> None:
        self.path, self._ignored = Path(path), {*_IGNORED, *unused}
        run_files.make_directory(self.path)
        self._lock = run_files.lock(self.path)
        try:
            self._keep_config(_plain(config), rewritten)
        except BaseException:
            self.close()
            raise

    def _keep_config(self, config: dict[str, Any], rewritten: bool) -> None:
        begun = run_files.has(self.path, "manifest.json")
        if not begun:
            self._refuse_remains(config, rewritten)
            run_files.write(self.path, "config.yaml", dump_yaml(config).encode())
        elif changes := self._changes(config):
            raise CheckpointError(
                f"{self.path} holds a run with other settings: use these to resume it, or another directory. "
                f"Different: {_few(changes)}"
            )

    def _changes(self, config: dict[str, Any]) -> list[str]:
        old, new = (
            {name: value for name, value in _completed(found).items() if name not in self._ignored}
            for found in (read_config(self.path), config)
        )
        return _differences(old, new)

    def _refuse_remains(self, config: dict[str, Any], rewritten: bool) -> None:
        """Never train anew among the files of a run whose manifest is lost."""
        remains = _remains(self.path)
        if not remains or (rewritten and read_config(self.path) == config):
            return
        raise CheckpointError(
            f"{self.path} holds what a run has left ({', '.join(remains)}) without its manifest.json, so it can't be "
            "resumed and is not begun anew: restore manifest.json from a copy, or use another directory"
        )

    def restore(self) -> State | None:
        """The latest state, or None where nothing has been saved yet."""
        if not run_files.has(self.path, "manifest.json"):
            return None
        manifest = read_manifest(self.path)
        tensors = {kind: _read_tensors(self.path, manifest, kind) for kind in KINDS}
        files = {kind: f"{self.path}/{manifest['files'][kind]['name']}: {_MISFIT[kind]}" for kind in KINDS}
        rows = read_metrics(self.path)
        if len(rows) < manifest["rows"]:
            raise CheckpointError(
                f"{self.path}/metrics.csv is damaged: it has {len(rows)} rows, manifest.json says {manifest['rows']}"
            )
        return State(**tensors, progress=manifest["progress"], rows=rows[: manifest["rows"]], files=files)

    def save(self, state: State) -> None:
        """Write a state; the one before stays valid until the new one is complete."""
        stamp = f"{state.progress['epoch']:06d}-{state.progress['step']:06d}"
        files = {}
        for kind in KINDS:
            tensors = getattr(state, kind)
            data = _tensor_bytes(tensors)
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
        """Release the lock."""
        self._lock.close()


def _remains(path: Path) -> list[str]:
    """What in a directory without manifest a training has left that was past its first save."""
    names = run_files.regular_files(path)
    found = [name for name in names if re.fullmatch(TENSORS, name) and not _UNSAVED.fullmatch(name)]
    rows = "metrics.csv" in names and run_files.read(path, "metrics.csv", run_files.LARGEST_TEXT)
    return [*found, *(["metrics.csv"] if rows else [])]


@contextmanager
def open_run(path: str | Path | None, config: Mapping[str, Any], unused: Collection[str] = ()) -> Iterator[Run | None]:
    """`Run(path, config, unused=unused)`, closed at the end; None for no path."""
    run = None if path is None else Run(path, config, unused=unused)
    try:
        yield run
    finally:
        if run is not None:
            run.close()


# ---- reading a run -------------------------------------------------------------------------------------------------


@isolated
def load(path: str | Path, *, trust: Sequence[str] = (), device: str = "cpu", which: str = "best") -> Any:
    """Build the VAE of a run directory with its trained weights, in evaluation mode.

    Args:
        path: the run directory.
        trust: further modules whose classes may be imported and built; `pyro_vae` always is.
        device: where to put it.
        which: `"best"` (by the objective's value on the validation data; the latest where there were none, or the run
            was to keep the last) or `"last"`.

    Returns:
        The VAE, of the class it was trained as: a `VAE`, or any other `Autoencoder`.

    Raises:
        CheckpointError: if the directory is missing, damaged, or names a class outside the trusted modules.
        UsageError: if `which` is neither.
    """
    if not isinstance(path, str | PathLike):
        raise UsageError(f"path: expected the path of a run directory, got {shown(path)}")
    if which not in ("best", "last"):
        raise UsageError(f"expected which to be 'best' or 'last', got {which!r}")
    (weights, where), config = _read_weights(Path(path), which), read_config(Path(path))
    try:
        # weights that are thrown away must not move the caller's generator
        with seeded(0, "load"), SizedLike(weights, where):
            vae = build_vae(config.get("vae", {}), trust)
    except UsageError as error:
        raise CheckpointError(f"{path}/config.yaml describes no VAE: {error}") from error
    as_precise(vae, weights)
    restore_weights(vae, weights, where)
    return vae.to(device).eval()


def _read_weights(path: Path, which: str) -> tuple[dict[str, Tensor], str]:
    """The weights that the manifest names, and what to call them; read again if a training has just replaced them."""
    manifest = read_manifest(path)
    try:
        best = _read_tensors(path, manifest, "best") if which == "best" else {}
        kind = "best" if best else "weights"
        weights = best or _read_tensors(path, manifest, "weights")
    except CheckpointError:
        if read_manifest(path) == manifest:
            raise
        return _read_weights(path, which)
    return weights, f"{path}/{manifest['files'][kind]['name']}: the weights do not fit the VAE of config.yaml"


def read_config(path: Path, trained: bool = False) -> dict[str, Any]:
    """The config of a run directory.

    Args:
        path: the run directory.
        trained: whether it must have all that a trained run has: a VAE, an objective and epochs.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    where = f"{path}/config.yaml"
    try:
        config = load_yaml(run_files.read(path, "config.yaml", run_files.LARGEST_TEXT).decode())
    except FileError as error:
        raise _missing(error, f"{path} is not a run directory: it has no config.yaml") from error
    except (YamlError, *_MALFORMED) as error:
        raise CheckpointError(f"{where} can't be read: {error}") from error
    check_config(config, where, trained)
    return config


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run directory."""
    if not run_files.has(path, "config.yaml"):
        there = f"{path} is not a run directory: it has no config.yaml"
        raise CheckpointError(there if Path(path).exists() else f"there is no run directory {path}")
    where = f"{path}/manifest.json"
    try:
        data = run_files.read(path, "manifest.json", run_files.LARGEST_TEXT)
    except FileError as error:
        raise _missing(error, f"{path} holds no saved weights: it has no manifest.json") from error
    known = parse_json(data, Format, where)["format"]
    if known != FORMAT:
        raise CheckpointError(f"{path} has format {known}, this version reads {FORMAT}: use the version that wrote it")
    return parse_json(data, Manifest, where)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.csv, one an epoch."""
    where = f"{path}/metrics.csv"
    try:
        data = run_files.read(Path(path), "metrics.csv", run_files.LARGEST_TEXT)
    except FileError as error:
        raise _missing(error, f"{where} is not there: restore a copy") from error
    return parse_metrics(data, where)


def _missing(error: FileError, message: str) -> PyroVaeError:
    """What to say where a file of a run is not there; any other error of the system is told as it is."""
    return CheckpointError(message) if error.errno == errno.ENOENT else error


def _read_tensors(path: Path, manifest: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    entry = manifest["files"][kind]
    where = f"{path}/{entry['name']}"
    try:
        data = run_files.read(path, entry["name"], entry.get("size"))
    except FileError as error:
        raise _missing(error, f"the {kind} named by manifest.json can't be read: {where} is not there") from error
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{where} is damaged: its sha256 is not the one in manifest.json; restore a copy")
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, RuntimeError, TypeError, *_MALFORMED) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if odd := set(tensors) ^ set(entry.get("tensors", tensors)):
        raise CheckpointError(f"{where} is damaged: the tensor {min(odd)!r} is in it or in manifest.json, not in both")
    return tensors


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors, which takes no two names for one tensor: tied weights are written twice."""
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


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
    """A config as a version writes it that knows all of today's options."""
    return with_defaults({**_ADDED, **config})


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [d for k in {**old, **new} for d in _differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [f"{key} is {_brief(old)} there, {_brief(new)} here"]


def _few(changes: Sequence[str]) -> str:
    """Some of them, in their order but those of a whole part before those of its options, and how many are left out."""
    further = len(changes) - _SHOWN_CHANGES
    keys = [text.partition(" ")[0] for text in changes]
    settings = list(dict.fromkeys(key.partition(".")[0] for key in keys))
    rank = {key: (settings.index(key.partition(".")[0]), key.count(".")) for key in keys}
    shown = sorted(changes, key=lambda text: rank[text.partition(" ")[0]])[:_SHOWN_CHANGES]
    return "; ".join(shown) + (f"; and {further} more" if further > 0 else "")


def _brief(value: Any) -> str:
    """A setting in a few words: of a class its name."""
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        return value["class_path"].rpartition(".")[2]
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
