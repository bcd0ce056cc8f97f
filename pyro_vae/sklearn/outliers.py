"""`VAEOutlierDetector`: any score of a trained VAE, with a threshold that has a promise."""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from sklearn.base import OutlierMixin

from pyro_vae.arguments.remedies import nearest
from pyro_vae.arguments.values import number, shown
from pyro_vae.errors import UsageError
from pyro_vae.process.seeding import generator
from pyro_vae.sklearn.base import VAEEstimator
from pyro_vae.tasks.scores import METHODS, score, threshold
from pyro_vae.tasks.scores.methods import NEEDS, options_of

USABLE = tuple(name for name in METHODS if name not in NEEDS)
"""The scores that need nothing but the model and the data."""


class VAEOutlierDetector(OutlierMixin, VAEEstimator):
    r"""Outliers by a score of a variational autoencoder, with a threshold that promises a rate of false alarms.

    `score_samples` is the negative of `pyro_vae.score`, so that, as everywhere in scikit-learn, lower is more abnormal:
    for `method="evidence"` it is log p(x). `decision_function` is `score_samples - offset_`, and `predict` gives -1
    (outlier) where it is negative, else 1.

    With `contamination="auto"` the offset is a split-conformal threshold: a part of the rows is held out of the
    training, and a new row like these is called an outlier with probability at most `false_alarms`, whatever the model
    (`pyro_vae.tasks.threshold` has the guarantee). Otherwise `contamination` is the share of outliers among the rows of
    X, and the offset is that quantile of their scores; it promises nothing for new rows.

    Args:
        latent_dim: number of latent dimensions.
        method: which score: evidence | elbo | reconstruction | rate | regret | complexity | ratio, see
            `pyro_vae.score`.
        score_options: its further options by name, e.g. `{"max_steps": 100}` for `"regret"`.
        contamination: `"auto"`, or a share above 0 and at most 0.5.
        false_alarms: with `"auto"`, the highest probability of a false alarm.
        calibration_fraction: with `"auto"`, the share of the rows that is held out for the threshold, at random; it
            must be at least `1 / false_alarms - 1` rows.
        event_shape: this and all others are those of `VAEEstimator`.
        likelihood: see there.
        prior: see there.
        guide: see there.
        encoder: see there.
        decoder: see there.
        standardize: see there.
        objective: see there.
        epochs: see there.
        batch_size: see there.
        learning_rate: see there.
        patience: see there.
        validation_fraction: see there; of the rows that are not held out for the threshold.
        settings: see there.
        num_particles: see there.
        random_state: see there.

    Attributes:
        offset_: what `decision_function` subtracts from `score_samples`.
        threshold_: with `"auto"`, the `Threshold` behind it, with its promise; else None.
        vae_: this and all others are those of `VAEEstimator`.

    References:
        An & Cho 2015, Variational autoencoder based anomaly detection. Vovk, Gammerman & Shafer 2005, Algorithmic
        learning in a random world.

    Example:
        >>> x = torch.randn(100, 5).numpy()
        >>> detector = VAEOutlierDetector(epochs=2, num_particles=50, random_state=0).fit(x)
        >>> detector.predict(x + 20).tolist() == [-1] * 100, detector.threshold_.expected_rate
        (True, 0.047619047619047616)
    """

    fitted_attributes: ClassVar[tuple[str, ...]] = ("offset_", "threshold_")

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        method: str = "evidence",
        score_options: Mapping[str, Any] | None = None,
        contamination: float | Literal["auto"] = "auto",
        false_alarms: float = 0.05,
        calibration_fraction: float = 0.2,
        event_shape: tuple[int, ...] | None = None,
        likelihood: Callable[..., Any] | None = None,
        prior: Callable[..., Any] | None = None,
        guide: Callable[..., Any] | None = None,
        encoder: Callable[..., Any] | None = None,
        decoder: Callable[..., Any] | None = None,
        standardize: bool | None = None,
        objective: Any = None,
        epochs: int = 200,
        batch_size: int = 100,
        learning_rate: float = 1e-3,
        patience: int | None = 20,
        validation_fraction: float = 0.1,
        settings: Mapping[str, Any] | None = None,
        num_particles: int = 500,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            latent_dim,
            event_shape=event_shape,
            likelihood=likelihood,
            prior=prior,
            guide=guide,
            encoder=encoder,
            decoder=decoder,
            standardize=standardize,
            objective=objective,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            patience=patience,
            validation_fraction=validation_fraction,
            settings=settings,
            num_particles=num_particles,
            random_state=random_state,
        )
        self.method = method
        self.score_options = score_options
        self.contamination = contamination
        self.false_alarms = false_alarms
        self.calibration_fraction = calibration_fraction

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Train a `VAE` on X, or on what is left of it where rows are held out, and find the offset.

        Args:
            X: `[n_samples, n_features]`, finite numbers.
            y: ignored.

        Returns:
            The estimator itself.

        Raises:
            UsageError: for parameters that make no sense, or too few rows for the rate of false alarms.
            DataError: for data that the likelihood gives no probability to.
            NumericalError: at a loss that is not finite.
        """
        x = self._checked(X, reset=True)
        self._check_method()
        self._draw_seed()
        if self.contamination == "auto":
            held_out, rest = self._held_out(len(x))
            self._train(x[rest])
            self.threshold_ = threshold(-torch.from_numpy(self._scores(x[held_out])), self.false_alarms)
            self.offset_ = -self.threshold_.value
            return self
        share = number("contamination", self.contamination)
        if not 0 < share <= 0.5:
            raise UsageError(f"contamination: expected 'auto' or a share above 0 and at most 0.5, got {share}")
        self._train(x)
        self.threshold_ = None
        self.offset_ = float(np.percentile(self._scores(x), 100 * share))
        return self

    def score_samples(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """The negative score of each row, nats; lower is more abnormal.

        Args:
            X: `[n_samples, n_features]`.

        Returns:
            `[n_samples]`.

        Raises:
            DataError: for data outside the likelihood's support.
            UsageError: for a model that the method can't be used for.
        """
        return self._scores(self._checked(X))

    def decision_function(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """`score_samples(X) - offset_`, `[n_samples]`; negative for outliers.

        Args:
            X: `[n_samples, n_features]`.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:  # noqa: N803 - scikit-learn's name
        """-1 for outliers, 1 for all others, `[n_samples]`; a row without a finite score is an outlier.

        Args:
            X: `[n_samples, n_features]`.
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _scores(self, x: np.ndarray) -> np.ndarray:
        known = options_of(self.method)
        options = {"num_particles": self.num_particles, "seed": self.seed_}
        given = {name: value for name, value in options.items() if name in known} | dict(self.score_options or {})
        data = self._tensor(x)
        self.vae_.likelihood.check(data, "X")
        return -score(self.vae_, data, self.method, **given).values.numpy()

    def _check_method(self) -> None:
        if self.method not in USABLE:
            close = nearest(self.method, USABLE, cutoff=0.5) if isinstance(self.method, str) else ""
            raise UsageError(
                f"method: expected a score that needs no further data, got {shown(self.method)}{close or '.'} "
                f"Known: {', '.join(USABLE)}"
            )

    def _held_out(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows for the threshold, and the others."""
        fraction, rate = (number(name, getattr(self, name)) for name in ("calibration_fraction", "false_alarms"))
        if not 0 < fraction < 1 or not 0 < rate < 1:
            raise UsageError(
                f"calibration_fraction and false_alarms: expected shares between 0 and 1, got {fraction} and {rate}"
            )
        count, fewest = int(fraction * rows), ceil(1 / rate - 1e-9) - 1
        if count < fewest:
            raise UsageError(
                f"false_alarms={rate:g} takes at least {fewest} rows for the threshold, and calibration_fraction="
                f"{fraction:g} of {rows} is {count}: give more rows, raise either, or set contamination"
            )
        order = torch.randperm(rows, generator=generator(self.seed_, "calibration")).numpy()
        return np.sort(order[:count]), np.sort(order[count:])
