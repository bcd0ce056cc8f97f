"""Tensors from a file, checked by name, shape and type against the module or the optimizer that they are for.

Torch itself fills in what is missing, casts other types, and reads past the end of an optimizer's tensor that is too
small. So tensors are checked before torch gets them.
"""

from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pyro_vae.errors import CheckpointError


def restore_weights(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Load weights into a module that has exactly these tensors, with these shapes and types.

    Raises:
        CheckpointError: with the first tensor that does not fit.
    """
    check_tensors(tensors, module.state_dict(), where)
    try:
        module.load_state_dict(dict(tensors))
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:  # a user's class may override it
        raise CheckpointError(f"{where}: {error}") from error


class SizedLike(TorchFunctionMode):
    """Inside, a module for some given weights may be built, but not one that is much larger than them.

    A config can ask for any size. A module of the wrong size would be refused anyway; this does it before memory and
    time are used.

    Args:
        tensors: the weights.
        where: the beginning of the message: which weights, and that they do not fit.
    """

    def __init__(self, tensors: Mapping[str, Tensor], where: str) -> None:
        super().__init__()
        self.elements = 1_000_000 + 20 * sum(tensor.numel() for tensor in tensors.values())
        self.calls = 100_000 + 1000 * len(tensors)
        self.where = where

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count the elements before a tensor is made."""
        keywords = dict(kwargs or {})
        self.calls -= 1
        if getattr(func, "__name__", "") in _MAKERS:
            sized = {name: value for name, value in keywords.items() if name not in ("generator", "out", "pin_memory")}
            with suppress(RuntimeError, TypeError, ValueError):  # the call itself raises then, or makes nothing
                self.elements -= func(*args, **{**sized, "device": "meta"}).numel()
        if self.elements < 0 or self.calls < 0:
            raise CheckpointError(f"{self.where}: it would be many times larger than they are")
        return func(*args, **keywords)


_MAKERS = ("empty", "zeros", "ones", "full", "rand", "randn", "arange", "linspace", "eye", "randint", "randperm")


def as_precise(module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Convert a module to the floating type of the given weights, if they have a single one."""
    types = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if len(types) == 1 and types <= PRECISIONS:
        module.to(types.pop())


PRECISIONS = {torch.float32, torch.float64}
"""The types of weights; only networks compute in other types, if asked to."""


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Refuse tensors that are not those expected.

    Args:
        tensors: what was read.
        expected: tensors of the same names, shapes and types.
        where: the beginning of the message: which tensors, and that they do not fit.

    Raises:
        CheckpointError: with the first name that is missing or unknown, or the first shape or type that differs.
    """
    for name in expected:
        if name not in tensors:
            raise CheckpointError(f"{where}: the tensor {name!r} is missing")
    for name, tensor in tensors.items():
        if name not in expected:
            raise CheckpointError(f"{where}: there is no place for the tensor {name!r}")
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            came, due = _kind(tensor), _kind(expected[name])
            raise CheckpointError(f"{where}: the tensor {name!r} should be {due}, and is {came}")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


# ---- optimizers ------------------------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state by `index/name`: its tensors, and its plain numbers."""
    entries = {f"{i}/{k}": v for i, state in optimizer.state_dict()["state"].items() for k, v in state.items()}
    tensors = {key: value for key, value in entries.items() if isinstance(value, Tensor)}
    return tensors, {key: value for key, value in entries.items() if key not in tensors}


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    plain: Mapping[str, Any],
    where: str = "the optimizer's tensors do not fit",
    done: int | None = None,
) -> None:
    """Load a state from `optimizer_tensors` into an optimizer of the same parameters.

    What is expected is found by a trial step on a copy. A parameter that never had a gradient has no state; any other
    parameter must have all of it.

    Args:
        optimizer: a new one.
        tensors: its tensors.
        plain: its numbers.
        where: the beginning of the message: which tensors, and that they do not fit.
        done: the steps that were made; None if that is not known.

    Raises:
        CheckpointError: with the first tensor or number that does not fit.
    """
    state: dict[int, dict[str, Any]] = {}
    if tensors or plain or done:
        _check_state(optimizer, tensors, plain, where)
    _check_counters({**tensors, **plain}, where, done)
    for key, value in {**tensors, **plain}.items():
        index, _, name = key.partition("/")
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    _keep_types(optimizer, state)


def _keep_types(optimizer: torch.optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Undo torch's cast to the parameter's type: NAdam's counter is float32 even if the weights are float64."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in saved.items():
        state = optimizer.state[parameters[index]]
        for name, value in entries.items():
            if isinstance(value, Tensor):
                state[name] = state[name].to(value.dtype)


def _check_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any], where: str
) -> None:
    expected_tensors, expected_plain = _after_a_step(optimizer)
    if not tensors and not plain and (expected_tensors or expected_plain):
        raise CheckpointError(f"{where}: the tensor {min(expected_tensors or expected_plain)!r} is missing")
    present = {key.partition("/")[0] for key in (*tensors, *plain)}
    due = {key: value for key, value in expected_tensors.items() if key.partition("/")[0] in present}
    if not type(optimizer).__module__.startswith("torch.optim"):  # others may add to their state later
        due |= {key: tensor for key, tensor in tensors.items() if key not in due and _index(key) in _indices(optimizer)}
    check_tensors(_alike(tensors, due), due, where)
    for key, value in tensors.items():
        _check_values(key, value, where)
    for key, value in plain.items():
        kinds = (int, float) if isinstance(expected_plain.get(key), float) else type(expected_plain.get(key))
        if key not in expected_plain or not isinstance(value, kinds):
            raise CheckpointError(f"{where}: {key!r} is {value!r} in manifest.json")
    if missing := [key for key in expected_plain if key.partition("/")[0] in present and key not in plain]:
        raise CheckpointError(f"{where}: {missing[0]!r} is missing in manifest.json")


def _after_a_step(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state that an optimizer of this class and these options keeps for each parameter."""
    trial = deepcopy(optimizer)
    for group in trial.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    trial.step()
    return optimizer_tensors(trial)


def _alike(tensors: Mapping[str, Tensor], due: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with counters in the expected type: it depends on torch's default type, which may have changed."""
    return {
        key: tensor.to(due[key].dtype)
        if tensor.ndim == 0 and key in due and {tensor.dtype, due[key].dtype} <= PRECISIONS
        else tensor
        for key, tensor in tensors.items()
    }


def _check_values(key: str, tensor: Tensor, where: str) -> None:
    if tensor.isnan().any():
        raise CheckpointError(f"{where}: the tensor {key!r} holds nan")


def _check_counters(state: Mapping[str, Any], where: str, done: int | None) -> None:
    """Refuse more updates of a parameter than there were steps: older versions could count a step more than once."""
    for key, value in state.items():
        if not key.endswith("/step"):
            continue
        if not (float(value) >= 1 and float(value) % 1 == 0):
            raise CheckpointError(f"{where}: {key!r} counts {float(value):g} updates of a parameter")
        if done is not None and value > done:
            raise CheckpointError(
                f"{where}: {key!r} counts {float(value):g} updates of a parameter after {done} steps: train it anew"
            )


def _indices(optimizer: torch.optim.Optimizer) -> range:
    return range(sum(len(group["params"]) for group in optimizer.param_groups))


def _index(key: str) -> int:
    index = key.partition("/")[0]
    return int(index) if index.isdecimal() and len(index) < 9 else -1
