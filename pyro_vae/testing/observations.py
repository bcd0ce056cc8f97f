"""What a channel is checked with: likelihoods of x, draws of x and y, and the distribution of one element of y."""

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.channels import Channel, NotExactError, ThroughChannel
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Bernoulli, Categorical, Laplace, Normal, Poisson
from pyro_vae.shapes import Shapes
from pyro_vae.testing.contract import expect, not_applicable
from pyro_vae.testing.measure import Grid, grid_over
from pyro_vae.testing.parts import Part

MANY = 20_000
"""Draws to compare with a density."""
FEWER = 5_000
"""Draws of x restored from as many y, each by itself."""
ELEMENTS = 2
"""So many elements of y are looked at one by one."""
LEADING: tuple[tuple[int, ...], ...] = ((4,), (3, 4), (2, 3, 4))
"""Leading dimensions of x: a batch, particles and a batch, and more."""
_EVENTS = ((4, 4), (1, 4, 4), (6,), (4,), (3,), (2,), (1,))
"""Shapes of x to try where a channel does not take that of the part."""
_TIMES = 8
"""A value that so many of the draws have is a point of positive probability."""
_BELOW, _ABOVE = 3, 40
"""How many values are tried below and above those drawn."""

_LIKELIHOODS: tuple[Any, ...] = (
    Bernoulli,
    partial(Categorical, levels=4),
    partial(Normal, scale="per_element"),
    partial(Laplace, scale="per_element"),
    Poisson,
)
"""One of each kind: binary, finitely many values, real with light and with heavy tails, counts."""


@dataclass(frozen=True)
class Seen:
    """A channel, and a likelihood of x that it is for.

    Args:
        channel: p(y|x).
        likelihood: of x.
        not_exact: why there is no exact p(y|z); empty if there is one.
    """

    channel: Channel
    likelihood: Any
    not_exact: str = ""

    @property
    def event(self) -> tuple[int, ...]:
        """The shape of x."""
        return self.likelihood.shapes.event

    @property
    def observed(self) -> tuple[int, ...]:
        """The shape of y."""
        return tuple(self.channel.observed_shape(self.event))

    @property
    def named(self) -> str:
        """The likelihood, for messages."""
        return f"of {type(self.likelihood).__name__} elements"

    def params(self, *leading: int) -> Tensor:
        """Random parameters, as a decoder may return them, in double precision."""
        return torch.randn(*leading, *self.likelihood.param_shape, dtype=torch.float64)

    def elements(self, *leading: int) -> Any:
        """p(x|z) for random parameters."""
        return self.likelihood(self.params(*leading))

    def repeated(self, elements: Any, num: int) -> Any:
        """The same p(x|z), `num` times."""
        return elements.expand(torch.Size((num, *self.event)))

    def drawn(self, elements: Any, num: int | None = None) -> tuple[Tensor, Tensor]:
        """Draws of x and y, with `num` in front."""
        x = elements.sample(torch.Size(() if num is None else (num,)))
        return x, self.channel.draw(x)

    def total(self, elements: Any, y: Tensor) -> Tensor:
        """Log p(y|z) of whole data, with gaps where y is nan; `[*leading]`."""
        return self.whole(elements).log_prob(y)

    def whole(self, elements: Any) -> ThroughChannel:
        """p(y|z) of one datum."""
        return ThroughChannel(self.channel, elements, len(self.event), self.likelihood.placeholder)

    def recover(self, elements: Any, y: Tensor) -> Any:
        """p(x|y, z), with gaps where y is nan."""
        return self.channel.recover(elements, y, self.likelihood.placeholder)

    def accepts(self, y: Tensor) -> bool:
        """Whether the channel can give this, by its `check`."""
        try:
            self.channel.check(y, self.likelihood)
        except DataError:
            return False
        return True


# ---- what a channel is for -----------------------------------------------------------------------------------------


def event_of(channel: Channel, part: Part) -> tuple[int, ...]:
    """A shape of x that the channel is for: that of the part if possible."""
    for event in (part.event, *_EVENTS):
        try:
            channel.observed_shape(event)
        except UsageError:
            continue
        return event
    expect(False, f"observed_shape to take {part.event} or another small shape", "UsageError", "give event=(...)")
    raise AssertionError


def all_seen(part: Part) -> tuple[list[Seen], list[str]]:
    """The likelihoods that the channel is for, and why it is not for the others."""
    channel = part()
    found, reasons = [], []
    for make in _LIKELIHOODS:
        seen = Seen(channel, make(Shapes(event_of(channel, part), part.latent)).double())
        elements = seen.elements(3)
        _, y = seen.drawn(elements)
        try:
            channel.check(y, seen.likelihood)
            found.append(replace(seen, not_exact=_not_exact(seen, elements, y)))
        except (UsageError, DataError) as reason:
            reasons.append(f"{type(seen.likelihood).__name__}: {reason}")
    return found, reasons


def _not_exact(seen: Seen, elements: Any, y: Tensor) -> str:
    """Why there is no exact p(y|z); p(y|x) of an element is needed then."""
    try:
        seen.total(elements, y)
    except NotExactError as reason:
        if seen.likelihood.support is not constraints.real:
            raise  # x would have to be drawn, which only real values can
        seen.channel.log_density(torch.zeros(()), torch.zeros(()))
        return str(reason)
    return ""


def exact(part: Part) -> list[Seen]:
    """The likelihoods with an exact p(y|z)."""
    found = all_seen(part)[0]
    if not (known := [seen for seen in found if not seen.not_exact]):
        raise not_applicable(found[0].not_exact if found else "no likelihood that it is for")
    return known


def with_density(part: Part) -> list[Seen]:
    """The likelihoods, if the channel has log p(y|x) of an element."""
    found = all_seen(part)[0]
    if not found:
        raise not_applicable("no likelihood that it is for")
    try:
        found[0].channel.log_density(torch.zeros(()), torch.zeros(()))
    except NotExactError as reason:
        raise not_applicable(reason) from reason
    return found


def one_of_each_kind(found: list[Seen]) -> list[Seen]:
    """The first likelihood with a probability and the first with a density."""
    return list({seen.likelihood.discrete: seen for seen in reversed(found)}.values())


# ---- one element of y ----------------------------------------------------------------------------------------------


def some_elements(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Up to `ELEMENTS` positions of a shape, evenly spread."""
    num = int(torch.tensor(shape).prod())
    chosen = torch.linspace(0, num - 1, min(ELEMENTS, num)).round().long()
    return [tuple(int(i) for i in torch.unravel_index(index, shape)) for index in chosen]


def alone(values: Tensor, where: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Data with gaps everywhere but at one position, `[n, *shape]`, for values `[n]`."""
    y = torch.full((len(values), *shape), torch.nan, dtype=values.dtype)
    y[(slice(None), *where)] = values
    return y


def column(y: Tensor, where: tuple[int, ...]) -> Tensor:
    """The values at one position of the data that have one there."""
    values = y[(slice(None), *where)]
    return values[~values.isnan()]


def grid_of(seen: Seen, draws: Tensor, where: tuple[int, ...]) -> Grid:
    """All values of one element of y: points of positive probability, and intervals between them if others are drawn.

    Args:
        seen: the channel.
        draws: of the element, `[m]`.
        where: its position.
    """
    values, counts = _rounded_unique(draws)
    atoms = values[counts >= _TIMES]
    others = draws[(draws[:, None] - atoms).abs().gt(1e-9 * (1 + atoms.abs())).all(1)]
    if len(others) == 0 or (len(atoms) > 0 and _spacing(values) is not None):
        return _points(_reachable(seen, values, where))
    pieces = [_between(low, high, others) for low, high in _gaps(atoms)]
    pieces = [_possible(seen, piece, where) for piece in pieces]
    points = torch.cat([atoms, *(piece.points for piece in pieces)])
    order = points.argsort(stable=True)
    weights = torch.cat([torch.ones_like(atoms), *(piece.weights for piece in pieces)])
    discrete = torch.arange(len(points)) < len(atoms)
    return Grid(points[order], weights[order], discrete[order])


def _rounded_unique(draws: Tensor) -> tuple[Tensor, Tensor]:
    """The values of draws, rising, and how many have each; values are the same if they differ by rounding alone."""
    ordered = draws.double().sort().values
    new = torch.cat([torch.ones(1).bool(), ordered.diff() > 1e-9 * (1 + ordered[1:].abs())])
    starts = new.nonzero().squeeze(-1)
    return ordered[starts], torch.cat([starts, torch.tensor([len(ordered)])]).diff()


def _points(values: Tensor) -> Grid:
    return Grid(values, torch.ones_like(values), discrete=True)


def _spacing(values: Tensor) -> float | None:
    """The step of evenly spaced values, 1 for a single one; None for others."""
    if len(values) == 1:
        return 1.0
    steps = values.diff()
    step = float(steps.min())
    return step if ((steps / step).round() * step - steps).abs().max() <= 1e-6 * step else None


def _reachable(seen: Seen, values: Tensor, where: tuple[int, ...]) -> Tensor:
    """Values that were drawn, with others that `check` accepts: some steps further, if they are evenly spaced."""
    if (step := _spacing(values)) is None:
        return values
    steps_up = round(float(values[-1] - values[0]) / step) + _ABOVE
    candidates = values[0] + step * torch.arange(-_BELOW, steps_up + 1, dtype=torch.float64)
    drawn = (candidates[:, None] - values).abs().min(1).values < 1e-6 * step
    taken = [
        bool(old) or seen.accepts(alone(v[None], where, seen.observed))
        for old, v in zip(drawn, candidates, strict=True)
    ]
    return candidates[torch.tensor(taken)]


def _gaps(atoms: Tensor) -> list[tuple[float, float]]:
    return list(pairwise([-torch.inf, *atoms.tolist(), torch.inf]))


def _possible(seen: Seen, piece: Grid, where: tuple[int, ...]) -> Grid:
    """The part of an interval around its middle that `check` accepts, by bisection; nothing if not the middle."""
    middle, last = len(piece.points) // 2, len(piece.points) - 1
    if not _accepted(seen, piece, where, middle):
        return Grid(piece.points[:0], piece.weights[:0])
    ends = [_last_accepted(seen, piece, where, middle, far) for far in (0, last)]
    kept = slice(ends[0], ends[1] + 1)
    return Grid(piece.points[kept], piece.weights[kept])


def _last_accepted(seen: Seen, piece: Grid, where: tuple[int, ...], good: int, far: int) -> int:
    if _accepted(seen, piece, where, far):
        return far
    while abs(far - good) > 1:
        tried = (far + good) // 2
        good, far = (tried, far) if _accepted(seen, piece, where, tried) else (good, tried)
    return good


def _accepted(seen: Seen, piece: Grid, where: tuple[int, ...], index: int) -> bool:
    return seen.accepts(alone(piece.points[index : index + 1], where, seen.observed))


def _between(low: float, high: float, draws: Tensor) -> Grid:
    """A grid on an open interval: of 1,500 points on the line, and of 10,000 where it is not fine near the draws."""
    support: Any = constraints.real
    if low > -torch.inf and high < torch.inf:
        support = constraints.interval(low, high)
    elif low > -torch.inf or high < torch.inf:
        support = constraints.greater_than(low) if low > -torch.inf else constraints.less_than(high)
    grid = grid_over(support, draws, reach=1e6)
    step = max(1, len(grid.points) // (1500 if support is constraints.real else 10_000))
    return Grid(grid.points[::step], grid.weights[::step] * step)
