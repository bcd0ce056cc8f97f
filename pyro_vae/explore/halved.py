"""A model whose networks' matrices are rounded to 16 bits, and what that changes."""

from copy import deepcopy
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from pyro_vae.explore.layers import WITH_MATRICES
from pyro_vae.explore.subject import Explored
from pyro_vae.explore.values import view_of
from pyro_vae.inference.programs import evaluation_mode

_DRAWS = 256
"""Draws of the prior that are decoded for the check."""
_ROWS = 1024
"""Codes in one run of the decoder."""
MOST = 1 / 255
"""The least change that a screen of 256 levels shows."""


@dataclass(frozen=True)
class Changes:
    """What a rounded model gives in place of the exact one.

    Args:
        pixels: the largest change of an element of E[x|z], as a share of the range that is shown (of a table that of
            its column), over the reconstructions of the data and the decoded draws of the prior.
        nats: the largest change of log p(x|z) at a datum's reconstruction; not finite where a weight is too large for
            16 bits.
        num_data: how many data were reconstructed.
        num_draws: how many draws of the prior were decoded.
    """

    pixels: float
    nats: float
    num_data: int
    num_draws: int

    @property
    def unseen(self) -> bool:
        """Whether no pixel changes by 1/255, and no density by so much that it is not finite."""
        return self.pixels < MOST and isfinite(self.nats)


def halved(explored: Explored) -> Explored:
    """The same with the matrices of encoder and decoder rounded to 16 bits; the given model is left as it is."""
    vae: Any = deepcopy(explored.vae)
    with torch.no_grad():
        for layer in [*vae.encoder.modules(), *vae.decoder.modules()]:
            if isinstance(layer, WITH_MATRICES):
                layer.weight.copy_(layer.weight.half())
    return replace(explored, vae=vae)


def changes(exact: Explored, rounded: Explored) -> Changes:
    """Compare a model with its rounded copy: reconstructions of the data, each by its own encoder, and draws of the
    prior.
    """
    codes = exact.prior_draws[:_DRAWS].to(exact.blank)
    (pictures, logs), (others, other_logs) = (_checked(explored, codes) for explored in (exact, rounded))
    view = view_of(exact)
    shown = view.get("columns", [view])
    ranges = torch.tensor([(one["high"] - one["low"]) or 1.0 for one in shown], device=pictures.device)
    pixels = ((pictures - others).abs() / ranges).max().item()
    return Changes(pixels, (logs - other_logs).abs().max().item(), len(exact), len(codes))


def _checked(explored: Explored, codes: Tensor) -> tuple[Tensor, Tensor]:
    """E[x|z] of the data's reconstructions and of some codes, `[N + draws, *event]`, and log p(x|z) of the data."""
    vae: Any = explored.vae
    mask, pictures, logs = explored.inputs.get("mask"), [], []
    with evaluation_mode(vae):
        for start in range(0, len(explored), _ROWS):
            rows = slice(start, start + _ROWS)
            x, seen = explored.x[rows].to(explored.blank), None if mask is None else mask[rows]
            p = vae.decode(vae.encode(x, seen).mean)
            elements = p.base_dist
            pictures.append(p.mean)
            terms = elements.log_prob(vae.likelihood.filled(x, seen))
            logs.append((terms if seen is None else torch.where(seen, terms, 0.0)).flatten(1).sum(1))
        pictures.append(vae.decode(codes).mean)
    return torch.cat(pictures).double(), torch.cat(logs).double()
