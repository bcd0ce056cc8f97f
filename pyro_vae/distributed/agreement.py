"""Errors of several processes: if one fails, all raise the same error."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_vae import errors
from pyro_vae.distributed.world import World
from pyro_vae.errors import PeerLost, PyroVaeError, Stopped


@contextmanager
def agreed(world: World) -> Iterator[None]:
    """A block, without collectives, that all processes leave together: normally, or with the same error.

    If some raise a `PyroVaeError`, all raise that of the lowest rank, marked as `shared`. An error of any other class
    ends its process, and the others raise `PeerLost`.

    Raises:
        PyroVaeError: of the same class and with the same message on every process.
        PeerLost: if another process is gone or does not answer.
    """
    if world.size == 1:
        yield
        return
    own: PyroVaeError | None = None
    try:
        yield
    except (PeerLost, Stopped):
        raise
    except PyroVaeError as error:
        own = error
    failures = [(rank, text) for rank, text in enumerate(texts(world, _encoded(own))) if text]
    if failures:
        rank, text = failures[0]
        error = own if own is not None and rank == world.rank else _decoded(text)
        error.shared = True
        raise error


def texts(world: World, own: str) -> list[str]:
    """A text of every process, in order of rank.

    Raises:
        PeerLost: if another process is gone or does not answer.
    """
    line = torch.frombuffer(bytearray(json.dumps(own).encode() + b"\n"), dtype=torch.uint8)
    return [json.loads(part) for part in world.gather(line).numpy().tobytes().splitlines()]


def _encoded(error: PyroVaeError | None) -> str:
    """The class of the error, or its nearest base class in `errors.py`, and the message."""
    if error is None:
        return ""
    known = next(cls for cls in type(error).__mro__ if getattr(errors, cls.__name__, None) is cls)
    return f"{known.__name__} {error}"


def _decoded(text: str) -> PyroVaeError:
    name, _, message = text.partition(" ")
    return getattr(errors, name)(message)
