"""A run directory: what a training is, what it has learned, and proof that it is whole.

    config.yaml                        everything needed to repeat the run; `pyro-vae fit --config` takes it
    manifest.json                      which files are current, their sha256, and how far the run is
    weights-*.safetensors              the latest weights; optimizer-*, best-* likewise
    metrics.csv                        one row an epoch

Every file is written beside its place, synced and renamed, and the manifest last: whenever a process dies, the manifest
names complete files. There is no pickle, and a description is turned into a class only where its module is trusted.
"""

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from importlib import import_module, metadata
from inspect import isabstract
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor, nn

from pyro_vae.autoencoder import Autoencoder
from pyro_vae.errors import CheckpointError, PyroVaeError, UsageError
from pyro_vae.seeding import seeded
from pyro_vae.vae import VAE

FORMAT = 1
_KINDS = ("weights", "optimizer", "best")
_MANIFEST = {"pyro_vae": str, "files": dict, "rows": int, "progress": dict}
_TENSORS = rf"({'|'.join(_KINDS)})-\d{{6,}}-\d{{6,}}\.safetensors"
_SWEPT = re.compile(rf"{_TENSORS}|\.({_TENSORS}|config\.yaml|metrics\.csv|manifest\.json)\.tmp")
"""What may be deleted: files that only a save writes. All others in the directory are the user's."""
_PARTS = ("prior", "likelihood", "guide", "encoder", "decoder")
_IGNORED = ("device", "run")
"""Settings that may differ when a run is resumed: where, not what."""
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What parsing a file that someone has changed is known to raise, beside the parser's own errors."""


# ---- descriptions: a class and its keywords as plain data, and back -------------------------------------------------


def describe(value: Any) -> Any:
    """A part as plain data: a class, a `functools.partial` of one, or a frozen dataclass value.

    Returns:
        `{"class_path": ..., "init_args": {...}}` for a part; numbers, strings, None and sequences of them as they are.

    Raises:
        UsageError: for what can't be rebuilt by import path and keywords: lambdas, local classes, positional arguments.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> describe(partial(MLP, hidden=(200, 200)))
        {'class_path': 'pyro_vae.networks.MLP', 'init_args': {'hidden': [200, 200]}}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, type):
        return {"class_path": _path_of(value)}
    if isinstance(value, partial) and isinstance(value.func, type) and not value.args:
        return {"class_path": _path_of(value.func), "init_args": {k: describe(v) for k, v in value.keywords.items()}}
    if is_dataclass(value):
        init_args = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        return {"class_path": _path_of(type(value)), "init_args": init_args}
    raise UsageError(
        f"can't save {value!r}: a run directory holds class paths and keywords, so pass a class or "
        "functools.partial(Class, keyword=...) (or train without a run directory)"
    )


def resolve(description: Any, trust: Sequence[str]) -> Any:
    """The inverse of `describe`: classes and partials of them, values for frozen dataclasses, tuples for lists.

    Args:
        description: plain data.
        trust: modules whose classes may be built, with all below them; anything else is refused before import.

    Raises:
        CheckpointError: if a class is outside the trusted modules or can't be found.
    """
    if isinstance(description, list | tuple):
        return tuple(resolve(item, trust) for item in description)
    if not isinstance(description, Mapping):
        return description
    if "class_path" not in description:
        return {key: resolve(value, trust) for key, value in description.items()}
    cls = import_class(description["class_path"], trust)
    init_args = resolve(description.get("init_args") or {}, trust)
    if not isinstance(init_args, dict):
        raise CheckpointError(f"init_args of {description['class_path']} must be a mapping, got {init_args!r}")
    if is_dataclass(cls):
        try:
            return cls(**init_args)
        except TypeError as error:
            raise CheckpointError(f"can't build {description['class_path']} from its description: {error}") from error
    return partial(cls, **init_args) if init_args else cls


def describe_vae(vae: Autoencoder) -> dict[str, Any]:
    """An autoencoder as plain data: a `VAE` by its keywords alone, any other class by class path and keywords.

    Example:
        >>> describe_vae(VAE((8, 8), latent_dim=2))["latent_dim"]
        2
    """
    arguments = {name: describe(value) for name, value in vae.arguments.items()}
    return arguments if type(vae) is VAE else {"class_path": _path_of(type(vae)), "init_args": arguments}


def vae_parts(description: Any) -> tuple[str, dict[str, Any]]:
    """Class path and keywords of a description of an autoencoder in either form.

    Raises:
        CheckpointError: if it is neither.
    """
    if isinstance(description, Mapping) and "class_path" not in description:
        description = {"class_path": "pyro_vae.vae.VAE", "init_args": description}
    if not isinstance(description, Mapping) or not isinstance(description.get("init_args") or {}, Mapping):
        raise CheckpointError(f"can't build the VAE from its description: expected a mapping, got {description!r}")
    if unknown := set(description) - {"class_path", "init_args"}:
        raise CheckpointError(
            f"can't build the VAE from its description: {sorted(map(str, unknown))} beside class_path"
        )
    return description["class_path"], dict(description.get("init_args") or {})


def import_class(path: Any, trust: Sequence[str]) -> type:
    """The class at an import path, if its module is one of `trust` or below; nothing is imported otherwise."""
    module, _, name = str(path).rpartition(".")
    if not any(module == trusted or module.startswith(trusted + ".") for trusted in trust):
        raise CheckpointError(
            f"refused to import {path!r}: only classes of {', '.join(trust)} are built unless you name the module: "
            f"load(..., trust=[{module.split('.')[0]!r}]), or --trust {module.split('.')[0]} on the command line"
        )
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"can't find {path!r}: {error}; is its folder on the Python path?") from error
    except Exception as error:  # a user's module can fail in any way
        raise CheckpointError(f"can't import {path!r}: {type(error).__name__}: {error}") from error
    if not isinstance(found, type):
        raise CheckpointError(f"{path!r} is not a class")
    return found


def _path_of(cls: type) -> str:
    if "." in cls.__qualname__ or cls.__module__ == "__main__":
        raise UsageError(
            f"can't save {cls.__qualname__}: define it in a module that can be imported (a file beside the notebook), "
            "outside of functions and classes"
        )
    module = cls.__module__
    if module.startswith(("torch.optim.", "pyro_vae.")):  # by the public name, wherever in the package it is written
        module = ".".join(module.split(".")[:2])
    return f"{module}.{cls.__qualname__}"


# ---- the state of a training ---------------------------------------------------------------------------------------


@dataclass
class State:
    """All a training needs to go on as if it had never stopped.

    Args:
        weights: the module's state dict.
        optimizer: the optimizer's tensors by `index/name`.
        best: the state dict with the best validation bound so far; empty without validation data.
        progress: plain numbers: epoch, step, sums of the epoch under way, best bound, ...
        rows: the rows of metrics.csv, one an epoch.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    best: dict[str, Tensor]
    progress: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """As bytes for another process: the length of the JSON, the JSON, safetensors."""
        plain = json.dumps({"progress": self.progress, "rows": self.rows}).encode()
        tensors = {f"{kind}/{name}": t for kind in _KINDS for name, t in getattr(self, kind).items()}
        return len(plain).to_bytes(8, "little") + plain + _tensor_bytes(tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`."""
        start = 8 + int.from_bytes(data[:8], "little")
        kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
        for key, tensor in safetensors.torch.load(data[start:]).items():
            kind, _, name = key.partition("/")
            kinds[kind][name] = tensor
        return cls(**kinds, **json.loads(data[8:start]))


class Run:
    """An open run directory, locked against every other process until closed.

    Args:
        path: the directory; made if it is not there.
        config: what the training is, as plain data.

    Raises:
        CheckpointError: if another process has it, or it holds a run with another config.
    """

    def __init__(self, path: str | Path, config: Mapping[str, Any]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"can't make the run directory {self.path}: {error.strerror or error}") from error
        self._lock = _lock(self.path / "lock")
        try:
            self._keep_config(_plain(config))
        except BaseException:
            self.close()
            raise

    def _keep_config(self, config: dict[str, Any]) -> None:
        if not (self.path / "manifest.json").exists():
            write_atomic(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())
            return
        changes = _differences(read_config(self.path), config)
        if changes:
            raise CheckpointError(
                f"{self.path} holds a run with other settings ({'; '.join(changes)}): "
                "use these settings to resume it, or another directory"
            )

    def restore(self) -> State | None:
        """The latest state, or None where nothing has been saved yet."""
        if not (self.path / "manifest.json").exists():
            return None
        manifest = read_manifest(self.path)
        tensors = {kind: _read_tensors(self.path, manifest, kind) for kind in _KINDS}
        rows = _read_rows(self.path / "metrics.csv")
        if len(rows) < manifest["rows"]:
            raise CheckpointError(
                f"{self.path}/metrics.csv is damaged: it has {len(rows)} rows, manifest.json says {manifest['rows']}"
            )
        return State(**tensors, progress=manifest["progress"], rows=rows[: manifest["rows"]])

    def save(self, state: State) -> None:
        """Write a state; the one before stays valid until the new one is complete."""
        stamp = f"{state.progress['epoch']:06d}-{state.progress['step']:06d}"
        files = {}
        for kind in _KINDS:
            data = _tensor_bytes(getattr(state, kind))
            name = f"{kind}-{stamp}.safetensors"
            write_atomic(self.path / name, data)
            files[kind] = {"name": name, "sha256": hashlib.sha256(data).hexdigest()}
        write_atomic(self.path / "metrics.csv", _csv(state.rows).encode())
        manifest = {
            "format": FORMAT,
            "pyro_vae": version(),
            "files": files,
            "rows": len(state.rows),
            "progress": state.progress,
        }
        write_atomic(self.path / "manifest.json", json.dumps(manifest, indent=1).encode())
        self._sweep({entry["name"] for entry in files.values()})

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def _sweep(self, current: set[str]) -> None:
        for path in list(self.path.iterdir()):
            if _SWEPT.fullmatch(path.name) and path.name not in current:
                path.unlink(missing_ok=True)


@contextmanager
def open_run(path: str | Path | None, config: Mapping[str, Any]) -> Iterator[Run | None]:
    """`Run(path, config)`, closed at the end; None for no path."""
    run = None if path is None else Run(path, config)
    try:
        yield run
    finally:
        if run is not None:
            run.close()


# ---- reading a run -------------------------------------------------------------------------------------------------


def load(path: str | Path, *, trust: Sequence[str] = (), device: str = "cpu", which: str = "best") -> Any:
    """Build the VAE of a run directory with its trained weights, in evaluation mode.

    Args:
        path: the run directory.
        trust: further modules whose classes may be imported and built; `pyro_vae` always is.
        device: where to put it.
        which: `"best"` (by the validation bound; the latest where there was no validation) or `"last"`.

    Returns:
        The VAE, of the class it was trained as: a `VAE`, or any other `Autoencoder`.

    Raises:
        CheckpointError: if the directory is missing, damaged, or names a class outside the trusted modules.
        UsageError: if `which` is neither.
    """
    if which not in ("best", "last"):
        raise UsageError(f"expected which to be 'best' or 'last', got {which!r}")
    config = read_config(Path(path))
    try:
        with seeded(0, "load"):  # weights that are thrown away must not move the caller's generator
            vae = build_vae(config.get("vae", {}), trust)
    except UsageError as error:
        raise CheckpointError(f"{path}/config.yaml describes no VAE: {error}") from error
    try:
        vae.load_state_dict(_read_weights(Path(path), which))
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the weights do not fit the VAE of config.yaml: {error}") from error
    return vae.to(device).eval()


def _read_weights(path: Path, which: str) -> dict[str, Tensor]:
    """The weights that the manifest names; read again if a training has just replaced them."""
    manifest = read_manifest(path)
    try:
        best = _read_tensors(path, manifest, "best") if which == "best" else {}
        return best or _read_tensors(path, manifest, "weights")
    except CheckpointError:
        if read_manifest(path) == manifest:
            raise
        return _read_weights(path, which)


def build_vae(description: Mapping[str, Any], trust: Sequence[str] = ()) -> Any:
    """A VAE with fresh weights from its description: sizes, and a class path with keywords for each part.

    Args:
        description: the keywords of a `VAE`; or `class_path` and `init_args` of any `Autoencoder`.
        trust: further modules whose classes may be imported and built.

    Returns:
        The `Autoencoder`.

    Raises:
        CheckpointError: if there is no such class, or it can't be built so.
    """
    path, keywords = vae_parts(description)
    cls, arguments = import_class(path, ("pyro_vae", *trust)), resolve(keywords, ("pyro_vae", *trust))
    if not issubclass(cls, Autoencoder) or isabstract(cls):
        raise CheckpointError(f"vae: {path!r} is no autoencoder: expected a class like VAE, derived from Autoencoder")
    for name, value in arguments.items():
        factory = getattr(value, "func", value)
        is_part = isinstance(factory, type) or (name in _PARTS and value is not None)
        if is_part and not (isinstance(factory, type) and issubclass(factory, nn.Module)):
            raise CheckpointError(f"vae.{name} must be a module class, got {factory!r}")
    try:
        return cls(**arguments)
    except PyroVaeError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"can't build the VAE from its description: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The config of a run directory."""
    try:
        config = yaml.safe_load((path / "config.yaml").read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is not a run directory: it has no config.yaml") from error
    except (OSError, yaml.YAMLError, *_MALFORMED) as error:
        raise CheckpointError(f"{path}/config.yaml can't be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}/config.yaml is damaged: expected a mapping, got {type(config).__name__}")
    return config


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run directory."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        known = manifest["format"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} holds no saved weights: it has no manifest.json") from error
    except (OSError, *_MALFORMED) as error:
        raise CheckpointError(f"{path}/manifest.json is damaged: {error}") from error
    if known != FORMAT:
        raise CheckpointError(f"{path} has format {known}, this version reads {FORMAT}: use the version that wrote it")
    if wrong := [name for name, kind in _MANIFEST.items() if not isinstance(manifest.get(name), kind)]:
        raise CheckpointError(f"{path}/manifest.json is damaged: no {', '.join(wrong)} in it")
    return manifest


def _read_tensors(path: Path, manifest: Mapping[str, Any], kind: str) -> dict[str, Tensor]:
    try:
        entry = manifest["files"][kind]
        data, expected = (path / Path(entry["name"]).name).read_bytes(), entry["sha256"]
    except (OSError, *_MALFORMED) as error:
        raise CheckpointError(f"{path}: the {kind} named by manifest.json can't be read: {error}") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise CheckpointError(
            f"{path}/{entry['name']} is damaged: its sha256 is not the one in manifest.json; restore a copy"
        )
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}/{entry['name']} is damaged: {error}") from error


def _tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors, which takes no two names for one tensor: tied weights are written twice."""
    return safetensors.torch.save({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()})


# ---- files ---------------------------------------------------------------------------------------------------------


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that its place holds the old content or the new, never a part of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as a compressed `.npz`, atomically."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(buffer, **named)
    write_atomic(path, buffer.getvalue())


def version() -> str:
    """The installed version of this package."""
    try:
        return metadata.version("pyro-vae")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _lock(path: Path) -> io.BufferedWriter:
    """Hold an advisory lock; the system drops it with the process, however it ends."""
    import fcntl

    try:
        file = path.open("wb")
    except OSError as error:
        raise CheckpointError(f"can't open the lock {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise CheckpointError(
            f"{path.parent} is in use by another process: wait for it, or use another directory"
        ) from error
    return file


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config as it will be read back."""
    return yaml.safe_load(yaml.safe_dump(dict(config), sort_keys=False))


def _differences(old: Any, new: Any, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [k for k in {**old, **new} if key or k not in _IGNORED]
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{key}.{k}".lstrip("."))]
    return [] if old == new else [f"{key} is {old!r} there, {new!r} here"]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(newline="") as file:
            return [{k: _number(v) for k, v in row.items()} for row in csv.DictReader(file)]
    except (OSError, csv.Error, *_MALFORMED) as error:
        raise CheckpointError(f"{path} can't be read: {error}") from error


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.csv, one an epoch."""
    return _read_rows(Path(path) / "metrics.csv")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by `index/name`, and the plain numbers among it likewise."""
    entries = {f"{i}/{k}": v for i, state in optimizer.state_dict()["state"].items() for k, v in state.items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in entries.items() if key not in tensors}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Put a state from `optimizer_tensors` into an optimizer over the same parameters."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **plain}.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _keep_types(optimizer, state)


def _keep_types(optimizer: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Undo torch's cast to the parameter's type: NAdam counts in float32 beside weights in float64."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in saved.items():
        state = optimizer.state[parameters[index]]
        for name, value in entries.items():
            if isinstance(value, Tensor):
                state[name] = state[name].to(value.dtype)
