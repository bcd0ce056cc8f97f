"""Progress of long work on standard error, messages that are logged once, and results in one line or for JSON."""

import logging
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import Any, Self, cast

_log = logging.getLogger("pyro_vae")


@cache
def log_once(message: str) -> None:
    """Log a warning by the logger `pyro_vae`, only the first time."""
    _log.warning(message)


_MOVING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters but the line break and the tab, and those that turn the direction of writing."""


def printable(text: str) -> str:
    r"""A text without what moves a terminal's cursor or changes its colours: names of files and runs may be anyone's.

    Example:
        >>> printable("a \x1b[31mred\nb")
        'a ?[31mred\nb'
    """
    return _MOVING.sub("?", text)


def finite(value: Any) -> Any:
    """A value that JSON can represent: nan and infinity become None.

    Example:
        >>> finite({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


class ByShapes:
    """A base of dataclasses of many numbers: they are printed in one line, of each tensor the shape alone.

    The dataclass is made with `repr=False`.

    Example:
        >>> from pyro_vae.evidence.elbo import Bound
        >>> Bound(torch.zeros(5), torch.zeros(5))
        Bound(reconstruction=[5], kl=[5], is_bound=True)
    """

    def __repr__(self) -> str:
        shown = (f"{field.name}={_shape_or_value(getattr(self, field.name))}" for field in fields(cast(Any, self)))
        return f"{type(self).__name__}({', '.join(shown)})"


def _shape_or_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_shape_or_value(part)}' for name, part in value.items())}}}"
    return str(list(value.shape)) if hasattr(value, "shape") else repr(value)


_SECONDS_BETWEEN_LINES = 10.0


def remark(text: str) -> None:
    """Print a line on standard error, if it can be written to: a closed stream must not end the work."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):  # ValueError: closed
            print(printable(text), file=sys.stderr, flush=True)


class Progress:
    """A context manager that shows the progress of some work, and how long the rest will take.

    It is one bar on a terminal and in a notebook (a widget, if ipywidgets is installed), else a line now and then.

    Args:
        total: how much there is to do, in `unit`.
        unit: what is counted, e.g. `"epoch"`.
        enabled: False to show nothing.
    """

    def __init__(self, total: float, unit: str, enabled: bool = True) -> None:
        self.total, self.unit, self.enabled = total, unit, enabled
        self.bar = _bar(total, unit) if enabled and (_is_terminal() or _in_notebook()) else None
        self.first, self.began = 0.0, time.monotonic()
        self.last = self.began

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            with suppress(OSError, ValueError):
                self.bar.close()

    def begin(self, done: float) -> None:
        """Say how much was done already: how long the rest takes is reckoned from what comes now.

        Args:
            done: how much, in the unit.
        """
        self.first, self.began = done, time.monotonic()
        if self.bar is not None:
            self.bar.initial = self.bar.n = self.bar.last_print_n = round(done, 2)

    def show(self, done: float, text: str = "", now: bool = False) -> None:
        """Report that `done` of the total is done.

        Args:
            done: how much, in the unit.
            text: further text to show.
            now: whether to print a line even if the last one was recent.
        """
        if self.bar is not None:
            with suppress(OSError, ValueError):  # the terminal has been closed
                self.bar.set_postfix_str(text, refresh=False)
                self.bar.update(round(done, 2) - self.bar.n)
        elif self.enabled and (now or time.monotonic() - self.last > _SECONDS_BETWEEN_LINES):
            self.last = time.monotonic()
            parts = f"{self.unit} {done:.10g}/{self.total:g}", text, self._left(done)
            remark("  ".join(filter(None, parts)))

    def _left(self, done: float) -> str:
        """How long the rest takes, in words; empty if that is not known."""
        if not self.first < done < self.total:
            return ""
        seconds = (time.monotonic() - self.began) * (self.total - done) / (done - self.first)
        return f"{timedelta(seconds=round(seconds))} left"

    def say(self, text: str) -> None:
        """Print a text on a separate line; nothing if it is empty."""
        if self.enabled and text:
            remark(text)


def _bar(total: float, unit: str) -> Any:
    class Bar(_bars()):
        """See `bars_contained`."""

        _lock = threading.RLock()
        monitor_interval = 0

    return Bar(total=total, unit=unit, dynamic_ncols=True)


def _bars() -> Any:
    """The class of bars: those of tqdm for a terminal, or in a notebook those that it finds best there."""
    if not _in_notebook():
        from tqdm import tqdm

        return tqdm
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is not installed: a bar of letters does as well
        from tqdm.auto import tqdm

    return tqdm


@contextmanager
def bars_contained() -> Iterator[None]:
    """Let a library use bars of tqdm without their lasting effects on the process.

    The first bar makes a lock of multiprocessing, which fixes the start method, so that the caller could not set it any
    more; and it starts a thread that redraws idle bars.
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


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return "IPKernelApp" in getattr(shell, "config", ())


def _is_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
