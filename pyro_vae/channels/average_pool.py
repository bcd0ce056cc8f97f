"""Images of lower resolution: the mean of each block of pixels."""

from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.arguments.values import number, whole
from pyro_vae.channels.base import Channel, NotExactError, refuse_values
from pyro_vae.distributions.blocks import BitsGivenCount, blocks, log_counts
from pyro_vae.distributions.normals import GivenLinear, as_normal
from pyro_vae.errors import UsageError


@dataclass(frozen=True)
class AveragePool(Channel):
    r"""Of each block of k by k pixels the mean was observed, with normal noise or without; x is an image.

    .. math:: y_b = \frac{1}{k^2} \sum_{d \in b} x_d + \epsilon_b, \qquad \epsilon_b \sim N(0, s^2)

    Exact for a normal likelihood, whose blocks are disjoint and so independent given z, and for Bernoulli, where the
    number of ones in a block has Poisson's binomial distribution: k^4 / 2 steps for a block. Others are refused. x
    given y and z is dependent within a block, and drawn exactly; without noise its blocks have the mean observed.

    Args:
        k: height and width of a block, at least 1; the image's must be multiples of it.
        std: s, the standard deviation of the noise, in the units of x; 0 for none.

    Example:
        >>> AveragePool(2).draw(torch.arange(16.0).reshape(1, 4, 4))
        tensor([[[ 2.5000,  4.5000],
                 [10.5000, 12.5000]]])
    """

    k: int = 2
    std: float = 0.0
    variants: ClassVar[tuple[dict[str, Any], ...]] = ({"std": 0.3}, {"k": 1})

    def __post_init__(self) -> None:
        whole("k", self.k, 1)
        if not 0 <= number("std", self.std) < torch.inf:
            raise UsageError(f"std: expected the standard deviation of the noise, at least 0, got {self.std}")

    def observed_shape(self, event: tuple[int, ...]) -> tuple[int, ...]:
        """One pixel for each block."""
        if len(event) not in (2, 3) or event[-1] % self.k or event[-2] % self.k:
            raise UsageError(
                f"AveragePool(k={self.k}) needs images [height, width] or [channels, height, width] whose height and "
                f"width are multiples of {self.k}, got data of shape {list(event)}"
            )
        return (*event[:-2], event[-2] // self.k, event[-1] // self.k)

    def draw(self, x: Tensor) -> Tensor:
        """The means of the blocks, with noise."""
        self.observed_shape(tuple(x.shape[1:][-3:]))
        y = self._means(x)
        return y + self.std * torch.randn_like(y) if self.std else y

    def log_density(self, y: Tensor, x: Tensor) -> Tensor:
        """It is not of single elements of x.

        Raises:
            NotExactError: always.
        """
        raise NotExactError("AveragePool observes elements of x together: p(y|x) is not of an element")

    def log_likelihood(self, y: Tensor, x: Tensor) -> Tensor:
        """Log p(y|x) of whole data: of normal noise, or without it 0 for binary x whose blocks have the means y."""
        seen, means = ~y.isnan(), self._means(x)
        if not self.std and not ((x == 0) | (x == 1)).all():
            raise NotExactError("AveragePool without noise: y is a function of x, and p(y|x) has no density")
        terms = self._of_mean(torch.where(seen, y, 0.0), means)
        return torch.where(seen, terms, 0.0).flatten(1).sum(1)

    def log_prob(self, elements: dist.TorchDistribution, y: Tensor) -> Tensor:
        """Of each block: normal, or a mixture over the number of ones."""
        if (normal := as_normal(elements)) is not None:
            return dist.Normal(self._means(normal.loc), self._variance(normal).sqrt()).log_prob(y)
        log_off, log_on = self._of_bits(elements)
        counts = log_counts(blocks(log_off, self.k), blocks(log_on, self.k))
        return (counts + self._of_counts(y)).logsumexp(-1)

    def restored(self, elements: dist.TorchDistribution, y: Tensor) -> dist.TorchDistribution:
        """Normal elements or bits, given the mean of their block."""
        if (normal := as_normal(elements)) is not None:
            share = normal.variance / (self.k**2 * self._upsampled(self._variance(normal)))

            def gain(off: Tensor) -> Tensor:
                return share * self._upsampled(off)

            left = normal.variance * (1 - share / self.k**2)
            return GivenLinear(normal, y, self._means, gain, self.std, left)
        return BitsGivenCount(*self._of_bits(elements), self._of_counts(y), self.k)

    def fill_in(self, y: Tensor, event: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Each pixel has the mean of its block."""
        seen = ~y.isnan()
        return self._upsampled(torch.where(seen, y, 0.0)), self._upsampled(seen)

    def spread(self, seen: Tensor, event: tuple[int, ...]) -> Tensor:
        """The pixels of the blocks."""
        return self._upsampled(seen)

    def known(self, y: Tensor, event: tuple[int, ...]) -> Tensor:
        """None, but for blocks of one pixel without noise."""
        return ~y.isnan() if self.k == 1 and not self.std else super().known(y, event)

    def check(self, y: Tensor, likelihood: Any) -> None:
        """Refuse what is no mean of bits, of a binary x without noise."""
        if likelihood.support is constraints.boolean and not self.std:
            n = self.k**2
            good = ((y * n).round().clamp(0, n) - y * n).abs() < 1e-3 * n
            refuse_values(y, good, lambda index: f"a multiple of 1/{n} from 0 to 1")

    def _means(self, x: Tensor) -> Tensor:
        return blocks(x, self.k).mean(-1)

    def _upsampled(self, y: Tensor) -> Tensor:
        return y.repeat_interleave(self.k, -2).repeat_interleave(self.k, -1)

    def _variance(self, normal: dist.Normal) -> Tensor:
        """Of y given z."""
        return blocks(normal.variance, self.k).sum(-1) / self.k**4 + self.std**2

    def _of_bits(self, elements: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
        """Log-probabilities of 0 and of 1."""
        if elements.support is not constraints.boolean:
            raise NotExactError(
                f"AveragePool has no exact p(y|z) for {type(elements).__name__} elements: train the model with the "
                "likelihood Normal, or Bernoulli on binarised data"
            )
        example = torch.zeros(elements.batch_shape, dtype=elements.mean.dtype, device=elements.mean.device)
        return elements.log_prob(example), elements.log_prob(example + 1)

    def _of_counts(self, y: Tensor) -> Tensor:
        """Log p(y|c) for each number of ones, `[*shape, k * k + 1]`."""
        counts = torch.arange(self.k**2 + 1, dtype=y.dtype, device=y.device)
        return self._of_mean(y.unsqueeze(-1), counts / self.k**2)

    def _of_mean(self, y: Tensor, mean: Tensor) -> Tensor:
        """Log p(y| the mean of x in a block)."""
        if self.std:
            return dist.Normal(mean, self.std, validate_args=False).log_prob(y)
        return torch.where((y - mean).abs() < 0.5 / self.k**2, 0.0, -torch.inf)
