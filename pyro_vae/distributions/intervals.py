r"""Probabilities of intervals, and draws from them, for elements whose distribution function is known.

Accurate far in the tails: in double precision, by logarithms of the distribution function, on the side of the mode
where it is small. So the probability of a value 40 standard deviations away has the digits that one at the mean has.
"""

from abc import ABC, abstractmethod
from math import log, pi
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.autograd import Function

from pyro_vae.distributions.elements import Elements, Rescaled

KNOWN = "Normal, Laplace and StudentT"
"""The elements whose distribution function is known here, for messages."""


class _Law(ABC):
    """A distribution symmetric about 0."""

    @abstractmethod
    def log_cdf(self, u: Tensor) -> Tensor:
        """Log P(U < u)."""

    @abstractmethod
    def log_pdf(self, u: Tensor) -> Tensor:
        """The log-density."""

    @abstractmethod
    def inverse(self, log_p: Tensor) -> Tensor:
        """Where `log_cdf` has this value; without gradients."""

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """h, by which the integral of u f(u) is -h(u) f(u)."""


class _Normal(_Law):
    def log_cdf(self, u: Tensor) -> Tensor:
        return torch.special.log_ndtr(u)

    def log_pdf(self, u: Tensor) -> Tensor:
        return -u.square() / 2 - log(2 * pi) / 2

    def inverse(self, log_p: Tensor) -> Tensor:
        from scipy.special import ndtri_exp  # not at every import of the package

        return torch.from_numpy(ndtri_exp(log_p.cpu().numpy())).to(log_p)

    def slope(self, u: Tensor) -> Tensor:
        return torch.ones_like(u)


class _Laplace(_Law):
    def log_cdf(self, u: Tensor) -> Tensor:
        return torch.where(u < 0, u.clamp(max=0) - log(2), torch.log1p(-(-u.clamp(min=0)).exp() / 2))

    def log_pdf(self, u: Tensor) -> Tensor:
        return -u.abs() - log(2)

    def inverse(self, log_p: Tensor) -> Tensor:
        above = -(-torch.expm1(log_p)).log() - log(2)
        return torch.where(log_p < -log(2), log_p + log(2), above)

    def slope(self, u: Tensor) -> Tensor:
        return 1 + u.abs()


class _StudentT(_Law):
    def __init__(self, df: Tensor) -> None:
        self.df = df

    def log_cdf(self, u: Tensor) -> Tensor:
        u, df = torch.broadcast_tensors(u, self.df)
        return _LogCdfOfT.apply(u, df)  # pyright: ignore[reportReturnType] - torch does not say what it returns

    def log_pdf(self, u: Tensor) -> Tensor:
        return torch.distributions.StudentT(self.df, validate_args=False).log_prob(u)

    def inverse(self, log_p: Tensor) -> Tensor:
        from scipy.special import stdtrit

        log_p, df = torch.broadcast_tensors(log_p, self.df)
        return torch.from_numpy(stdtrit(df.cpu().numpy(), log_p.clamp(min=-700).exp().cpu().numpy())).to(log_p)

    def slope(self, u: Tensor) -> Tensor:
        return (self.df + u.square()) / (self.df - 1)


class _LogCdfOfT(Function):
    """By SciPy, on the CPU; the derivative in the degrees of freedom by central differences."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, df: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        value = _log_stdtr(u, df)
        ctx.save_for_backward(u, df, value)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        u, df, value = ctx.saved_tensors
        of_u = (_StudentT(df).log_pdf(u) - value).exp()
        step = 1e-4 * df
        of_df = (_log_stdtr(u, df + step) - _log_stdtr(u, df - step)) / (2 * step)
        return gradient * of_u, gradient * of_df


def _log_stdtr(u: Tensor, df: Tensor) -> Tensor:
    """Log P(T < u); where that is too small for a number, f(u) (df + u^2) / ((df + 1) |u|)."""
    from scipy.special import stdtr

    p = torch.from_numpy(stdtr(df.detach().cpu().numpy(), u.detach().cpu().numpy())).to(u)
    far = p < 1e-290
    v = torch.where(far, u, -1.0).detach()
    tail = _StudentT(df.detach()).log_pdf(v) + ((df + v.square()) / ((df + 1) * -v)).log()
    return torch.where(far, tail, torch.where(far, 1.0, p).log())


class _Interval:
    """An interval of a symmetric law, mirrored so that it lies where the distribution function is small.

    Args:
        law: of u = (x - loc) / scale.
        low: a, in the units of u.
        high: b.
    """

    def __init__(self, law: _Law, low: Tensor, high: Tensor) -> None:
        self.law, self.low, self.high = law, low, high
        self.mirrored = low + high > 0
        lower, upper = torch.where(self.mirrored, -high, low), torch.where(self.mirrored, -low, high)
        self.open_below, self.whole = lower == -torch.inf, upper == torch.inf
        self.top = law.log_cdf(torch.where(self.whole, 0.0, upper))
        self.bottom = law.log_cdf(torch.where(self.open_below, torch.where(self.whole, 0.0, upper) - 1, lower))

    @property
    def log_mass(self) -> Tensor:
        """Log P(a < U < b)."""
        both = self.top + _log1mexp(self.top - self.bottom)
        return torch.where(self.whole, 0.0, torch.where(self.open_below, self.top, both))

    def mean(self) -> Tensor:
        """E[U | a < U < b] = (h(a) f(a) - h(b) f(b)) / P(a < U < b)."""
        log_mass = self.log_mass
        ends = [self._end(self.low, log_mass), self._end(self.high, log_mass)]
        return (ends[0] - ends[1]).clamp(self.low, self.high)

    def _end(self, u: Tensor, log_mass: Tensor) -> Tensor:
        finite = torch.where(u.isinf(), 0.0, u)
        return torch.where(u.isinf(), 0.0, self.law.slope(finite) * (self.law.log_pdf(finite) - log_mass).exp())

    def draw(self, v: Tensor) -> Tensor:
        """U for V uniform, by the inverse of the distribution function."""
        top = torch.where(self.whole, 0.0, self.top)
        bottom = torch.where(self.open_below, -torch.inf, self.bottom)
        u = self.law.inverse(torch.logaddexp(torch.log1p(-v) + bottom, v.log() + top))
        return torch.where(self.mirrored, -u, u).clamp(self.low, self.high)


def _log1mexp(distance: Tensor) -> Tensor:
    """Log(1 - exp(-d)) for d > 0."""
    distance = distance.clamp(min=1e-300)
    near = distance < log(2)
    small, large = torch.where(near, distance, 1.0), torch.where(near, 1.0, distance)
    return torch.where(near, (-torch.expm1(-small)).log(), torch.log1p(-(-large).exp()))


def _standard(elements: Any) -> tuple[_Law, Tensor, Tensor] | None:
    """The law of (x - loc) / scale, in double precision, loc and scale; None if it is none of those known."""
    if isinstance(elements, Rescaled):
        inner = _standard(elements.elements)
        return inner and (inner[0], elements.shift + elements.factor * inner[1], elements.factor * inner[2])
    kinds: dict[str, Any] = {"Normal": _Normal, "Laplace": _Laplace, "StudentT": _StudentT}
    name = type(elements).__name__.lstrip("_")
    if name not in kinds or elements.support is not constraints.real:
        return None
    law = kinds[name](elements.df.double()) if name == "StudentT" else kinds[name]()
    return law, elements.loc.double(), elements.scale.double()


def _interval(elements: Any, low: Tensor, high: Tensor) -> tuple[_Interval, Tensor, Tensor] | None:
    found = _standard(elements)
    if found is None:
        return None
    law, loc, scale = found
    low, high, loc, scale = torch.broadcast_tensors(low.double(), high.double(), loc, scale)
    return _Interval(law, *(_standardised(end, loc, scale) for end in (low, high))), loc, scale


def _standardised(end: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """(end - loc) / scale; of an infinite end, that end, without gradients, which would be nan."""
    return torch.where(end.isinf(), end, (torch.where(end.isinf(), 0.0, end) - loc) / scale)


def log_mass(elements: dist.TorchDistribution, low: Tensor, high: Tensor) -> Tensor | None:
    r"""Log P(low < x < high) of each element, nats; differentiable.

    .. math:: \log(F(b) - F(a)) = \log F(b) + \log(1 - e^{-(\log F(b) - \log F(a))})

    on the side of the mode where F is small: to about 1e-12 of its size, far beyond where F underflows.

    Args:
        elements: normal, Laplace or Student's t, perhaps `Rescaled`.
        low: a, broadcastable to the elements; -inf for no bound.
        high: b > a, likewise; inf for no bound.

    Returns:
        In the type of the elements; None if their distribution function is not known.

    Example:
        >>> bound = torch.tensor([40.0])
        >>> log_mass(dist.Normal(torch.zeros(1), 1.0), bound, bound + torch.inf)
        tensor([-804.6085])
    """
    found = _interval(elements, low, high)
    return None if found is None else found[0].log_mass.to(elements.mean.dtype)


class Inside(Elements):
    """Elements given that they lie in intervals; made by `inside`.

    Args:
        elements: without that condition.
        low: a, broadcastable to the elements.
        high: b, likewise.
    """

    def __init__(self, elements: dist.TorchDistribution, low: Tensor, high: Tensor) -> None:
        self.elements, self.low, self.high = elements, low, high
        shape = torch.broadcast_shapes(elements.batch_shape, low.shape, high.shape)
        super().__init__(shape, constraints.real)

    def log_density(self, value: Tensor) -> Tensor:
        """That of the elements, over the probability of the interval; minus infinity outside."""
        log_prob = self.elements.log_prob(value) - self._interval()[0].log_mass.to(value)
        return torch.where((value >= self.low) & (value <= self.high), log_prob, -torch.inf)

    def draw(self, shape: torch.Size) -> Tensor:
        """By the inverse of the distribution function, in double precision."""
        interval, loc, scale = self._interval()
        v = torch.rand(shape, dtype=torch.float64, device=loc.device).clamp(min=1e-300)
        x = (loc + scale * interval.draw(v)).to(self.elements.mean.dtype)
        return x.clamp(self.low.to(x), self.high.to(x))

    @property
    def mean(self) -> Tensor:
        """E[x | low < x < high]; of Student's t it takes more than one degree of freedom."""
        interval, loc, scale = self._interval()
        return (loc + scale * interval.mean()).to(self.elements.mean.dtype).expand(self.batch_shape)

    def _interval(self) -> tuple[_Interval, Tensor, Tensor]:
        found = _interval(self.elements, self.low, self.high)
        assert found is not None
        return found


def inside(elements: dist.TorchDistribution, low: Tensor, high: Tensor) -> Inside | None:
    """X given low < x < high, with draws, log-density and `mean`; arguments and None as for `log_mass`."""
    return None if _standard(elements) is None else Inside(elements, low, high)
