"""A declared space of options: lists of values and ranges, and the candidates that are drawn from it."""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import exp, isfinite, log, log10, prod
from typing import Any

import torch

from pyro_vae.arguments.values import plain, shown, whole
from pyro_vae.errors import UsageError
from pyro_vae.process.seeding import derive_seed, generator

_FORMS = "a list of values, {uniform: [low, high]} or {log: [low, high]}"
_DIGITS = 3
"""Significant digits of a drawn number, or more if the range is narrow: still more would be hard to read."""
_MOST = 10_000
"""Most candidates."""
_LARGEST = 1 << 53
"""Whole numbers up to it are exact as floats."""


@dataclass(frozen=True)
class _Choices:
    """Some values.

    Args:
        values: at least one.
    """

    values: Sequence[Any]

    def at(self, place: float) -> Any:
        """The value at a place in [0, 1)."""
        return self.values[int(place * len(self.values))]


@dataclass(frozen=True)
class _Range:
    """The numbers between two; whole ones if both ends are.

    Args:
        low: the smallest.
        high: the largest.
        logarithmic: whether the logarithm is uniform.
    """

    low: float
    high: float
    logarithmic: bool

    def at(self, place: float) -> Any:
        """The number at a place in [0, 1)."""
        is_whole = isinstance(self.low, int) and isinstance(self.high, int)
        low, high = (self.low - 0.5, self.high + 0.5) if is_whole else (self.low, self.high)
        if self.logarithmic:
            value = exp((1 - place) * log(low) + place * log(high))
        else:
            value = (1 - place) * low + place * high
        rounded = round(value) if is_whole else float(f"{value:.{self._digits}g}")
        return min(max(rounded, self.low), self.high)

    @property
    def _digits(self) -> int:
        """Digits that tell about a thousand numbers of the range apart."""
        largest = max(abs(self.low), abs(self.high))
        return _DIGITS + max(0, round(log10(largest) - log10(self.high / 2 - self.low / 2) - log10(2)))


def candidates(space: Mapping[str, Any], num: int | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """The candidates of a space.

    Of lists alone, all combinations, or `num` of them drawn without replacement. With a range, `num` draws that are
    spread evenly: each key takes a value in each of `num` equally likely parts of its list or range, in an order of its
    own (Latin hypercube sampling); equal candidates are left out.

    Args:
        space: for each option a list of values, `{"uniform": [low, high]}` or `{"log": [low, high]}`. A range whose
            ends are both whole has whole numbers.
        num: how many candidates; None for all combinations.
        seed: seed of the draws.

    Returns:
        One dictionary for each candidate, with the keys of the space.

    Raises:
        UsageError: for a space of another form, with the key; fewer than two candidates; or a range without `num`.

    References:
        McKay, Beckman & Conover 1979, A comparison of three methods for selecting values of input variables.

    Example:
        >>> candidates({"latent_dim": [2, 10], "objective": ["ELBO", "IWAE"]})[1]
        {'latent_dim': 2, 'objective': 'IWAE'}
        >>> [c["lr"] for c in candidates({"lr": {"log": [1e-4, 1e-1]}}, num=3)]
        [0.0893, 0.000743, 0.00406]
    """
    if not isinstance(space, Mapping) or not space:
        raise UsageError(f"expected options with their values, such as {{latent_dim: [2, 10]}}, got {shown(space)}")
    axes = {key: _axis(key, plain(value)) for key, value in space.items()}
    if num is not None and not 2 <= (num := whole("num_candidates", num, None)) <= _MOST:
        raise UsageError(f"num_candidates: expected at least 2 candidates and at most {_MOST}, got {num}")
    ranges = [key for key, axis in axes.items() if isinstance(axis, _Range)]
    if ranges and num is None:
        raise UsageError(f"{ranges[0]} is a range: say how many candidates to draw, by num_candidates")
    found = _spread(axes, num, seed) if ranges and num is not None else _grid(axes, num, seed)
    if len(found) < 2:
        raise UsageError("expected at least 2 candidates, and this space has one: give an option a second value")
    return found


def _axis(key: str, value: Any) -> _Choices | _Range:
    if not isinstance(key, str):
        raise UsageError(f"expected the name of an option, got {shown(key)}")
    if isinstance(value, list | tuple) and value:
        if any(value[i] == value[j] and type(value[i]) is type(value[j]) for j in range(len(value)) for i in range(j)):
            raise UsageError(f"{key}: a value is given twice in {shown(list(value))}")
        return _Choices(value)
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in ("uniform", "log"):
        raise UsageError(f"{key}: expected {_FORMS}, got {shown(value)}")
    ((kind, ends),) = value.items()
    return _range(key, kind, ends)


def _range(key: str, kind: str, ends: Any) -> _Range:
    numbers = isinstance(ends, list | tuple) and all(isinstance(end, int | float) for end in ends)
    if not numbers or any(isinstance(end, bool) for end in ends) or len(ends) != 2 or not ends[0] < ends[1]:
        raise UsageError(f"{key}: expected {{{kind}: [low, high]}} with numbers low < high, got {shown(ends)}")
    if any(abs(end) > _LARGEST if isinstance(end, int) else not isfinite(end) for end in ends):
        raise UsageError(f"{key}: expected finite ends, whole ones up to 2^53, got {shown(ends)}")
    if kind == "log" and ends[0] <= 0:
        raise UsageError(f"{key}: a logarithmic range begins above 0, got {shown(ends)}")
    return _Range(ends[0], ends[1], kind == "log")


def _grid(axes: Mapping[str, Any], num: int | None, seed: int) -> list[dict[str, Any]]:
    """All combinations, in the order of the lists, or some of them."""
    sizes = [len(axis.values) for axis in axes.values()]
    total = prod(sizes)
    if num is None and total > _MOST:
        raise UsageError(f"these lists have {total} combinations: say how many candidates to draw, by num_candidates")
    rows = range(total) if num is None or num >= total else _some(total, num, seed)
    return [_combination(axes, row) for row in sorted(rows)]


def _some(total: int, num: int, seed: int) -> Collection[int]:
    """Some of the numbers below a total, each once."""
    stream, found = random.Random(derive_seed(seed, "space")), set()
    if total <= _MOST:
        return stream.sample(range(total), num)
    while len(found) < num:
        found.add(stream.randrange(total))
    return found


def _combination(axes: Mapping[str, Any], row: int) -> dict[str, Any]:
    """The combination of this number, the last list counting fastest."""
    found = {}
    for key in reversed(list(axes)):
        row, index = divmod(row, len(axes[key].values))
        found[key] = axes[key].values[index]
    return {key: found[key] for key in axes}


def _spread(axes: Mapping[str, Any], num: int, seed: int) -> list[dict[str, Any]]:
    """Draws that are spread evenly over each axis."""
    columns = []
    for key, axis in axes.items():
        stream = generator(seed, "space", key)
        places = (torch.randperm(num, generator=stream) + torch.rand(num, generator=stream).double()) / num
        columns.append([axis.at(place) for place in places.tolist()])
    drawn = [dict(zip(axes, values, strict=True)) for values in zip(*columns, strict=True)]
    return [one for index, one in enumerate(drawn) if one not in drawn[:index]]
