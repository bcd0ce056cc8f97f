"""Standard output and error that take whatever a command prints: closed, broken, full, or of few letters."""

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
    """Inside, a result that can't be printed is still saved: the error comes at the end.

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
    """Print on standard output. A reader who has gone (`| head -1`) is no error, as the work goes on.

    Raises:
        FileError: if it can't be written, as to a disk that is full; within `all_said` at its end.
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
    """Inside, whatever is printed on a standard stream has a place; afterwards both are as they were.

    A stream that is closed goes nowhere; a letter that the terminal does not have is shown as its number; and what is
    left to be written at the end does not fail, though the reader has gone.
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
    """Escape what the stream's encoding can't show."""
    if not hasattr(stream, "reconfigure"):  # not a stream of Python's own, e.g. a notebook's
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
    """Open the null device where a standard stream is closed, so that no file of ours gets its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free


def _flush(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)


def _discard(stream: TextIO) -> None:
    """Send what a stream still holds, and all that follows, nowhere: or Python's end would fail with it."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
