"""Guides by normalising flows, in the direction in which a draw takes one pass."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.distributions.from_noise import FAR, FromNoise, log_standard_normal, normal_points, standardised
from pyro_vae.distributions.log_scales import tame_scale
from pyro_vae.distributions.zuko_flows import zuko
from pyro_vae.errors import UsageError
from pyro_vae.guides.base import Guide
from pyro_vae.shapes import Shapes

_LEAST_GATE = 1e-3
"""Least value of a gate: at zero it could not be inverted."""
_OPEN = 2.0
"""Logit of a gate if the network's output is zero: codes pass almost unchanged."""
_POINTS = 512
"""Points that the mean and variance of a flow are averages over."""


class InverseAutoregressiveFlow(Guide):
    r"""An inverse autoregressive flow: a mean-field normal followed by gated autoregressive steps.

    .. math:: z_0 = \mu + \exp(s) e, \qquad
        z_t = g_t \odot z_{t-1} + (1 - g_t) \odot m_t, \quad (m_t, g_t)_i = \mathrm{MADE}_t(z_{t-1, <i}, h)

    The encoder gives `(mu, s, h)`, flat: `2 latent + context` numbers; the MADE networks, which take the codes in turn
    forwards and backwards, are the guide's own. Gates lie in (0.001, 1) and start at 0.88. A draw and its log q cost
    one pass; log q at any other z takes `latent` passes a step, and its rounding grows with every gate that is nearly
    closed. Path gradients (`StickingTheLanding`, `DReG`) take the Jacobian of each step at the draw, a pass and its
    gradient on `latent + 1` copies, and no inversion. The mean and variance of q(z|x) have no closed form: they are
    averages over 512 fixed points.

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

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"transforms": 3, "hidden": (8, 8)}, {"hidden": (), "context": 1})
    points: Tensor

    def __init__(self, shapes: Shapes, transforms: int = 2, hidden: tuple[int, ...] = (64,), context: int = 16) -> None:
        super().__init__(shapes)
        _check_sizes(self, transforms=transforms, context=context, hidden=hidden)
        self.context = context
        self.param_shape = (2 * shapes.latent + context,)
        self.steps = nn.ModuleList(_made(shapes.latent, context, 2, hidden) for _ in range(transforms))
        self.register_buffer("points", normal_points(_POINTS, shapes.latent), persistent=False)

    def initial_params(self) -> Tensor:
        """exp(s) = 1 and h = 0: the flow starts as the same around every mean."""
        params = super().initial_params()
        params[self.shapes.latent :] = 0.0
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The flow's distribution, over `(latent,)`."""
        size = self.shapes.latent
        loc, log_scale, context = params.split([size, size, self.context], -1)
        gated = [_Gated(network, context, backwards=i % 2 == 1) for i, network in enumerate(self.steps)]
        return _Flow(loc, [_Affine(loc, tame_scale(log_scale)), *gated], self.points)


class SplineFlow(Guide):
    r"""An autoregressive neural spline flow, followed by a mean-field affine map.

    .. math:: z = \mu + \exp(s) \odot T_h(e), \qquad T_h = T^{(n)} \circ \dots \circ T^{(1)}, \quad
        T^{(t)}_i = \text{monotone rational-quadratic spline with parameters } f_t(e_{<i}, h)

    Splines work on [-5, 5] and are the identity outside. The encoder gives `(mu, s, h)`, flat: `2 latent + context`
    numbers; the networks f_t, which take the dimensions in turn forwards and backwards, are the guide's own. A draw and
    its log q cost one pass; log q at any other z takes `latent` passes a transform, and path gradients the Jacobian as
    with `InverseAutoregressiveFlow`. The mean and variance of q(z|x) are
    averages over 512 fixed points.

    Args:
        shapes: the sizes of the VAE.
        transforms: autoregressive transforms, at least 1.
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

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"transforms": 1, "bins": 2, "hidden": (8,)},)
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
        self.steps = nn.ModuleList(_made(shapes.latent, context, 3 * bins - 1, hidden) for _ in range(transforms))
        self.register_buffer("points", normal_points(_POINTS, shapes.latent), persistent=False)

    def initial_params(self) -> Tensor:
        """exp(s) = 1 and h = 0: the flow starts as the same around every mean."""
        params = super().initial_params()
        params[self.shapes.latent :] = 0.0
        return params

    def distribution(self, params: Tensor) -> dist.TorchDistribution:
        """The flow's distribution, over `(latent,)`."""
        size = self.shapes.latent
        loc, log_scale, context = params.split([size, size, self.context], -1)
        splines = [_Spline(network, context, backwards=i % 2 == 1) for i, network in enumerate(self.steps)]
        return _Flow(loc, [*splines, _Affine(loc, tame_scale(log_scale))], self.points)


class _Step(Protocol):
    """An invertible map; both ways with the log of the determinant of its forward Jacobian, `[*particles, *batch]`."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]: ...

    def carry(self, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """`forward(z)` without its gradient, and there the slope of the density of what it maps.

        With J the Jacobian, d log q(z') / dz' = J^{-T} (d log q(z) / dz - d log det J / dz).
        """
        ...


class _Flow(FromNoise):
    """The law of noise taken through steps.

    Args:
        loc: as for `FromNoise`.
        steps: the first is applied first.
        points: what stands for the noise in averages, `[points, size]`.
    """

    _noise: Tensor | None = None

    def __init__(self, loc: Tensor, steps: Sequence[_Step], points: Tensor) -> None:
        super().__init__(loc, loc.shape[-1])
        self.steps, self.points = steps, points

    def from_noise(self, noise: Tensor) -> Tensor:
        self._noise = noise
        return super().from_noise(noise)

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

    def log_prob_held(self, value: Tensor) -> Tensor:
        """Without an inversion: the whole derivative less that along the path, which is the slope's at the draw."""
        known = self._recall(value)
        if known is None or self._noise is None:
            return super().log_prob_held(value)
        with torch.no_grad():
            z, slope = self._noise, -self._noise
            for step in self.steps:
                z, slope = step.carry(z, slope)
        return known - ((value - value.detach()) * slope).sum(-1)

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
        exporting = torch.compiler.is_exporting()  # in an exported graph all at once: each piece is a copy of the flow
        for part in (self.points,) if exporting else self.points.split(64):
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
        return standardised(z, self.loc, self.log_scale), self.log_scale.sum(-1)

    def carry(self, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward(z)[0], slope * (-self.log_scale).exp()


class _Autoregressive(ABC):
    """z_i -> f(z_i; terms_i), increasing, with terms from a network that sees the dimensions before i and a context.

    Args:
        network: as `_made` makes it.
        context: h, `[*batch, context]`.
        backwards: whether it sees the dimensions after i instead.
    """

    def __init__(self, network: nn.Module, context: Tensor, backwards: bool) -> None:
        self.network, self.context, self.backwards = network, context, backwards

    @abstractmethod
    def apply(self, z: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        """The map and the log of its slope, elementwise; terms are `[*z.shape, outputs]`."""

    @abstractmethod
    def solve(self, z: Tensor, terms: Tensor) -> Tensor:
        """The inverse of the map, elementwise."""

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        value, log_slope = self.apply(z, self.terms(z))
        return value, log_slope.sum(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """One dimension a pass, from those found before; the others are zero till then, so none is ever nonsense."""
        found, places = torch.zeros_like(z), torch.arange(z.shape[-1], device=z.device)
        for i in reversed(range(z.shape[-1])) if self.backwards else range(z.shape[-1]):
            found = torch.where(places == i, self.solve(z, self.terms(found)), found)
        return found, self.forward(found)[1]

    def carry(self, z: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """All rows of the triangular Jacobian in one pass, on a copy of z for each, and one for the determinant's."""
        size = z.shape[-1]
        with torch.enable_grad():
            copies = z.detach().expand(size + 1, *z.shape).clone().requires_grad_()
            value, log_det = self.forward(copies)
            total = value[:size].diagonal(dim1=0, dim2=-1).sum() + log_det[size].sum()
            *rows, log_det_slope = torch.autograd.grad(total, copies)[0]
        jacobian = torch.stack(rows, -2)
        rest = (slope - log_det_slope).unsqueeze(-1)
        solved = torch.linalg.solve_triangular(jacobian.mT, rest, upper=not self.backwards)
        return value[0].detach(), solved.squeeze(-1)

    def terms(self, z: Tensor) -> Tensor:
        """What the network says of each dimension, `[*z.shape, outputs]`."""
        codes = z.flip(-1) if self.backwards else z
        inputs = torch.cat([codes, self.context.expand(*z.shape[:-1], -1)], -1)
        terms = self.network(inputs).unflatten(-1, (z.shape[-1], -1))
        return terms.flip(-2) if self.backwards else terms


class _Gated(_Autoregressive):
    """z_i -> g_i z_i + (1 - g_i) m_i."""

    def apply(self, z: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        gate, other = self._gate(terms)
        return gate * z + (1 - gate) * other, gate.log()

    def solve(self, z: Tensor, terms: Tensor) -> Tensor:
        gate, other = self._gate(terms)
        return ((z - (1 - gate) * other) / gate).clamp(-FAR, FAR)

    def _gate(self, terms: Tensor) -> tuple[Tensor, Tensor]:
        logit, other = terms.unbind(-1)
        return _LEAST_GATE + (1 - _LEAST_GATE) * (logit + _OPEN).sigmoid(), other


class _Spline(_Autoregressive):
    """Monotone rational-quadratic splines, by zuko."""

    def apply(self, z: Tensor, terms: Tensor) -> tuple[Tensor, Tensor]:
        return self._spline(terms).call_and_ladj(z)

    def solve(self, z: Tensor, terms: Tensor) -> Tensor:
        """As zuko's inverse, but with a root that rounding can't make imaginary."""
        spline = self._spline(terms)
        inside, x0, x1, y0, y1, d0, d1, s = spline.bin(spline.searchsorted(spline.vertical, z) - 1)
        height, curve = inside * (z - y0), d0 + d1 - 2 * s
        a, b, c = (y1 - y0) * (s - d0) + height * curve, (y1 - y0) * d0 - height * curve, -s * height
        root = (b.square() - 4 * a * c).clamp(min=1e-20).sqrt()
        return torch.where(inside, x0 + (x1 - x0) * 2 * c / (-b - root), z)

    def _spline(self, terms: Tensor) -> Any:
        bins = (terms.shape[-1] + 1) // 3
        return zuko().transforms.MonotonicRQSTransform(*terms.split([bins, bins, bins - 1], -1))


def _made(size: int, context: int, outputs: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """A masked network from `size` codes and a context to `outputs` numbers for each code, of the codes before it."""
    sees = torch.cat([torch.ones(size, size).tril(-1), torch.ones(size, context)], -1).bool()
    return zuko().nn.MaskedMLP(sees.repeat_interleave(outputs, 0), hidden, activation=nn.ELU)


def _check_sizes(guide: Guide, transforms: int, context: int, hidden: tuple[int, ...]) -> None:
    name = type(guide).__name__
    if transforms < 1 or context < 1:
        raise UsageError(f"{name} needs transforms >= 1 and context >= 1, got {transforms} and {context}")
    if any(width < 1 for width in hidden):
        raise UsageError(f"{name}: hidden widths must be positive, got {tuple(hidden)}")
