"""What a check is, how it is run, and how it reports a failure."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import checking
from pyro_vae.testing.parts import Part

Check = Callable[[Part], None]
"""One property that an axis requires, as a function of a part that raises if it does not hold; named after it."""


class ContractError(AssertionError):
    """A part fails a check of its axis.

    Args:
        part: the part, with its options.
        check: name of the check.
        expected: what was expected.
        got: what came.
        remedy: what to do.
    """

    def __init__(self, part: str, check: str, expected: str, got: str, remedy: str = "") -> None:
        super().__init__(f"{part} breaks {check!r}: expected {expected}, got {got}{remedy and f': {remedy}'}")
        self.part, self.check, self.expected, self.got, self.remedy = part, check, expected, got, remedy


class NotApplicable(Exception):  # noqa: N818 - not an error: the part need not have the property
    """A check that does not apply to this part; the message gives the reason."""


class _Broken(Exception):  # noqa: N818 - becomes a ContractError once part and check are known
    """A failed check, before part and check are named."""


def expect(condition: object, expected: str, got: object, remedy: str = "") -> None:
    """Fail unless a condition holds.

    Args:
        condition: what must hold.
        expected: what was expected, in words.
        got: what came.
        remedy: what to do.
    """
    if not condition:
        raise _Broken(expected, str(got), remedy)


def expect_shape(name: str, got: Sequence[int], expected: Sequence[int], remedy: str = "") -> None:
    """Two shapes must be equal."""
    expect(tuple(got) == tuple(expected), f"{name} {list(expected)}", list(got), remedy)


def expect_close(name: str, got: Tensor, expected: Tensor, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Two tensors of one shape must agree, by `|got - expected| <= atol + rtol |expected|`."""
    expect_shape(f"{name} of shape", got.shape, expected.shape)
    got, expected = got.detach().double(), expected.detach().double()
    off = (got - expected).abs() - rtol * expected.abs()
    if not (off <= atol).all():
        worst = int(off.nan_to_num(nan=torch.inf).argmax())
        value, wanted = got.reshape(-1)[worst].item(), expected.reshape(-1)[worst].item()
        expect(False, f"{name} {wanted:.8g}", f"{value:.8g} (entry {worst} of {got.numel()})")


def expect_finite(name: str, value: Tensor) -> None:
    """Every entry must be finite."""
    bad = ~value.isfinite()
    expect(not bad.any(), f"{name} to be finite", f"{int(bad.sum())} of {bad.numel()} entries that are not")


def expect_gradients(module: nn.Module, what: str) -> None:
    """After `backward`, every trained parameter must have a finite gradient that is not all zero."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            expect_gradient(f"parameter {name!r}", parameter.grad, what)


def expect_gradient(name: str, gradient: Tensor | None, what: str) -> None:
    """A gradient must exist, be finite and not all zero."""
    remedy = "use it, or register it as a buffer; detach() and branches cut gradients off"
    expect(gradient is not None, f"a gradient of {what} for {name}", "none", remedy)
    assert gradient is not None
    expect_finite(f"the gradient of {what} for {name}", gradient)
    expect(gradient.abs().sum() > 0, f"a gradient of {what} for {name}", "zeros", remedy)


def run_check(check: Check, part: Part, seed: int = 0) -> None:
    """Run one check of a part.

    Draws depend on `seed` and the check's name; arguments of distributions are validated. The caller's generators and
    settings do not change.

    Args:
        check: one of its axis's checks.
        part: the part.
        seed: seed of the draws.

    Raises:
        ContractError: if the part fails the check, or raises any other error.
        NotApplicable: if the check does not apply to this part.
    """
    try:
        with seeded(seed, "check", check.__name__), checking(True), torch.enable_grad():
            check(part)
    except NotApplicable:
        raise
    except _Broken as broken:
        raise ContractError(str(part), check.__name__, *broken.args) from None
    except Exception as error:  # a part can fail in any way
        got = f"{type(error).__name__}: {error}"
        raise ContractError(str(part), check.__name__, "no error", got, "the traceback above says where") from error


def not_applicable(reason: Any) -> NotApplicable:
    """`NotApplicable` with the reason on one line."""
    return NotApplicable(" ".join(str(reason).split()))
