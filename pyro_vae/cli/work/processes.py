"""A command that `torchrun` runs in several processes: who joins, and who tells of an error."""

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
    """The processes of this command, on the device that the option names; this one alone outside torchrun.

    Errors of ours that come out are marked: raised by all (`shared`), or by this process alone.
    """
    with ExitStack() as stack:
        place = choose_device(device)
        try:
            world = stack.enter_context(connect(place))
        except PyroVaeError as error:
            error.shared = False
            raise
        stack.enter_context(_quiet_beside(world))
        try:
            yield world
        except PyroVaeError as error:
            error.shared = bool(error.shared) or isinstance(error, PeerLost | Stopped)
            raise


def in_turn(world: World, work: Callable[[], _T]) -> _T:
    """What `work` returns, done by the first process of each machine before the others: it may write files for them."""
    first = int(os.environ.get("LOCAL_RANK", world.rank)) == 0
    results = []
    for turn in (True, False):
        with agreed(world):
            if first == turn:
                results.append(work())
    return results[0]


@contextmanager
def _quiet_beside(world: World) -> Iterator[None]:
    """Remarks are the main process's; the others make the same ones."""
    logger = logging.getLogger("pyro_vae")
    level = logger.level
    if not world.main:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
