"""A saved run as the commands use it: its VAE, and the data it was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.compiling.backends import choose_device
from pyro_vae.data import Binarization, Dataset, Table, load_data
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.data.gaps import Missing
from pyro_vae.data.inputs import Context
from pyro_vae.data.loading import HoldOutError
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.inference.programs import takes
from pyro_vae.messages import remark
from pyro_vae.runs.loading import load
from pyro_vae.runs.texts import read_config, read_manifest, weights_in_words


@dataclass(frozen=True)
class DataSettings:
    """How the data of a run were loaded: the entries of its config.yaml for `load_data`, under their names there.

    The defaults are for entries that a run lacks: a run of an earlier version, or one trained on an array.
    """

    data: str | None = None
    binarize: Binarization = "none"
    dequantize: bool = False
    divide_by: float | None = None
    valid_size: int = 0
    test_size: int = 0
    data_root: str | None = None
    data_seed: int = 0
    context: Context = "none"
    labelled: int = 0
    repeats: int = 1
    missing: Missing = None
    kinds: Mapping[str, Any] | None = None
    image_size: Sequence[int] | None = None
    channels: int | None = None

    @property
    def table(self) -> Table | None:
        """The columns of the training data, if they came from a table."""
        return None if self.kinds is None else Table.of(self.kinds)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "DataSettings":
        """The settings that a run's configuration holds."""
        return cls(**{field.name: config[field.name] for field in fields(cls) if field.name in config})

    def load(self, source: str, labels: bool) -> Dataset:
        """Load a data set by these settings.

        Args:
            source: its name or file.
            labels: whether train keeps the labels of some data as the input `y`.
        """
        return load_data(
            source,
            binarize=self.binarize,
            dequantize=self.dequantize,
            divide_by=self.divide_by,
            valid_size=self.valid_size,
            test_size=self.test_size,
            root=self.data_root,
            seed=self.data_seed,
            context=self.context,
            labelled=self.labelled if labels else 0,
            repeats=self.repeats if labels and self.labelled else 1,
            missing=self.missing,
            kinds=self.table,
            **(self._images if Path(source).is_dir() else {}),
        )

    @property
    def _images(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "channels": self.channels}


@dataclass(frozen=True)
class SavedRun:
    """The content of a run directory, ready to use."""

    path: Path
    config: dict[str, Any]
    progress: dict[str, Any]
    vae: Autoencoder
    device: torch.device

    @property
    def table(self) -> Table | None:
        """The columns of the training data, if they came from a table."""
        return DataSettings.of(self.config).table

    @property
    def weights(self) -> str:
        """In words, which weights the VAE has."""
        return weights_in_words(self.config, self.progress)

    @property
    def weights_sha256(self) -> str:
        """The fingerprint of the weights themselves."""
        return fingerprint(*self.vae.state_dict().values())


def open_saved(options: Namespace, device: torch.device | None = None, run: str | None = None) -> SavedRun:
    """Load the run that the options name, or `run`, on the device that they name, or `device`."""
    path, device = Path(run or options.run), device or choose_device(options.device)
    check_folder(path)
    progress, config = read_manifest(path)["progress"], read_config(path, trained=True)
    return SavedRun(path, config, progress, load(path, trust=options.trust, device=str(device)), device)


def check_folder(path: Path) -> None:
    """Refuse an archive, beside whose files results can't be written."""
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file: expected the folder of a run; pyro-vae unpack makes one of an archive"
        )


@dataclass(frozen=True)
class Chosen:
    """Some data of a split of a data set.

    Args:
        data: the data set.
        split: train | valid | test.
        x: the data, `[N, *event]`, nan where not observed.
        inputs: further inputs of the programs, e.g. a context `c`, by name; of data with gaps their `mask`.
        labels: their classes `[N]`, on the CPU, -1 where the class is not known; None if there are no labels.
    """

    data: Dataset
    split: str
    x: torch.Tensor
    inputs: dict[str, Any]
    labels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


def load_split(saved: SavedRun, options: Namespace, num: int | None) -> Chosen:
    """`num` data (None: all) of the split that the options name, of the run's data set or `--data`; checked."""
    if options.split == "all":
        chosen = choose(_whole(saved, options.data), "train", num, saved.device)
    else:
        chosen = choose(load_data_of(saved, options.data), options.split, num, saved.device)
    if num is not None and num > len(chosen):
        remark(f"{num} data asked for: {options.split} has only {len(chosen)}, and all are taken")
    check_chosen(saved, chosen, f"{options.split} data")
    return chosen


def _whole(saved: SavedRun, other: str | None) -> Dataset:
    """A data set without a test set, of which nothing is held out."""
    config = {name: value for name, value in saved.config.items() if name not in ("valid_size", "test_size")}
    data = load_data_of(replace(saved, config=config), other)
    if data.valid is not None or data.test is not None:
        raise UsageError(f"--split all is for a file without a test set: {data.name} has one, so name a split")
    return data


def check_chosen(saved: SavedRun, chosen: "Chosen", name: str) -> None:
    """Refuse data outside the likelihood's support, where they are observed, and a mask that the programs don't take.

    Raises:
        DataError, UsageError: if so.
    """
    mask = chosen.inputs.get("mask")
    if mask is not None and not takes(saved.vae.model, "mask"):
        raise UsageError(f"the data have gaps, and the programs of a {type(saved.vae).__name__} take no mask")
    saved.vae.likelihood.check(chosen.x, name, mask)


def choose(data: Dataset, split: str, num: int | None, device: torch.device) -> Chosen:
    """`num` data of a split, evenly spread over it (None: all), on a device.

    Raises:
        UsageError: if `num` is below 1.
    """
    if num is not None and num < 1:
        raise UsageError(f"expected at least 1 datum of {split}, got {num}")
    size = data.size(split)
    return take(data, split, None if num is None or num >= size else evenly_spread(size, num), device)


def take(data: Dataset, split: str, rows: torch.Tensor | None, device: torch.device) -> Chosen:
    """Some rows of a split (None: all), on a device."""
    x, which = (data.split(split), slice(None)) if rows is None else (data.select(split, rows), rows)
    inputs = data.widen_inputs(data.given(split, which))
    labels = data.labels[split].cpu()[which] if split in data.labels else None
    return Chosen(data, split, x.to(device), {name: value.to(device) for name, value in inputs.items()}, labels)


def load_data_of(saved: SavedRun, other: str | None = None) -> Dataset:
    """The data set that a run was trained on, or another one prepared likewise.

    Labels as an input `y` are for training: with them log p(x) would be log p(x, y). They are left out if the programs
    can run without them.
    """
    settings = DataSettings.of(saved.config)
    source = other or settings.data
    if source is None:
        raise UsageError(
            f"{saved.path} was trained on an array, which it does not hold: name the data by --data FILE.npz"
        )
    labels = _needs_labels(saved.vae)
    data = settings.load(source, labels) if other is None else _load_other(settings, source, labels)
    if settings.kinds is None and data.table is not None and any(column.levels for column in data.table.columns):
        raise UsageError(f"{source} has texts, and {saved.path} was trained on numbers without levels: give numbers")
    return data


def _load_other(settings: DataSettings, source: str, labels: bool) -> Dataset:
    """Other data than the run's, cut by the run's sizes, which the user hasn't typed now, if they have no splits."""
    try:
        return settings.load(source, labels)
    except HoldOutError as error:
        if error.rows is None:
            return _load_other(replace(settings, **{f"{error.split}_size": 0}), source, labels)
        size = getattr(settings, f"{error.split}_size")
        raise UsageError(
            f"--data {source} has {error.rows} rows, too few to hold out {size} of them as {error.split} data, as the "
            "run did of its own: take all by --split all, where the command has it, or give an .npz with train and test"
        ) from error


def _needs_labels(vae: Autoencoder) -> bool:
    """Whether the programs can't run without the input `y`."""
    y = signature(vae.model).parameters.get("y")
    return y is not None and y.default is Parameter.empty
