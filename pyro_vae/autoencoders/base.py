"""What all autoencoders have in common: two Pyro programs in one module, and the arguments to make it again."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
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
from pyro_vae.process.pyro_internals import handlers
from pyro_vae.shapes import Shapes

Shape = tuple[int, ...]


_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


_counter = count()


class Autoencoder(Called, nn.Module, ABC):
    r"""A latent variable model with an amortised guide, as two Pyro programs of one module.

    `fit`, `log_marginal`, the tasks and the command take any of them: they run the programs and read their sites. Both
    programs have one plate `"data"` at dimension -1, the model observes the site `"x"`, and the guide draws all other
    sites of the model, unless an input gives them. Both take `x` and the same further inputs by name. Each begins with
    `self.register()`.

    Names of what a model is conditioned on: `c` is the value, a tensor, wherever one is passed: to the programs, to
    methods, to functions such as `sample`, and in `Dataset.inputs`. `context` is the word for it. It names arguments
    that say which context there is: its shape (`VAE(context=(10,))`, `Shapes.context`) or where it comes from
    (`load_data(context="labels")`, `--context`); and arrays in files (`train_context` of an `.npz`). A program has no
    argument `context`, since Pyro's handlers have one of that name.

    A subclass is final. It keeps its constructor's arguments in `arguments`, so that a run directory can make it again.

    With `standardize` the networks work in units of each element's mean m_d and standard deviation s_d over the
    training data (`standardize_by`, which `fit` calls), and everything else in the units of the data: the encoder gets
    u = (x - m) / s, the likelihood is that of u, and densities, draws and means are those of x.

    .. math:: p(x|z) = \prod_d \frac{1}{s_d} \, p_u\Big(\frac{x_d - m_d}{s_d} \Big| z\Big)
    """

    shapes: Shapes
    """The sizes; `latent` is the number of all continuous latent dimensions."""
    arguments: dict[str, Any]
    """The constructor's arguments by name, `event_shape` among them."""
    likelihood: Likelihood
    """p(x|z); it says which data are allowed."""
    classes: int = 0
    """How many values the class `"y"` has, a latent site that an input `y` gives; 0 if the model has no such site.
    A model with classes has a method `classify(x, mask)`, q(y|x)."""
    has_one_code: bool = False
    """Whether one latent site is the whole code, e.g. z or k: `encode(x)` is its q, the part `prior` its p."""
    code_site: str | None = None
    """The name of that site where it is continuous: `encode`, `decode`, `guide_params` and `posterior` are of it."""
    posterior: Guide
    """The family of q(z|x); only with a `code_site`."""
    missing_site: str | None = None
    """The latent site of the missing elements of x, `[*event]`, of a model that draws them; what it
    has at observed elements means nothing. None for a model that integrates them out."""

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
        """Set the mean and scale of the standardisation; an element that does not vary (std 0) is only shifted.

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

    def prior_distribution(self, c: Tensor | None = None) -> dist.TorchDistribution:
        """p(z), or p(z|c), for the model, the diagnostics and the tasks; of several layers, that of the top.

        No other code calls the module `prior`, so that all pass it the same encoder.

        Args:
            c: the context, `[*leading, *context]`, where the prior depends on one.

        Returns:
            Batch shape `()`, or the context's leading dimensions.

        Raises:
            UsageError: if there is no `prior`, or it needs a context or an encoder that is not there.
        """
        prior: Any = getattr(self, "prior", None)
        if prior is None:
            raise UsageError(f"a {type(self).__name__} has no part called `prior`, so p(z) is known to its model alone")
        return prior(self.amortize, c)

    def encode(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """The guide's distribution of the code, e.g. q(z|x); arguments and shapes as the class says.

        Raises:
            UsageError: if the guide has more than one site.
        """
        raise UsageError(f"the guide of a {type(self).__name__} has no single code to encode: run its guide")

    def decode(self, z: Tensor, c: Tensor | None = None) -> dist.TorchDistribution:
        """p(x|z); arguments and shapes as the class says.

        Raises:
            UsageError: if the class has no such map.
        """
        raise UsageError(f"a {type(self).__name__} has no decoder of a code alone: run its model")

    def guide_params(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The variational parameters of q(z|x), `[*leading, *posterior.param_shape]`; arguments as for `encode`.

        Raises:
            UsageError: if there is no `code_site`.
        """
        raise UsageError(f"a {type(self).__name__} has no variational parameters of one code z")

    def likelihood_params(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The decoder's output, `[*leading, *likelihood.param_shape]`, of which `decode` makes p(x|z); same arguments.

        With `standardize` these are those of the standardised data.

        Raises:
            UsageError: if the class has no such map.
        """
        raise UsageError(f"a {type(self).__name__} has no decoder of a code alone: run its model")

    def amortize(self, x: Tensor) -> dist.TorchDistribution:
        """q(z|x) by the encoder alone, without refinement or context; some priors use it (`VampPrior`).

        Raises:
            UsageError: if there is no such map.
        """
        raise UsageError(
            f"the prior asks for q(z|x), and a {type(self).__name__} has no encoder of x alone: take another prior"
        )

    @property
    def can_start_at_mean(self) -> bool:
        """Whether likelihood and decoder support `start_at`."""
        decoder: Any = getattr(self, "decoder", None)
        knows = type(self.likelihood).initial_params is not Likelihood.initial_params
        return knows and bool(getattr(decoder, "has_output_bias", False))

    def start_at(self, mean: Tensor, std: Tensor) -> None:
        """Start the decoder at the training data's mean per element.

        Args:
            mean: mean of the training data, `[*event]`.
            std: their standard deviation, `[*event]`.

        Raises:
            UsageError: if the likelihood or the decoder does not support it.
        """
        decoder: Any = self.decoder
        device = next(decoder.parameters()).device
        if self.data_mean is not None and self.data_std is not None:
            mean, std = (mean.to(device) - self.data_mean) / self.data_std, std.to(device) / self.data_std
        decoder.set_output_bias(self.likelihood.initial_params(mean, std).to(device))

    @property
    def start_count(self) -> int:
        """How many rows of training data `start_prior` needs; 0 for none."""
        return 0

    def start_prior(self, x: Tensor) -> None:
        """Initialise the prior from data, `[start_count, *event]`."""

    def register(self) -> None:
        """Register the parameters for `pyro.infer.SVI`, under a name that no other module has.

        Only SVI uses Pyro's global parameter store: it runs the programs in a trace of parameters only. `fit` does not
        need it. With one name for two modules, SVI would not train the second.
        """
        if any(isinstance(handler, TraceMessenger) and handler.param_only for handler in handlers()):
            if self not in _names:
                _names[self] = f"{type(self).__name__.lower()}{next(_counter)}"
            pyro.module(_names[self], self)

    def _standardize(self, standardize: bool) -> None:
        """Make buffers for the mean and standard deviation of the data, 0 and 1 until they are known."""
        if not standardize:
            return
        if self.likelihood.data_support is not constraints.real or getattr(self.likelihood, "bounded", False):
            raise UsageError(
                f"{option('standardize', True)} is for real data and a likelihood without bounds (Normal, Laplace, "
                f"StudentT), got {type(self.likelihood).__name__}: take {part('likelihood', 'Normal')}, or leave it out"
            )
        self.register_buffer("data_mean", torch.zeros(self.shapes.event))
        self.register_buffer("data_std", torch.ones(self.shapes.event))

    def _of_data(self, params: Tensor, mask: Tensor | None = None) -> dist.TorchDistribution:
        """p(x|z) in the units of the data, from the decoder's output; elements that the mask leaves out count 0."""
        elements = self.likelihood(params)
        if self.data_mean is not None and self.data_std is not None:
            elements = Rescaled(elements, self.data_mean, self.data_std)
        return (elements if mask is None else elements.mask(mask)).to_event(len(self.shapes.event))

    def _tensor(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` in the weights' precision, with a value of the support where it is not observed."""
        x = x if isinstance(x, Tensor) else tensor("x", x)
        x = x.to(next(self.parameters()).dtype)  # of any part: an encoder may have none
        return self.likelihood.filled(x, mask)

    def _input(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """The input of an encoder: standardised data, with the placeholder where they are not observed, as the
        likelihood gives them to encoders.
        """
        if self.data_mean is None or self.data_std is None:
            return self.likelihood.encoder_input(self._tensor(x, mask), mask)
        return self.likelihood.filled((self._tensor(x, None) - self.data_mean) / self.data_std, mask)


def start_near_prior(encoder: nn.Module, guide: Guide, size: int | None = None) -> None:
    """Make the guide start about as wide as a standard normal prior, for every scale of the data.

    With Glorot's initial weights an encoder's output grows with the data, and a width is its exponential. So the
    parameters in `Guide.initial_params` start as constants, if the network supports it.

    Args:
        encoder: the network.
        guide: the family whose parameters are the network's output, or its first elements.
        size: length of the network's output; None for that of the guide's parameters.
    """
    start: Any = getattr(encoder, "start_output_at", None)
    if start is not None:
        values = guide.initial_params().flatten()
        rest = values.new_full(((size or len(values)) - len(values),), float("nan"))
        start(torch.cat([values, rest]))


class Conditional(Autoencoder):
    """An autoencoder that may be conditioned on a context c, each of its programs with or without it.

    `shapes.context` is the shape of one datum's c, None without context; `arguments["conditions"]` names the
    programs, `"decoder"` and `"guide"`, whose networks take it. Whether the prior takes it depends on its class.
    """

    prior: Any
    """p(z), of several layers that of the top."""
    decoder: Any
    """The network that gives the likelihood's parameters."""

    def prior_distribution(self, c: Tensor | None = None) -> dist.TorchDistribution:
        """As `Autoencoder.prior_distribution`; a context that does not fit is refused."""
        return super().prior_distribution(self._context(c))

    def decode(self, z: Tensor, c: Tensor | None = None) -> dist.TorchDistribution:
        """p(x|z), of several layers given those that x depends on: batch shape `[*leading]`, event shape `event`.

        Args:
            z: codes, `[*leading, latent]`; of several layers those that the decoder takes, `[*leading, decoded_dim]`.
            c: the context, `[*leading, *context]` or fewer leading dimensions, where the decoder takes one.
        """
        return self._of_data(self.likelihood_params(z, c))

    def likelihood_params(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """The decoder's output, `[*leading, *likelihood.param_shape]`; arguments as for `decode`."""
        return self._run("decoder", self.decoder, z, self._context(c))

    @property
    def start_count(self) -> int:
        """How many rows of training data `start_prior` needs; 0 for none."""
        return getattr(self.prior, "start_count", 0)

    def start_prior(self, x: Tensor) -> None:
        """Initialise a prior that starts from data (`VampPrior`); `fit` calls this.

        Args:
            x: rows of the training data, `[start_count, *event]`.

        Raises:
            UsageError: if they do not fit the prior.
        """
        self.prior.start_from(x)

    def _network(self, role: str, factory: Callable[[Shape, Shape], Any], in_shape: Shape, out_shape: Shape) -> Any:
        """The network of a role, with the context as a further input if the role takes it."""
        if self.shapes.context is None or role not in self.arguments["conditions"]:
            return build(factory, in_shape, out_shape)
        return conditioned(factory, in_shape, out_shape, self.shapes.context)

    def _run(self, role: str, network: Any, x: Tensor, c: Tensor | None) -> Tensor:
        """The network's output, given the context if it takes one."""
        if not isinstance(network, Conditioned):
            return network(x)
        if c is None:
            raise UsageError(
                f"the {role} is conditioned on a context of shape {list(self.shapes.context or ())}: give c=..., "
                f"or leave {role!r} out of the {type(self).__name__}'s `conditions`"
            )
        return network(x, c)

    def _context(self, c: Tensor | None) -> Tensor | None:
        """The context in the weights' precision; refused where it does not fit."""
        if c is None:
            return None
        shape, name = self.shapes.context, type(self).__name__
        if shape is None:
            raise UsageError(f"this {name} takes no context: make it with {name}(..., context=shape)")
        if tuple(c.shape[c.dim() - len(shape) :]) != shape:
            raise UsageError(f"c: expected shape [..., {', '.join(map(str, shape))}], got {list(c.shape)}")
        return c.to(next(self.parameters()).dtype)


def checked_conditions(conditions: Sequence[str]) -> list[str]:
    """Which programs take the context, as a list.

    Raises:
        UsageError: for a name of neither.
    """
    unknown = [name for name in conditions if name not in ("decoder", "guide")]
    if unknown or isinstance(conditions, str):
        raise UsageError(f"conditions: expected some of 'decoder' and 'guide', got {conditions!r}")
    return list(conditions)
