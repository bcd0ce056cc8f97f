"""Likelihoods of elements in {0, 1} and in [0, 1], by logits."""

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import softplus

from pyro_vae.distributions.elements import Elements, logit_of, solve
from pyro_vae.distributions.exponentials import Exponential
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.shapes import Shapes


class _BernoulliByLogits(dist.Bernoulli):
    """Bernoulli with log p(x) = x l - log(1 + e^l): the same density as the base class, with half the memory
    traffic.
    """

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value * self.logits - softplus(self.logits)


class Bernoulli(Likelihood):
    r"""Binary elements, by logits.

    .. math:: \log p(x|z) = \sum_d x_d l_d(z) - \log(1 + \exp l_d(z)), \quad x_d \in \{0, 1\}

    Args:
        shapes: the sizes of the VAE.
        grey: take elements anywhere in [0, 1] too. The formula is then a cross-entropy: of x as probabilities of ones,
            the expected log-probability of their binarisation. Kingma & Welling and many examples report it for grey
            MNIST. It is no density of x (see `ContinuousBernoulli`), and not on the scale of binarised data.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 11.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> Bernoulli(Shapes((2,), 1))(torch.zeros(1, 2)).log_prob(torch.tensor([0.0, 1.0]))  # -log 2
        tensor([-0.6931, -0.6931])
    """

    num_params = 1
    support = constraints.boolean
    remedy = (
        "binarise the data (binarize='dynamic', 'static' or 'threshold'), or choose ContinuousBernoulli, "
        "DiscretizedLogistic or Normal for grey values; Bernoulli(grey=True) takes them as a cross-entropy"
    )

    def __init__(self, shapes: Shapes, grey: bool = False) -> None:
        super().__init__(shapes)
        self.grey = grey
        self.caveat = "a cross-entropy of grey values, no density: compare with the same only" if grey else None

    @property
    def data_support(self) -> constraints.Constraint:
        """Zeros and ones, or the interval between them."""
        return constraints.unit_interval if self.grey else self.support

    @property
    def discrete(self) -> bool:
        """Whether p(x|z) is a probability: not of grey values."""
        return not self.grey

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Bernoulli with logits `params[0]`."""
        return _BernoulliByLogits(logits=params[0], validate_args=False if self.grey else None)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Logits of the means, clipped to [0.001, 0.999] (Burda et al. 2016)."""
        return logit_of(mean).unsqueeze(0)


class ContinuousBernoulli(Likelihood):
    r"""Elements in [0, 1]: Bernoulli's formula normalised to a density, by logits.

    .. math::
        \log p(x|z) = \sum_d x_d l_d(z) - A(l_d(z)), \quad
        A(l) = \log \int_0^1 e^{l u} du = \log \frac{e^l - 1}{l}, \quad x_d \in [0, 1]

    The normaliser is left out where grey values are put into Bernoulli's formula, which is then no likelihood. Around
    `l = 0` it is computed by its series, elsewhere without overflow, so value and gradient are good in single
    precision for all logits.

    Args:
        shapes: the sizes of the VAE.

    References:
        Loaiza-Ganem & Cunningham 2019, The continuous Bernoulli: fixing a pervasive error in variational autoencoders.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> grey = ContinuousBernoulli(Shapes((2,), 1))
        >>> grey(torch.tensor([[0.0, 4.0]])).mean
        tensor([0.5000, 0.7687])
    """

    num_params = 1
    support = constraints.unit_interval
    remedy = "scale the data to [0, 1] (divide_by=...), or choose Normal"

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Continuous Bernoulli with logits `params[0]`."""
        return _ContinuousBernoulli(params[0])

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Logits at which the mean is that of the data, clipped to [0.001, 0.999]."""
        high = torch.tensor(2000.0, device=mean.device)
        return solve(_mean, mean.clamp(1e-3, 1 - 1e-3), -high, high).to(mean.dtype).unsqueeze(0)


class _ContinuousBernoulli(Elements):
    """By logits; x is distributed as `1 - x` under the negative logit."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, constraints.unit_interval)

    def log_density(self, value: Tensor) -> Tensor:
        near, far = _parts(self.logits)
        small = (value - 0.5) * near - near.square() * _even(near, _LOG_SINHC)
        large = value * self.logits - self.logits.clamp(min=0) + far.log() - (-torch.expm1(-far)).log()
        return torch.where(self.logits.abs() < _NEAR, small, large)

    def exponential_pieces(self) -> list[Exponential]:
        """One, which falls from the end where the density is highest."""
        up = self.logits <= 0
        start, rate = torch.where(up, torch.zeros_like(self.logits), 1), torch.where(up, -self.logits, self.logits)
        return [Exponential(start, self.log_density(start), rate, up, torch.ones_like(start))]

    def draw(self, shape: torch.Size) -> Tensor:
        """By the inverse of the distribution function, from the end where the density is highest."""
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        rate = self.logits.abs().clamp(min=1e-6)  # at 0 the draw is u itself: off by 1e-6 at most
        distance = (-torch.log1p(u * torch.expm1(-rate)) / rate).clamp(0, 1)
        return torch.where(self.logits > 0, 1 - distance, distance)

    @property
    def mean(self) -> Tensor:
        return _mean(self.logits).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        near, far = _parts(self.logits)
        large = 1 / far.square() - (-far).exp() / torch.expm1(-far).square()
        variance = torch.where(self.logits.abs() < _NEAR, _even(near, _VARIANCE), large)
        return variance.expand(self.batch_shape)


_NEAR = 1.0
"""Logits below this are computed by the series, which converges below 2 pi: its error is at most 1e-11."""
_LOG_SINHC = (1 / 24, -1 / 2880, 1 / 181440, -1 / 9676800, 1 / 479001600, -691 / 15692092416000, 1 / 1046139494400)
"""Of `log(sinh(l / 2) / (l / 2)) / l^2`, in powers of l^2: `B_2n / (2n (2n)!)`."""
_SHIFT = tuple(2 * n * c for n, c in enumerate(_LOG_SINHC, 1))
"""Of its derivative, E[x] - 1/2, over l."""
_VARIANCE = tuple((2 * n - 1) * c for n, c in enumerate(_SHIFT, 1))
"""Of its second derivative, the variance."""


def _parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The logits where they are small, else 0; and their size where it is not small, else 1: safe to differentiate."""
    size = logits.abs()
    small = size < _NEAR
    return torch.where(small, logits, 0), torch.where(small, 1, size)


def _even(logits: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """A polynomial in the square of the logits, by Horner's rule."""
    square, total = logits.square(), torch.zeros_like(logits)
    for coefficient in reversed(coefficients):
        total = total * square + coefficient
    return total


def _mean(logits: Tensor) -> Tensor:
    """E[x] = A'(l) = 1 / (1 - exp(-l)) - 1 / l."""
    near, far = _parts(logits)
    low = 1 / far + (-far).exp() / torch.expm1(-far)
    return torch.where(logits.abs() < _NEAR, 0.5 + near * _even(near, _SHIFT), torch.where(logits > 0, 1 - low, low))
