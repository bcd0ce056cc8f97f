"""The errors a user can meet, each with the exit code the command line ends with.

A message says what was expected, what came and what to do. The command line prints it on one line, without a traceback.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Self


class PyroVaeError(Exception):
    """Base of every error raised on purpose by `pyro_vae`.

    Args:
        message: one line; Pyro's table of shapes is left out, which it appends to what is raised inside a program.
    """

    exit_code = 1
    shared: bool | None = None
    """With several processes: whether all raise it, so that only one prints it; None if they are not connected yet."""

    def __init__(self, message: str = "") -> None:
        super().__init__(str(message).partition("\nTrace Shapes:")[0])


class UsageError(PyroVaeError, ValueError):
    """An argument or a combination of arguments that makes no sense."""

    exit_code = 2


class DataError(PyroVaeError, ValueError):
    """Data that can't be read, or that the likelihood gives no probability to."""

    exit_code = 3


class CheckpointError(PyroVaeError, RuntimeError):
    """A run directory that is missing, damaged, locked, of another run, or not to be trusted."""

    exit_code = 4


class NumericalError(PyroVaeError, ArithmeticError):
    """A loss or an estimate that is not finite."""

    exit_code = 5


class Stopped(PyroVaeError):  # noqa: N818 - control flow, not an error
    """Training was asked to stop by a signal and has saved a checkpoint.

    Args:
        signal_number: 2 (SIGINT) ends the command with 130, 15 (SIGTERM) with 143.
        where: the epoch and step it stopped at, for the message.
    """

    def __init__(self, signal_number: int, where: str) -> None:
        super().__init__(
            f"stopped by signal {signal_number} at {where}; a checkpoint is saved, run the same command to resume"
        )
        self.exit_code = 128 + signal_number


class PeerLost(PyroVaeError):  # noqa: N818 - named after the event
    """Another process of the same training is gone, or does not answer.

    Args:
        rank: which process we are, from 0.
        size: how many there were.
        reason: the message of the connection.
    """

    exit_code = 6

    def __init__(self, rank: int, size: int, reason: str) -> None:
        super().__init__(
            f"process {rank} of {size} (counted from 0) has lost another one ({reason}); run the same command to resume"
        )


class FileError(PyroVaeError, OSError):
    """A file or folder that the system can't read or write: no permission, a full disk, a folder in its place, ...

    It is an `OSError` too, with `errno`, `strerror` and `filename` of the original error.
    """

    exit_code = 7

    def __str__(self) -> str:
        return " ".join(map(str, self.args))

    @classmethod
    def of(cls, error: OSError, path: str | os.PathLike[str] | None = None, doing: str = "use") -> Self:
        """An error of the system, with the path in its message.

        Args:
            error: the system's error.
            path: what was to be read or written; None for the file that `error` names.
            doing: the verb of the message: `"read"`, `"write"`, ...
        """
        named = [os.fspath(name) for name in (path, error.filename, error.filename2) if name is not None]
        names = dict.fromkeys(os.fsdecode(name) for name in named if not isinstance(name, int))
        reason = error.strerror or str(error) or type(error).__name__
        found = cls(f"can't {doing} {' -> '.join(names) or 'a file'}: {reason}")
        found.errno, found.strerror, found.filename = error.errno, error.strerror, next(iter(names), None)
        return found


class MissingPackage(PyroVaeError, ImportError):  # noqa: N818 - named after what is missing
    """A package that an extra of this one brings, and that is not installed.

    Args:
        package: its name.
        extra: the extra that brings it.
        what: what needs it.
    """

    exit_code = 2

    def __init__(self, package: str, extra: str, what: str) -> None:
        super().__init__(
            f"{what} needs {package}, an extra of this package that is not installed: pip install 'pyro-vae[{extra}]'"
        )


class UserCodeError(PyroVaeError):
    """An error raised inside a class or function that the user named on the command line.

    From Python such an error is left as it is; the command line has no traceback, so this names class and method.
    """

    exit_code = 8


class OutOfMemory(PyroVaeError, MemoryError):  # noqa: N818 - named after the event
    """The memory of the computer or of a GPU ended; the message says which argument to make smaller."""

    exit_code = 9


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """The error by which Python or torch said that memory ended: this one, or a cause of it; None if there is none.

    Example:
        >>> lack_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        >>> lack_of_memory(ValueError("a shape")) is None
        True
    """
    if error is None:
        return None
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch's, not imported here
    told = isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)
    return lack_of_memory(error.__cause__) or (error if named or told else None)


_OUT_OF_MEMORY = ("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""In messages of torch's `RuntimeError`: on the CPU, of the driver, of its library of matrix products."""


@contextmanager
def file_errors(path: str | os.PathLike[str], doing: Literal["read", "write"]) -> Iterator[None]:
    """Errors of the system inside become a `FileError` that names `path`; errors of the package are not changed.

    Args:
        path: what is read or written inside.
        doing: the verb of the message.

    Raises:
        FileError: for any `OSError`.

    Example:
        >>> with file_errors("data.csv", "read"):
        ...     raise PermissionError(13, "Permission denied")
        Traceback (most recent call last):
            ...
        pyro_vae.errors.FileError: can't read data.csv: Permission denied
    """
    try:
        yield
    except PyroVaeError:
        raise
    except OSError as error:
        raise FileError.of(error, path, doing) from error
