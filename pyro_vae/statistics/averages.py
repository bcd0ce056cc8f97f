"""Estimates of one number for each datum, and of its average, with their errors."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Averaged:
    """A quantity of every datum, estimated by draws that are independent from datum to datum.

    Args:
        values: the estimates, `[N]`, double precision.
        standard_errors: their Monte Carlo standard errors, `[N]`; nan where they are not known.
        is_at_least: whether some of them are known to be too small, and so that of the mean.
        shared: the part of each error that has the same sign for similar data, `[N]`, e.g. rounding: it is not divided
            by the root of N. None for none.

    Example:
        >>> import torch
        >>> Averaged(torch.tensor([1.0, 3.0]), torch.tensor([0.3, 0.4]))
        2.000 (se(data) 1.000, se(Monte Carlo) 0.2500)
    """

    values: Tensor
    standard_errors: Tensor
    is_at_least: bool = False
    shared: Tensor | None = None

    @property
    def mean(self) -> float:
        """The average over the data."""
        return self.values.mean().item()

    @property
    def standard_error_data(self) -> float:
        """Standard error of `mean` due to having N data: `sd(values) / sqrt(N)`; nan for one datum."""
        return standard_error(self.values)

    @property
    def standard_error_monte_carlo(self) -> float:
        """Standard error of `mean` due to the draws, with the data fixed."""
        if self.shared is None:
            return (self.standard_errors.square().sum().sqrt() / len(self.values)).item()
        draws = (self.standard_errors.square() - self.shared.square()).clamp(min=0).sum().sqrt() / len(self.values)
        return torch.hypot(draws, self.shared.mean()).item()

    def summary(self) -> dict[str, float]:
        """The average and its errors as plain numbers."""
        names = ("mean", "standard_error_data", "standard_error_monte_carlo")
        found = {name: getattr(self, name) for name in names}
        return {**found, **({"standard_error_monte_carlo_is_at_least": True} if self.is_at_least else {})}

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        monte_carlo = at_least(number(self.standard_error_monte_carlo, ".4f"), self.is_at_least)
        return f"{self.mean:.3f} (se(data) {number(self.standard_error_data)}, se(Monte Carlo) {monte_carlo})"


def squared_error_of_log_mean(ess: Tensor, count: int) -> Tensor:
    r"""The squared standard error of the logarithm of a mean of weights, by the delta method; nan for one weight.

    .. math:: \left(\frac{1}{ESS} - \frac1K\right) \frac{K}{K - 1}, \qquad ESS = \frac{(\sum_k w_k)^2}{\sum_k w_k^2}

    Args:
        ess: effective number of the weights, `[N]`.
        count: K.
    """
    if count == 1:
        return torch.full_like(ess, torch.nan)
    return (1 / ess - 1 / count).clamp(min=0) * count / (count - 1)


def joined(parts: Sequence[Averaged]) -> Averaged:
    """The averages of several blocks of data, one after the other."""
    return Averaged(torch.cat([p.values for p in parts]), torch.cat([p.standard_errors for p in parts]))


class OverData:
    """What has a number for each datum: its average over the data, with the errors. For a class to derive from."""

    flagged: Tensor
    """Which data's numbers are not to be trusted, `[N]` bool."""

    @property
    @abstractmethod
    def _averaged(self) -> Averaged:
        """The numbers and their errors."""

    @property
    def mean(self) -> float:
        """The average over the data, nats per datum."""
        return self._averaged.mean

    @property
    def standard_error_data(self) -> float:
        """Standard error of `mean` due to having N data, nats: `sd / sqrt(N)`; nan for one datum."""
        return self._averaged.standard_error_data

    @property
    def standard_error_monte_carlo(self) -> float:
        """Standard error of `mean` due to the method's draws, with the data fixed, nats."""
        return self._averaged.standard_error_monte_carlo

    @property
    def unreliable(self) -> float:
        """Share of the data that are `flagged`."""
        return self.flagged.double().mean().item()


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of independent values, `sd(values) / sqrt(N)`; nan for one value.

    Example:
        >>> import torch
        >>> standard_error(torch.tensor([1.0, 3.0]))
        1.0
    """
    return (values.std() / len(values) ** 0.5).item() if len(values) > 1 else float("nan")


def number(value: float, form: str = ".3f") -> str:
    """A number as it is printed: "unknown" for nan, e.g. the standard error of the average of a single datum.

    Example:
        >>> number(0.12345), number(float("nan"))
        ('0.123', 'unknown')
    """
    return f"{value:{form}}" if value == value else "unknown"


def at_least(error: str, is_so: bool) -> str:
    """A standard error as it is printed: "at least" in front of one that is known to be too small.

    Example:
        >>> at_least("0.1234", True)
        'at least 0.1234'
    """
    return f"at least {error}" if is_so else error


def of_draws(draws: Tensor) -> Averaged:
    """Means over independent draws `[K, N]`, with the standard errors that K draws have; nan for a single draw.

    Example:
        >>> import torch
        >>> of_draws(torch.tensor([[1.0], [3.0]])).standard_errors
        tensor([1.], dtype=torch.float64)
    """
    draws = draws.double()
    count = len(draws)
    spread = draws.std(0) if count > 1 else draws[0] * float("nan")
    return Averaged(draws.mean(0).cpu(), (spread / count**0.5).cpu())
