"""VAE: a prior, a likelihood, a guide and two networks, composed into two Pyro programs."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import choice, factory, shape_of, whole
from pyro_vae.autoencoders.base import Conditional, checked_conditions, start_near_prior
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, Guide
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, FromShapes, joining, network_factory
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.process.isolation import in_any_mode
from pyro_vae.shapes import Shapes

Gaps = Literal["zero", "mask", "learned"]
"""What an encoder gets of data with gaps; see `VAE`."""


class VAE(Conditional):
    r"""A variational autoencoder as a pair of Pyro programs, `model` for p(x, z) and `guide` for q(z|x).

    .. math:: z \sim p(z), \quad x \sim p(x | \mathrm{decoder}(z)); \qquad q(z | x) = q(z | \mathrm{encoder}(x))

    With a `context` it is conditional (Sohn et al. 2015): both programs take c as well, and what depends on it is
    chosen for each part: the decoder and the guide by `conditions`, the prior by its class (`ConditionalNormal`).

    .. math:: z \sim p(z|c), \quad x \sim p(x | \mathrm{decoder}(z, c)); \qquad q(z|x,c) = q(z | \mathrm{encoder}(x, c))

    Both have one plate `"data"` (dimension -1) and one latent site `"z"`; the model observes `"x"`. Each part is
    a class, or a `functools.partial` of one, called with the sizes.

    Args:
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        prior: p(z), called with `Shapes`.
        likelihood: p(x|z), called with `Shapes`.
        guide: q(z|x), called with `Shapes`.
        encoder: network, called with `(likelihood.input_shape, guide.param_shape)`, for most likelihoods the event
            shape; any torch module built so will do.
        decoder: network, called with `((latent_dim,), likelihood.param_shape)`.
        context: shape of one datum's context c, e.g. `(10,)` for a one-hot label; None for none. A network that takes c
            is called with the shape of its input joined with c (`Network.joined_shape`).
        conditions: which of decoder and guide take c; each goes without it where it is left out.
        standardize: whether the networks work on standardised data (see `Autoencoder`); for real data.
        gaps: what the encoder gets where the mask says that an element was not observed: `"zero"`, which with
            `standardize` is the mean (for a likelihood whose support has no 0, another value of it); `"mask"`, the same
            with the mask as further inputs, 1 where observed, so that it can tell a gap from a value; or `"learned"`, a
            parameter for each element, which starts at that of `"zero"`. The model is the same in all three.

    Raises:
        UsageError: if a size is not positive, or a part can't be made with these sizes.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes. Rezende et al. 2014. Sohn et al. 2015, Learning
        structured output representation using deep conditional generative models.

    Example:
        >>> vae = VAE((8, 8), latent_dim=2, likelihood=Bernoulli)
        >>> x = torch.zeros(5, 8, 8)
        >>> vae.encode(x).sample().shape, vae.decode(torch.zeros(3, 5, 2)).log_prob(x).shape
        (torch.Size([5, 2]), torch.Size([3, 5]))
    """

    has_one_code = True
    code_site = "z"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        latent_dim: int = 20,
        prior: Callable[[Shapes], Prior] = StandardNormal,
        likelihood: Callable[[Shapes], Likelihood] = Bernoulli,
        guide: Callable[[Shapes], Guide] = DiagonalNormal,
        encoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        decoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        context: tuple[int, ...] | None = None,
        conditions: Sequence[Literal["decoder", "guide"]] = ("decoder", "guide"),
        standardize: bool = False,
        gaps: Gaps = "zero",
    ) -> None:
        super().__init__()
        event_shape, latent_dim = shape_of("event_shape", event_shape), whole("latent_dim", latent_dim, 1)
        context = None if context is None else shape_of("context", context, optional=True)
        prior, likelihood = factory("prior", prior, Prior), factory("likelihood", likelihood, Likelihood)
        guide = factory("guide", guide, Guide)
        encoder, decoder = network_factory("encoder", encoder), network_factory("decoder", decoder)
        choice("gaps", gaps, get_args(Gaps))
        self.shapes = Shapes(event_shape, latent_dim, context)
        self.arguments: dict[str, Any] = {
            "event_shape": event_shape,
            "latent_dim": latent_dim,
            "prior": prior,
            "likelihood": likelihood,
            "guide": guide,
            "encoder": encoder,
            "decoder": decoder,
            "context": self.shapes.context,
            "conditions": checked_conditions(conditions),
            "standardize": standardize,
            "gaps": gaps,
        }
        self.prior = prior(self.shapes)
        self.likelihood = likelihood(self.shapes)
        self.posterior = guide(self.shapes)
        self._standardize(standardize)
        self.encoder = self._network("guide", encoder, self._input_shape(encoder), self.posterior.param_shape)
        start_near_prior(self.encoder, self.posterior)
        self.decoder = self._network("decoder", decoder, (latent_dim,), self.likelihood.param_shape)

    def model(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The Pyro program of p(x, z), or of p(x, z|c), with `"x"` observed.

        Args:
            x: data `[B, *event]`.
            mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.
            c: the context, `[B, *context]`, of a conditional VAE.

        Returns:
            The code z, `[*particles, B, latent]`.

        Raises:
            UsageError: if a context is missing, of another shape, or not expected.
        """
        self.register()
        x, c = self._tensor(x, mask), self._context(c)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior_distribution(c))
            pyro.sample("x", self._of_data(self._run("decoder", self.decoder, z, c), mask), obs=x)
        return z

    def guide(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The Pyro program of q(z|x), or of q(z|x, c); arguments and result as for `model`."""
        self.register()
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("z", self.encode(x, mask, c))

    def encode(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """q(z|x): batch shape `[*leading]`, event shape `(latent,)`, for `x` of shape `[*leading, *event]`.

        Args:
            x: data.
            mask: True where an element of `x` is observed; None where all are.
            c: the context, `[*leading, *context]`, where the guide takes one.
        """
        return self.posterior.distribution(self.guide_params(x, mask, c))

    @in_any_mode
    def guide_params(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The variational parameters of q(z|x), `[*leading, *guide.param_shape]`; arguments as for `encode`.

        They are the encoder's output, refined by guides that do so (`SemiAmortized`).
        """
        c = self._context(c)
        params = self._run("guide", self.encoder, self._with_gaps(x, mask), c)
        return self.posterior.refine(params, lambda z: self._log_joint(z, self._tensor(x, mask), mask, c))

    def amortize(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """As `encode`, by the encoder alone, without the refinement that some guides do: what priors are built from."""
        return self.posterior.distribution(self._run("guide", self.encoder, self._with_gaps(x, mask), self._context(c)))

    def _input_shape(self, encoder: Any) -> tuple[int, ...]:
        """The shape of what the encoder gets of one datum, with the mask where it gets that; makes the learned fill."""
        shape, gaps = self.likelihood.input_shape, self.arguments["gaps"]
        if gaps == "learned":
            if shape != self.shapes.event:
                raise UsageError(
                    f"gaps='learned' needs an encoder that gets one number for each element, and "
                    f"{type(self.likelihood).__name__} gives it {list(shape)}: take 'mask'"
                )
            self.fill = nn.Parameter(torch.full(shape, float(self.likelihood.placeholder)))
        self._joining = joining(encoder)
        return self._joining.joined_shape(shape, self.shapes.event) if gaps == "mask" else shape

    def _with_gaps(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """What the encoder gets, `[*leading, *input_shape]`, with the gaps as `gaps` says."""
        inputs, gaps = self._input(x, mask), self.arguments["gaps"]
        if gaps == "learned" and mask is not None:
            return torch.where(mask, inputs, self.fill)
        if gaps != "mask":
            return inputs
        leading = inputs.shape[: inputs.dim() - len(self.likelihood.input_shape)]
        seen = inputs.new_ones((*leading, *self.shapes.event)) if mask is None else mask.expand_as(x).to(inputs.dtype)
        return self._joining.join(inputs, seen, self.likelihood.input_shape, self.shapes.event)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"event_shape={self.shapes.event}, latent_dim={self.shapes.latent}"

    def _log_joint(self, z: Tensor, x: Tensor, mask: Tensor | None, c: Tensor | None = None) -> Tensor:
        """Log p(x, z), `[*particles, *leading]`, nats: the objective that a refining guide ascends."""
        likelihood = self._of_data(self._run("decoder", self.decoder, z, c), mask)
        return likelihood.log_prob(x) + self.prior_distribution(c).log_prob(z)
