"""What is optimised: objectives, each a frozen value that maps a Pyro (model, guide) pair and data to a loss.

A loss is summed over the batch, in nats, and differentiable: what `pyro.infer.SVI(loss=...)` and `fit` take. Any Pyro
ELBO with a `differentiable_loss` (`Trace_ELBO()`, `TraceMeanField_ELBO()`, ...) serves as well, as it is.
To add one, subclass `Objective` as a frozen dataclass and implement `__call__`; numbers that may change while training
are fields that take a `Schedule` as well. `fit` compiles an objective that never reads the value of a tensor.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.errors import UsageError
from pyro_vae.importance import Program, sample_sites
from pyro_vae.schedules import Schedule


class Objective(ABC):
    """A loss of a Pyro pair, as a frozen value.

    `model` and `guide` always mean p(x, z) and q(z|x): an objective weighs them and never changes them, so evidence
    does not depend on how a model was trained.
    """

    @abstractmethod
    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar: summed over the batch, in nats, differentiable."""

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The same loss by operations on tensors alone, with no value read: what `fit` evaluates and compiles.

        Raises:
            NotTensorial: if this pair has no such form; `fit` then calls the objective itself.
        """
        return self(model, guide, *args, **kwargs)

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The fields that are schedules, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Schedule)}

    def at(self, epoch: float, total: float) -> Self:
        """This objective at a moment of the training, with its schedules replaced by their values."""
        values = {name: schedule(epoch, total) for name, schedule in self.schedules.items()}
        return replace(self, **values) if values else self  # pyright: ignore[reportArgumentType]

    def holding(self, values: Mapping[str, Tensor]) -> Self:
        """This objective with tensors in some of its fields, unchecked: values that a compiled loss is given."""
        changed = copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return changed

    def settled(self, epoch: float, total: float) -> bool:
        """Whether its schedules no longer change from `epoch` on; early stopping waits for it."""
        return all(schedule.settled(epoch, total) for schedule in self.schedules.values())


class NotTensorial(Exception):  # noqa: N818 - a reason to take another way
    """A loss that has to read the values of its tensors; the message says why."""


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
        """The negative ELBO, summed over the batch, nats: Pyro's own estimate."""
        return self._estimator().differentiable_loss(*self._weighted(model, guide), *args, **kwargs)

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Pyro's estimate, draw for draw, without its reads of values; for reparameterised guides.

        Raises:
            NotTensorial: if a site of the guide is not reparameterised: its gradient needs Pyro's score function.
        """
        model, guide = self._weighted(model, guide)
        if self.num_particles > 1:
            estimator = self._estimator()
            model, guide = (estimator._vectorized_num_particles(program) for program in (model, guide))
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        drawn, scored = sample_sites(guide_trace), sample_sites(model_trace)
        _check_reparameterised(drawn)
        terms = _closed_form_kl(drawn, scored) if self.analytic_kl else {}
        log_p = sum(_log_prob_sum(site) for name, site in scored.items() if name not in terms)
        log_q = sum(_log_prob_sum(site) for name, site in drawn.items() if name not in terms)
        return (sum(terms.values()) + log_q - log_p) / self.num_particles  # pyright: ignore[reportReturnType]

    def _weighted(self, model: Program, guide: Program) -> tuple[Program, Program]:
        if isinstance(self.beta, Schedule):
            raise UsageError("ELBO.beta is a schedule: fit follows it; elsewhere take ELBO(...).at(epoch, total)")
        if isinstance(self.beta, int | float) and self.beta == 1:
            return model, guide
        return ScaleLatents(self.beta)(model), ScaleLatents(self.beta)(guide)

    def _estimator(self) -> Trace_ELBO:
        kind = TraceMeanField_ELBO if self.analytic_kl else Trace_ELBO
        vectorize = self.num_particles > 1
        return kind(self.num_particles, max_plate_nesting=self.max_plate_nesting, vectorize_particles=vectorize)


def _check_reparameterised(sites: Mapping[str, Any]) -> None:
    for name, site in sites.items():
        if not site["is_observed"] and not getattr(site["fn"], "has_rsample", False):
            raise NotTensorial(f"site {name!r} of the guide is not reparameterised")


def _closed_form_kl(drawn: Mapping[str, Any], scored: Mapping[str, Any]) -> dict[str, Tensor]:
    """KL(q || p) of every site for which torch knows it, summed over the batch."""
    known = {}
    for name, site in drawn.items():
        if name in scored and not site["is_observed"]:
            try:
                kl = kl_divergence(site["fn"], scored[name]["fn"])
            except NotImplementedError:
                continue
            known[name] = scale_and_mask(kl, scale=site["scale"], mask=site["mask"]).sum()
    return known


def _log_prob_sum(site: Mapping[str, Any]) -> Tensor:
    """log-density of a site, scaled and masked, summed."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"]).sum()


class ScaleLatents(Messenger):
    """Effect handler that multiplies the log-densities of unobserved sites by `scale`.

    Used on model *and* guide: `TraceMeanField_ELBO` reads the guide's scale, `Trace_ELBO` both.
    """

    def __init__(self, scale: float | Tensor) -> None:
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
