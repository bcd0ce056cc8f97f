"""What tensor operations a function makes, as text: a name for the code that is compiled from them.

Recording a graph takes torch's compiler, which takes seconds to import. Listening takes a few milliseconds: the
function is run once, and every operation is written down, in order, with what it was called with. Equal texts are equal
graphs, so code that was compiled from one serves the other (`kept_code.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae.process.torch_internals import DispatchMode

_PLAIN = (bool, int, float, complex, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)
"""Types of arguments whose text says all of them."""

_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Marks of operations that read values: `.item()`, `nonzero`."""


class NotHeard(Exception):  # noqa: N818 - not an error: the code is compiled, and not kept
    """Operations that a text can't stand for; the message gives the reason."""


class Listener(DispatchMode):
    """Writes down the operations that are made inside it.

    A tensor is written as the number of its first appearance. One that is neither an input nor made by an operation is
    a constant: its values are not part of the text, since compiled code gets them as inputs.

    Args:
        inputs: of the function that is run inside.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self._text = sha256()
        self._numbers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._constants: dict[int, Tensor] = {}
        self._sources: list[set[int]] = []
        self._met: set[int] = set()
        for tensor in inputs:
            self._write(self._new(tensor, "input"))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and write it down."""
        if _DEPENDENT & set(func.tags):
            raise NotHeard(f"{func} reads values")
        called = f"{func}({self._told(args)}, {self._told(kwargs or {})})"
        sources = self._named()
        result = func(*args, **(kwargs or {}))
        self._write(f"{called} = {self._told(result, 'result')}")
        for number in self._named():
            self._sources[number] |= sources
        return result

    def key(self, outputs: Sequence[Tensor], *others: object) -> str:
        """The name of these operations, with these outputs, and of whatever else the code depends on."""
        self._write(f"{self._told(list(outputs))} {others!r}")
        return self._text.hexdigest()

    def constants(self, outputs: Sequence[Tensor]) -> list[Tensor]:
        """The constants that the outputs depend on, in order of appearance."""
        reached: set[int] = set()
        more = {self._numbers[output] for output in outputs}
        while more := more - reached:
            reached |= more
            more = set().union(*(self._sources[number] for number in more))
        return [constant for number, constant in self._constants.items() if number in reached]

    def _write(self, line: str) -> None:
        self._text.update(line.encode() + b"\n")

    def _told(self, value: Any, what: str = "constant") -> str:
        """A value in words; a tensor that has no number yet is a constant, or a result."""
        if isinstance(value, Tensor):
            new = "" if value in self._numbers else self._new(value, what)
            self._met.add(self._numbers[value])
            return f"%{self._numbers[value]}{new}"
        if isinstance(value, list | tuple):
            return f"[{', '.join(self._told(part, what) for part in value)}]"
        if isinstance(value, dict):
            return f"{{{', '.join(f'{name}: {self._told(part, what)}' for name, part in value.items())}}}"
        if isinstance(value, _PLAIN):
            return repr(value)
        raise NotHeard(f"an operation takes a {type(value).__name__}")

    def _new(self, tensor: Tensor, what: str) -> str:
        number = self._numbers[tensor] = len(self._sources)
        self._sources.append(set())
        if what == "constant":
            self._constants[number] = tensor
        form = tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device, tensor.is_conj(), tensor.is_neg()
        return f": {what} {form}"

    def _named(self) -> set[int]:
        """The numbers of the tensors told since the last call."""
        met, self._met = self._met, set()
        return met


def heard(run: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor], *others: object) -> tuple[str, list[Tensor]]:
    """The name of the operations of `run(*inputs)`, and the constants that its outputs depend on.

    Args:
        run: the function; it is run once, and its operations have their effects.
        inputs: what it is called with.
        *others: whatever else belongs into the name.

    Raises:
        NotHeard: if a value is read, or an operation takes what has no text.
    """
    with Listener(inputs) as listener:
        outputs = run(*inputs)
    return listener.key(outputs, *others), listener.constants(outputs)
