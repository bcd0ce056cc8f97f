"""Torch's optimizers: made fused where their class can be, and stepped from lists of gradients."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.adam import adam

from pyro_vae.arguments import values
from pyro_vae.errors import UsageError
from pyro_vae.process.torch_cache import ensure_cache
from pyro_vae.process.torch_internals import without_compiler

Factory = Callable[[Iterable[nn.Parameter]], Optimizer]


_ADAM_OPTIONS = "lr", "weight_decay", "eps", "amsgrad", "maximize", "capturable", "decoupled_weight_decay"


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
    return partial(without_compiler(cls), *getattr(factory, "args", ()), **keywords)


def _kernel(cls: Callable[..., Optimizer], asked: Mapping[str, Any]) -> dict[str, bool]:
    """`fused` where the class has it, unless an option of the user's needs another kernel.

    With momentum, torch's fused SGD fails if some parameters get their first gradient later than others.
    """
    other = any(asked.get(name) for name in ("foreach", "differentiable", "momentum")) or asked.get("fused") is not None
    return {"fused": True} if "fused" in inspect.signature(cls).parameters and not other else {}


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


class Update:
    """The steps of an optimizer, from lists of gradients.

    Those of `Adam` and `AdamW` are made by torch's function `adam` on lists of their state that are kept. Their method
    `step` makes the lists again each time, which for small networks takes as long as the update itself: a compiled
    training step of 100 data takes 1.05 times as long with it (docs/performance.md).

    Args:
        optimizer: as `make_optimizer` gives it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        fused = type(optimizer) in (Adam, AdamW) and bool(optimizer.defaults["fused"])
        self._is_adam = fused and len(optimizer.param_groups) == 1
        self._parameters: list[int] = []
        self._state: list[list[Tensor]] = []

    def __call__(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        """One step; parameters that are not listed keep their values and their state.

        Args:
            parameters: those that have a gradient in this step.
            gradients: theirs.

        Raises:
            UsageError: if an optimizer of torch fails with its options (`differentiable`, `SparseAdam`).
        """
        if self._is_adam and all(parameter in self.optimizer.state for parameter in parameters):
            self._adam(parameters, gradients)
        else:  # the first step of a parameter makes its state
            self._step(parameters, gradients)

    @torch.no_grad()
    def _adam(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        group = self.optimizer.param_groups[0]
        if (which := [id(parameter) for parameter in parameters]) != self._parameters:
            self._parameters, self._state = which, self._lists(parameters, group["amsgrad"])
        options = {name: group[name] for name in _ADAM_OPTIONS}
        beta1, beta2 = group["betas"]
        adam(list(parameters), list(gradients), *self._state, fused=True, beta1=beta1, beta2=beta2, **options)

    def _lists(self, parameters: Sequence[nn.Parameter], amsgrad: bool) -> list[list[Tensor]]:
        """The state in the order in which `adam` takes it; the largest second moments are AMSGrad's alone."""
        states = [self.optimizer.state[parameter] for parameter in parameters]
        largest = [state["max_exp_avg_sq"] for state in states] if amsgrad else []
        first, second, step = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        return [first, second, largest, step]

    def _step(self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        try:
            self.optimizer.step()
        except (RuntimeError, AssertionError, TypeError) as error:
            if isinstance(error, torch.OutOfMemoryError) or not type(self.optimizer).__module__.startswith("torch."):
                raise
            name = type(self.optimizer).__name__
            raise UsageError(f"{name} can't make a step as it is set: {error}") from error
        finally:
            for parameter in parameters:
                parameter.grad = None
