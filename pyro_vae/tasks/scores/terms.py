"""The terms of the bound at draws from the guide, from which several scores are computed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import Independent
from torch import Tensor

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import has_elbo
from pyro_vae.inference.pairs import EagerPair
from pyro_vae.inference.programs import Called, evaluation_mode
from pyro_vae.inference.tiles import TILE_DATA, draws, pieces
from pyro_vae.inference.weighing import log_density, sites_at

_MOST_ROWS, _MOST_ELEMENTS = 4096, 2**24
"""In one run of the model: pairs of a draw and a datum, and elements of x in all of them."""


@dataclass(frozen=True)
class Terms:
    """The log-densities of K draws z ~ q(z|x) for some data, `[K, n]`, nats.

    Args:
        log_likelihood: log p(x|z).
        log_prior: log p(z).
        log_guide: log q(z|x).
        elements: the mean over the draws of log p(x_d|z), `[n, *event]`; None if x has no elementwise distribution.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor
    elements: Tensor | None

    @property
    def log_weights(self) -> Tensor:
        """The log-weights, whose mean over the draws is the ELBO."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def kl(self) -> Tensor:
        """The differences log q(z|x) - log p(z), whose mean is the KL."""
        return self.log_guide - self.log_prior


def terms(
    vae: Autoencoder,
    x: Tensor,
    inputs: Mapping[str, Tensor],
    num_particles: int,
    seed: int,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Terms]:
    """The terms of each block of at most 50 data, in order. The draws of a datum do not depend on those after it.

    Args:
        vae: the model.
        x: data `[N, *event]`.
        inputs: what else the programs take, by name, `[N, ...]`.
        num_particles: K, draws for each datum.
        seed: of the draws.
        progress: called with the number of data done so far.
    """
    names = list(inputs)
    pair = EagerPair(Called(vae.model, names), Called(vae.guide, names), _MOST_ROWS, 1)
    with evaluation_mode(vae), fast_cpu(), exact_products():
        for start in range(0, len(x), TILE_DATA):
            block = [value[start : start + TILE_DATA] for value in (x, *inputs.values())]
            yield _of_block(pair, block, start, num_particles, seed)
            if progress is not None:
                progress(min(start + TILE_DATA, len(x)))


def _of_block(pair: EagerPair, block: Sequence[Tensor], start: int, num_particles: int, seed: int) -> Terms:
    most = max(1, min(_MOST_ROWS, _MOST_ELEMENTS // max(1, block[0][0].numel())) // len(block[0]))
    columns: list[list[Tensor]] = [[], [], []]
    total: Tensor | None = None
    for latents, log_guide in draws(pair, block, start, num_particles, seed, stream="score"):
        for piece in pieces(latents, most):
            log_likelihood, log_prior, elements = _weighed(pair.model, piece, block)
            columns[0].append(log_likelihood)
            columns[1].append(log_prior)
            total = elements if total is None or elements is None else total + elements
        columns[2].append(log_guide)
    likelihood, prior, guide = torch.broadcast_tensors(*(torch.cat(column).double() for column in columns))
    return Terms(likelihood, prior, guide, None if total is None else (total / num_particles).cpu())


def _weighed(model: Any, piece: Mapping[str, Tensor], block: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Log p(x|z) and log p(z), `[particles, n]`, and the sum over the particles of log p(x_d|z), `[n, *event]`."""
    sites = sites_at(model, piece, *block)
    prior = log_density([sites[name] for name in piece])
    likelihood = log_density([site for name, site in sites.items() if name not in piece])
    return likelihood, prior, _elements(sites.get("x"), tuple(block[0].shape), len(next(iter(piece.values()))))


def _elements(site: Any, shape: tuple[int, ...], particles: int) -> Tensor | None:
    """Sum over the particles of the elementwise log-densities of x; None where it has none."""
    if site is None or not isinstance(site["fn"], Independent) or site["mask"] is not None:
        return None
    values = site["fn"].base_dist.log_prob(site["value"])
    if tuple(values.shape[-len(shape) :]) != shape:
        return None
    return values.expand(particles, *shape).double().sum(0)


def inputs_of(vae: Autoencoder, x: Tensor, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The programs' further inputs with one row for each datum; what is None is left out.

    Raises:
        DataError: if there are no data.
    """
    if len(x) == 0:
        raise DataError("x: expected at least one datum to score, got none")
    given = {name: value for name, value in inputs.items() if value is not None}
    return {name: value.expand(len(x), *value.shape[1:]) for name, value in given.items()}


def refuse_points(vae: Autoencoder, x: Tensor, inputs: Mapping[str, Tensor], what: str) -> None:
    """Refuse a guide that is a point: its KL from any density is infinite.

    Raises:
        UsageError: with what to do.
    """
    first: dict[str, Any] = {name: value[:1] for name, value in inputs.items()}
    if not has_elbo(vae.guide, x[:1], **first):
        raise UsageError(
            f"{what} needs q(z|x) with a density, and this guide puts all of it on one point: score by 'reconstruction'"
        )


def check_particles(num_particles: int) -> None:
    """Refuse fewer than 2 draws: there would be no error.

    Raises:
        UsageError: if `num_particles` is below 2.
    """
    if num_particles < 2:
        raise UsageError(f"num_particles must be at least 2, so that the score has an error, got {num_particles}")
