"""What is optimised: objectives, each a frozen value that maps a Pyro (model, guide) pair and data to a loss.

A loss is summed over the batch, in nats, and differentiable: what `pyro.infer.SVI(loss=...)` and `fit` take. Any Pyro
ELBO with a `differentiable_loss` (`Trace_ELBO()`, `TraceMeanField_ELBO()`, ...) serves as well, as it is.
To add one, subclass `Objective` as a frozen dataclass and implement `__call__`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.importance import Program
from pyro_vae.schedules import Schedule


class Objective(ABC):
    """A loss of a Pyro pair, as a frozen value.

    `model` and `guide` always mean p(x, z) and q(z|x): an objective weighs them and never changes them, so evidence
    does not depend on how a model was trained.
    """

    @abstractmethod
    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar: summed over the batch, in nats, differentiable."""

    def at(self, epoch: float, total: float) -> "Objective":
        """This objective at a moment of the training, with its schedules replaced by their values."""
        return self

    def settled(self, epoch: float, total: float) -> bool:
        """Whether its schedules no longer change from `epoch` on; early stopping waits for it."""
        return True


@dataclass(frozen=True)
class ELBO(Objective):
    r"""The evidence lower bound, by Pyro; with `beta` other than 1 a weighted bound.

    .. math:: -\mathcal L_\beta(x) = E_{q(z|x)}[-\log p(x|z)] + \beta \, KL(q(z|x) \| p(z))

    The default is Pyro's `Trace_ELBO` (AEVB's estimator A). `analytic_kl` is `TraceMeanField_ELBO` (estimator B): the
    KL in closed form where torch knows one, and *silently by sampling where it does not*. `beta` scales the latent
    sites of both programs, by a handler.

    Args:
        beta: weight of the KL, not negative; a number, or a schedule (warm-up).
        num_particles: draws of z for each datum, at least 1, in one vectorised run.
        analytic_kl: whether to take the KL in closed form.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive, or `beta` is negative; if called while `beta` is a schedule.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 6, 7. Higgins et al. 2017, beta-VAE.
    """

    beta: float | Schedule = 1.0
    num_particles: int = 1
    analytic_kl: bool = False
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        if self.num_particles < 1:
            raise UsageError(f"ELBO needs num_particles >= 1, got {self.num_particles}")
        if not isinstance(self.beta, Schedule) and not self.beta >= 0:
            raise UsageError(f"ELBO needs beta >= 0, got {self.beta}")

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, summed over the batch, nats."""
        if isinstance(self.beta, Schedule):
            raise UsageError("ELBO.beta is a schedule: fit follows it; elsewhere take ELBO(...).at(epoch, total)")
        if self.beta != 1:
            model, guide = ScaleLatents(self.beta)(model), ScaleLatents(self.beta)(guide)
        return self._estimator().differentiable_loss(model, guide, *args, **kwargs)

    def at(self, epoch: float, total: float) -> "ELBO":
        """The same with `beta` at its value of this moment."""
        return replace(self, beta=self.beta(epoch, total)) if isinstance(self.beta, Schedule) else self

    def settled(self, epoch: float, total: float) -> bool:
        """Whether `beta` no longer changes."""
        return not isinstance(self.beta, Schedule) or self.beta.settled(epoch, total)

    def _estimator(self) -> Trace_ELBO:
        kind = TraceMeanField_ELBO if self.analytic_kl else Trace_ELBO
        vectorize = self.num_particles > 1
        return kind(self.num_particles, max_plate_nesting=self.max_plate_nesting, vectorize_particles=vectorize)


class ScaleLatents(Messenger):
    """Effect handler that multiplies the log-densities of unobserved sites by `scale`.

    Used on model *and* guide: `TraceMeanField_ELBO` reads the guide's scale, `Trace_ELBO` both.
    """

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.scale


def as_loss(objective: Any) -> Any:
    """An objective, or any Pyro ELBO, as a function `(model, guide, *args, **kwargs) -> loss`.

    Raises:
        UsageError: if it is neither (e.g. `RenyiELBO`, which has no `differentiable_loss`).
    """
    if isinstance(objective, Objective):
        return objective
    if hasattr(objective, "differentiable_loss"):
        return objective.differentiable_loss
    if callable(objective) and not hasattr(objective, "loss_and_grads"):
        return objective
    raise UsageError(
        "expected an objective, a Pyro ELBO with differentiable_loss, or a function of (model, guide, *args) that "
        f"returns the loss, got {type(objective).__name__}"
    )
