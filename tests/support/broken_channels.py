"""Channels that keep the contract, and channels that each break it in one way; entered in `broken.BREAKS`."""

import random
from dataclasses import dataclass
from math import log, pi
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from pyro_vae.channels import Channel
from pyro_vae.channels.base import refuse_values
from pyro_vae.distributions.elements import Finite
from pyro_vae.errors import DataError, UsageError
from tests.support.broken import breaks


@dataclass(frozen=True)
class RightChannel(Channel):
    """Flipped bits."""

    p: float = 0.2
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"p": 0.4},)

    def draw(self, x):
        return torch.where(torch.rand_like(x) < self.p, 1 - x, x)

    def log_density(self, y, x):
        return torch.where(y == x, log(1 - self.p), log(self.p))

    def check(self, y, likelihood):
        refuse_values(y, (y == 0) | (y == 1), lambda index: "0 or 1")


@dataclass(frozen=True)
class RightNoise(Channel):
    """Normal noise, of which only the density given x is known."""

    std: float = 0.5

    def draw(self, x):
        return x + self.std * torch.randn_like(x)

    def log_density(self, y, x):
        return -((y - x) / self.std).square() / 2 - log(self.std) - log(2 * pi) / 2


@dataclass(frozen=True)
class RightSum(Channel):
    """The sum of two neighbouring bits: another shape than that of x, and a mask that says so."""

    def observed_shape(self, event):
        if event[-1] % 2:
            raise UsageError("RightSum is for data of an even width")
        return (*event[:-1], event[-1] // 2)

    def draw(self, x):
        return x.unflatten(-1, (-1, 2)).sum(-1)

    def _pairs(self, elements):
        return elements.logits.unflatten(-1, (-1, 2)).unbind(-1)

    def log_prob(self, elements, y):
        first, second = self._pairs(elements)
        norm = torch.nn.functional.softplus(first) + torch.nn.functional.softplus(second)
        return torch.where(y == 0, 0.0, torch.where(y == 1, torch.logaddexp(first, second), first + second)) - norm

    def restored(self, elements, y):
        first, second = self._pairs(elements)
        return _OneOfTwo(y, (first - second).sigmoid(), elements.batch_shape)

    def fill_in(self, y, event):
        seen = ~y.isnan()
        return tuple(value.repeat_interleave(2, -1) for value in (torch.where(seen, y / 2, 0.0), seen))

    def spread(self, seen, event):
        return seen.repeat_interleave(2, -1)

    def check(self, y, likelihood):
        if not hasattr(likelihood, "grey"):
            raise DataError("y: for bits")
        refuse_values(y, (y == 0) | (y == 1) | (y == 2), lambda index: "0, 1 or 2")


class _OneOfTwo(torch.distributions.Distribution):
    """Two bits of known sum; of the first, the probability to be the one."""

    arg_constraints: ClassVar = {}

    def __init__(self, total, first, shape):
        self.total, self.first = total, first
        super().__init__(shape, validate_args=False)

    def sample(self, sample_shape=()):
        shape = torch.broadcast_shapes(self.total.shape, self.first.shape)
        drawn = torch.rand((*sample_shape, *shape), dtype=self.first.dtype, device=self.first.device)
        first = (drawn < self.first).to(drawn)
        first = torch.where(self.total == 1, first, self.total / 2)
        return torch.stack([first, self.total - first], -1).flatten(-2)

    def expand(self, batch_shape, _instance=None):
        shape = (*batch_shape[:-1], batch_shape[-1] // 2)
        return _OneOfTwo(self.total.expand(shape), self.first.expand(shape), torch.Size(batch_shape))

    @property
    def mean(self):
        first = torch.where(self.total == 1, self.first, self.total / 2)
        return torch.stack([first, self.total - first], -1).flatten(-2)

    @property
    def variance(self):
        one = torch.where(self.total == 1, self.first * (1 - self.first), 0.0)
        return one.repeat_interleave(2, -1)


RIGHT = (RightChannel, RightNoise, RightSum)


@breaks("takes_its_options")
@dataclass(frozen=True)
class ChannelThatOffersTooMuch(RightChannel):
    kind: Literal["bits", "bytes"] = "bits"

    def __post_init__(self):
        if self.kind != "bits":
            raise UsageError("kind must be 'bits'")


@breaks("is_a_value")
@dataclass(frozen=True, eq=False)
class ChannelEqualToItselfAlone(RightChannel):
    __eq__, __hash__ = object.__eq__, object.__hash__


@breaks("is_for_some_likelihood")
@dataclass(frozen=True)
class ChannelThatRefusesItsDraws(RightChannel):
    def check(self, y, likelihood):
        raise DataError("y: expected something else")


@breaks("is_for_some_likelihood")
@dataclass(frozen=True)
class ChannelWithoutADensity(Channel):
    def draw(self, x):
        return x


@breaks("draws_observations")
@dataclass(frozen=True)
class ChannelThatDrawsByNumpy(RightChannel):
    def draw(self, x):
        return torch.where(torch.as_tensor(np.random.random(x.shape)) < self.p, 1 - x, x)


@breaks("draws_observations")
@dataclass(frozen=True)
class ChannelThatChangesX(RightChannel):
    def draw(self, x):
        x[torch.rand_like(x) < self.p] = 0
        return x


@breaks("draws_observations")
@dataclass(frozen=True)
class ChannelOfAnotherShape(RightChannel):
    def draw(self, x):
        return super().draw(x)[..., :1]


@breaks("rows_do_not_mix")
@dataclass(frozen=True)
class ChannelThatMixesRows(RightChannel):
    def log_prob(self, elements, y):
        return super().log_prob(elements, y) + 0.1 * y.mean()


@breaks("rows_do_not_mix")
@dataclass(frozen=True)
class ChannelWithoutParticles(RightChannel):
    """Takes y for as many as there are codes."""

    def log_density(self, y, x):
        return super().log_density(y.reshape(x.shape) if x.dim() > 3 else y, x)

    def log_prob(self, elements, y):
        return super().log_prob(elements, y.reshape(elements.batch_shape))


@breaks("normalises")
@dataclass(frozen=True)
class UnnormalisedChannel(RightChannel):
    def log_density(self, y, x):
        return torch.where(y == x, 0.0, log(self.p))


@breaks("draws_follow_the_density")
@dataclass(frozen=True)
class ChannelThatDrawsMore(RightChannel):
    """Flips more than it says."""

    def draw(self, x):
        return torch.where(torch.rand_like(x) < self.p + 0.1, 1 - x, x)


@breaks("draws_follow_the_density")
@dataclass(frozen=True)
class ChannelWithCommonNoise(RightChannel):
    """All elements of a datum are flipped, or none: each by itself has the density that it says."""

    def draw(self, x):
        return torch.where(torch.rand_like(x[..., :1, :1]) < self.p, 1 - x, x)


@breaks("density_of_y_given_x")
@dataclass(frozen=True)
class ChannelOfTwoMinds(RightChannel):
    """p(y|z) is that of its draws; p(y|x) is another."""

    def log_prob(self, elements, y):
        one = elements.logits.sigmoid()
        return (
            one * torch.where(y == 1, 1 - self.p, self.p) + (1 - one) * torch.where(y == 0, 1 - self.p, self.p)
        ).log()

    def restored(self, elements, y):
        return RightChannel(self.p).restored(elements, y)

    def log_density(self, y, x):
        return RightChannel(self.p + 0.1).log_density(y, x)


@breaks("restores_by_bayes_rule")
@dataclass(frozen=True)
class ChannelThatIgnoresY(RightChannel):
    def restored(self, elements, y):
        return elements


@breaks("restores_by_bayes_rule")
@dataclass(frozen=True)
class ChannelThatRestoresEachBit(RightSum):
    """Draws the two bits of a sum as if they were independent."""

    def restored(self, elements, y):
        mean = super().restored(elements, y).mean
        return Finite(torch.tensor([0.0, 1.0]).to(mean), torch.stack([1 - mean, mean]).log())


class _MeanOff(Finite):
    @property
    def mean(self):
        return super().mean + 0.05


@breaks("restored_moments")
@dataclass(frozen=True)
class ChannelWithAnotherMean(RightChannel):
    def restored(self, elements, y):
        right = super().restored(elements, y)
        return _MeanOff(right.points, right.probs.log())


@breaks("gaps_count_for_nothing")
@dataclass(frozen=True)
class ChannelThatCountsGaps(RightChannel):
    def observe(self, elements, y, placeholder=0.0):
        nothing = y.isnan().flatten(1).all(1).reshape(-1, *[1] * (y.dim() - 1))
        return super().observe(elements, y, placeholder) - 0.1 * nothing


@breaks("fills_in")
@dataclass(frozen=True)
class ChannelThatLeavesGaps(RightChannel):
    def fill_in(self, y, event):
        return y, ~y.isnan()


@breaks("fills_in")
@dataclass(frozen=True)
class ChannelThatKnowsTooMuch(RightChannel):
    def known(self, y, event):
        return ~y.isnan()


@breaks("checks_its_data")
@dataclass(frozen=True)
class ChannelThatTakesAll(RightChannel):
    def check(self, y, likelihood):
        refuse_values(y, ((y > -0.9) & (y < 0.3)) | (y == 1), lambda index: "0 or 1")


@breaks("gradients")
@dataclass(frozen=True)
class ChannelThatDetaches(RightChannel):
    def log_prob(self, elements, y):
        return super().log_prob(elements, y).detach().requires_grad_() + 0 * elements.logits


@breaks("single_precision")
@dataclass(frozen=True)
class ChannelInDoublePrecision(RightChannel):
    def log_density(self, y, x):
        return super().log_density(y, x).double()


@breaks("stays_finite")
@dataclass(frozen=True)
class ChannelThatUnderflows(RightChannel):
    """Without noise, by probabilities instead of their logits."""

    p: float = 1e-9
    variants: ClassVar[tuple[dict[str, Any], ...]] = ()

    def log_prob(self, elements, y):
        one = elements.probs
        return (one * y + (1 - one) * (1 - y)).log()


@breaks("leaves_the_process_alone")
@dataclass(frozen=True)
class ChannelThatTakesNumbers(RightChannel):
    """Moves another generator on."""

    def draw(self, x):
        random.random()
        return super().draw(x)


@breaks("leaves_the_process_alone")
@dataclass(frozen=True)
class ChannelThatDrawsDensities(RightChannel):
    """A density by simulation, whose noise is too small to be noticed elsewhere."""

    def log_prob(self, elements, y):
        return super().log_prob(elements, y) + 1e-12 * torch.randn(())


@breaks("stays_on_its_device")
@dataclass(frozen=True)
class ChannelOnTheCPU(RightChannel):
    """Draws where torch draws by default, not where x is."""

    def draw(self, x):
        return torch.where(torch.rand(x.shape) < self.p, 1 - x, x)
