"""HierarchicalVAE: latent variables in layers, each drawn given the one above, composed into two Pyro programs."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.arguments.values import factory, shape_of, whole
from pyro_vae.autoencoders.base import Conditional, checked_conditions, start_near_prior
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, FromShapes, network_factory
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.shapes import Shapes

Factory = Callable[[tuple[int, ...], tuple[int, ...]], FromShapes]


class HierarchicalVAE(Conditional):
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

    All normals have independent dimensions; networks give them a mean and a log standard deviation, `[2, latent]`. Both
    programs have one plate `"data"` (dimension -1) and latent sites `"z1"` to `"zL"`; the model observes `"x"`. A prior
    that encodes its own inputs (`VampPrior`) takes them up through the means of the lower layers.

    With a `context` it is conditional, as `VAE` is: both programs take c as well, and all networks of the model, of the
    guide, or of both are given it, as `conditions` says; the prior by its class.

    The model of Burda et al., 784-200-200-100-100-100-50, has tanh networks with `hidden=(200, 200)` for encoder and
    decoder, and with `hidden=(100, 100)` for the upper ones.

    Args:
        event_shape: shape of one datum.
        latent_dims: dimensions of each layer, from z1 up; at least two layers.
        prior: p(zL), called with `Shapes`, whose `latent` is that of the top.
        likelihood: p(x|z1), called with `Shapes`, whose `latent` is that of z1.
        encoder: network from x, called with `(event_shape, (2, latent_dims[0]))`.
        decoder: network from z1, called with `((latent_dims[0],), likelihood.param_shape)`.
        upper_encoder: network from each layer to the next higher one.
        upper_decoder: network from each layer to the next lower one. Tanh units in the upper networks bound what a code
            far out does to the layer it meets; with SiLU a long training can diverge through that feedback.
        ladder: whether the guide merges the pass up with the model's pass down.
        ladder_width: units of d between two layers; only a ladder has them. Its encoders are called with
            `(shape of d below, (2 * latent + ladder_width,))`, the top's without the width.
        context: shape of one datum's context c, e.g. `(10,)` for a one-hot label; None for none.
        conditions: whose networks take c: the decoders', the guide's.
        standardize: whether the networks work on standardised data (see `Autoencoder`); for real data.

    Raises:
        UsageError: if there are fewer than two layers, a size is not positive, or a part can't be made with the sizes.

    References:
        Burda et al. 2016, Importance weighted autoencoders, section 5. Sonderby et al. 2016, Ladder variational
        autoencoders. Rezende et al. 2014, Stochastic backpropagation and approximate inference.

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
    ) -> None:
        super().__init__()
        event, dims = shape_of("event_shape", event_shape), shape_of("latent_dims", latent_dims)
        if len(dims) < 2:
            raise UsageError(f"latent_dims: expected two layers or more, got {dims}: for one take VAE(latent_dim=...)")
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
        }
        self.shapes, self.latent_dims, self.ladder = Shapes(event, sum(dims), given), dims, ladder
        self.layers = nn.ModuleList(DiagonalNormal(Shapes(event, size)) for size in dims)
        self.prior, self.likelihood = prior(Shapes(event, dims[-1], given)), likelihood(Shapes(event, dims[0]))
        self._standardize(standardize)
        self.encoders = self._make_encoders(encoder, upper_encoder, ladder_width)
        self.decoder = self._network("decoder", decoder, (dims[0],), self.likelihood.param_shape)
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
            for index in reversed(range(len(self.layers) - 1)):
                z = pyro.sample(f"z{index + 1}", self._normal(index, self._below(index, z, c)))
            pyro.sample("x", self._of_data(self._run("decoder", self.decoder, z, c), mask), obs=x)
        return z

    def guide(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """The Pyro program of q(z|x), or of q(z|x, c); arguments as for `model`. The result is the layer drawn last."""
        self.register()
        x, c = self._input(x, mask), self._context(c)
        with pyro.plate("data", x.shape[0], dim=-1):
            return self._down_the_ladder(x, c) if self.ladder else self._up(x, c)

    def amortize(self, x: Tensor) -> dist.TorchDistribution:
        """q(zL|x), or in the guide that draws its way up q(zL|means of the layers below): `[*leading]`, `(latent,)`."""
        x = self._input(x, None)
        if self.ladder:
            return self._normal(-1, self._estimates(x, None)[-1])
        *lower, top = self.encoders
        for encoder in lower:
            x = self._run("guide", encoder, x, None).select(-2, 0)
        return self._normal(-1, self._run("guide", top, x, None))

    def extra_repr(self) -> str:
        """The sizes."""
        return f"event_shape={self.shapes.event}, latent_dims={self.latent_dims}, ladder={self.ladder}"

    def _make_encoders(self, encoder: Factory, upper_encoder: Factory, width: int) -> nn.ModuleList:
        """One network a layer, from what is below it to its normal's parameters, and to d in a ladder."""
        *lower, top = self.latent_dims
        if self.ladder:
            inputs = [self.likelihood.input_shape, *[(width,)] * len(lower)]
            outputs: list[tuple[int, ...]] = [*((2 * size + width,) for size in lower), (2 * top,)]
        else:
            inputs = [self.likelihood.input_shape, *((size,) for size in lower)]
            outputs = [(2, size) for size in self.latent_dims]
        made = zip([encoder, *[upper_encoder] * len(lower)], inputs, outputs, strict=True)
        encoders = [self._network("guide", *network) for network in made]
        for network, guide, shape in zip(encoders, self.layers, outputs, strict=True):
            start_near_prior(network, guide, prod(shape))  # pyright: ignore[reportArgumentType]
        return nn.ModuleList(encoders)

    def _below(self, index: int, z: Tensor, c: Tensor | None) -> Tensor:
        """What the model says of a layer, given the one above: mean and log standard deviation."""
        return self._run("decoder", self.upper_decoders[index], z, c)

    def _up(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Draw each layer given the one below."""
        below = x
        for index, encoder in enumerate(self.encoders):
            below = pyro.sample(f"z{index + 1}", self._normal(index, self._run("guide", encoder, below, c)))
        return below

    def _down_the_ladder(self, x: Tensor, c: Tensor | None) -> Tensor:
        """Draw each layer given the one above and what came up from the data."""
        *lower, top = self._estimates(x, c)
        z = pyro.sample(f"z{len(self.layers)}", self._normal(-1, top))
        for index in reversed(range(len(lower))):
            merged = _merged(lower[index], self._below(index, z, c))
            z = pyro.sample(f"z{index + 1}", self._normal(index, merged))
        return z

    def _estimates(self, x: Tensor, c: Tensor | None) -> list[Tensor]:
        """What the data say of each layer: mean and log standard deviation, `[*leading, 2, latent]`."""
        found, below = [], x
        for encoder, size in zip(self.encoders, self.latent_dims, strict=True):
            out = self._run("guide", encoder, below, c)
            found.append(out[..., : 2 * size].unflatten(-1, (2, size)))
            below = out[..., 2 * size :]
        return found

    def _normal(self, index: int, params: Tensor) -> dist.TorchDistribution:
        """The distribution of a layer, from its parameters `[*leading, 2, latent]`."""
        layer: Any = self.layers[index]
        return layer.distribution(params)


def _merged(estimate: Tensor, above: Tensor) -> Tensor:
    """The product of two normals by mean and log standard deviation, `[*leading, 2, latent]`.

    In logarithms, so that a standard deviation that over- or underflows does not end in 0 / 0.
    """
    mean, log_scale = estimate.unbind(-2)
    mean_above, log_scale_above = above.unbind(-2)
    share = torch.sigmoid(2 * (log_scale_above - log_scale))
    merged_log_scale = -torch.logaddexp(-2 * log_scale, -2 * log_scale_above) / 2
    return torch.stack([mean_above + share * (mean - mean_above), merged_log_scale], -2)
