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
        plain_fields(cls)

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
    def is_bound(self) -> bool:
        """Whether the loss is a bound on -log p(x), met where the guide is the exact posterior."""
        return True

    @property
    def couples_rows(self) -> bool:
        """Whether the loss is more than the sum of the losses of the rows, so that processes can't share out a batch.

        They try it out as well; this is for what a trial may miss.
        """
        return False

    def for_data(self, num_data: int, inputs: Mapping[str, Tensor] | None = None) -> Self:
        """This objective for a training set, which `fit` tells it.

        Args:
            num_data: how many data.
            inputs: what the programs are called with beside them, by name, `[num_data, ...]`.
        """
        return self

    def for_validation(self, train: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Self:
        """This objective, told of the training set, for data that are held out: a training is judged by it.

        Args:
            train: what the programs are called with beside the training data, by name, `[num_data, ...]`.
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
        """This objective with tensors in some of its fields, unchecked: values that a compiled loss is given."""
        changed = copy(self)
        for name, value in values.items():
            object.__setattr__(changed, name, value)
        return changed

    def settled(self, epoch: float, total: float) -> bool:
        """Whether its schedules no longer change from `epoch` on; early stopping waits for it."""
        return all(schedule.settled(epoch, total) for schedule in self.schedules.values())

    def _number(self, name: str) -> Any:
        """A field that is a number by now, or a tensor.

        Raises:
            UsageError: if it is a schedule still.
        """
        value = getattr(self, name)
        if isinstance(value, Schedule):
            own = type(self).__name__
            raise UsageError(f"{own}.{name} is a schedule: fit follows it; elsewhere take {own}(...).at(epoch, total)")
        return value

    def _require(self, **least: float) -> None:
        """Refuse fields below their least values; schedules are checked when they have become numbers."""
        for name, bound in least.items():
            own = f"{type(self).__name__}.{name}"
            value: Any = value_of(own, getattr(self, name), Schedule)
            if isinstance(value, Schedule):
                continue
            if not isinstance(value, Tensor):
                whole(own, value, None) if name.startswith("num_") else number(own, value)
            if not value >= bound:
                raise UsageError(f"{type(self).__name__} needs {name} >= {bound:g}, got {value}")


class NotTensorial(Exception):  # noqa: N818 - a reason to take another way
    """A loss that has to read the values of its tensors; the message says why."""


def tensor_form(objective: Objective) -> Callable[..., Tensor]:
    """The `tensor_loss` of an objective, or the objective itself where a subclass has changed `__call__` alone."""
    mro = type(objective).__mro__
    calls, tensorial = (next(cls for cls in mro if name in vars(cls)) for name in ("__call__", "tensor_loss"))
    return objective.tensor_loss if issubclass(tensorial, calls) else objective


def as_loss(objective: Any) -> Any:
    """An objective, or any Pyro ELBO, as a function `(model, guide, *args, **kwargs) -> loss`.

    Raises:
        UsageError: if it is neither (e.g. `RenyiELBO`, which has no `differentiable_loss`; `fit` takes it).
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
    return torch.logsumexp(log_weights, 0) - log(len(log_weights))
