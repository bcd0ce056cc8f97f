"""Mean and standard deviation of a distribution over codes, and the KL of normals that have them."""

import torch
from torch import Tensor

from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.process.seeding import seeded

Moments = tuple[Tensor, Tensor]
"""Mean and standard deviation of each coordinate."""


def moments(distribution: torch.distributions.Distribution, name: str) -> Moments:
    """Mean and standard deviation of each marginal, `[*batch, L]`, double precision on the CPU.

    Of one distribution for all data (a prior) that does not know them, averages over 10,000 fixed draws.

    Args:
        distribution: over vectors.
        name: what it is, for messages.

    Raises:
        UsageError: if they are not known.
        NumericalError: if one is not finite.
    """
    try:
        mean, stddev = distribution.mean, distribution.stddev
    except (NotImplementedError, AttributeError) as error:
        if not distribution.batch_shape:  # one for all data, so that draws are cheap: a prior
            return _drawn(distribution)
        raise UsageError(
            f"{name} is a {type(distribution).__name__}, whose mean and variance are not known in closed form: "
            "take a guide that has both, such as DiagonalNormal"
        ) from error
    if not (mean.isfinite().all() and stddev.isfinite().all()):
        raise NumericalError(f"{name} has a mean or standard deviation that is not finite")
    return mean.double().cpu(), stddev.double().cpu()


def _drawn(distribution: torch.distributions.Distribution) -> tuple[Tensor, Tensor]:
    with seeded(0, "moments"):
        draws = distribution.sample(torch.Size([10_000])).double().cpu()
    return draws.mean(0), draws.std(0)


def normal_kl(mean: Tensor, stddev: Tensor, prior_mean: Tensor, prior_stddev: Tensor) -> Tensor:
    """KL of a normal from another, nats, elementwise; 0 for the same, infinite for a point."""
    ratio = stddev / prior_stddev
    return (ratio.square() + ((mean - prior_mean) / prior_stddev).square() - 1) / 2 - ratio.log()
