"""The contract of a network, at every pair of shapes that it accepts."""

from collections.abc import Callable
from math import nan, prod
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.networks import Network, computing_in
from pyro_vae.testing import inside_a_vae as whole
from pyro_vae.testing.contract import (
    Check,
    expect,
    expect_close,
    expect_finite,
    expect_gradients,
    expect_shape,
    not_applicable,
)
from pyro_vae.testing.modules import (
    LEADING,
    expect_copies_and_loads,
    expect_moves_and_casts,
    expect_recordable,
    expect_takes_options,
    perturbed,
)
from pyro_vae.testing.parts import Part

Make = Callable[[], Any]
Shape = tuple[int, ...]


def build(part: Part) -> dict[tuple[Shape, Shape], Make]:
    """A factory of the network for each pair of shapes that it does not refuse by UsageError.

    The pairs are those of encoders and decoders for data of several shapes: that of the part, a vector, images.

    Raises:
        UsageError: if it refuses all of them.
    """
    latent = part.latent
    pairs = [p for e in whole.events_for(part) for p in ((e, (2, latent)), (e, (3,)), ((latent,), (2, *e)))]
    made, refused = {}, []
    for pair in pairs:
        try:
            part(*pair)
        except UsageError as reason:
            refused.append(reason)
        else:
            made[pair] = lambda pair=pair: part(*pair)
    if not made:
        raise UsageError(f"it takes none of {pairs}, e.g. because {refused[0]}")
    return made


def takes_its_options(part: Part) -> None:
    """For some shapes it can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def keeps_leading_dimensions(part: Part) -> None:
    """[*leading, *in_shape] to [*leading, *out_shape]; in evaluation mode rows are independent."""
    for (in_shape, out_shape), make in build(part).items():
        network = perturbed(make()).eval()
        for leading in LEADING:
            x = torch.randn(*leading, *in_shape)
            out = network(x)
            expect_shape("output of shape", out.shape, (*leading, *out_shape))
            expect_finite("the output", out)
            if leading:
                expect_close("of one row alone an output", network(x[0]), out[0])


def gradients(part: Part) -> None:
    """Every parameter gets a gradient."""
    for (in_shape, _), make in build(part).items():
        network = perturbed(make())
        out = network(torch.randn(16, *in_shape))
        (out * torch.randn_like(out)).sum().backward()
        expect_gradients(network, "the output")


def depends_on_every_input(part: Part) -> None:
    """Every element of the input influences the output."""
    for (in_shape, _), make in build(part).items():
        x = torch.randn(16, *in_shape, requires_grad=True)
        out = perturbed(make())(x)
        (gradient,) = torch.autograd.grad((out * torch.randn_like(out)).sum(), x)
        dead = int((gradient.abs().sum(0) == 0).sum())
        expect(dead == 0, f"an output that depends on all {x[0].numel()} inputs of {list(in_shape)}", f"{dead} unused")


def starts_at_an_output_bias(part: Part) -> None:
    """`set_output_bias(b)` adds b to the output with a bias of zero."""
    for (in_shape, out_shape), make in build(part).items():
        network, x, bias = make().eval(), torch.randn(5, *in_shape), torch.randn(out_shape)
        outputs = []
        for value in (torch.zeros(out_shape), bias):
            try:
                network.set_output_bias(value)
            except UsageError as reason:
                raise not_applicable(reason) from reason
            outputs.append(network(x))
        expect_close("after set_output_bias an output", outputs[1], outputs[0] + bias)


def starts_constant(part: Part) -> None:
    """`start_output_at` leaves the output unchanged, or makes elements constant where its values are not nan."""
    for (in_shape, out_shape), make in build(part).items():
        network, x = make().eval(), torch.randn(5, *in_shape)
        values = torch.randn(prod(out_shape))
        values[::2] = nan
        before = network(x).reshape(5, -1)
        network.start_output_at(values)
        after = network(x).reshape(5, -1)
        if not torch.equal(before, after):
            expect_close("after start_output_at an output", after, torch.where(values.isnan(), before, values))


def computes_in_bfloat16(part: Part) -> None:
    """Under `computing_in(torch.bfloat16)`: the input's dtype, and an error of at most 10 % of the largest output."""
    for (in_shape, _), make in build(part).items():
        network, x = make().eval(), torch.randn(16, *in_shape)
        with torch.no_grad():
            full = network(x)
            with computing_in(network, torch.bfloat16):
                fast = network(x)
        expect(fast.dtype == full.dtype, f"an output in {full.dtype}", fast.dtype)
        expect_close("in bfloat16 an output", fast, full, 0, 0.1 * float(full.abs().max()))


def copies_and_loads(part: Part) -> None:
    """A deep copy computes the same, and so does a fresh instance with its state dict."""
    for (in_shape, _), make in build(part).items():
        expect_copies_and_loads(make, _at(torch.randn(5, *in_shape)))


def moves_and_casts(part: Part) -> None:
    """`to` moves all its tensors, and it computes in the dtype of its parameters."""
    for (in_shape, _), make in build(part).items():
        expect_moves_and_casts(make, _at(torch.randn(5, *in_shape, dtype=torch.float64)))


def _at(x: Tensor) -> Callable[[Network], Tensor]:
    """The network's output at x, in evaluation mode."""
    return lambda network: network.eval()(x)


def can_be_recorded(part: Part) -> None:
    """A recorded graph is also correct for other inputs and other weights."""
    for (in_shape, _), make in build(part).items():
        network = make().eval()
        expect_recordable(network, network, [torch.randn(5, *in_shape)], [torch.randn(5, *in_shape)])


CHECKS: tuple[Check, ...] = (
    takes_its_options,
    keeps_leading_dimensions,
    gradients,
    depends_on_every_input,
    starts_at_an_output_bias,
    computes_in_bfloat16,
    copies_and_loads,
    moves_and_casts,
    can_be_recorded,
    starts_constant,
    *whole.CHECKS,
)
