"""Part 1 of `gpu.py`, continued: runs that stop, runs that change the device, and memory that ends."""

import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from gpu_checks import SIZE, DrawnOnCpu, Found, compare, data, make
from torch import Tensor

from pyro_vae import VAE, fit, load, log_marginal
from pyro_vae.errors import OutOfMemory, Stopped
from pyro_vae.networks import MLP
from pyro_vae.process.torch_internals import DispatchMode
from pyro_vae.schedules import Schedule

FREE = 64 << 20
"""Bytes that are left free where memory is to end."""


@dataclass(frozen=True)
class StopOnce(Schedule):
    """A constant learning rate that sends this process SIGTERM in the middle of the training's third epoch."""

    armed: ClassVar[bool] = False

    def __call__(self, epoch: float, total: float) -> float:
        """The factor 1."""
        if StopOnce.armed and 2.4 < epoch < 3:
            StopOnce.armed = False
            signal.raise_signal(signal.SIGTERM)
        return 1.0


def resumed(device: str, compile: bool) -> Found:
    """Stopped in the middle of an epoch and started again, a training ends with the bits of one that never was."""
    options = {"epochs": 4, "lr_schedule": StopOnce(), "compile": compile, "progress": False, "device": device}
    whole, stopped, again = make(), make(), make()
    fit(whole, data(), **options)
    with tempfile.TemporaryDirectory() as folder:
        StopOnce.armed = True
        try:
            fit(stopped, data(), run=folder, **options)
        except Stopped:
            fit(again, data(), run=folder, **options)
        else:
            raise AssertionError("the training was not stopped by SIGTERM")
        finally:
            StopOnce.armed = False
    return compare(_weights(whole), _weights(again), 0.0)


def loaded_elsewhere(device: str) -> Found:
    """A run that was trained on one device, loaded on the other and moved back: the same weights, the same log p(x)."""
    found = [_travelled(*way) for way in ((device, "cpu"), ("cpu", device))]
    return max(found, key=lambda one: one["difference"])


def _travelled(start: str, end: str) -> Found:
    with tempfile.TemporaryDirectory() as folder:
        vae = make()
        fit(vae, data(), epochs=2, run=folder, device=start, progress=False)
        other = load(folder, device=end)
    compare(_weights(vae), _weights(other), 0.0)
    there = _log_p(other, end)
    compare(_weights(vae), _weights(other.to(start)), 0.0)
    return compare(_log_p(vae, start), there, 1e-3)


def _log_p(vae: VAE, device: str) -> dict[str, Tensor]:
    with DrawnOnCpu():
        x = data()[:50].to(device)
        return {"log p(x)": log_marginal(vae.model, vae.guide, x, num_particles=250, compile=False).log_p}


def _weights(vae: VAE) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in vae.state_dict().items()}


def out_of_memory(device: str) -> Found:
    """Where memory ends, `fit` says in one line which argument to make smaller."""
    network = partial(MLP, hidden=(FREE // 512,))
    vae = VAE((SIZE["pixels"],), SIZE["latent"], encoder=network, decoder=network).to(device)
    message = ""
    with memory_ends(device):
        try:
            fit(vae, data(), epochs=1, batch_size=SIZE["images"], device=device, compile=False, progress=False)
        except OutOfMemory as error:
            message = str(error)
    assert message, f"no error, though at most {FREE} bytes could be allocated"
    assert "out of memory: take a smaller batch_size" in message and "\n" not in message, message
    return {}


@contextmanager
def memory_ends(device: str) -> Iterator[None]:
    """Inside, no more than `FREE` bytes can be allocated; on the CPU, none at once, with the error of a GPU."""
    if torch.device(device).type != "cuda":
        with _Refusing():
            yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + FREE) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


class _Refusing(DispatchMode):
    """Refuses tensors above `FREE` bytes."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if isinstance(found, Tensor) and found.numel() * found.element_size() > FREE:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore lines of torch.")
        return found


CHECKS: dict[str, Callable[[str], Found]] = {
    "a training resumed to the bit, eager": lambda device: resumed(device, compile=False),
    "a training resumed to the bit, compiled": lambda device: resumed(device, compile=True),
    "a run loaded on another device and back": loaded_elsewhere,
    "out of memory, with a remedy": out_of_memory,
}
