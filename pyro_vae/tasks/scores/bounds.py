"""Scores by the terms of the bound: the ELBO, the reconstruction and the rate."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import joined, of_draws
from pyro_vae.tasks.scores.results import Scores
from pyro_vae.tasks.scores.terms import Terms, check_particles, inputs_of, refuse_points, terms


@isolated
@checked
def elbo(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The negative ELBO.

    .. math:: s(x) = E_{q(z|x)}[\log q(z|x) - \log p(x, z)]

    The elements are those of the reconstruction: with the rate they sum to the score.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        num_particles: K, draws for each datum, at least 2.
        seed: seed of the draws.
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats.

    Raises:
        UsageError: for fewer than 2 draws, or a guide that is a point.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> elbo(VAE((4,), 2), torch.ones(3, 4)).elements.shape
        torch.Size([3, 4])
    """
    refuse_points(vae, x, inputs_of(vae, x, inputs), "the ELBO")
    return _scored(lambda t: -t.log_weights, "elbo", True, vae, x, inputs, num_particles, seed, progress)


@isolated
@checked
def reconstruction(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The negative of the "reconstruction probability".

    .. math:: s(x) = -E_{q(z|x)}[\log p(x|z)]

    The elements sum to the score. Works for a guide that is a point as well.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        num_particles: K, draws for each datum, at least 2.
        seed: seed of the draws.
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats.

    Raises:
        UsageError: for fewer than 2 draws.

    References:
        An & Cho 2015, Variational autoencoder based anomaly detection using reconstruction probability.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> scores = reconstruction(VAE((4,), 2), torch.ones(3, 4))
        >>> torch.allclose(scores.elements.sum(-1), scores.values)
        True
    """
    return _scored(lambda t: -t.log_likelihood, "reconstruction", True, vae, x, inputs, num_particles, seed, progress)


@isolated
@checked
def rate(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 100,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The KL of the guide from the prior: how many nats its code needs.

    .. math:: s(x) = E_{q(z|x)}[\log q(z|x) - \log p(z)] = KL(q(z|x) \| p(z))

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        num_particles: K, draws for each datum, at least 2.
        seed: seed of the draws.
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats; no elements.

    Raises:
        UsageError: for fewer than 2 draws, or a guide that is a point.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> rate(VAE((4,), 2), torch.ones(3, 4)).method
        'rate'
    """
    refuse_points(vae, x, inputs_of(vae, x, inputs), "the rate")
    return _scored(lambda t: t.kl, "rate", False, vae, x, inputs, num_particles, seed, progress)


def _scored(
    statistic: Callable[[Terms], Tensor],
    method: str,
    with_elements: bool,
    vae: Autoencoder,
    x: Tensor,
    inputs: Any,
    num_particles: int,
    seed: int,
    progress: Callable[[int], object] | None,
) -> Scores:
    """Scores that are the mean over the draws of a statistic `[K, n]`."""
    check_particles(num_particles)
    averages, maps = [], []
    for block in terms(vae, x, inputs_of(vae, x, inputs), num_particles, seed, progress):
        averages.append(of_draws(statistic(block)))
        maps.append(block.elements if with_elements else None)
    elements = None if any(m is None for m in maps) else -torch.cat(maps)  # pyright: ignore[reportArgumentType]
    return Scores.of(joined(averages), method, elements=elements, num_particles=num_particles, seed=seed)
