"""The precision of networks' products, and whether bfloat16 is fast on a device."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from pyro_vae.errors import UsageError
from pyro_vae.networks.base import Network


@contextmanager
def computing_in(module: nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Compute the products of all networks in a module in `dtype`, inside the block; weights keep their dtype.

    Args:
        module: e.g. a `VAE`; only its `Network`s are affected, so densities stay in full precision.
        dtype: e.g. `torch.bfloat16`; None to change nothing.

    Example:
        >>> from pyro_vae.networks import MLP
        >>> network = MLP((4,), (2,))
        >>> with computing_in(network, torch.bfloat16):
        ...     network.compute_dtype
        torch.bfloat16
        >>> network.compute_dtype is None
        True
    """
    networks = [m for m in module.modules() if isinstance(m, Network)]
    before = [network.compute_dtype for network in networks]
    try:
        for network in networks:
            network.compute_dtype = dtype
        yield
    finally:
        for network, previous in zip(networks, before, strict=True):
            network.compute_dtype = previous


Precision = Literal["float32", "bf16"]


DTYPES: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16}
"""The `dtype` of `computing_in`: that of the products; None for that of the weights."""


_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")
"""Names in torch and Linux of CPU features by which products in bfloat16 are computed without emulation."""


_CPU_INFO = Path("/proc/cpuinfo")


_log = logging.getLogger("pyro_vae")


def check_precision(precision: object) -> None:
    """Refuse an unknown precision.

    Raises:
        UsageError: lists the known ones.
    """
    if not isinstance(precision, str) or precision not in DTYPES:
        raise UsageError(f"precision must be 'float32' or 'bf16', got {precision!r}")


def usable_precision(precision: Precision, device: torch.device) -> Precision:
    """The precision, or float32 with a warning on a CPU that is not known to have bfloat16 instructions.

    Without them factors are converted, which takes two to ten times as long as float32 and is less exact.

    Args:
        precision: the requested precision.
        device: where the products are computed.

    Returns:
        The precision to use.
    """
    if _is_fast(precision, device):
        return precision
    _log.warning(
        f"{_reason()}, and without them products in bfloat16 are two to ten times slower: precision 'bf16' is taken as "
        "'float32'"
    )
    return "float32"


def warn_if_slow(precision: Precision, device: torch.device) -> None:
    """Warn if a training that was begun in bfloat16, and keeps it, goes on where that is slow.

    Args:
        precision: in which it was begun.
        device: where the products are computed now.
    """
    if not _is_fast(precision, device):
        _log.warning(
            f"{_reason()}, and without them products in bfloat16 are two to ten times slower: the training was begun "
            "with precision 'bf16' and keeps it; start it in another run directory to change that"
        )


def _is_fast(precision: Precision, device: torch.device) -> bool:
    return precision == "float32" or device.type != "cpu" or cpu_has_bfloat16()


def _reason() -> str:
    if _capabilities() is None:
        return "neither torch nor the system says whether this CPU has bfloat16 instructions"
    return "this CPU has no bfloat16 instructions"


@cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU is known to have bfloat16 instructions."""
    return not (_capabilities() or set()).isdisjoint(_INSTRUCTIONS)


def _capabilities() -> set[str] | None:
    """The CPU's features: those that torch reports, else those that Linux lists; None if neither does."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, there in torch.cpu.get_capabilities().items() if there is True} or None
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return None
    listed = [line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))]
    return {name for names in listed for name in names} or None
