"""Progress of long work on standard error, and remarks that are made once."""

import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import TracebackType
from typing import Any, Self

_log = logging.getLogger("pyro_vae")


@cache
def log_once(message: str) -> None:
    """Warn by the logger `pyro_vae`, the first time that this is said."""
    _log.warning(message)


_SECONDS_BETWEEN_LINES = 10.0


def remark(text: str) -> None:
    """Print a line on standard error, if there is one that takes it: no work is lost because nobody reads of it."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # ValueError: closed
            print(text, file=sys.stderr, flush=True)


class Progress:
    """A context that shows how far some work is.

    Args:
        total: how much there is to do, in `unit`.
        unit: what is counted, e.g. `"epoch"`.
        enabled: False to show nothing.
    """

    def __init__(self, total: float, unit: str, enabled: bool = True) -> None:
        self.total, self.unit, self.enabled = total, unit, enabled
        self.terminal = enabled and _is_terminal()
        self.bar = _bar(total, unit) if self.terminal else None
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.close()

    def show(self, done: float, text: str = "", now: bool = False) -> None:
        """Tell that `done` of the total is done.

        Args:
            done: how much, in the unit.
            text: what to say with it.
            now: whether a plain line is due whatever the time.
        """
        if self.bar is not None:
            with suppress(OSError, ValueError):  # the terminal has been closed
                self.bar.set_postfix_str(text, refresh=False)
                self.bar.update(round(done, 2) - self.bar.n)
        elif self.enabled and (now or time.monotonic() - self.last > _SECONDS_BETWEEN_LINES):
            self.last = time.monotonic()
            remark(f"{self.unit} {done:.10g}/{self.total:g}  {text}".rstrip())

    def say(self, text: str) -> None:
        """Tell something else, on a line of its own; nothing if it is empty."""
        if self.enabled and text:
            remark(text)


def _bar(total: float, unit: str) -> Any:
    from tqdm import tqdm

    class Bar(tqdm):
        """See `bars_contained`."""

        _lock = threading.RLock()
        monitor_interval = 0

    return Bar(total=total, unit=unit, dynamic_ncols=True)


@contextmanager
def bars_contained() -> Iterator[None]:
    """Let a library make bars of tqdm and be done with them, without what the first of them does to the process.

    The lock that it makes for all bars is one of multiprocessing, which fixes the start method: the host could not set
    it any more. And it starts a thread, which redraws bars that stand still.
    """
    from tqdm import tqdm

    interval, has_lock = tqdm.monitor_interval, hasattr(tqdm, "_lock")
    tqdm.monitor_interval = 0
    if not has_lock:
        tqdm.set_lock(threading.RLock())
    try:
        yield
    finally:
        tqdm.monitor_interval = interval
        if not has_lock:
            del tqdm._lock  # pyright: ignore[reportAttributeAccessIssue]


def _is_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
