"""Makes standard output and standard error safe to print on: they may be closed, broken, full, or lack letters."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from pyro_vae.errors import FileError

_unsaid: ContextVar[list[FileError] | None] = ContextVar("unsaid", default=None)


@contextmanager
def all_said() -> Iterator[None]:
    """Inside, a failure to print does not prevent saving: its error is raised at the end.

    Raises:
        FileError: if standard output could not be written, as to a disk that is full.
    """
    errors: list[FileError] = []
    token = _unsaid.set(errors)
    try:
        yield
    finally:
        _unsaid.reset(token)
    if errors:
        raise errors[0]


def say(text: str) -> None:
    """Print on standard output. A closed pipe (`| head -1`) is no error: the command continues.

    Raises:
        FileError: if it can't be written, e.g. if the disk is full; inside `all_said` the error comes at its end.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        failed = FileError.of(error, "standard output", "write")
        if (errors := _unsaid.get()) is None:
            raise failed from error
        errors.append(failed)


@contextmanager
def usable_streams() -> Iterator[None]:
    """Inside, printing on standard output and error works; afterwards both are as before.

    Output to a closed stream is discarded; a letter that the encoding lacks is printed as its number; and flushing at
    the end does not fail if the reader has closed the pipe.
    """
    _occupy()
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            if stream is None or stream.closed:
                stack.enter_context(redirect(stack.enter_context(Path(os.devnull).open("w", errors="ignore"))))
            else:
                stack.callback(_flush, stream)
                stack.enter_context(_any_letter(stream))
        yield


@contextmanager
def _any_letter(stream: Any) -> Iterator[None]:
    """Print letters that the stream's encoding lacks as escape sequences."""
    if not hasattr(stream, "reconfigure"):  # not one of Python's own streams, e.g. in a notebook
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with suppress(OSError):
            stream.reconfigure(errors=before)


def _occupy() -> None:
    """Open the null device for each closed standard stream, so that no file gets its number and then its output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # opens at the lowest free number


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Discard what the stream's buffer holds and all later output, or Python would fail when it flushes at exit."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
