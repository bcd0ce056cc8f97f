"""SIGINT and SIGTERM are collected, so that work can save and stop; then the handlers are restored."""

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pyro_vae.errors import PeerLost, Stopped

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


_LONGEST_ACTION = 1024
"""Bytes that are enough for C's `struct sigaction`, about 150, on every system."""


@contextmanager
def signals_collected(active: bool) -> Iterator[list[int]]:
    """Run a block in which the signals are put into a list instead of calling their handlers.

    A second SIGINT is not collected: it raises KeyboardInterrupt, which ends the work at once. A signal that came too
    late to stop the work (the block did not end with `Stopped`) is sent again after the handlers are restored; but not
    if another process was lost, since its launcher stops the remaining ones by a signal while they save and report the
    loss.

    Nothing is changed outside the main thread, since only that may set handlers. If Python reports that it did not
    install a handler, the handler stays active and its signal is not collected; a signal that the process ignores stays
    ignored. A handler installed in C without Python's knowledge can't be detected; it is restored like the others.

    Args:
        active: False to collect nothing.

    Yields:
        The numbers of the signals that came.
    """
    pending: list[int] = []

    def collect(number: int, frame: FrameType | None) -> None:
        if pending and number == signal.SIGINT:
            raise KeyboardInterrupt
        pending.append(number)

    before = _handlers() if active else {}
    actions = {number: _action(number) for number in before}
    try:
        for number in before:
            signal.signal(number, collect)
        yield pending
    except (Stopped, KeyboardInterrupt, PeerLost):
        pending.clear()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
            _set_action(number, actions[number])
        for number in dict.fromkeys(pending):
            signal.raise_signal(number)


def _handlers() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    handlers = {number: signal.getsignal(number) for number in _NUMBERS}
    return {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}


def _action(number: int) -> Any:
    """The system's action for the signal; None if it can't be read."""
    sigaction, action = _sigaction(), ctypes.create_string_buffer(_LONGEST_ACTION)
    return action if sigaction is not None and sigaction(int(number), None, action) == 0 else None


def _set_action(number: int, action: Any) -> None:
    sigaction = _sigaction()
    if sigaction is not None and action is not None:
        sigaction(int(number), action, None)


def _sigaction() -> Any:
    return None if sys.platform == "win32" else getattr(ctypes.CDLL(None), "sigaction", None)
