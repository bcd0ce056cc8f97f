"""The form of every text file in a run directory, checked when it is read; messages name the key."""

import csv
import io
import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

from pyro_vae.errors import CheckpointError
from pyro_vae.runs.schema import Count, Finite, Positive, Rule, check

KINDS = ("weights", "optimizer", "best")
"""The tensor files of a run."""


TENSORS = rf"(?:{'|'.join(KINDS)})-\d{{6,}}-\d{{6,}}\.safetensors"


MADE_BY = "refit"
"""The entry of a derived run's config that names its source; the config of a training has none."""


SUMS = {"loss", "seen", "probed", "train_reconstruction", "train_kl"}
"""Sums that a training accumulates in an epoch."""


_TERMS = ("elbo", "reconstruction", "kl")


_MALFORMED = (ValueError, RecursionError)
"""Errors that parsing damaged JSON can raise."""


_SEED = Annotated[int, Rule(lambda value: abs(value) < 1 << 63, "a whole number of less than 2^63")]


_FILE = Annotated[
    str, Rule(lambda value: bool(re.fullmatch(TENSORS, value)), "the name of a .safetensors file of a run")
]


_SHA256 = Annotated[str, Rule(lambda value: bool(re.fullmatch("[0-9a-f]{64}", value)), "64 hexadecimal digits")]


class Format(TypedDict):
    """The keys that manifests of all versions have."""

    format: int


class Entry(TypedDict):
    """One tensor file of a run, with what proves it complete; earlier versions wrote no size and no names of
    tensors.
    """

    name: _FILE
    sha256: _SHA256
    size: NotRequired[Count]
    tensors: NotRequired[list[str]]


class Files(TypedDict):
    """The current tensor files."""

    weights: Entry
    optimizer: Entry
    best: Entry


class Progress(TypedDict, total=False):
    """How far a training is. A run that was made from another one has only the first four."""

    epoch: Required[Count]
    step: Required[Count]
    best_epoch: Required[Count]
    data: str | None
    best_loss: Finite | None
    best_elbo: Finite | None  # of versions that chose by the ELBO
    waited: Count
    last_loss: Finite | None
    onednn: bool | None
    threads: Positive | None
    compile: bool
    precision: Literal["float32", "bf16"]
    optimizer: dict[str, float | bool | None]
    sums: dict[str, float]
    seconds: Finite


class Manifest(TypedDict):
    """manifest.json."""

    format: int
    pyro_vae: str
    files: Files
    rows: Count
    progress: Progress


class Description(TypedDict):
    """A class and its options."""

    class_path: str
    init_args: NotRequired[dict[str, Any] | None]


class Refitted(TypedDict, total=False):
    """What a run was made from, if another part was fitted to a trained one."""

    run: str
    weights: _SHA256
    replaced: dict[str, Any]


class Config(TypedDict, total=False):
    """config.yaml: what `pyro-vae fit --config` takes. Classes are checked where they are built."""

    data: str | None
    binarize: Literal["none", "static", "dynamic", "threshold"]
    dequantize: bool
    divide_by: Finite | None
    valid_size: Count
    test_size: Count
    data_root: str | None
    data_seed: _SEED
    context: str
    labelled: Count
    repeats: Count
    missing: Literal["nan", "mask"] | Finite | None
    kinds: dict[str, Any] | None
    vae: dict[str, Any]
    objective: Description
    optimizer: Description
    lr_schedule: Description
    epochs: Positive
    batch_size: Positive
    clip_norm: Finite | None
    weight_prior: Finite | None
    patience: Positive | None
    start_at_mean: bool
    seed: _SEED
    log_every: Positive
    compile: bool | Literal["auto"]
    precision: Literal["float32", "bf16"]
    keep: Literal["best", "last"]
    start_from: str | None
    refit: Refitted


class Trained(Config, total=False):
    """config.yaml of a run that has been trained."""

    vae: Required[dict[str, Any]]  # pyright: ignore[reportIncompatibleVariableOverride]
    objective: Required[Description]  # pyright: ignore[reportIncompatibleVariableOverride]
    epochs: Required[Positive]  # pyright: ignore[reportIncompatibleVariableOverride]


class SavedEvidence(TypedDict, total=False):
    """evidence-SPLIT.json: the keys that are read again; files of earlier versions may lack any of them."""

    num_particles: Positive
    seed: _SEED
    method: str
    data_sha256: str
    weights_sha256: str
    arrays_sha256: str


def parse_json(data: bytes, kind: Any, where: str) -> Any:
    """JSON of a known form.

    Raises:
        CheckpointError: if it is not JSON, or of another form.
    """
    try:
        content = json.loads(data)
    except _MALFORMED as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    check(content, kind, where)
    return content


def check_progress(
    progress: Mapping[str, Any],
    names: Collection[str],
    rows: Sequence[Mapping[str, Any]],
    epochs: int,
    steps: int,
    where: str,
) -> None:
    """Refuse to resume from a progress that a training with these settings can't have.

    Args:
        progress: of a `Manifest`.
        names: all keys that it must have.
        rows: one of each epoch that is done.
        epochs: of the whole training.
        steps: in an epoch.
        where: what was read, for the message.

    Raises:
        CheckpointError: with the key.
    """
    if missing := sorted(set(names) - set(progress)):
        raise CheckpointError(f"{where} is damaged: progress.{missing[0]} is missing")
    epoch, step, sums = progress["epoch"], progress["step"], progress["sums"]
    expected = {
        "epoch": (epoch == len(rows) <= epochs, f"{len(rows)}, as many as rows, and at most {epochs}"),
        "step": (step <= steps, f"at most {steps}"),
        "best_epoch": (progress["best_epoch"] <= epoch, f"at most {epoch}"),
        "best_loss": (progress["best_epoch"] == 0 or progress["best_loss"] is not None, "one, of the best epoch"),
        "waited": (progress["waited"] <= epoch, f"at most {epoch}"),
        "sums": (sums.keys() == (SUMS if step else set()), f"those of {step} steps"),
    }
    for name, (holds, words) in expected.items():
        if not holds:
            raise CheckpointError(f"{where} is damaged: progress.{name}: expected {words}, got {progress[name]!r}")
    if step and not (sums["seen"] > 0 and sums["probed"] > 0):
        raise CheckpointError(f"{where} is damaged: progress.sums: expected data that were seen, got {sums!r}")


def check_config(config: Any, where: str, trained: bool = False) -> None:
    """Refuse a config of another form; that of a trained run has a VAE, an objective and epochs."""
    check(config, Trained if trained else Config, where)
    for name in ("vae", "objective", "optimizer", "lr_schedule"):
        check_description(config.get(name), where, name)


def check_description(value: Any, where: str, key: str) -> None:
    """Refuse a class without a path, or with options that are not a mapping, at any depth."""
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            check_description(item, where, f"{key}.{i}")
    if not isinstance(value, Mapping):
        return
    if "class_path" in value:
        check({key: value}, dict[str, Description], where)
    for name, item in value.items():
        check_description(item, where, f"{key}.{name}")


# ---- metrics.csv -----------------------------------------------------------------------------------------------------


def parse_metrics(data: bytes, where: str) -> list[dict[str, int | float]]:
    """The rows of metrics.csv: as many numbers in each as there are columns, and epochs counted from 1.

    Raises:
        CheckpointError: with the line, if it is of another form.
    """
    try:
        lines = [line for line in csv.reader(io.StringIO(data.decode(), newline=""), strict=True) if line]
        columns = lines[0] if lines else []
        rows = [_row(columns, line) for line in lines[1:]]
    except (csv.Error, *_MALFORMED) as error:
        raise CheckpointError(f"{where} is damaged: {error}") from error
    if columns and (len(set(columns)) < len(columns) or "epoch" not in columns):
        raise CheckpointError(f"{where} is damaged: expected the column epoch and no duplicates, got {columns}")
    for number, row in enumerate(rows, start=1):
        if type(row["epoch"]) is not int or row["epoch"] != number:
            raise CheckpointError(f"{where} is damaged: row {number} is of epoch {row['epoch']}")
    return rows


def _row(columns: list[str], line: list[str]) -> dict[str, int | float]:
    if len(line) != len(columns):
        raise ValueError(f"expected {len(columns)} numbers in a row, got {len(line)}: {','.join(line)[:80]}")
    return {name: _number(text) for name, text in zip(columns, line, strict=True)}


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def check_columns(rows: Sequence[Mapping[str, Any]], valid: bool, where: str) -> None:
    """Refuse rows that lack a column which every training writes.

    Args:
        rows: the rows.
        valid: whether there were validation data.
        where: what was read, for the message.

    Raises:
        CheckpointError: with the column.
    """
    of_points = rows and not any(name.endswith(("_elbo", "_kl")) for name in rows[0])  # a guide without a width
    names = ("reconstruction",) if of_points else _TERMS
    terms = [f"{split}_{term}" for split in ("train", *(["valid"] if valid else [])) for term in names]
    terms += ["valid_loss"] if valid else []
    for name in ("epoch", "step", "loss", *terms, "lr", "seconds"):
        if rows and name not in rows[0]:
            raise CheckpointError(f"{where} is damaged: the column {name} is missing")


def format_metrics(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as the text of metrics.csv; empty without rows."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue().encode()
