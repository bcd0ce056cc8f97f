"""A prior over the codes of a trained `VQVAE`, learned afterwards."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import VQVAE
from pyro_vae.data import Dataset
from pyro_vae.priors import AutoregressiveCodes, CodePrior
from pyro_vae.process.isolation import isolated
from pyro_vae.shapes import CodeShapes
from pyro_vae.training.refit import refit_prior


@isolated
@checked
def fit_code_prior(
    vqvae: VQVAE,
    data: Dataset | Tensor,
    prior: Callable[[CodeShapes], CodePrior] = AutoregressiveCodes,
    *,
    epochs: int = 100,
    batch_size: int = 100,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = torch.optim.Adam,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> VQVAE:
    r"""Fit a prior to the codes of a trained `VQVAE`, by maximum likelihood.

    .. math:: \max_\lambda E_x[\log p_\lambda(k(x))]

    That is the bound as a function of the prior alone: `bound` of the new autoencoder is higher by the difference of
    n log K and the held-out cross-entropy (`refit.cross_entropy`), and `sample` decodes codes that occur in data. It is
    `refit_prior` with a prior over codes; the weights kept are those of the best held-out cross-entropy.

    Args:
        vqvae: the trained autoencoder; left as it is.
        data: a `Dataset`, or a tensor `[N, *event]`; its `valid` is held out, or else the last tenth of its train.
        prior: the new prior, a class or a partial of one.
        epochs: passes over the training data.
        batch_size: data in a step.
        optimizer: a `torch.optim` class, or a `functools.partial` of one.
        patience: stop after this many epochs without a better held-out cross-entropy; None never to stop early.
        seed: seed of the new prior's first weights, and of the order of the data.
        progress: whether to show progress on standard error.

    Returns:
        A new `VQVAE`, in evaluation mode: copies of networks and codebook, and the new prior.

    Raises:
        UsageError: for arguments that make no sense.
        DataError: if the data do not fit, or there are not enough to hold some out.
        NumericalError: if log p(k) of a batch is not finite.

    References:
        van den Oord et al. 2017, Neural discrete representation learning, section 3.3.

    Example:
        >>> vqvae = VQVAE((8, 8), codes=(2,), codebook_size=4)
        >>> fitted = fit_code_prior(vqvae, torch.rand(50, 8, 8).round(), epochs=1, progress=False)
        >>> type(vqvae.prior).__name__, type(fitted.prior).__name__
        ('UniformCodes', 'AutoregressiveCodes')
    """
    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "optimizer": optimizer}
    settings |= {"patience": patience, "seed": seed, "progress": progress}
    return cast(VQVAE, refit_prior(cast(Any, vqvae), data, cast(Any, prior), **settings))
