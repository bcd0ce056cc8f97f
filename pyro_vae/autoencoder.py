"""What all autoencoders have in common: two Pyro programs in one module, and what it takes to make it again."""

from abc import ABC, abstractmethod
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.likelihoods import Likelihood
from pyro_vae.shapes import Shapes

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
