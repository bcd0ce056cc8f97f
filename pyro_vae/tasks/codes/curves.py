"""Curves between pairs of codes, as functions of time from 0 to 1, that can be differentiated by time."""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor


class Curve(Protocol):
    """A curve for each of P pairs."""

    def __call__(self, t: Tensor) -> Tensor:
        """The codes at times `[T]`: `[T, P, latent]`."""
        ...


@dataclass(frozen=True)
class Straight:
    """z0 + t (z1 - z0)."""

    start: Tensor
    end: Tensor

    def __call__(self, t: Tensor) -> Tensor:
        """See `Curve`."""
        return self.start + t[:, None, None] * (self.end - self.start)


@dataclass(frozen=True)
class Spherical:
    """The angle between both ends grows evenly; straight where they lie on one line through the origin."""

    start: Tensor
    end: Tensor

    def __call__(self, t: Tensor) -> Tensor:
        """See `Curve`."""
        t = t[:, None, None]
        norms = self.start.norm(dim=-1, keepdim=True) * self.end.norm(dim=-1, keepdim=True)
        cosine = ((self.start * self.end).sum(-1, keepdim=True) / norms.clamp(min=1e-300)).clamp(-1, 1)
        angle = torch.arccos(cosine)
        on_a_line = angle.sin() < 1e-6
        angle = torch.where(on_a_line, 1.0, angle)
        first, second = (((1 - t) * angle).sin() / angle.sin()), ((t * angle).sin() / angle.sin())
        return torch.where(on_a_line, self.start + t * (self.end - self.start), first * self.start + second * self.end)


@dataclass(frozen=True)
class Bent:
    """A straight line plus t (1 - t) times a polynomial for each coordinate.

    Args:
        start: z0, `[P, latent]`.
        end: z1.
        bends: coefficients of Legendre polynomials, `[P, degrees, latent]`: then the energy of all degrees is alike.
    """

    start: Tensor
    end: Tensor
    bends: Tensor = field(repr=False)

    @classmethod
    def straight(cls, start: Tensor, end: Tensor, degrees: int) -> "Bent":
        """Not bent yet."""
        return cls(start, end, start.new_zeros(len(start), degrees, start.shape[1]))

    def bent(self, bends: Tensor) -> "Bent":
        """The same ends with other coefficients."""
        return replace(self, bends=bends)

    def __call__(self, t: Tensor) -> Tensor:
        """See `Curve`."""
        line = self.start + t[:, None, None] * (self.end - self.start)
        basis = (t * (1 - t))[:, None] * _legendre(2 * t - 1, self.bends.shape[1])
        return line + torch.einsum("tk,pkl->tpl", basis, self.bends)


def _legendre(u: Tensor, count: int) -> Tensor:
    """The first Legendre polynomials at points of [-1, 1], `[T, count]`, by their recursion."""
    values = [torch.ones_like(u), u]
    for n in range(1, count - 1):
        values.append(((2 * n + 1) * u * values[-1] - n * values[-2]) / (n + 1))
    return torch.stack(values[:count], -1)
