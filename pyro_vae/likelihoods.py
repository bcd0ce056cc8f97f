"""Likelihoods p(x|z). To add one, subclass `Likelihood`: `num_params`, `support`, `remedy` and `distribution`."""

from abc import ABC, abstractmethod
from typing import Literal

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_vae.errors import DataError, UsageError
from pyro_vae.shapes import Shapes


class Likelihood(nn.Module, ABC):
    """A distribution p(x|z), elementwise over the event, whose parameters the decoder gives.

    A subclass takes `(shapes, **its own options)`, says how many parameters an element has (`num_params`), what data it
    gives probability to (`support`, and `remedy` for data outside), and implements `distribution`. Masks of observed
    elements, the sum over the event and the check of the data are the same for every likelihood and written once.

    Args:
        shapes: the sizes of the VAE.
    """

    num_params: int = 1
    support: constraints.Constraint = constraints.real
    remedy: str = "choose a likelihood whose support holds these data"
    placeholder: float = 0.0
    """A value inside the support: stands in for elements that are not observed."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Map `num_params` tensors `[*leading, *event]` to independent elements, batch shape `[*leading, *event]`."""

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Decoder outputs that reproduce the data's mean (and spread) per element, where the decoder should start.

        Args:
            mean: mean of the training data, `[*event]`.
            std: standard deviation of the training data, `[*event]`.

        Returns:
            `[num_params, *event]`.

        Raises:
            UsageError: if this likelihood defines no such start.
        """
        raise UsageError(
            f"{type(self).__name__} does not say where a decoder starts: implement initial_params, or do not ask for it"
        )

    @property
    def param_shape(self) -> tuple[int, ...]:
        """What the decoder must return for one code: `(num_params, *event)`."""
        return (self.num_params, *self.shapes.event)

    def forward(self, params: Tensor) -> dist.TorchDistribution:
        """Map the decoder's output `[*leading, *param_shape]` to elementwise p(x|z)."""
        elements = self.distribution(*params.unbind(-1 - len(self.shapes.event)))
        if elements.event_shape:
            raise UsageError(
                f"{type(self).__name__}.distribution must be elementwise, with event shape (), got "
                f"{tuple(elements.event_shape)}: leave out to_event, the VAE applies it after the mask"
            )
        return elements

    def check(self, x: Tensor, name: str = "x") -> None:
        """Refuse data of another shape, or that this likelihood gives no probability to.

        Args:
            x: data `[N, *event]`.
            name: what to call them in the message.

        Raises:
            DataError: with the first offending value, its position and the remedy.
        """
        if tuple(x.shape[1:]) != tuple(self.shapes.event) or len(x) == 0:
            raise DataError(
                f"{name}: expected shape [N >= 1, {', '.join(map(str, self.shapes.event))}], got {list(x.shape)}"
            )
        bad = ~(self.support.check(x) & x.isfinite())
        if bad.any():
            where = tuple(bad.nonzero()[0].tolist())
            raise DataError(
                f"{name}: {int(bad.sum())} of {x.numel()} values are outside the support of {type(self).__name__} "
                f"({self.support}), the first is {x[where].item():.6g} at {where}: {self.remedy}"
            )


class _BernoulliByLogits(dist.Bernoulli):
    """Bernoulli with log p(x) = x l - log(1 + e^l): the same density as its base in half the passes over memory."""

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - softplus(self.logits)


class Bernoulli(Likelihood):
    r"""Binary elements, by logits.

    .. math:: \log p(x|z) = \sum_d x_d l_d(z) - \log(1 + \exp l_d(z)), \quad x_d \in \{0, 1\}

    Args:
        shapes: the sizes of the VAE.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 11.
    """

    num_params = 1
    support = constraints.boolean
    remedy = "binarise the data (binarize='dynamic', 'static' or 'threshold'), or choose Normal for grey values"

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Bernoulli with logits `params[0]`."""
        return _BernoulliByLogits(logits=params[0])

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Logits of the means, clipped to [0.001, 0.999] (Burda et al. 2016)."""
        return _logit(mean, 1e-3).unsqueeze(0)


class Normal(Likelihood):
    r"""Real elements with independent normal noise.

    .. math:: \log p(x|z) = \sum_d \log N(x_d; \mu_d(z), \sigma_d^2)

    Args:
        shapes: the sizes of the VAE.
        scale: the standard deviation: a number (fixed), `"learned"` (one parameter for all elements) or `"per_element"`
            (the decoder gives the log standard deviation of each element, as AEVB does for Frey Face).
        bounded: put the mean through a sigmoid, for data in [0, 1].
        min_scale: added to a learned or per-element standard deviation; keeps the density bounded. AEVB has 0.

    Raises:
        UsageError: if a fixed scale is not positive, or `min_scale` is negative.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 12.
    """

    support = constraints.real
    remedy = "remove NaN and infinite values, or mask them"

    def __init__(
        self,
        shapes: Shapes,
        scale: float | Literal["learned", "per_element"] = 1.0,
        bounded: bool = False,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(shapes)
        if scale not in ("learned", "per_element") and not (isinstance(scale, int | float) and scale > 0):
            raise UsageError(f"Normal needs scale to be a positive number, 'learned' or 'per_element', got {scale!r}")
        if min_scale < 0:
            raise UsageError(f"Normal needs min_scale >= 0, got {min_scale}")
        self.scale, self.bounded, self.min_scale = scale, bounded, min_scale
        self.num_params = 2 if scale == "per_element" else 1
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(()))

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Normal with mean `params[0]`, through a sigmoid where `bounded`."""
        loc = params[0].sigmoid() if self.bounded else params[0]
        if self.scale == "per_element":
            return dist.Normal(loc, params[1].exp() + self.min_scale)
        if self.scale == "learned":
            return dist.Normal(loc, self.log_scale.exp() + self.min_scale)
        return dist.Normal(loc, torch.as_tensor(float(self.scale), dtype=loc.dtype, device=loc.device))

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """The means (their logits where `bounded`) and, per element, the log of the standard deviations (>= 0.01)."""
        loc = _logit(mean, 1e-3) if self.bounded else mean
        return torch.stack([loc, std.clamp(min=1e-2).log()]) if self.num_params == 2 else loc.unsqueeze(0)


def _logit(mean: Tensor, margin: float) -> Tensor:
    return torch.logit(mean.clamp(margin, 1 - margin))
