"""The contract of a channel p(y|x), for elements x of several likelihoods: those that it is for.

A likelihood counts if the channel's `check` accepts what its `draw` makes of x, and if it has an exact p(y|z), or for
real x a density p(y|x).
"""

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import DataError
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import describe, resolve
from pyro_vae.runs.safe_yaml import dump_yaml, load_yaml
from pyro_vae.testing import channel_densities
from pyro_vae.testing.contract import Check, NotApplicable, expect, expect_close, expect_finite, expect_shape
from pyro_vae.testing.devices import expect_on_one_device
from pyro_vae.testing.modules import expect_takes_options, expect_value
from pyro_vae.testing.observations import LEADING, Seen, all_seen, exact
from pyro_vae.testing.parts import Part


def build(part: Part) -> Any:
    """The channel."""
    return part()


def takes_its_options(part: Part) -> None:
    """It can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def is_a_value(part: Part) -> None:
    """A frozen dataclass: instances with the same fields, copies and saved ones are equal, also by way of YAML."""
    expect_value(part)
    channel = part()
    if part.cls.__qualname__ == part.cls.__name__:
        twin = resolve(load_yaml(dump_yaml(describe(channel))), trust=("pyro_vae", part.cls.__module__))
        expect(twin == channel, f"from YAML {channel}", twin, "take numbers, texts and tuples of them as fields")


def is_for_some_likelihood(part: Part) -> None:
    """It has p(y|z), or a density p(y|x), for binary elements, grey levels, real numbers or counts."""
    found, reasons = all_seen(part)
    expect(found, "a channel for one of five likelihoods", "; ".join(reasons))


def draws_observations(part: Part) -> None:
    """Draws have the observed shape, the type of x, finite values or nan, and come from torch's generator alone."""
    for seen in all_seen(part)[0]:
        for leading in LEADING:
            x = seen.elements(*leading).sample()
            before = x.clone()
            y, again = (_drawn_from(seen, x, 3) for _ in range(2))
            expect_shape("draws of shape", y.shape, (*leading, *seen.observed))
            expect(y.dtype == x.dtype, f"draws in the type of x, {x.dtype}", y.dtype)
            expect(not y.isinf().any(), "finite draws, or nan for a gap", "an infinite one")
            expect(torch.equal(x, before), "x to stay as it is", "other values", "change a copy")
            same = torch.equal(y.nan_to_num(), again.nan_to_num()) and torch.equal(y.isnan(), again.isnan())
            expect(same, "the same draws for the same seed of torch", "others", "draw by torch's generator")


def _drawn_from(seen: Seen, x: Tensor, seed: int) -> Tensor:
    with seeded(seed, "draw"):
        return seen.channel.draw(x)


def rows_do_not_mix(part: Part) -> None:
    """Log p(y|z) has the leading dimensions of z, whether y has them too or fewer; each datum counts by itself."""
    for seen in exact(part):
        for leading in LEADING:
            elements = seen.elements(*leading)
            _, y = seen.drawn(elements)
            together = seen.total(elements, y)
            expect_shape(f"log p(y|z) {seen.named} of shape", together.shape, leading)
            expect(together.dtype == y.dtype, f"log p(y|z) in the type of x, {y.dtype}", together.dtype)
        _expect_rows_apart(seen)


def _expect_rows_apart(seen: Seen) -> None:
    params = seen.params(3, 4)
    elements = seen.likelihood(params)
    y = seen.drawn(elements)[1][0]
    together = seen.total(elements, y)
    one = [[seen.total(seen.likelihood(params[k, n]), y[n]) for n in range(4)] for k in range(3)]
    expect_close(f"log p(y|z) {seen.named} of each datum alone", together, torch.stack([torch.stack(r) for r in one]))


def gaps_count_for_nothing(part: Part) -> None:
    """Without any observation log p(y|z) is 0 and p(x|z) is restored; gaps in one datum leave others as they are."""
    for seen in exact(part):
        params = seen.params(6)
        elements, others = (seen.likelihood(p) for p in (params, params[1::2]))
        _, y = seen.drawn(elements)
        y[::2] = torch.nan
        log_p, restored = seen.total(elements, y), seen.recover(elements, y)
        expect_close("log p(y|z) of data without observations", log_p[::2], torch.zeros(3))
        expect_close("log p(y|z) of data beside gaps", log_p[1::2], seen.total(others, y[1::2]))
        expect_close("the mean of x restored from nothing", restored.mean[::2], elements.mean[::2])


def fills_in(part: Part) -> None:
    """The encoder's fill-in has the shape of x, finite values, a mask; what is `known` is restored as it was."""
    for seen in all_seen(part)[0]:
        elements = seen.elements(6)
        x, y = seen.drawn(elements)
        y[::2] = torch.nan
        filled, mask = seen.channel.fill_in(y, seen.event)
        for name, value in (("fill_in", filled), ("its mask", mask), ("known", seen.channel.known(y, seen.event))):
            expect_shape(f"{name} of shape", value.shape, x.shape)
        expect_finite("fill_in", filled)
        expect(filled.dtype == y.dtype, f"fill_in in the type of y, {y.dtype}", filled.dtype)
        expect(mask.dtype == torch.bool, "a mask of bools, True where an element is known", mask.dtype)
        expect(not mask[::2].any(), "nothing known where nothing was observed", "a mask that is True there")
        spread = seen.channel.spread(~y.isnan(), seen.event)
        expect(not spread[::2].any(), "spread to be False where nothing was observed", "True")
        _expect_known(seen, elements, x, y)


def _expect_known(seen: Seen, elements: Any, x: Tensor, y: Tensor) -> None:
    known = seen.channel.known(y, seen.event)
    if not seen.not_exact:
        again = seen.recover(elements, y).sample()
        expect_close("restored values of elements that are `known`", again[known], x[known])


def checks_its_data(part: Part) -> None:
    """`check` takes draws with gaps; it refuses values that no draw can have, where they are finitely many."""
    for seen in all_seen(part)[0]:
        _, y = seen.drawn(seen.elements(500))
        expect(seen.accepts(y), f"check to take draws of y {seen.named}", "DataError")
        expect(seen.accepts(torch.full_like(y, torch.nan)), "check to take gaps", "DataError")
        if len(y.unique()) > 40 + int(y.isnan().sum()):  # each nan counts as another value
            continue
        for value in (-0.5, 0.123456789):
            y[1].fill_(value)
            _expect_refusal(seen, y, value)


def _expect_refusal(seen: Seen, y: Tensor, value: float) -> None:
    try:
        seen.channel.check(y, seen.likelihood)
    except DataError as error:
        where = f"{value:.6g} at (1, "
        expect(where in str(error), f"the message to say {where!r}", str(error), "take refuse_values of channels.base")
    else:
        expect(False, f"DataError for y = {value} {seen.named}", "no error", "implement check by refuse_values")


def gradients(part: Part) -> None:
    """Log p(y|z) has finite gradients for the decoder's output, equal to finite differences."""
    for seen in exact(part):
        params = seen.params(8).requires_grad_()
        _, y = seen.drawn(seen.likelihood(params))
        (gradient,) = torch.autograd.grad(seen.total(seen.likelihood(params), y).sum(), params)
        expect_finite(f"the gradient of log p(y|z) {seen.named}", gradient)
        step = 1e-5 * torch.randn_like(params)
        with torch.no_grad():
            up, down = (seen.total(seen.likelihood(params + s), y).sum() for s in (step, -step))
        slope = (gradient * step).sum() / 1e-5
        expect_close(f"along a direction the slope {seen.named}", slope, (up - down) / 2e-5, 1e-3, 1e-3)


def single_precision(part: Part) -> None:
    """In float32 log p(y|z) is float32, accurate to 1e-3 for each element, and draws of x are float32 too."""
    for seen in exact(part):
        params = seen.params(50).clamp(-5, 5)
        elements = seen.likelihood(params)
        _, y = seen.drawn(elements)
        narrow = seen.likelihood.float()(params.float())
        got, restored = seen.total(narrow, y.float()), seen.recover(narrow, y.float()).sample()
        for name, value in (("log p(y|z)", got), ("restored draws", restored)):
            expect(value.dtype == torch.float32, f"{name} in float32", value.dtype, "make no tensor of a fixed type")
        size = 1 + y[0].numel()
        expect_close(f"in float32 log p(y|z) {seen.named}", got, seen.total(elements, y), 1e-3, 1e-3 * size)


def stays_finite(part: Part) -> None:
    """For parameters of +-20, far from those that y is of, log p(y|z) and its gradient are finite."""
    for seen in exact(part):
        _, y = seen.drawn(seen.elements(50))
        params = (20 * seen.params(50).sign()).float().requires_grad_()
        log_p = seen.total(seen.likelihood.float()(params), y.float())
        expect_finite(f"log p(y|z) {seen.named} at parameters of +-20", log_p)
        (gradient,) = torch.autograd.grad(log_p.sum(), params)
        expect_finite(f"the gradient of log p(y|z) {seen.named} at parameters of +-20", gradient)


def leaves_the_process_alone(part: Part) -> None:
    """Draws use torch's generator only, densities none at all; switches, and the tensors given, stay as they were."""
    for seen in exact(part):
        elements = seen.elements(4)
        x, y = seen.drawn(elements)
        y[0] = torch.nan
        kept, before = y.clone(), _process()
        seen.channel.draw(x)
        seen.recover(elements, y).sample()
        state = torch.get_rng_state()
        values = [seen.total(elements, y) for _ in range(2)]
        seen.channel.fill_in(y, seen.event)
        expect_close("log p(y|z) at a second call", values[1], values[0], 0.0, 0.0)
        expect(torch.equal(state, torch.get_rng_state()), "log p(y|z) and fill_in without random numbers", "some drawn")
        expect(torch.equal(kept.nan_to_num(), y.nan_to_num()), "y to stay as it is", "other values", "change a copy")
        expect(_process() == before, "switches and other generators as they were", "others")


def stays_on_its_device(part: Part) -> None:
    """Draws, densities, restored values and the encoder's fill-in are computed where x and y are."""
    reading = []
    for seen in exact(part):
        try:
            expect_on_one_device(partial(_on_the_device_of, seen, seen.params(4).to("meta").requires_grad_()))
        except NotApplicable as reason:
            reading.append(reason)
    if reading:
        raise reading[0]


def _on_the_device_of(seen: Seen, params: Tensor) -> Iterator[tuple[str, Tensor]]:
    elements = seen.likelihood.to("meta")(params)
    _, y = seen.drawn(elements)
    filled, mask = seen.channel.fill_in(y, seen.event)
    yield from [("y", y), ("fill_in", filled), ("its mask", mask)]
    yield "known", seen.channel.known(y, seen.event)
    yield "spread", seen.channel.spread(~y.isnan(), seen.event)
    yield f"log p(y|z) {seen.named}", seen.total(elements, y)
    restored = seen.recover(elements, y)
    yield f"the mean of restored x {seen.named}", restored.mean
    yield f"restored x {seen.named}", restored.sample()


def _process() -> tuple[Any, ...]:
    switches = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    return *switches, random.getstate(), str(np.random.get_state())


CHECKS: tuple[Check, ...] = (
    takes_its_options,
    is_a_value,
    is_for_some_likelihood,
    draws_observations,
    rows_do_not_mix,
    *channel_densities.CHECKS,
    gaps_count_for_nothing,
    fills_in,
    checks_its_data,
    gradients,
    single_precision,
    stays_finite,
    leaves_the_process_alone,
    stays_on_its_device,
)
