"""A folder that is written whole or not at all, by one process at a time, and what it says of itself."""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyro_vae.errors import DataError, FileError, file_errors
from pyro_vae.messages import remark

MANIFEST = "stored.json"
"""The file that says what a folder has."""

_FORMAT = 1

_LARGEST = 2**20
"""Bytes that a manifest has at most."""

_log = logging.getLogger("pyro_vae")


def manifest_of(arrays: Mapping[str, Mapping[str, Any]], request: Mapping[str, Any]) -> bytes:
    """The content of the manifest.

    Args:
        arrays: type, shape and sha256 of each file, by name.
        request: what was asked for, by which a later pass is known to be the same.
    """
    described = {"format": _FORMAT, "fingerprint": fingerprint_of(arrays), "request": request, "arrays": arrays}
    return json.dumps(described, indent=1).encode()


def fingerprint_of(arrays: Mapping[str, Mapping[str, Any]]) -> str:
    """The sha256 of all arrays: equal for equal names, types, shapes and values."""
    return hashlib.sha256(json.dumps(arrays, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder says of itself; None if it is not there, or empty.

    Raises:
        DataError: if it has something else, or its manifest is damaged.
        FileError: if it can't be read.
    """
    with file_errors(folder, "read"):
        if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
            return None
        path = folder / MANIFEST
        if not path.is_file():
            what = "is a folder with other files" if folder.is_dir() else "is a file"
            raise DataError(f"{folder} {what}, not written by store_data: give the path of a new folder")
        text = path.read_bytes() if path.stat().st_size <= _LARGEST else b""
    try:
        found = json.loads(text)
        if found["format"] == _FORMAT and isinstance(found["request"], dict) and isinstance(found["arrays"], dict):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise DataError(f"{path} is damaged, or of another version of this package: delete {folder}, or give another one")


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which gets its name at the end; deleted if an error comes before.

    Raises:
        FileError: if the system can't make it, or rename it.
    """
    made = folder.with_name(f".{folder.name}.{secrets.token_hex(6)}.tmp")
    with file_errors(folder, "write"):
        made.mkdir()
    try:
        yield made
        with file_errors(folder, "write"):
            made.rename(folder)
            _sync(folder.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _sync(folder: Path) -> None:
    """See to it that the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some file systems can't
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Run a block while no other process stores data in `folder`; a second one waits, and says so.

    The folder above is made. What killed processes left of earlier attempts is deleted.

    Raises:
        FileError: if the folder above can't be made, or written to.
    """
    lock = folder.with_name(f".{folder.name}.lock")
    with file_errors(folder.parent, "write"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        held = _held(lock, folder)
    try:
        with file_errors(folder.parent, "write"):
            _sweep(folder)
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(held)


def _held(lock: Path, folder: Path) -> int:
    """The open lock, once it is ours and still has its name: who had it before deletes it."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            _lock(descriptor, folder)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        remark(f"waiting for another process that stores data in {folder}")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        _log.warning(f"the file system of {folder} has no locks: see to it that no other process stores data there")


def _sweep(folder: Path) -> None:
    """Delete what killed processes left: no other one writes here now."""
    left = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{12}}\.tmp")
    for path in [path for path in folder.parent.iterdir() if left.fullmatch(path.name)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def unwritable(error: FileError, instead: str) -> FileError:
    """The same error, with what to do."""
    found = FileError(f"{error}: {instead}")
    found.errno, found.strerror, found.filename = error.errno, error.strerror, error.filename
    return found
