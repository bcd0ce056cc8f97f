"""Guides by normalising flows, in the direction in which drawing takes one pass."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.errors import UsageError
from pyro_vae.guides.base import FromNoise, Guide, log_standard_normal, normal_points
from pyro_vae.shapes import Shapes

_LEAST_GATE = 1e-3
"""A gate that closes all the way can't be inverted; this is the least that it lets through."""
_FAR = 1e15
"""What an inverse gives for a z that the flow never reaches, in place of infinity: its square must not overflow."""
_POINTS = 512
"""Points that the mean and variance of a flow are averages over."""


class InverseAutoregressiveFlow(Guide):
    r"""An inverse autoregressive flow: a mean-field normal followed by gated autoregressive steps.

    .. math:: z_0 = \mu + \exp(s) e, \qquad
        z_t = g_t \odot z_{t-1} + (1 - g_t) \odot m_t, \quad (m_t, g_t)_i = \mathrm{MADE}_t(z_{t-1, <i}, h)

    The encoder gives `(mu, s, h)`, flat: `2 latent + context` numbers; the MADE networks, which take the codes in turn
    forwards and backwards, are the guide's own. Gates lie in (0.001, 1) and start at 0.88. A draw and its log q cost
    one pass; log q at any other z takes `latent` passes a step, and its rounding grows with every gate that is nearly
    closed. The mean and variance of q(z|x) have no closed form: they are averages over 512 fixed points.

    Args:
        shapes: the sizes of the VAE.
        transforms: steps, at least 1.
        hidden: widths of the hidden layers of each MADE, each at least 1; empty for affine ones.
        context: numbers in h, at least 1.

    Raises:
        UsageError: if an option is out of range.

    References:
        Kingma et al. 2016, Improving variational inference with inverse autoregressive flow, eq. 13, 14. Germain et al.
        2015, MADE: masked autoencoder for distribution estimation.

    Example:
        >>> guide = InverseAutoregressiveFlow(Shapes(event=(8, 8), latent=3), transforms=2)
        >>> q = guide.distribution(torch.zeros(5, *guide.param_shape))
        >>> z = q.rsample()
        >>> torch.allclose(q.log_prob(z), q.log_prob(z.clone()), atol=1e-5)
        True
    """

    points: Tensor

    def __init__(
        self, shapes: Shapes, transforms: int = 2, hidden: tuple[int, ...] = (64,), context: int = 16
    ) -> None:
        super().__init__(shapes)
        _check_sizes(self, transforms=transforms, context=context, hidden=hidden)
        self.context = context
        self.param_shape = (2 * shapes.latent + context,)
        self.steps = nn.ModuleList(_made(shapes.latent, context, hidden) for _ in range(transforms))
        self.register_buffer("points", normal_points(_POINTS, shapes.latent), persistent=False)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The flow's law, over `(latent,)`."""
        size = self.shapes.latent
        loc, log_scale, context = params.split([size, size, self.context], -1)
        gated = [_Gated(network, context, backwards=i % 2 == 1) for i, network in enumerate(self.steps)]
        return _Flow(loc, [_Affine(loc, log_scale), *gated], self.points)


class SplineFlow(Guide):
    r"""An autoregressive neural spline flow, by zuko, followed by a mean-field affine map.

    .. math:: z = \mu + \exp(s) \odot T_h(e), \qquad T_h = T^{(n)} \circ \dots \circ T^{(1)}, \quad
        T^{(t)}_i = \text{monotone rational-quadratic spline with parameters } f_t(e_{<i}, h)

    Splines work on [-5, 5] and are the identity outside. The encoder gives `(mu, s, h)`, flat: `2 latent + context`
    numbers; the networks f_t are the guide's own. A draw and its log q cost one pass; log q at any other z takes
    `latent` passes a transform. The mean and variance of q(z|x) are averages over 512 fixed points.

    Args:
        shapes: the sizes of the VAE.
        transforms: autoregressive transforms, at least 1; they take the dimensions in turn forwards and backwards.
        bins: pieces of each spline, at least 2.
        hidden: widths of the hidden layers of each network, each at least 1; empty for affine ones.
        context: numbers in h, at least 1.

    Raises:
        UsageError: if an option is out of range.

    References:
        Durkan et al. 2019, Neural spline flows. Rozet et al. 2022, Zuko.

    Example:
        >>> guide = SplineFlow(Shapes(event=(8, 8), latent=3), bins=4)
        >>> guide.distribution(torch.zeros(5, *guide.param_shape)).rsample().shape
        torch.Size([5, 3])
    """

    points: Tensor

    def __init__(
        self,
        shapes: Shapes,
        transforms: int = 2,
        bins: int = 8,
        hidden: tuple[int, ...] = (64,),
        context: int = 16,
    ) -> None:
        super().__init__(shapes)
        _check_sizes(self, transforms=transforms, context=context, hidden=hidden)
        if bins < 2:
            raise UsageError(f"SplineFlow needs bins >= 2, got {bins}")
        self.context = context
        self.param_shape = (2 * shapes.latent + context,)
        options = {"transforms": transforms, "bins": bins, "hidden_features": hidden}
        self.transform = _zuko().flows.NSF(shapes.latent, context, **options).transform
        self.register_buffer("points", normal_points(_POINTS, shapes.latent), persistent=False)

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The flow's law, over `(latent,)`."""
        size = self.shapes.latent
        loc, log_scale, context = params.split([size, size, self.context], -1)
        return _Flow(loc, [_Zuko(self.transform(context)), _Affine(loc, log_scale)], self.points)


class _Step(Protocol):
    """An invertible map, with the log of its Jacobian's determinant, `[*particles, *batch]`, both ways that of `forward`."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]: ...


class _Flow(FromNoise):
    """The law of noise taken through steps.

    Args:
        loc: as for `FromNoise`.
        steps: the first is applied first.
        points: what stands for the noise in averages, `[points, size]`.
    """

    def __init__(self, loc: Tensor, steps: Sequence[_Step], points: Tensor) -> None:
        super().__init__(loc, loc.shape[-1])
        self.steps, self.points = steps, points

    def push(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        value, log_prob = noise, log_standard_normal(noise)
        for step in self.steps:
            value, log_det = step.forward(value)
            log_prob = log_prob - log_det
        return value, log_prob

    def log_density(self, value: Tensor) -> Tensor:
        total = torch.zeros_like(value[..., 0])
        for step in reversed(self.steps):
            value, log_det = step.inverse(value)
            total = total + log_det
        return log_standard_normal(value) - total

    @property
    def mean(self) -> Tensor:
        return self._whole(self._moments[0])

    @property
    def variance(self) -> Tensor:
        return self._whole(self._moments[1])

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance over the points, in pieces, as sums of differences from the image of no noise."""
        batch = self.loc.shape[:-1]
        centre = self.push(torch.zeros_like(self.loc))[0]
        first = second = torch.zeros_like(centre)
        for part in self.points.split(64):
            noise = part.reshape(-1, *[1] * len(batch), part.shape[-1]).expand(-1, *batch, -1)
            difference = self.push(noise)[0] - centre
            first, second = first + difference.sum(0), second + difference.square().sum(0)
        shift = first / len(self.points)
        return centre + shift, (second / len(self.points) - shift.square()).clamp(min=0)


class _Affine:
    """z -> mu + exp(s) z."""

    def __init__(self, loc: Tensor, log_scale: Tensor) -> None:
        self.loc, self.log_scale = loc, log_scale

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc + self.log_scale.exp() * z, self.log_scale.sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return ((z - self.loc) * (-self.log_scale).exp()).clamp(-_FAR, _FAR), self.log_scale.sum(-1)


class _Gated:
    """z_i -> g_i z_i + (1 - g_i) m_i, with g_i and m_i functions of the dimensions before i (or after, backwards)."""

    def __init__(self, network: nn.Module, context: Tensor, backwards: bool) -> None:
        self.network, self.context, self.backwards = network, context, backwards

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        gate, other = self._terms(z)
        return gate * z + (1 - gate) * other, gate.log().sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """One dimension a pass: each needs those found before; the rest stay zero, so that none is ever nonsense."""
        found, log_det, places = torch.zeros_like(z), torch.zeros_like(z[..., 0]), range(z.shape[-1])
        for i in reversed(places) if self.backwards else places:
            gate, other = self._terms(found)
            own = ((z - (1 - gate) * other) / gate).clamp(-_FAR, _FAR)
            found = torch.where(torch.arange(z.shape[-1], device=z.device) == i, own, found)
            log_det = log_det + gate[..., i].log()
        return found, log_det

    def _terms(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The gates and what comes through where they are closed, each `[..., size]`."""
        codes = z.flip(-1) if self.backwards else z
        inputs = torch.cat([codes, self.context.expand(*z.shape[:-1], -1)], -1)
        logit, other = self.network(inputs).unflatten(-1, (z.shape[-1], 2)).unbind(-1)
        gate = _LEAST_GATE + (1 - _LEAST_GATE) * logit.sigmoid()
        return (gate.flip(-1), other.flip(-1)) if self.backwards else (gate, other)


def _made(size: int, context: int, hidden: tuple[int, ...]) -> nn.Module:
    """A network from `size` codes and the context to two numbers for each code, which see the codes before it."""
    before = torch.ones(size, size).tril(-1)
    sees = torch.cat([before, torch.ones(size, context)], -1).repeat_interleave(2, 0).bool()
    network = _zuko().nn.MaskedMLP(sees, hidden, activation=nn.ELU)
    with torch.no_grad():
        network[-1].bias.reshape(size, 2)[:, 0] += 2
    return network


class _Zuko:
    """A transform of zuko's."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return self.transform.call_and_ladj(z)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        noise = self.transform.inv(z)
        return noise, self.transform.call_and_ladj(noise)[1]


def _zuko() -> Any:
    """The library; its import switches validation of all distributions off, which is put back."""
    before = torch.distributions.Distribution._validate_args
    import zuko

    torch.distributions.Distribution.set_default_validate_args(before)
    return zuko


def _check_sizes(guide: Guide, transforms: int, context: int, hidden: tuple[int, ...]) -> None:
    name = type(guide).__name__
    if transforms < 1 or context < 1:
        raise UsageError(f"{name} needs transforms >= 1 and context >= 1, got {transforms} and {context}")
    if any(width < 1 for width in hidden):
        raise UsageError(f"{name}: hidden widths must be positive, got {tuple(hidden)}")
