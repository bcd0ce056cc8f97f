"""A pair whose guide has parameters of its own for each datum."""

from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.inference.best_member import Amortized, Family, Search, best_members, blocks
from pyro_vae.inference.programs import evaluation_mode

_MOST_ROWS = 4096
"""Pairs of a datum and a draw in one run of the model."""


class WithMembers(nn.Module):
    """A pair with one continuous code, whose guide takes the parameters of each datum's q as an input, `params`.

    Args:
        pair: an `Autoencoder` with a `code_site`, or what else has its parts.
    """

    def __init__(self, pair: Any) -> None:
        super().__init__()
        self.pair = pair

    def model(self, x: Tensor, params: Tensor, **inputs: Any) -> Any:
        """That of the pair."""
        return self.pair.model(x, **inputs)

    def guide(self, x: Tensor, params: Tensor, **inputs: Any) -> Any:
        """Z ~ q(z; params), `[N, *param_shape]`."""
        with pyro.plate("data", len(x), dim=-1):
            return pyro.sample(self.pair.code_site, self.pair.posterior.distribution(params))


def refined_params(pair: Amortized, x: Tensor, search: Search, seed: int = 0, **inputs: Any) -> Tensor:
    r"""The parameters of the member of the guide's family with the highest ELBO for each datum.

    .. math:: \lambda^*(x) = \arg\max_\lambda E_{q(z; \lambda)}[\log p(x, z) - \log q(z; \lambda)]

    Args:
        pair: what has the parts of an `Autoencoder` with a `code_site`.
        x: data `[N, *event]`.
        search: how they are looked for.
        seed: seed of the draws.
        **inputs: further inputs of the programs, `[N, ...]`.

    Returns:
        `[N, *param_shape]`, on the device of `x`.

    Raises:
        UsageError: if draws of the family are not reparameterised.
    """
    with evaluation_mode(pair.model):
        parts = blocks(pair, Family(pair), {"x": x, **inputs}, search, seed, _MOST_ROWS)
        return torch.cat([best_members(block, search).params for block in parts])
