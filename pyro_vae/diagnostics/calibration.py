"""Simulation-based calibration: is the guide calibrated on data drawn from the model, whose codes are known?

If z* ~ p(z) and x ~ p(x|z*), then z* is a draw from p(z|x). If q(z|x) is the posterior, the rank of z* among draws of
the guide is uniform, and a credible set of level a contains it with probability a.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked_but_values
from pyro_vae.diagnostics.coverage import LEVELS, Coverage
from pyro_vae.diagnostics.ranks import CLEAR, Ranks, check, untied, without_nan
from pyro_vae.errors import UsageError
from pyro_vae.inference.pairs import EagerPair
from pyro_vae.inference.programs import Program
from pyro_vae.inference.simulated_codes import STREAM, Simulation, data_of
from pyro_vae.inference.simulating import Simulated, ToX
from pyro_vae.inference.sites import element_names, flattened, in_order
from pyro_vae.inference.tiles import draws
from pyro_vae.inference.weighing import log_density, sites_at, weigh
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.uniformity import sign_walk_p_value

Summary = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""Maps the latents `[draws, N, *event]` by site name and x `[N, *event]` to one number for each draw, `[draws, N]`."""

_DENSITY = "log q(z|x)"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Ranks):
    r"""Ranks of simulated codes among the guide's draws, and whether they are uniform.

    The ranked quantities are each latent dimension, their norm, log p(x|z), log q(z|x) and the caller's `summaries`;
    a rank is the number of draws below the truth. A verdict is about the guide's draws of a quantity: `"calibrated"`;
    if flagged, `"too low"` or `"too high"` for a shift of the mean rank, `"too narrow"` or `"too wide"` for a spread,
    whichever is larger in standard errors; `"misshapen"` if neither is clear.

    Args:
        ranks: see `Ranks`.
        names: see `Ranks`.
        num_draws: see `Ranks`.
        seed: see `Ranks`.
        alpha: see `Ranks`.
    """

    def _verdict(self, shift: float, spread: float) -> str:
        if max(abs(shift), abs(spread)) < CLEAR:
            return "misshapen"
        if abs(shift) >= abs(spread):
            return "too low" if shift > 0 else "too high"
        return "too narrow" if spread > 0 else "too wide"

    def coverage(self, levels: Sequence[float] = LEVELS) -> Coverage:
        r"""How often the guide's credible sets contain the truth.

        Central sets of each quantity, between the quantiles `(1 - level) / 2` and `(1 + level) / 2` of the draws; for
        log q(z|x) the upper part, which is the highest-density set of the whole code.

        Args:
            levels: levels of the sets, between 0 and 1; moved to the nearest level that L draws allow.

        Raises:
            UsageError: if a level is out of range, or needs more draws.
        """
        cut = torch.tensor([_draws_outside(level, self.num_draws) for level in levels], dtype=torch.int64)
        ranks = self.ranks[None]
        central = (ranks >= cut[:, None, None]) & (ranks <= self.num_draws - cut[:, None, None])
        densest = ranks >= 2 * cut[:, None, None]
        dense = torch.tensor([name == _DENSITY for name in self.names])
        held = torch.where(dense, densest, central).double().mean(1)
        return Coverage(1 - 2 * cut.double() / (self.num_draws + 1), held, self.names, len(self.ranks), self.alpha)

    def location(self) -> "Location":
        """Whether the truth lies above the draws as often and as far as below them (VSBC)."""
        distance = (2 * self.ranks - self.num_draws).numpy()
        p = [sign_walk_p_value(column) for column in distance.T]
        bias = self._fractions().mean(0) - 0.5
        error = (self._variance() / len(self.ranks)) ** 0.5
        return Location(bias, error, torch.tensor(p, dtype=torch.float64), self.names, self.alpha)

    def summary(self) -> dict[str, Any]:
        """The verdict, p-values and coverage as plain numbers."""
        coverage, location = self.coverage(_possible(LEVELS, self.num_draws)), self.location()
        return {
            **super().summary(),
            "coverage": coverage.summary(),
            "bias_of_ranks": dict(zip(self.names, location.bias.tolist(), strict=True)),
            "p_values_of_bias": dict(zip(self.names, location.p_values.tolist(), strict=True)),
        }


def _draws_outside(level: float, num_draws: int) -> int:
    """Number of draws on each side of a central set."""
    if not 0 < level < 1:
        raise UsageError(f"a level must be between 0 and 1, got {level}")
    outside = round((1 - level) / 2 * (num_draws + 1))
    if outside == 0:
        raise UsageError(
            f"level {level} needs more than {num_draws} draws: {round(2 / (1 - level)) - 1} give it exactly"
        )
    return outside


def _possible(levels: Sequence[float], num_draws: int) -> list[float]:
    return [level for level in levels if round((1 - level) / 2 * (num_draws + 1)) > 0]


@dataclass(frozen=True, eq=False)
class Location:
    r"""Whether the guide is shifted from the posterior: variational simulation-based calibration (VSBC).

    .. math:: p_i = P_q(z < z^*_i)

    is symmetric about 1/2 if q is centred correctly on average, however narrow it is.

    Args:
        bias: mean of p - 1/2, `[Q]`; positive if the truth is above the draws: the guide lies too low.
        standard_error: standard error of a bias for a calibrated guide.
        p_values: p-values of the hypothesis that p is symmetric, `[Q]` (Butler's test; exact).
        names: names of the Q quantities.
        alpha: probability that any quantity of a guide without bias is flagged.

    References:
        Yao, Vehtari, Simpson & Gelman 2018, Yes, but did it work? Evaluating variational inference.
    """

    bias: Tensor
    standard_error: float
    p_values: Tensor
    names: tuple[str, ...]
    alpha: float = 0.05

    @property
    def flagged(self) -> Tensor:
        """Which quantities are biased, `[Q]` bool: p-value at most `alpha / Q`."""
        return self.p_values <= self.alpha / len(self.names)


@isolated
@checked_but_values
def simulation_based_calibration(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_draws: int = 199,
    summaries: Mapping[str, Summary] | None = None,
    alpha: float = 0.05,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> Calibration:
    r"""Rank codes drawn from the model among draws of the guide for the simulated data.

    .. math:: z^* \sim p(z), \quad x \sim p(x|z^*), \quad z_1 \ldots z_L \sim q(z|x), \qquad
        r = \#\{l : z_l < z^*\}

    is uniform on 0 ... L for every quantity if q(z|x) = p(z|x). If the guide is too narrow, the truth is too often
    outside its draws; if it is biased, too often on one side. The test uses data drawn from the *model*: it says
    nothing about how well the model fits real data (see `posterior_predictive_check`), nor about q(z|x) at other data.
    Biases that cancel over the data do not show in the ranks of a latent dimension, but often in those of log p(x|z)
    and log q(z|x), which depend on the data.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data of the right shape, `[N, *event]`; N data are simulated, and these values are not used. About 1000 are
            enough for most purposes.
        *args: further tensors with the data in front, passed to both programs.
        num_draws: L, draws of the guide for each datum. With 199, levels of 1, 2, ... % are exact.
        summaries: further quantities by name; see `Summary`.
        alpha: probability that any quantity of a calibrated guide is flagged.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (datum, draw) pairs in one run of the model; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
        progress: called with the number of data done so far, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`; they are not simulated.

    Returns:
        A `Calibration`, on the CPU.

    Raises:
        UsageError: if a size is not positive, or nothing can be drawn from the model (see `simulate`).
        NumericalError: if a draw or a log-density is nan.

    References:
        Talts et al. 2018, Validating Bayesian inference algorithms with simulation-based calibration. Säilynoja,
        Bürkner & Vehtari 2022 (the bands). Modrák et al. 2023, Simulation-based calibration checking for Bayesian
        computation: the choice of test quantities shapes sensitivity.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> simulation_based_calibration(vae.model, vae.guide, torch.zeros(30, 4), num_draws=19).names
        ('z[0]', 'z[1]', 'norm', 'log p(x|z)', 'log q(z|x)')
    """
    check(x, alpha, num_draws=num_draws, max_rows=max_rows)
    simulation = Simulation(model, guide, x, args, inputs, seed, max_rows, max_plate_nesting, to_x)
    blocks, names = [], ()
    with simulation.running():
        for start, simulated in simulation.blocks():
            names, ranks = _ranks(_Quantities(simulation.pair, simulated, summaries or {}), start, num_draws, seed)
            blocks.append(ranks)
            if progress is not None:
                progress(start + len(ranks))
    return Calibration(torch.cat(blocks), names, num_draws, seed, alpha)


def _ranks(quantities: "_Quantities", start: int, num_draws: int, seed: int) -> tuple[tuple[str, ...], Tensor]:
    """The names of the quantities, and the ranks of the truth, `[block, Q]`."""
    truth, pair = quantities.of_truth(), quantities.pair
    below, equal = (torch.zeros(truth.shape, dtype=torch.int64) for _ in range(2))
    for latents, log_guide in draws(pair, quantities.data, start, num_draws, seed, pair.nesting, STREAM):
        drawn = quantities.of(latents, log_guide)
        below += (drawn < truth).sum(0)
        equal += (drawn == truth).sum(0)
    return quantities.names, untied(below, equal, seed, start)


class _Quantities:
    """The ranked quantities, for one block of simulated data.

    Args:
        pair: the programs.
        simulated: the codes and the data.
        summaries: the caller's quantities.
    """

    def __init__(self, pair: EagerPair, simulated: Simulated, summaries: Mapping[str, Summary]) -> None:
        self.pair, self.simulated, self.summaries = pair, simulated, summaries
        self.data = data_of(simulated)
        self.names: tuple[str, ...] = ()

    def of_truth(self) -> Tensor:
        """The quantities of the true codes, `[block, Q]`."""
        latents, nesting = self.simulated.latents, self.pair.nesting
        sites = sites_at(self.pair.guide, latents, *self.data, max_plate_nesting=nesting, role="guide")
        return self.of(latents, log_density(sites.values(), nesting))[0]

    def of(self, latents: Mapping[str, Tensor], log_guide: Tensor) -> Tensor:
        """The quantities of draws by site with their log q(z|x), `[draws, block, Q]`, on the CPU."""
        latents = in_order(latents, self.simulated.latents)
        flat = flattened(latents, latents, self.pair.nesting).double()
        names = element_names(latents, latents, self.pair.nesting)
        columns = dict(zip(names, flat.unbind(-1), strict=True))
        columns["norm"] = flat.square().sum(-1).sqrt()
        columns["log p(x|z)"] = self._log_likelihood(latents)
        columns[_DENSITY] = log_guide
        for name, summary in self.summaries.items():
            columns[name] = summary({site: value.detach() for site, value in latents.items()}, self.simulated.x)
        shape = torch.broadcast_shapes(*(column.shape for column in columns.values()))
        self.names = tuple(columns)
        return without_nan(torch.stack([c.expand(shape).double().cpu() for c in columns.values()], -1), self.names)

    def _log_likelihood(self, latents: Mapping[str, Tensor]) -> Tensor:
        rows = max(1, self.pair.max_rows // len(self.simulated.x))
        count = len(next(iter(latents.values())))
        parts = [{name: v[first : first + rows] for name, v in latents.items()} for first in range(0, count, rows)]
        nesting = self.pair.nesting
        return torch.cat([weigh(self.pair.model, p, *self.data, max_plate_nesting=nesting)[0] for p in parts])
