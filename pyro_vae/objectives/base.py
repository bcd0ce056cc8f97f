"""`Objective`, the base class, and what all objectives share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from math import log
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.arguments.values import number, plain_fields, value_of, whole
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.schedules import Schedule, value_at


class Objective(ABC):
    """A loss of a Pyro pair, as a frozen value.

    `model` and `guide` always mean p(x, z) and q(z|x): an objective weighs them and never changes them, so evidence
    does not depend on how a model was trained.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        plain_fields(cls, by_class=True)

    @abstractmethod
    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, a scalar: summed over the batch, in nats, differentiable."""

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The same loss by operations on tensors only, without reading a value: `fit` evaluates and compiles it.

        Raises:
            NotTensorial: if this pair has no such form; `fit` then calls the objective itself.
        """
        return self(model, guide, *args, **kwargs)

    @property
    def is_bound(self) -> bool:
        """Whether the loss is a bound on -log p(x), with equality where the guide is the exact posterior."""
        return True

    @property
    def couples_rows(self) -> bool:
        """Whether the loss is not the sum of the losses of the rows, so that a batch can't be split over processes.

        `fit` also compares the two on a few rows; this is for cases in which they happen to agree there.
        """
        return False

    def for_data(self, num_data: int, inputs: Mapping[str, Tensor] | None = None) -> Self:
        """This objective with what it needs to know of the training data; `fit` calls it once.

        Args:
            num_data: number of training data.
            inputs: further arguments of the programs, by name, `[num_data, ...]`.
        """
        return self

    def for_validation(self, train: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Self:
        """This objective (the result of `for_data`) for held-out data, on which `fit` compares epochs.

        Args:
            train: further arguments of the programs for the training data, by name, `[num_data, ...]`.
            valid: the same for the held-out data.
        """
        return self

    @property
    def schedules(self) -> dict[str, Schedule]:
        """The fields that are schedules, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Schedule)}

    def at(self, epoch: float, total: float) -> Self:
        """This objective at a moment of the training, with its schedules replaced by their values."""
        values = {name: value_at(schedule, epoch, total) for name, schedule in self.schedules.items()}
        return replace(self, **values) if values else self  # pyright: ignore[reportArgumentType]

    def holding(self, values: Mapping[str, Tensor]) -> Self:
        """This objective with tensors in some of its fields, unchecked: the inputs of a compiled loss."""
        changed = copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return changed

    def settled(self, epoch: float, total: float) -> bool:
        """Whether its schedules no longer change from `epoch` on; early stopping waits for it."""
        return all(schedule.settled(epoch, total) for schedule in self.schedules.values())

    @property
    def trains_guide(self) -> bool:
        """Whether the guide learns from the loss."""
        return True

    @property
    def updates(self) -> int:
        """Updates of the weights that `fit` makes on each batch; more than one where a batch has costly draws."""
        return 1

    # ---- overridden by `training.pyro_loss.PyroLoss`; a new objective need not define these

    @property
    def loss_name(self) -> str:
        """The name of the loss in messages."""
        return type(self).__name__

    @property
    def loss_and_grads(self) -> Callable[..., Any] | None:
        """A function that computes the loss and adds its gradients to the parameters; None to use autograd."""
        return None

    @property
    def has_value(self) -> bool:
        """Whether the loss has a value, and not only gradients."""
        return True

    @property
    def needs_elbo(self) -> bool:
        """Whether a pair for which no ELBO can be computed is an error."""
        return True

    @property
    def can_be_saved(self) -> bool:
        """Whether its class and its fields describe it completely, as a run directory requires."""
        return True

    def evaluate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The value of the loss, summed over the batch, nats; called without gradients, on held-out data."""
        return self(model, guide, *args, **kwargs)

    def for_trial(self) -> Self:
        """This objective for a trial call, which must not change what the loss stores."""
        return self

    # ---- for subclasses

    def _number(self, name: str) -> Any:
        """A field that is a number, or a tensor.

        Raises:
            UsageError: if it is still a schedule.
        """
        value = getattr(self, name)
        if isinstance(value, Schedule):
            own = type(self).__name__
            raise UsageError(f"{own}.{name} is a schedule: fit follows it; elsewhere take {own}(...).at(epoch, total)")
        return value

    def _require(self, **least: float) -> None:
        """Refuse fields below their lower bounds; values of schedules are checked when `at` makes a new objective."""
        for name, bound in least.items():
            own = f"{type(self).__name__}.{name}"
            value: Any = value_of(own, getattr(self, name), Schedule)
            if isinstance(value, Schedule):
                continue
            if not isinstance(value, Tensor):
                whole(own, value, None) if name.startswith("num_") else number(own, value)
            if not value >= bound:
                raise UsageError(f"{type(self).__name__} needs {name} >= {bound:g}, got {value}")


class NotTensorial(Exception):  # noqa: N818 - not an error: the caller computes the loss in another way
    """The loss must read values of tensors; the message says why."""


def tensor_form(objective: Objective) -> Callable[..., Tensor]:
    """The `tensor_loss` of an objective, or the objective itself where a subclass has changed `__call__` alone.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> from pyro_vae.objectives import ELBO
        >>> vae = VAE((4,), latent_dim=2)
        >>> tensor_form(ELBO())(vae.model, vae.guide, torch.ones(5, 4)).shape
        torch.Size([])
    """
    mro = type(objective).__mro__
    calls, tensorial = (next(cls for cls in mro if name in vars(cls)) for name in ("__call__", "tensor_loss"))
    return objective.tensor_loss if issubclass(tensorial, calls) else objective


def as_loss(objective: Any) -> Any:
    """An objective, or any Pyro ELBO, as a function `(model, guide, *args, **kwargs) -> loss`.

    Raises:
        UsageError: if it is neither (e.g. `RenyiELBO`, which has no `differentiable_loss`; `fit` takes it).

    Example:
        >>> from pyro_vae.objectives import ELBO
        >>> as_loss(ELBO()) == ELBO()
        True
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


def reporting(value: Tensor, surrogate: Tensor) -> Tensor:
    """A loss that reports `value` and has the gradient of `surrogate`."""
    return value.detach() + (surrogate - surrogate.detach())


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """The logarithm of the mean weight of each datum: `[particles, batch]` to `[batch]`."""
    return torch.logsumexp(_without_negligible(log_weights), 0) - log(len(log_weights))


def weight_shares(log_weights: Tensor) -> Tensor:
    """The weights of each datum over their sum: `[particles, batch]`, summing to 1 over the particles."""
    return torch.softmax(_without_negligible(log_weights), 0)


def _without_negligible(log_weights: Tensor) -> Tensor:
    """The log-weights, -inf for those below the largest of their datum by a factor of the square of the precision.

    They change no sum. But gradients times such weights are numbers so small (denormal) that some CPUs take a hundred
    times as long to multiply them: a step of `IWAE(50)` on an Intel Xeon took 4.7 times as long with them.
    """
    least = log_weights.detach().amax(0) + 2 * log(torch.finfo(log_weights.dtype).eps)
    return torch.where(log_weights < least, -torch.inf, log_weights)
