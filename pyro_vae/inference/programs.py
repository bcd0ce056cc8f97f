"""Helpers for any Pyro program: its modules, evaluation mode, inputs by name, sample sites."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, signature
from typing import Any

import torch
from pyro import poutine
from torch import nn

from pyro_vae.process.switches import checking

Program = Callable[..., Any]


@contextmanager
def evaluation_mode(*programs: Program) -> Iterator[None]:
    """Evaluate `programs`: no gradients, Pyro's validation off, the modules behind them in evaluation mode.

    Dropout is off and norms are fixed inside; every switch and every module's mode is restored on exit. Validation is
    off so that an overflow reaches our own message, not torch's on an argument's constraint.

    Args:
        *programs: modules, or their bound methods; other callables are left as they are.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2).train()
        >>> with evaluation_mode(vae.model, vae.guide):
        ...     vae.training
        False
        >>> vae.training
        True
    """
    modules = [module for owner in owners(*programs) for module in owner.modules()]
    training = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        with torch.no_grad(), checking(False):
            yield
    finally:
        for module, mode in training:
            module.training = mode


class Called:
    """A program whose last positional arguments are passed by keyword.

    So code that handles lists of tensors can call it.

    Args:
        program: the program.
        names: the names of its last arguments.
    """

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        self.program, self.names = program, tuple(names)
        self.__self__ = getattr(program, "__self__", program)  # the module it uses; see `owners`

    def __call__(self, *args: Any) -> Any:
        """The program's result."""
        first = len(args) - len(self.names)
        return self.program(*args[:first], **dict(zip(self.names, args[first:], strict=True)))


def takes(program: Program, name: str) -> bool:
    """Whether a program has an input of this name."""
    known = signature(program).parameters.values()
    return any(p.name == name or p.kind is Parameter.VAR_KEYWORD for p in known)


def owners(*programs: Program) -> list[nn.Module]:
    """The modules behind programs that are modules, or bound methods of one; each once."""
    found = [getattr(program, "__self__", program) for program in programs]
    return list(dict.fromkeys(owner for owner in found if isinstance(owner, nn.Module)))


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites of a trace by name, plates left out."""
    nodes: dict[str, Any] = dict(trace.nodes)
    return {n: s for n, s in nodes.items() if s["type"] == "sample" and not poutine.util.site_is_subsample(s)}
