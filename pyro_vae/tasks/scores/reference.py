"""Scores that compare a datum with reference data of the model's own kind: typicality and the density of states."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from pyro_vae.arguments.checked import checked, tensor
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged
from pyro_vae.tasks.scores.evidence import evidence
from pyro_vae.tasks.scores.results import Scores
from pyro_vae.tasks.scores.states import STATISTICS, States, densities, states


@isolated
@checked
def typicality(
    vae: Autoencoder,
    x: Tensor,
    *,
    reference: Tensor | Scores,
    num_particles: int = 1000,
    seed: int = 0,
    by: str = "importance",
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The distance of -log p(x) from its mean over reference data: the test of typicality for a single datum.

    .. math:: s(x) = \left| -\log p(x) - \frac1M \sum_m -\log p(x_m) \right|

    A datum can be anomalous by too high a probability as well as by too low a one.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        reference: data that are not anomalous, `[M, *event]`, best such as the model was not trained on; or their
            `evidence` scores. For a model with further inputs (`mask`, `c`) the scores are needed.
        num_particles: K, draws for each datum.
        seed: seed of the draws.
        by: the estimator of log p(x).
        progress: called with the number of data done so far, after the reference data.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats. No elements.

    Raises:
        UsageError: if `reference` is of another method, or data where the programs take further inputs.

    References:
        Nalisnick et al. 2019, Detecting out-of-distribution inputs to deep generative models using typicality.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> typicality(VAE((4,), 2), torch.ones(3, 4), reference=torch.zeros(5, 4), num_particles=100).method
        'typicality'
    """
    options: dict[str, Any] = {"num_particles": num_particles, "seed": seed, "by": by}
    given: dict[str, Any] = {**options, **inputs}
    if not isinstance(reference, Scores):
        reference = evidence(vae, _data(vae, reference, inputs), **options)
    if reference.method != "evidence":
        raise UsageError(f"reference: expected scores by 'evidence', got {reference.method!r}")
    found = evidence(vae, x, progress=progress, **given)
    error = (found.standard_error.square() + reference.standard_error_monte_carlo**2).sqrt()
    distance = Averaged((found.values - reference.mean).abs(), error)
    return Scores.of(distance, "typicality", found.flagged, num_particles=num_particles, seed=seed)


@isolated
@checked
def density_of_states(
    vae: Autoencoder,
    x: Tensor,
    *,
    reference: Tensor | States,
    statistics: Sequence[str] = STATISTICS,
    num_particles: int = 200,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The density of states: how rare the datum's statistics are among those of reference data.

    .. math:: s(x) = -\sum_j \log \hat p_j(T_j(x))

    Each p_j is a kernel density estimate of one statistic over the reference data (`scipy.stats.gaussian_kde`). The
    statistics are `evidence`, -log of the mean of the K importance weights, `reconstruction` -E log p(x|z), `rate`
    KL(q||p), `cross_entropy`
    -E log p(z) and `entropy` -E log q(z|x), the means over q(z|x), all from the same draws.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        reference: data that are not anomalous, `[M, *event]`, M at least 10; or their `States`, from `states`.
        statistics: which of them.
        num_particles: K, draws for each datum, at least 2.
        seed: seed of the draws.
        progress: called with the number of data done so far, after the reference data.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats; the errors are those of the statistics by the delta method, as if they were independent.
        No elements.

    Raises:
        UsageError: for an unknown statistic, too few reference data, or a statistic that does not vary over them.

    References:
        Morningstar et al. 2021, Density of states estimation for out-of-distribution detection.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> reference = (torch.rand(20, 4) < 0.5).float()
        >>> density_of_states(VAE((4,), 2), torch.ones(3, 4), reference=reference).values.shape
        torch.Size([3])
    """
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown or not statistics:
        raise UsageError(f"statistics: expected some of {', '.join(STATISTICS)}, got {list(statistics)}")
    if not isinstance(reference, States):
        reference = states(vae, _data(vae, reference, inputs), num_particles=num_particles, seed=seed)
    found = states(vae, x, num_particles=num_particles, seed=seed, progress=progress, **inputs)
    averaged = densities(found, reference, statistics)
    return Scores.of(averaged, "density_of_states", num_particles=num_particles, seed=seed)


def _data(vae: Autoencoder, reference: Tensor, inputs: Any) -> Tensor:
    """Reference data, checked."""
    if inputs:
        raise UsageError(
            f"the data come with {', '.join(inputs)}, and so must the reference: pass its scores in place of its data, "
            "reference=score(vae, x_reference, 'evidence', ...), or states(vae, x_reference, ...)"
        )
    reference = tensor("reference", reference)
    if tuple(reference.shape[1:]) != tuple(vae.shapes.event) or len(reference) == 0:
        event = ", ".join(map(str, vae.shapes.event))
        raise DataError(f"reference: expected shape [M >= 1, {event}], got {list(reference.shape)}")
    return reference.to(next(vae.parameters()).device)
