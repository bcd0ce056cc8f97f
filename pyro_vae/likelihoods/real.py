"""Likelihoods of real elements, by a location and a scale."""

from math import log, pi
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae.arguments.values import scalar
from pyro_vae.distributions.elements import Elements, logit_of
from pyro_vae.distributions.log_scales import tame
from pyro_vae.likelihoods.scaled import Scale, Scaled, Size, check_size, constant
from pyro_vae.shapes import Shapes


class _LocationScale(Scaled):
    """A likelihood of real elements, whose first parameter is the mean; abstract."""

    support = constraints.real
    remedy = "remove NaN and infinite values, or mask them"

    def __init__(self, shapes: Shapes, scale: Scale, bounded: bool, min_scale: float) -> None:
        super().__init__(shapes, scale, min_scale, each=True)
        self.bounded = bounded
        self.num_params = 2 if scale == "per_element" else 1
        self.learn_scale()

    def location(self, params: tuple[Tensor, ...]) -> Tensor:
        """The mean, through a sigmoid where `bounded`."""
        return params[0].sigmoid() if self.bounded else params[0]

    def initial_location_scale(self, mean: Tensor, scale: Tensor) -> Tensor:
        """The means (their logits where `bounded`) and, per element, the log of the scales (>= 0.01)."""
        loc = logit_of(mean) if self.bounded else mean
        return torch.stack([loc, scale.clamp(min=1e-2).log()]) if self.scale == "per_element" else loc.unsqueeze(0)


class Normal(_LocationScale):
    r"""Real elements with independent normal noise.

    .. math:: \log p(x|z) = \sum_d \log N(x_d; \mu_d(z), \sigma_d^2)

    Args:
        shapes: the sizes of the VAE.
        scale: the standard deviation: a number (fixed), `"learned"` (one parameter for all elements), `"learned_each"`
            (one for each element, as in factor analysis) or `"per_element"` (the decoder gives the log standard
            deviation of each element, as AEVB does for Frey Face).
        bounded: put the mean through a sigmoid, for data in [0, 1].
        min_scale: added to a learned or per-element standard deviation; keeps the density bounded. AEVB has 0.

    Raises:
        UsageError: if a fixed scale is not positive, or `min_scale` is negative.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 12.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> real = Normal(Shapes((3,), 1), scale=1.0)
        >>> real(torch.zeros(1, 3)).log_prob(torch.zeros(3))  # -log(2 pi) / 2
        tensor([-0.9189, -0.9189, -0.9189])
    """

    def __init__(self, shapes: Shapes, scale: Scale = 1.0, bounded: bool = False, min_scale: float = 1e-3) -> None:
        super().__init__(shapes, scale, bounded, min_scale)

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Normal with mean `params[0]`, through a sigmoid where `bounded`."""
        return dist.Normal(self.location(params), self.scale_of(params))

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """The means (their logits where `bounded`) and, per element, the log of the standard deviations (>= 0.01)."""
        return self.initial_location_scale(mean, std)


class Laplace(_LocationScale):
    r"""Real elements with independent Laplace noise: the likelihood of the absolute error.

    .. math:: \log p(x|z) = \sum_d -\frac{|x_d - \mu_d(z)|}{b_d} - \log 2 b_d

    Args:
        shapes: the sizes of the VAE.
        scale: b, the mean absolute deviation: a number (fixed), `"learned"` (one parameter for all elements),
            `"learned_each"` (one for each element) or `"per_element"` (the decoder gives the logarithm of each).
        bounded: put the mean through a sigmoid, for data in [0, 1].
        min_scale: added to a learned or per-element scale; keeps the density bounded.

    Raises:
        UsageError: if a fixed scale is not positive, or `min_scale` is negative.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> real = Laplace(Shapes((3,), 1), scale=1.0)
        >>> real(torch.zeros(1, 3)).log_prob(torch.zeros(3))  # -log 2
        tensor([-0.6931, -0.6931, -0.6931])
    """

    def __init__(self, shapes: Shapes, scale: Scale = 1.0, bounded: bool = False, min_scale: float = 1e-3) -> None:
        super().__init__(shapes, scale, bounded, min_scale)

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Laplace with mean `params[0]`, through a sigmoid where `bounded`."""
        return dist.Laplace(self.location(params), self.scale_of(params))

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """The means (their logits where `bounded`) and, per element, the log scales of the same standard deviation."""
        return self.initial_location_scale(mean, std / 2**0.5)


class StudentT(_LocationScale):
    r"""Real elements with Student's t noise: outliers cost the logarithm of their distance, not its square.

    .. math:: \log p(x|z) = \sum_d \log t(x_d; \nu_d, \mu_d(z), s_d)

    With few degrees of freedom one outlier hardly moves the fit; with many it is the normal likelihood.

    Args:
        shapes: the sizes of the VAE.
        df: degrees of freedom nu, above 1 so that the mean exists: a number (fixed), `"learned"` (one parameter for all
            elements) or `"per_element"` (the decoder gives the log of `nu - 1` for each element).
        scale: s, below the standard deviation, which is `s sqrt(nu / (nu - 2))`: a number, `"learned"`,
            `"learned_each"` or `"per_element"`.
        bounded: put the mean through a sigmoid, for data in [0, 1].
        min_scale: added to a learned or per-element scale; keeps the density bounded.

    Raises:
        UsageError: if fixed degrees of freedom are not above 1, a fixed scale is not positive, or `min_scale` is
            negative.

    References:
        Takahashi et al. 2018, Student-t variational autoencoder for robust density estimation.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> real = StudentT(Shapes((3,), 1))
        >>> real(torch.zeros(*real.param_shape)).log_prob(torch.zeros(3)).shape
        torch.Size([3])
    """

    def __init__(
        self,
        shapes: Shapes,
        df: Size = 5.0,
        scale: Scale = 1.0,
        bounded: bool = False,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__(shapes, scale, bounded, min_scale)
        check_size(self, "df", df, above=1.0)
        self.df = scalar(df)
        self.num_params += df == "per_element"
        if df == "learned":
            self.log_excess = nn.Parameter(torch.tensor(log(_START_DF - 1)))

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Student's t with mean `params[0]`; the last parameter is that of the degrees of freedom, per element."""
        return _StudentT(self._df_of(params), self.location(params), self.scale_of(params))

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """The means (their logits where `bounded`); per element scales of the same spread, and 5 degrees of freedom."""
        df = self.df if isinstance(self.df, int | float) else _START_DF
        params = self.initial_location_scale(mean, std * (max(df - 2, 0.5) / df) ** 0.5)
        excess = torch.full_like(mean, log(_START_DF - 1)).unsqueeze(0)
        return torch.cat([params, excess]) if self.df == "per_element" else params

    def _df_of(self, params: tuple[Tensor, ...]) -> Tensor:
        if self.df == "per_element":
            return 1 + tame(params[-1], _LOG_MANY).exp()
        if self.df == "learned":
            return 1 + tame(self.log_excess, _LOG_MANY).exp()
        return constant(float(self.df), params[0])


_START_DF = 5.0
"""Degrees of freedom where learning starts."""
_MANY_DF = 1e8
"""From here on the normaliser is the normal's, to 1e-8."""
_LOG_MANY = 15.0


class _StudentT(Elements):
    """Student's t whose normaliser holds in single precision also for many degrees of freedom."""

    def __init__(self, df: Tensor, loc: Tensor, scale: Tensor) -> None:
        self.df, self.loc, self.scale = df, loc, scale
        super().__init__(torch.broadcast_shapes(df.shape, loc.shape, scale.shape), constraints.real)

    def log_density(self, value: Tensor) -> Tensor:
        y = (value - self.loc) / self.scale
        tails = (self.df + 1) / 2 * torch.log1p(y.square() / self.df)
        return self._log_normalizer() - self.scale.log() - tails

    def _log_normalizer(self) -> Tensor:
        """In double precision: the difference of two gammas that are as large as df, which may be learned."""
        df = self.df.double().clamp(max=_MANY_DF)
        log_peak = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2) - (df * pi).log() / 2
        return log_peak.to(self.df.dtype)

    def draw(self, shape: torch.Size) -> Tensor:
        return self._of_shape(shape).sample()

    has_rsample = True

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 - torch's own default
        return self._of_shape(self._extended_shape(sample_shape)).rsample()

    def _of_shape(self, shape: torch.Size) -> torch.distributions.StudentT:
        df, loc, scale = (x.expand(shape) for x in (self.df, self.loc, self.scale))
        return torch.distributions.StudentT(df, loc, scale, validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.loc.expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        variance = self.scale.square() * self.df / (self.df - 2).clamp(min=0)
        return variance.expand(self.batch_shape)
