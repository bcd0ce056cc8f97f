"""Priors p(z). To add one, subclass `Prior` and implement `forward`."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import sqrt
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Tensor, nn

from pyro_vae.arguments import scalar
from pyro_vae.calling import Called
from pyro_vae.errors import UsageError
from pyro_vae.exponentials import tame_scale
from pyro_vae.flow_library import zuko
from pyro_vae.mixtures import Mixture
from pyro_vae.networks import MLP, Network
from pyro_vae.once import recall, remember
from pyro_vae.remedies import spoken
from pyro_vae.shapes import Shapes

Encode = Callable[[Tensor], dist.TorchDistribution]


class Prior(Called, nn.Module, ABC):
    """A distribution p(z) over codes, as a module.

    A subclass takes `(shapes, **its own options)` and implements `forward`. Its parameters are trained with the rest.
    One that starts from data also sets `start_count` and implements `start_from`; `fit` calls it.

    Args:
        shapes: the sizes of the VAE.
    """

    role = "prior"

    start_count: int = 0
    """How many rows of training data `start_from` wants; 0 for none."""

    def __init__(self, shapes: Shapes) -> None:
        super().__init__()
        self.shapes = shapes

    @abstractmethod
    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """The prior, with event shape `(latent,)` and batch shape `()`, or that of the context where it depends on it.

        Args:
            encode: the VAE's map x -> q(z|x) by its encoder alone (`amortize`), which only priors built from the
                aggregate posterior use.
            context: c, `[*leading, *context]`; only priors p(z|c) use it.
        """

    def start_from(self, x: Tensor) -> None:
        """Take the start of a training from its data; by default nothing is taken.

        Args:
            x: rows of the training data, `[start_count, *event]`, or all there are if they are fewer.
        """


class StandardNormal(Prior):
    r"""The standard normal prior.

    .. math:: p(z) = N(z; 0, I)

    Args:
        shapes: the sizes of the VAE.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes.
    """

    zero: Tensor

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.register_buffer("zero", torch.zeros(shapes.latent), persistent=False)

    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """N(0, I) over `(latent,)`."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class Laplace(Prior):
    r"""Independent Laplace distributions: heavier tails than the normal's, and a sharper peak.

    .. math:: p(z) = \prod_i \frac1{2b} \exp(-|z_i| / b)

    Args:
        shapes: the sizes of the VAE.
        scale: b, a positive number; or `"unit_variance"` for 1 / sqrt(2).

    Raises:
        UsageError: if the scale is neither.

    Example:
        >>> Laplace(Shapes((8,), 3))(lambda x: x).sample((5,)).shape
        torch.Size([5, 3])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"scale": 2.5},)
    zero: Tensor

    def __init__(self, shapes: Shapes, scale: float | Literal["unit_variance"] = "unit_variance") -> None:
        super().__init__(shapes)
        scale = scalar(scale)
        if scale != "unit_variance" and not (isinstance(scale, int | float) and scale > 0):
            raise UsageError(f"Laplace needs scale to be a positive number or 'unit_variance', got {scale!r}")
        self.scale = 1 / sqrt(2) if scale == "unit_variance" else float(scale)
        self.register_buffer("zero", torch.zeros(shapes.latent), persistent=False)

    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """Laplace(0, b) over `(latent,)`."""
        return dist.Laplace(self.zero, torch.full_like(self.zero, self.scale)).to_event(1)


class LearnedNormal(Prior):
    r"""A normal with independent coordinates, whose mean and scale are learned; it starts at the standard normal.

    .. math:: p(z) = N(z; m, \mathrm{diag}(\exp(s))^2)

    Args:
        shapes: the sizes of the VAE.
    """

    def __init__(self, shapes: Shapes) -> None:
        super().__init__(shapes)
        self.loc = nn.Parameter(torch.zeros(shapes.latent))
        self.log_scale = nn.Parameter(torch.zeros(shapes.latent))

    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """N(m, diag(exp(s))^2) over `(latent,)`."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)


class ConditionalNormal(Prior):
    r"""A normal with independent coordinates that depends on what the data are conditioned on.

    .. math:: p(z|c) = N(z; \mu(c), \mathrm{diag}(\exp(s(c)))^2)

    Above s = 10 the exponential is continued by its tangent, and by a power below -30: it does not overflow.

    Args:
        shapes: the sizes of the VAE, with a context.
        network: what gives `(mu, s)`, called with `(context_shape, (2, latent))`.

    Raises:
        UsageError: if the VAE has no context, or `forward` is given none.

    References:
        Sohn et al. 2015, Learning structured output representation using deep conditional generative models.

    Example:
        >>> prior = ConditionalNormal(Shapes((8,), 3, context=(10,)))
        >>> prior(lambda x: x, torch.zeros(5, 10)).sample().shape
        torch.Size([5, 3])
    """

    def __init__(self, shapes: Shapes, network: Callable[[tuple[int, ...], tuple[int, ...]], Network] = MLP) -> None:
        super().__init__(shapes)
        if shapes.context is None:
            raise UsageError(
                "ConditionalNormal is p(z|c), but the VAE has no context: "
                + spoken("give it the shape of one, context=(10,)", "give it one, --context labels")
                + ", or take LearnedNormal"
            )
        self.network = network(shapes.context, (2, shapes.latent))

    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """N(mu(c), diag(exp(s(c)))^2), batch shape that of the context's leading dimensions."""
        if context is None:
            raise UsageError(
                f"ConditionalNormal is p(z|c): pass the context, [*leading, {_sizes(self.shapes.context)}]"
            )
        loc, log_scale = self.network(context).unbind(-2)
        return dist.Normal(loc, tame_scale(log_scale).exp()).to_event(1)


class MixtureOfNormals(Prior):
    r"""A mixture of normals with independent coordinates; weights, means and scales are learned.

    .. math:: p(z) = \sum_k w_k \, N(z; m_k, \mathrm{diag}(\exp(s_k))^2)

    It starts with equal weights, scales of 1 and means drawn from N(0, spread^2).

    Args:
        shapes: the sizes of the VAE.
        components: how many, at least 1.
        spread: standard deviation of the means at the start, not negative.

    Raises:
        UsageError: if `components` or `spread` is out of range.

    References:
        Dilokthanakul et al. 2016, Deep unsupervised clustering with Gaussian mixture VAEs. Jiang et al. 2017, VaDE.

    Example:
        >>> prior = MixtureOfNormals(Shapes((8,), 3), components=4)
        >>> prior.responsibilities(torch.zeros(5, 3)).shape
        torch.Size([5, 4])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"components": 3, "spread": 2.0},)

    def __init__(self, shapes: Shapes, components: int = 10, spread: float = 1.0) -> None:
        super().__init__(shapes)
        _check_components("MixtureOfNormals", components)
        if not spread >= 0:
            raise UsageError(f"MixtureOfNormals needs spread >= 0, got {spread}")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(spread * torch.randn(components, shapes.latent))
        self.log_scale = nn.Parameter(torch.zeros(components, shapes.latent))

    def forward(self, encode: Encode | None = None, context: Tensor | None = None) -> Mixture:
        """The mixture, over `(latent,)`."""
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return Mixture(self.logits.log_softmax(-1), normals)

    def component_log_probs(self, z: Tensor) -> Tensor:
        """Log p(k, z), nats: which component, and the code. Over k, logsumexp gives log p(z), softmax p(k|z).

        Args:
            z: codes, `[*leading, latent]`.

        Returns:
            `[*leading, components]`.
        """
        return self().component_log_probs(z)

    def responsibilities(self, z: Tensor) -> Tensor:
        """The probability p(k|z) of each component given a code, `[*leading, components]`; its argmax is a clustering.

        Args:
            z: codes, `[*leading, latent]`.
        """
        return self.component_log_probs(z).softmax(-1)


class VampPrior(Prior):
    r"""A mixture of the VAE's own q(z|u) at pseudo-inputs u, which are learned; it starts near the aggregate posterior.

    .. math:: p(z) = \sum_k w_k \, q(z | u_k), \qquad u_k \in [low, high]^{event}

    The pseudo-inputs are held in their bounds by projection: they are clamped, and a gradient that would push one
    further out is dropped. The paper's hard tanh drops *every* gradient out there, so that a pixel at its bound (most
    are, in images) moves out by its first step and never again; a sigmoid keeps all of them inside, but reaches
    neither 0 nor 1, so that no pseudo-input could be an image of the data. The paper's linear map of one-hot vectors is
    this table of pseudo-inputs.

    In a run of the model the encoder sees the pseudo-inputs once, and in an estimate of log p(x) once for all its runs,
    where q(z|u) is normal (see `pyro_vae.once`). The guide may be any whose log-density is known at every z; for
    DiagonalNormal and FullNormal it costs one matrix product (see `Mixture`).

    Args:
        shapes: the sizes of the VAE, whose guide takes no context.
        components: number of pseudo-inputs, at least 1.
        initial: `"data"` for rows of the training data, which `fit` (or `VAE.start_prior`) puts in, or `"random"` for
            values drawn uniformly between the bounds (standard normal ones where there are none). Until the data come,
            `"data"` is random.
        bounds: the range of the data; None where they have none.
        learn_weights: whether the weights w are learned; else they are 1 / components.

    Raises:
        UsageError: if an option is out of range, the data do not fit (`start_from`), or the guide's log-density is not
            known at every z.

    References:
        Tomczak & Welling 2018, VAE with a VampPrior.

    Example:
        >>> from pyro_vae.vae import VAE
        >>> from functools import partial
        >>> vae = VAE((8, 8), latent_dim=2, prior=partial(VampPrior, components=30))
        >>> vae.start_prior(torch.rand(30, 8, 8).round())
        >>> vae.prior_distribution().sample((5,)).shape
        torch.Size([5, 2])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = (
        {"components": 5, "bounds": None},
        {"components": 3, "bounds": (-1.0, 2.0)},
    )
    logits: nn.Parameter | None

    def __init__(
        self,
        shapes: Shapes,
        components: int = 500,
        initial: Literal["data", "random"] = "data",
        bounds: tuple[float, float] | None = (0.0, 1.0),
        learn_weights: bool = False,
    ) -> None:
        super().__init__(shapes)
        _check_components("VampPrior", components)
        _check_vamp(initial, bounds)
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        self.start_count = components if initial == "data" else 0
        self.pseudo_inputs = nn.Parameter(_random(self.bounds, (components, *shapes.event)))
        self.register_parameter("logits", nn.Parameter(torch.zeros(components)) if learn_weights else None)

    def forward(self, encode: Encode, context: Tensor | None = None) -> Mixture:
        """The mixture of q(z|u_k), over `(latent,)`; of normals, encoded once for many runs where weights stay."""
        if (known := recall(self)) is not None:
            return Mixture.of_normals(*known)
        u = self.pseudo_inputs if self.bounds is None else _Projected.apply(self.pseudo_inputs, *self.bounds)
        logits = u.new_zeros(len(u)) if self.logits is None else self.logits
        mixture = Mixture(logits.log_softmax(-1), encode(u))
        remember(self, mixture.as_normals())
        return mixture

    @torch.no_grad()
    def start_from(self, x: Tensor) -> None:
        """Take the pseudo-inputs from data.

        Args:
            x: `[components, *event]`, within the bounds.

        Raises:
            UsageError: if they are too few, of another shape, or outside the bounds.
        """
        if tuple(x.shape) != tuple(self.pseudo_inputs.shape):
            raise UsageError(
                f"VampPrior takes its {len(self.pseudo_inputs)} pseudo-inputs from data of shape "
                f"{list(self.pseudo_inputs.shape)}, got {list(x.shape)}: take components={len(x)} or fewer, or "
                "initial='random'"
            )
        low, high = x.min().item(), x.max().item()
        if self.bounds is not None and not self.bounds[0] <= low <= high <= self.bounds[1]:
            raise UsageError(
                f"VampPrior holds its pseudo-inputs in [{self.bounds[0]:g}, {self.bounds[1]:g}], but the data reach "
                f"from {low:g} to {high:g}: pass their range as bounds, or bounds=None where they have none"
            )
        self.pseudo_inputs.copy_(x)


class _Projected(torch.autograd.Function):
    """Values clamped to [low, high]; of the gradient, what would move a value out further (by descent) is dropped."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = low, high
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (value,), (low, high), (gradient,) = ctx.saved_tensors, ctx.bounds, gradients
        outward = ((value <= low) & (gradient > 0)) | ((value >= high) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None


class FlowPrior(Prior):
    r"""A normalizing flow, by zuko: an autoregressive map f to the standard normal, near which it starts.

    .. math:: \log p(z) = \log N(f(z); 0, I) + \log |\det \partial f / \partial z|

    The density, which training and evidence need, takes one pass through the networks; a draw takes one pass for each
    latent dimension. A spline leaves what is outside [-5, 5] as it is. With a single latent dimension there is no
    network, only the map's own parameters.

    Args:
        shapes: the sizes of the VAE.
        flow: `"MAF"` for affine maps, `"NSF"` for monotonic rational-quadratic splines, of each coordinate given those
            before it; the order is reversed from one map to the next.
        transforms: how many maps, at least 1.
        hidden: widths of the hidden layers of each map's network.

    Raises:
        UsageError: if an option is out of range.

    References:
        Papamakarios et al. 2017, Masked autoregressive flow for density estimation. Durkan et al. 2019, Neural spline
        flows. Chen et al. 2017, Variational lossy autoencoder.

    Example:
        >>> prior = FlowPrior(Shapes((8,), 3), flow="NSF", transforms=2)
        >>> prior(lambda x: x).log_prob(torch.zeros(5, 3)).shape
        torch.Size([5])
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"transforms": 1, "hidden": ()}, {"hidden": (5,)})

    def __init__(
        self,
        shapes: Shapes,
        flow: Literal["MAF", "NSF"] = "MAF",
        transforms: int = 3,
        hidden: tuple[int, ...] = (64, 64),
    ) -> None:
        super().__init__(shapes)
        if flow not in ("MAF", "NSF"):
            raise UsageError(f"FlowPrior needs flow to be 'MAF' or 'NSF', got {flow!r}")
        if transforms < 1 or any(width < 1 for width in hidden):
            raise UsageError(
                f"FlowPrior needs transforms >= 1 and positive widths, got {transforms} and hidden={tuple(hidden)}"
            )
        self.options = f"flow={flow!r}, transforms={transforms}, hidden={tuple(hidden)}"
        make = getattr(zuko().flows, flow)
        self.flow: Any = make(shapes.latent, transforms=transforms, hidden_features=tuple(hidden), activation=nn.SiLU)
        _shrink(self.flow)

    def forward(self, encode: Encode, context: Tensor | None = None) -> dist.TorchDistribution:
        """The flow's distribution, over `(latent,)`."""
        return _FlowDistribution(self.flow())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options})"  # zuko's own draws random numbers to be written


class _FlowDistribution(ZukoToPyro):
    """What Pyro's wrapper lacks: draws outside of a program, and a density that is never remembered.

    The wrapper keeps the density of a draw. Of one made without gradients that would be a density without a gradient.
    """

    support: Any = constraints.real_vector

    def __call__(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008 - immutable, and Pyro's own
        return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.dist.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(sample_shape)

    def expand(self, batch_shape: Any, _instance: object = None) -> "_FlowDistribution":
        return _FlowDistribution(self.dist.expand(torch.Size(batch_shape)))


@torch.no_grad()
def _shrink(flow: Any) -> None:
    """Let a flow start close to the identity, yet with a gradient for every weight."""
    for transform in flow.transform.transforms:
        last = transform.hyper[-1] if hasattr(transform, "hyper") else transform
        for parameter in last.parameters():
            parameter.mul_(0.01)


def _random(bounds: tuple[float, float] | None, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape) if bounds is None else torch.empty(shape).uniform_(*bounds)


def _check_components(name: str, components: int) -> None:
    if components < 1:
        raise UsageError(f"{name} needs components >= 1, got {components}")


def _check_vamp(initial: str, bounds: tuple[float, float] | None) -> None:
    if initial not in ("data", "random"):
        raise UsageError(f"VampPrior needs initial to be 'data' or 'random', got {initial!r}")
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise UsageError(f"VampPrior needs bounds (low, high) with low < high, or None, got {bounds!r}")


def _sizes(shape: tuple[int, ...] | None) -> str:
    return ", ".join(map(str, shape or ()))
