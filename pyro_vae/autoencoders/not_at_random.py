"""`NotAtRandom`: a VAE whose missing elements are missing because of their values."""

from collections.abc import Callable
from functools import partial
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pyro_vae.arguments.values import factory, shape_of
from pyro_vae.autoencoders.base import Autoencoder
from pyro_vae.autoencoders.missingness import Missingness, SelfMasking
from pyro_vae.autoencoders.vae import VAE
from pyro_vae.distributions.elements import Either, Finite, Rescaled, finite_values, has_finite_values
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.shapes import Shapes

SITE = "x_missing"
"""The latent site of the missing elements."""


class NotAtRandom(Autoencoder):
    r"""An autoencoder, and a model of why elements are missing that depends on their values.

    .. math:: p(x_{obs}, mask) = \int p(z) \, p(x_{obs}|z) \int p(x_{mis}|z) \, p(mask|x) \, dx_{mis} \, dz

    What is missing is then a part of the observation: without it a VAE takes the observed values for typical ones
    (missing at random), and imputes too low where high values are missing. Both programs must be given a `mask`; with
    none they are those of the VAE inside, p(x) of complete data.

    The missing elements are summed out exactly where they have finitely many values (binary, grey levels) and the
    missingness is elementwise. Else they are a latent site `"x_missing"`, `[*event]`, which the guide draws from
    `p(x|z)`; so a log-weight is

    .. math:: \log w = \log p(x_{obs}|z) + \log p(mask|x_{obs}, x_{mis}) + \log p(z) - \log q(z|x_{obs})

    and `IWAE` is the bound of not-MIWAE. `log_marginal` estimates log p(x_obs, mask), `impute` draws from
    p(x_mis | x_obs, mask). What the data can say about values that are never seen rests on the assumed form of p(x|z)
    and p(mask|x): compare several.

    Args:
        event_shape: shape of one datum.
        vae: the autoencoder inside, with a `mask`: called with `event_shape`.
        missingness: p(mask|x), called with `Shapes`.

    Raises:
        UsageError: if a part can't be made with these sizes; if p(x|z) has no reparameterised draws and the missing
            elements can't be summed out.

    References:
        Ipsen, Mattei & Frellsen 2021, not-MIWAE: deep generative modelling with missing not at random data. Mattei &
        Frellsen 2019, MIWAE.

    Example:
        >>> from pyro_vae.likelihoods import Normal
        >>> vae = NotAtRandom((3,), partial(VAE, latent_dim=2, likelihood=Normal), SelfMasking)
        >>> sorted(poutine.trace(vae.guide).get_trace(torch.zeros(4, 3), torch.ones(4, 3) < 1).nodes)
        ['_INPUT', '_RETURN', 'data', 'x_missing', 'z']
    """

    def __init__(
        self,
        event_shape: tuple[int, ...],
        vae: Callable[[tuple[int, ...]], Autoencoder] = VAE,
        missingness: Callable[[Shapes], Missingness] = SelfMasking,
    ) -> None:
        nn.Module.__init__(self)  # the buffers of `Autoencoder` are those of the VAE inside
        event_shape = shape_of("event_shape", event_shape)
        vae, missingness = factory("vae", vae, Autoencoder), factory("missingness", missingness, Missingness)
        self.arguments: dict[str, Any] = {"event_shape": event_shape, "vae": vae, "missingness": missingness}
        self.vae = vae(event_shape)
        self.shapes = self.vae.shapes
        self.missingness = missingness(self.shapes)
        self.missing_site = None if self._sums() else SITE
        self.classes = self.vae.classes
        if self.missing_site is None:
            self.has_one_code, self.code_site = self.vae.has_one_code, self.vae.code_site

    @classmethod
    def around(cls, vae: Autoencoder, missingness: Callable[[Shapes], Missingness] = SelfMasking) -> Self:
        """The same around a copy of an autoencoder, e.g. one that was trained as if elements were missing at random.

        Args:
            vae: the autoencoder; left as it is.
            missingness: p(mask|x), called with `Shapes`.
        """
        arguments = dict(vae.arguments)
        made = cls(arguments.pop("event_shape"), partial(type(vae), **arguments), missingness)
        made.to(next(vae.parameters())).vae.load_state_dict(vae.state_dict())
        return made

    def model(self, x: Tensor, mask: Tensor | None = None, **inputs: Any) -> Any:
        """The Pyro program of p(x_obs, mask, z), with `"x"` and `"mask"` observed.

        Args:
            x: data `[B, *event]`.
            mask: True where an element of `x` is observed, broadcastable to `x`; None for the program of the VAE.
            **inputs: what the VAE's programs take besides, e.g. `c`.

        Returns:
            What the VAE's model returns.
        """
        self.register()
        if mask is None:
            return self.vae.model(x, **inputs)
        x = self._tensor(x, mask)
        with _Observing(self, x, mask.expand(x.shape)):
            return self.vae.model(x, **inputs)

    def guide(self, x: Tensor, mask: Tensor | None = None, **inputs: Any) -> Any:
        """The Pyro program of q(z|x_obs) p(x_mis|z); arguments as for `model`."""
        self.register()
        if mask is None or self.missing_site is None:
            return self.vae.guide(x, mask=mask, **inputs)
        with _Drawn() as drawn:
            result = self.vae.guide(x, mask=mask, **inputs)
        hidden: Any = poutine.block(hide_fn=_is_another_site)
        same: Any = poutine.condition(data=drawn.values)
        with hidden, same, _Drawing(self, mask.expand(x.shape)):
            self.vae.model(self._tensor(x, mask), **inputs)
        return result

    # ---- the VAE inside ----------------------------------------------------------------------------------------------

    @property
    def likelihood(self) -> Likelihood:  # pyright: ignore[reportIncompatibleVariableOverride]
        """p(x|z)."""
        return self.vae.likelihood

    @property
    def posterior(self) -> Guide:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The family of q(z|x)."""
        return self.vae.posterior

    @property
    def prior(self) -> Any:
        """p(z)."""
        return self.vae.prior

    @property
    def decoder(self) -> Any:
        """The network that gives the likelihood's parameters."""
        return self.vae.decoder

    @property
    def data_mean(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The mean of the standardisation."""
        return self.vae.data_mean

    @property
    def data_std(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Its scale."""
        return self.vae.data_std

    def prior_distribution(self, c: Tensor | None = None) -> dist.TorchDistribution:
        """As of the VAE."""
        return self.vae.prior_distribution(c)

    def encode(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> dist.TorchDistribution:
        """As of the VAE."""
        return self.vae.encode(x, mask, c)

    def decode(self, z: Tensor, c: Tensor | None = None) -> dist.TorchDistribution:
        """As of the VAE."""
        return self.vae.decode(z, c)

    def likelihood_params(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """As of the VAE."""
        return self.vae.likelihood_params(z, c)

    def guide_params(self, x: Tensor, mask: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        """As of the VAE."""
        return self.vae.guide_params(x, mask, c)

    def amortize(self, x: Tensor) -> dist.TorchDistribution:
        """As of the VAE."""
        return self.vae.amortize(x)

    @property
    def start_count(self) -> int:
        """As of the VAE."""
        return self.vae.start_count

    def start_prior(self, x: Tensor) -> None:
        """As of the VAE."""
        self.vae.start_prior(x)

    # ---- p(mask|x) ---------------------------------------------------------------------------------------------------

    def observed_logits(self, x: Tensor) -> Tensor:
        """The logits of being observed, `[*leading, *event]`, for complete data in their own units."""
        if self.data_mean is not None and self.data_std is not None:
            x = (x - self.data_mean) / self.data_std
        return self.missingness(x)

    def log_prob_of_mask(self, x: Tensor, mask: Tensor) -> Tensor:
        """Log p(mask|x) of each element, nats, for complete data; both `[*leading, *event]`."""
        logits = self.observed_logits(x)
        return logsigmoid(torch.where(mask, logits, -logits))

    def _example(self) -> dist.TorchDistribution:
        """Elements as p(x|z) has them, of the same kind but independent of any code, batch shape `[*event]`."""
        like = next(self.vae.parameters())
        elements = self.likelihood(torch.zeros(self.likelihood.param_shape, dtype=like.dtype, device=like.device))
        if self.data_mean is not None and self.data_std is not None:
            elements = Rescaled(elements, self.data_mean, self.data_std)
        return elements

    def _sums(self) -> bool:
        """Whether missing elements are summed out."""
        elements = self._example()
        if self.missingness.elementwise and has_finite_values(elements):
            return True
        if not elements.has_rsample:
            raise UsageError(
                f"{type(self.likelihood).__name__} has no reparameterised draws to train p(mask|x) by, and its missing "
                "elements can't be summed out: take Normal, StudentT or Laplace; or Bernoulli or grey levels with a "
                "missingness of each element's own value (SelfMasking)"
            )
        return False

    def _given_missing(self, elements: dist.TorchDistribution) -> tuple[Finite, Tensor]:
        """p(x_d|z, not observed), and the logit of being observed with x_d summed out, for elements of finitely many
        values.
        """
        points = finite_values(elements, next(self.vae.parameters()).device)
        assert points is not None
        log_p, event = [elements.log_prob(v.expand(elements.batch_shape)) for v in points], self.shapes.event
        logits = [self.observed_logits(v.expand(event)) for v in points]
        missing = torch.stack([p + logsigmoid(-logit) for p, logit in zip(log_p, logits, strict=True)])
        observed = torch.stack([p + logsigmoid(logit) for p, logit in zip(log_p, logits, strict=True)])
        return Finite(points, missing), observed.logsumexp(0) - missing.logsumexp(0)


class _Observing(Messenger):
    """Restricts the observed site `"x"` to its observed elements, draws the missing ones, and observes the mask.

    Args:
        owner: the model.
        x: data with a value of the support in each gap, `[B, *event]`.
        mask: which elements are observed, `[B, *event]`.
    """

    def __init__(self, owner: NotAtRandom, x: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.owner, self.x, self.mask = owner, x, mask
        self.missing: Tensor | None = None
        self.logits: Tensor | None = None

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] != "x":
            return
        elements, dims = _elements_of(msg["fn"]), len(self.owner.shapes.event)
        if self.owner.missing_site is None:
            missing, self.logits = self.owner._given_missing(elements)
            elements = _OfObserved(self.mask, elements, missing)
        else:
            self.missing = pyro.sample(SITE, _imagined(self.owner, elements, self.mask))
        msg["fn"] = elements.mask(self.mask).to_event(dims)

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] != "x":
            return
        x = msg["value"] if self.missing is None else torch.where(self.mask, msg["value"], self.missing)
        logits = self.owner.observed_logits(x)
        if self.logits is not None:
            logits = torch.where(self.mask, logits, self.logits)
        observed = dist.Bernoulli(logits=logits).to_event(len(self.owner.shapes.event))
        pyro.sample("mask", observed, obs=self.mask.to(logits.dtype))


class _OfObserved(Either):
    """One of two distributions for each element; of the density only the first, as all other elements are masked."""

    def log_density(self, value: Tensor) -> Tensor:
        """Of the first."""
        return self.first.log_prob(value)


class _Drawing(Messenger):
    """Draws the missing elements from p(x|z) where a model observes `"x"`."""

    def __init__(self, owner: NotAtRandom, mask: Tensor) -> None:
        super().__init__()
        self.owner, self.mask = owner, mask

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "x":
            pyro.sample(SITE, _imagined(self.owner, _elements_of(msg["fn"]), self.mask))


class _Drawn(Messenger):
    """Keeps what a program draws, by site."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Any] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not poutine.util.site_is_subsample(msg):
            self.values[msg["name"]] = msg["value"]


def _is_another_site(msg: Any) -> bool:
    """Whether it is a sample site other than that of the missing elements."""
    return msg["type"] == "sample" and msg["name"] != SITE


def _imagined(owner: NotAtRandom, elements: dist.TorchDistribution, mask: Tensor) -> dist.TorchDistribution:
    """The site of the missing elements: p(x|z) where they are missing; where not, noise that depends on nothing."""
    return Either(mask, owner._example().expand(mask.shape), elements).to_event(len(owner.shapes.event))


def _elements_of(fn: Any) -> dist.TorchDistribution:
    """The elements of a distribution of one datum."""
    while isinstance(fn, torch.distributions.Independent):
        fn = fn.base_dist
    return fn
