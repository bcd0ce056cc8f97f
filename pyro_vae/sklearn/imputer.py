"""`VAEImputer`: gaps filled by the model that was trained on what was observed."""

from typing import Any

import numpy as np
from sklearn.base import OneToOneFeatureMixin, TransformerMixin

from pyro_vae.sklearn.base import VAEEstimator
from pyro_vae.tasks import Imputed, impute


class VAEImputer(OneToOneFeatureMixin, TransformerMixin, VAEEstimator):
    r"""Gaps (nan) filled with E[x_missing | x_observed] of a variational autoencoder.

    It trains on data with gaps, by the bound on log p of what was observed, which is right where elements are missing
    at random. `transform` takes rows of any pattern of gaps, leaves observed values as they are, and fills a gap with
    an average over `num_particles` weighed codes (`pyro_vae.impute`).

    .. math:: E[x_{mis}|x_{obs}] \approx \sum_{k=1}^K \bar w_k E[x_{mis}|z_k], \quad
        \bar w_k \propto \frac{p(x_{obs}, z_k)}{q(z_k|x_{obs})}

    Parameters and attributes are those of `VAEEstimator`; `objective=IWAE(num_particles=20)` makes it MIWAE. A column
    without any observed value is refused.

    References:
        Mattei & Frellsen 2019, MIWAE: deep generative modelling and imputation of incomplete data sets.

    Example:
        >>> x = torch.randn(60, 5).numpy()
        >>> x[::3, 1] = np.nan
        >>> filled = VAEImputer(epochs=2, num_particles=50, random_state=0).fit_transform(x)
        >>> bool(np.isnan(filled).any()), bool((filled[1] == x[1]).all())
        (False, True)
    """

    allows_gaps = True

    def transform(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """The rows with their gaps filled.

        Args:
            X: `[n_samples, n_features]`, nan where not observed.

        Returns:
            `[n_samples, n_features]`, of the type of X.

        Raises:
            DataError: for observed values outside the likelihood's support.
            NumericalError: if an estimate is not finite.
        """
        x = self._checked(X)
        filled, rows = x.copy(), np.isnan(x).any(1)
        if rows.any():
            best = self._imputed(x[rows], 1).best.flatten(1).numpy()
            filled[rows] = np.where(np.isnan(x[rows]), best, x[rows])
        return filled

    def impute(self, X: Any, num_draws: int = 20) -> Imputed:  # noqa: N803 - scikit-learn's name
        """Several imputations of each row with their spread and health, as `pyro_vae.impute` gives them.

        Args:
            X: `[n_samples, n_features]`, nan where not observed.
            num_draws: imputations of each row.

        Raises:
            DataError: for observed values outside the likelihood's support.
            NumericalError: if an estimate is not finite.
        """
        return self._imputed(self._checked(X), num_draws)

    def _imputed(self, x: np.ndarray, num_draws: int) -> Imputed:
        settings: Any = {"num_particles": self.num_particles, "seed": self.seed_}
        return impute(self.vae_, self._tensor(x), num_draws=num_draws, **settings)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags
