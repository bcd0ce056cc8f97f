"""How many of torch's threads a training step runs on: all, or fewer while those are much faster.

Torch's threads share out each product and each loop in equal parts, and wait for the last one. Where another process
uses a core, each wait is long: on two cores beside one busy process a step on two threads takes three times as long as
on one (docs/performance.md). With another number of threads some sums are rounded differently, so the number is changed
for a large gain only, which noise of the clock can't feign, and trials leave the training as it is. A checkpoint holds
the number, and a training that is resumed begins with it.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import mean

import torch

_FIRST, _LATER = 0.0, 0.3
"""Seconds that the first trial takes for each number of threads, and later ones, at least: beside another process they
are fair only in the long run. All make three steps; the first is left out: it wakes threads and fills caches."""


_FEWER, _MORE = 0.7, 0.9
"""Fewer threads, or more, are taken if a step takes this fraction of the time, or less."""


_HOPELESS = 1.5
"""Smaller numbers are not tried after one on which a step takes this many times as long as on the best."""


_STARVED, _WINDOW = 0.8, 1.0
"""A trial is made if, for so many seconds, the threads got less than this part of the CPU time that they could use:
waiting threads use it as well, so the rest went to other processes."""


_AGAIN, _SHARE = 30.0, 40.0
"""On fewer threads than torch's a trial is made after so many seconds, since steps do not show that a core has become
free. None is made before so many times the duration of the last one have passed."""


class Threads:
    """Chooses the number of threads for the steps of a training, by their durations.

    Args:
        compute: the work of a step, without any effect; None to keep torch's number.
        say: told once if fewer threads are taken, or if those of the checkpoint are not all there.
        begun: the number that the checkpoint holds, to begin with in place of a trial; None in a new training.
        wall: seconds.
        cpu: seconds of CPU time of this process, of all its threads.
    """

    def __init__(
        self,
        compute: Callable[[], object] | None,
        say: Callable[[str], None],
        begun: int | None = None,
        *,
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.most = torch.get_num_threads()
        self._compute, self._wall, self._cpu = (compute if self.most > 1 else None), wall, cpu
        self.chosen = self.most if begun is None or self._compute is None else min(begun, self.most)
        self.numbers = sorted({self.most, self.chosen, *(2**k for k in range(self.most.bit_length()))}, reverse=True)
        self._say: Callable[[str], None] | None = say
        self._last = None if begun is None else wall()
        self._spent, self._began, self._used, self._observed = 0.0, 0.0, 0.0, (0.0, 0.0)
        self._tell_of(begun)

    def _tell_of(self, begun: int | None) -> None:
        """Say with how many threads a training is resumed, if that is not torch's number."""
        if begun is None or begun == self.most or self._say is None:
            return
        if begun == self.chosen:
            self._say(f"training goes on with {begun} of torch's {self.most} threads, as it was stopped")
        else:
            self._say(
                f"training goes on with {self.chosen} threads; it was stopped with {begun}, which round some sums "
                f"differently: to keep the last digits, give torch as many (OMP_NUM_THREADS={begun})"
            )
        self._say = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run steps on the chosen number of threads, which trials may change; torch's number holds afterwards."""
        if self._compute is None:
            yield
            return
        try:
            if self._last is None:
                self._try(_FIRST)
            torch.set_num_threads(self.chosen)
            seconds, used = self._observed  # of earlier blocks, which may be short
            self._began, self._used = self._wall() - seconds, self._cpu() - used
            yield
            self._observed = self._wall() - self._began, self._cpu() - self._used
        finally:
            torch.set_num_threads(self.most)

    def look(self) -> None:
        """After each step: make a trial if there is a reason, once in a while."""
        if self._compute is None or (seconds := self._wall() - self._began) < _WINDOW:
            return
        assert self._last is not None
        starved = self.chosen > 1 and self._cpu() - self._used < _STARVED * self.chosen * seconds
        passed = self._wall() - self._last
        hopeful = self.chosen < self.most and passed > _AGAIN
        if (starved or hopeful) and passed > _SHARE * self._spent:
            self._try(_LATER)
            torch.set_num_threads(self.chosen)
        self._began, self._used = self._wall(), self._cpu()

    def _try(self, least: float) -> None:
        """Make a trial, of at least so many seconds for each number, and choose."""
        began = self._wall()
        self._choose(self._trial(least))
        self._last = self._wall()
        self._spent = self._last - began

    def _trial(self, least: float) -> dict[int, float]:
        """Seconds of a step on each number of threads, the largest number first."""
        durations: dict[int, float] = {}
        for number in self.numbers:
            durations[number] = self._timed(number, least)
            if durations[number] > _HOPELESS * min(durations.values()) and number <= self.chosen:
                break
        return durations

    def _timed(self, number: int, least: float) -> float:
        assert self._compute is not None
        torch.set_num_threads(number)
        ends = [self._wall()]
        while len(ends) < 4 or ends[-1] - ends[0] < least:
            self._compute()
            ends.append(self._wall())
        return mean(end - start for start, end in pairwise(ends[1:]))

    def _choose(self, durations: dict[int, float]) -> None:
        fastest = min(durations, key=durations.__getitem__)
        if durations[fastest] < (_FEWER if fastest < self.chosen else _MORE) * durations[self.chosen]:
            self.chosen = fastest
        if self.chosen < self.most and self._say is not None:
            self._say(
                f"training runs on {self.chosen} of torch's {self.most} threads: at present its steps are much faster "
                "so (is the CPU busy, or the batch small?); all are timed again from time to time"
            )
            self._say = None
