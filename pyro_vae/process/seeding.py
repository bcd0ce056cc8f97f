"""Stateless randomness: every draw is a function of a seed and of *what* is drawn, never of what was drawn before.

So a resumed run equals an uninterrupted one, and an estimate does not depend on how it was cut into chunks.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_vae.errors import UsageError
from pyro_vae.process.turns import one_at_a_time


def derive_seed(seed: int, *keys: object) -> int:
    """A 63-bit seed for the stream named by `keys`, e.g. `derive_seed(0, "step", 3, 17)`.

    Example:
        >>> derive_seed(0, "step", 1) == derive_seed(0, "step", 1) != derive_seed(0, "step", 2)
        True
    """
    first, *rest = (getattr(key, "item", lambda key=key: key)() for key in (seed, *keys))  # accepts NumPy's numbers
    if not isinstance(first, int):
        raise UsageError(f"seed: expected a whole number, got {seed!r}")
    digest = hashlib.sha256(repr((first, *rest)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def generator(seed: int, *keys: object) -> torch.Generator:
    """The stream of `seeded(seed, *keys)` on the CPU, as a separate generator.

    Example:
        >>> with seeded(0, "noise"):
        ...     a = torch.rand(3)
        >>> bool((a == torch.rand(3, generator=generator(0, "noise"))).all())
        True
    """
    return torch.Generator().manual_seed(derive_seed(seed, *keys))


@contextmanager
def seeded(seed: int, *keys: object) -> Iterator[None]:
    """Run a block with torch's generators seeded by `(seed, *keys)`; afterwards they continue as if it had not run.

    The generators belong to the process, so such a block, and each public function that runs programs, waits while
    another thread is inside one (`pyro_vae.process.isolation`).

    Args:
        seed: the seed of the run.
        *keys: what is being drawn (strings and integers), e.g. `"step", epoch, step`.

    Example:
        >>> with seeded(0, "noise"):
        ...     a = torch.randn(3)
        >>> with seeded(0, "noise"):
        ...     b = torch.randn(3)
        >>> bool((a == b).all())
        True
    """
    devices = [torch.cuda.current_device()] if _on_cuda() else []
    with one_at_a_time("a block under seeded"), torch.random.fork_rng(devices=devices):
        reseed(seed, *keys)
        yield


def reseed(seed: int, *keys: object) -> None:
    """Seed the generators by `(seed, *keys)` without restoring them later: for a loop inside a `seeded` block."""
    derived = derive_seed(seed, *keys)
    torch.default_generator.manual_seed(derived)
    if _on_cuda():  # only the current device: `torch.manual_seed` would seed all of them, but only one is restored
        torch.cuda.manual_seed(derived)


def _on_cuda() -> bool:
    return torch.cuda.is_initialized()  # True only if CUDA is available; that call alone takes ten times as long
