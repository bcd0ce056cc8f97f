"""Likelihood ratios: against a background model, or against a model's own upper layers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.arguments.checked import checked, pair_of
from pyro_vae.arguments.remedies import spoken
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Called, evaluation_mode, sample_sites
from pyro_vae.inference.tiles import TILE_DATA, cut, padded
from pyro_vae.inference.weighing import log_density, model_order, propose, weigh
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged, joined, of_draws
from pyro_vae.tasks.scores.evidence import evidence
from pyro_vae.tasks.scores.results import Scores
from pyro_vae.tasks.scores.terms import check_particles, inputs_of, refuse_points

_TILE_PARTICLES = 50
"""Draws of each datum in one run of the programs; noise is drawn in such tiles."""


@isolated
@checked
def ratio(
    vae: Autoencoder,
    x: Tensor,
    *,
    background: Autoencoder | None = None,
    above: int = 1,
    num_particles: int = 1000,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""A likelihood ratio, of a background model or of a model's own upper layers.

    A background model is one that was trained on data whose meaning is destroyed (noise on a share of the pixels), or
    on much broader data:

    .. math:: s(x) = \log p_0(x) - \log p(x)

    Without one, for a model with several layers of codes, such as a `HierarchicalVAE`, the ratio of its ELBO and the
    bound that takes the lowest k layers from the prior instead of from the datum:

    .. math:: s(x) = L - L^{>k}, \qquad
        L^{>k} = E_{q(z_{>k}|x) \, p(z_{\le k}|z_{>k})} \left[\log \frac{p(x|z) \, p(z_{>k})}{q(z_{>k}|x)}\right]

    It is high where what the upper layers recognise does not explain the datum, but low layers, which describe any
    datum's details, do. Where the guide draws z_{>k} given the layers below, q(z_{>k}|x) is the one given its draws of
    these.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        background: the other model; None for the ratio of layers.
        above: k, layers that the upper bound leaves to the prior: from 1 to one less than there are; only without
            `background`.
        num_particles: K, draws for each datum.
        seed: seed of the draws.
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats. No elements.

    Raises:
        UsageError: without a background model for a model of one layer, or `above` out of range.

    References:
        Ren et al. 2019, Likelihood ratios for out-of-distribution detection. Havtorn et al. 2021, Hierarchical VAEs
        know what they don't know.

    Example:
        >>> from pyro_vae.autoencoders import HierarchicalVAE
        >>> ratio(HierarchicalVAE((4,), (3, 2)), torch.ones(3, 4), num_particles=50).values.shape
        torch.Size([3])
    """
    if background is not None:
        pair_of(background)
        return _of_models(vae, background, x, num_particles, seed, progress, inputs)
    given = inputs_of(vae, x, inputs)
    check_particles(num_particles)
    refuse_points(vae, x, given, "the ratio")
    parts = list(_of_layers(vae, x, given, above, num_particles, seed, progress))
    return Scores.of(joined(parts), "ratio", num_particles=num_particles, seed=seed)


def _of_models(
    vae: Autoencoder,
    background: Autoencoder,
    x: Tensor,
    num_particles: int,
    seed: int,
    progress: Callable[[int], object] | None,
    inputs: Mapping[str, Tensor],
) -> Scores:
    options: dict[str, Any] = {"num_particles": num_particles, "seed": seed, **inputs}
    own = evidence(vae, x, progress=progress, **options)
    other = evidence(background, x, **options)
    error = (own.standard_error.square() + other.standard_error.square()).sqrt()
    flagged = own.flagged | other.flagged
    return Scores.of(
        Averaged(own.values - other.values, error), "ratio", flagged, num_particles=num_particles, seed=seed
    )


def _of_layers(
    vae: Autoencoder,
    x: Tensor,
    inputs: Mapping[str, Tensor],
    above: int,
    num_particles: int,
    seed: int,
    progress: Callable[[int], object] | None,
) -> Iterator[Averaged]:
    """The ratio of layers, block by block."""
    model, guide = Called(vae.model, list(inputs)), Called(vae.guide, list(inputs))
    with evaluation_mode(vae):
        for start in range(0, len(x), TILE_DATA):
            block = [value[start : start + TILE_DATA] for value in (x, *inputs.values())]
            tiles = []
            for first in range(0, num_particles, _TILE_PARTICLES):
                with seeded(seed, "score", "ratio", start, first):
                    tiles.append(_tile(model, guide, padded(block), above))
            yield of_draws(torch.cat(tiles)[:num_particles, : len(block[0])])
            if progress is not None:
                progress(min(start + TILE_DATA, len(x)))


def _tile(model: Any, guide: Any, data: Sequence[Tensor], above: int) -> Tensor:
    """The difference of both bounds at each draw of the guide, `[particles, data]`, nats."""
    drawn = propose(guide, *data, num_particles=_TILE_PARTICLES)
    order = model_order(model, cut(drawn.latents, 1, 1, 1), *(value[:1] for value in data))
    upper = order[: len(order) - above]
    if not 1 <= above < len(order):
        other = spoken("background=vae", "--background RUN")
        raise UsageError(
            f"a ratio of layers needs a model with several, such as a HierarchicalVAE, and above from 1 to one less; "
            f"this one draws {', '.join(order)}, and above is {above}: or pass {other}, a second model"
        )
    log_likelihood, log_prior = weigh(model, drawn.latents, *data)
    log_upper = _from_upper_layers(model, {name: drawn.latents[name] for name in upper}, data)
    return log_likelihood + log_prior - drawn.log_guide - log_upper + log_density([drawn.sites[n] for n in upper])


def _from_upper_layers(model: Any, upper: Mapping[str, Tensor], data: Sequence[Tensor]) -> Tensor:
    """Log p(x|z) + log p(upper layers), with the lower layers drawn from the model, `[particles, data]`."""
    with pyro.plate("particles", _TILE_PARTICLES, dim=-2):
        sites = sample_sites(poutine.trace(poutine.condition(model, data=dict(upper))).get_trace(*data))
    return log_density([site for site in sites.values() if site["is_observed"]])
