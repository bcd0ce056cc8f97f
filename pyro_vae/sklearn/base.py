"""`VAEEstimator`, the base class: parameters, `fit`, and the trained `VAE` behind an estimator."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pyro.distributions import constraints
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyro_vae.arguments.values import number, plain, shown, whole
from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Normal
from pyro_vae.process.seeding import generator, seeded
from pyro_vae.shapes import Shapes
from pyro_vae.sklearn.saving import load_estimator, save_estimator
from pyro_vae.training.fitting import fit

ROWS = 10_000
"""Data that go through a network at a time."""

_LEARNED = partial(Normal, scale="learned_each")
_PARTS = ("prior", "guide", "encoder", "decoder")
_RESERVED = ("vae", "data", "run", "epochs", "batch_size", "patience", "optimizer", "seed", "objective", "progress")


class VAEEstimator(BaseEstimator):
    """A `VAE` trained by `fit`, as an estimator of scikit-learn; abstract.

    Args:
        latent_dim: number of latent dimensions.
        event_shape: shape of one datum, for networks that need one, e.g. `(1, 8, 8)` for images of 64 columns; None for
            `(n_features,)`.
        likelihood: p(x|z), a class or a `functools.partial` of one; None for normal noise with a learned standard
            deviation for each column, as in factor analysis.
        prior: p(z), likewise; None for the one that `VAE` has by default, and so for the other parts.
        guide: q(z|x).
        encoder: network.
        decoder: network.
        standardize: whether the networks work on standardised columns, while log p(x) and all values stay in the units
            of the data; None to do so where the likelihood is one of real numbers.
        objective: what is optimised; None for `ELBO()`.
        epochs: the most passes over the training data.
        batch_size: data in a step.
        learning_rate: of Adam.
        patience: stop after so many epochs without a better objective on the validation data; None for all epochs.
        validation_fraction: share of the rows that are held out, at random, to choose the best epoch and to stop by.
            Where it makes no whole row, or is 0, there are no validation data, and the last weights are kept.
        settings: further arguments of `pyro_vae.fit` by name, e.g. `{"lr_schedule": Cosine(), "device": "cpu"}`.
        num_particles: K, draws of the guide for each datum, wherever log p(x) is estimated.
        random_state: of the division, the first weights, the training and all later draws. None for another seed at
            each `fit`; what a fitted estimator returns is always reproducible.

    Attributes:
        vae_: the trained `VAE`, on the CPU in evaluation mode.
        history_: what happened in the training, a `History`; not there after `load`.
        seed_: the seed that `random_state` gave.
        n_features_in_: number of columns.
        feature_names_in_: their names, if `X` was a table whose names are strings.
    """

    allows_gaps: ClassVar[bool] = False
    """Whether nan in X means that an element was not observed; else it is refused."""
    fitted_attributes: ClassVar[tuple[str, ...]] = ()
    """Attributes that `save` keeps, besides the weights and those that all estimators have."""

    def __init__(
        self,
        latent_dim: int = 2,
        *,
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
        self.latent_dim = latent_dim
        self.event_shape = event_shape
        self.likelihood = likelihood
        self.prior = prior
        self.guide = guide
        self.encoder = encoder
        self.decoder = decoder
        self.standardize = standardize
        self.objective = objective
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.settings = settings
        self.num_particles = num_particles
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: N803 - scikit-learn's name
        """Train a `VAE` on X.

        Args:
            X: `[n_samples, n_features]`, finite numbers.
            y: ignored.

        Returns:
            The estimator itself.

        Raises:
            UsageError: for parameters that make no sense.
            DataError: for data that the likelihood gives no probability to.
            NumericalError: at a loss that is not finite.
        """
        x = self._checked(X, reset=True)
        self._draw_seed()
        self._train(x)
        return self

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator to a run directory, which `load` and the command `pyro-vae` read; no pickle.

        Args:
            path: the directory; if it holds an estimator with the same parameters, it is written again.

        Raises:
            UsageError: for a parameter that can't be described by class path and keywords, e.g. a lambda.
            CheckpointError: if the directory holds another run.
            FileError: if it can't be written.
        """
        check_is_fitted(self)
        save_estimator(self, path)

    @classmethod
    def load(cls, path: str | Path, trust: Sequence[str] = ()) -> Self:
        """The estimator that `save` wrote.

        Args:
            path: the run directory.
            trust: further modules whose classes may be imported and built; `pyro_vae` always is.

        Raises:
            CheckpointError: if there is no estimator of this class, it is damaged, or it names a class outside the
                trusted modules.
        """
        return load_estimator(cls, path, trust)

    def _checked(self, x: Any, reset: bool = False) -> np.ndarray:
        """The data as an array of floats, refused where columns or values don't fit."""
        options: Any = {
            "dtype": [np.float64, np.float32],
            "ensure_all_finite": "allow-nan" if self.allows_gaps else True,
        }
        if not reset:
            check_is_fitted(self)
        checked: Any = validate_data(self, x, reset=reset, **options)
        return checked

    def _event(self, features: int) -> tuple[int, ...]:
        if self.event_shape is None:
            return (features,)
        shape = tuple(self.event_shape)
        if prod(shape) != features:
            raise UsageError(f"event_shape: expected one of {features} elements, as X has columns, got {list(shape)}")
        return shape

    def _tensor(self, x: np.ndarray) -> Tensor:
        """Rows as data, `[N, *event]`, in single precision."""
        return torch.tensor(x, dtype=torch.float32).reshape(len(x), *self._event(x.shape[1]))

    def _tiles(self, x: np.ndarray) -> Iterator[Tensor]:
        yield from (self._tensor(x[start : start + ROWS]) for start in range(0, len(x), ROWS))

    def _make(self, features: int) -> VAE:
        likelihood: Callable[..., Any] = _LEARNED if self.likelihood is None else self.likelihood
        event, standardize = self._event(features), self.standardize
        with seeded(self.seed_, "init"):
            if standardize is None:
                elements = likelihood(Shapes(event, 1))
                standardize = elements.data_support is constraints.real and not getattr(elements, "bounded", False)
            parts: dict[str, Any] = {name: getattr(self, name) for name in _PARTS}
            chosen = {name: part for name, part in parts.items() if part is not None}
            return VAE(event, self.latent_dim, likelihood=likelihood, standardize=standardize, **chosen)

    def _draw_seed(self) -> None:
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))

    def _train(self, x: np.ndarray) -> None:
        """Train on rows, of which some are held out; sets `vae_`, `history_` and `progress_`."""
        whole("num_particles", self.num_particles, 1)
        vae, (train, valid) = self._make(x.shape[1]), self._divided(len(x))
        rows = {"train": train, "valid": valid} if len(valid) else {"train": train}
        splits = {split: self._tensor(x[chosen]) for split, chosen in rows.items()}
        gaps = any(bool(values.isnan().any()) for values in splits.values())
        inputs = {"mask": {split: ~values.isnan() for split, values in splits.items()}} if gaps else {}
        data = Dataset("X", splits["train"], splits.get("valid"), inputs=inputs)
        options = self.training_options()
        if not len(valid):
            options["patience"] = None
        self.history_ = fit(vae, data, self.objective, **options, progress=False)
        best, last = self.history_.best_epoch, self.history_.rows[-1]
        self.progress_ = {"epoch": last["epoch"], "step": last["step"], "best_epoch": best, "data": data.fingerprint()}
        self.vae_ = vae.cpu().eval()

    def _divided(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows to train on, and those to validate by."""
        fraction = number("validation_fraction", self.validation_fraction)
        if not 0 <= fraction < 1:
            raise UsageError(f"validation_fraction: expected a share from 0 to below 1, got {fraction}")
        order = torch.randperm(rows, generator=generator(self.seed_, "validation")).numpy()
        count = int(fraction * rows)
        return np.sort(order[count:]), np.sort(order[:count])

    def training_options(self) -> dict[str, Any]:
        """The arguments of `pyro_vae.fit` by name, but for the data and the objective.

        Raises:
            UsageError: for settings that are not for the user to choose, and a learning rate that is not positive.
        """
        further = dict(self.settings or {})
        if taken := [name for name in _RESERVED if name in further]:
            raise UsageError(f"settings: {taken[0]!r} is a parameter of the estimator, or can't be chosen")
        rate = number("learning_rate", plain(self.learning_rate))
        if not rate > 0:
            raise UsageError(f"learning_rate: expected a number above 0, got {shown(self.learning_rate)}")
        named = {name: getattr(self, name) for name in ("epochs", "batch_size", "patience")}
        return {**further, **named, "optimizer": partial(torch.optim.Adam, lr=rate), "seed": self.seed_}
