"""The files of a run directory, read and written as a whole; nothing outside the directory is touched.

A run directory may come from anyone, so a link, a FIFO, a socket or a device instead of one of its files or folders is
refused before it is opened, and never followed. The run directory itself may be a link, or lie behind one (`runs ->
/big/disk`): its owner chose that, and only what is inside is checked.

A file is written under a temporary name that no other process uses, synced and renamed, so that under its own name
there is always the whole old or the whole new content.
"""

import errno
import io
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from stat import S_ISDIR, S_ISREG
from typing import IO, Any, Literal

import numpy as np

from pyro_vae.errors import CheckpointError, FileError, file_errors
from pyro_vae.runs.archives import has_packed, read_packed

LARGEST_TEXT = 1 << 26
"""Largest text file that is read, bytes: a million epochs of metrics."""


_TRIED = 1 << 16
"""Free space that a disk must have for a result, bytes."""


_ABANDONED = 3600
"""Seconds after which a temporary file belongs to no process that still writes it."""


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


INSIDE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


_WRONG_KIND = (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO, errno.ENODEV)
"""Error numbers of the system for a link, a file instead of a folder, a folder instead of a file, a socket, a
device."""


_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


class WrongKindError(OSError):
    """No regular file where one was expected, or no folder."""


# ---- reading and writing -------------------------------------------------------------------------------------------


def read(run: Path, name: str, largest: int | None = None) -> bytes:
    """The content of a file of a run.

    Args:
        run: the directory, or an archive that `pack` made of one.
        name: the file's path inside it.
        largest: most bytes that it may have; None for any number.

    Raises:
        CheckpointError: if it is no regular file, or larger.
        FileError: if it is not there (`errno.ENOENT`) or can't be read.
    """
    if run.is_file():
        return read_packed(run, name, largest)
    with opened(run, name) as file:
        size = os.fstat(file.fileno()).st_size
        if largest is not None and size > largest:
            raise CheckpointError(f"{run / name} is damaged: it has {size} bytes, more than {largest}")
        return file.read()


@contextmanager
def opened(run: Path, name: str) -> Iterator[IO[bytes]]:
    """A file of a run directory, open for reading.

    Args:
        run: the directory.
        name: the file's path inside it.

    Raises:
        CheckpointError: if it is no regular file.
        FileError: if it is not there (`errno.ENOENT`) or can't be read.
    """
    with of_a_run(run / name, "read"), folder_of(run, name) as (folder, last):
        check_file(os.stat(last, dir_fd=folder, follow_symlinks=False))
        with os.fdopen(os.open(last, os.O_RDONLY | INSIDE, dir_fd=folder), "rb") as file:
            check_file(os.fstat(file.fileno()))
            yield file


def write(run: Path, name: str, data: bytes, synced: bool = True) -> None:
    """Write a file of a run directory; a folder inside is made if it is not there.

    Args:
        run: the directory, which is there.
        name: the file's path inside it, e.g. `"pictures/curves.png"`.
        data: its new content.
        synced: whether to wait for the disk; else the content may be lost if the power fails, not if a process dies.

    Raises:
        CheckpointError: if its name, or that of its folder, belongs to something else than a regular file, or a folder.
        FileError: if it can't be written.
    """
    with of_a_run(run / name, "write"), folder_of(run, name, make=True) as (folder, last):
        _replace(folder, last, data, synced)


def check_writable(run: Path, name: str) -> None:
    """Raise what `write` would raise, before the work whose result will be written; no file is changed."""
    with of_a_run(run / name, "write"), folder_of(run, name, make=True) as (folder, last):
        check_place(folder, last)
        _try(folder, last)


def check_anywhere(path: Path) -> None:
    """Raise what `write_atomic` would raise; apart from making the folder of the file, nothing is changed.

    Raises:
        FileError: if it can't be written, or is no regular file.
    """
    with file_errors(path, "write"):
        real = Path(os.path.realpath(path))
        there = next(folder for folder in real.parents if folder.exists())
        with folder_of(there, real.name) as (folder, name):
            if there == real.parent:
                check_place(folder, name)
            _try(folder, name)


def has(run: Path, name: str) -> bool:
    """Whether a run directory, or its archive, has a file of this name.

    Raises:
        CheckpointError: if something else than a regular file has this name.
    """
    if run.is_file():
        return has_packed(run, name)
    with of_a_run(run / name, "read"):
        try:
            check_file(os.lstat(run / name))
        except FileNotFoundError:
            return False
    return True


def remove(run: Path, pattern: re.Pattern[str], keep: set[str]) -> None:
    """Delete the regular files of a directory whose whole name matches, except those to keep."""
    with file_errors(run, "write"):
        for name in regular_files(run):
            if pattern.fullmatch(name) and name not in keep:
                (run / name).unlink(missing_ok=True)


def regular_files(run: Path) -> list[str]:
    """The names of the regular files in a directory itself."""
    with os.scandir(run) as entries:
        return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))


def all_files(run: Path, below: str = "") -> Iterator[tuple[str, bool]]:
    """All files of a run directory, also in folders inside: the path of each, and whether it is a regular one.

    Raises:
        FileError: if a folder can't be read.
    """
    with of_a_run(run / below, "read"), os.scandir(run / below) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            name = f"{below}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from all_files(run, f"{name}/")
            else:
                yield name, entry.is_file(follow_symlinks=False)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that the user named, anywhere: whole or not at all. A link is followed, as other programs do.

    Raises:
        FileError: if it can't be written, or is no regular file.
    """
    real = Path(os.path.realpath(path))
    with file_errors(path, "write"), folder_of(real.parent, real.name) as (folder, last):
        _replace(folder, last, data)


@contextmanager
def appearing(path: Path, overwrite: bool) -> Iterator[IO[bytes]]:
    """A new file that the user named, to be written piece by piece: it appears under its name when it is whole.

    Args:
        path: the file; a link is followed.
        overwrite: whether it may take the place of a file that is there.

    Raises:
        FileError: if it can't be written, is there already, or is no regular file.
    """
    real = Path(os.path.realpath(path))
    with (
        file_errors(path, "write"),
        folder_of(real.parent, real.name) as (folder, last),
        _appearing(folder, last, overwrite) as file,
    ):
        yield file


@contextmanager
def _appearing(folder: int, last: str, overwrite: bool) -> Iterator[IO[bytes]]:
    check_place(folder, last)
    temporary, descriptor = _made(folder, last)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _link(folder, temporary, last)
    finally:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
    os.fsync(folder)


def write_all(files: Mapping[Path, bytes], run: Path | None = None) -> None:
    """Write several files that belong together, each atomically; none appears before all are on the disk.

    Args:
        files: their contents by path; a folder is made if it is not there.
        run: the run directory that they lie in, where links are refused; None for files that the user named.

    Raises:
        CheckpointError: if something else than a regular file or folder is in a place in the run.
        FileError: if one can't be written; then none is.
    """
    with ExitStack() as held:
        for path, data in files.items():
            file = held.enter_context(_anywhere(path) if run is None else _inside(run, path))
            with file_errors(path, "write"):
                file.write(data)
                file.flush()
                os.fsync(file.fileno())


@contextmanager
def _anywhere(path: Path) -> Iterator[IO[bytes]]:
    with file_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path, overwrite=True) as file:
        yield file


@contextmanager
def _inside(run: Path, path: Path) -> Iterator[IO[bytes]]:
    name = path.relative_to(run).as_posix()
    with (
        of_a_run(path, "write"),
        folder_of(run, name, make=True) as (folder, last),
        _appearing(folder, last, overwrite=True) as file,
    ):
        yield file


def _link(folder: int, temporary: str, last: str) -> None:
    """Give a file a second name, if nothing has it."""
    try:
        os.link(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if last in os.listdir(folder):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.replace(temporary, last, src_dir_fd=folder, dst_dir_fd=folder)


def packed(arrays: Mapping[str, Any]) -> bytes:
    """Arrays as the bytes of a compressed `.npz`."""
    buffer = io.BytesIO()
    named: dict[str, Any] = {name: np.asarray(value) for name, value in arrays.items()}
    np.savez_compressed(buffer, **named)
    return buffer.getvalue()


def _replace(folder: int, name: str, data: bytes, synced: bool = True) -> None:
    check_place(folder, name)
    temporary, descriptor = _made(folder, name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if synced:
                os.fsync(file.fileno())
        os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=folder)
        raise
    if synced:
        os.fsync(folder)
    _sweep(folder, name)


def _sweep(folder: int, name: str) -> None:
    """Delete what killed processes left of this file: temporary files that are an hour older than the file itself."""
    left = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{12}}\.tmp")
    with suppress(OSError):  # another process may write and delete here too
        written = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
        for temporary in filter(left.fullmatch, os.listdir(folder)):
            found = os.stat(temporary, dir_fd=folder, follow_symlinks=False)
            if S_ISREG(found.st_mode) and found.st_mtime < written - _ABANDONED:
                os.unlink(temporary, dir_fd=folder)


def _try(folder: int, name: str) -> None:
    """Write a small temporary file in the folder of `name`, and delete it."""
    temporary, descriptor = _made(folder, name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(_TRIED))
    finally:
        os.unlink(temporary, dir_fd=folder)


def _made(folder: int, name: str) -> tuple[str, int]:
    """A new empty file in the folder of `name`, under an unpredictable name: this name, and the open file."""
    temporary = f".{name}.{secrets.token_hex(6)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | INSIDE
    return temporary, os.open(temporary, flags, 0o666, dir_fd=folder)


# ---- what is where --------------------------------------------------------------------------------------------------


@contextmanager
def folder_of(run: Path, name: str, make: bool = False) -> Iterator[tuple[int, str]]:
    """The open folder of a file, and the file's name in it; links among the folders inside the run are refused."""
    *inner, last = PurePosixPath(name).parts
    with ExitStack() as held, _without_names():
        folder = _held(held, os.open(run, _FOLDER))
        for part in inner:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            folder = _held(held, os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=folder))
        yield folder, last


@contextmanager
def _without_names() -> Iterator[None]:
    """Remove the name from an error of the system: it is relative to an open folder; the caller knows the path."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename2 = None
        raise


def _held(stack: ExitStack, descriptor: int) -> int:
    stack.callback(os.close, descriptor)
    return descriptor


def check_place(folder: int, name: str) -> None:
    """Refuse a name in an open folder that something else than a regular file has."""
    with suppress(FileNotFoundError):
        check_file(os.stat(name, dir_fd=folder, follow_symlinks=False))


def check_file(found: os.stat_result) -> None:
    """Refuse what is not a regular file."""
    if not S_ISREG(found.st_mode):
        raise WrongKindError(errno.EISDIR if S_ISDIR(found.st_mode) else errno.ENXIO, "is no regular file")


@contextmanager
def of_a_run(path: Path, doing: Literal["read", "write"]) -> Iterator[None]:
    """Refuse what is not a regular file or folder; any other error of the system gets the whole path."""
    try:
        with file_errors(path, doing):
            yield
    except FileError as error:
        if error.errno in _WRONG_KIND:
            raise CheckpointError(
                f"refused to use {path}: expected a regular file in a folder, and found a link, a folder or a device "
                "in the place of one of them; remove it, or use another run directory"
            ) from error
        raise


# ---- the directory ---------------------------------------------------------------------------------------------------


def make_directory(run: Path) -> None:
    """Make a run directory, with all folders above it, if it does not exist.

    Raises:
        CheckpointError: if a file is in the way.
        FileError: if it can't be made.
    """
    with file_errors(run, "write"):
        try:
            run.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise CheckpointError(f"can't make the run directory {run}: a file is in the way") from error
