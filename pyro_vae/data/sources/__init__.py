"""Sources of data, read as arrays, unscaled: a named set; an `.npz`, an `.npy`, a table in a CSV or Parquet file; a
folder of images, of arrays or of IDX files.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.arguments.remedies import nearest, option, spoken
from pyro_vae.data.cells import Cells
from pyro_vae.data.places import data_root
from pyro_vae.data.sources.csv_files import read_csv
from pyro_vae.data.sources.formats import DAMAGED, READABLE, format_of, reason
from pyro_vae.data.sources.idx_files import IMAGES, has_idx_files, idx_files, read_idx_file, training_images
from pyro_vae.data.sources.image_folders import has_images, store_images
from pyro_vae.data.sources.images import AS_THEY_ARE, ImageOptions
from pyro_vae.data.sources.numpy_files import Arrays, read_npy
from pyro_vae.data.sources.parquet_files import read_parquet
from pyro_vae.data.sources.stored_folders import Folder, is_stored
from pyro_vae.errors import DataError, UsageError

_log = logging.getLogger("pyro_vae")


_DIGITS = Path(__file__).parents[1] / "packaged" / "digits.npz"


# The name of each downloadable set: torchvision's class (its folder too) and the prefix of its files.
_TORCHVISION = {
    "mnist": ("MNIST", ""),
    "fashion_mnist": ("FashionMNIST", ""),
    "kmnist": ("KMNIST", ""),
    "emnist": ("EMNIST", "emnist-balanced-"),
}


NAMES = ("digits", "linear_gaussian", *_TORCHVISION)


# Names of arrays in an `.npz`: this package's, Keras's, and x and y.
_DATA_KEYS = {"train": ("train", "x_train", "x"), "valid": ("valid", "x_valid"), "test": ("test", "x_test")}


_LABEL_KEYS = {
    "train": ("train_labels", "y_train", "y"),
    "valid": ("valid_labels", "y_valid"),
    "test": ("test_labels", "y_test"),
}


_CONTEXT_KEYS = {split: (f"{split}_context",) for split in _DATA_KEYS}


_MASK_KEYS = {split: (f"{split}_mask",) for split in _DATA_KEYS}


_KNOWN = [
    name for keys in (_DATA_KEYS, _LABEL_KEYS, _CONTEXT_KEYS, _MASK_KEYS) for names in keys.values() for name in names
]


_HOW_TO_INSTALL = (
    "an extra of this package: pip install 'pyro-vae[images]' (with a CPU build of torch, from the same index as "
    "torch), or pass the path of a folder with the IDX files"
)


@dataclass(frozen=True)
class Raw:
    """The arrays of a source.

    Args:
        name: name of the source.
        arrays: the data by split.
        labels: labels by split, or the reason why they can't be read, which matters only if they are used.
        note: a change that was made to the arrays.
        contexts: contexts by split, if requested.
        masks: masks of observed elements by split, if requested.
        cells: the fields of a table, in place of its array.
        kinds: of the columns of the table, as far as their types say them.
    """

    name: str
    arrays: dict[str, np.ndarray]
    labels: Mapping[str, np.ndarray | str] = field(default_factory=dict)
    note: str = ""
    contexts: Mapping[str, np.ndarray] = field(default_factory=dict)
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    cells: Cells | None = None
    kinds: Mapping[str, Any] = field(default_factory=dict)


def read(
    source: str | Path,
    root: str | Path | None,
    download: bool,
    contexts: bool = False,
    gaps: float | str | None = None,
    texts: bool = False,
    images: ImageOptions = AS_THEY_ARE,
    progress: bool = True,
) -> Raw:
    """Read a source; see `pyro_vae.data.load_data`.

    Args:
        source: a name or a path.
        root: folder of the downloadable sets.
        download: whether to download a set that is not there.
        contexts: whether to read the contexts of an `.npz` too.
        gaps: `"mask"` to read the masks of an `.npz` too, `"nan"` to read empty fields of a table as nan.
        texts: whether to keep all fields of a table as they are written.
        images: how the images of a folder become arrays of one shape.
        progress: whether to show the progress of long work.

    Raises:
        DataError: if it is unknown, absent or damaged.
    """
    if source == "digits":
        return _read_arrays(Arrays(_DIGITS), contexts, gaps == "mask")
    if isinstance(source, str) and source in _TORCHVISION:
        return _read_torchvision(source, data_root(root), download)
    path = _existing(source)
    if path.is_dir() and is_stored(path):
        return _read_stored(Folder(path), contexts, gaps)
    if path.is_dir() and not has_idx_files(path) and has_images(path):
        stored = Folder(store_images(path.absolute(), images, root, progress))
        return replace(_read_arrays(stored, contexts, gaps == "mask"), name=path.absolute().name)
    if images.given:
        names = " and ".join(f"{spoken('', '--')}{name}" for name in images.given)
        raise UsageError(f"{names}: for a folder of images, and {path} is none")
    if path.is_dir() or IMAGES.fullmatch(path.name):
        return _read_idx(path)
    return _read_file(path, contexts, gaps, texts)


def _existing(source: str | Path) -> Path:
    """The path of a file or a folder.

    Raises:
        DataError: if it does not exist.
    """
    if re.match(r"\w+://", str(source)):
        raise DataError(f"{str(source)!r} is an address: download it, and give the path of the file")
    try:
        path = Path(source).expanduser()
        if str(source) and (path.is_file() or path.is_dir()):
            return path
        there = str(source) and path.exists()
    except (OSError, ValueError, RuntimeError):  # not a valid file name
        there = False
    if there:
        raise DataError(
            f"{str(source)!r} is not a regular file: expected the path of one, or a folder of images or IDX files"
        )
    raise DataError(_unknown(str(source)))


def _unknown(source: str) -> str:
    named = nearest(source.lower().replace("-", "_"), NAMES)
    guess = f" ({(named or _nearest_file(source))[2:]})" if named or _nearest_file(source) else ""
    files = "an .npz, an .npy, a CSV or Parquet file, or a folder of images or IDX files"
    known = f"expected one of {', '.join(NAMES)}, or the path of {files}"
    return f"no data at {source!r}{guess}: {known}"


def _nearest_file(source: str) -> str:
    """A suggestion: a file in the same folder with a similar name."""
    try:
        path = Path(source).expanduser()
        names = [other.name for other in path.parent.iterdir()]
    except (OSError, ValueError, RuntimeError):
        return ""
    return nearest(path.name, names, cutoff=0.8)


def _read_file(path: Path, contexts: bool, gaps: float | str | None, texts: bool) -> Raw:
    kind = format_of(path)
    if kind == "zip":
        return _read_arrays(Arrays(path), contexts, gaps == "mask")
    if kind == "parquet":
        cells, kinds = read_parquet(path)
        return Raw(path.stem, {}, cells=cells, kinds=kinds)
    if kind == "npy":
        return Raw(path.stem, {"train": read_npy(path)})
    if kind == "text":
        return Raw(path.stem, {}, cells=read_csv(path, empty=gaps == "nan", with_texts=texts))
    if kind == "gzip":
        raise DataError(f"can't read {path}: it is compressed by gzip: unpack it first; expected {READABLE}")
    expected = "train-images-idx3-ubyte, with t10k-images-idx3-ubyte in the same folder for test"
    raise DataError(f"can't read {path}: it is an IDX file, and must be called {expected}")


def _read_stored(folder: Folder, contexts: bool, gaps: float | str | None) -> Raw:
    """A folder of arrays; where some elements were not observed, that must be said: they are 0 there."""
    if gaps != "mask" and (masks := [name for name in folder.names if name.endswith("_mask")]):
        how = option("missing", spoken(repr("mask"), "mask"))
        raise UsageError(f"{folder.path} has {masks[0]}.npy, which says what was observed: pass {how}")
    return _read_arrays(folder, contexts, gaps == "mask")


def _read_arrays(content: Arrays | Folder, contexts: bool, masks: bool) -> Raw:
    """The arrays of an `.npz` or a folder, by their names."""
    path, keys = content.path, (_DATA_KEYS, _LABEL_KEYS, _CONTEXT_KEYS, _MASK_KEYS)
    data, labels, context, mask = (_chosen(content.names, names) for names in keys)
    for name in () if masks else mask.values():
        how = spoken("missing='mask'", "--missing mask, for fit and impute,")
        remedy = f"with {how} it says what was observed. Known: {', '.join(_KNOWN)}"
        _log.warning("%s: the array %r is not read: %s", path, name, remedy)
    content.warn_of_others([*data.values(), *labels.values(), *context.values(), *mask.values()], _KNOWN)
    context, mask = context if contexts else {}, mask if masks else {}
    if "train" not in data:
        found = ", ".join(map(repr, content.names)) or "nothing"
        raise DataError(f"{path} has no array 'train', 'x_train' or 'x', only {found}: rename one")
    content.check_memory([*data.values(), *context.values(), *mask.values()])
    return Raw(
        path.name if path.is_dir() else path.stem,
        {split: content[name] for split, name in data.items()},
        {split: _lenient(content, name) for split, name in labels.items()},
        contexts={split: content[name] for split, name in context.items()},
        masks={split: content[name] for split, name in mask.items()},
    )


def _lenient(content: Arrays | Folder, name: str) -> np.ndarray | str:
    """An array, or the reason why it can't be read."""
    try:
        return content[name]
    except DataError as error:
        return str(error)


def _chosen(names: Iterable[str], keys: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """The first name of each split that exists."""
    there = set(names)
    found = {split: next((name for name in wanted if name in there), None) for split, wanted in keys.items()}
    return {split: name for split, name in found.items() if name is not None}


def _read_idx(path: Path) -> Raw:
    images = path.absolute() if path.is_file() else training_images(path.absolute())
    prefix = images.name[: images.name.index("train-images")]
    folder = images.parent.parent if images.parent.name == "raw" else images.parent
    return _read_idx_splits(prefix.rstrip("-_") or folder.name, images.parent, prefix)


def _read_idx_splits(name: str, folder: Path, prefix: str) -> Raw:
    images = {split: read_idx_file(file, 3) for split, file in idx_files(folder, prefix, "images-idx3").items()}
    labels = {split: read_idx_file(file, 1) for split, file in idx_files(folder, prefix, "labels-idx1").items()}
    if not prefix.startswith("emnist"):
        return Raw(name, images, labels)
    return Raw(name, {split: x.swapaxes(1, 2) for split, x in images.items()}, labels, "transposed upright")


def _read_torchvision(name: str, root: Path, download: bool) -> Raw:
    set_name, prefix = _TORCHVISION[name]
    folder = root / set_name / "raw"
    if download and len(idx_files(folder, prefix, "images-idx3")) < 2:
        _download(set_name, root)
    if len(idx_files(folder, prefix, "images-idx3")) < 2:
        raise DataError(
            f"{name} is not in {root}: pass {option('download', True)}, or the path of a folder with its IDX files"
        )
    return _read_idx_splits(name, folder, prefix)


def _download(set_name: str, root: Path) -> None:
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"downloading {set_name} takes torchvision, {_HOW_TO_INSTALL}") from error
    except Exception as error:  # one built for another version of torch raises other errors than ImportError
        raise DataError(
            f"torchvision, which downloads {set_name}, can't be imported ({reason(error)}): install the version "
            "for this torch, or pass the path of a folder with the IDX files"
        ) from error
    options = {"split": "balanced"} if set_name == "EMNIST" else {}
    try:
        getattr(datasets, set_name)(str(root), download=True, **options)
    except DAMAGED as error:
        remedy = "try again, or pass the path of a folder with the IDX files"
        raise DataError(f"can't download {set_name} to {root} ({reason(error)}): {remedy}") from error
