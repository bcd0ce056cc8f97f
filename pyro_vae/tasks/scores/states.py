"""The statistics of a datum under a model, and their densities over reference data."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged, joined, of_draws, squared_error_of_log_mean
from pyro_vae.tasks.scores.terms import Terms, check_particles, inputs_of, refuse_points, terms

STATISTICS = ("evidence", "reconstruction", "rate", "cross_entropy", "entropy")
_FEWEST = 10
"""Reference data of a kernel density estimate."""


@dataclass(frozen=True, eq=False)
class States:
    """Statistics of each datum, nats, with their errors.

    Args:
        averages: by name, `[N]` each; see `density_of_states` for their meaning.
        num_particles: K, draws for each datum.
        seed: seed of the draws.
    """

    averages: Mapping[str, Averaged]
    num_particles: int
    seed: int

    def __len__(self) -> int:
        return len(self.averages["evidence"])

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {a.mean:.3f}" for name, a in self.averages.items())
        return f"States({shown} nats per datum, N = {len(self)}, K = {self.num_particles})"


@isolated
@checked
def states(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 200,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> States:
    """The statistics of each datum that `density_of_states` compares; arguments as there.

    Returns:
        `States`.

    Raises:
        UsageError: for fewer than 2 draws, or a guide that is a point.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> list(states(VAE((4,), 2), torch.ones(3, 4)).averages)
        ['evidence', 'reconstruction', 'rate', 'cross_entropy', 'entropy']
    """
    given = inputs_of(vae, x, inputs)
    check_particles(num_particles)
    refuse_points(vae, x, given, "the density of states")
    blocks = [_statistics(block) for block in terms(vae, x, given, num_particles, seed, progress)]
    averages = {name: joined([block[name] for block in blocks]) for name in STATISTICS}
    return States(averages, num_particles, seed)


def _statistics(block: Terms) -> dict[str, Averaged]:
    means = {
        "reconstruction": -block.log_likelihood,
        "rate": block.kl,
        "cross_entropy": -block.log_prior,
        "entropy": -block.log_guide,
    }
    return {"evidence": _evidence(block.log_weights), **{name: of_draws(value) for name, value in means.items()}}


def _evidence(log_weights: Tensor) -> Averaged:
    """-log p(x) by importance sampling, with the error of the delta method."""
    count = len(log_weights)
    error = squared_error_of_log_mean(1 / log_weights.softmax(0).square().sum(0), count).sqrt()
    return Averaged((log(count) - log_weights.logsumexp(0)).cpu(), error.cpu())


def densities(found: States, reference: States, statistics: Sequence[str]) -> Averaged:
    """The score of each datum, -sum of the log-densities of its statistics, with its error.

    Args:
        found: of the data.
        reference: of the reference data.
        statistics: which ones.

    Raises:
        UsageError: for fewer than 10 reference data, or a statistic that does not vary over them.
    """
    each = [_surprise(name, found.averages[name], reference.averages[name]) for name in statistics]
    errors = torch.stack([e.standard_errors for e in each]).square().sum(0).sqrt()
    return Averaged(torch.stack([e.values for e in each]).sum(0), errors)


def _surprise(name: str, found: Averaged, reference: Averaged) -> Averaged:
    """-log of the density of one statistic; its error by the difference of both sides of the estimate."""
    from scipy.stats import gaussian_kde

    values = reference.values[reference.values.isfinite()]
    if len(values) < _FEWEST or not values.std() > 1e-9 * values.abs().max():
        raise UsageError(
            f"reference: the {name} of {len(values)} data does not give a density: expected at least {_FEWEST} data "
            f"of which it differs; leave {name!r} out of statistics, or give more data"
        )
    kernel: Any = gaussian_kde(values.numpy())
    at: Callable[[Tensor], Tensor] = lambda t: -torch.as_tensor(kernel.logpdf(t.numpy()))  # noqa: E731
    error = (at(found.values + found.standard_errors) - at(found.values - found.standard_errors)).abs() / 2
    return Averaged(at(found.values), error)
