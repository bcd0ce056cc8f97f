"""One call at a time: Pyro's handlers and torch's default generator belong to the process, not to a thread.

Two threads that run Pyro programs at once would see each other's plates, and draw from each other's random numbers.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_log = logging.getLogger("pyro_vae")


class _Turn:
    """A reentrant lock, and the name of the call that holds it."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.holder: tuple[int, str] | None = None
        self.warned = False


_turn = _Turn()


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Run a block while no other thread of this process is in such a block; a second one waits, and logs it once.

    Args:
        name: what the block is, for the message of a thread that waits.
    """
    turn, me = _turn, threading.get_ident()
    holder = turn.holder
    if holder is not None and holder[0] != me:
        _tell_once(turn, f"{name} waits for {holder[1]}")
    with turn.lock:
        before, turn.holder = turn.holder, (me, name)
        try:
            yield
        finally:
            turn.holder = before


def _tell_once(turn: _Turn, what: str) -> None:
    """Log it the first time only: a pool of threads would repeat it at each call."""
    if not turn.warned:
        turn.warned = True
        _log.warning(
            f"{what}, which runs in another thread: pyro_vae runs one call at a time in a process, as Pyro and torch "
            "keep their state there. Use processes to work in parallel; inside a call don't wait for another thread's"
        )


def _renew() -> None:
    """In a forked child: the thread that held the lock may not exist there."""
    global _turn
    _turn = _Turn()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
