"""VampPrior: a mixture of the guide at learned pseudo-inputs."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pyro_vae.compiling.memory import recall, remember
from pyro_vae.distributions.mixture import Mixture
from pyro_vae.errors import UsageError
from pyro_vae.priors.base import Encode, Prior
from pyro_vae.priors.mixture import check_components
from pyro_vae.shapes import Shapes


class VampPrior(Prior):
    r"""A mixture of the VAE's own q(z|u) at pseudo-inputs u, which are learned; it starts near the aggregate posterior.

    .. math:: p(z) = \sum_k w_k \, q(z | u_k), \qquad u_k \in [low, high]^{event}

    The pseudo-inputs are held in their bounds by projection: they are clamped, and a gradient that would push one
    further out is dropped. The paper's hard tanh drops *every* gradient outside the bounds, so that a pixel at its
    bound (most are, in images) leaves it in the first step and never moves again; a sigmoid keeps all pixels inside,
    but reaches neither 0 nor 1, so no pseudo-input could be an image of the data. The paper's linear map of one-hot
    vectors is this table of pseudo-inputs.

    In a run of the model the encoder sees the pseudo-inputs once, and in an estimate of log p(x) once for all its runs,
    where q(z|u) is normal (see `compiling.memory`). The guide may be any whose log-density is known at every z; for
    DiagonalNormal and FullNormal it costs one matrix product (see `Mixture`).

    Args:
        shapes: the sizes of the VAE, whose guide takes no context.
        components: number of pseudo-inputs, at least 1.
        initial: `"data"` for rows of the training data, which `fit` (or `VAE.start_prior`) puts in, or `"random"` for
            values drawn uniformly between the bounds (standard normal ones if there are no bounds). Until data are
            given, `"data"` is random.
        bounds: the range of the data; None if it is unbounded.
        learn_weights: whether the weights w are learned; else they are 1 / components.

    Raises:
        UsageError: if an option is out of range, the data do not fit (`start_from`), or the guide's log-density is not
            known at every z.

    References:
        Tomczak & Welling 2018, VAE with a VampPrior.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
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
        check_components("VampPrior", components)
        _check_vamp(initial, bounds)
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        self.start_count = components if initial == "data" else 0
        self.pseudo_inputs = nn.Parameter(_random(self.bounds, (components, *shapes.event)))
        self.register_parameter("logits", nn.Parameter(torch.zeros(components)) if learn_weights else None)

    def forward(self, encode: Encode, c: Tensor | None = None) -> Mixture:
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
    """Values clamped to [low, high]; gradients by which descent would move a value further out are dropped."""

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


def _random(bounds: tuple[float, float] | None, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape) if bounds is None else torch.empty(shape).uniform_(*bounds)


def _check_vamp(initial: str, bounds: tuple[float, float] | None) -> None:
    if initial not in ("data", "random"):
        raise UsageError(f"VampPrior needs initial to be 'data' or 'random', got {initial!r}")
    if bounds is not None and not (len(bounds) == 2 and bounds[0] < bounds[1]):
        raise UsageError(f"VampPrior needs bounds (low, high) with low < high, or None, got {bounds!r}")
