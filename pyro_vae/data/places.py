"""Where the package keeps data of its own: downloads, what was stored of a folder of images, scratch files."""

import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_vae.errors import FileError, file_errors

_PREFIX = "scratch-"

_NEW = 60
"""Seconds within which a process locks a folder that it has made."""


def data_root(root: str | Path | None = None) -> Path:
    """`root` if it is given, else `$PYRO_VAE_DATA`, else `~/.cache/pyro_vae`."""
    return Path(root or os.environ.get("PYRO_VAE_DATA") or "~/.cache/pyro_vae").expanduser()


def free_space(folder: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist.

    Raises:
        FileError: if the system does not say.
    """
    with file_errors(folder, "write"):
        real = Path(os.path.realpath(folder))
        return shutil.disk_usage(next(there for there in (real, *real.parents) if there.is_dir())).free


def check_room(folder: Path, size: int) -> None:
    """Refuse to write more than the disk of a folder has room for.

    Raises:
        FileError: if it has not.
    """
    if size > (free := free_space(folder)):
        raise no_room(folder, f"{human(size)} are needed, and {human(free)} are free: {_ELSEWHERE}")


_ELSEWHERE = "take fewer data, or name a folder on a larger disk by the environment variable PYRO_VAE_DATA"


def no_room(path: Path, problem: str) -> FileError:
    """The error for a disk that is too small."""
    error = FileError(f"can't write {path}: {problem}")
    error.errno, error.strerror, error.filename = errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)
    return error


def human(size: float) -> str:
    """A number of bytes in words.

    Example:
        >>> human(500), human(20 * 2**30), human(3 * 2**20 / 2)
        ('500 bytes', '20.0 GiB', '1.5 MiB')
    """
    for unit, least in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= least:
            value = size / least
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{size:.0f} bytes"


@contextmanager
def scratch_folder() -> Iterator[str]:
    """A new folder on the disk of `data_root()`, deleted at the end; a later one deletes those of killed processes.

    Raises:
        FileError: if it can't be made.
    """
    root = data_root() / "scratch"
    with file_errors(root, "write"):
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = tempfile.mkdtemp(prefix=_PREFIX, dir=root)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _sweep(root: Path) -> None:
    """Delete the folders that no process holds."""
    for folder in root.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime < _NEW:
                continue
            held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(held)
