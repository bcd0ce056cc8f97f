"""`VAETransformer`: codes of data, data of codes, and log p(x)."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import DataError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated
from pyro_vae.sklearn.base import VAEEstimator
from pyro_vae.tasks.codes.decoding import decoded


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, VAEEstimator):
    r"""Codes of data by a variational autoencoder: as `PCA`, nonlinear, and with log p(x) as its score.

    `transform` gives the mean of q(z|x), `inverse_transform` E[x|z], `score_samples` log p(x) by importance sampling,
    in the units of the data: so the score compares with that of `PCA`, `FactorAnalysis`, `GaussianMixture` and
    `KernelDensity` on the same columns, and `GridSearchCV` chooses by it.

    .. math:: \log \hat p(x) = \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

    Parameters and attributes are those of `VAEEstimator`. The draws of log p(x) are numbered by the row, so the same
    row has another Monte Carlo error at another place of X. The errors, and which estimates not to trust, are given by
    `log_marginal(model.vae_.model, model.vae_.guide, x)`.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes. Burda et al. 2016, Importance weighted autoencoders.

    Example:
        >>> x = torch.randn(60, 5).numpy()
        >>> model = VAETransformer(latent_dim=2, epochs=2, num_particles=50, random_state=0).fit(x)
        >>> model.transform(x).shape, model.inverse_transform(model.transform(x)).shape, model.score_samples(x).shape
        ((60, 2), (60, 5), (60,))
    """

    @property
    def _n_features_out(self) -> int:
        return self.vae_.shapes.latent

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """The codes: the mean of q(z|x).

        Args:
            X: `[n_samples, n_features]`.

        Returns:
            `[n_samples, latent_dim]`, of the type of X.
        """
        x = self._checked(X)
        return _means(self.vae_, self._tiles(x)).numpy().astype(x.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """The data of codes: E[x|z], of categories the most probable one.

        Args:
            X: codes `[n_samples, latent_dim]`.

        Returns:
            `[n_samples, n_features]`, of the type of X.

        Raises:
            DataError: for codes of another length.
        """
        check_is_fitted(self)
        kinds: Any = [np.float64, np.float32]
        z = check_array(X, dtype=kinds, input_name="X")
        if z.shape[1] != self.vae_.shapes.latent:
            raise DataError(f"X: expected codes of {self.vae_.shapes.latent} numbers, got shape {list(z.shape)}")
        return _decoded(self.vae_, torch.tensor(z, dtype=torch.float32)).flatten(1).numpy().astype(z.dtype)

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """Log p(x) of each row, nats, by importance sampling with `num_particles` draws.

        Args:
            X: `[n_samples, n_features]`.

        Returns:
            `[n_samples]`.

        Raises:
            DataError: for data outside the likelihood's support.
            NumericalError: if an estimate is not finite.
            UsageError: for a guide without a density (`Delta`).
        """
        x = self._tensor(self._checked(X))
        self.vae_.likelihood.check(x, "X")
        found = log_marginal(self.vae_.model, self.vae_.guide, x, num_particles=self.num_particles, seed=self.seed_)
        return found.log_p.numpy()

    def score(self, X: Any, y: Any = None) -> float:  # noqa: N803 - scikit-learn's name
        """Mean of log p(x) over the rows, nats; higher is better.

        Args:
            X: `[n_samples, n_features]`.
            y: ignored.
        """
        return float(self.score_samples(X).mean())


@isolated
def _means(vae: VAE, tiles: Iterable[Tensor]) -> Tensor:
    """The mean of q(z|x) of each datum, `[N, latent]`."""
    with evaluation_mode(vae):
        return torch.cat([vae.encode(tile).mean for tile in tiles])


@isolated
def _decoded(vae: VAE, z: Tensor) -> Tensor:
    """What is reported for each code, `[N, *event]`."""
    with evaluation_mode(vae):
        return decoded(vae, z)
