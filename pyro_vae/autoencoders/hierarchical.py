"""HierarchicalVAE: latent variables in layers, each drawn given the one above, composed into two Pyro programs."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.arguments.remedies import spoken
from pyro_vae.arguments.values import factory, shape_of, whole
from pyro_vae.autoencoders.base import checked_conditions
from pyro_vae.autoencoders.layered import Layered
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, FromShapes, network_factory
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.shapes import Shapes


class HierarchicalVAE(Layered):
    r"""A variational autoencoder with two or more layers of latent variables, z1 next to x and zL at the top.

    .. math:: z_L \sim p(z_L), \quad z_l \sim N(z_l; \mathrm{decoder}_l(z_{l+1})), \quad
        x \sim p(x | \mathrm{decoder}(z_1))

    The guide goes up from the data, each layer given the draw below (Burda et al. 2016):

    .. math:: q(z|x) = N(z_1; \mathrm{encoder}(x)) \prod_{l>1} N(z_l; \mathrm{encoder}_l(z_{l-1}))

    With `ladder` a pass of deterministic units d goes up instead, and the guide comes down with the model: it merges
    what the data say of a layer, (m, s), with what the layer above says, the model's own (mu, sigma), each by its
    precision (Sonderby et al. 2016). The top has no layer above and takes the estimate alone.

    .. math:: q(z_l | z_{l+1}, x) = N\left(z_l; \frac{m_l s_l^{-2} + \mu_l \sigma_l^{-2}}{s_l^{-2} + \sigma_l^{-2}},
        (s_l^{-2} + \sigma_l^{-2})^{-1}\right), \qquad (m_l, s_l, d_l) = \mathrm{encoder}_l(d_{l-1}), \quad d_0 = x

    With `top_down` the guide draws the top first, from the data alone, and each lower layer given the data and all
    layers above; with `skip` the data depend on all layers. Both together are the two layers of Tomczak & Welling 2018.

    .. math:: q(z|x) = N(z_L; \mathrm{encoder}_L(x)) \prod_{l<L} N(z_l; \mathrm{encoder}_l(x, z_{l+1}, \dots, z_L)),
        \quad x \sim p(x | \mathrm{decoder}(z_1, \dots, z_L))

    All normals have independent dimensions; networks give them a mean and a log standard deviation, `[2, latent]`. Both
    programs have one plate `"data"` (dimension -1) and latent sites `"z1"` to `"zL"`; the model observes `"x"`. A prior
    that encodes its own inputs (`VampPrior`) takes them up through the means of the lower layers, or in a guide that
    comes down through the top's encoder.

    With a `context` it is conditional, as `VAE` is: both programs take c as well, and all networks of the model, of the
    guide, or of both are given it, as `conditions` says; the prior by its class.

    The model of Burda et al., 784-200-200-100-100-100-50, has tanh networks with `hidden=(200, 200)` for encoder and
    decoder, and with `hidden=(100, 100)` for the upper ones.

    Args:
        event_shape: shape of one datum.
        latent_dims: dimensions of each layer, from z1 up; at least two layers.
        prior: p(zL), called with `Shapes`, whose `latent` is that of the top.
        likelihood: p(x|z1), called with `Shapes`, whose `latent` is that of z1.
        encoder: network from x, called with `(event_shape, (2, latent_dims[0]))`. With `top_down` every layer has one,
            which the lower layers give the codes above as a further input, as `Conditional` gives a context.
        decoder: network from z1, called with `((latent_dims[0],), likelihood.param_shape)`; with `skip` from the codes
            of all layers side by side, called with `((sum(latent_dims),), likelihood.param_shape)`.
        upper_encoder: network from each layer to the next higher one; `top_down` has none.
        upper_decoder: network from each layer to the next lower one. Tanh units in the upper networks bound what a code
            far out does to the layer it meets; with SiLU a long training can diverge through that feedback.
        ladder: whether the guide merges the pass up with the model's pass down.
        ladder_width: units of d between two layers; only a ladder has them. Its encoders are called with
            `(shape of d below, (2 * latent + ladder_width,))`, the top's without the width.
        top_down: whether the guide draws the top first, and the lower layers given x and all those above.
        skip: whether x depends on all layers, not on z1 alone.
        context: shape of one datum's context c, e.g. `(10,)` for a one-hot label; None for none.
        conditions: whose networks take c: the decoders', the guide's.
        standardize: whether the networks work on standardised data (see `Autoencoder`); for real data.

    Raises:
        UsageError: if there are fewer than two layers, a size is not positive, a part can't be made with the sizes, or
            a guide is to be both a ladder and `top_down`.

    References:
        Burda et al. 2016, Importance weighted autoencoders, section 5. Sonderby et al. 2016, Ladder variational
        autoencoders. Rezende et al. 2014, Stochastic backpropagation and approximate inference. Tomczak & Welling 2018,
        VAE with a VampPrior, section 3.

    Example:
        >>> vae = HierarchicalVAE((8, 8), latent_dims=(4, 2))
        >>> vae.guide(torch.zeros(5, 8, 8)).shape, vae.decode(torch.zeros(3, 5, 4)).event_shape
        (torch.Size([5, 2]), torch.Size([8, 8]))
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        latent_dims: tuple[int, ...] = (100, 50),
        prior: Callable[[Shapes], Prior] = StandardNormal,
        likelihood: Callable[[Shapes], Likelihood] = Bernoulli,
        encoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        decoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        upper_encoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        upper_decoder: Callable[[tuple[int, ...], tuple[int, ...]], FromShapes] = MLP,
        ladder: bool = False,
        ladder_width: int = 200,
        context: tuple[int, ...] | None = None,
        conditions: Sequence[Literal["decoder", "guide"]] = ("decoder", "guide"),
        standardize: bool = False,
        top_down: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__()
        event, dims = shape_of("event_shape", event_shape), shape_of("latent_dims", latent_dims)
        if len(dims) < 2:
            raise UsageError(f"latent_dims: expected two layers or more, got {dims}: for one take VAE(latent_dim=...)")
        if ladder and top_down:
            both = spoken("ladder=True and top_down=True", "--vae.ladder true and --vae.top_down true")
            raise UsageError(f"expected one guide, got {both}: leave one of them out")
        ladder_width = whole("ladder_width", ladder_width, 1)
        given = None if context is None else shape_of("context", context, optional=True)
        prior, likelihood = factory("prior", prior, Prior), factory("likelihood", likelihood, Likelihood)
        encoder, decoder = network_factory("encoder", encoder), network_factory("decoder", decoder)
        upper_encoder = network_factory("upper_encoder", upper_encoder)
        upper_decoder = network_factory("upper_decoder", upper_decoder)
        self.arguments: dict[str, Any] = {
            "event_shape": event,
            "latent_dims": dims,
            "prior": prior,
            "likelihood": likelihood,
            "encoder": encoder,
            "decoder": decoder,
            "upper_encoder": upper_encoder,
            "upper_decoder": upper_decoder,
            "ladder": ladder,
            "ladder_width": ladder_width,
            "context": given,
            "conditions": checked_conditions(conditions),
            "standardize": standardize,
            "top_down": top_down,
            "skip": skip,
        }
        self.shapes, self.latent_dims, self.ladder = Shapes(event, sum(dims), given), dims, ladder
        self.top_down, self.skip = top_down, skip
        self.layers = nn.ModuleList(DiagonalNormal(Shapes(event, size)) for size in dims)
        self.prior, self.likelihood = prior(Shapes(event, dims[-1], given)), likelihood(Shapes(event, self.decoded_dim))
        self._standardize(standardize)
        self.encoders = self._make_encoders(encoder, upper_encoder, ladder_width)
        self.decoder = self._network("decoder", decoder, (self.decoded_dim,), self.likelihood.param_shape)
        below = [self._network("decoder", upper_decoder, (above,), (2, size)) for size, above in pairwise(dims)]
        self.upper_decoders = nn.ModuleList(below)

    def model(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The Pyro program of p(x, z), or of p(x, z|c), with `"x"` observed.

        Args:
            x: data `[B, *event]`.
            mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.
            c: the context, `[B, *context]`, of a conditional one.

        Returns:
            The lowest layer z1, `[*particles, B, latent_dims[0]]`.

        Raises:
            UsageError: if a context is missing, of another shape, or not expected.
        """
        self.register()
        x, c = self._tensor(x, mask), self._context(c)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample(f"z{len(self.layers)}", self.prior_distribution(c))
            codes = [z]  # z1 first
            for index in reversed(range(len(self.layers) - 1)):
                z = pyro.sample(f"z{index + 1}", self._normal(index, self._below(index, z, c)))
                codes.insert(0, z)
            decoded = torch.cat(codes, -1) if self.skip else z
            pyro.sample("x", self._of_data(self._run("decoder", self.decoder, decoded, c), mask), obs=x)
        return z

    def guide(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The Pyro program of q(z|x), or of q(z|x, c); arguments as for `model`. The result is the layer drawn last."""
        self.register()
        x, c = self._input(x, mask), self._context(c)
        with pyro.plate("data", x.shape[0], dim=-1):
            return self._draw(x, c)

    def extra_repr(self) -> str:
        """The sizes."""
        return (
            f"event_shape={self.shapes.event}, latent_dims={self.latent_dims}, ladder={self.ladder}, "
            f"top_down={self.top_down}, skip={self.skip}"
        )

    @property
    def decoded_dim(self) -> int:
        """Dimensions of the code that `decode` takes: z1's, or with `skip` those of all layers, z1 first."""
        return sum(self.latent_dims) if self.skip else self.latent_dims[0]
