"""The adapter of `fit`: wraps Pyro's ELBOs and plain functions as an `Objective`."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pyro.infer import TraceTailAdaptive_ELBO
from torch import Tensor

from pyro_vae.arguments.values import value_of
from pyro_vae.inference.programs import Program
from pyro_vae.objectives import NotTensorial, Objective, as_loss


@dataclass(frozen=True)
class PyroLoss(Objective):
    """Any loss that `pyro.infer.SVI` takes, as an `Objective`, with the same value and the same gradients.

    It makes no assumption about the loss: it has no schedules, may store values between calls (each trial call uses a
    copy), and may sum over sites that the guide does not draw, in which case the pair has no ELBO to report.

    Args:
        loss: a Pyro ELBO, or a function `(model, guide, *args, **kwargs) -> loss`.

    Raises:
        UsageError: if it is neither.
    """

    loss: Any

    def __post_init__(self) -> None:
        if self.loss_and_grads is None:
            as_loss(self.loss)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The loss, summed over the batch, nats, differentiable.

        Raises:
            UsageError: if the loss computes gradients only (e.g. `RenyiELBO`, which has no `differentiable_loss`).
        """
        return as_loss(self.loss)(model, guide, *args, **kwargs)

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Unknown for such a loss.

        Raises:
            NotTensorial: always; the loss is not called, since a call may change what it stores.
        """
        raise NotTensorial(f"{self.loss_name} is not one of pyro_vae.objectives")

    def evaluate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The value, with gradients switched on, since some losses need them inside.

        Raises:
            NotImplementedError: by Pyro, if the loss computes gradients only.
        """
        function = self.loss if self.loss_and_grads is None else self.loss.loss
        with torch.enable_grad():
            found = function(model, guide, *args, **kwargs)
        return found[0] if isinstance(found, tuple) else found  # ReweightedWakeSleep of Pyro: the model's, the guide's

    @property
    def loss_name(self) -> str:
        """The name of the class or of the function that is wrapped."""
        return getattr(self.loss, "__name__", type(self.loss).__name__)

    @property
    def loss_and_grads(self) -> Callable[..., Any] | None:
        """The method of that name of a Pyro ELBO; None for a function."""
        return getattr(self.loss, "loss_and_grads", None)

    @property
    def has_value(self) -> bool:
        """False for Pyro's tail-adaptive ELBO, which computes gradients only."""
        return not isinstance(self.loss, TraceTailAdaptive_ELBO)

    @property
    def needs_elbo(self) -> bool:
        """False: Pyro also sums over sites that the guide does not draw."""
        return False

    @property
    def can_be_saved(self) -> bool:
        """False: its options are unknown."""
        return False

    def for_trial(self) -> Self:
        """With a copy of the loss."""
        return replace(self, loss=copy(self.loss))

    def for_validation(self, train: Mapping[str, Tensor], valid: Mapping[str, Tensor]) -> Self:
        """With a copy of a function, so that counters in it do not move; a Pyro ELBO is taken as it is."""
        return self.for_trial() if self.loss_and_grads is None else self


def as_objective(loss: Any, name: str = "objective") -> Objective:
    """An objective as it is; a Pyro ELBO or a function of (model, guide, *args) as a `PyroLoss`.

    Args:
        loss: the value that the caller passed.
        name: of the argument, for the message.

    Raises:
        UsageError: if it is none of these.
    """
    value = value_of(name, loss, Objective)
    return value if isinstance(value, Objective) else PyroLoss(value)
