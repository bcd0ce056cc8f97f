"""The lock of a run directory: one process at a time writes to it, and others can tell."""

import errno
import fcntl
import io
import logging
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path

from pyro_vae.errors import CheckpointError
from pyro_vae.runs.files import INSIDE, check_file, check_place, folder_of, of_a_run

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

_HOLDER = re.compile(rb"(\d{1,10}) ([\x21-\x7e]{1,255})\n")

_LOOKS, _LOOK = 5, 0.02
"""How often, and after how many seconds each, a lock that is taken is tried again."""

_log = logging.getLogger("pyro_vae")


def lock(run: Path) -> io.FileIO:
    """Hold the lock of a run directory until the returned file is closed; the system releases it when the process ends.

    If the file system has no locks, there is a warning and no lock: a lock made of an ordinary file would outlive a
    process that was killed, and then the same command could not resume.

    Raises:
        CheckpointError: if another process holds it (with its id and host); or if `lock` is not a regular file of the
            run.
        FileError: if it can't be opened.
    """
    with of_a_run(run / "lock", "write"), folder_of(run, "lock") as (folder, name):
        check_place(folder, name)
        file = io.FileIO(os.open(name, os.O_RDWR | os.O_CREAT | INSIDE, 0o666, dir_fd=folder), "r+")
        try:
            check_file(found := os.fstat(file.fileno()))
            if found.st_nlink > 1:
                raise CheckpointError(f"{run}/lock has another name elsewhere (a hard link): delete it")
            _hold(file, run)
        except BaseException:
            file.close()
            raise
    return file


def in_use(run: Path) -> bool:
    """Whether a process holds the lock of a run directory; False where that can't be told."""
    try:
        with folder_of(run, "lock") as (folder, name):
            check_place(folder, name)
            with io.FileIO(os.open(name, os.O_RDONLY | INSIDE, dir_fd=folder)) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # for an instant, for which `_hold` waits
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _try_lock(file: io.FileIO) -> None:
    """Take the lock, if need be after a moment: `in_use` of another process holds it for an instant."""
    for _ in range(_LOOKS):
        with suppress(BlockingIOError):
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(_LOOK)
    return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _hold(file: io.FileIO, run: Path) -> None:
    try:
        _try_lock(file)
    except BlockingIOError as error:
        raise CheckpointError(f"{run} is in use by {_holder(file)}: wait for it, or use another directory") from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        _log.warning(f"the file system of {run} has no locks: see to it that no other process uses the directory")
        return
    with suppress(OSError):  # the lock holds on a full disk too
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}\n".encode())


def _holder(file: io.FileIO) -> str:
    """Which process has the lock, as it wrote into the file; the content may be anything."""
    file.seek(0)
    found = _HOLDER.fullmatch(file.read(300) or b"")
    return f"process {int(found[1])} on {found[2].decode()}" if found else "another process"
