"""Densities made of exponentials, and their integrals with a normal density: by formula."""

from dataclasses import dataclass
from functools import reduce
from math import sqrt
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.distributions.elements import Rescaled


@dataclass(frozen=True, eq=False)
class Exponential:
    r"""A piece of a density, at t + d for distances d from 0 to a length, or at t - d.

    .. math:: \log p(t \pm d) = h - r d

    Args:
        start: t.
        log_height: h.
        rate: r, at least 0.
        upwards: where the piece lies above t; a bool, or a tensor of them.
        length: the largest d; None for infinity.
    """

    start: Tensor
    log_height: Tensor
    rate: Tensor
    upwards: Tensor | bool
    length: Tensor | None = None


def exponential_pieces(elements: Any) -> list[Exponential] | None:
    """The pieces of a density that is made of exponentials, as Laplace's is; None for others.

    A distribution of your own says so by a method `exponential_pieces()`.
    """
    if isinstance(elements, dist.Laplace):
        height, rate = -(2 * elements.scale).log(), 1 / elements.scale
        return [Exponential(elements.loc, height, rate, upwards) for upwards in (False, True)]
    if isinstance(elements, Rescaled) and (inner := exponential_pieces(elements.elements)) is not None:
        return [_rescaled(piece, elements.shift, elements.factor) for piece in inner]
    known = getattr(elements, "exponential_pieces", None)
    return None if known is None else known()


def _rescaled(piece: Exponential, shift: Tensor, factor: Tensor) -> Exponential:
    length = None if piece.length is None else piece.length * factor
    start, height = shift + factor * piece.start, piece.log_height - factor.log()
    return Exponential(start, height, piece.rate / factor, piece.upwards, length)


def log_with_noise(pieces: list[Exponential], y: Tensor, std: float) -> Tensor:
    r"""The log-density of y = x + e, e ~ N(0, s^2), for x with these pieces; nats.

    .. math::
        \int_0^w e^{-r d} N(o; d, s^2) \, dd = e^{-r o + r^2 s^2 / 2} [\Phi(b) - \Phi(a)], \quad
        a = r s - o / s, \; b = a + w / s

    for the offset o of y from t. Where a and b have the same sign, the difference is one of scaled error functions,
    with the exponentials taken out, so that no digits are lost in the tails. In double precision.

    Args:
        pieces: as `exponential_pieces` gives them.
        y: broadcastable to the elements.
        std: s.
    """
    terms = [_log_term(piece, y.double(), std) for piece in pieces]
    return reduce(torch.logaddexp, terms).to(pieces[0].log_height.dtype)


def _log_term(piece: Exponential, y: Tensor, std: float) -> Tensor:
    start, height, rate = (t.double() for t in (piece.start, piece.log_height, piece.rate))
    away = y - start
    offset = torch.where(torch.as_tensor(piece.upwards, device=y.device), away, -away)
    a = rate * std - offset / std
    if piece.length is None:
        return height + _log_half_line(rate, offset, a, std)
    return height + _log_interval(rate, offset, a, piece.length.double(), std)


def _log_half_line(rate: Tensor, offset: Tensor, a: Tensor, std: float) -> Tensor:
    """The log of the integral over all d > 0."""
    tail = _log_erfcx(a.clamp(min=0)) - offset.square() / (2 * std**2)
    inside = torch.special.log_ndtr(-a.clamp(max=0)) + _peak(rate, offset, std)
    return torch.where(a > 0, tail, inside)


def _log_interval(rate: Tensor, offset: Tensor, a: Tensor, length: Tensor, std: float) -> Tensor:
    """The log of the integral over d from 0 to a length."""
    b = a + length / std
    below, above = a > 0, b < 0
    middle = 0.5 * (torch.erf(b.clamp(min=0) / sqrt(2)) - torch.erf(a.clamp(max=0) / sqrt(2)))
    inside = torch.where(below | above, 1.0, middle).log() + _peak(rate, offset, std)
    from_low = _log_tail(torch.where(below, a, 1.0), torch.where(below, b, 2.0)) - offset.square() / (2 * std**2)
    end = -rate * length - (offset - length).square() / (2 * std**2)
    from_high = _log_tail(torch.where(above, -b, 1.0), torch.where(above, -a, 2.0)) + end
    return torch.where(below, from_low, torch.where(above, from_high, inside))


def _peak(rate: Tensor, offset: Tensor, std: float) -> Tensor:
    return rate * (rate * std**2 / 2 - offset)


def _log_tail(near: Tensor, far: Tensor) -> Tensor:
    """log(Phi(far) - Phi(near)) + near^2 / 2, for far > near > 0."""
    drop = torch.special.erfcx(far / sqrt(2)) * (-(far - near) * (far + near) / 2).exp()
    return (0.5 * (torch.special.erfcx(near / sqrt(2)) - drop)).log()


def _log_erfcx(a: Tensor) -> Tensor:
    """log(Phi(-a)) + a^2 / 2, for a > 0."""
    return (0.5 * torch.special.erfcx(a / sqrt(2))).log()
