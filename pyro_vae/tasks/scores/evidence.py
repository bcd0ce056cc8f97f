"""The score -log p(x), by any estimator of log p(x)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.evidence.base import Estimate
from pyro_vae.evidence.methods import estimate
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged
from pyro_vae.tasks.scores.results import Scores
from pyro_vae.tasks.scores.terms import inputs_of


@isolated
@checked
def evidence(
    vae: Autoencoder,
    x: Tensor,
    *,
    num_particles: int = 1000,
    seed: int = 0,
    by: str = "importance",
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The negative log-evidence.

    .. math:: s(x) = -\log p(x)

    Data of low complexity can have a high p(x) though the model never saw their like (Nalisnick et al. 2019): such
    anomalies get *low* scores here, and `regret`, `typicality`, `complexity`, `ratio` or `density_of_states` may see
    them.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        num_particles: K, draws for each datum.
        seed: seed of the draws.
        by: the estimator of log p(x): `"importance"`, `"psis"` or `"prior"`; see `pyro_vae.evidence`.
        progress: called with the number of data done so far.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats; flagged where the estimator flags log p(x), which then is too small and the score too high. No
        elements.

    Raises:
        UsageError: as the estimator.
        NumericalError: as the estimator.

    References:
        Nalisnick et al. 2019, Do deep generative models know what they don't know?

    Example:
        >>> import torch
        >>> from pyro_vae.autoencoders import VAE
        >>> evidence(VAE((4,), 2), torch.ones(3, 4), num_particles=100).values.shape
        torch.Size([3])
    """
    options: dict[str, Any] = {"num_particles": num_particles, "seed": seed, "progress": progress}
    found = estimate(by, vae.model, vae.guide, x, **options, **inputs_of(vae, x, inputs))
    return of_estimate(found, num_particles=num_particles, seed=seed)


def of_estimate(found: Estimate, **protocol: Any) -> Scores:
    """The score of an estimate of log p(x)."""
    return Scores.of(Averaged(-found.log_p, found.standard_error), "evidence", found.flagged, **protocol)
