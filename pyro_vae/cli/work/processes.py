"""A command that `torchrun` runs in several processes: connecting them, and which of them reports an error."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from pyro_vae.compiling.backends import choose_device
from pyro_vae.distributed import World, connect
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import PeerLost, PyroVaeError, Stopped

_T = TypeVar("_T")


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Connect the processes of this command, on the named device; outside torchrun there is only this one.

    A `PyroVaeError` raised inside is marked as raised by all processes (`shared`) or by this one alone.
    """
    with ExitStack() as stack:
        place = choose_device(device)
        try:
            world = stack.enter_context(connect(place))
        except PyroVaeError as error:
            error.shared = False
            raise
        stack.enter_context(_one_makes_remarks(world))
        try:
            yield world
        except PyroVaeError as error:
            error.shared = bool(error.shared) or isinstance(error, PeerLost | Stopped)
            raise


def in_turn(world: World, work: Callable[[], _T]) -> _T:
    """The result of `work`; the first process of each machine runs it first, as it may write files for the others."""
    first = int(os.environ.get("LOCAL_RANK", world.rank)) == 0
    results = []
    for turn in (True, False):
        with agreed(world):
            if first == turn:
                results.append(work())
    return results[0]


@contextmanager
def _one_makes_remarks(world: World) -> Iterator[None]:
    """Only the main process logs remarks, since all processes make the same ones."""
    logger = logging.getLogger("pyro_vae")
    level = logger.level
    if not world.main:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
