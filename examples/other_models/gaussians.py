"""PCA, probabilistic PCA, factor analysis and the Gaussian mixture of scikit-learn, on dequantised bits.

A Gaussian has a density of real numbers, not a probability of bits: at bits alone it can be made as large as one
likes. So uniform noise is added, y = x + u with u in [0, 1): then P(x) = E_u[p(x + u)], and by Jensen's inequality the
mean of log p(x + u), or the log of the mean over finitely many u, is in expectation a lower bound of log P(x) (Theis,
van den Oord & Bethge 2016). A cell has volume 1, so the numbers are on the scale of bits, in nats.
"""

import warnings
from collections.abc import Callable
from math import log
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA, FactorAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor
from torch.distributions import MultivariateNormal

from other_models.autoencoders import by_repetition
from other_models.common import Budget, Data, LogP, Trained
from pyro_vae import seeded

CENTRE = 0.5
"""Of a cell: bits are put there to be encoded, and means are read from there."""


class Normals:
    """A mixture of normal distributions with full covariances; a single one for linear models.

    Args:
        weights: `[K]`.
        means: `[K, D]`.
        covariances: `[K, D, D]`.
    """

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        self.weights, self.means, self.covariances = (
            torch.as_tensor(a).double() for a in (weights, means, covariances)
        )

    def log_joint(self, y: Tensor, seen: Tensor | None = None) -> Tensor:
        """The sum log w_k + log N(y; m_k, S_k) over the elements of the index `seen`, `[N, K]`."""
        seen = torch.arange(y.shape[1]) if seen is None else seen
        parts = [
            MultivariateNormal(m[seen], s[seen][:, seen]) for m, s in zip(self.means, self.covariances, strict=True)
        ]
        return torch.stack([part.log_prob(y[:, seen]) for part in parts], 1) + self.weights.log()

    def log_density(self, y: Tensor) -> Tensor:
        """The density log p(y), `[N]`."""
        return self.log_joint(y.double()).logsumexp(1)

    def draw(self, n: int) -> Tensor:
        """Draws of y as bits, `[n, D]`."""
        k = self.weights.multinomial(n, replacement=True)
        drawn = MultivariateNormal(self.means[k], self.covariances[k]).sample()
        return (drawn >= 1).float()

    def expected(self, y: Tensor, seen: Tensor) -> Tensor:
        """E[y | the elements `seen`], `[N, D]`: a regression in each component, weighted by its probability."""
        shares, total = self.log_joint(y, seen).softmax(1), torch.zeros_like(y)
        for k, (mean, covariance) in enumerate(zip(self.means, self.covariances, strict=True)):
            slope = torch.linalg.solve(covariance[seen][:, seen], covariance[seen])
            total += shares[:, k, None] * (mean + (y[:, seen] - mean[seen]) @ slope)
        return total


def dequantised_log_p(log_density: Callable[[Tensor], Tensor], x: Tensor, budget: Budget) -> LogP:
    """A lower bound of log P(x): the log of the mean of p(x + u) over draws of u, a tenth of the budget's."""
    count = max(2, budget.draws // 20)
    with seeded(budget.seed, "dequantise"):
        terms = torch.stack([log_density(x.double() + torch.rand_like(x.double())) for _ in range(count)])
    ess = (2 * terms.logsumexp(0) - (2 * terms).logsumexp(0)).exp()
    error = ((1 / ess - 1 / count) * count / (count - 1)).sum().sqrt().item() / len(x)
    return LogP(terms.logsumexp(0) - log(count), "lower bound", f"dequantised by {count} draws of u", error)


def dequantised(data: Data, budget: Budget) -> np.ndarray:
    """Stacked passes of bits with noise, for estimators that are fitted to all data at once."""
    x = data.passes(budget.stacked, budget.seed)
    with seeded(budget.seed, "noise of passes"):
        return (x + torch.rand_like(x)).double().numpy()


def of_normals(normals: Normals, budget: Budget, **others: Any) -> Trained:
    """What a normal distribution, or a mixture of them, can compute."""

    def log_p(x: Tensor) -> LogP:
        return dequantised_log_p(normals.log_density, x, budget)

    def imputed(x: Tensor, mask: Tensor) -> Tensor:
        expected = normals.expected(x.double() + CENTRE, mask[0].nonzero().squeeze(1))
        return torch.where(mask, x, bits(expected))

    others = {"family": "bounded", "sample": normals.draw, "log_p": log_p, "impute": imputed} | others
    return Trained(**others, anomaly=lambda x: -normals.log_density(x + CENTRE))


def bits(y: Any) -> Tensor:
    """Expected bits from expected y."""
    return (torch.as_tensor(y).float() - CENTRE).clamp(0, 1)


def array(x: Tensor) -> np.ndarray:
    """Bits in the middle of their cells, as scikit-learn takes them."""
    return x.double().numpy() + CENTRE


def principal(data: Data, budget: Budget) -> Trained:
    """PCA as a projection: a code and a reconstruction, no density."""
    pca = PCA(budget.latent).fit(dequantised(data, budget))

    def reconstruct(x: Tensor) -> Tensor:
        return bits(pca.inverse_transform(pca.transform(array(x))))

    return Trained(
        name="PCA",
        family="none",
        parameters=pca.components_.size + 64,
        reconstruct=reconstruct,
        encode=lambda x: torch.as_tensor(pca.transform(array(x))),
        impute=lambda x, mask: by_repetition(reconstruct, x, mask, data.grey.mean(0)),
        anomaly=lambda x: (reconstruct(x) - x).square().sum(1),
    )


def probabilistic(data: Data, budget: Budget) -> Trained:
    """PCA with noise of equal variance in all directions: x ~ N(m, W W^T + s^2 I) (Tipping & Bishop 1999)."""
    pca = PCA(budget.latent).fit(dequantised(data, budget))
    return linear(pca, np.full(64, pca.noise_variance_), loadings(pca), "probabilistic PCA", budget)


def factors(data: Data, budget: Budget) -> Trained:
    """Factor analysis: x ~ N(m, W W^T + diag(s^2)), a noise for each pixel."""
    found = FactorAnalysis(budget.latent).fit(dequantised(data, budget))
    return linear(found, found.noise_variance_, found.components_.T, "factor analysis", budget)


def loadings(pca: PCA) -> np.ndarray:
    """W of probabilistic PCA, `[D, L]`: the components, shortened by the noise."""
    return pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)


def linear(found: Any, noise: np.ndarray, weight: np.ndarray, name: str, budget: Budget) -> Trained:
    """A linear model with normal noise; its code is E[z|x]."""
    normals = Normals([1.0], found.mean_[None], (weight @ weight.T + np.diag(noise))[None])
    precision = np.eye(weight.shape[1]) + (weight.T / noise) @ weight
    encoder = np.linalg.solve(precision, weight.T / noise)

    def encode(x: Tensor) -> Tensor:
        return torch.as_tensor((array(x) - found.mean_) @ encoder.T)

    parameters = weight.size + 64 + (64 if name == "factor analysis" else 1)
    mean = torch.as_tensor(found.mean_)
    return of_normals(
        normals,
        budget,
        name=name,
        parameters=parameters,
        encode=encode,
        reconstruct=lambda x: bits(mean + encode(x) @ torch.as_tensor(weight).T),
    )


def mixture(data: Data, budget: Budget, components: int = 10) -> Trained:
    """A mixture of normal distributions with full covariances; its code is p(k|x)."""
    found = GaussianMixture(components, reg_covar=1e-3, max_iter=min(budget.epochs, 100), random_state=budget.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the budget ends the fit, as it does for all models
        found.fit(dequantised(data, budget))
    normals = Normals(found.weights_, found.means_, found.covariances_)

    def encode(x: Tensor) -> Tensor:
        return normals.log_joint(x.double() + CENTRE).softmax(1)

    return of_normals(
        normals,
        budget,
        name=f"mixture of {components} Gaussians",
        parameters=components * (64 + 64 * 65 // 2) + components - 1,
        encode=encode,
        reconstruct=lambda x: bits(encode(x) @ normals.means),
    )
