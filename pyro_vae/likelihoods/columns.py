"""Columns of one kind: what `Mixed` is made of. A kind is a class, and a line in `Kind`.

A kind says how many numbers the decoder gives for a column, what density they mean, what the encoder gets in place of
the column's values, and what it takes from the training data: its units, or how often each level occurs.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae.distributions.columns import Codes, LogNormal
from pyro_vae.distributions.elements import Rescaled, solve
from pyro_vae.distributions.log_scales import positive
from pyro_vae.errors import UsageError
from pyro_vae.likelihoods.counts import NegativeBinomial
from pyro_vae.likelihoods.scaled import Size, constant
from pyro_vae.likelihoods.unit import Bernoulli
from pyro_vae.shapes import Shapes


class Columns(nn.Module, ABC):
    """Some columns of the same kind; abstract.

    Args:
        count: n, how many.
    """

    num_params: int = 1
    """Numbers of the decoder for a column."""
    num_features: int = 1
    """Numbers that the encoder gets for a column."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    @abstractmethod
    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """p(x|z) of the columns, batch shape `[*leading, n]`, from the decoder's `[*leading, n, num_params]`."""

    @abstractmethod
    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """The decoder's output `[n, num_params]` at which the columns have these means (and spreads), `[n]`."""

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """What the encoder gets, `[*leading, n, num_features]`: around 0, for any finite x `[*leading, n]`."""

    def averaged(self, elements: Any) -> Tensor:
        """Numbers whose average over codes decides the best value, `[*leading, n, num_features]`: means."""
        return elements.mean.unsqueeze(-1)

    def best(self, averages: Tensor) -> Tensor:
        """The best value `[*leading, n]`, given averages: they themselves."""
        return averages.squeeze(-1)

    @abstractmethod
    def statistics(self, x: Tensor) -> Tensor:
        """Numbers of each value, `[*leading, n, s]`, of which `start_from` needs means and spreads."""

    @abstractmethod
    def start_from(self, mean: Tensor, std: Tensor, count: Tensor) -> None:
        """Take units or frequencies from the mean and spread of the training data's `statistics`, each `[n, s]`.

        Args:
            mean: over the observed values.
            std: their standard deviation.
            count: how many values of each column are observed, `[n]`, at least 1.
        """

    def extra_repr(self) -> str:
        """How many columns."""
        return str(self.count)


class _InUnits(Columns):
    """Columns whose values, perhaps after a logarithm, are measured from their mean in standard deviations; abstract.

    Args:
        count: how many.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.register_buffer("shift", torch.zeros(count))
        self.register_buffer("factor", torch.ones(count))

    def features(self, x: Tensor) -> Tensor:
        """In units."""
        return (self.statistics(x)[..., :1] - self.shift.unsqueeze(-1)) / self.factor.unsqueeze(-1)

    def start_from(self, mean: Tensor, std: Tensor, count: Tensor) -> None:
        """The mean and the standard deviation are the units; a column that does not vary is only shifted."""
        self.shift.copy_(mean[:, 0])
        self.factor.copy_(torch.where(std[:, 0] > 0, std[:, 0], 1.0))


class _Scaled(_InUnits):
    """Columns with a location and a scale, in units; abstract.

    Args:
        count: how many.
        scale: a number (fixed), `"learned"` (one for each column) or `"per_element"`.
        min_scale: added to a scale that is not fixed.
    """

    def __init__(self, count: int, scale: Size, min_scale: float) -> None:
        super().__init__(count)
        self.scale, self.min_scale, self.num_params = scale, min_scale, 1 + (scale == "per_element")
        if scale == "learned":
            self.log_scale = nn.Parameter(torch.zeros(count))

    def scale_of(self, params: Tensor) -> Tensor:
        """The scales, `[*leading, n]` or what broadcasts to it."""
        if self.scale == "per_element":
            return positive(params[..., 1]) + self.min_scale
        if self.scale == "learned":
            return positive(self.log_scale) + self.min_scale
        return constant(float(self.scale), params)

    def initial_scale(self, wanted: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scale where training starts, `[n]` in units, and the decoder's output for it, if it gives one."""
        if self.scale != "per_element":
            return self.scale_of(self.shift).detach().to(wanted).expand_as(wanted), []
        log_scale = (wanted - self.min_scale).clamp(min=1e-2).log()
        return positive(log_scale) + self.min_scale, [log_scale]


class RealColumns(_Scaled):
    """Normal."""

    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """Normal in the columns' units."""
        return Rescaled(dist.Normal(params[..., 0], self.scale_of(params)), self.shift, self.factor)

    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """The means and spreads in units."""
        _, scale = self.initial_scale(std / self.factor)
        return torch.stack([(mean - self.shift) / self.factor, *scale], -1)

    def statistics(self, x: Tensor) -> Tensor:
        """The values."""
        return x.unsqueeze(-1)


class PositiveColumns(_Scaled):
    """Log-normal."""

    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """Normal logarithms, in units."""
        loc, scale = (self.shift + self.factor * params[..., 0]), self.factor * self.scale_of(params)
        return LogNormal(loc, scale)

    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """By the moments of the log-normal: `E[x] = exp(m + s^2 / 2)`."""
        mean = mean.clamp(min=1e-20)
        wanted = torch.log1p((std / mean).square()).sqrt() / self.factor
        units, scale = self.initial_scale(wanted)
        loc = mean.log() - (units * self.factor).square() / 2
        return torch.stack([(loc - self.shift) / self.factor, *scale], -1)

    def statistics(self, x: Tensor) -> Tensor:
        """The logarithms."""
        return x.clamp(min=1e-30).log().unsqueeze(-1)


class CountColumns(_InUnits):
    """Negative binomial, whose log mean is measured from that of the data; the encoder gets `log(1 + x)` in units.

    Args:
        count: how many.
        dispersion: as for `NegativeBinomial`.
    """

    log_mean: Tensor

    def __init__(self, count: int, dispersion: Size) -> None:
        super().__init__(count)
        self.counts = NegativeBinomial(Shapes((count,), 1), dispersion)
        self.num_params = self.counts.num_params
        self.register_buffer("log_mean", torch.zeros(count))

    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """Negative binomial."""
        return self.counts.distribution(params[..., 0] + self.log_mean, *params.unbind(-1)[1:])

    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """Log means, and per element the dispersions of the spread."""
        first, *others = self.counts.initial_params(mean, std)
        return torch.stack([first - self.log_mean, *others], -1)

    def statistics(self, x: Tensor) -> Tensor:
        """Logarithms of `1 + x`, and the counts."""
        return torch.stack([x.clamp(min=0).log1p(), x], -1)

    def start_from(self, mean: Tensor, std: Tensor, count: Tensor) -> None:
        """The units of the logarithms, and the log means (at least log 0.001)."""
        super().start_from(mean, std, count)
        self.log_mean.copy_(mean[:, 1].clamp(min=1e-3).log())


class BinaryColumns(_InUnits):
    """Bernoulli, whose logit is measured from that of the data."""

    logit: Tensor

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.bernoulli = Bernoulli(Shapes((count,), 1))
        self.register_buffer("logit", torch.zeros(count))

    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """Bernoulli."""
        return self.bernoulli.distribution(params[..., 0] + self.logit)

    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """Logits of the means, clipped to [0.001, 0.999]."""
        return (self.bernoulli.initial_params(mean, std)[0] - self.logit).unsqueeze(-1)

    def statistics(self, x: Tensor) -> Tensor:
        """The values."""
        return x.unsqueeze(-1)

    def start_from(self, mean: Tensor, std: Tensor, count: Tensor) -> None:
        """The units, and the logit of how often a one occurs, half a datum of each value added."""
        super().start_from(mean, std, count)
        self.logit.copy_(torch.logit((mean[:, 0] * count + 0.5) / (count + 1)))


class _Levelled(Columns):
    """Columns of codes 0, ..., levels - 1; abstract.

    Args:
        count: how many.
        levels: how many values, at least 2.
    """

    frequencies: Tensor

    def __init__(self, count: int, levels: int) -> None:
        super().__init__(count)
        self.levels = levels
        self.register_buffer("frequencies", torch.full((count, levels), 1 / levels))

    def statistics(self, x: Tensor) -> Tensor:
        """One where the column has the level, else zero; between codes a share of both, so that x may be learned."""
        return (1 - (x.unsqueeze(-1) - self.codes()).abs()).clamp(min=0)

    def start_from(self, mean: Tensor, std: Tensor, count: Tensor) -> None:
        """How often each level occurs, half a datum of each added."""
        count = count.unsqueeze(-1)
        self.frequencies.copy_((mean * count + 0.5) / (count + self.levels / 2))

    def codes(self) -> Tensor:
        """0, ..., levels - 1."""
        return torch.arange(self.levels, dtype=self.frequencies.dtype, device=self.frequencies.device)

    def inside(self, mean: Tensor) -> Tensor:
        """Means of codes, kept a little inside of what is possible."""
        return mean.clamp(1e-3, self.levels - 1 - 1e-3)

    def extra_repr(self) -> str:
        """How many columns and levels."""
        return f"{self.count}, levels={self.levels}"


class CategoryColumns(_Levelled):
    """Softmax of a logit for each level, measured from the log-frequencies of the data."""

    def __init__(self, count: int, levels: int) -> None:
        super().__init__(count, levels)
        self.num_params = self.num_features = levels

    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """Probabilities of the levels."""
        return Codes((params + self.frequencies.log()).log_softmax(-1))

    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """The data's frequencies, tilted by `exp(a k)` as far as the mean of the codes k differs from theirs."""
        log_frequencies, k = self.frequencies.double().log().to(mean.device), self.codes().double().to(mean.device)

        def mean_at(tilt: Tensor) -> Tensor:
            return ((log_frequencies + tilt.unsqueeze(-1) * k).softmax(-1) * k).sum(-1)

        high = mean.new_full((), 50.0)
        tilt = solve(mean_at, self.inside(mean), -high, high)
        return (tilt.unsqueeze(-1) * k).to(mean.dtype)

    def features(self, x: Tensor) -> Tensor:
        """One-hot."""
        return self.statistics(x)

    def averaged(self, elements: Codes) -> Tensor:
        """The probabilities of the levels."""
        return elements.probs

    def best(self, averages: Tensor) -> Tensor:
        """The most probable level."""
        return averages.argmax(-1).to(averages.dtype)


class OrderedColumns(_Levelled):
    """Cumulative logit: a location from the decoder among thresholds, which are learned, one set for each column."""

    def __init__(self, count: int, levels: int) -> None:
        super().__init__(count, levels)
        self.thresholds = nn.Parameter(torch.empty(count, levels - 1))
        self._start_thresholds()

    def cuts(self) -> Tensor:
        """The thresholds `[n, levels - 1]`, which rise: the first as it is, then steps by their logarithms."""
        first, steps = self.thresholds[:, :1], positive(self.thresholds[:, 1:])
        return torch.cat([first, first + steps.cumsum(-1)], -1)

    def elements(self, params: Tensor) -> dist.TorchDistribution:
        """Probabilities of the levels: `sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b))`."""
        cuts = self.cuts()
        from_cuts = cuts - params  # [*leading, n, levels - 1]
        below, above = (nn.functional.logsigmoid(sign * from_cuts) for sign in (1, -1))
        within = (-torch.expm1(-cuts.diff(dim=-1))).log()
        middle = below[..., 1:] + above[..., :-1] + within
        return Codes(torch.cat([below[..., :1], middle, above[..., -1:]], -1))

    def initial(self, mean: Tensor, std: Tensor) -> Tensor:
        """The location at which the code has this mean: the sum of the probabilities to be above each threshold."""
        cuts = self.cuts().detach().double().to(mean.device)
        reach = cuts.abs().amax(-1) + 50
        location = solve(lambda at: (at.unsqueeze(-1) - cuts).sigmoid().sum(-1), self.inside(mean), -reach, reach)
        return location.to(mean.dtype).unsqueeze(-1)

    def features(self, x: Tensor) -> Tensor:
        """The code, less its mean, in standard deviations."""
        k = self.codes()
        mean = (self.frequencies * k).sum(-1)
        std = (self.frequencies * (k - mean.unsqueeze(-1)).square()).sum(-1).sqrt()
        return ((x - mean) / std).unsqueeze(-1)

    def start_from(self, mean: Tensor, std: Tensor, count: Tensor) -> None:
        """The thresholds at which location 0 has the data's frequencies."""
        super().start_from(mean, std, count)
        self._start_thresholds()

    @torch.no_grad()
    def _start_thresholds(self) -> None:
        cuts = torch.logit(self.frequencies.double().cumsum(-1)[:, :-1])
        self.thresholds.copy_(torch.cat([cuts[:, :1], cuts.diff(dim=-1).log()], -1))


@dataclass(frozen=True)
class Kind:
    """The kind of a column.

    Args:
        name: real | positive | count | binary | category | ordered.
        levels: how many values a category or an ordered column has; None for the other kinds.
    """

    name: str
    levels: int | None = None

    @property
    def support(self) -> Any:
        """The values that such a column can have."""
        known = {
            "real": constraints.real,
            "positive": constraints.positive,
            "count": constraints.nonnegative_integer,
            "binary": constraints.boolean,
        }
        return known[self.name] if self.levels is None else constraints.integer_interval(0, self.levels - 1)

    @property
    def values(self) -> str:
        """The same in words."""
        if self.levels is not None:
            return f"whole numbers from 0 to {self.levels - 1}"
        known = {"real": "finite numbers", "positive": "numbers above 0", "count": "whole numbers from 0"}
        return known.get(self.name, "0 and 1")

    def columns(self, count: int, scale: Size, min_scale: float, dispersion: Size) -> Columns:
        """Columns of this kind; the options are those of `Mixed`."""
        if self.levels is not None:
            return (CategoryColumns if self.name == "category" else OrderedColumns)(count, self.levels)
        if self.name in ("real", "positive"):
            return (RealColumns if self.name == "real" else PositiveColumns)(count, scale, min_scale)
        return CountColumns(count, dispersion) if self.name == "count" else BinaryColumns(count)

    def __str__(self) -> str:
        return self.name if self.levels is None else f"{self.name}:{self.levels}"


KINDS = ("real", "positive", "count", "binary", "category:C", "ordered:C")
"""How kinds are written, C the number of levels."""


def kind_of(text: str) -> Kind:
    """The kind that a text such as `"real"` or `"category:4"` names.

    Raises:
        UsageError: if it names none.
    """
    name, _, levels = text.partition(":") if isinstance(text, str) else ("", "", "")
    if name in ("category", "ordered") and levels.isdecimal() and 2 <= int(levels) <= _MOST_LEVELS:
        return Kind(name, int(levels))
    if name in ("real", "positive", "count", "binary") and not levels:
        return Kind(name)
    raise UsageError(
        f"kinds: expected one of {', '.join(KINDS)} for each column, with C the number of its levels, from 2 to "
        f"{_MOST_LEVELS}, got {text!r}"
    )


_MOST_LEVELS = 10_000
