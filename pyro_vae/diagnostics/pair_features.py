"""What a classifier of pairs (z, x) looks at: functions of the code in the guide's units, times functions of x."""

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from pyro_vae.inference.simulated_codes import moments
from pyro_vae.process.seeding import generator

_MOST_PRODUCTS = 12
"""Dimensions up to which all products of two of them are features; beyond, the squares alone."""
_MOST_CROSSED = 20
"""Features of the code that are multiplied by those of x; if there are more, so many random combinations of them."""
_COMPONENTS = 6
"""Principal components of x, and of what the guide makes of it."""
_HIDDEN = 12
"""Smooth random functions of x, so that a difference need not be linear in it; a third as many of the code."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Codes in the guide's units at their data.

    Args:
        codes: `(z - m(x)) / s(x)`, `[S, n, size]`, with the mean and the standard deviation of the guide's draws.
        at: what is known of x: m and log s, `[n, 2 size]`.
        x: the data, `[n, elements]`.
    """

    codes: Tensor
    at: Tensor
    x: Tensor


class PairFeatures:
    """Features of pairs (z, x), made from pairs without their labels.

    Args:
        placed: the pairs, two codes of each of n data.
        seed: seed of the random functions.
    """

    def __init__(self, placed: Placed, seed: int) -> None:
        size = placed.codes.shape[-1]
        self.products = torch.triu_indices(size, size) if size <= _MOST_PRODUCTS else torch.arange(size).expand(2, -1)
        self.inner = _random(size + 1, _HIDDEN // 3, seed, "of z")
        self.components = [_Components(part, seed) for part in (placed.at, placed.x)]
        count = sum(part.size for part in self.components)
        self.outer = _random(count + 1, _HIDDEN, seed, "of x")
        self.mixed = _mixed(size + self.products.shape[1] + _HIDDEN // 3, seed)
        self.centre, deviation = moments(self._raw(placed).flatten(0, 1))
        self.scale = deviation * self._shrinkage(len(deviation))

    def __call__(self, placed: Placed) -> Tensor:
        """The features, `[S, n, D]`, with mean 0 over the pairs that they were made from.

        Those of the code alone have variance 1; those times functions of x all together as much as one of these, so
        that a penalty prefers a fault that is the same at all x.
        """
        return (self._raw(placed) - self.centre) / self.scale

    def _raw(self, placed: Placed) -> Tensor:
        of_z, of_x = self._of_code(placed.codes), self._of_data(placed)
        crossed = torch.einsum("snc,nx->sncx", of_z @ self.mixed, of_x).flatten(2)
        return torch.cat([of_z, crossed], -1)

    def _shrinkage(self, count: int) -> Tensor:
        """What features are divided by, `[D]`: 1 for those of the code alone, the root of their number for others."""
        alone, crossed = self.mixed.shape
        ones = torch.ones(count, dtype=torch.float64)
        ones[alone:] = sqrt((count - alone) / crossed)
        return ones

    def _of_code(self, codes: Tensor) -> Tensor:
        products = codes[..., self.products[0]] * codes[..., self.products[1]]
        return torch.cat([codes, products, torch.tanh(_with_one(codes) @ self.inner)], -1)

    def _of_data(self, placed: Placed) -> Tensor:
        parts = zip(self.components, (placed.at, placed.x), strict=True)
        linear = torch.cat([component(part) for component, part in parts], -1)
        return torch.cat([linear, torch.tanh(_with_one(linear) @ self.outer)], -1)


class _Components:
    """The first principal components of columns that are standardised first, each with variance 1."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        self.centre, self.deviation = moments(rows)
        standardised = (rows - self.centre) / self.deviation
        self.size = min(_COMPONENTS, *rows.shape)
        sketch = torch.randn(rows.shape[1], self.size + 4, generator=generator(seed, "sketch"), dtype=torch.float64)
        basis = torch.linalg.qr(standardised.T @ (standardised @ sketch)).Q  # two passes: exact for few columns
        basis = torch.linalg.qr(standardised.T @ (standardised @ basis)).Q
        directions = torch.linalg.svd(standardised @ basis, full_matrices=False).Vh[: self.size].T
        self.map = basis @ directions
        self.spread = moments(standardised @ self.map)[1]

    def __call__(self, rows: Tensor) -> Tensor:
        return ((rows - self.centre) / self.deviation) @ self.map / self.spread


def _random(rows: int, columns: int, seed: int, name: str) -> Tensor:
    return torch.randn(rows, columns, generator=generator(seed, name), dtype=torch.float64)


def _mixed(count: int, seed: int) -> Tensor:
    if count <= _MOST_CROSSED:
        return torch.eye(count, dtype=torch.float64)
    return torch.linalg.qr(_random(count, _MOST_CROSSED, seed, "mixed")).Q


def _with_one(values: Tensor) -> Tensor:
    return torch.cat([values, torch.ones_like(values[..., :1])], -1)
