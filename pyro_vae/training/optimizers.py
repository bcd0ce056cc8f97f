"""Torch's optimizers: made fused where their class can be, and stepped from lists of gradients."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from pyro_vae.arguments import values
from pyro_vae.errors import UsageError
from pyro_vae.process.torch_cache import ensure_cache
from pyro_vae.process.torch_internals import without_compiler
from pyro_vae.schedules import Constant, Cosine, Schedule, value_at
from pyro_vae.training.fused_adam import with_kept_lists

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


def make_optimizer(factory: Callable[..., Optimizer], parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer, fused where its class can be: on a CPU that is four times the speed of a loop over tensors.

    Fused or not, torch rounds differently in the last bits. `partial(Adam, fused=False)` or `foreach=True` is kept.

    Args:
        factory: a `torch.optim` class, or a `functools.partial` of one.
        parameters: what it updates; gradients that they hold are dropped.

    Raises:
        UsageError: if its options are refused, or it needs several losses a step (LBFGS).
    """
    factory = values.factory("optimizer", factory, Optimizer)
    cls = getattr(factory, "func", factory)
    try:
        optimizer = _light(factory)(parameters, **_kernel(cls, getattr(factory, "keywords", {})))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"can't make the optimizer {getattr(cls, '__name__', cls)}: {error}") from error
    if isinstance(optimizer, torch.optim.LBFGS):
        raise UsageError(
            "LBFGS evaluates the loss several times a step, which stochastic gradients do not allow: use Adam"
        )
    optimizer.zero_grad(set_to_none=True)
    return optimizer


def _light(factory: Callable[..., Optimizer]) -> Callable[..., Optimizer]:
    """The factory, of a class that leaves torch's compiler alone where it is torch's and differentiates no step."""
    cls, keywords = getattr(factory, "func", factory), getattr(factory, "keywords", {})
    if not isinstance(cls, type) or not cls.__module__.startswith("torch.optim.") or keywords.get("differentiable"):
        ensure_cache()
        return factory
    light = without_compiler(cls)
    light = with_kept_lists(light) if cls in (Adam, AdamW) else light
    return partial(light, *getattr(factory, "args", ()), **keywords)


def _kernel(cls: Callable[..., Optimizer], asked: Mapping[str, Any]) -> dict[str, bool]:
    """`fused` where the class has it, unless an option of the user's needs another kernel.

    With momentum, torch's fused SGD fails if some parameters get their first gradient later than others.
    """
    other = any(asked.get(name) for name in ("foreach", "differentiable", "momentum")) or asked.get("fused") is not None
    return {"fused": True} if "fused" in inspect.signature(cls).parameters and not other else {}


def as_schedule(lr_schedule: Schedule | None) -> Schedule:
    """The argument `lr_schedule` of a training; None is a factor of 1.

    Raises:
        UsageError: if it is no schedule.
    """
    if lr_schedule is None:
        return Constant()
    if not callable(values.value_of("lr_schedule", lr_schedule, Schedule)):
        came = values.shown(lr_schedule)
        raise UsageError(f"lr_schedule: expected one of pyro_vae.schedules, such as Cosine(), got {came}")
    return lr_schedule


def factor_at(lr_schedule: Schedule, epoch: float, total: float) -> float:
    """The factor on the learning rates at a time in epochs.

    Raises:
        UsageError: if it is negative, which would climb the loss, or not finite.
    """
    factor = float(value_at(lr_schedule, epoch, total))
    if not 0 <= factor < inf:
        raise UsageError(f"lr_schedule: expected factors that are 0 or more, got {factor:g} at epoch {epoch:g}")
    return factor


def check_ends(lr_schedule: Schedule, total: float) -> Schedule:
    """The schedule, whose first and last factors are right: what can be said before a training begins.

    Raises:
        UsageError: see `factor_at`.
    """
    for epoch in (0, total):
        factor_at(lr_schedule, epoch, total)
    return lr_schedule


def falling_adam(lr: float) -> dict[str, Any]:
    """The arguments `optimizer` and `lr_schedule` of a training: Adam whose rate falls from `lr` to 0 by a cosine."""
    return {"optimizer": partial(Adam, lr=lr), "lr_schedule": Cosine()}


def clip(gradients: Sequence[Tensor], clip_norm: float | None, batch: int) -> bool:
    """Scale gradients of a sum over a batch so that the norm of their mean is at most `clip_norm`, in place.

    Args:
        gradients: of a loss summed over the batch.
        clip_norm: the largest norm of the gradient of the mean loss per datum; None for any.
        batch: number of data in the batch.

    Returns:
        False if they are not all finite; they are unchanged then.
    """
    if clip_norm is None:
        return isfinite(torch.stack([g.sum() for g in gradients]).sum().item())
    norm = nn.utils.get_total_norm(gradients).item()
    if norm > clip_norm * batch and isfinite(norm):
        for gradient in gradients:
            gradient.mul_(clip_norm * batch / norm)
    return isfinite(norm)


class Rates:
    """The learning rates of an optimizer's groups, to be multiplied by a factor that changes in training.

    Args:
        optimizer: its rates now are those of the factor 1.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base = [group["lr"] for group in optimizer.param_groups]

    def scale(self, factor: float) -> None:
        """Set the rates of the next step."""
        for group, lr in zip(self.optimizer.param_groups, self.base, strict=True):
            group["lr"] = lr * factor


def update(optimizer: Optimizer, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """One step of the optimizer; parameters that are not listed keep their values and their state.

    Args:
        optimizer: as `make_optimizer` gives it.
        parameters: those that have a gradient in this step.
        gradients: theirs.

    Raises:
        UsageError: if an optimizer of torch fails with its options (`differentiable`, `SparseAdam`).
    """
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    try:
        optimizer.step()
    except (RuntimeError, AssertionError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or not type(optimizer).__module__.startswith("torch."):
            raise
        raise UsageError(f"{type(optimizer).__name__} can't make a step as it is set: {error}") from error
    finally:
        for parameter in parameters:
            parameter.grad = None
