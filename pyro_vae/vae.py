"""VAE: a prior, a likelihood, a guide and two networks, composed into two Pyro programs."""

from collections.abc import Callable
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, Guide
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.networks import MLP, Network
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.shapes import Shapes

_names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
_counter = count()


class VAE(nn.Module):
    r"""A variational autoencoder as a pair of Pyro programs, `model` for p(x, z) and `guide` for q(z|x).

    .. math:: z \sim p(z), \quad x \sim p(x | \mathrm{decoder}(z)); \qquad q(z | x) = q(z | \mathrm{encoder}(x))

    Both have one plate `"data"` (dimension -1) and one latent site `"z"`; the model observes `"x"`. Each part is
    a class, or a `functools.partial` of one, called with the sizes.

    Args:
        event_shape: shape of one datum.
        latent_dim: number of latent dimensions.
        prior: p(z), called with `Shapes`.
        likelihood: p(x|z), called with `Shapes`.
        guide: q(z|x), called with `Shapes`.
        encoder: network, called with `(event_shape, guide.param_shape)`.
        decoder: network, called with `((latent_dim,), likelihood.param_shape)`.

    Raises:
        UsageError: if a size is not positive.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes. Rezende et al. 2014.

    Example:
        >>> vae = VAE((8, 8), latent_dim=2, likelihood=Bernoulli)
        >>> x = torch.zeros(5, 8, 8)
        >>> vae.encode(x).sample().shape, vae.decode(torch.zeros(3, 5, 2)).log_prob(x).shape
        (torch.Size([5, 2]), torch.Size([3, 5]))
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        latent_dim: int = 20,
        prior: Callable[[Shapes], Prior] = StandardNormal,
        likelihood: Callable[[Shapes], Likelihood] = Bernoulli,
        guide: Callable[[Shapes], Guide] = DiagonalNormal,
        encoder: Callable[[tuple[int, ...], tuple[int, ...]], Network] = MLP,
        decoder: Callable[[tuple[int, ...], tuple[int, ...]], Network] = MLP,
    ) -> None:
        super().__init__()
        self.shapes = Shapes(tuple(event_shape), latent_dim)
        if latent_dim < 1 or any(size < 1 for size in event_shape):
            raise UsageError(f"sizes must be positive, got event_shape={tuple(event_shape)}, latent_dim={latent_dim}")
        self.arguments: dict[str, Any] = {
            "event_shape": tuple(event_shape),
            "latent_dim": latent_dim,
            "prior": prior,
            "likelihood": likelihood,
            "guide": guide,
            "encoder": encoder,
            "decoder": decoder,
        }
        self.prior = prior(self.shapes)
        self.likelihood = likelihood(self.shapes)
        self.posterior = guide(self.shapes)
        self.encoder = encoder(self.shapes.event, self.posterior.param_shape)
        self.decoder = decoder((latent_dim,), self.likelihood.param_shape)

    def model(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The Pyro program of p(x, z), with `"x"` observed.

        Args:
            x: data `[B, *event]`.
            mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.

        Returns:
            The code z, `[*particles, B, latent]`.
        """
        self._register()
        x = self._tensor(x, mask)
        with pyro.plate("data", x.shape[0], dim=-1):
            z = pyro.sample("z", self.prior(self.amortize))
            elements = self.likelihood(self.decoder(z))
            pyro.sample("x", self._event(elements if mask is None else elements.mask(mask)), obs=x)
        return z

    def guide(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The Pyro program of q(z|x); arguments and result as for `model`."""
        self._register()
        with pyro.plate("data", x.shape[0], dim=-1):
            return pyro.sample("z", self.encode(x, mask))

    def encode(self, x: Tensor, mask: Tensor | None = None) -> dist.TorchDistribution:
        """q(z|x): batch shape `[*leading]`, event shape `(latent,)`, for `x` of shape `[*leading, *event]`."""
        x = self._tensor(x, mask)
        params = self.posterior.refine(self.encoder(x), lambda z: self._log_joint(z, x, mask))
        return self.posterior.distribution(params)

    def amortize(self, x: Tensor, mask: Tensor | None = None) -> dist.TorchDistribution:
        """As `encode`, by the encoder alone, without the refinement that some guides do: what priors are built from."""
        return self.posterior.distribution(self.encoder(self._tensor(x, mask)))

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x|z): batch shape `[*leading]`, event shape `event`, for `z` of shape `[*leading, latent]`."""
        return self._event(self.likelihood(self.decoder(z)))

    def start_at(self, mean: Tensor, std: Tensor) -> None:
        """Set the decoder's output bias so that p(x|z) starts at the training data's mean per element.

        Args:
            mean: mean of the training data, `[*event]`.
            std: their standard deviation, `[*event]`.

        Raises:
            UsageError: if the likelihood or the decoder does not know how.

        References:
            Burda et al. 2016, Importance weighted autoencoders, and its code.
        """
        device = next(self.decoder.parameters()).device
        self.decoder.set_output_bias(self.likelihood.initial_params(mean, std).to(device))

    def extra_repr(self) -> str:
        """The sizes."""
        return f"event_shape={self.shapes.event}, latent_dim={self.shapes.latent}"

    def _event(self, elements: dist.TorchDistribution) -> dist.TorchDistribution:
        return elements.to_event(len(self.shapes.event))

    def _log_joint(self, z: Tensor, x: Tensor, mask: Tensor | None) -> Tensor:
        """Log p(x, z), `[*particles, *leading]`, nats: what a guide may climb that refines its parameters."""
        elements = self.likelihood(self.decoder(z))
        log_likelihood = self._event(elements if mask is None else elements.mask(mask)).log_prob(x)
        return log_likelihood + self.prior(self.amortize).log_prob(z)

    def _tensor(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`x` in the weights' precision, with a value of the support where it is not observed."""
        x = x.to(next(self.encoder.parameters()).dtype)
        return x if mask is None else torch.where(mask, x, self.likelihood.placeholder)

    def _register(self) -> None:
        """Tell `pyro.infer.SVI` which parameters to train, under a name no other VAE has.

        Only SVI reads Pyro's global parameter store (it listens by a trace of parameters alone); our own path does
        without it, and one name for two VAEs would leave the second untrained.
        """
        if any(isinstance(handler, TraceMessenger) and handler.param_only for handler in _PYRO_STACK):
            if self not in _names:
                _names[self] = f"vae{next(_counter)}"
            pyro.module(_names[self], self)
