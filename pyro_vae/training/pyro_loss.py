"""The adapter at the door of `fit`: losses that are no `Objective`, Pyro's ELBOs and functions, wrapped as one."""

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

    It makes no assumption about the loss: it has no schedules, may keep notes between calls (each trial call is made
    on a copy), and may sum over sites that the guide does not draw, in which case the pair has no ELBO to report.

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
            UsageError: if the loss has gradients alone (e.g. `RenyiELBO`, which has no `differentiable_loss`).
        """
        return as_loss(self.loss)(model, guide, *args, **kwargs)

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Not known to exist.

        Raises:
            NotTensorial: always; without a call, since a call may change what the loss notes.
        """
        raise NotTensorial(f"{self.loss_name} is not one of pyro_vae.objectives")

    def evaluate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """The value, with gradients switched on, since some losses need them inside.

        Raises:
            NotImplementedError: by Pyro, if the loss has gradients alone.
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
        """Not for Pyro's tail-adaptive ELBO, which has gradients alone."""
        return not isinstance(self.loss, TraceTailAdaptive_ELBO)

    @property
    def needs_elbo(self) -> bool:
        """No: Pyro also sums over sites that the guide does not draw."""
        return False

    @property
    def can_be_saved(self) -> bool:
        """No: nothing is known of its options."""
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
        loss: what came.
        name: of the argument, for the message.

    Raises:
        UsageError: if it is none of them.
    """
    value = value_of(name, loss, Objective)
    return value if isinstance(value, Objective) else PyroLoss(value)
