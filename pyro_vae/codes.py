"""What a trained `VQVAE` does with its codes: which it uses, and a prior over them learned afterwards."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_vae.code_priors import AutoregressiveCodes, CodePrior
from pyro_vae.data import Dataset
from pyro_vae.doors import checked
from pyro_vae.errors import UsageError
from pyro_vae.importance import evaluation_mode
from pyro_vae.isolation import isolated
from pyro_vae.refit import refit_prior
from pyro_vae.shapes import CodeShapes
from pyro_vae.vq import VQVAE


@dataclass(frozen=True, eq=False)
class CodebookUsage:
    """How often the codes of data are each of the codebook's entries.

    Args:
        counts: by entry, over all data and positions, `[K]`, int64.
    """

    counts: Tensor

    @property
    def usage(self) -> float:
        """Share of the entries that are used at all."""
        return (self.counts > 0).double().mean().item()

    @property
    def perplexity(self) -> float:
        """The exponential of the entropy of the shares: K where all entries are used alike, 1 where one is used."""
        shares = self.counts.double() / self.counts.sum()
        return torch.special.entr(shares).sum().exp().item()

    def __repr__(self) -> str:
        used = f"{int((self.counts > 0).sum())} of {len(self.counts)} entries"
        return f"CodebookUsage({used}, perplexity {self.perplexity:.1f}, {int(self.counts.sum())} codes)"


@isolated
@checked
def codebook_usage(vqvae: VQVAE, x: Tensor, batch: int = 1000) -> CodebookUsage:
    r"""Count the codes of data.

    .. math:: \mathrm{perplexity} = \exp\Big(-\sum_j \hat p_j \log \hat p_j\Big)

    for the shares of the entries over all data and positions. Evaluation mode.

    Args:
        vqvae: the autoencoder; left as it is.
        x: data `[N, *event]`.
        batch: data in one run of the encoder, at least 1.

    Returns:
        A `CodebookUsage`, on the CPU.

    Raises:
        UsageError: if `batch` is not positive.
        DataError: if the data do not fit the autoencoder, or there are none.

    Example:
        >>> usage = codebook_usage(VQVAE((8, 8), codes=(4,), codebook_size=16), torch.zeros(5, 8, 8))
        >>> int(usage.counts.sum()), usage.usage <= 4 / 16
        (20, True)
    """
    if batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}")
    vqvae.likelihood.check(x)
    size, device = vqvae.shapes.codebook_size, next(vqvae.parameters()).device
    counts = torch.zeros(size, dtype=torch.long)
    with evaluation_mode(vqvae):
        for rows in x.split(batch):
            k = vqvae.encode(rows.to(device)).sample().reshape(-1)
            counts += torch.bincount(k, minlength=size).cpu()
    return CodebookUsage(counts)


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

    That is the bound as a function of the prior alone, so `bound` of the new autoencoder is higher by what the held-out
    cross-entropy (`refit.cross_entropy`) has fallen from n log K, and `sample` draws data by codes that occur. It is
    `refit_prior`, with a prior over codes: the weights kept are the best on held-out data.

    Args:
        vqvae: the trained autoencoder; left as it is.
        data: a `Dataset`, or a tensor `[N, *event]`; its `valid` is held out, or else the last tenth of its train.
        prior: the new prior, a class or a partial of one.
        epochs: passes over the training data.
        batch_size: data in a step.
        optimizer: a `torch.optim` class, or a `functools.partial` of one.
        patience: stop after so many epochs without a better held-out cross-entropy; None to go on.
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
