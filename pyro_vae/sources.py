"""Where data come from: a named set, an `.npz`, an `.npy`, IDX files; read as the arrays they hold, not yet scaled."""

import difflib
import gzip
import math
import os
import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from pyro_vae.errors import DataError

_DIGITS = Path(__file__).parent / "_data" / "digits.npz"
# The name of each downloadable set: torchvision's class (its folder too) and the prefix of its files.
_TORCHVISION = {
    "mnist": ("MNIST", ""),
    "fashion_mnist": ("FashionMNIST", ""),
    "kmnist": ("KMNIST", ""),
    "emnist": ("EMNIST", "emnist-balanced-"),
}
NAMES = ("digits", "linear_gaussian", *_TORCHVISION)
# The arrays of an `.npz`: ours, Keras's, and the bare ones.
_IMAGE_KEYS = {"train": ("train", "x_train", "x"), "valid": ("valid", "x_valid"), "test": ("test", "x_test")}
_LABEL_KEYS = {
    "train": ("train_labels", "y_train", "y"),
    "valid": ("valid_labels", "y_valid"),
    "test": ("test_labels", "y_test"),
}
_CONTEXT_KEYS = {split: (f"{split}_context",) for split in _IMAGE_KEYS}
_NPY = b"\x93NUMPY"  # how an `.npy` file begins
_IMAGES = re.compile(r".*train-images-idx3-ubyte(\.gz)?")
# What reading a damaged file, or fetching one, is known to raise.
_DAMAGED = (OSError, EOFError, ValueError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
_HOW_TO_INSTALL = (
    "an extra of this package: pip install 'pyro-vae[images]' (beside a CPU build of torch, from the same index as "
    "torch), or pass the path of a folder with the IDX files"
)
_DAMAGED_HEADER = (TypeError, SyntaxError, ArithmeticError, tokenize.TokenError)


class Raw(NamedTuple):
    """What a source holds: arrays, labels and contexts by split, and in `note` what was done to them."""

    name: str
    arrays: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    note: str = ""
    contexts: Mapping[str, np.ndarray] = {}


def read(source: str | Path, root: str | Path | None, download: bool) -> Raw:
    """Read a source; `pyro_vae.data.load_data` says what it may be.

    Raises:
        DataError: it is unknown, absent or damaged.
    """
    if source == "digits":
        return _read_numpy(_DIGITS)
    if isinstance(source, str) and source in _TORCHVISION:
        default = os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae"
        return _read_torchvision(source, Path(root or default).expanduser(), download)
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and _IMAGES.fullmatch(path.name)):
        return _read_idx(path)
    if path.is_file():
        return _read_numpy(path)
    raise DataError(_unknown(str(source)))


def _unknown(source: str) -> str:
    close = difflib.get_close_matches(source.lower().replace("-", "_"), NAMES, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    known = f"expected one of {', '.join(NAMES)}, or the path of an .npz, an .npy or IDX files"
    return f"no data at {source!r}{guess}: {known}"


def _read_numpy(path: Path) -> Raw:
    try:
        with path.open("rb") as file:  # opened here, since numpy leaves a damaged .npz open
            content = {"x": _map(path)} if file.read(6) == _NPY else _load(file)
            arrays, labels, contexts = (_pick(content, keys) for keys in (_IMAGE_KEYS, _LABEL_KEYS, _CONTEXT_KEYS))
    except (*_DAMAGED, *_DAMAGED_HEADER) as error:
        raise DataError(f"can't read {path}: {_one_line(error)} (expected .npy or .npz without pickles)") from error
    if "train" not in arrays:
        found = ", ".join(map(repr, content)) or "nothing"
        raise DataError(f"{path} has no array 'train', 'x_train' or 'x', only {found}: rename one")
    return Raw(path.stem, arrays, labels, contexts=contexts)


def _map(path: Path) -> np.memmap:
    with np.errstate(over="raise"):  # a size too large for this machine
        return np.load(path, mmap_mode="r", allow_pickle=False)


def _load(file: BinaryIO) -> Mapping[str, np.ndarray]:
    file.seek(0)
    return np.load(file, allow_pickle=False)


def _pick(content: Mapping[str, np.ndarray], keys: Mapping[str, tuple[str, ...]]) -> dict[str, np.ndarray]:
    found = {split: next((name for name in names if name in content), None) for split, names in keys.items()}
    return {split: np.asanyarray(content[name]) for split, name in found.items() if name is not None}


def _read_idx(path: Path) -> Raw:
    images = path.absolute() if path.is_file() else _training_images(path.absolute())
    prefix = images.name[: images.name.index("train-images")]
    folder = images.parent.parent if images.parent.name == "raw" else images.parent
    return _read_idx_splits(prefix.rstrip("-_") or folder.name, images.parent, prefix)


def _training_images(folder: Path) -> Path:
    for places in ([folder], [folder / "raw"], sorted(folder.glob("*/raw"))):
        files = [file for place in places if place.is_dir() for file in place.iterdir() if _IMAGES.fullmatch(file.name)]
        found = {file.with_name(file.name.removesuffix(".gz")): file for file in sorted(files)}
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in found.values())
            raise DataError(f"{folder} holds several training sets: give the path of one of {names}")
        if found:
            return next(iter(found.values()))
    raise DataError(f"{folder} holds no IDX files: expected train-images-idx3-ubyte or train-images-idx3-ubyte.gz")


def _read_idx_splits(name: str, folder: Path, prefix: str) -> Raw:
    images = {split: _read_idx_file(file, 3) for split, file in _idx_files(folder, prefix, "images-idx3").items()}
    labels = {split: _read_idx_file(file, 1) for split, file in _idx_files(folder, prefix, "labels-idx1").items()}
    if not prefix.startswith("emnist"):
        return Raw(name, images, labels)
    return Raw(name, {split: x.swapaxes(1, 2) for split, x in images.items()}, labels, "transposed upright")


def _idx_files(folder: Path, prefix: str, kind: str) -> dict[str, Path]:
    stems = {"train": ("train",), "test": ("t10k", "test")}
    candidates = [
        (split, folder / f"{prefix}{stem}-{kind}-ubyte{packed}")
        for split, names in stems.items()
        for stem in names
        for packed in (".gz", "")  # where both are there, the unpacked one is read
    ]
    return {split: file for split, file in candidates if file.is_file()}


def _read_idx_file(path: Path, dims: int) -> np.ndarray:
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except _DAMAGED as error:
        raise DataError(f"can't read {path}: {_one_line(error)}") from error
    if content[:4] != bytes([0, 0, 8, dims]):
        raise DataError(f"{path} is not an IDX file of unsigned bytes in {dims} dimensions: it begins {content[:4]!r}")
    start = 4 + 4 * dims
    shape = tuple(int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4))
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise DataError(f"{path} is damaged: {len(content)} bytes, expected {expected} for shape {shape}")
    return np.frombuffer(content, np.uint8, offset=start, count=math.prod(shape)).reshape(shape)


def _read_torchvision(name: str, root: Path, download: bool) -> Raw:
    set_name, prefix = _TORCHVISION[name]
    folder = root / set_name / "raw"
    if download and len(_idx_files(folder, prefix, "images-idx3")) < 2:
        _download(set_name, root)
    if len(_idx_files(folder, prefix, "images-idx3")) < 2:
        remedy = "pass download=True (--download true), or the path of a folder with its IDX files"
        raise DataError(f"{name} is not in {root}: {remedy}")
    return _read_idx_splits(name, folder, prefix)


def _download(set_name: str, root: Path) -> None:
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise DataError(f"downloading {set_name} takes torchvision, {_HOW_TO_INSTALL}") from error
    except Exception as error:  # one that was built for another torch fails with more than ImportError
        raise DataError(
            f"torchvision, which downloads {set_name}, can't be imported ({_one_line(error)}): install the one that "
            "belongs to this torch, or pass the path of a folder with the IDX files"
        ) from error
    options = {"split": "balanced"} if set_name == "EMNIST" else {}
    try:
        getattr(datasets, set_name)(str(root), download=True, **options)
    except _DAMAGED as error:
        remedy = "try again, or pass the path of a folder with the IDX files"
        raise DataError(f"can't download {set_name} to {root} ({_one_line(error)}): {remedy}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
