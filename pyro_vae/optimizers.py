"""Torch's optimizers: made fused where their class can, and applied to gradients without their fixed cost."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from pyro_vae.errors import UsageError

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


def make_optimizer(factory: Callable[..., Optimizer], parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer, fused where its class can: on a CPU that is four times the speed of a loop over tensors.

    Args:
        factory: a `torch.optim` class, or a `functools.partial` of one.
        parameters: what it updates.

    Raises:
        UsageError: if its options are refused, or it needs several losses a step (LBFGS).
    """
    cls = getattr(factory, "func", factory)
    options = {"fused": True} if "fused" in inspect.signature(cls).parameters else {}
    options |= {
        k: v for k, v in getattr(factory, "keywords", {}).items() if k in ("fused", "foreach") and v is not None
    }
    if options.get("foreach"):
        options.pop("fused", None)
    try:
        optimizer = factory(parameters, **options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"can't make the optimizer {getattr(cls, '__name__', cls)}: {error}") from error
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(
            "LBFGS evaluates the loss several times a step, which stochastic gradients do not allow: use Adam"
        )
    return optimizer


class Updates:
    """Steps of an optimizer from lists of gradients.

    Fused Adam and AdamW are one call of torch's kernel on lists made once; `Optimizer.step` makes them anew each time.
    All others take their usual `step`.

    Args:
        optimizer: an optimizer of one parameter group or several.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._lists: tuple[list[Tensor], ...] | None = None
        self._parameters: list[nn.Parameter] = []

    def apply(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """One step with these gradients; parameters that are not named keep their values."""
        if self._lists is not None and len(parameters) == len(self._parameters):
            self._adam(gradients)
            return
        self.optimizer.zero_grad(set_to_none=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if _is_plain_adam(self.optimizer) and len(parameters) == len(self.optimizer.param_groups[0]["params"]):
            self._remember(parameters)

    def _remember(self, parameters: Sequence[nn.Parameter]) -> None:
        """The lists that the fused kernel takes; all parameters count their steps in one tensor from now on."""
        state = [self.optimizer.state[p] for p in parameters]
        for entry in state:
            entry["step"] = state[0]["step"]
        names = ("exp_avg", "exp_avg_sq")
        self._lists = ([p.detach() for p in parameters], *([entry[name] for entry in state] for name in names))
        self._parameters = list(parameters)

    def _adam(self, gradients: Sequence[Tensor]) -> None:
        assert self._lists is not None
        group: dict[str, Any] = self.optimizer.param_groups[0]
        step = self.optimizer.state[self._parameters[0]]["step"]
        step += 1
        kernel = torch._fused_adamw_ if _is_decoupled(self.optimizer) else torch._fused_adam_
        values, averages, squares = self._lists
        kernel(
            values,
            list(gradients),
            averages,
            squares,
            [],
            [step] * len(values),
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=group["maximize"],
        )


def _is_plain_adam(optimizer: Optimizer) -> bool:
    """Whether one call of the fused kernel is all that `step` would do."""
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1:
        return False
    group = optimizer.param_groups[0]
    hooked = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    one_type = len({(p.device, p.dtype) for p in group["params"]}) == 1
    plain = not (group["amsgrad"] or group["differentiable"] or isinstance(group["lr"], Tensor))
    return bool(group["fused"]) and plain and one_type and not hooked


def _is_decoupled(optimizer: Optimizer) -> bool:
    return bool(optimizer.param_groups[0].get("decoupled_weight_decay", isinstance(optimizer, AdamW)))
