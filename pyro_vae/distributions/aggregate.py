"""The mean of many distributions, such as q(z|x) over data, with an exact density in bounded memory."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from math import log
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Distribution

from pyro_vae.distributions.mixture import Mixture
from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.errors import UsageError

_MOST_PAIRS = 2**22
"""Pairs of a code and a datum whose log q(z|x) is in memory at once."""


class AggregatePosterior(dist.TorchDistribution):
    r"""The aggregate posterior of N data.

    .. math:: q(z) = \frac1N \sum_n q(z|x_n), \qquad \log q(z) = \mathrm{logsumexp}_n \log q(z|x_n) - \log N

    The density is exact, over all N data, in blocks: memory is bounded by `most_pairs`, time grows with N times the
    number of codes. Where q(z|x) is normal, a block is one matrix product in double precision (`Mixture`). Draws have
    no gradient.

    Args:
        parts: q(z|x) of blocks of data, each with batch shape `[n]` and event shape `(latent,)`.
        batch_shape: batch shape.
        most_pairs: pairs of a code and a datum in memory at once.
        validate_args: as for every distribution.

    Raises:
        UsageError: if q(z|x) is a point, which has no density.

    Example:
        >>> normals = dist.Normal(torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1)).to_event(1)
        >>> q = AggregatePosterior([normals, normals])
        >>> len(q), q.mean, q.variance, q.log_prob(torch.zeros(3, 1)).shape
        (4, tensor([0.]), tensor([5.]), torch.Size([3]))
    """

    arg_constraints: Any = {}  # noqa: RUF012 - as torch writes it
    support: Any = constraints.real_vector
    has_rsample = False

    def __init__(
        self,
        parts: Sequence[Distribution],
        batch_shape: tuple[int, ...] = (),
        most_pairs: int = _MOST_PAIRS,
        validate_args: bool | None = None,
    ) -> None:
        if any(is_point_mass(part) for part in parts):
            raise UsageError(
                "q(z|x) is a point, so its mean over data has no density: take a guide with a width (e.g. "
                "DiagonalNormal), or fit a prior to the codes by refit_prior"
            )
        self.parts, self.most_pairs = list(parts), most_pairs
        self.sizes = [part.batch_shape[0] for part in parts]
        super().__init__(torch.Size(batch_shape), parts[0].event_shape, validate_args=validate_args)

    def __len__(self) -> int:
        """N, the number of data."""
        return sum(self.sizes)

    def expand(self, batch_shape: tuple[int, ...], _instance: object = None) -> "AggregatePosterior":
        """The same distribution with another batch shape."""
        return AggregatePosterior(self.parts, batch_shape, self.most_pairs, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log q(z) in nats, `[*leading]` broadcast with the batch shape."""
        if self._validate_args:
            self._validate_sample(value)
        rows = value.reshape(-1, value.shape[-1]).split(max(1, self.most_pairs // max(self.sizes)))
        found = torch.cat([self._of_rows(block) for block in rows]).reshape(value.shape[:-1]).to(value.dtype)
        return found.expand(torch.broadcast_shapes(found.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Draws, `[*sample_shape, *batch_shape, latent]`: a datum is chosen, then z ~ q(z|x) drawn, for each."""
        shape = self._extended_shape(torch.Size(sample_shape))
        sizes = torch.tensor(self.sizes, dtype=torch.float64)
        which = torch.multinomial(sizes, shape[:-1].numel(), replacement=True)
        drawn: Tensor | None = None
        for index, (mixture, size) in enumerate(zip(self._mixtures, self.sizes, strict=True)):
            for rows in (which == index).nonzero().squeeze(-1).split(max(1, self.most_pairs // size)):
                values = mixture.sample((len(rows),))
                drawn = values.new_empty(len(which), shape[-1]) if drawn is None else drawn
                drawn[rows] = values
        return torch.empty(shape) if drawn is None else drawn.reshape(shape)

    def log_probs_of_draws(self, index: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-densities of codes that were drawn for some of the data, each under its own q(z|x_n) and under q(z).

        The own term of the mixture is computed once and shared, so that log q(z) is exact also where q(z|x_n) is far
        above all others, and is log q(z|x_n) where there is one datum.

        Args:
            index: of which of `parts` the data are.
            z: `[K, n, latent]`, `z[:, i]` drawn from q(z|x_i).

        Returns:
            Log q(z|x_n), log q(z), and log q(z) of the other N - 1 data (nan where there are none), `[K, n]` each, in
            nats and double precision.
        """
        own = self.parts[index].log_prob(z).double()
        which = (torch.arange(self.sizes[index], device=z.device) + self.starts[index]).repeat(len(z))
        rows = max(1, self.most_pairs // max(self.sizes))
        pieces = zip(z.flatten(0, 1).split(rows), which.split(rows), strict=True)
        others = torch.cat([log_sum_of_others(self._by_data(codes), data) for codes, data in pieces])
        return own, *with_own(own, others.reshape(own.shape), len(self))

    @property
    def mean(self) -> Tensor:
        """E[z], `[*batch_shape, latent]`."""
        return self._of_all(lambda part: part.mean).expand(self._extended_shape())

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, `[*batch_shape, latent]`: the mean variance plus the variance of the means."""
        mean = self._of_all(lambda part: part.mean)
        return self._of_all(lambda part: part.variance + (part.mean - mean).square()).expand(self._extended_shape())

    def as_normals(self) -> tuple[Tensor, Tensor] | None:
        """Means and standard deviations of q(z|x), `[N, latent]` each; None if they are not independent normals."""
        found = [mixture.as_normals() for mixture in self._mixtures]
        if any(normals is None or normals[2].dim() > normals[1].dim() for normals in found):
            return None
        _, loc, scale = zip(*found, strict=True)  # pyright: ignore[reportArgumentType]
        return torch.cat(loc), torch.cat(scale)

    @property
    def _mixtures(self) -> list[Mixture]:
        """Each block with equal weights."""
        weights = [torch.full((size,), 1 / size, device=_device(part)).log() for part, size in self._blocks()]
        return [Mixture(w, part) for w, part in zip(weights, self.parts, strict=True)]

    @property
    def starts(self) -> list[int]:
        """The position of the first datum of each block."""
        return [0, *accumulate(self.sizes)][:-1]

    def _by_data(self, z: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Log q(z|x_m) of codes, for one block of data after another: position of the block, and `[codes, block]`."""
        for first, mixture, size in zip(self.starts, self._mixtures, self.sizes, strict=True):
            yield first, mixture.component_log_probs(z).double() + log(size)

    def _blocks(self) -> list[tuple[Distribution, int]]:
        return list(zip(self.parts, self.sizes, strict=True))

    def _of_rows(self, z: Tensor) -> Tensor:
        """Log q(z) of some codes, `[rows]`, double precision."""
        total = torch.full((len(z),), -torch.inf, dtype=torch.float64, device=z.device)
        for mixture, size in zip(self._mixtures, self.sizes, strict=True):
            log_share = torch.tensor(size / len(self), dtype=torch.float64, device=z.device).log()
            total = torch.logaddexp(total, mixture.log_prob(z).double() + log_share)
        return total

    def _of_all(self, value: Any) -> Tensor:
        """The mean over the data of a number of each."""
        return torch.stack([value(part).sum(0) for part in self.parts]).sum(0) / len(self)


def log_sum_of_others(blocks: Iterable[tuple[int, Tensor]], own: Tensor) -> Tensor:
    """The logarithm of the sum of q(z|x_m) over all data but the one that each code was drawn for.

    Args:
        blocks: position of the first datum of a block, and log q(z|x_m), `[codes, block]`; all data in turn.
        own: the datum of each code, `[codes]`.

    Returns:
        `[codes]`, nats, double precision; -inf where there are no other data.
    """
    total = torch.full((len(own),), -torch.inf, dtype=torch.float64, device=own.device)
    for first, log_q in blocks:
        is_own = own[:, None] == first + torch.arange(log_q.shape[1], device=own.device)
        total = torch.logaddexp(total, log_q.double().masked_fill(is_own, -torch.inf).logsumexp(1))
    return total


def with_own(log_own: Tensor, others: Tensor, num_data: int) -> tuple[Tensor, Tensor]:
    """Log q(z) over all data, and without the datum of each code.

    Args:
        log_own: log q(z|x_n) of the code's own datum.
        others: as `log_sum_of_others` gives it, the same shape.
        num_data: N.

    Returns:
        Two tensors of that shape, nats; the second is nan for a single datum.
    """
    left_out = others - log(num_data - 1) if num_data > 1 else torch.full_like(others, torch.nan)
    return torch.logaddexp(others, log_own) - log(num_data), left_out


def _device(part: Distribution) -> torch.device:
    base: Any = getattr(part, "base_dist", part)
    return getattr(base, "loc", torch.empty(0)).device
