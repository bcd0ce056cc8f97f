"""Settings of torch's backends inside a `with` block; they are process-wide switches.

`fast_cpu`: torch's float32 products use MKL, slow on some CPUs where oneDNN's kernels are as exact; there a training
step takes 1.4 to 2.0 times as long without (docs/performance.md). `exact_products` keeps a GPU from rounding the
factors of float32 products, which would change reported numbers. The C library's allocator is not changed: its settings
can't be read, so they could not be restored.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.remedies import spoken
from pyro_vae.errors import UsageError

_EXACT = 1e-5
"""Largest relative error of a product that still counts as float32: its own rounding gives 1e-6, bfloat16's 1e-2."""


_FASTER, _NOT_SLOWER = 1.4, 0.8
"""How many times faster oneDNN must be, on CPUs that MKL is made for and on others (there it is 1.05 to 2). Far from
the measured ratios, so that timing noise cannot flip the choice between two runs of one command."""


_CPU_INFO = Path("/proc/cpuinfo")


@contextmanager
def fast_cpu(onednn: bool | None = None, threads: int | None = None) -> Iterator[bool]:
    """Run a block with the faster settings; they are restored at the end.

    Args:
        onednn: whether float32 products go to oneDNN; None to measure it (once in a process).
        threads: number of threads; None to keep the current number.

    Yields:
        Whether float32 products go to oneDNN; pass it as `onednn` to get the same bits again.
    """
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        use = onednn_is_better() if onednn is None else onednn
        with _onednn(use):
            yield use
    finally:
        if threads is not None:
            torch.set_num_threads(before)


@contextmanager
def exact_products() -> Iterator[None]:
    """Run a block with float32 products and convolutions on CUDA in float32, never in TF32 (cuDNN's default)."""
    backends: Any = torch.backends
    switches = backends.cuda.matmul, backends.cudnn.conv
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


@cache
def onednn_is_better() -> bool:
    """Whether oneDNN multiplies float32 matrices as exactly as MKL here, and faster.

    On a CPU with AMX the same switch rounds the factors to bfloat16, which the error shows. Where both give the same
    bits, torch runs the same kernels: then it is False, and noise of the clock can't make two runs differ.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, generator=generator) for size in ((256, 784), (784, 500)))
    exact = a.double() @ b.double()
    with _onednn(True):
        product = torch.mm(a, b)
    if torch.equal(product, torch.mm(a, b)):
        return False
    error = (product.double() - exact).norm() / exact.norm()
    return bool(error < _EXACT) and _speedup(a, b) > (_FASTER if _is_intel() else _NOT_SLOWER)


def _is_intel() -> bool:
    """Whether the CPU is from Intel; True if unknown."""
    try:
        return "GenuineIntel" in (info := _CPU_INFO.read_text()) or "vendor_id" not in info
    except OSError:
        return True


def _speedup(a: Tensor, b: Tensor) -> float:
    """Least time of `a @ b` as torch computes it, over oneDNN's; measured in turn, for about 50 ms."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(30):
        for use, taken in times.items():
            with _onednn(use):
                start = time.perf_counter()
                torch.mm(a, b)
                taken.append(time.perf_counter() - start)
    return min(times[False]) / min(times[True])


@contextmanager
def _onednn(use: bool) -> Iterator[None]:
    """Send float32 products to oneDNN, or change nothing."""
    switch = getattr(torch.backends.mkldnn, "matmul", None)
    if not use or switch is None or not torch.backends.mkldnn.is_available():
        yield
        return
    before = switch.fp32_precision
    switch.fp32_precision = "bf16"  # the name of the switch; without AMX the kernels compute in float32
    try:
        yield
    finally:
        switch.fp32_precision = before


def choose_device(name: str) -> torch.device:
    """The device called `name`; `"auto"` is CUDA if available.

    Raises:
        UsageError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        remedy = spoken("take device='cpu'", "use --device cpu")
        why = str(error).splitlines()[0].split(": ")[0].split(". ")[0]
        why = "it is none of auto, cpu, cuda, cuda:1, mps" if why.startswith("Expected one of") else why
        raise UsageError(f"no device {name!r} here: {why}; {remedy}") from error
    return device
