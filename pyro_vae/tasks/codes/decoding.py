"""Codes to means E[x|z], in pieces of bounded memory, with the context of a conditional model."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.tasks.generation import averages_of

_ROWS = 1000


def context_of(vae: Autoencoder, c: Tensor | None, index: int) -> Tensor | None:
    """The context of one datum, `[*context]`, on the model's device."""
    if c is None:
        return None
    one = c if vae.shapes.context is not None and c.dim() == len(vae.shapes.context) else c[index]
    return one.to(next(vae.parameters()))


def decoded(vae: Autoencoder, z: Tensor, c: Tensor | None = None, index: int = 0) -> Tensor:
    """E[x|z], or the most probable category, `[*leading, *event]` on the CPU, for codes `[*leading, latent]`.

    Args:
        vae: the model, in evaluation mode.
        z: codes.
        c: contexts of data, of which that of datum `index` is decoded with.
        index: which datum.
    """
    given = context_of(vae, c, index)
    rows = z.reshape(-1, z.shape[-1]).to(next(vae.parameters())).split(_ROWS)
    means = torch.cat([vae.likelihood.best(averages_of(vae, vae.decode(row, given))).cpu() for row in rows])
    return means.reshape(*z.shape[:-1], *means.shape[1:])


def mean_map(vae: Autoencoder, c: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The map from codes `[rows, latent]` to E[x|z], `[rows, D]`, in double precision, to be differentiated.

    It is a copy of the model: lengths in single precision are too rough to minimise.

    Args:
        vae: the model.
        c: one context for all codes, `[*context]`.
    """
    copied: Any = deepcopy(vae).double().eval().requires_grad_(False)
    given = None if c is None else c.double()

    def mean(z: Tensor) -> Tensor:
        return copied.likelihood.averaged(copied.decode(z, given)).flatten(1)

    return mean
