"""Posterior and prior predictive checks: test statistics of the data and of data sets drawn from the model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.compiling.backends import exact_products, fast_cpu
from pyro_vae.compiling.memory import remembering
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.posteriors import METHODS, posterior
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.inference.simulating import ToX, as_data, draw
from pyro_vae.inference.tiles import TILE_DATA, filled, padded
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded

Statistic = Callable[[Tensor], Tensor | float]
"""Maps a set of data, `[N, *event]`, to one number."""

_COPIES = 10
"""Replicated data sets drawn at once, which limits memory."""


def _mean(x: Tensor) -> Tensor:
    return x.double().mean()


def _sd(x: Tensor) -> Tensor:
    return x.double().std()


def _nonzero(x: Tensor) -> Tensor:
    return (x != 0).double().mean()


def _sd_of_means(x: Tensor) -> Tensor:
    return x.double().flatten(1).mean(1).std()


STATISTICS: Mapping[str, Statistic] = {
    "mean": _mean,
    "sd": _sd,
    "share of nonzero": _nonzero,
    "sd of data's means": _sd_of_means,
}
"""Mean, standard deviation and share of nonzero values over all elements of all data; standard deviation over the data
of each datum's mean."""


@dataclass(frozen=True, eq=False)
class PredictiveCheck:
    """Test statistics of the data and of data sets drawn from the model.

    Args:
        observed: T(x), `[T]`.
        replicated: T(x_rep) of each replicated data set, `[S, T]`.
        names: names of the T statistics.
        method: how the codes were drawn: a `method` of `posterior`, or `"prior"`.
        unreliable: share of the data whose codes are flagged by `posterior`; 0 for `"prior"`.
        seed: seed of the draws.
        alpha: probability that any statistic of a correct model is flagged.
    """

    observed: Tensor
    replicated: Tensor
    names: tuple[str, ...]
    method: str
    unreliable: float
    seed: int
    alpha: float = 0.05

    @property
    def p_values(self) -> Tensor:
        """P(T(x_rep) > T(x)) + P(T(x_rep) = T(x)) / 2, `[T]`: near 0 T is too small in the model, near 1 too large."""
        above = (self.replicated > self.observed).double() + (self.replicated == self.observed).double() / 2
        return above.mean(0)

    @property
    def standard_errors(self) -> Tensor:
        """Monte Carlo standard errors of `p_values` from S replications, `[T]`."""
        p = self.p_values
        return (p * (1 - p) / len(self.replicated)).sqrt()

    @property
    def two_sided(self) -> Tensor:
        """The two-sided p-values, `[T]`, with T(x) counted among the replications, so never 0.

        Exact for `"prior"`. Codes drawn from the posterior depend on the data, which moves p-values towards the middle:
        the check is then conservative.
        """
        counted = [((side).sum(0) + 1) / (len(self.replicated) + 1) for side in self._sides()]
        return (2 * torch.minimum(*counted)).clamp(max=1).double()

    @property
    def flagged(self) -> Tensor:
        """Which statistics differ from the model's, `[T]` bool: `two_sided` at most `alpha / T`."""
        return self.two_sided <= self.alpha / len(self.names)

    def summary(self) -> dict[str, Any]:
        """Each statistic's value, its mean and standard deviation under the model, and p-value, as plain numbers."""
        columns = {
            "observed": self.observed,
            "mean": self.replicated.mean(0),
            "sd": self.replicated.std(0),
            "p_value": self.p_values,
            "two_sided": self.two_sided,
            "flagged": self.flagged,
        }
        shown = {name: {key: value[i].item() for key, value in columns.items()} for i, name in enumerate(self.names)}
        health = {"method": self.method, "unreliable": self.unreliable}
        return {"statistics": shown, "num_replications": len(self.replicated), **health, "seed": self.seed}

    def __repr__(self) -> str:
        values = zip(self.names, self.p_values.tolist(), self.flagged.tolist(), strict=True)
        shown = ", ".join(f"{name} p = {p:.3f}{' FLAGGED' * bad}" for name, p, bad in values)
        return f"PredictiveCheck({shown}; by {self.method!r}, {len(self.replicated)} replications, seed {self.seed})"

    def _sides(self) -> tuple[Tensor, Tensor]:
        return self.replicated >= self.observed, self.replicated <= self.observed


@isolated
@checked
def posterior_predictive_check(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    statistics: Mapping[str, Statistic] | None = None,
    num_draws: int = 400,
    method: Literal["guide", "sir", "psis", "hmc", "prior"] = "guide",
    num_particles: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> PredictiveCheck:
    r"""Compare test statistics of the data with those of data sets drawn from the model.

    .. math:: z^{(s)} \sim p(z|x), \quad x^{(s)}_{rep} \sim p(x|z^{(s)}), \qquad p_T = P(T(x_{rep}) > T(x))

    With codes drawn from the posterior, the check asks whether p(x|z) at the codes of the data gives similar data. With
    `method="prior"` codes come from p(z), and it asks whether p(x) gives similar data, which is stricter (Box's prior
    predictive check). A correct model is flagged with probability at most `alpha`, over all statistics.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        statistics: T by name, functions of a set of data `[N, *event]`; None for `STATISTICS`.
        num_draws: S, number of replicated data sets: at least `2 T / alpha`, so that something can be flagged.
        method: how the codes are drawn: a `method` of `posterior`, or `"prior"`.
        num_particles: K of `posterior`.
        alpha: probability that any statistic of a correct model is flagged.
        seed: seed of the draws; the caller's generators do not change.
        max_plate_nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
        progress: called with the number of replicated data sets so far, after each 10.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`. With a `mask` the data and
            their replications have 0 where the data were not observed, so that the check is of what was.

    Returns:
        A `PredictiveCheck`, on the CPU. It needs memory for ten copies of the data and for all codes.

    Raises:
        UsageError: if a number is out of range, `num_draws` is too small to flag anything, or as for `posterior`.
        NumericalError: if a statistic of the data is not finite.

    References:
        Gelman, Meng & Stern 1996, Posterior predictive assessment of model fitness via realized discrepancies. Box
        1980, Sampling and Bayes' inference in scientific modelling and robustness.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> posterior_predictive_check(vae.model, vae.guide, torch.ones(50, 4), num_particles=50).flagged.tolist()
        [True, True, True, True]
    """
    chosen = STATISTICS if statistics is None else statistics
    _check(method, num_draws, len(chosen), alpha, len(x))
    data, mask = (x, *args, *inputs.values()), inputs.get("mask")
    observed = _values(chosen, _with_zeros(x, mask))
    if not observed.isfinite().all():
        raise NumericalError(
            f"a statistic of the data is not finite: {dict(zip(chosen, observed.tolist(), strict=True))}"
        )
    given: dict[str, Any] = {**inputs, "seed": seed, "max_plate_nesting": max_plate_nesting}
    latents, unreliable = None, 0.0
    if method != "prior":
        drawn = posterior(
            model, guide, x, *args, num_draws=num_draws, method=method, num_particles=num_particles, **given
        )
        latents, unreliable = drawn.draws, drawn.unreliable
    rows = []
    with evaluation_mode(model, guide), fast_cpu(), exact_products(), remembering():
        for copies in _copies(model, data, list(inputs), latents, num_draws, seed, max_plate_nesting, to_x):
            rows += [_values(chosen, _with_zeros(copy, mask)) for copy in copies[: num_draws - len(rows)]]
            if progress is not None:
                progress(len(rows))
    return PredictiveCheck(observed, torch.stack(rows), tuple(chosen), method, unreliable, seed, alpha)


def _check(method: str, num_draws: int, count: int, alpha: float, size: int) -> None:
    known = (*METHODS, "prior")
    if method not in known:
        raise UsageError(f"method must be one of {', '.join(map(repr, known))}, got {method!r}")
    if count < 1 or size < 1:
        raise UsageError(f"need a statistic and data, got {count} statistics and {size} data")
    if not 0 < alpha < 1:
        raise UsageError(f"alpha must be between 0 and 1, got {alpha}")
    if 2 / (num_draws + 1) > alpha / count:
        least = fewest_draws(count, alpha)
        raise UsageError(f"with {num_draws} draws nothing can be flagged at alpha {alpha}: num_draws must be {least}")


def fewest_draws(count: int = len(STATISTICS), alpha: float = 0.05) -> int:
    """The smallest number of replicated data sets that can flag something: `2 T / alpha` for T statistics."""
    return int(2 * count / alpha)


def _with_zeros(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(mask.to(x.device), x, 0.0)


def _values(statistics: Mapping[str, Statistic], x: Tensor) -> Tensor:
    """Every statistic of a set of data, `[T]`, double precision on the CPU."""
    return torch.stack([torch.as_tensor(t(x)).detach().double().cpu().reshape(()) for t in statistics.values()])


def _copies(
    model: Program,
    data: Sequence[Tensor],
    names: Sequence[str],
    latents: Mapping[str, Tensor] | None,
    num_draws: int,
    seed: int,
    nesting: int,
    to_x: ToX | None,
) -> Iterator[Tensor]:
    """Replicated data sets, `[_COPIES, N, *event]` at a time."""
    for first in range(0, num_draws, _COPIES):
        parts = []
        for start in range(0, len(data[0]), TILE_DATA):
            block = [a[start : start + TILE_DATA] for a in data]
            codes = None if latents is None else _codes(latents, first, start, len(block[0]), nesting, block[0].device)
            with seeded(seed, "replicate", start, first):
                parts.append(_replicates(model, padded(block), names, codes, nesting, to_x)[:, : len(block[0])])
        yield torch.cat(parts, 1)


def _replicates(
    model: Program,
    data: Sequence[Tensor],
    names: Sequence[str],
    latents: Mapping[str, Tensor] | None,
    nesting: int,
    to_x: ToX | None,
) -> Tensor:
    """`_COPIES` replications of a padded block, `[_COPIES, TILE_DATA, *event]`."""
    others, inputs = data[: len(data) - len(names)], dict(zip(names, data[len(data) - len(names) :], strict=True))
    given: dict[str, Any] = {**inputs, "num_particles": _COPIES, "max_plate_nesting": nesting}
    observed = draw(model, *others, latents=latents, **given)[1]
    each = [{name: value[i : i + 1] for name, value in observed.items()} for i in range(_COPIES)]
    return torch.stack([as_data(one, data[0], inputs, nesting, to_x)[0] for one in each])


def _codes(
    latents: Mapping[str, Tensor], first: int, start: int, size: int, nesting: int, device: torch.device
) -> dict[str, Tensor]:
    """The codes of a tile."""
    tile = {name: value[first : first + _COPIES].narrow(nesting, start, size) for name, value in latents.items()}
    return {name: value.to(device) for name, value in filled(tile, _COPIES, nesting).items()}
