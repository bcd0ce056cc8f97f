"""Folders of `.npy` files that are called as the arrays of an `.npz` are: each is memory-mapped."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pyro_vae.arguments.remedies import nearest
from pyro_vae.data.sources.numpy_files import read_npy
from pyro_vae.data.storing.folders import MANIFEST, read_manifest
from pyro_vae.errors import DataError

_log = logging.getLogger("pyro_vae")


def is_stored(folder: Path) -> bool:
    """Whether a folder has the arrays of a data set, or says that it was stored by this package."""
    return (folder / "train.npy").is_file() or (folder / MANIFEST).is_file()


class Folder:
    """The arrays of a folder, each mapped on access; with the methods of `Arrays`, of an `.npz`.

    Args:
        path: the folder.

    Raises:
        DataError: if it lacks a file that its manifest names, or one is of another size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = sorted(file.stem for file in path.glob("*.npy") if file.is_file())
        found = read_manifest(path) if (path / MANIFEST).is_file() else None
        for name, about in ({} if found is None else found["arrays"]).items():
            if name not in self.names or list(self[name].shape) != about["shape"]:
                raise DataError(f"{path} is damaged: {name}.npy is not there, or not of shape {about['shape']}")

    def __getitem__(self, name: str) -> np.ndarray:
        """An array, mapped."""
        return read_npy(self.path / f"{name}.npy")

    def check_memory(self, names: Iterable[str]) -> None:
        """Nothing is refused: the files are mapped."""

    def warn_of_others(self, used: Iterable[str], known: Iterable[str]) -> None:
        """Warn of arrays that are not read, with the most similar known name.

        Args:
            used: the names that are read.
            known: all names that have a meaning.
        """
        used, known = set(used), list(known)
        for name in set(self.names) - used:
            close = nearest(name, [other for other in known if other not in used])
            _log.warning("%s: the array %r is not read%s Known: %s", self.path, name, close or ".", ", ".join(known))
