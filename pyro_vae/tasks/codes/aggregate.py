"""The aggregate posterior q(z), the mean of q(z|x) over data: a distribution to draw from, and a prior."""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.distributions.aggregate import AggregatePosterior
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.priors import MixtureOfNormals
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks.generation import inputs_of

A = TypeVar("A", bound=Autoencoder)


@isolated
@checked
def aggregate_posterior(
    vae: Autoencoder, x: Tensor, batch: int = 1000, c: Tensor | None = None, **inputs: Tensor
) -> AggregatePosterior:
    r"""The aggregate posterior of data, a Pyro distribution: where the codes of data are.

    .. math:: q(z) = \frac1N \sum_n q(z|x_n)

    Decoding draws of it gives data like x, where draws of p(z) may fall between the codes. Its KL from p(z) is what the
    ELBO loses by the prior (`elbo_surgery`), so the best prior for these data is q(z) itself (`with_aggregate`), or a
    smaller mixture that is fitted to it (`refit_prior`).

    Args:
        vae: a model with a `code_site`, e.g. a `VAE`; left as it is.
        x: data `[N, *event]`.
        batch: data in one run of the encoder, and in a block of the density.
        c: the context of a conditional model, `[N, *context]` or `[*context]`.
        **inputs: what else `encode` takes by name, `[N, ...]`: `mask`.

    Returns:
        An `AggregatePosterior` over codes `(latent,)`, on the model's device, without gradients to its weights.

    Raises:
        UsageError: if the model has no single continuous code, its guide is a point, or `batch` is below 1.
        DataError: if there are no data.

    References:
        Hoffman & Johnson 2016, ELBO surgery. Makhzani et al. 2016, Adversarial autoencoders. Tomczak & Welling 2018,
        VAE with a VampPrior.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> q = aggregate_posterior(VAE((8, 8), latent_dim=2), torch.rand(5, 8, 8).round())
        >>> q.sample((3,)).shape, q.log_prob(torch.zeros(3, 2)).shape
        (torch.Size([3, 2]), torch.Size([3]))
    """
    if vae.code_site is None:
        raise UsageError(
            f"the aggregate posterior is of the code z of a model with one latent site, and a {type(vae).__name__} has "
            "another: take draws of encode_data"
        )
    if batch < 1 or len(x) == 0:
        raise (UsageError if batch < 1 else DataError)(f"need batch >= 1 and data, got {batch} and {len(x)} data")
    given = {"x": x, **inputs_of(vae, len(x), inputs, c)}
    device = next(vae.parameters()).device
    with evaluation_mode(vae):
        blocks = (
            {k: v[start : start + batch].to(device) for k, v in given.items()} for start in range(0, len(x), batch)
        )
        return AggregatePosterior([_encoder_of(vae, block) for block in blocks])


def _encoder_of(vae: Autoencoder, block: Mapping[str, Tensor]) -> Distribution:
    return vae.encode(block["x"], block.get("mask"), block.get("c"))


@isolated
@checked
def with_aggregate(vae: A, x: Tensor) -> A:
    r"""The same model with the aggregate posterior of data as its prior: a mixture with a component for each datum.

    .. math:: p(z) = q(z) = \frac1N \sum_n q(z|x_n)

    Of all priors it has the highest ELBO on average over these data, and `sample` then decodes codes that occur. On
    data that are not among x the ELBO can be lower than before: take many, or fit a smaller mixture by `refit_prior`.
    The log-density of a code costs N terms.

    Args:
        vae: a VAE whose guide has independent normal coordinates (`DiagonalNormal`); left as it is.
        x: data `[N, *event]`.

    Returns:
        A new VAE in evaluation mode, with a `MixtureOfNormals`.

    Raises:
        UsageError: if the guide's family is another, or there is a context.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> with_aggregate(VAE((8, 8), latent_dim=2), torch.zeros(5, 8, 8)).prior.loc.shape
        torch.Size([5, 2])
    """
    if vae.shapes.context is not None:
        raise UsageError("q(z) as a prior needs a VAE without a context: its codes would depend on it")
    normals = aggregate_posterior(vae, x).as_normals()
    if normals is None:
        raise UsageError(
            f"with_aggregate is for guides with independent normal coordinates (DiagonalNormal), and this model has "
            f"{type(vae.posterior).__name__}: fit a prior to its codes by refit_prior"
        )
    copied, make = deepcopy(vae), partial(MixtureOfNormals, components=len(x))
    with seeded(0, "with_aggregate"):
        prior = make(vae.shapes).to(normals[0])
    with torch.no_grad():
        prior.loc.copy_(normals[0])
        prior.log_scale.copy_(normals[1].log())
    made: Any = copied
    made.prior, copied.arguments = prior, {**vae.arguments, "prior": make}
    return copied.eval()
