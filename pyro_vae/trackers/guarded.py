"""`Guarded`: a tracker whose failures don't reach the training that it is told of."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from pyro_vae.errors import PyroVaeError
from pyro_vae.process.switches import put_back_afterwards
from pyro_vae.trackers.base import check_tracker, makes, name_of

_LEAST, _SHARE = 10.0, 0.1
"""A warning says that the training waits for a tracker which takes more seconds, and a larger share of the time."""

_LONGEST = 300
"""Letters of an error that a warning shows."""

_log = logging.getLogger("pyro_vae")


class Guarded:
    """A tracker that can neither stop nor change a training; `fit` makes one of each tracker that it is given.

    Whatever the tracker raises, also while it is made, is one warning of the logger `pyro_vae`, and it is not called
    again. After each call torch's generator, threads, gradients and other switches and Pyro's handlers are as before.

    Args:
        tracker: a tracker; or a class, a partial of one, or a function without arguments that makes one, which is
            called before the first call.
        name: for messages and for `tracked.json`; None for the name of the class.

    Attributes:
        failed: whether it has failed, and so is not called any more.
        opened: whether it was told the settings.

    Raises:
        UsageError: for what has not the methods of a tracker.

    Example:
        >>> class Broken:
        ...     def settings(self, settings): ...
        ...
        ...     def numbers(self, numbers, step):
        ...         raise ConnectionError("the server is gone")
        ...
        ...     def figure(self, name, figure, step): ...
        >>> tracker = Guarded(Broken)
        >>> tracker.numbers({"loss": 1.0}, step=1)  # one warning
        >>> tracker.failed
        True
    """

    def __init__(self, tracker: Any, name: str | None = None) -> None:
        check_tracker(tracker)
        self.name, self.failed, self.opened = name or name_of(tracker), False, False
        self._make, self._tracker = makes(tracker), tracker
        self._began, self._took, self._told_of_time = time.monotonic(), 0.0, False

    def settings(self, settings: Mapping[str, Any]) -> None:
        """As in `Tracker`."""
        self.opened = True
        self._call("settings", settings)

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """As in `Tracker`."""
        self._call("numbers", dict(numbers), step)

    def figure(self, name: str, figure: Any, step: int) -> None:
        """As in `Tracker`."""
        self._call("figure", name, figure, step)

    def close(self) -> None:
        """Call the tracker's own `close`, if it was made here and has one."""
        if self._made:
            self._call("close")

    def give_up(self, doing: str, error: BaseException) -> None:
        """Warn, and call the tracker no more.

        Args:
            doing: where it failed.
            error: how.
        """
        if self.failed:
            return
        self.failed = True
        kind = "" if isinstance(error, PyroVaeError) else f"{type(error).__name__}: "
        text = " ".join(f"{kind}{error}".split())
        text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
        _log.warning(f"the tracker {self.name} failed in {doing}; the training goes on without it ({text})")

    @property
    def _made(self) -> bool:
        return self._make is not None and self._tracker is not self._make

    def _call(self, method: str, *arguments: Any) -> None:
        if self.failed:
            return
        began = time.monotonic()
        with put_back_afterwards():
            try:
                self._make_once()
                if method != "close" or hasattr(self._tracker, method):
                    getattr(self._tracker, method)(*arguments)
            except (Exception, SystemExit) as error:  # a library's own code can raise anything
                self.give_up(method if self._make is None or self._made else "its construction", error)
        self._count(time.monotonic() - began)

    def _make_once(self) -> None:
        if self._make is not None and not self._made:
            made = self._make()
            check_tracker(made)
            self._tracker = made

    def _count(self, seconds: float) -> None:
        """Say once if the tracker takes much of the time."""
        self._took += seconds
        passed = time.monotonic() - self._began
        if self._took > _LEAST and self._took > _SHARE * passed and not self._told_of_time and not self.failed:
            self._told_of_time = True
            _log.warning(
                f"the tracker {self.name} is slow: it has taken {self._took:.0f} of {passed:.0f} seconds, for which "
                "the training waited"
            )
