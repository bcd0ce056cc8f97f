"""Images cut into blocks, and the bits of a block given what is known of their number."""

from itertools import pairwise

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_vae.distributions.elements import Elements


def blocks(image: Tensor, k: int) -> Tensor:
    """The elements of each block of k by k pixels, `[*leading, H / k, W / k, k * k]`, of `[*leading, H, W]`."""
    height, width = image.shape[-2:]
    tiled = image.unflatten(-2, (height // k, k)).unflatten(-1, (width // k, k))
    return tiled.movedim(-3, -2).flatten(-2)


def of_blocks(elements: Tensor, k: int) -> Tensor:
    """The image `[*leading, H, W]` of blocks `[*leading, H / k, W / k, k * k]`."""
    tiled = elements.unflatten(-1, (k, k)).movedim(-2, -3)
    return tiled.flatten(-4, -3).flatten(-2)


def log_counts(log_off: Tensor, log_on: Tensor) -> Tensor:
    r"""The distribution of the number of ones among independent bits: Poisson's binomial, by convolution.

    .. math:: p_j(c) = p_{j-1}(c) (1 - \pi_j) + p_{j-1}(c - 1) \pi_j

    Args:
        log_off: log(1 - pi), `[*shape, n]`.
        log_on: log pi, likewise.

    Returns:
        `[*shape, n + 1]`, nats. In logarithms, which neither underflow nor make gradients nan; n^2 / 2 steps.

    References:
        Chen & Liu 1997, Statistical applications of the Poisson-binomial and conditional Bernoulli distributions.
    """
    return _partial_counts(log_off, log_on)[-1]


def _partial_counts(log_off: Tensor, log_on: Tensor) -> list[Tensor]:
    """The same of the first j bits, `[*shape, j + 1]` for j = 0, ..., n."""
    found = [torch.zeros_like(log_off[..., :1])]
    for off, on in zip(log_off.split(1, -1), log_on.split(1, -1), strict=True):
        last = found[-1]
        within = torch.logaddexp(last[..., 1:] + off, last[..., :-1] + on)
        found.append(torch.cat([last[..., :1] + off, within, last[..., -1:] + on], -1))
    return found


class BitsGivenCount(Elements):
    r"""Images of bits, independent but for what is known of how many ones each block has.

    .. math:: p(x | y) \propto p(y | c(x)) \prod_j \pi_j^{x_j} (1 - \pi_j)^{1 - x_j}

    Bits are drawn one after the other, from what those so far leave: messages b_j(c) = p(y | c ones among the first j)
    are passed backwards, and bit j is 1 with probability pi_j b_j(c + 1) / b_{j-1}(c). Exact.

    Args:
        log_off: log(1 - pi), `[*leading, H, W]`.
        log_on: log pi, likewise.
        log_evidence: log p(y|c) for c = 0, ..., k * k, `[*leading, H / k, W / k, k * k + 1]`.
        k: height and width of a block.
    """

    def __init__(self, log_off: Tensor, log_on: Tensor, log_evidence: Tensor, k: int) -> None:
        self.k, self.off, self.on = k, blocks(log_off, k), blocks(log_on, k)
        self.messages = _messages(self.off, self.on, log_evidence)
        super().__init__(log_off.shape, constraints.boolean)

    def draw(self, shape: torch.Size) -> Tensor:
        """One bit of all blocks after the other."""
        n, height, width = self.k**2, shape[-2] // self.k, shape[-1] // self.k
        u = torch.rand(*shape[:-2], height, width, n, dtype=self.on.dtype, device=self.on.device)
        count, bits = torch.zeros_like(u[..., :1], dtype=torch.long), []
        for j, (before, after) in enumerate(pairwise(self.messages)):
            ratio = _at(after, count + 1) - _at(before, count)
            bit = u[..., j : j + 1] < (self.on[..., j : j + 1] + ratio).exp()
            bits.append(bit)
            count = count + bit
        return of_blocks(torch.cat(bits, -1).to(u.dtype), self.k)

    @property
    def mean(self) -> Tensor:
        """The probability of each bit."""
        log_z, counts = self.messages[0], _partial_counts(self.off, self.on)
        ones = [
            (before + after[..., 1:]).logsumexp(-1, keepdim=True)
            for before, after in zip(counts, self.messages[1:], strict=False)
        ]
        return of_blocks((torch.cat(ones, -1) + self.on - log_z).exp().clamp(max=1), self.k).expand(self.batch_shape)

    @property
    def variance(self) -> Tensor:
        """Of each bit."""
        return self.mean * (1 - self.mean)


def _messages(off: Tensor, on: Tensor, log_evidence: Tensor) -> list[Tensor]:
    """Log p(y | c ones among the first j bits), `[*shape, j + 1]` for j = 0, ..., n."""
    found = [log_evidence.expand(*off.shape[:-1], -1)]
    for j in reversed(range(off.shape[-1])):
        last = found[-1]
        found.append(torch.logaddexp(last[..., :-1] + off[..., j : j + 1], last[..., 1:] + on[..., j : j + 1]))
    return found[::-1]


def _at(message: Tensor, count: Tensor) -> Tensor:
    """A message at the counts of a sample."""
    return message.expand(*count.shape[:-1], -1).gather(-1, count)
