r"""Likelihoods of grey levels: elements on a grid of `levels` values, each with a probability.

A level k = 0, ..., levels - 1 is written `x = k / (levels - 1)`, as `load_data` gives bytes: 256 levels are
`0, 1/255, ..., 1`. The probabilities of the levels of an element sum to one.
"""

from math import pi
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_vae.arguments.values import scalar
from pyro_vae.distributions.elements import Elements, logit_of, solve
from pyro_vae.distributions.log_scales import tame
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods.base import Likelihood
from pyro_vae.likelihoods.scaled import Scaled, Size
from pyro_vae.shapes import Shapes


class Levels(constraints.Constraint):
    """The values `0, 1/(levels - 1), ..., 1`, to a hundredth of a level.

    Args:
        levels: how many.
    """

    is_discrete = True

    def __init__(self, levels: int) -> None:
        self.levels = levels

    @property
    def values(self) -> Tensor:
        """All values, `[levels]`, in double precision."""
        return torch.arange(self.levels, dtype=torch.float64) / (self.levels - 1)

    def check(self, value: Any) -> Any:
        """Which elements are levels."""
        level = value * (self.levels - 1)
        near = (level - level.round()).abs() < 0.01
        return near & (level.round() >= 0) & (level.round() <= self.levels - 1)

    def __repr__(self) -> str:
        return f"the {self.levels} multiples of 1/{self.levels - 1} in [0, 1]"


def on_levels(owner: Likelihood, levels: int) -> tuple[Levels, str]:
    """The support of a likelihood with this number of levels, and its remedy for other data.

    Raises:
        UsageError: if there are fewer than 2, or more than single precision can distinguish.
    """
    if not (isinstance(scalar(levels), int) and 2 <= levels <= 2**16):
        raise UsageError(f"{type(owner).__name__} needs from 2 to {2**16} levels, got {levels!r}")
    remedy = (
        f"give x = k / {levels - 1} for the levels k = 0, ..., {levels - 1} (of bytes: divide_by={levels - 1}, and no "
        "dequantize), or, for another number n of levels, pass levels=n and k / (n - 1)"
    )
    return Levels(levels), remedy


class DiscretizedLogistic(Scaled):
    r"""Grey levels, by a logistic distribution (or a mixture of K) cut into one bin for each level, the outer ones
    open.

    .. math::
        p(x_d|z) = \sum_{k=1}^K \pi_{dk} \left[ \sigma\!\left(\frac{x_d + h - m_{dk}}{s_{dk}}\right)
        - \sigma\!\left(\frac{x_d - h - m_{dk}}{s_{dk}}\right) \right], \qquad h = \frac{1}{2 (levels - 1)}

    with the first sigmoid 1 at the highest level and the second 0 at the lowest. The difference is computed as
    `sigmoid(b) sigmoid(-a) (1 - exp(a - b))`, which loses no digits. The levels of an element sum to one. Data are
    `x = k / (levels - 1)`; m and s have their units.

    Args:
        shapes: the sizes of the VAE.
        levels: values that an element can have, from 2 to 65,536.
        components: K, logistics that are mixed for each element. The decoder gives K locations, then K log scales (per
            element), then K logits of the weights (if K > 1).
        scale: s: a number (fixed), `"learned"` (one parameter a component, for all elements) or `"per_element"` (the
            decoder gives its logarithm).
        min_scale: added to a scale that is not fixed.

    Raises:
        UsageError: for levels, components or scales out of range.

    References:
        Salimans et al. 2017, PixelCNN++. Kingma et al. 2016, Improved variational inference with inverse
        autoregressive flow.

    Example:
        >>> bits = DiscretizedLogistic(Shapes((1,), 1), levels=4)
        >>> x = torch.arange(4).unsqueeze(-1) / 3
        >>> bits(torch.zeros(2, 1)).log_prob(x).exp().sum().item()
        1.0
    """

    support = Levels(256)
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"levels": 17, "components": 3}, {"levels": 2})

    def __init__(
        self,
        shapes: Shapes,
        levels: int = 256,
        components: int = 1,
        scale: Size = "per_element",
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__(shapes, scale, min_scale)
        if components < 1:
            raise UsageError(f"DiscretizedLogistic needs components >= 1, got {components}")
        self.support, self.remedy = on_levels(self, levels)
        self.levels, self.components = levels, components
        self.num_params = components * (1 + (scale == "per_element") + (components > 1))
        self.learn_scale(start=0.1, shape=(components,))

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """Locations, log scales (per element) and weights (of a mixture), each `[*leading, *event, components]`."""
        return params.movedim(-1 - len(self.shapes.event), -1).split(self.components, -1)

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """The discretised logistic, or their mixture."""
        logistics = _DiscretizedLogistic(params[0], self.scale_of(params), self.levels)
        if self.components == 1:
            return logistics.squeezed()
        return dist.MixtureSameFamily(dist.Categorical(logits=params[-1]), logistics)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Equal components of the means (of 0.0001 levels and more) and, per element, of the spread."""
        scale = (std * 3**0.5 / pi).clamp(min=0.5 / (self.levels - 1))
        if self.scale != "per_element":
            scale = self.scale_of((mean,)).detach().reshape(-1)[0].to(mean).expand_as(mean)
        loc = _location(mean, scale, self.levels)
        groups = [loc, self.initial_log_scale(scale)] if self.scale == "per_element" else [loc]
        groups += [torch.zeros_like(loc)] * (self.components > 1)
        return torch.stack([group.to(mean.dtype) for group in groups]).repeat_interleave(self.components, 0)


class Categorical(Likelihood):
    r"""Grey levels, with a separate probability of each level for each element, by logits.

    .. math:: \log p(x_d = k / (levels - 1) \,|\, z) = l_{dk}(z) - \log \sum_j \exp l_{dj}(z)

    It assumes nothing about neighbouring levels, and the decoder's output is `levels` times as large as the data. The
    levels of an element sum to one. Data are `x = k / (levels - 1)`.

    Args:
        shapes: the sizes of the VAE.
        levels: values that an element can have, from 2 to 65,536.

    Raises:
        UsageError: for levels out of range.

    References:
        van den Oord et al. 2016, Pixel recurrent neural networks.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> grey = Categorical(Shapes((1,), 1), levels=4)
        >>> x = torch.arange(4).unsqueeze(-1) / 3
        >>> round(grey(torch.zeros(4, 1)).log_prob(x).exp().sum().item(), 5)
        1.0
    """

    support = Levels(256)

    def __init__(self, shapes: Shapes, levels: int = 256) -> None:
        super().__init__(shapes)
        self.support, self.remedy = on_levels(self, levels)
        self.levels = self.num_params = levels

    def split(self, params: Tensor) -> tuple[Tensor, ...]:
        """The logits, `[*leading, *event, levels]`."""
        return (params.movedim(-1 - len(self.shapes.event), -1),)

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Independent levels with logits `params[0]`."""
        return _CategoricalLevels(params[0])

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Log-probabilities of a discretised logistic of the means (of 0.0001 levels and more) and the spread."""
        scale = (std * 3**0.5 / pi).clamp(min=max(0.02, 0.5 / (self.levels - 1)))  # every level has probability
        loc = _location(mean, scale, self.levels)
        logistic = _DiscretizedLogistic(loc, scale.double(), self.levels)
        grid = torch.arange(self.levels, dtype=torch.float64, device=mean.device) / (self.levels - 1)
        return logistic.log_prob(grid.reshape(-1, *[1] * mean.dim())).to(mean.dtype)


class BetaBinomial(Likelihood):
    r"""Grey levels, or counts out of a fixed number, by a binomial whose rate varies.

    .. math::
        p(x_d = k / n \,|\, z) = \binom{n}{k} \frac{B(k + \alpha_d, n - k + \beta_d)}{B(\alpha_d, \beta_d)}, \quad
        \alpha = c m, \; \beta = c (1 - m), \; n = levels - 1

    The decoder gives the logit of the mean m and the logarithm of the concentration c: large c is the binomial, c = 2
    at m = 1/2 is uniform, smaller c puts the mass on both ends. The levels of an element sum to one. Data are
    `x = k / (levels - 1)`: counts out of n, divided by n.

    Args:
        shapes: the sizes of the VAE.
        levels: values that an element can have, n + 1, from 2 to 65,536.

    Raises:
        UsageError: for levels out of range.

    References:
        Townsend et al. 2019, Practical lossless compression with latent variables using bits back coding.

    Example:
        >>> from pyro_vae.shapes import Shapes
        >>> grey = BetaBinomial(Shapes((1,), 1), levels=4)
        >>> x = torch.arange(4).unsqueeze(-1) / 3
        >>> round(grey(torch.zeros(2, 1)).log_prob(x).exp().sum().item(), 5)
        1.0
    """

    num_params = 2
    support = Levels(256)

    def __init__(self, shapes: Shapes, levels: int = 256) -> None:
        super().__init__(shapes)
        self.support, self.remedy = on_levels(self, levels)
        self.levels = levels

    def distribution(self, *params: Tensor) -> dist.TorchDistribution:
        """Beta-binomial with mean `sigmoid(params[0])` and concentration `exp(params[1])`."""
        return _BetaBinomial(params[0], params[1], self.levels)

    def initial_params(self, mean: Tensor, std: Tensor) -> Tensor:
        """Logits of the means (of 0.0001 levels and more), log concentrations of the spread, in [0.1, 1000]."""
        n, binomial = self.levels - 1, (mean * (1 - mean)).clamp(min=1e-6)
        excess = (std.square() * n / binomial - 1).clamp(min=1e-6)  # (n - 1) / (c + 1)
        concentration = ((n - 1) / excess - 1).clamp(0.1, 1000)
        return torch.stack([logit_of(mean, _margin(self.levels)), concentration.log()])


class _LevelElements(Elements):
    """Independent elements on levels; a subclass implements `log_mass` of the levels 0, 1, ... and `draw_level`."""

    def __init__(self, batch_shape: torch.Size, levels: int) -> None:
        self.levels = levels
        super().__init__(batch_shape, Levels(levels))

    def log_mass(self, level: Tensor) -> Tensor:
        raise NotImplementedError

    def draw_level(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError

    def log_density(self, value: Tensor) -> Tensor:
        return self.log_mass((value * (self.levels - 1)).round())

    def draw(self, shape: torch.Size) -> Tensor:
        return self.draw_level(shape) / (self.levels - 1)


class _DiscretizedLogistic(_LevelElements):
    """By location and scale in units of the data; edges lie halfway between levels."""

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(torch.broadcast_shapes(loc.shape, scale.shape), levels)

    def squeezed(self) -> "_DiscretizedLogistic":
        """The only component, without its dimension."""
        loc, scale = self.loc.squeeze(-1), self.scale.squeeze(-1) if self.scale.dim() else self.scale
        return _DiscretizedLogistic(loc, scale, self.levels)

    def log_mass(self, level: Tensor) -> Tensor:
        loc, scale = self._in_levels()
        below, above = (level - 0.5 - loc) / scale, (level + 0.5 - loc) / scale
        first, last = level == 0, level == self.levels - 1
        within = (-torch.expm1(-1 / scale)).log()
        ends = torch.where(first, 0, logsigmoid(-below)) + torch.where(last, 0, logsigmoid(above))
        return ends + torch.where(first | last, 0, within)

    def draw_level(self, shape: torch.Size) -> Tensor:
        loc, scale = self._in_levels()
        u = torch.rand(shape, dtype=loc.dtype, device=loc.device).clamp(min=torch.finfo(loc.dtype).tiny)
        return (loc + scale * torch.logit(u)).round().clamp(0, self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """Level by level, in the memory of a few: E[k] is the sum of P(k > j). In an exported graph all at once."""
        loc, scale = self._in_levels()
        if torch.compiler.is_exporting():  # a loop would be thousands of operations there
            steps = torch.arange(self.levels - 1, dtype=loc.dtype, device=loc.device) + 0.5
            above = ((loc.unsqueeze(-1) - steps) / scale.unsqueeze(-1)).sigmoid().sum(-1)
            return (above / (self.levels - 1)).expand(self.batch_shape)
        total = torch.zeros_like(loc + scale)
        for j in range(self.levels - 1):
            total = total + ((loc - j - 0.5) / scale).sigmoid()
        return (total / (self.levels - 1)).expand(self.batch_shape)

    def _in_levels(self) -> tuple[Tensor, Tensor]:
        return self.loc * (self.levels - 1), self.scale * (self.levels - 1)


def _margin(levels: int) -> float:
    """How far a mean is kept from 0 and 1: a ten-thousandth of a level."""
    return 1e-4 / (levels - 1)


def _location(mean: Tensor, scale: Tensor, levels: int) -> Tensor:
    """The location, in double precision, at which a discretised logistic has this mean, as far as it is inside."""
    margin, reach = _margin(levels), 1 + 50 * scale
    mean = mean.clamp(margin, 1 - margin)
    return solve(lambda loc: _DiscretizedLogistic(loc, scale.double(), levels).mean, mean, -reach, reach)


class _CategoricalLevels(_LevelElements):
    """By logits `[*batch, levels]`."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape[:-1], logits.shape[-1])

    def log_mass(self, level: Tensor) -> Tensor:
        log_p = self.logits.log_softmax(-1)
        shape = torch.broadcast_shapes(level.shape, log_p.shape[:-1])
        index = level.long().expand(shape).unsqueeze(-1)
        return log_p.expand(*shape, self.levels).gather(-1, index).squeeze(-1)

    def draw_level(self, shape: torch.Size) -> Tensor:
        logits = self.logits.expand(*shape, self.levels)
        return torch.distributions.Categorical(logits=logits, validate_args=False).sample().to(logits.dtype)

    @property
    def mean(self) -> Tensor:
        levels = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        mean = (self.logits.softmax(-1) * levels).sum(-1) / (self.levels - 1)
        return mean.expand(self.batch_shape)


_LOG_MOST, _LOG_LEAST = 20.0, -100.0
"""Of concentrations: beyond the first it is all but a binomial, and doubles lose digits; the second is as good as 0."""


class _BetaBinomial(_LevelElements):
    """By the logit of the mean and the log concentration."""

    def __init__(self, logit: Tensor, log_concentration: Tensor, levels: int):
        self.logit, self.log_concentration = logit, log_concentration
        super().__init__(torch.broadcast_shapes(logit.shape, log_concentration.shape), levels)

    def log_mass(self, level: Tensor) -> Tensor:
        """In double precision: gammas as large as the concentration cancel."""
        k, n, (a, b) = level.double(), self.levels - 1, self._concentrations()
        ways = torch.lgamma(k.new_tensor(n + 1.0)) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
        return (ways + _log_beta(k + a, n - k + b) - _log_beta(a, b)).to(self.logit.dtype)

    def draw_level(self, shape: torch.Size) -> Tensor:
        """By the logit of the rate, a difference of logarithms of gammas, which do not underflow."""
        first, second = (_log_gamma_draw(x.expand(shape)) for x in self._concentrations())
        count = torch.full_like(first, self.levels - 1)
        return torch.binomial(count, (first - second).sigmoid()).to(self.logit.dtype)

    @property
    def mean(self) -> Tensor:
        return self.logit.sigmoid().expand(self.batch_shape)

    def _concentrations(self) -> tuple[Tensor, Tensor]:
        log_c = tame(self.log_concentration.double(), _LOG_MOST)
        logs = (logsigmoid(logit.double()) + log_c for logit in (self.logit, -self.logit))
        a, b = (value.clamp(min=_LOG_LEAST).exp() for value in logs)
        return a, b


def _log_gamma_draw(concentration: Tensor) -> Tensor:
    """The logarithm of a gamma draw: that of one more, times a uniform to the power 1 / concentration."""
    more = torch.distributions.Gamma(concentration + 1, 1.0, validate_args=False).sample()
    return more.log() + torch.rand_like(more).clamp(min=1e-300).log() / concentration


def _log_beta(a: Tensor, b: Tensor) -> Tensor:
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
