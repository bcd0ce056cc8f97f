"""The text files of a run directory, read and checked; torch is not imported, so a list of many runs is quick."""

import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pyro_vae.errors import CheckpointError, FileError, PyroVaeError
from pyro_vae.runs import files as run_files
from pyro_vae.runs.formats import MADE_BY, Format, Manifest, check_config, parse_json, parse_metrics
from pyro_vae.runs.safe_yaml import YamlError, load_yaml

FORMAT = 1


MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors that parsing a damaged file can raise, in addition to those of the parser."""


def read_config(path: Path, trained: bool = False) -> dict[str, Any]:
    """The config of a run directory.

    Args:
        path: the run directory.
        trained: whether it must have what every trained run has: a VAE, an objective and epochs.

    Raises:
        CheckpointError: if there is none, or it is damaged.
    """
    where = f"{path}/config.yaml"
    try:
        config = load_yaml(run_files.read(path, "config.yaml", run_files.LARGEST_TEXT).decode())
    except FileError as error:
        raise missing(error, f"{path} is not a run directory: it has no config.yaml") from error
    except (YamlError, *MALFORMED) as error:
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
        raise missing(error, f"{path} holds no saved weights: it has no manifest.json") from error
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
        raise missing(error, f"{where} is not there: restore a copy") from error
    return parse_metrics(data, where)


def missing(error: FileError, message: str) -> PyroVaeError:
    """The error for a missing file of a run; any other error of the system is returned as it is."""
    return CheckpointError(message) if error.errno == errno.ENOENT else error


def weights_in_words(config: Mapping[str, Any], progress: Mapping[str, Any]) -> str:
    """Which weights `load` gives of a run.

    Args:
        config: of the run.
        progress: of its manifest.
    """
    best, new = progress["best_epoch"], " and ".join(map(str, config.get(MADE_BY, {}).get("replaced", ())))
    changed = f", {new} refitted" if new else ""
    return (f"best on validation, epoch {best}" if best else f"last, epoch {progress['epoch']}") + changed
