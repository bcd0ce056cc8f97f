"""ELBO surgery: the average KL as mutual information of codes and data plus the KL of the aggregate posterior."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.diagnostics.information import is_saturated
from pyro_vae.distributions.aggregate import log_sum_of_others, with_own
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.programs import Called, Program, evaluation_mode
from pyro_vae.inference.tiles import TILE_DATA, padded
from pyro_vae.inference.weighing import ImportanceSamples, importance, log_density, refuse_point_masses, sites_at
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import Averaged, of_draws


@dataclass(frozen=True, eq=False)
class ElboSurgery:
    r"""The average ELBO in three terms, nats per datum, over N data.

    .. math:: \frac1N \sum_n L(x_n) = \underbrace{\frac1N \sum_n E_q[\log p(x_n|z)]}_{\text{reconstruction}}
        - \underbrace{I_q(n; z)}_{\text{information}} - \underbrace{KL(q(z) \| p(z))}_{\text{marginal KL}}, \qquad
        q(z) = \frac1N \sum_n q(z|x_n)

    The estimates are unbiased for these N data. For the population that the data come from, the information is too
    small on average and the marginal KL too large by the same amount; on average `information_upper` is an upper bound
    of the information. If the information is near its maximum log N, it says little about the population.

    Args:
        reconstruction: E[log p(x_n|z)] of each datum.
        kl: KL(q(z|x_n) || p(z)) of each datum.
        information: E[log q(z|x_n) - log q(z)] of each datum; its average is I_q(n; z), at most log N.
        information_upper: the same with q(z) of the other data only, an upper bound for the population; infinite if
            q(z) of the other data is zero (in double precision) at a datum's codes, and nan for a single datum.
        marginal_kl: E[log q(z) - log p(z)] of each datum; its average is KL(q(z) || p(z)).
        num_particles: draws for each datum.
        seed: seed of the draws.
    """

    reconstruction: Averaged
    kl: Averaged
    information: Averaged
    information_upper: Averaged
    marginal_kl: Averaged
    num_particles: int
    seed: int

    @property
    def elbo(self) -> float:
        """The average ELBO, nats per datum."""
        return self.reconstruction.mean - self.kl.mean

    @property
    def most(self) -> float:
        """Log N, the maximum of the information, nats."""
        return log(len(self.kl))

    @property
    def saturated(self) -> bool:
        """Whether the information is within 1 nat of log N, so that it depends mainly on the number of data.

        The information of codes of images is often about 30 nats, so no feasible N is enough: the population's
        information lies between the two bounds, and its marginal KL between 0 and the estimate.
        """
        return is_saturated(self.information)

    def summary(self) -> dict[str, Any]:
        """Averages with their standard errors, as plain numbers."""
        names = ("reconstruction", "kl", "information", "information_upper", "marginal_kl")
        return {
            "elbo": self.elbo,
            **{name: getattr(self, name).summary() for name in names},
            "log_num_data": self.most,
            "saturated": self.saturated,
            "num_data": len(self.kl),
            "num_particles": self.num_particles,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        limit = ", SATURATED" if self.saturated else ""
        return (
            f"ElboSurgery(reconstruction {self.reconstruction} - information {self.information} "
            f"[at most log N = {self.most:.2f}{limit}; population at most {self.information_upper}] "
            f"- marginal KL {self.marginal_kl}, nats per datum, N = {len(self.kl)})"
        )


@isolated
@checked
def elbo_surgery(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_particles: int = 10,
    seed: int = 0,
    max_rows: int = 1 << 18,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> ElboSurgery:
    r"""Split the average KL into the information of codes about data and the KL of the aggregate posterior.

    .. math:: \frac1N \sum_n KL(q(z|x_n) \| p(z)) = I_q(n; z) + KL(q(z) \| p(z))

    The aggregate posterior is that of all N data, not of a minibatch: the log-density of every draw under every datum's
    q(z|x) is computed, `num_particles N^2` in total, in blocks of bounded memory. The information is an unbiased Monte
    Carlo estimate of I_q(n; z) of these N data. For the population it is a lower bound on average (its mean over data
    sets of size N rises to I_q(x; z) with N, and never exceeds log N); without each datum's own term it is an upper
    bound (Poole et al. 2019). The standard errors of the averages treat q(z) as known, which is right
    to first order: a small change of q(z) inside the logarithm leaves the averages over q(z) as they are.

    If p(z) depends on an input (`ConditionalNormal`), `marginal_kl` is E[log q(z) - log p(z|c)], which is not a KL.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x), without point masses.
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        num_particles: draws for each datum, at least 2.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (draw, datum) pairs in one run of the guide; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data done so far.
        **inputs: tensors with the data in front that both programs take by name.

    Returns:
        An `ElboSurgery`, in double precision on the CPU.

    Raises:
        UsageError: if an option is out of range, there are no data, or a site of the guide is a Delta.
        NumericalError: if a log-density is nan.

    References:
        Hoffman & Johnson 2016, ELBO surgery. Chen et al. 2018, Isolating sources of disentanglement in VAEs. Poole et
        al. 2019, On variational bounds of mutual information.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> terms = elbo_surgery(vae.model, vae.guide, torch.rand(20, 4).round())
        >>> abs(terms.information.mean + terms.marginal_kl.mean - terms.kl.mean) < 1e-6
        True
    """
    if num_particles < 2 or max_rows < 1 or len(x) == 0:
        sizes = f"{num_particles}, {max_rows} and {len(x)} data"
        raise UsageError(f"need num_particles >= 2, max_rows >= 1 and data, got {sizes}")
    data = [x, *args, *inputs.values()]
    model, guide = Called(model, list(inputs)), Called(guide, list(inputs))
    parts = []
    with evaluation_mode(model, guide):
        with seeded(seed, "structure"):
            refuse_point_masses(guide, *(a[:1] for a in data), max_plate_nesting=max_plate_nesting)
        for start in range(0, len(x), TILE_DATA):
            samples = _samples(model, guide, data, start, num_particles, seed, max_plate_nesting)
            aggregate = _Aggregate(guide, data, max_rows, max_plate_nesting)
            parts.append(_terms(samples, *aggregate.densities(samples, start), start))
            if progress is not None:
                progress(min(len(x), start + TILE_DATA))
    terms = [of_draws(torch.cat(column, 1)) for column in zip(*parts, strict=True)]
    return ElboSurgery(*terms, num_particles=num_particles, seed=seed)


def _samples(
    model: Program, guide: Program, data: Sequence[Tensor], start: int, num: int, seed: int, nesting: int
) -> ImportanceSamples:
    """Draws for one tile of data; they depend on the seed and the tile."""
    tile = [a[start : start + TILE_DATA] for a in data]
    size, sizes = len(tile[0]), {"num_particles": num, "max_plate_nesting": nesting}
    with seeded(seed, "elbo_surgery", start):
        samples = importance(model, guide, *padded(tile), **sizes)
    latents = {name: value.narrow(nesting, 0, size) for name, value in samples.latents.items()}
    log_likelihood, log_prior, log_guide = (
        a[:, :size] for a in (samples.log_likelihood, samples.log_prior, samples.log_guide)
    )
    return ImportanceSamples(log_likelihood, log_prior, log_guide, latents)


def _terms(samples: ImportanceSamples, aggregate: Tensor, others: Tensor, start: int) -> tuple[Tensor, ...]:
    """The five terms of each draw, `[num, n]`, in the order of `ElboSurgery`."""
    log_likelihood, log_prior, log_guide = (
        a.double() for a in (samples.log_likelihood, samples.log_prior, samples.log_guide)
    )
    terms = (
        log_likelihood,
        log_guide - log_prior,
        log_guide - aggregate,
        log_guide - others,
        aggregate - log_prior,
    )
    if (bad := terms[0].isnan() | terms[1].isnan() | aggregate.isnan()).any():
        datum = start + int(bad.any(0).nonzero()[0])
        raise NumericalError(f"a log-density of a code of datum {datum} is nan: look at x and the networks' outputs")
    return terms


class _Aggregate:
    """The aggregate posterior of some data.

    Args:
        guide: Pyro program of q(z|x).
        data: its arguments, for all data.
        max_rows: maximum number of (draw, datum) pairs in one run.
        nesting: number of plate dimensions it uses.
    """

    def __init__(self, guide: Program, data: Sequence[Tensor], max_rows: int, nesting: int) -> None:
        self.guide, self.data, self.max_rows, self.nesting = guide, data, max_rows, nesting

    def densities(self, samples: ImportanceSamples, start: int) -> tuple[Tensor, Tensor]:
        """Log q(z) of draws for the data from `start` on: over all data, and without the datum of the draw.

        Args:
            samples: the draws, `[num, n]`.
            start: the position of their first datum.

        Returns:
            Each `[num, n]`, nats, double precision; the second is nan for a single datum.
        """
        num, size = samples.log_guide.shape
        log_guide, total = samples.log_guide.double(), len(self.data[0])
        own = torch.arange(start, start + size, device=log_guide.device).repeat(num)
        codes = {name: value.movedim(self.nesting, 1).flatten(0, 1) for name, value in samples.latents.items()}
        others = []
        for rows in torch.arange(num * size, device=own.device).split(max(1, self.max_rows // TILE_DATA)):
            drawn = {name: value[rows] for name, value in codes.items()}
            others.append(log_sum_of_others(self._by_data(drawn), own[rows]))
        return with_own(log_guide, torch.cat(others).reshape(num, size), total)

    def _by_data(self, codes: Mapping[str, Tensor]) -> Iterator[tuple[int, Tensor]]:
        """Log q(z|x_m) of codes, for one block of data after another: position of the block, and `[codes, block]`."""
        count = len(next(iter(codes.values())))
        size = max(1, self.max_rows // count)
        for first in range(0, len(self.data[0]), size):
            block = [a[first : first + size] for a in self.data]
            wide = {name: _for_each(value, len(block[0]), self.nesting) for name, value in codes.items()}
            sites = sites_at(self.guide, wide, *block, max_plate_nesting=self.nesting, role="guide")
            log_q = log_density(sites.values(), self.nesting)
            yield first, log_q.expand(count, len(block[0]))


def _for_each(value: Tensor, num: int, nesting: int) -> Tensor:
    """Codes `[codes, *inner plates, *event]` for each of `num` data: `[codes, *inner plates, num, *event]`."""
    value = value.unsqueeze(nesting)
    return value.expand(*value.shape[:nesting], num, *value.shape[nesting + 1 :])
