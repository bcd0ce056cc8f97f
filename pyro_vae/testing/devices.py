"""Whether a part computes where its tensors are: tried on torch's meta device, whose tensors have no values.

No accelerator is needed. What takes part in an operation with a tensor on the meta device must be there too, as on an
accelerator: scalars may stay on the CPU, and so may indices. Where a program asks whether something is true, as
`if x.isnan().any()`, the answer is no.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from pyro_vae.process.switches import checking
from pyro_vae.process.torch_internals import DispatchMode, operation_name
from pyro_vae.testing.contract import expect, not_applicable

_COPIES, _INDEXING = ("aten::copy_",), ("aten::index", "aten::index_put", "aten::index_put_")
"""Operations that may have tensors of two devices: copies to the device, and indices, which are given in a list."""

_READING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Torch marks so the operations whose result, or whose shape, needs values."""

_MOST_QUESTIONS = 100

_REMEDY = (
    "make it by `torch.zeros(..., device=x.device)`, `x.new_zeros(...)` or `torch.zeros_like(x)`, or register_buffer"
)


class _NeedsValues(Exception):  # noqa: N818 - becomes NotApplicable
    """An operation that the meta device does not have."""


class _OneDevice(DispatchMode):
    """Refuses operations on tensors of the meta device and of the CPU, which torch's meta device itself lets pass."""

    def __init__(self) -> None:
        super().__init__()
        self.questions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, if it does not mix devices and needs no values."""
        kwargs = kwargs or {}
        if any(t.is_meta for t in _tensors(args, kwargs)):
            if self._is_question(func, args):
                return False
            _refuse_reading(func, args, kwargs)
            stray = [list(t.shape) for t in _together(func, args, kwargs) if t.dim() and not t.is_meta]
            expect(not stray, "every tensor on the device of the data", f"{stray} on the CPU in {func}", _REMEDY)
        try:
            return func(*args, **kwargs)
        except NotImplementedError as reason:
            raise _NeedsValues(f"torch has no {func} for the meta device") from reason

    def _is_question(self, func: Any, args: Any) -> bool:
        """Whether a truth value is read; a program that asks too often may be waiting for another answer."""
        asked = operation_name(func) == "aten::_local_scalar_dense" and args[0].dtype == torch.bool
        self.questions += asked
        return asked and self.questions <= _MOST_QUESTIONS


def _tensors(args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that an operation is given, alone and in lists."""
    given = [*args, *kwargs.values()]
    members = [member for value in given if isinstance(value, list | tuple) for member in value]
    return [value for value in (*given, *members) if isinstance(value, Tensor)]


def _together(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """The tensors that must be on one device."""
    if operation_name(func) in _COPIES:
        return []
    return [a for a in args if isinstance(a, Tensor)] if operation_name(func) in _INDEXING else _tensors(args, kwargs)


def _refuse_reading(func: Any, args: Any, kwargs: Any) -> None:
    copied = operation_name(func) == "aten::_to_copy" and torch.device(kwargs.get("device") or "meta").type == "cpu"
    written = operation_name(func) in _COPIES and not args[0].is_meta
    read = _READING & set(func.tags) and operation_name(func) not in _INDEXING
    if copied or written or read:
        raise _NeedsValues(f"{func} reads the values of a tensor")


def expect_on_one_device(results: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
    """Check that tensors computed of others on the meta device are there, and that their gradients can be computed.

    Args:
        results: computes tensors one by one, and yields each with its name.

    Raises:
        NotApplicable: if values must be read on the way.
    """
    try:
        with checking(False), _OneDevice():
            for name, value in results():
                expect(value.is_meta, f"{name} on the device of the data", f"on {value.device}", _REMEDY)
                if value.requires_grad:
                    value.sum().backward(retain_graph=True)
    except _NeedsValues as reason:
        raise not_applicable(f"can't be tried without values: {reason}") from reason
