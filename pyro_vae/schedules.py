"""Values that change while training: the KL weight beta and the factor on the learning rate.

Time is counted in epochs (a fraction inside an epoch), so that a schedule means the same at every batch size.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import cos, pi
from typing import Any, ClassVar

from pyro_vae.arguments.values import plain_fields
from pyro_vae.errors import UsageError


@dataclass(frozen=True)
class Schedule(ABC):
    """A value as a function of training time. To add one: a frozen dataclass that implements `__call__`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        plain_fields(cls)

    @abstractmethod
    def __call__(self, epoch: float, total: float) -> float:
        """The value at `epoch` (0 at the start, fractional inside an epoch) of a training of `total` epochs."""

    def settled(self, epoch: float, total: float) -> bool:
        """Whether the value no longer changes from `epoch` on; early stopping waits for it."""
        return self(epoch, total) == self(total, total)


def value_at(schedule: Schedule, epoch: float, total: float) -> Any:
    """The value of a schedule at a moment, checked, since a user's class may return anything.

    Args:
        schedule: the schedule.
        epoch: 0 at the start, fractional inside an epoch.
        total: epochs of the training.

    Raises:
        UsageError: if it is no number, or the schedule can't be called with these two.

    Example:
        >>> value_at(Linear(epochs=10), epoch=5, total=20)
        0.5
    """
    try:
        value = schedule(epoch, total)
    except TypeError as error:
        what = f"{type(schedule).__name__}: expected a function of the epoch and of the number of epochs"
        raise UsageError(f"{what}, such as those of pyro_vae.schedules; the call failed with {error}") from error
    try:
        float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{type(schedule).__name__} must return a number, got {value!r} at epoch {epoch:g}") from error
    return value


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value all the time.

    Args:
        value: the value.

    Example:
        >>> Constant(0.5)(epoch=3, total=10)
        0.5
    """

    value: float = 1.0

    def __call__(self, epoch: float, total: float) -> float:
        """`value`."""
        return self.value


@dataclass(frozen=True)
class Linear(Schedule):
    r"""A straight line from `start` to `end` over the first `epochs`, then `end`: the usual KL warm-up.

    .. math:: v(t) = start + (end - start) \min(t / epochs, 1)

    Args:
        start: value at time 0.
        end: value from `epochs` on.
        epochs: length of the ramp, more than 0; None for `share` of the training.
        share: length of the ramp as a share of the training, in (0, 1]; only where `epochs` is None.

    References:
        Sonderby et al. 2016, Ladder variational autoencoders (warm-up).

    Example:
        >>> [Linear(0.0, 1.0, epochs=10)(t, 100) for t in (0, 5, 10, 50)]
        [0.0, 0.5, 1.0, 1.0]
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"start": 1.0, "end": 0.2, "epochs": 5.0}, {"share": 0.3})
    start: float = 0.0
    end: float = 1.0
    epochs: float | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        _check_length("epochs", self.epochs)
        if not 0 < self.share <= 1:
            raise UsageError(f"Linear needs share in (0, 1], got {self.share}")

    def __call__(self, epoch: float, total: float) -> float:
        """The value on the ramp, or `end` after it."""
        return self.start + (self.end - self.start) * _fraction(epoch, self.epochs, self.share * total)


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""Half a cosine from `start` to `end` over `epochs`, then `end`: the usual learning-rate decay.

    .. math:: v(t) = end + (start - end) (1 + \cos(\pi \min(t / epochs, 1))) / 2

    Args:
        start: value at time 0.
        end: value from `epochs` on.
        epochs: length of the decay, more than 0; None for the whole training.

    References:
        Loshchilov & Hutter 2017, SGDR (without the restarts).

    Example:
        >>> cosine = Cosine()
        >>> [round(cosine(epoch, total=10), 4) for epoch in (0, 5, 10)]
        [1.0, 0.5, 0.0]
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"end": 0.1, "epochs": 5.0},)
    start: float = 1.0
    end: float = 0.0
    epochs: float | None = None

    def __post_init__(self) -> None:
        _check_length("epochs", self.epochs)

    def __call__(self, epoch: float, total: float) -> float:
        """The value on the half cosine, or `end` after it."""
        return self.end + (self.start - self.end) * (1 + cos(pi * _fraction(epoch, self.epochs, total))) / 2


@dataclass(frozen=True)
class Cyclical(Schedule):
    """A ramp from `start` to `end` again and again, each ramp followed by a plateau at `end`.

    Args:
        start: value at the beginning of a cycle.
        end: value on the plateau.
        period: length of a cycle in epochs, more than 0.
        rise: share of a cycle spent rising, in (0, 1].

    References:
        Fu et al. 2019, Cyclical annealing schedule.

    Example:
        >>> cyclical = Cyclical(period=4, rise=0.5)
        >>> [cyclical(epoch, total=8) for epoch in range(5)]
        [0.0, 0.5, 1.0, 1.0, 0.0]
    """

    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"start": 0.5, "period": 3.0, "rise": 1.0},)
    start: float = 0.0
    end: float = 1.0
    period: float = 10.0
    rise: float = 0.5

    def __post_init__(self) -> None:
        _check_length("period", self.period)
        if not 0 < self.rise <= 1:
            raise UsageError(f"Cyclical needs rise in (0, 1], got {self.rise}")

    def __call__(self, epoch: float, total: float) -> float:
        """The value at this place of the cycle."""
        return self.start + (self.end - self.start) * min(epoch % self.period / (self.rise * self.period), 1.0)

    def settled(self, epoch: float, total: float) -> bool:
        """Never: the cycle goes on."""
        return False


def _fraction(epoch: float, length: float | None, total: float) -> float:
    return min(epoch / (total if length is None else length), 1.0)


def _check_length(name: str, epochs: float | None) -> None:
    if epochs is not None and not epochs > 0:  # nan is refused
        raise UsageError(f"{name}, the length of a schedule, must be more than 0 epochs, got {epochs}")
