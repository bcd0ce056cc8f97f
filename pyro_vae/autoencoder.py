"""What all autoencoders have in common: two Pyro programs in one module, and what it takes to make it again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.errors import UsageError
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import Conditioned, build, conditioned
from pyro_vae.shapes import Shapes

Shape = tuple[int, ...]

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_counter = count()


class Autoencoder(nn.Module, ABC):
    """A latent variable model with an amortised guide, as two Pyro programs of one module.

    `fit`, `log_marginal`, the tasks and the command take any of them: they run the programs and look at their sites.
    Both programs have one plate `"data"` at dimension -1, the model observes the site `"x"`, and all other sites of the
    model are drawn by the guide, unless an input gives them. Both take `x` and the same further inputs by name (never
    `context`, which Pyro's handlers claim). Each begins with `self.register()`.

    A subclass is final. It keeps in `arguments` what it was made with, so that a run directory can make it again.
    """

    shapes: Shapes
    """The sizes; `latent` is the number of all continuous latent dimensions."""
    arguments: dict[str, Any]
    """What the class was called with, by name; `event_shape` among it."""
    likelihood: Likelihood
    """p(x|z): what tells which data are allowed."""

    @abstractmethod
    def model(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of p(x, z) for data `[B, *event]`."""

    @abstractmethod
    def guide(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of q(z|x) for data `[B, *event]`."""

    @property
    def can_start_at_mean(self) -> bool:
        """Whether `start_at` works for these parts."""
        return False

    def start_at(self, mean: Tensor, std: Tensor) -> None:
        """Start the decoder at the training data's mean per element.

        Args:
            mean: mean of the training data, `[*event]`.
            std: their standard deviation, `[*event]`.

        Raises:
            UsageError: if the likelihood or the decoder does not know how.
        """
        decoder: Any = self.decoder
        device = next(decoder.parameters()).device
        decoder.set_output_bias(self.likelihood.initial_params(mean, std).to(device))

    @property
    def start_count(self) -> int:
        """How many rows of training data `start_prior` wants; 0 for none."""
        return 0

    def start_prior(self, x: Tensor) -> None:
        """Let the prior take its start from data, `[start_count, *event]`."""

    def register(self) -> None:
        """Tell `pyro.infer.SVI` which parameters to train, under a name no other module has.

        Only SVI reads Pyro's global parameter store (it listens by a trace of parameters alone); our own path does
        without it, and one name for two modules would leave the second untrained.
        """
        if any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK):
            if self not in _names:
                _names[self] = f"{type(self).__name__.lower()}{next(_counter)}"
            pyro.module(_names[self], self)


class Conditional(Autoencoder):
    """An autoencoder that may be conditioned on a context c, each of its programs with or without it.

    `shapes.context` is the shape of one datum's c, None where there is none; `arguments["conditions"]` names the
    programs, `"decoder"` and `"guide"`, whose networks take it. (Which prior does, says its class.)
    """

    def _network(self, role: str, factory: Callable[[Shape, Shape], Any], in_shape: Shape, out_shape: Shape) -> Any:
        """A network of a role, joined with the context where that takes it."""
        if self.shapes.context is None or role not in self.arguments["conditions"]:
            return build(factory, in_shape, out_shape)
        return conditioned(factory, in_shape, out_shape, self.shapes.context)

    def _run(self, role: str, network: Any, x: Tensor, context: Tensor | None) -> Tensor:
        """The network's output, joined with the context where it takes one."""
        if not isinstance(network, Conditioned):
            return network(x)
        if context is None:
            raise UsageError(
                f"the {role} is conditioned on a context of shape {list(self.shapes.context or ())}: give context=..., "
                f"or leave {role!r} out of the {type(self).__name__}'s `conditions`"
            )
        return network(x, context)

    def _context(self, context: Tensor | None) -> Tensor | None:
        """The context in the weights' precision; refused where it does not fit."""
        if context is None:
            return None
        shape, name = self.shapes.context, type(self).__name__
        if shape is None:
            raise UsageError(f"this {name} takes no context: make it with {name}(..., context=shape)")
        if tuple(context.shape[context.dim() - len(shape) :]) != shape:
            raise UsageError(f"context: expected shape [..., {', '.join(map(str, shape))}], got {list(context.shape)}")
        return context.to(next(self.parameters()).dtype)


def checked_conditions(conditions: Sequence[str]) -> list[str]:
    """Which programs take the context, as a list.

    Raises:
        UsageError: for a name of neither.
    """
    unknown = [name for name in conditions if name not in ("decoder", "guide")]
    if unknown or isinstance(conditions, str):
        raise UsageError(f"conditions: expected some of 'decoder' and 'guide', got {conditions!r}")
    return list(conditions)
