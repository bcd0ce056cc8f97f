"""Several models of the same data: their mean score, and how far they disagree."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked, pair_of
from pyro_vae.arguments.values import choice
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.errors import UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import Averaged
from pyro_vae.tasks.scores.evidence import evidence
from pyro_vae.tasks.scores.results import Scores

Combination = Literal["waic", "mean", "variance"]


@isolated
@checked
def ensemble(
    vae: Autoencoder,
    x: Tensor,
    *,
    others: Sequence[Autoencoder],
    combine: Combination = "waic",
    num_particles: int = 1000,
    seed: int = 0,
    by: str = "importance",
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Scores:
    r"""The evidence by an ensemble of models, trained from other seeds, with a penalty for their disagreement.

    .. math:: s(x) = -\frac1M \sum_m \log p_m(x) + \mathrm{Var}_m[\log p_m(x)]

    That is the negative WAIC of Choi et al.; `"mean"` is the first term alone, `"variance"` the second (with divisor
    M - 1). Errors of the members' estimates enlarge the variance, so draw many.

    Args:
        vae: one of the models; left as it is.
        x: data `[N, *event]`.
        others: the other models, at least one.
        combine: which combination.
        num_particles: K, draws for each datum and model.
        seed: seed of the draws.
        by: the estimator of log p(x).
        progress: called with the number of data done so far, for the first model.
        **inputs: what else the programs take by name, `[N, ...]`: `mask`, `c`.

    Returns:
        `Scores`, nats ("variance": square nats), by the delta method; flagged where any model's evidence is. No
        elements.

    Raises:
        UsageError: if there are no others.

    References:
        Choi, Jang & Alemi 2018, WAIC, but why? Generative ensembles for robust anomaly detection.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> ensemble(VAE((4,), 2), torch.ones(3, 4), others=[VAE((4,), 2)], num_particles=100).values.shape
        torch.Size([3])
    """
    choice("combine", combine, ("waic", "mean", "variance"))
    if not others:
        raise UsageError("others: expected at least one further model, trained on the same data from another seed")
    members = [vae, *map(pair_of, others)]
    options: dict[str, Any] = {"num_particles": num_particles, "seed": seed, "by": by, **inputs}
    found = [evidence(m, x, progress=progress if m is vae else None, **options) for m in members]
    values, errors = torch.stack([f.values for f in found]), torch.stack([f.standard_error for f in found])
    averaged = _combined(values, errors, combine)
    flagged = torch.stack([f.flagged for f in found]).any(0)
    return Scores.of(averaged, "ensemble", flagged, num_particles=num_particles, seed=seed)


def _combined(values: Tensor, errors: Tensor, combine: Combination) -> Averaged:
    """The combination of the members' scores `[M, N]`, with the error that theirs give it."""
    count, mean = len(values), values.mean(0)
    with_mean, with_variance = combine != "variance", combine != "mean"
    slopes = with_mean / count + with_variance * 2 * (values - mean) / (count - 1)
    total = with_mean * mean + with_variance * values.var(0)
    return Averaged(total, (slopes * errors).square().sum(0).sqrt())
