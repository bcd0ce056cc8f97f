"""Parts that are wrong in one way each, and the right ones they are made of: what `pyro_vae.testing` must tell apart.

`BREAKS` names, for each of them, the first check that it breaks; other checks may be broken by it as well.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import nn
from torch.nn.functional import softplus

from pyro_vae.channels import Channel
from pyro_vae.errors import UsageError
from pyro_vae.guides import FullNormal, Guide
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import MLP, Network
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.priors import Prior
from pyro_vae.schedules import Schedule

BREAKS: dict[str, list[tuple[type, str]]] = {}


def breaks(check):
    """Enter a part, with the first check that it breaks."""

    def enter(cls):
        axis = next(b for b in (Prior, Likelihood, Guide, Network, Objective, Schedule, Channel) if issubclass(cls, b))
        BREAKS.setdefault(axis.__name__, []).append((cls, check))
        return cls

    return enter


class Odd(dist.TorchDistribution):
    """A normal over elements, or over codes, that is wrong in what a subclass overrides."""

    arg_constraints: ClassVar = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc, scale, event_dim=0):
        self.inner = dist.Normal(loc, scale).to_event(event_dim)
        self.loc, self.scale, self.dims = self.inner.mean, self.inner.stddev, event_dim
        super().__init__(self.inner.batch_shape, self.inner.event_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        shape = (*batch_shape, *self.event_shape)
        return type(self)(self.loc.expand(shape), self.scale.expand(shape), self.dims)

    def rsample(self, sample_shape=()):
        return self.inner.rsample(torch.Size(sample_shape))

    def log_prob(self, value):
        return self.inner.log_prob(value)

    @property
    def mean(self):
        return self.loc

    @property
    def variance(self):
        return self.scale.square()


class Unnormalised(Odd):
    def log_prob(self, value):
        return super().log_prob(value) + 0.01


class DrawsTooWide(Odd):
    def rsample(self, sample_shape=()):
        return self.loc + 1.1 * (super().rsample(sample_shape) - self.loc)


class MeanOff(Odd):
    @property
    def mean(self):
        return self.loc + 0.1 * self.scale


class VarianceOff(Odd):
    @property
    def variance(self):
        return 1.2 * self.scale.square()


class SumsOverTheBatch(Odd):
    """The density of one row takes part in those of the others."""

    def log_prob(self, value):
        return super().log_prob(value) + 0.1 * value.mean()


class CannotExpand(Odd):
    def expand(self, batch_shape, _instance=None):
        raise NotImplementedError("no expand")


class WiderWhenExpanded(Odd):
    def expand(self, batch_shape, _instance=None):
        wide = super().expand(batch_shape)
        return type(self)(wide.loc, 2 * wide.scale, self.dims)


class IgnoresMasks(Odd):
    def mask(self, mask):
        return self


def read(tensor):
    """The value of a scalar, in a way that leaves no trace: in a recorded graph it stays what it was."""
    return float(np.asarray(tensor.detach()))


# ---- likelihoods ---------------------------------------------------------------------------------------------------


class Infinite(Odd):
    def log_prob(self, value):
        return super().log_prob(value) + torch.inf


class RightLikelihood(Likelihood):
    """Normal elements with a mean and a log scale."""

    num_params = 2
    remedy = "remove NaN"
    kind: ClassVar[type] = Odd

    def distribution(self, *params):
        return self.kind(params[0], params[1].exp() + 1e-3)

    def initial_params(self, mean, std):
        return torch.stack([mean, std.clamp(min=1e-2).log()])


@breaks("takes_its_options")
class LikelihoodThatOffersTooMuch(RightLikelihood):
    def __init__(self, shapes, scale: Literal["narrow", "wide"] = "narrow"):
        super().__init__(shapes)
        if scale != "narrow":
            raise UsageError("scale must be 'narrow'")


@breaks("elementwise")
class LikelihoodOverTheWholeEvent(RightLikelihood):
    def distribution(self, *params):
        return super().distribution(*params).to_event(len(self.shapes.event))


@breaks("elementwise")
class LikelihoodOfOneRow(RightLikelihood):
    """Forgets leading dimensions."""

    def distribution(self, *params):
        return super().distribution(*(p.reshape(-1, *self.shapes.event)[0] for p in params))


@breaks("elementwise")
class LikelihoodOutsideItsSupport(RightLikelihood):
    support = constraints.positive
    placeholder = 1.0


@breaks("elements_do_not_mix")
class LikelihoodThatSmears(RightLikelihood):
    def distribution(self, *params):
        return super().distribution(params[0] + 0.1 * params[0].roll(1, -1), params[1])


@breaks("elements_do_not_mix")
class LikelihoodThatCouplesElements(RightLikelihood):
    kind = SumsOverTheBatch


@breaks("normalises")
class UnnormalisedLikelihood(RightLikelihood):
    kind = Unnormalised


class ClippedPoisson(dist.Poisson):
    def sample(self, sample_shape=()):
        return super().sample(sample_shape).clamp(max=5)


@breaks("normalises")
class UnnormalisedCounts(Likelihood):
    """Counts up to 5, as if there were none above."""

    support = constraints.integer_interval(0, 5)

    def distribution(self, *params):
        return ClippedPoisson(params[0].exp(), validate_args=False)


@breaks("feeds_encoders")
class LikelihoodThatFeedsLogarithms(RightLikelihood):
    """Of values that may be negative."""

    def encoder_input(self, x, mask=None):
        return x.log()


@breaks("feeds_encoders")
class LikelihoodThatFeedsAnotherShape(RightLikelihood):
    def encoder_input(self, x, mask=None):
        return x.flatten(-len(self.shapes.event))


@breaks("starts_from_data")
class LikelihoodThatCountsGaps(RightLikelihood):
    """Takes a scale from data, and with it what stands at the gaps."""

    def start_from(self, parts):
        if torch.cat([x for x, _ in parts]).mean().isnan():
            self.kind = Infinite


@breaks("draws_follow_the_density")
class LikelihoodThatDrawsTooWide(RightLikelihood):
    kind = DrawsTooWide


@breaks("mean")
class LikelihoodWithAnotherMean(RightLikelihood):
    kind = MeanOff


@breaks("gradients")
class LikelihoodThatIgnoresItsScale(RightLikelihood):
    def distribution(self, *params):
        return self.kind(params[0], torch.ones_like(params[1]))


@breaks("gradients")
class LikelihoodThatCutsAGradient(RightLikelihood):
    """Half of the gradient of the mean is lost."""

    def distribution(self, *params):
        return super().distribution((params[0] + params[0].detach()) / 2, params[1])


@breaks("gradients")
class LikelihoodWithAnIdleParameter(RightLikelihood):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.idle = nn.Parameter(torch.zeros(()))


@breaks("checks_its_data")
class LikelihoodThatTakesAnything(RightLikelihood):
    def check(self, x, name="x"):
        return None


@breaks("checks_its_data")
class LikelihoodWithABadPlaceholder(RightLikelihood):
    placeholder = float("nan")


@breaks("placeholder_counts_for_nothing")
class LikelihoodWithAnInfinitePlaceholder(Likelihood):
    """A gamma density, infinite or zero at its placeholder, 0."""

    num_params, support = 2, constraints.nonnegative

    def distribution(self, *params):
        return dist.Gamma(softplus(params[0]) + 0.5, softplus(params[1]) + 0.5, validate_args=False)


@breaks("starts_at_the_mean")
class LikelihoodThatStartsElsewhere(RightLikelihood):
    def initial_params(self, mean, std):
        return super().initial_params(mean + std, std)


@breaks("starts_at_the_mean")
class LikelihoodThatStartsAtInfinity(RightLikelihood):
    """Elements that never change have a standard deviation of 0."""

    def initial_params(self, mean, std):
        return torch.stack([mean, std.log()])


class CancellingNormal(Odd):
    """The square multiplied out: its terms are large and cancel."""

    def log_prob(self, value):
        a, b, c = value.square(), 2 * value * self.loc, self.loc.square()
        precision = self.scale.square().reciprocal()
        return -0.5 * (a * precision - b * precision + c * precision) - self.scale.log() - 0.9189385332046727


@breaks("single_precision")
class LikelihoodThatCancels(RightLikelihood):
    num_params = 1

    def distribution(self, *params):
        return CancellingNormal(params[0], torch.full_like(params[0], 3e-3))

    def initial_params(self, mean, std):
        return mean.unsqueeze(0)


class NaiveBernoulli(dist.Bernoulli):
    def log_prob(self, value):
        return torch.where(value > 0, self.logits.sigmoid().log(), (1 - self.logits.sigmoid()).log())


@breaks("stays_finite")
class LikelihoodThatOverflows(Likelihood):
    support = constraints.boolean

    def distribution(self, *params):
        return NaiveBernoulli(logits=params[0], validate_args=False)


@breaks("copies_and_loads")
class LikelihoodWithHiddenState(RightLikelihood):
    """What it draws when built is not saved."""

    def __init__(self, shapes):
        super().__init__(shapes)
        self.register_buffer("shift", torch.randn(()), persistent=False)

    def distribution(self, *params):
        return super().distribution(params[0] + self.shift, params[1])

    def initial_params(self, mean, std):
        return super().initial_params(mean - self.shift, std)


@breaks("moves_and_casts")
class LikelihoodWithAPlainTensor(RightLikelihood):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.floor = torch.tensor(1e-3)


@breaks("moves_and_casts")
class LikelihoodInSinglePrecision(RightLikelihood):
    """Right in every way but the type of its draws."""

    def distribution(self, *params):
        return SingleDraws(params[0], params[1].exp() + 1e-3)


class SingleDraws(Odd):
    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape).float()


@breaks("can_be_recorded")
class LikelihoodThatReadsByNumpy(RightLikelihood):
    """A value is read off a parameter, and stays as it was in a recorded graph."""

    def __init__(self, shapes):
        super().__init__(shapes)
        self.shift = nn.Parameter(torch.zeros(()))

    def distribution(self, *params):
        return super().distribution(params[0] + 2 * self.shift - read(self.shift), params[1])


@breaks("leaves_out_what_is_not_observed")
class LikelihoodThatIgnoresMasks(RightLikelihood):
    kind = IgnoresMasks


class LikelihoodOnTheCPU(RightLikelihood):
    """Feeds the encoder what was put together on the CPU."""

    def encoder_input(self, x, mask=None):
        return torch.stack([x.new_zeros(()), torch.ones(())])[1] * super().encoder_input(x, mask)


# ---- priors --------------------------------------------------------------------------------------------------------


class RightPrior(Prior):
    """A normal with learned mean and scale."""

    kind: ClassVar[type] = Odd

    def __init__(self, shapes):
        super().__init__(shapes)
        self.loc = nn.Parameter(torch.zeros(shapes.latent))
        self.log_scale = nn.Parameter(torch.zeros(shapes.latent))

    def forward(self, encode, context=None):
        return self.kind(self.loc, self.log_scale.exp(), 1)


@breaks("takes_its_options")
class PriorThatOffersTooMuch(RightPrior):
    def __init__(self, shapes, heavy: bool = False):
        super().__init__(shapes)
        if heavy:
            raise UsageError("heavy must be False")


@breaks("shapes")
class PriorOverSingleDimensions(RightPrior):
    def forward(self, encode, context=None):
        return dist.Normal(self.loc, self.log_scale.exp())


@breaks("rows_do_not_mix")
class PriorThatCouplesRows(RightPrior):
    kind = SumsOverTheBatch


@breaks("rows_do_not_mix")
class PriorThatCannotExpand(RightPrior):
    kind = CannotExpand


@breaks("rows_do_not_mix")
class PriorThatChangesInAPlate(RightPrior):
    kind = WiderWhenExpanded


@breaks("normalises")
class UnnormalisedPrior(RightPrior):
    kind = Unnormalised


class SumsOneDimension(Odd):
    """Right on the line, and no density in more dimensions."""

    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value)[..., 0]


@breaks("normalises")
class PriorOfTheFirstDimension(RightPrior):
    kind = SumsOneDimension


@breaks("draws_follow_the_density")
class PriorThatDrawsTooWide(RightPrior):
    kind = DrawsTooWide


class Correlated(Odd):
    """Draws whose dimensions go together, while the density says that they do not."""

    def rsample(self, sample_shape=()):
        noise = (super().rsample(sample_shape) - self.loc) / self.scale
        mixed = (noise[..., 1:] + 0.5 * noise[..., :1]) / 1.25**0.5
        return self.loc + self.scale * torch.cat([noise[..., :1], mixed], -1)


@breaks("draws_follow_the_density")
class PriorOfIndependenceOnly(RightPrior):
    kind = Correlated


@breaks("moments")
class PriorWithAnotherMean(RightPrior):
    kind = MeanOff


@breaks("moments")
class PriorWithAnotherVariance(RightPrior):
    kind = VarianceOff


@breaks("gradients")
class PriorThatCutsAGradient(RightPrior):
    def forward(self, encode, context=None):
        return self.kind(self.loc, self.log_scale.detach().exp(), 1)


class RightConditionalPrior(Prior):
    """A normal whose mean is an affine map of the context."""

    def __init__(self, shapes):
        super().__init__(shapes)
        if shapes.context is None:
            raise UsageError("a prior p(z|c) needs a context")
        self.map = MLP(shapes.context, (shapes.latent,), hidden=())

    def forward(self, encode, context=None):
        return dist.Normal(self.map(context), 1.0).to_event(1)


@breaks("depends_on_its_context")
class PriorThatIgnoresItsContext(RightConditionalPrior):
    def forward(self, encode, context=None):
        return super().forward(encode, torch.ones_like(context))


@breaks("copies_and_loads")
class PriorWithHiddenState(RightPrior):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.register_buffer("shift", torch.randn(shapes.latent), persistent=False)

    def forward(self, encode, context=None):
        return self.kind(self.loc + self.shift, self.log_scale.exp(), 1)


@breaks("moves_and_casts")
class PriorWithAPlainTensor(RightPrior):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.zero = torch.zeros(shapes.latent)


@breaks("can_be_recorded")
class PriorThatReadsByNumpy(RightPrior):
    def forward(self, encode, context=None):
        first = self.log_scale[0]
        return self.kind(self.loc + first - read(first), self.log_scale.exp(), 1)


class PriorOnTheCPU(RightPrior):
    """Makes a tensor where torch makes them by default, not where its parameters are."""

    def forward(self, encode, context=None):
        return self.kind(self.loc + torch.zeros(self.loc.shape), self.log_scale.exp(), 1)


# ---- guides --------------------------------------------------------------------------------------------------------


class RightGuide(Guide):
    """Independent normals."""

    kind: ClassVar[type] = Odd

    def __init__(self, shapes):
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def distribution(self, params):
        loc, log_scale = params.unbind(-2)
        return self.kind(loc, log_scale.exp(), 1)


@breaks("takes_its_options")
class GuideThatOffersTooMuch(RightGuide):
    def __init__(self, shapes, rank: Literal[1, 2] = 1):
        super().__init__(shapes)
        if rank > 1:
            raise UsageError("rank must be 1")


class NotReparameterised(Odd):
    has_rsample = False

    def sample(self, sample_shape=()):
        return self.rsample(sample_shape).detach()


@breaks("shapes")
class GuideWithoutPaths(RightGuide):
    kind = NotReparameterised


@breaks("shapes")
class GuideOfOneRow(RightGuide):
    def distribution(self, params):
        return super().distribution(params.reshape(-1, *self.param_shape)[0])


@breaks("rows_do_not_mix")
class GuideThatCouplesRows(RightGuide):
    def distribution(self, params):
        leading = tuple(range(params.dim() - 2))
        return super().distribution(params - 0.1 * params.mean(leading) if leading else params)


@breaks("normalises")
class UnnormalisedGuide(RightGuide):
    kind = Unnormalised


@breaks("draws_follow_the_density")
class GuideThatDrawsTooWide(RightGuide):
    kind = DrawsTooWide


@breaks("starts_as_wide_as_the_prior")
class GuideThatStartsWide(RightGuide):
    def initial_params(self):
        return torch.full(self.param_shape, 3.0)


class KnownAtDrawsOnly(Odd):
    """A density that is known at the last draw only, as those of some flows are."""

    off = 0.0

    def rsample(self, sample_shape=()):
        value = super().rsample(sample_shape)
        self.last = value, self.inner.log_prob(value) + self.off
        return value

    def log_prob(self, value):
        if value is not getattr(self, "last", (None,))[0]:
            raise NotImplementedError("the density is known at the last draw only")
        return self.last[1]


class UnnormalisedAtDraws(KnownAtDrawsOnly):
    off = 0.3


class RightGuideAtDraws(RightGuide):
    kind = KnownAtDrawsOnly


@breaks("draws_follow_the_density")
class UnnormalisedGuideAtDraws(RightGuide):
    kind = UnnormalisedAtDraws


class ForgetsThePath(KnownAtDrawsOnly):
    """At its draws the right value, with half of its gradient."""

    def log_prob(self, value):
        last, known = getattr(self, "last", (None, None))
        return (known + known.detach()) / 2 if value is last else self.inner.log_prob(value)


@breaks("density_at_a_copy")
class GuideWithoutGradientAtDraws(RightGuide):
    kind = ForgetsThePath


@breaks("moments")
class GuideWithAnotherVariance(RightGuide):
    kind = VarianceOff


@breaks("gradients")
class GuideThatIgnoresItsScale(RightGuide):
    def distribution(self, params):
        return self.kind(params[..., 0, :], torch.ones_like(params[..., 1, :]), 1)


@breaks("gradients")
class GuideWithAnIdleParameter(RightGuide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.idle = nn.Parameter(torch.zeros(()))


class PathTwice(Odd):
    """Draws whose gradient for the scale is twice what it should be."""

    def rsample(self, sample_shape=()):
        noise = ((super().rsample(sample_shape) - self.loc) / self.scale).detach()
        return self.loc + (2 * self.scale - self.scale.detach()) * noise


@breaks("gradient_of_an_average")
class GuideWithABiasedPath(RightGuide):
    kind = PathTwice


@breaks("single_precision")
class GuideThatLosesDigits(FullNormal):
    """torch's dense normal, which finds the noise of its own draw by solving for it."""

    def distribution(self, params):
        normal = super().distribution(params)
        return dist.MultivariateNormal(normal.loc, scale_tril=normal.scale_tril)


@breaks("single_precision")
class GuideThatCannotExpand(RightGuide):
    kind = CannotExpand


@breaks("copies_and_loads")
class GuideWithHiddenState(RightGuide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.register_buffer("shift", torch.randn(shapes.latent), persistent=False)

    def distribution(self, params):
        return self.kind(params[..., 0, :] + self.shift, params[..., 1, :].exp(), 1)


@breaks("moves_and_casts")
class GuideWithAPlainTensor(RightGuide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.zero = torch.zeros(shapes.latent)


@breaks("can_be_recorded")
class GuideThatReadsByNumpy(RightGuide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.shift = nn.Parameter(torch.zeros(()))

    def distribution(self, params):
        shift = 2 * self.shift - read(self.shift)
        return self.kind(params[..., 0, :] + shift, params[..., 1, :].exp(), 1)


class GuideOnTheCPU(RightGuide):
    """By a product of matrices, which torch's meta device multiplies wherever they are."""

    def distribution(self, params):
        loc, log_scale = params.unbind(-2)
        return self.kind(loc @ torch.eye(loc.shape[-1], dtype=loc.dtype), log_scale.exp(), 1)


# ---- networks ------------------------------------------------------------------------------------------------------


class RightNetwork(MLP):
    """A perceptron with a hidden layer of five."""

    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape, hidden=(5,))


@breaks("takes_its_options")
class NetworkThatTakesNothing(RightNetwork):
    def __init__(self, in_shape, out_shape):
        raise UsageError("not of these shapes")


@breaks("keeps_leading_dimensions")
class NetworkOfOneBatchDimension(RightNetwork):
    def forward(self, x):
        return super().forward(x).reshape(-1, *self.out_shape)


@breaks("keeps_leading_dimensions")
class NetworkThatCouplesRows(RightNetwork):
    def forward(self, x):
        out = super().forward(x)
        return out - 0.1 * out.mean()


@breaks("gradients")
class NetworkWithAnIdleLayer(RightNetwork):
    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.idle = nn.Linear(2, 2)


@breaks("depends_on_every_input")
class NetworkThatReadsTheFirstInput(RightNetwork):
    def forward(self, x):
        return super().forward(x[..., :1].expand(x.shape))


@breaks("starts_at_an_output_bias")
class NetworkThatSetsNoBias(RightNetwork):
    def set_output_bias(self, bias):
        return None


@breaks("starts_constant")
class NetworkThatStartsElsewhere(RightNetwork):
    def start_output_at(self, values):
        super().start_output_at(values + 1.0)


@breaks("computes_in_bfloat16")
class NetworkThatCancels(RightNetwork):
    def forward(self, x):
        return (super().forward(x) + 64.0) - 64.0


@breaks("copies_and_loads")
class NetworkWithHiddenState(RightNetwork):
    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.register_buffer("shift", torch.randn(()), persistent=False)

    def forward(self, x):
        return super().forward(x) + self.shift


@breaks("moves_and_casts")
class NetworkWithAPlainTensor(RightNetwork):
    def __init__(self, in_shape, out_shape):
        super().__init__(in_shape, out_shape)
        self.zero = torch.zeros(())


@breaks("can_be_recorded")
class NetworkThatReadsByNumpy(RightNetwork):
    def forward(self, x):
        bias = self.output.bias
        return super().forward(x) + bias.sum() - read(bias.sum())


class NetworkOnTheCPU(RightNetwork):
    """Its output is new, and not where the input was."""

    def forward(self, x):
        return torch.ones(()) * torch.ones((*x.shape[: x.dim() - len(self.in_shape)], *self.out_shape))


# ---- objectives ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RightObjective(Objective):
    """The ELBO, with a weight that may be a schedule."""

    beta: float | Schedule = 1.0

    @property
    def is_bound(self):
        return self.beta == 1

    def __call__(self, model, guide, *args, **kwargs):
        return ELBO(self.beta)(model, guide, *args, **kwargs)

    def tensor_loss(self, model, guide, *args, **kwargs):
        return ELBO(self.beta).tensor_loss(model, guide, *args, **kwargs)


@breaks("takes_its_options")
@dataclass(frozen=True)
class ObjectiveThatOffersTooMuch(RightObjective):
    kind: Literal["sum", "mean"] = "sum"

    def __post_init__(self):
        if self.kind != "sum":
            raise UsageError("kind must be 'sum'")


@breaks("is_a_value")
class ObjectiveThatIsNoDataclass(Objective):
    def __call__(self, model, guide, *args, **kwargs):
        return ELBO()(model, guide, *args, **kwargs)


@breaks("is_a_value")
@dataclass(frozen=True, eq=False)
class ObjectiveEqualToItselfAlone(RightObjective):
    __eq__, __hash__ = object.__eq__, object.__hash__


@breaks("is_a_value")
@dataclass(frozen=True)
class ObjectiveThatCannotBeSaved(RightObjective):
    """A field that is not what a run directory gives back."""

    weights: Any = field(default_factory=lambda: [1.0, 2.0], hash=False)


@breaks("is_a_loss")
@dataclass(frozen=True)
class ObjectiveOfEachRow(RightObjective):
    def __call__(self, model, guide, *args, **kwargs):
        return super().__call__(model, guide, *args, **kwargs).expand(len(args[0]))


@breaks("is_a_loss")
@dataclass(frozen=True)
class ObjectiveThatForgetsTheGuide(RightObjective):
    def __call__(self, model, guide, *args, **kwargs):
        def detached(*args, **kwargs):
            with torch.no_grad():
                return guide(*args, **kwargs)

        return super().__call__(model, detached, *args, **kwargs)


@breaks("sums_over_the_rows")
@dataclass(frozen=True)
class ObjectiveThatAverages(RightObjective):
    def __call__(self, model, guide, *args, **kwargs):
        return super().__call__(model, guide, *args, **kwargs) / len(args[0])


@breaks("passes_arguments_on")
@dataclass(frozen=True)
class ObjectiveThatDropsArguments(RightObjective):
    def __call__(self, model, guide, *args, **kwargs):
        return super().__call__(model, guide, args[0])


@breaks("tensor_loss_is_the_loss")
@dataclass(frozen=True)
class ObjectiveWithAnotherTensorLoss(RightObjective):
    def tensor_loss(self, model, guide, *args, **kwargs):
        return 1.01 * super().tensor_loss(model, guide, *args, **kwargs)


@breaks("tensor_loss_is_the_loss")
@dataclass(frozen=True)
class ObjectiveWithAnotherTensorGradient(RightObjective):
    def tensor_loss(self, model, guide, *args, **kwargs):
        loss = super().tensor_loss(model, guide, *args, **kwargs)
        return 2 * loss - loss.detach()


@breaks("can_be_recorded")
@dataclass(frozen=True)
class ObjectiveThatReadsByNumpy(RightObjective):
    """A stable sum: what is subtracted and added back is read off the data, and stays so in a recorded graph."""

    def tensor_loss(self, model, guide, *args, **kwargs):
        loss = super().tensor_loss(model, guide, *args, **kwargs)
        return loss + args[0].mean() - read(args[0].mean())


@breaks("is_met_by_the_exact_posterior")
@dataclass(frozen=True)
class ObjectiveThatIsNoBound(RightObjective):
    """Half a nat for each row more than what a bound is."""

    def __call__(self, model, guide, *args, **kwargs):
        return super().__call__(model, guide, *args, **kwargs) + 0.5 * len(args[0])

    def tensor_loss(self, model, guide, *args, **kwargs):
        return super().tensor_loss(model, guide, *args, **kwargs) + 0.5 * len(args[0])


@breaks("takes_any_pair")
@dataclass(frozen=True)
class ObjectiveForAVAEOnly(RightObjective):
    def __call__(self, model, guide, *args, **kwargs):
        return super().__call__(model, guide, *args, **kwargs) + 0 * model.__self__.encode(args[0]).mean.sum()


@breaks("leaves_the_programs_alone")
@dataclass(frozen=True)
class ObjectiveThatClips(RightObjective):
    """Changes the weights it is given."""

    def __call__(self, model, guide, *args, **kwargs):
        with torch.no_grad():
            for parameter in model.__self__.parameters():
                parameter.clamp_(-0.3, 0.3)
        return super().__call__(model, guide, *args, **kwargs)

    def tensor_loss(self, model, guide, *args, **kwargs):
        return self(model, guide, *args, **kwargs)


@breaks("follows_its_schedules")
@dataclass(frozen=True)
class ObjectiveThatStandsStill(RightObjective):
    def at(self, epoch, total):
        return RightObjective.at(self, 0.0, total)


@breaks("follows_its_schedules")
@dataclass(frozen=True)
class ObjectiveThatTakesASchedule(RightObjective):
    """Called while its weight is a schedule, it silently takes 1."""

    def __call__(self, model, guide, *args, **kwargs):
        beta = 1.0 if isinstance(self.beta, Schedule) else self.beta
        return ELBO(beta)(model, guide, *args, **kwargs)


@breaks("stays_on_its_device")
@dataclass(frozen=True)
class ObjectiveOnTheCPU(RightObjective):
    def tensor_loss(self, model, guide, *args, **kwargs):
        return (super().tensor_loss(model, guide, *args, **kwargs) + torch.zeros(1)).sum()


# ---- schedules -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RightSchedule(Schedule):
    """Zero, then one."""

    when: float = 5.0

    def __call__(self, epoch, total):
        return float(epoch >= self.when)


@breaks("takes_its_options")
@dataclass(frozen=True)
class ScheduleThatOffersTooMuch(RightSchedule):
    down: bool = False

    def __post_init__(self):
        if self.down:
            raise UsageError("down must be False")


@breaks("is_a_value")
@dataclass(frozen=True, eq=False)
class ScheduleEqualToItselfAlone(RightSchedule):
    __eq__, __hash__ = object.__eq__, object.__hash__


@breaks("is_a_finite_number")
@dataclass(frozen=True)
class ScheduleThatBlowsUp(RightSchedule):
    def __call__(self, epoch, total):
        return 1 / epoch if epoch else float("inf")


@breaks("is_a_finite_number")
@dataclass(frozen=True)
class ScheduleThatCounts(RightSchedule):
    calls: ClassVar[list[int]] = []

    def __call__(self, epoch, total):
        self.calls.append(1)
        return float(len(self.calls))


@breaks("settles_for_good")
@dataclass(frozen=True)
class ScheduleThatSettlesTooSoon(RightSchedule):
    def settled(self, epoch, total):
        return epoch >= 2


WHOLE = [
    (PriorThatCannotExpand, "draws_inside_plates"),
    (PriorThatChangesInAPlate, "weighs_by_its_densities"),
    (LikelihoodThatIgnoresMasks, "leaves_out_what_is_not_observed"),
    (GuideWithAnIdleParameter, "trains_by_the_elbo"),
    (NetworkWithAnIdleLayer, "trains_by_the_elbo"),
    (LikelihoodThatReadsByNumpy, "step_can_be_recorded"),
    (NetworkWithHiddenState, "description_rebuilds"),
    (PriorWithAPlainTensor, "vae_moves_and_casts"),
    (PriorOnTheCPU, "vae_stays_on_its_device"),
    (LikelihoodOnTheCPU, "vae_stays_on_its_device"),
    (GuideOnTheCPU, "vae_stays_on_its_device"),
    (NetworkOnTheCPU, "vae_stays_on_its_device"),
]
"""Parts that break checks of a whole VAE, beside what they break by themselves."""
RIGHT = (
    RightLikelihood,
    RightPrior,
    RightGuide,
    RightGuideAtDraws,
    RightNetwork,
    RightObjective,
    RightSchedule,
    partial(RightObjective, beta=0.5),
    partial(RightSchedule, when=1.0),
)
