"""The contract of parts of every axis, as torch modules or as values, and helpers to check them."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.compiling.recording import Unrecordable, record
from pyro_vae.errors import UsageError
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import checking
from pyro_vae.runs.describing import describe, resolve
from pyro_vae.testing.contract import expect, expect_close, not_applicable
from pyro_vae.testing.parts import Part, offered_by

LEADING: tuple[tuple[int, ...], ...] = ((), (4,), (3, 4), (2, 3, 4))
"""Leading dimensions to try: none, a batch, particles and a batch, and more."""

small_mlp = partial(MLP, hidden=(5,), activation="tanh")
"""A network with moderate outputs, even for large data."""


def perturbed(module: nn.Module) -> Any:
    """The module with its parameters moved a little: a parameter of zero could hide the effect of another.

    A weight moves by at most 1 / sqrt(its inputs), so that outputs of wide networks stay moderate too.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            inputs = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.add_(min(0.1, inputs**-0.5) * torch.randn_like(parameter))
    return module


def expect_takes_options(part: Part, build: Callable[[Part], object]) -> None:
    """Building must accept the defaults and every value in an annotation, alone or with one other option."""
    build(part)
    offered = offered_by(part.cls)
    single = [(name, value) for name, values in offered.items() for value in values]
    taken = [option for option in single if _builds(Part(part.cls, dict([option]), part.event, part.latent), build)]
    for name, value in single:
        others = [Part(part.cls, {n: v, name: value}, part.event, part.latent) for n, v in taken if n != name]
        expect(
            (name, value) in taken or any(_builds(other, build) for other in others),
            f"{name}={value!r}, which the annotation offers, to be taken",
            "UsageError",
            "leave it out of the annotation",
        )


def _builds(part: Part, build: Callable[[Part], object]) -> bool:
    try:
        build(part)
    except UsageError:
        return False
    return True


def expect_value(part: Part) -> None:
    """A frozen dataclass: instances with the same fields, copies and saved ones must be equal."""
    first, second = part(), part()
    frozen = is_dataclass(first) and getattr(first, "__dataclass_params__").frozen  # noqa: B009 - unknown to the types
    expect(frozen, "a frozen dataclass", f"{part.cls.__name__}, which is none", "put @dataclass(frozen=True) above it")
    expect(first == second and hash(first) == hash(second), "two of the same fields to be equal", "two that are not")
    expect(deepcopy(first) == first, f"a copy equal to {first}", deepcopy(first))
    try:
        description = describe(first)
    except UsageError:
        return  # a class that can't be imported by its name is never saved
    twin = resolve(description, trust=("pyro_vae", part.cls.__module__))
    expect(twin == first, f"from its saved description {first}", twin, "take plain values and parts as fields")


def expect_tensors_registered(module: nn.Module) -> None:
    """Every tensor of a module must be a parameter or a buffer, so that it moves with the module."""
    for name, owner in module.named_modules():
        for key, value in vars(owner).items():
            expect(
                not isinstance(value, Tensor),
                f"the tensor {f'{name}.{key}'.lstrip('.')!r} to be a parameter or a buffer",
                "a plain attribute, which .to(device) leaves behind",
                "register_buffer(name, tensor, persistent=False), or nn.Parameter",
            )


def expect_moves_and_casts(build: Callable[[], nn.Module], evaluate: Callable[[Any], Tensor]) -> None:
    """`to` must move every tensor, and a module in double precision must compute in double precision.

    Args:
        build: makes the module.
        evaluate: computes a tensor with it, in the dtype of its parameters and inputs.
    """
    module = build()
    expect_tensors_registered(module)
    left = [name for name, t in module.to("meta").state_dict().items() if t.device.type != "meta"]
    expect(not left, "to('meta') to move all tensors", f"{left} elsewhere")
    got = evaluate(build().double()).dtype
    expect(got == torch.float64, "float64 from a module in float64", got, "make no tensor of a fixed type")


def expect_copies_and_loads(build: Callable[[], nn.Module], evaluate: Callable[[Any], Tensor]) -> None:
    """A deep copy and a fresh instance with its state must compute the same; `evaluate` is deterministic."""
    module = perturbed(build())
    expected = evaluate(module)
    expect_close("from a deep copy a value", evaluate(deepcopy(module)), expected)
    fresh = build()
    fresh.load_state_dict(module.state_dict())
    expect_close("from a fresh one with load_state_dict(state_dict()) a value", evaluate(fresh), expected)


def expect_recordable(
    module: nn.Module, function: Callable[..., Tensor], inputs: Sequence[Tensor], others: Sequence[Tensor]
) -> None:
    """If `function` can be recorded as a graph, the graph must be correct for other inputs and weights too.

    It fails if the graph contains a constant that depends on the first inputs.
    """
    try:
        with checking(False):
            graph = record(module, lambda *x: [function(*x)], inputs, compile=False)
    except Unrecordable as reason:
        raise not_applicable(f"can't be recorded, so it is never compiled: {reason}") from reason
    perturbed(module)
    with seeded(1, "same"), torch.no_grad():
        expected = function(*others)
    with seeded(1, "same"):
        (got,) = graph(*others)
    expect_close("from the recorded graph, at inputs other than those recorded, a value", got, expected, rtol=1e-3)
