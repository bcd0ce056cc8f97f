"""Process-wide switches of Pyro and torch that running a program may change, as one value that can be restored."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any, Self

import pyro
import torch
from pyro import poutine
from pyro.distributions import util as distributions
from pyro.infer import util as infer
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.process import pyro_internals


@dataclass(frozen=True)
class Checks:
    """Which argument checks are on: those of Pyro's three parts, and those of torch's distributions.

    `pyro.validation_enabled` does not restore those of torch's distributions: it sets them to Pyro's value.
    """

    infer: bool
    poutine: bool
    pyro_distributions: bool
    torch_distributions: bool

    @classmethod
    def now(cls) -> Self:
        """The current values."""
        return cls(
            infer.is_validation_enabled(),
            poutine.is_validation_enabled(),
            distributions.is_validation_enabled(),
            Distribution._validate_args,
        )

    def put_back(self) -> None:
        """Set these values."""
        infer.enable_validation(self.infer)
        poutine.enable_validation(self.poutine)
        distributions.enable_validation(self.pyro_distributions)
        Distribution.set_default_validate_args(self.torch_distributions)


@contextmanager
def checking(enabled: bool) -> Iterator[None]:
    """Run a block with all checks of Pyro and of torch's distributions on, or all off."""
    before = Checks.now()
    try:
        pyro.enable_validation(enabled)
        yield
    finally:
        before.put_back()


@dataclass(frozen=True)
class Switches:
    """All switches that the package sets during a call.

    Args:
        checks: which are on.
        products: how float32 products are computed, for each backend with such a switch.
        threads: number of torch's threads.
        gradients: whether gradients are on in this thread.
        generator: state of torch's generator.
        handlers: Pyro's handlers that are active.
        plates: names of the plates that occupy dimensions.
    """

    checks: Checks
    products: tuple[tuple[Any, str], ...]
    threads: int
    gradients: bool
    generator: Tensor
    handlers: tuple[Any, ...]
    plates: tuple[str | None, ...]

    @classmethod
    def now(cls) -> Self:
        """The current values."""
        return cls(
            Checks.now(),
            tuple((switch, switch.fp32_precision) for switch in _product_switches()),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.default_generator.get_state(),
            pyro_internals.handlers(),
            pyro_internals.plates(),
        )

    def put_back(self) -> None:
        """Set these values, where they differ."""
        self.checks.put_back()
        for switch, precision in self.products:
            if switch.fp32_precision != precision:
                switch.fp32_precision = precision
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        torch.set_grad_enabled(self.gradients)
        torch.default_generator.set_state(self.generator)
        pyro_internals.put_back(self.handlers, self.plates)


@contextmanager
def put_back_on_error() -> Iterator[None]:
    """Run a block; if it ends with an error or Ctrl-C, restore all switches.

    Normally each is restored where it was changed; but Ctrl-C can come between the change and the `try`.
    """
    before = Switches.now()
    try:
        yield
    except BaseException as error:
        _finish_contexts(error)
        before.put_back()
        raise


@dataclass(frozen=True)
class Others:
    """Switches that the package never sets, and that change the numbers of a training.

    Args:
        dtype: torch's default one.
        deterministic: whether torch refuses algorithms that are not, and whether it only warns.
        denormals: whether numbers too small for a normal one are kept, in this thread.
        backends: whether oneDNN and cuDNN are used, and how algorithms of cuDNN are chosen.
    """

    dtype: torch.dtype
    deterministic: tuple[bool, bool]
    denormals: bool
    backends: tuple[tuple[Any, str, bool], ...]

    @classmethod
    def now(cls) -> Self:
        """The current values."""
        backends: Any = torch.backends
        named = [
            (backends.mkldnn, "enabled"),
            *((backends.cudnn, n) for n in ("enabled", "benchmark", "deterministic")),
        ]
        return cls(
            torch.get_default_dtype(),
            (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
            bool((torch.full((1,), 1e-40, dtype=torch.float32) * 1.0).item()),  # torch does not tell
            tuple((backend, name, getattr(backend, name)) for backend, name in named),
        )

    def put_back(self) -> None:
        """Set these values, where they differ."""
        now = Others.now()
        if now.dtype != self.dtype:
            torch.set_default_dtype(self.dtype)
        if now.deterministic != self.deterministic:
            torch.use_deterministic_algorithms(self.deterministic[0], warn_only=self.deterministic[1])
        if now.denormals != self.denormals:
            torch.set_flush_denormal(not self.denormals)
        for (backend, name, value), (*_, changed) in zip(self.backends, now.backends, strict=True):
            if changed != value:
                setattr(backend, name, value)


@contextmanager
def put_back_afterwards() -> Iterator[None]:
    """Run a block of somebody else's code, then restore all switches, whatever it has set."""
    before, others = Switches.now(), Others.now()
    try:
        yield
    finally:
        before.put_back()
        others.put_back()


def _finish_contexts(error: BaseException) -> None:
    """Close the `@contextmanager`s that were interrupted before their `with` block began: else they would restore their
    values only when the traceback is garbage collected, some time later.
    """
    for frame, _ in walk_tb(error.__traceback__):
        if frame.f_code.co_filename == contextlib.__file__:
            with suppress(RuntimeError):  # the frame is still running
                frame.clear()


def _product_switches() -> list[Any]:
    backends: Any = torch.backends
    found = (backends.cuda.matmul, backends.cudnn.conv, getattr(backends.mkldnn, "matmul", None))
    return [switch for switch in found if hasattr(switch, "fp32_precision")]
