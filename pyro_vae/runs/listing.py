"""The runs below a folder, a line each: what their text files say. No weights are read, and torch is not imported."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from math import isfinite, nan
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

from pyro_vae.errors import FileError, PyroVaeError, UsageError, file_errors
from pyro_vae.runs import files as run_files
from pyro_vae.runs.formats import MADE_BY, TENSORS, parse_json
from pyro_vae.runs.locking import in_use
from pyro_vae.runs.schema import Finite, Rule
from pyro_vae.runs.texts import read_config, read_manifest, read_metrics, weights_in_words

MOST_FOLDERS = 100_000
"""Folders that are looked into at most."""

_SPLITS = ("test", "valid", "train")
"""Whose log p(x) is listed: that of the first which was evaluated."""

_PARTS = ("prior", "likelihood", "guide")

State = Literal["finished", "running", "interrupted", "unreadable"]

_Share = Annotated[float, Rule(lambda value: 0 <= value <= 1, "a number from 0 to 1")]


class Evaluated(TypedDict):
    """What is listed of evidence-SPLIT.json; nan is null there, and earlier versions wrote less."""

    log_p: Finite
    standard_error_data: NotRequired[Finite | None]
    standard_error_monte_carlo: NotRequired[Finite | None]
    standard_error_monte_carlo_is_at_least: NotRequired[bool]
    unreliable: NotRequired[_Share]
    mean_flagged: NotRequired[bool]
    num_data: NotRequired[int]
    weights: NotRequired[str]


@dataclass(frozen=True)
class Listed:
    """A run directory in a line.

    Args:
        run: its path.
        state: `finished`, also by patience; `running`, where a process holds its lock; `interrupted`: the same command
            goes on; `unreadable`.
        data: the name or the file of its data; None for an array.
        model: the class of its autoencoder, the size of the code and its parts.
        objective: the class of its objective.
        epoch: epochs that are done.
        epochs: epochs that are planned.
        bound: ELBO of the weights that `load` gives, nats per datum: of the validation data, or where there are none of
            the batches of the last epoch; None where there is none.
        bound_of: `valid` or `train`.
        evaluated: what `evaluate` saved of log p(x), nats per datum, with `split`; None if it was not evaluated.
        stale: whether the run has other weights now than those that were evaluated.
        changed: when its manifest was last written, seconds since 1970.
        problem: why it can't be read.
    """

    run: str
    state: State
    data: str | None = None
    model: str | None = None
    objective: str | None = None
    epoch: int | None = None
    epochs: int | None = None
    bound: float | None = None
    bound_of: str | None = None
    evaluated: Mapping[str, Any] | None = None
    stale: bool = False
    changed: float | None = None
    problem: str | None = None

    def plain(self) -> dict[str, Any]:
        """As plain data; nothing of what is not known is left out."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def runs_below(folder: Path, most: int = MOST_FOLDERS) -> Iterator[Path]:
    """The run directories in a folder and below it, in order of their paths; the folder itself may be one.

    Links are not followed, so that no folder comes twice; hidden folders and those inside a run are left out.

    Args:
        folder: where to look.
        most: folders to look into at most.

    Raises:
        FileError: if the folder can't be read; folders below it that can't be read are left out.
        UsageError: where there are more folders.
    """
    left, looked = [folder], 0
    while left:
        here = left.pop()
        looked += 1
        if looked > most:
            raise UsageError(f"{folder} has more than {most} folders below it: name one that holds runs")
        try:
            names, folders = _content(here)
        except OSError as error:
            if here == folder:
                raise FileError.of(error, folder, "read") from error
            continue
        if _is_run(names):
            yield here
        else:
            left += sorted(folders, reverse=True)


def _content(folder: Path) -> tuple[set[str], list[Path]]:
    """The names of all but folders, and the folders that are neither links nor hidden."""
    names: set[str] = set()
    folders: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders += [] if entry.name.startswith(".") else [folder / entry.name]
            else:
                names.add(entry.name)
    return names, folders


def _is_run(names: set[str]) -> bool:
    """Whether these are files of a run: also of one that has just begun, or has lost some."""
    begun = "config.yaml" in names and not names.isdisjoint({"manifest.json", "lock"})
    return begun or any(re.fullmatch(TENSORS, name) for name in names)


def listed(run: Path) -> Listed:
    """What the text files of a run say; of a damaged one, why they can't be read."""
    running = in_use(run)
    try:
        return _read(run, running)
    except PyroVaeError as error:
        return Listed(str(run), "running" if running else "unreadable", problem=" ".join(str(error).split()))


def _read(run: Path, running: bool) -> Listed:
    config = read_config(run, trained=True)
    begun = run_files.has(run, "manifest.json")
    manifest = read_manifest(run) if begun else None
    progress = {"epoch": 0, "best_epoch": 0} if manifest is None else manifest["progress"]
    rows = [] if manifest is None else read_metrics(run)[: manifest["rows"]]
    return Listed(
        str(run),
        "running" if running else "finished" if _is_finished(config, progress, begun) else "interrupted",
        config.get("data"),
        _model(config),
        _name(config["objective"]),
        progress["epoch"],
        config["epochs"],
        *_bound(rows, progress["best_epoch"]),
        *_evaluated(run, weights_in_words(config, progress)),
        _changed(run / ("manifest.json" if begun else "config.yaml")),
    )


def _changed(path: Path) -> float:
    with file_errors(path, "read"):
        return path.lstat().st_mtime


def _is_finished(config: Mapping[str, Any], progress: Mapping[str, Any], saved: bool) -> bool:
    """Whether nothing is left to train; a run that was made from another one is saved once, at the end."""
    patience, waited = config.get("patience"), progress.get("waited", 0)
    ended = progress["epoch"] >= config["epochs"] or (patience is not None and waited >= patience)
    return ended or (saved and MADE_BY in config)


def _model(config: Mapping[str, Any]) -> str:
    """The autoencoder in words: `VAE 20 (StandardNormal, Bernoulli, DiagonalNormal)`."""
    vae = config["vae"]
    name = _name(vae) if "class_path" in vae else "VAE"
    options = (vae.get("init_args") or {}) if "class_path" in vae else vae
    size = options.get("latent_dim", options.get("latent_dims"))
    parts = ", ".join(_name(options[part]) for part in _PARTS if isinstance(options.get(part), Mapping))
    return " ".join([name, *([] if size is None else [str(size)]), *([f"({parts})"] if parts else [])])


def _name(description: Mapping[str, Any]) -> str:
    return str(description.get("class_path", "?")).rpartition(".")[2]


def _bound(rows: list[dict[str, Any]], best: int) -> tuple[float | None, str | None]:
    """The ELBO of the epoch whose weights are kept, and of which data it is."""
    row = rows[best - 1] if 0 < best <= len(rows) else rows[-1] if rows else {}
    for split in ("valid", "train"):
        if isfinite(value := row.get(f"{split}_elbo", nan)):
            return value, split
    return None, None


def _evaluated(run: Path, weights: str) -> tuple[dict[str, Any] | None, bool]:
    """What was saved of log p(x), and whether it is of other weights."""
    for split in _SPLITS:
        name = f"evidence-{split}.json"
        if run_files.has(run, name):
            data = run_files.read(run, name, run_files.LARGEST_TEXT)
            found = parse_json(data, dict[str, Any], f"{run}/{name}")
            if "log_p" not in found:  # of a guide that is a point: there is no log p(x)
                continue
            parse_json(data, Evaluated, f"{run}/{name}")
            kept = {key: found[key] for key in Evaluated.__annotations__ if key in found}
            return {"split": split, **kept}, found.get("weights", weights) != weights
    return None, False
