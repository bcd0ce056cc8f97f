"""Adam's update as one call of torch's fused kernel, on lists that are kept from step to step.

torch's own `step` gathers the lists anew for each step and sorts them by device and type: on a fast CPU 6 % of a
training step of 100 data (docs/performance.md). The kernel, the state and so the bits are torch's.
"""

from functools import cache
from inspect import unwrap
from typing import Any

import torch
from torch.optim import Adam

from pyro_vae.process.torch_internals import fused_adam


@cache
def with_kept_lists(cls: type[Adam]) -> type[Adam]:
    """A class that makes the steps of `Adam` or `AdamW`, each by one call of the fused kernel where it can.

    It can where the parameters of each group are on the CPU, of one type, and all have a gradient and a state. Any
    other step is torch's own.
    """
    torchs: Any = unwrap(cls.step)  # without the hooks, which torch adds to a new `step` itself

    def step(self: Any, closure: Any = None) -> Any:
        groups = _groups(self) if closure is None else []
        if not groups:
            return torchs(self, closure)
        for group in groups:
            group.update()
        return None

    return type(cls.__name__, (cls,), {"step": torch.no_grad()(step), "__module__": cls.__module__})


class _Group:
    """A group of parameters with the tensors that belong to them, in the order of the kernel's arguments.

    The counters of all parameters become elements of one tensor, so that one addition counts a step; torch's `step`
    may still count them one by one.
    """

    def __init__(self, options: dict[str, Any], state: Any) -> None:
        self.options, self.parameters = options, list(options["params"])
        states = [state[p] for p in self.parameters]
        self.means, self.squares = ([each[name] for each in states] for name in ("exp_avg", "exp_avg_sq"))
        self.largest = [each["max_exp_avg_sq"] for each in states] if options["amsgrad"] else []
        self.counts = torch.stack([each["step"] for each in states])
        self.steps = list(self.counts.unbind())
        for each, count in zip(states, self.steps, strict=True):
            each["step"] = count

    def holds(self, options: dict[str, Any], state: Any) -> bool:
        """Whether these are still an optimizer's group and tensors: `load_state_dict` replaces all."""
        return options is self.options and state[self.parameters[0]].get("step") is self.steps[0]

    def update(self) -> None:
        """One step, of the gradients that the parameters have now."""
        self.counts.add_(1)
        fused_adam(
            self.options["decoupled_weight_decay"],
            self.parameters,
            [p.grad for p in self.parameters],
            self.means,
            self.squares,
            self.largest,
            self.steps,
            lr=self.options["lr"],
            beta1=self.options["betas"][0],
            beta2=self.options["betas"][1],
            weight_decay=self.options["weight_decay"],
            eps=self.options["eps"],
            amsgrad=self.options["amsgrad"],
            maximize=self.options["maximize"],
        )


def _groups(optimizer: Any) -> list[_Group]:
    """The groups of an optimizer; none where its step can't be made by them."""
    if any(p.grad is None for options in optimizer.param_groups for p in options["params"]):
        return []
    kept: list[_Group] = optimizer.__dict__.get("kept_groups", [])
    if len(kept) != len(optimizer.param_groups) or not all(
        group.holds(options, optimizer.state) for group, options in zip(kept, optimizer.param_groups, strict=True)
    ):
        able = all(_can(options, optimizer.state) for options in optimizer.param_groups)
        kept = [_Group(options, optimizer.state) for options in optimizer.param_groups] if able else []
        optimizer.kept_groups = kept
    return kept


def _can(options: dict[str, Any], state: Any) -> bool:
    """Whether the kernel can take all parameters of a group at once."""
    parameters = options["params"]
    plain = options["fused"] and not options["differentiable"] and not options["capturable"]
    kinds = {(x.device.type, x.dtype, x.layout) for p in parameters for x in (p, p.grad)}
    return bool(plain and len(kinds) == 1) and kinds.pop()[0] == "cpu" and all(state.get(p) for p in parameters)
