"""The seam to what Pyro keeps private. Each name may change with a release: `tests/house/test_private_names.py` lists
them, and `pyproject.toml` bounds Pyro's version.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK


def handlers() -> tuple[Any, ...]:
    """The effect handlers that are active, outermost first."""
    return tuple(_PYRO_STACK)


def plates() -> tuple[str | None, ...]:
    """The plates whose dimensions are taken, by dimension from -1; None for a free one."""
    return tuple(_DIM_ALLOCATOR._stack)


def put_back(handlers: Sequence[Any], plates: Sequence[str | None]) -> None:
    """Make these the active handlers and plates."""
    _PYRO_STACK[:] = handlers
    _DIM_ALLOCATOR._stack[:] = plates


def vectorized(elbo: Any, program: Callable[..., Any]) -> Callable[..., Any]:
    """A program in the plate of particles of one of Pyro's ELBOs."""
    return elbo._vectorized_num_particles(program)


def is_enumerated(site: Mapping[str, Any]) -> bool:
    """Whether a site has all its values in place of a draw."""
    return "_enumerate_dim" in site["infer"]


def is_deterministic(site: Mapping[str, Any]) -> bool:
    """Whether a site is a `pyro.deterministic`: a name for a value, not a draw."""
    return bool(site["infer"].get("_deterministic"))
