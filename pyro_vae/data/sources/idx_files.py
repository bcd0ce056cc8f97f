"""IDX files, the format of MNIST: a header followed by bytes, possibly compressed by gzip."""

import math
import re
from pathlib import Path

import numpy as np

from pyro_vae.data.sources.formats import check_memory, opened, reading
from pyro_vae.errors import DataError

IMAGES = re.compile(r".*train-images-idx3-ubyte(\.gz)?")


def has_idx_files(folder: Path) -> bool:
    """Whether there is a file of training images where `training_images` looks for it."""
    with reading(folder):
        return any(_there(places) for places in _places(folder))


def training_images(folder: Path) -> Path:
    """The file of training images in a folder, or in a subfolder `raw` as torchvision makes it.

    Raises:
        DataError: if there is none, or more than one set.
    """
    with reading(folder):
        return _only_set(folder)


def _only_set(folder: Path) -> Path:
    for places in _places(folder):
        found = {file.with_name(file.name.removesuffix(".gz")): file for file in sorted(_there(places))}
        if len(found) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in found.values())
            raise DataError(f"{folder} holds several training sets: give the path of one of {names}")
        if found:
            return next(iter(found.values()))
    raise DataError(
        f"{folder} is a folder without images, train.npy or IDX files: expected train-images-idx3-ubyte or "
        f"train-images-idx3-ubyte.gz{_others(folder)}"
    )


def _places(folder: Path) -> tuple[list[Path], ...]:
    """Where sets may lie; only the first that has one counts."""
    return [folder], [folder / "raw"], sorted(folder.glob("*/raw"))


def _there(places: list[Path]) -> list[Path]:
    """The files of training images in some folders."""
    files = [file for place in places if place.is_dir() for file in place.iterdir()]
    return [file for file in files if IMAGES.fullmatch(file.name) and file.is_file()]


def _others(folder: Path) -> str:
    """A suggestion: a file in the folder that can be read."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".npz", ".npy", ".csv", ".parquet"))
    return f", or the path of a file in it, e.g. {names[0]}" if names else ""


def idx_files(folder: Path, prefix: str, kind: str) -> dict[str, Path]:
    """The files of a kind by split; of a compressed and an uncompressed one, the latter."""
    stems = {"train": ("train",), "test": ("t10k", "test")}
    candidates = [
        (split, folder / f"{prefix}{stem}-{kind}-ubyte{packed}")
        for split, names in stems.items()
        for stem in names
        for packed in (".gz", "")
    ]
    return {split: file for split, file in candidates if file.is_file()}


def read_idx_file(path: Path, dims: int) -> np.ndarray:
    """Read an array of unsigned bytes with `dims` dimensions.

    Raises:
        DataError: if the file holds anything else, or is incomplete.
    """
    start = 4 + 4 * dims
    with reading(path), opened(path) as file:
        head = file.read(start)
        if head[:4] != bytes([0, 0, 8, dims]):
            raise DataError(f"{path} is not an IDX file of unsigned bytes in {dims} dimensions: it begins {head[:4]!r}")
        shape = tuple(int.from_bytes(head[i : i + 4], "big") for i in range(4, start, 4))
        check_memory(path, math.prod(shape), "is its header damaged?")
        values = file.read(math.prod(shape) + 1)
    if len(values) != math.prod(shape) or len(head) < start:
        more = " or more" if len(values) > math.prod(shape) else ""
        came = f"{len(head) + len(values)} bytes{more}"
        raise DataError(f"{path} is damaged: {came}, expected {start + math.prod(shape)} for shape {shape}")
    return np.frombuffer(values, np.uint8, count=math.prod(shape)).reshape(shape)
