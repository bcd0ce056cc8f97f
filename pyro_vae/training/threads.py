"""How many of torch's threads a training step runs on: all, or fewer while those are much faster.

Torch's threads share out each product and each loop in equal parts, and wait for the last one. Where another process
uses a core, each wait is long: on two cores beside one busy process a step on two threads takes three times as long as
on one (docs/performance.md). With another number of threads some sums are rounded differently, so the number is changed
for a large gain only, which noise of the clock can't feign, and trials leave the training as it is.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median

import torch

_TIMES, _SECONDS = 5, 0.5
"""A trial makes at most so many steps on each number of threads, and no more after so many seconds. The first is left
out: it wakes threads and fills caches."""


_FEWER, _MORE = 0.7, 0.9
"""Fewer threads, or more, are taken if a step takes this fraction of the time, or less."""


_HOPELESS = 1.5
"""Smaller numbers are not tried after one on which a step takes this many times as long as on the best."""


_SLOWER, _SOONEST = 1.3, 3.0
"""A trial is made when steps take this many times as long as at the last one, but not within so many seconds of it."""


_LATEST, _SHARE = 30.0, 40.0
"""On fewer threads than torch's it is also made after so many seconds, and after so many times the duration of a trial,
since steps do not show that a core has become free."""


_MEMORY = 0.1
"""Weight of the latest step in the mean duration."""


class Threads:
    """Chooses the number of threads for the steps of a training, by their durations.

    Args:
        compute: the work of a step, without any effect; None to keep torch's number.
        say: told once if fewer threads are taken.
        clock: seconds.
    """

    def __init__(
        self,
        compute: Callable[[], object] | None,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.most = self.chosen = torch.get_num_threads()
        self.numbers = [self.most, *reversed([2**k for k in range(self.most.bit_length()) if 2**k < self.most])]
        self._compute, self._clock = (compute if self.most > 1 else None), clock
        self._say: Callable[[str], None] | None = say
        self._due, self._start, self._spent, self._usual, self._mean = True, 0.0, 0.0, 0.0, 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Run a step on the chosen number of threads, after a trial if one is due; then torch's number holds again."""
        if self._compute is None:
            yield
            return
        if self._due:
            self._choose(self._trial(self._compute))
        start = self._clock()
        torch.set_num_threads(self.chosen)
        try:
            yield
        finally:
            torch.set_num_threads(self.most)
        self._note(self._clock() - start)

    def _note(self, seconds: float) -> None:
        """Whether a trial is due after a step of this duration."""
        self._mean += _MEMORY * (seconds - self._mean)
        passed = self._clock() - self._start
        slower = passed > _SOONEST and self._mean > _SLOWER * self._usual
        self._due = slower or (self.chosen < self.most and passed > max(_LATEST, _SHARE * self._spent))

    def _trial(self, compute: Callable[[], object]) -> dict[int, float]:
        """Seconds of a step on each number of threads, the largest number first."""
        began, durations = self._clock(), {}
        try:
            for number in self.numbers:
                durations[number] = self._timed(compute, number)
                if durations[number] > _HOPELESS * min(durations.values()) and number <= self.chosen:
                    break
        finally:
            torch.set_num_threads(self.most)
        self._start = self._clock()
        self._spent = self._start - began
        return durations

    def _timed(self, compute: Callable[[], object], number: int) -> float:
        torch.set_num_threads(number)
        ends = [self._clock()]
        while len(ends) < 3 or (len(ends) <= _TIMES and ends[-1] - ends[0] < _SECONDS):
            compute()
            ends.append(self._clock())
        return median(end - start for start, end in pairwise(ends[1:]))

    def _choose(self, durations: dict[int, float]) -> None:
        fastest = min(durations, key=durations.__getitem__)
        if durations[fastest] < (_FEWER if fastest < self.chosen else _MORE) * durations[self.chosen]:
            self.chosen = fastest
        self._usual = self._mean = durations[self.chosen]
        if self.chosen < self.most and self._say is not None:
            self._say(
                f"training runs on {self.chosen} of torch's {self.most} threads: at present its steps are much faster "
                "so (is the CPU busy, or the batch small?); all are timed again from time to time"
            )
            self._say = None
