"""Clusters as the components of a mixture prior: where they start, what belongs to them, and how good they are."""

import warnings
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import spoken
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.data import Dataset, as_dataset
from pyro_vae.data.allowed import check_allowed
from pyro_vae.distributions.mixture import Mixture
from pyro_vae.errors import DataError, MissingPackage, UsageError
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.priors import MixtureOfNormals
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import derive_seed, seeded

A = TypeVar("A", bound=Autoencoder)


_TILE = 1000
"""Data that are encoded at a time; each tile has its own random stream."""


_ADDED_VARIANCE = 1e-3
"""To that of each component's coordinates, in units of their variances over all codes."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """Which component of the prior each datum belongs to.

    Args:
        probabilities: E[p(k|z)] over z ~ q(z|x), `[N, components]`.
    """

    probabilities: Tensor

    @property
    def assignments(self) -> Tensor:
        """The most probable component of each datum, `[N]`."""
        return self.probabilities.argmax(-1)

    @property
    def num_used(self) -> int:
        """Number of components that some datum is assigned to."""
        return len(self.assignments.unique())

    def __repr__(self) -> str:
        num_data, components = self.probabilities.shape
        return f"Clustering({self.num_used} of {components} components in use, N = {num_data})"


@isolated
@checked
def cluster(
    vae: Autoencoder, x: Tensor, num_particles: int = 10, seed: int = 0, mask: Tensor | None = None
) -> Clustering:
    r"""Assign data to the components of a mixture prior.

    .. math:: q(k|x) = E_{q(z|x)}[p(k|z)], \qquad p(k|z) = \frac{w_k p_k(z)}{\sum_j w_j p_j(z)}

    The expectation, not the component of the mean code: it is what VaDE takes as its guide for k. It is averaged over
    draws of z.

    Args:
        vae: a VAE whose prior is a mixture (`MixtureOfNormals`, `VampPrior`); left as it is.
        x: data `[N, *event]`.
        num_particles: draws of z for each datum, at least 1.
        seed: seed of the draws.
        mask: True where an element of x was observed, `[N, *event]`; None where all were.

    Returns:
        A `Clustering`, on the CPU.

    Raises:
        UsageError: if the prior is no mixture, or `num_particles` is not positive.
        DataError: if the data have another shape than the VAE's, or there are none.

    References:
        Jiang et al. 2017, Variational deep embedding (VaDE), eq. 16.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> vae = VAE((8, 8), latent_dim=2, prior=partial(MixtureOfNormals, components=3))
        >>> cluster(vae, torch.zeros(5, 8, 8)).probabilities.shape
        torch.Size([5, 3])
    """
    _check_vae(vae)
    if num_particles < 1:
        raise UsageError(f"num_particles must be at least 1, got {num_particles}")
    if tuple(x.shape[1:]) != vae.shapes.event or len(x) == 0:
        raise DataError(f"x: expected shape [N >= 1, {', '.join(map(str, vae.shapes.event))}], got {list(x.shape)}")
    with evaluation_mode(vae):
        prior, probabilities = vae.prior_distribution(), []
        if not isinstance(prior, Mixture):
            raise UsageError(
                f"the prior is {type(vae.prior).__name__}, which has no components: train with "
                + spoken(
                    "MixtureOfNormals, or put one on the codes by with_clusters or refit_prior",
                    "--vae.prior MixtureOfNormals, or fit one to the codes: "
                    "pyro-vae refit RUN --prior MixtureOfNormals --out NEW_RUN",
                )
            )
        for tile in _codes(vae, x, mask, num_particles, seed):
            probabilities.append(prior.component_log_probs(tile).softmax(-1).mean(0).cpu())
    return Clustering(torch.cat(probabilities))


@isolated
@checked
def with_clusters(
    vae: A, data: Dataset | Tensor, components: int = 10, restarts: int = 10, steps: int = 100, seed: int = 0
) -> A:
    r"""Put a mixture of normals on the codes of a trained VAE, by expectation maximisation.

    A mixture prior that is trained from random means tends to use a few components only. So train with a
    `StandardNormal` first, put the mixture where the codes are, and train on: `fit(with_clusters(vae, data), data)`.
    EM (scikit-learn's, of the extra `sklearn`) starts `restarts` times from k-means, on one draw z ~ q(z|x) for each
    datum, and the likeliest mixture is kept. `refit_prior` climbs the same likelihood by gradients, for any prior, on
    new draws in every epoch, but from random means.

    Args:
        vae: the trained VAE; left as it is.
        data: a `Dataset`, or a tensor `[N, *event]`; its train is clustered.
        components: how many, from 1 to the number of data.
        restarts: how many starts to try, at least 1.
        steps: the most steps of EM in each, at least 1.
        seed: seed of the draws and of the starts.

    Returns:
        A new VAE, in evaluation mode: copies of the networks, with a `MixtureOfNormals`.

    Raises:
        UsageError: for numbers that make no sense, or a VAE with a context.
        MissingPackage: if scikit-learn is not installed.

    References:
        Arthur & Vassilvitskii 2007, k-means++. Jiang et al. 2017, Variational deep embedding (VaDE).

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> vae = with_clusters(VAE((8, 8), latent_dim=2), torch.rand(50, 8, 8).round(), components=3)
        >>> vae.prior.loc.shape
        torch.Size([3, 2])
    """
    _check_vae(vae)
    _gaussian_mixture()  # missing or not, before there is work
    dataset = as_dataset(data)
    x = dataset.split("train")
    if restarts < 1 or steps < 1 or not 1 <= components <= len(x):
        raise UsageError(
            f"expected restarts and steps of at least 1 and from 1 to {len(x)} components, got {restarts}, {steps} and "
            f"{components}"
        )
    if vae.shapes.context is not None:
        raise UsageError("clusters of codes q(z|x) need a VAE without a context")
    check_allowed(vae, dataset)
    copied, make = deepcopy(vae), partial(MixtureOfNormals, components=components)
    with evaluation_mode(vae):
        z = torch.cat([tile[0] for tile in _codes(vae, x, dataset.observed("train"), 1, seed)])
    with seeded(seed, "start"):
        prior = make(vae.shapes).to(z)
    copied.prior, copied.arguments = prior, {**vae.arguments, "prior": make}
    found = _mixture(z.double().cpu(), components, restarts, steps, derive_seed(seed, "clusters") % 2**32)
    with torch.no_grad():
        prior.logits.copy_(found.log_weights)
        prior.loc.copy_(found.loc)
        prior.log_scale.copy_(found.variance.log() / 2)
    return copied.eval()


@dataclass(frozen=True)
class ClusteringScores:
    """How well clusters agree with classes; none of the scores depends on how either is numbered.

    Args:
        accuracy: share of the data in the right class, under the best one-to-one matching of clusters and
            classes.
        nmi: mutual information over the mean of the entropies of clusters and classes, 0 to 1.
        ari: Rand index adjusted for chance: 1 for the same partition, 0 in expectation for a random one.
        num_data: number of data.
    """

    accuracy: float
    nmi: float
    ari: float
    num_data: int

    @property
    def standard_error(self) -> float:
        """Standard error of `accuracy` from having N data, the matching held fixed."""
        return (self.accuracy * (1 - self.accuracy) / self.num_data) ** 0.5


@isolated
def clustering_scores(assignments: Tensor, labels: Tensor) -> ClusteringScores:
    r"""Compare clusters with classes.

    With n_kc data in cluster k and class c, a_k and b_c their sums, N of all:

    .. math:: ACC = \frac1N \max_{\pi} \sum_k n_{k\pi(k)}, \qquad
        NMI = \frac{2 \sum_{kc} \frac{n_{kc}}{N} \log \frac{N n_{kc}}{a_k b_c}}{H(a) + H(b)}, \qquad
        ARI = \frac{\sum_{kc} \binom{n_{kc}}2 - E}{\frac12 \left(\sum_k \binom{a_k}2 + \sum_c \binom{b_c}2\right) - E},
        \quad E = \sum_k \binom{a_k}2 \sum_c \binom{b_c}2 \Big/ \binom N2

    The matching pi (no two clusters with one class) is found by the Hungarian method. With more clusters than classes
    some have none, and their data count as wrong. Where both partitions are trivial in the same way (one part, or N),
    NMI and ARI are 1.

    Args:
        assignments: cluster of each datum, `[N]`, integers from 0.
        labels: class of each datum, `[N]`, integers from 0.

    Raises:
        DataError: if they are not as many, none, or one is negative.

    References:
        Hubert & Arabie 1985, Comparing partitions. Vinh et al. 2010, Information theoretic measures for clusterings.

    Example:
        >>> clustering_scores(torch.tensor([1, 1, 0, 0]), torch.tensor([0, 0, 1, 2])).accuracy
        0.75
    """
    from scipy.optimize import linear_sum_assignment

    counts = _contingency(assignments, labels)
    rows, columns = linear_sum_assignment(counts.numpy(), maximize=True)
    matched = counts[torch.as_tensor(rows), torch.as_tensor(columns)].sum().item()
    return ClusteringScores(matched / counts.sum().item(), _nmi(counts), _ari(counts), int(counts.sum()))


def _contingency(assignments: Tensor, labels: Tensor) -> Tensor:
    """Data in each cluster and class, `[clusters, classes]`, double precision."""
    a, b = assignments.cpu().flatten().long(), labels.cpu().flatten().long()
    if len(a) != len(b) or len(a) == 0 or a.min() < 0 or b.min() < 0:
        raise DataError(
            f"expected a cluster and a class from 0 for each datum, got {len(a)} clusters and {len(b)} labels"
            f"{f' from {min(int(a.min()), int(b.min()))}' if len(a) and len(b) else ''}"
        )
    classes = int(b.max()) + 1
    pairs = torch.bincount(a * classes + b, minlength=(int(a.max()) + 1) * classes)
    return pairs.reshape(-1, classes).double()


def _nmi(counts: Tensor) -> float:
    joint = counts / counts.sum()
    clusters, classes = joint.sum(1), joint.sum(0)
    entropies = _entropy(clusters) + _entropy(classes)
    information = entropies - _entropy(joint)
    return 1.0 if entropies == 0 else min(max(2 * information / entropies, 0.0), 1.0)


def _entropy(probabilities: Tensor) -> float:
    return -torch.special.xlogy(probabilities, probabilities).sum().item()


def _ari(counts: Tensor) -> float:
    same, clusters, classes = (_pairs(n).sum().item() for n in (counts, counts.sum(1), counts.sum(0)))
    total = _pairs(counts.sum()).item()
    expected = clusters * classes / total if total else 0.0
    most = (clusters + classes) / 2
    return 1.0 if most - expected <= 1e-12 * most else (same - expected) / (most - expected)


def _pairs(n: Tensor) -> Tensor:
    return n * (n - 1) / 2


def _check_vae(vae: Autoencoder) -> None:
    if vae.code_site is None:
        raise UsageError(f"clusters are those of the code z of a VAE with one latent site, got a {type(vae).__name__}")


# ---- codes, and a mixture on them -----------------------------------------------------------------------------------


def _codes(vae: Autoencoder, x: Tensor, mask: Tensor | None, num_particles: int, seed: int) -> list[Tensor]:
    """Draws z ~ q(z|x), tile by tile, `[num_particles, tile, latent]`."""
    device, tiles = next(vae.parameters()).device, []
    for start in range(0, len(x), _TILE):
        rows = slice(start, start + _TILE)
        observed = () if mask is None else (mask[rows].to(device),)
        with seeded(seed, "cluster", start):
            tiles.append(vae.encode(x[rows].to(device), *observed).sample(torch.Size([num_particles])))
    return tiles


@dataclass(frozen=True, eq=False)
class _Normals:
    """A mixture of normals with independent coordinates, and its log-likelihood of the codes, nats per datum."""

    log_weights: Tensor
    loc: Tensor
    variance: Tensor
    likelihood: float


def _mixture(z: Tensor, components: int, restarts: int, steps: int, seed: int) -> _Normals:
    """The likeliest of several starts of expectation maximisation on codes `[N, latent]`, by scikit-learn.

    Each ends where it gains less than 1e-6 nats per datum. The codes are brought to unit scale, in which `reg_covar`,
    added to all variances, means the same for every coordinate.
    """
    mean, scale = z.mean(0), z.std(0, correction=0).clamp(min=1e-6)
    unit = ((z - mean) / scale).repeat(2 if len(z) == 1 else 1, 1).numpy()  # scikit-learn refuses a single row
    options: Any = {"n_init": restarts, "max_iter": steps, "tol": 1e-6, "reg_covar": _ADDED_VARIANCE}
    mixture = _gaussian_mixture()(components, covariance_type="diag", random_state=seed, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of too few steps, and of codes that are equal
        mixture.fit(unit)
        likelihood = mixture.score(unit) - scale.log().sum().item()
    weights, loc, variance = map(torch.from_numpy, (mixture.weights_, mixture.means_, mixture.covariances_))
    return _Normals(weights.log(), mean + scale * loc, scale.square() * variance, likelihood)


def _gaussian_mixture() -> Any:
    try:
        from sklearn.mixture import GaussianMixture
    except ModuleNotFoundError as error:
        raise MissingPackage("scikit-learn", "sklearn", "with_clusters") from error
    return GaussianMixture
