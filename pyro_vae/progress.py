"""Progress of long work on standard error: a bar on a terminal, otherwise a line now and then."""

import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A context that shows how far some work is.

    Args:
        total: how much there is to do, in `unit`.
        unit: what is counted, e.g. `"epoch"`.
        enabled: False to show nothing.
    """

    def __init__(self, total: float, unit: str, enabled: bool = True) -> None:
        self.total, self.unit, self.enabled = total, unit, enabled
        self.terminal = enabled and sys.stderr.isatty()
        self.bar = tqdm(total=total, unit=unit, disable=not self.terminal, dynamic_ncols=True)
        self.last = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()

    def show(self, done: float, text: str = "", now: bool = False) -> None:
        """Tell that `done` of the total is done.

        Args:
            done: how much, in the unit.
            text: what to say with it.
            now: whether a plain line is due whatever the time.
        """
        if self.terminal:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update(round(done, 2) - self.bar.n)
        elif self.enabled and (now or time.monotonic() - self.last > _SECONDS_BETWEEN_LINES):
            self.last = time.monotonic()
            print(f"{self.unit} {done:.10g}/{self.total:g}  {text}".rstrip(), file=sys.stderr, flush=True)
