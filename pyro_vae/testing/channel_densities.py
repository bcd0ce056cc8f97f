"""The contract of a channel's densities and draws: p(y|z), p(y|x) and p(x|y, z)."""

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pyro_vae.channels import NotExactError
from pyro_vae.testing.contract import Check, expect_close, expect_shape
from pyro_vae.testing.measure import expect_boxes_filled, expect_distributed, expect_mean, expect_normalised
from pyro_vae.testing.observations import (
    FEWER,
    MANY,
    Seen,
    alone,
    column,
    exact,
    grid_of,
    one_of_each_kind,
    some_elements,
    with_density,
)
from pyro_vae.testing.parts import Part

_TOLERANCE = 1e-3
"""Of a total probability: where the density of y has a jump, quadrature is no better."""
_ENOUGH = 1000
"""Least draws of an element that are compared with a density."""


def normalises(part: Part) -> None:
    """Over the values of one element of y, p(y|z) adds up to what it is with a gap there: by sums or by quadrature."""
    for seen in exact(part):
        elements = seen.elements()
        _, y = seen.drawn(elements, MANY)
        for where, draws in _columns(y):
            masses = grid_of(seen, draws, where).masses(partial(_given_the_rest, seen, elements, y[0], where))
            expect_normalised(masses, _TOLERANCE)


def _columns(y: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
    """Some positions of y `[n, *observed]`, each with the draws that have no gap there, if they are many."""
    found = [(where, column(y, where)) for where in some_elements(tuple(y.shape[1:]))]
    return [(where, draws) for where, draws in found if len(draws) >= _ENOUGH]


def _given_the_rest(seen: Seen, elements: Any, rest: Tensor, where: tuple[int, ...], values: Tensor) -> Tensor:
    """Log p of one element of y given the others."""
    gap = rest.clone()
    gap[where] = torch.nan
    y = gap.expand(len(values), *rest.shape).clone()
    y[(slice(None), *where)] = values
    return seen.total(seen.repeated(elements, len(values)), y) - seen.total(elements, gap)


def draws_follow_the_density(part: Part) -> None:
    """Of 20,000 draws of x and then y, elements of y and pairs of them have the density that `log_prob` states."""
    for seen in exact(part):
        elements = seen.elements()
        _, y = seen.drawn(elements, MANY)
        for where, draws in _columns(y):
            grid = grid_of(seen, draws, where)
            expect_distributed(draws, grid, grid.masses(partial(_by_itself, seen, elements, where)))
    for seen in one_of_each_kind(exact(part)) * 2:
        elements = seen.likelihood(3 * seen.params())  # of probabilities away from 1/2, where common noise shows
        for first, second in pairwise(some_elements(seen.observed)):
            _expect_pairs(seen, elements, first, second)


def _by_itself(seen: Seen, elements: Any, where: tuple[int, ...], values: Tensor) -> Tensor:
    """Log p of one element of y, with gaps elsewhere."""
    return seen.total(seen.repeated(elements, len(values)), alone(values, where, seen.observed))


def _expect_pairs(seen: Seen, elements: Any, *places: tuple[int, ...]) -> None:
    """The most frequent pairs of values have the probability stated; without any, boxes are as full as the density."""

    def draw(num: int) -> tuple[Tensor, Tensor]:
        _, y = seen.drawn(elements, num)
        pair = torch.full_like(y, torch.nan)
        for where in places:
            pair[(slice(None), *where)] = y[(slice(None), *where)]
        values = torch.stack([y[(slice(None), *where)] for where in places], -1)
        return values, seen.total(seen.repeated(elements, num), pair)

    values, log_p = draw(MANY)
    if values.isnan().any():
        return
    kinds, which, counts = values.unique(dim=0, return_inverse=True, return_counts=True)
    if all(len(value.unique()) == MANY for value in values.unbind(-1)):
        expect_boxes_filled(draw)
    for kind in counts.topk(min(3, len(kinds))).indices[: 3 if len(kinds) < MANY / 20 else 0]:
        share = log_p[which == kind][0].exp()
        expect_mean(f"the share of y = {kinds[kind].tolist()}", (which == kind).double(), share)


def density_of_y_given_x(part: Part) -> None:
    """`log_density` adds up to 1 over y, and 20,000 draws of y for one x follow it."""
    for seen in with_density(part):
        x = seen.elements().sample()
        y = seen.channel.draw(x.expand(MANY, *x.shape))
        for where, draws in _columns(y):
            grid = grid_of(seen, draws, where)
            masses = grid.masses(partial(_of_one, seen, x[where]))
            expect_normalised(masses, _TOLERANCE)
            expect_distributed(draws, grid, masses)


def _of_one(seen: Seen, x: Tensor, values: Tensor) -> Tensor:
    return seen.channel.log_density(values, x)


def restores_by_bayes_rule(part: Part) -> None:
    """`restored` is p(x|y, z): by Bayes' rule where all densities are known, and draws of it are as x itself."""
    for seen in exact(part):
        elements = seen.repeated(seen.elements(), FEWER)
        x, y = seen.drawn(elements)
        again = seen.recover(elements, y).sample()
        expect_shape("restored draws of shape", again.shape, x.shape)
        off = _features(x, y, again)
        expect_mean(f"restored less true x {seen.named}, and products with y,", off, torch.zeros(off.shape[1]))
        _expect_bayes(seen)


def _features(x: Tensor, y: Tensor, again: Tensor) -> Tensor:
    """Bounded functions of x and y at the restored x less the same at x; their mean is 0 if both are distributed alike.

    `[FEWER, functions]`: of each element, its square, and its products with elements of x and of y.
    """
    middle, size = x.flatten(1).mean(0), x.flatten(1).std(0) + 1e-9
    true, drawn = (((value.flatten(1) - middle) / size).tanh() for value in (x, again))
    seen = y.flatten(1).nan_to_num()
    seen = ((seen - seen.mean(0)) / (seen.std(0) + 1e-9)).tanh()
    of_x = [f(drawn) - f(true) for f in (_itself, torch.square, lambda u: u * u[:, :1], lambda u: u * u[:, -1:])]
    with_y = [(drawn - true) * column[:, None] for column in seen.unbind(1)]
    return torch.cat(of_x + with_y, 1)


def _itself(values: Tensor) -> Tensor:
    return values


def _expect_bayes(seen: Seen) -> None:
    """p(y|z) p(x|y, z) = p(y|x) p(x|z), for a channel that states both sides for each element."""
    elements = seen.elements(50)
    x, y = seen.drawn(elements)
    whole = ~y.isnan()
    y = torch.where(whole, y, seen.likelihood.placeholder)
    try:
        left = seen.channel.log_prob(elements, y) + seen.channel.restored(elements, y).log_prob(x)
        right = seen.channel.log_density(y, x) + elements.log_prob(x)
    except (NotExactError, NotImplementedError, RuntimeError):
        return  # not of each element, or of other elements than x
    if left.shape == right.shape == whole.shape:
        name = f"log p(y|z) + log p(x|y, z) {seen.named}, which is log p(y|x) + log p(x|z),"
        expect_close(name, left[whole], right[whole], 1e-4, 1e-4)


def restored_moments(part: Part) -> None:
    """`mean` and `variance` of p(x|y, z), where they are implemented, agree with 20,000 draws."""
    for seen in exact(part):
        elements = seen.elements(1)
        _, y = seen.drawn(elements)
        restored = seen.recover(elements, y)
        draws = restored.sample(torch.Size((MANY,)))
        for name, of_draws in (("mean", _itself), ("variance", lambda d: (d - d.mean(0)).square())):
            if (stated := _stated(restored, name)) is not None:
                known = stated.isfinite()
                expect_mean(f"{name} of p(x|y, z) {seen.named}", of_draws(draws)[:, known], stated[known], 1e-6)


def _stated(restored: Any, name: str) -> Tensor | None:
    try:
        return getattr(restored, name)
    except NotImplementedError:
        return None


CHECKS: tuple[Check, ...] = (
    normalises,
    draws_follow_the_density,
    density_of_y_given_x,
    restores_by_bayes_rule,
    restored_moments,
)
