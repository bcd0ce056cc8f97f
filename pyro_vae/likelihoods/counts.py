"""Likelihoods of counts: whole numbers from 0. Densities are summed in double precision, where large terms cancel."""

from math import log

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, softplus

from pyro_vae.distributions.elements import Elements
from pyro_vae.distributions.log_scales import tame
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.scaled import Size, check_size, constant
from pyro_vae.shapes import Shapes


class _Counts(Likelihood):
    """A likelihood of counts, possibly zero-inflated; abstract.

    Args:
        shapes: the sizes of the VAE.
        num_params: parameters of an element, without that of the zero inflation.
        zero_inflated: whether an element is 0 for another reason too, with a probability that the decoder gives.
    """

    support = constraints.nonnegative_integer
    remedy = "counts are whole numbers from 0: load them as they are (divide_by=1)"

    def __init__(self, shapes: Shapes, num_params: int, zero_inflated: bool) -> None:
        super().__init__(shapes)
        self.zero_inflated, self.num_params = zero_inflated, num_params + zero_inflated

    def inflated(self, counts: Elements, params: tuple[Tensor, ...]) -> dist.TorchDistribution:
        """The counts with zero inflation, whose logit is the last parameter."""
        if not self.zero_inflated:
            return counts
        return _ZeroInflated(counts, params[-1])

    def initial(self, mean: Tensor, *others: Tensor) -> Tensor:
        """Log means (at least log 0.001), other parameters, and the logit of a zero inflation of 0.1."""
        log_mean = mean.clamp(min=1e-3).log()
        if not self.zero_inflated:
            return torch.stack([log_mean, *others])
        return torch.stack([log_mean - log(0.9), *others, torch.full_like(mean, -log(9))])


class Poisson(_Counts):
    r"""Counts with the decoder's rate.

    .. math:: \log p(x|z) = \sum_d x_d \log \lambda_d(z) - \lambda_d(z) - \log x_d!, \quad x_d \in \{0, 1, 2, \ldots\}

    The decoder gives the log rate, and, where `zero_inflated`, the logit of `g`:
    `p(x) = g [x = 0] + (1 - g) Poisson(x)`.

    Args:
        shapes: the sizes of the VAE.
        zero_inflated: whether an element is 0 for another reason too, with probability g.

    Example:
        >>> counts = Poisson(Shapes((3,), 1))
        >>> counts(torch.zeros(1, 3)).log_prob(torch.tensor([0.0, 1.0, 2.0]))
        tensor([-1.0000, -1.0000, -1.6931])
    """

    def __init__(self, shapes: Shapes, zero_inflated: bool = False) -> None:
        super().__init__(shapes, 1, zero_inflated)

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Poisson with rate `exp(params[0])`."""
        return self.inflated(_Poisson(tame(params[0])), params)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Log means, of 0.001 and more; where `zero_inflated` one in ten is a further zero."""
        return self.initial(mean)


class NegativeBinomial(_Counts):
    r"""Counts that vary more than Poisson's: a Poisson whose rate is gamma distributed.

    .. math::
        p(x_d|z) = \frac{\Gamma(x_d + \theta_d)}{\Gamma(\theta_d) \, x_d!}
        \left(\frac{\theta_d}{\theta_d + \mu_d(z)}\right)^{\theta_d}
        \left(\frac{\mu_d(z)}{\theta_d + \mu_d(z)}\right)^{x_d}, \qquad
        \mathrm{var}(x_d|z) = \mu_d + \mu_d^2 / \theta_d

    The decoder gives the log mean, then log theta (per element), then, where `zero_inflated`, the logit of `g`:
    `p(x) = g [x = 0] + (1 - g) NB(x)`. In the limit of large theta it is Poisson's.

    Args:
        shapes: the sizes of the VAE.
        dispersion: theta, the inverse dispersion: a number (fixed), `"learned"` (one parameter for each element, scVI's
            `gene`) or `"per_element"` (the decoder gives it for each element of each datum, `gene-cell`).
        zero_inflated: whether an element is 0 for another reason too, with probability g.

    Raises:
        UsageError: if a fixed dispersion is not positive.

    References:
        Lopez et al. 2018, Deep generative modeling for single-cell transcriptomics.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> counts = NegativeBinomial(Shapes((3,), 1))
        >>> counts(torch.zeros(*counts.param_shape)).log_prob(torch.tensor([0.0, 1.0, 2.0])).shape
        torch.Size([3])
    """

    def __init__(self, shapes: Shapes, dispersion: Size = "learned", zero_inflated: bool = False) -> None:
        super().__init__(shapes, 1 + (dispersion == "per_element"), zero_inflated)
        check_size(self, "dispersion", dispersion)
        self.dispersion = dispersion
        if dispersion == "learned":
            self.log_dispersion = nn.Parameter(torch.zeros(shapes.event))

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Negative binomial with mean `exp(params[0])`; `params[1]` is log theta, per element."""
        counts = _NegativeBinomial(tame(params[0]), tame(self._log_dispersion_of(params), _LOG_MOST))
        return self.inflated(counts, params)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Log means, of 0.001 and more, and, per element, the log dispersions of the spread, in [0.1, 1000]."""
        if self.dispersion != "per_element":
            return self.initial(mean)
        excess = (std.square() - mean).clamp(min=1e-6)
        return self.initial(mean, (mean.square() / excess).clamp(0.1, 1000).log())

    def _log_dispersion_of(self, params: tuple[Tensor, ...]) -> Tensor:
        if self.dispersion == "per_element":
            return params[1]
        if self.dispersion == "learned":
            return self.log_dispersion
        return constant(log(float(self.dispersion)), params[0])


class _ZeroInflated(Elements):
    """Zero with a probability given by its logit, otherwise a draw of another distribution of counts."""

    def __init__(self, counts: Elements, logit: Tensor) -> None:
        self.counts, self.logit = counts, logit
        super().__init__(torch.broadcast_shapes(counts.batch_shape, logit.shape), constraints.nonnegative_integer)

    def log_density(self, value: Tensor) -> Tensor:
        log_p = logsigmoid(-self.logit) + self.counts.log_density(value)
        return torch.where(value == 0, torch.logaddexp(logsigmoid(self.logit), log_p), log_p)

    def draw(self, shape: torch.Size) -> Tensor:
        zero = torch.rand(shape, dtype=self.logit.dtype, device=self.logit.device) < self.logit.sigmoid()
        return torch.where(zero, 0, self.counts.draw(shape))

    @property
    def mean(self) -> Tensor:
        return ((-self.logit).sigmoid() * self.counts.mean).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        counts, kept = self.counts, (-self.logit).sigmoid()
        variance = kept * (counts.variance + self.logit.sigmoid() * counts.mean.square())
        return variance.expand(self.batch_shape)


class _Poisson(Elements):
    """By the log rate."""

    def __init__(self, log_rate: Tensor) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, constraints.nonnegative_integer)

    def log_density(self, value: Tensor) -> Tensor:
        x, log_rate = value.double(), self.log_rate.double()
        return (x * log_rate - log_rate.exp() - torch.lgamma(x + 1)).to(self.log_rate.dtype)

    def draw(self, shape: torch.Size) -> Tensor:
        return torch.poisson(self.mean.expand(shape))

    @property
    def mean(self) -> Tensor:
        return self.log_rate.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        return self.mean


_LOG_MOST, _LOG_LEAST = 18.0, -100.0
"""Of theta: beyond the first it is Poisson's but for means above 1e4, and doubles lose digits; the second is 0."""


class _NegativeBinomial(Elements):
    """By log mean and log theta."""

    def __init__(self, log_mean: Tensor, log_theta: Tensor) -> None:
        self.log_mean, self.log_theta = log_mean, log_theta.clamp(min=_LOG_LEAST)
        super().__init__(torch.broadcast_shapes(log_mean.shape, log_theta.shape), constraints.nonnegative_integer)

    def log_density(self, value: Tensor) -> Tensor:
        x, log_theta = value.double(), self.log_theta.double()
        theta, logit = log_theta.exp(), self.log_mean.double() - log_theta
        ways = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        return (ways - theta * softplus(logit) - x * softplus(-logit)).to(self.log_mean.dtype)

    def draw(self, shape: torch.Size) -> Tensor:
        theta = self.log_theta.double().exp().expand(shape)
        scale = (self.log_mean.double() - self.log_theta.double()).exp()
        rate = torch.distributions.Gamma(theta, 1.0, validate_args=False).sample() * scale
        return torch.poisson(rate).to(self.log_mean.dtype)

    @property
    def mean(self) -> Tensor:
        return self.log_mean.exp().expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return mean + mean.square() / self.log_theta.exp()
