"""Folders of images: a sub-folder for each class, or for each split and in it one for each class.

Images are decoded once, into arrays that are memory-mapped afterwards: see `storing`. Before that the headers of all
files are read, so that sizes and colours that differ, and what is no image, are found before the work.
"""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyro_vae.arguments.remedies import spoken
from pyro_vae.data.places import data_root
from pyro_vae.data.sources.images import ImageOptions, check_alike, decoded, read_header
from pyro_vae.data.storing.stores import store_in_cache
from pyro_vae.data.streams import SPLITS, Block, Stream
from pyro_vae.data.streams.fields import stacked
from pyro_vae.data.streams.stream import rows_of_block
from pyro_vae.errors import DataError, file_errors
from pyro_vae.messages import Progress

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Of the files that are images."""

_SHOWN = 3

_log = logging.getLogger("pyro_vae")


@dataclass(frozen=True)
class Images:
    """The images of a split, in order.

    Args:
        files: of all.
        labels: of each, the number of its sub-folder among those of train, by the alphabet; None without sub-folders.
    """

    files: Sequence[Path]
    labels: Sequence[int] | None


def has_images(folder: Path) -> bool:
    """Whether there is an image in a folder, or in its sub-folders or theirs."""
    with file_errors(folder, "read"):
        return any(_is_image(path) for pattern in ("*", "*/*", "*/*/*") for path in folder.glob(pattern))


def store_images(folder: Path, options: ImageOptions, root: str | Path | None, progress: bool) -> Path:
    """Decode the images of a folder into arrays, unless that was done before; returns where they are.

    Args:
        folder: with the images.
        options: how they become arrays of one shape.
        root: where to keep the arrays; see `data_root`.
        progress: whether to show it.

    Raises:
        DataError: if images differ in size or colours and `options` do not say what to do; or if one is damaged.
        FileError: if the disk is full, or the arrays can't be written.
    """
    with file_errors(folder, "read"):
        splits = images_of(folder)
        key = _listing(folder, splits, options)
    place = data_root(root) / "stored" / f"{folder.name}-{_short(f'{folder} {options}')}"
    another = spoken("root=FOLDER", "--data_root FOLDER")

    def begin() -> dict[str, Stream]:
        files = [file for images in splits.values() for file in images.files]
        with Progress(len(files), "header", progress) as bar:
            headers = []
            for file in files:
                headers.append(read_header(file))
                bar.show(len(headers))
        check_alike(headers, options)
        return {split: _stream(split, images, options) for split, images in splits.items()}

    return store_in_cache(begin, place, key, f"name a folder to keep them in by {another}", progress)


def _stream(split: str, images: Images, options: ImageOptions) -> Stream:
    def blocks() -> Iterator[Block]:
        start, rows = 0, 1  # the first one says how large they are
        while start < len(images.files):
            items: list[Block] = []
            for file in images.files[start : start + rows]:
                label = {} if images.labels is None else {"labels": np.asarray(images.labels[start + len(items)])}
                items.append({"x": decoded(file, options), **label})
            yield stacked(items, start, split)
            start, rows = start + len(items), rows_of_block(items[0]["x"].size)

    return Stream("folder of images", blocks, size=len(images.files))


# ---- which files -----------------------------------------------------------------------------------------------------


def images_of(folder: Path) -> dict[str, Images]:
    """The images of each split.

    Raises:
        DataError: if a split has none, or some of them lie in no sub-folder, or in one that train does not have.
    """
    places = _splits(folder)
    found = {split: _by_class(place) for split, place in places.items()}
    classes = [name for name, files in found["train"].items() if name and files]
    return {split: _of_split(place, found[split], classes) for split, place in places.items()}


def _splits(folder: Path) -> dict[str, Path]:
    """The folder of each split; of a folder without a sub-folder `train`, itself as train."""
    inside = _sub_folders(folder)
    if "train" not in inside:
        return {"train": folder}
    found: dict[str, Path] = {}
    for name, place in inside.items():
        if name not in SPLITS:
            classes = f"put classes into {folder / 'train'}, or rename 'train' if it is one"
            raise DataError(f"{folder} has the sub-folder 'train', for a split, and beside it {name!r}: {classes}")
        if SPLITS[name] in found:
            raise DataError(f"{folder} has two sub-folders of the split {SPLITS[name]!r}: rename one, e.g. {name!r}")
        found[SPLITS[name]] = place
    return found


def _of_split(place: Path, by_class: Mapping[str, Sequence[Path]], classes: Sequence[str]) -> Images:
    loose = by_class[""]
    inside = [(name, file) for name, files in by_class.items() for file in files if name]
    if not loose and not inside:
        raise DataError(f"{place} has no image: expected files that end in {', '.join(ENDINGS)}")
    if bool(loose) == bool(classes) or (loose and inside):
        without = loose[0] if loose else place
        raise DataError(f"{without} has no label, and others have: put each image into the sub-folder of its class")
    if loose:
        return Images(loose, None)
    if unknown := sorted({name for name, _ in inside} - set(classes)):
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        raise DataError(f"{place / unknown[0]} is a class that train does not have: its classes are {known}")
    inside.sort(key=lambda pair: _short(str(pair[1].relative_to(place))))  # so that the last n are some of each class
    return Images([file for _, file in inside], [classes.index(name) for name, _ in inside])


def _by_class(place: Path) -> dict[str, list[Path]]:
    """The images of each sub-folder, in order, and under no name those beside the sub-folders."""
    loose = sorted(path for path in place.iterdir() if _is_image(path))
    found, others = {"": loose}, [path.name for path in place.iterdir() if path.is_file() and not _is_image(path)]
    for name, folder in _sub_folders(place).items():
        below = sorted(Path(top) / file for top, _, files in os.walk(folder) for file in files)
        found[name] = [path for path in below if _is_image(path)]
        others += [path.name for path in below if not _is_image(path)]
    if named := [name for name in others if not name.startswith(".")]:
        shown = ", ".join(named[:_SHOWN]) + (", ..." if len(named) > _SHOWN else "")
        _log.warning("%s: %d files are no images by their names and are left out: %s", place, len(named), shown)
    return found


def _sub_folders(folder: Path) -> dict[str, Path]:
    """Those that are not hidden, by name, in order."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")}


def _is_image(path: Path) -> bool:
    hidden = path.name.startswith(".")  # e.g. ._1.png, which another system leaves beside 1.png
    return path.suffix.lower() in ENDINGS and not hidden and path.is_file()


def _listing(folder: Path, splits: dict[str, Images], options: ImageOptions) -> str:
    """Changes whenever a file does, by its name, size or time; or the options."""
    entries = []
    for split, images in splits.items():
        for file in images.files:
            about = file.stat()
            entries.append([split, str(file.relative_to(folder)), about.st_size, about.st_mtime_ns])
    return hashlib.sha256(json.dumps([options.given, entries]).encode()).hexdigest()


def _short(text: str) -> str:
    """Sixteen hexadecimal digits that stand for a text."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
