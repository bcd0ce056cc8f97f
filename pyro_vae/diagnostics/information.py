"""What the aggregate posterior says of codes: their information about the data, and how far they are from the prior."""

from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.values import shown
from pyro_vae.distributions.aggregate import AggregatePosterior
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged, of_draws

_SATURATED = 1.0
"""If the information is within this many nats of log N, the number of data limits it."""


@dataclass(frozen=True, eq=False)
class CodeInformation:
    r"""How much codes tell of N data, and how far all codes together are from the prior; nats per datum.

    Args:
        information: E[log q(z|x_n) - log q(z)] of each datum; its average is I_q(n; z), at most log N.
        information_upper: the same with q(z) of the other data only, an upper bound for the population; nan for a
            single datum.
        marginal_kl: E[log q(z) - log p(z)] of each datum; its average is KL(q(z) || p(z)). None without a prior.
        num_draws: draws for each datum.
        seed: seed of the draws.
    """

    information: Averaged
    information_upper: Averaged
    marginal_kl: Averaged | None
    num_draws: int
    seed: int

    @property
    def most(self) -> float:
        """Log N, the maximum of the information, nats."""
        return log(len(self.information))

    @property
    def saturated(self) -> bool:
        """Whether the information is within 1 nat of log N, so that it depends mainly on the number of data."""
        return is_saturated(self.information)

    def summary(self) -> dict[str, Any]:
        """Averages with their standard errors, as plain numbers."""
        kl = {} if self.marginal_kl is None else {"marginal_kl": self.marginal_kl.summary()}
        return {
            "information": self.information.summary(),
            "information_upper": self.information_upper.summary(),
            **kl,
            "log_num_data": self.most,
            "saturated": self.saturated,
            "num_data": len(self.information),
            "num_draws": self.num_draws,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        limit = ", SATURATED" if self.saturated else ""
        kl = "" if self.marginal_kl is None else f", marginal KL {self.marginal_kl}"
        return (
            f"CodeInformation(information {self.information} [at most log N = {self.most:.2f}{limit}; population at "
            f"most {self.information_upper}]{kl}, nats per datum, N = {len(self.information)}, "
            f"{self.num_draws} draws each, seed {self.seed})"
        )


@isolated
@checked
def code_information(
    q: AggregatePosterior, prior: Distribution | None = None, *, num_draws: int = 10, seed: int = 0
) -> CodeInformation:
    r"""The mutual information of data and codes, and the KL of the aggregate posterior from the prior.

    .. math:: I_q(n; z) = \frac1N \sum_n E_{q(z|x_n)}\Big[\log \frac{q(z|x_n)}{q(z)}\Big], \qquad
        KL(q(z) \| p(z)) = \frac1N \sum_n E_{q(z|x_n)}\Big[\log \frac{q(z)}{p(z)}\Big]

    Log q(z) is exact, over all N data; only the expectations are averages of draws. A draw from q(z|x_n) has its own
    term in q(z). For these N data that is right, and both estimates are unbiased; the information is then at most
    log N. For the population that the data come from it is a lower bound on average; without the own term
    (`information_upper`) it is an upper bound (Poole et al. 2019), and the marginal KL is too large on average.
    The standard errors of the averages treat q(z) as known, which is right to first order: a small change of q(z)
    inside the logarithm leaves the averages over q(z) as they are.

    `elbo_surgery` gives the same for programs with any latent sites, with the reconstruction.

    Args:
        q: of `aggregate_posterior(vae, x)`.
        prior: p(z) over codes `(latent,)`, e.g. `vae.prior_distribution()`; None for the information alone.
        num_draws: draws for each datum; with one the Monte Carlo errors are nan.
        seed: seed of the draws, which depend on the blocks of q as well; the caller's generators do not change.

    Returns:
        A `CodeInformation`, in double precision on the CPU.

    Raises:
        UsageError: if q is not an `AggregatePosterior`, the prior has a batch shape (as one with a context has), the
            density of q(z|x) is not known at every z, or `num_draws` is below 1.
        NumericalError: if a code or a log-density is nan.

    References:
        Hoffman & Johnson 2016, ELBO surgery. Poole et al. 2019, On variational bounds of mutual information.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> q = AggregatePosterior([vae.encode(torch.rand(20, 4).round())])
        >>> found = code_information(q, vae.prior_distribution())
        >>> found.information.mean <= found.most, found.marginal_kl.mean < 1
        (True, True)
    """
    _check(q, prior, num_draws)
    parts = []
    with torch.no_grad():
        for index, (part, start) in enumerate(zip(q.parts, q.starts, strict=True)):
            with seeded(seed, "code_information", start):
                z = part.sample((num_draws,))
            parts.append(_terms(q, prior, index, z))
    information, upper, kl = (of_draws(torch.cat(column, 1)) for column in zip(*parts, strict=True))
    return CodeInformation(information, upper, None if prior is None else kl, num_draws, seed)


def is_saturated(information: Averaged) -> bool:
    """Whether the information of codes about N data is within 1 nat of its maximum, log N."""
    return information.mean > log(len(information)) - _SATURATED


def _terms(q: AggregatePosterior, prior: Distribution | None, index: int, z: Tensor) -> tuple[Tensor, ...]:
    """The terms of each draw, `[num_draws, n]`: of the information, of its upper bound, and of the KL."""
    _refuse_nan(z.sum(-1), q.starts[index])
    own, aggregate, others = q.log_probs_of_draws(index, z)
    log_prior = torch.zeros_like(own) if prior is None else prior.log_prob(z).double()
    kl = aggregate - log_prior
    _refuse_nan(kl, q.starts[index])
    return own - aggregate, own - others, kl


def _refuse_nan(values: Tensor, start: int) -> None:
    """Refuse `[num_draws, n]` with a nan, naming the datum; the first is number `start`."""
    if values.isnan().any():
        datum = start + int(values.isnan().any(0).nonzero()[0])
        raise NumericalError(f"a code of datum {datum}, or its density, is nan: look at x and the networks' outputs")


def _check(q: AggregatePosterior, prior: Distribution | None, num_draws: int) -> None:
    if not isinstance(q, AggregatePosterior):
        raise UsageError(f"q: expected the result of aggregate_posterior(vae, x), got {shown(q)}")
    if prior is not None and not isinstance(prior, Distribution):
        raise UsageError(f"prior: expected a distribution, such as vae.prior_distribution(), got {shown(prior)}")
    if prior is not None and (tuple(prior.batch_shape) or prior.event_shape != q.event_shape):
        raise UsageError(
            f"prior: expected one distribution over codes of shape {tuple(q.event_shape)}, got batch shape "
            f"{tuple(prior.batch_shape)} and event shape {tuple(prior.event_shape)}"
        )
    if num_draws < 1:
        raise UsageError(f"num_draws must be at least 1, got {num_draws}")
