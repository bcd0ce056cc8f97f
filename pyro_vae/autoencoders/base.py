"""What all autoencoders have in common: two Pyro programs in one module, and what it takes to make it again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.arguments.calling import Called
from pyro_vae.arguments.checked import tensor
from pyro_vae.arguments.remedies import option, part
from pyro_vae.distributions.elements import Rescaled
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import Conditioned, build, conditioned
from pyro_vae.process.isolation import outside_inference_mode
from pyro_vae.shapes import Shapes

Shape = tuple[int, ...]


_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


_counter = count()


class Autoencoder(Called, nn.Module, ABC):
    r"""A latent variable model with an amortised guide, as two Pyro programs of one module.

    `fit`, `log_marginal`, the tasks and the command take any of them: they run the programs and look at their sites.
    Both programs have one plate `"data"` at dimension -1, the model observes the site `"x"`, and all other sites of the
    model are drawn by the guide, unless an input gives them. Both take `x` and the same further inputs by name (never
    `context`, which Pyro's handlers claim). Each begins with `self.register()`.

    A subclass is final. It keeps in `arguments` what it was made with, so that a run directory can make it again.

    With `standardize` the networks work in units of each element's mean m_d and standard deviation s_d over the
    training data (`standardize_by`, which `fit` calls), and everything else in the units of the data: the encoder is
    given u = (x - m) / s, the likelihood is that of u, and the density, the draws and the means are those of x.

    .. math:: p(x|z) = \prod_d \frac{1}{s_d} \, p_u\Big(\frac{x_d - m_d}{s_d} \Big| z\Big)
    """

    shapes: Shapes
    """The sizes; `latent` is the number of all continuous latent dimensions."""
    arguments: dict[str, Any]
    """What the class was called with, by name; `event_shape` among it."""
    likelihood: Likelihood
    """p(x|z): what tells which data are allowed."""
    classes: int = 0
    """How many values the class `"y"` has, a latent site that an input `y` gives; 0 where the model has no such site.
    A model with classes has a method `classify(x, mask)`, q(y|x)."""
    has_one_code: bool = False
    """Whether one latent site is the whole code: `encode(x)` is q(z|x), and the part `prior` makes p(z)."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):  # weights made in inference mode could never be trained
            cls.__init__ = outside_inference_mode(cls.__init__)

    @abstractmethod
    def model(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of p(x, z) for data `[B, *event]`."""

    @abstractmethod
    def guide(self, x: Tensor, **inputs: Any) -> Any:
        """The Pyro program of q(z|x) for data `[B, *event]`."""

    data_mean: Tensor | None
    """m, `[*event]`; None where nothing is standardised."""
    data_std: Tensor | None
    """s, `[*event]`."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("data_mean", None)
        self.register_buffer("data_std", None)

    def standardize_by(self, mean: Tensor, std: Tensor) -> None:
        """Set what the data are standardised by; an element that does not vary (std 0) is only shifted.

        Args:
            mean: mean of the training data, `[*event]`.
            std: their standard deviation, `[*event]`.

        Raises:
            UsageError: if this model was made without `standardize`.
        """
        if self.data_mean is None or self.data_std is None:
            raise UsageError(f"this {type(self).__name__} was made without standardize=True")
        self.data_mean.copy_(mean)
        self.data_std.copy_(torch.where(std > 0, std, 1.0))

    def prior_distribution(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """p(z), or p(z|c): what the model, the diagnostics and the tasks all take; of several layers, that of the top.

        Nobody else may call the module `prior`: what it is given for an encoder is decided here alone.

        Args:
            context: c, `[*leading, *context]`, where the prior depends on one.

        Returns:
            Batch shape `()`, or the context's leading dimensions.

        Raises:
            UsageError: if there is no `prior`, or it needs a context or an encoder that is not there.
        """
        prior: Any = getattr(self, "prior", None)
        if prior is None:
            raise UsageError(f"a {type(self).__name__} has no part called `prior`, so p(z) is known to its model alone")
        return prior(self.amortize, context)

    def amortize(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) by the encoder alone, without refinement or context: what a prior may be made of (`VampPrior`).

        Raises:
            UsageError: if there is no such map.
        """
        raise UsageError(
            f"the prior asks for q(z|x), and a {type(self).__name__} has no encoder of x alone: take another prior"
        )

    @property
    def can_start_at_mean(self) -> bool:
        """Whether the likelihood and the decoder know how to start at the mean of the data (`start_at`)."""
        decoder: Any = getattr(self, "decoder", None)
        knows = type(self.likelihood).initial_params is not Likelihood.initial_params
        return knows and decoder is not None and decoder.has_output_bias

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
        if self.data_mean is not None and self.data_std is not None:
            mean, std = (mean.to(device) - self.data_mean) / self.data_std, std.to(device) / self.data_std
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

    def _standardize(self, standardize: bool) -> None:
        """Make room for the mean and standard deviation of the data, 0 and 1 until they are known."""
        if not standardize:
            return
        if self.likelihood.data_support is not constraints.real or getattr(self.likelihood, "bounded", False):
            raise UsageError(
                f"{option('standardize', True)} is for real data and a likelihood without bounds (Normal, Laplace, "
                f"StudentT), got {type(self.likelihood).__name__}: take {part('likelihood', 'Normal')}, or leave it out"
            )
        self.register_buffer("data_mean", torch.zeros(self.shapes.event))
        self.register_buffer("data_std", torch.ones(self.shapes.event))

    def _elements(self, params: Tensor) -> dist.TorchDistribution:
        """p(x|z) of each element, in the units of the data, from the decoder's output."""
        elements = self.likelihood(params)
        if self.data_mean is None or self.data_std is None:
            return elements
        return Rescaled(elements, self.data_mean, self.data_std)

    def _event(self, elements: dist.TorchDistribution) -> dist.TorchDistribution:
        return elements.to_event(len(self.shapes.event))

    def _tensor(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` in the weights' precision, with a value of the support where it is not observed."""
        x = x if isinstance(x, Tensor) else tensor("x", x)
        x = x.to(next(self.parameters()).dtype)  # of any part: an encoder may have none
        return x if mask is None else torch.where(mask, x, self.likelihood.placeholder)

    def _input(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What an encoder is given: standardised data, with the placeholder where they are not observed."""
        if self.data_mean is None or self.data_std is None:
            return self._tensor(x, mask)
        x = (self._tensor(x, None) - self.data_mean) / self.data_std
        return x if mask is None else torch.where(mask, x, self.likelihood.placeholder)


def start_near_prior(encoder: nn.Module, guide: Guide, size: int | None = None) -> None:
    """Let the guide start about as wide as a standard normal prior, whatever the scale of the data is.

    Glorot's first weights make an encoder's output grow with the data, and a width is the exponential of it. The
    numbers that the guide names (`Guide.initial_params`) start as constants instead, where the network knows how.

    Args:
        encoder: the network.
        guide: the family that its output, or the beginning of it, are the parameters of.
        size: how many numbers the network gives; None for those of the guide.
    """
    start: Any = getattr(encoder, "start_output_at", None)
    if start is not None:
        values = guide.initial_params().flatten()
        rest = values.new_full(((size or len(values)) - len(values),), float("nan"))
        start(torch.cat([values, rest]))


class Conditional(Autoencoder):
    """An autoencoder that may be conditioned on a context c, each of its programs with or without it.

    `shapes.context` is the shape of one datum's c, None where there is none; `arguments["conditions"]` names the
    programs, `"decoder"` and `"guide"`, whose networks take it. (Which prior does, says its class.)
    """

    def prior_distribution(self, context: Tensor | None = None) -> dist.TorchDistribution:
        """As `Autoencoder.prior_distribution`; a context that does not fit is refused."""
        return super().prior_distribution(self._context(context))

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
