"""Expected coverage of joint credible regions: balls around random points (TARP), and regions of highest density.

Both rank the whole code at once, so they see errors that no single dimension has, such as a wrong correlation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked_but_values
from pyro_vae.diagnostics.coverage import LEVELS, Coverage
from pyro_vae.diagnostics.ranks import CLEAR, Ranks, check, ranked, without_nan
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.inference.simulated_codes import Codes, Simulation, moments, observed
from pyro_vae.inference.simulating import Simulated, ToX
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import generator

NAMES = ("TARP", "HPD")


@dataclass(frozen=True, eq=False, repr=False)
class ExpectedCoverage(Ranks):
    r"""How often the guide's joint credible regions of every level contain the true code.

    A rank is the number of draws that lie deeper in the regions than the truth: nearer to the random point (TARP), or
    where q(z|x) is denser (HPD). The region of level a contains the truth if the rank is below a (L + 1). A verdict is
    `"calibrated"`; if flagged, `"regions too small"` where they contain the truth too seldom (a guide that is too
    narrow, or biased), `"regions too large"`, or `"misshapen"` if the mean rank is right and the ranks are not uniform.

    Args:
        ranks: see `Ranks`.
        names: see `Ranks`.
        num_draws: see `Ranks`.
        seed: see `Ranks`.
        alpha: see `Ranks`.
    """

    def _verdict(self, shift: float, spread: float) -> str:
        if abs(shift) < CLEAR:
            return "misshapen"
        return "regions too small" if shift > 0 else "regions too large"

    def coverage(self, levels: Sequence[float] = LEVELS) -> Coverage:
        """How often the regions contain the truth, with exact intervals.

        Args:
            levels: levels of the regions, between 0 and 1; moved to the nearest level that L draws allow.

        Raises:
            UsageError: if a level is out of range, or needs more draws.
        """
        cut = torch.tensor([_draws_inside(level, self.num_draws) for level in levels], dtype=torch.int64)
        held = (self.ranks[None] < cut[:, None, None]).double().mean(1)
        return Coverage(cut.double() / (self.num_draws + 1), held, self.names, len(self.ranks), self.alpha)

    def summary(self) -> dict[str, Any]:
        """The verdicts, p-values and coverage as plain numbers."""
        levels = [level for level in LEVELS if 0 < round(level * (self.num_draws + 1)) <= self.num_draws]
        return {**super().summary(), "coverage": self.coverage(levels).summary()}


def _draws_inside(level: float, num_draws: int) -> int:
    """Number of draws, the truth among them, in a region."""
    if not 0 < level < 1:
        raise UsageError(f"a level must be between 0 and 1, got {level}")
    inside = round(level * (num_draws + 1))
    if not 0 < inside <= num_draws:
        needed = round(1 / min(level, 1 - level)) - 1
        raise UsageError(f"level {level} needs more than {num_draws} draws: {needed} give it exactly")
    return inside


@isolated
@checked_but_values
def expected_coverage(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_draws: int = 199,
    alpha: float = 0.05,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> ExpectedCoverage:
    r"""Rank simulated codes, all dimensions at once, among draws of the guide: by two orders.

    .. math:: z^*, x \sim p(z, x), \quad z_1 \ldots z_L \sim q(z|x), \qquad
        r_{TARP} = \#\{l : d(z_l, \zeta) < d(z^*, \zeta)\}, \quad r_{HPD} = \#\{l : q(z_l|x) > q(z^*|x)\}

    Both are uniform on 0 ... L if q(z|x) = p(z|x). TARP's regions are balls around a random point :math:`\zeta`. The
    distance d is Euclidean after each dimension is standardised by the mean and standard deviation of the L + 1 codes;
    in these units :math:`\zeta = (u(x) + \epsilon) / \sqrt 2`, with standard normal :math:`\epsilon` and u(x) a random
    linear map of x, itself standardised. A point that depends on x also shows guides that are right on average over x,
    such as the prior. HPD's regions are those of highest density.

    Neither can see all errors: each orders the codes by one number. What it looks like at a given x is the matter of
    `local_c2st`. As for `simulation_based_calibration`, data are drawn from the model, and with the same seed they are
    the same, as are the guide's draws.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data of the right shape, `[N, *event]`; N data are simulated, and these values are not used.
        *args: further tensors with the data in front, passed to both programs.
        num_draws: L, draws of the guide for each datum. With 199, levels of 1, 2, ... % are exact.
        alpha: probability that either is flagged if the guide is the posterior.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (datum, draw) pairs in one run of the model; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
        progress: called with the number of data done so far, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`; they are not simulated.

    Returns:
        An `ExpectedCoverage` of "TARP" and "HPD", on the CPU.

    Raises:
        UsageError: if a size is not positive, or nothing can be drawn from the model (see `simulate`).
        NumericalError: if a draw or a log-density is nan.

    References:
        Lemos et al. 2023, Sampling-based accuracy testing of posterior estimators for general inference (TARP). Hermans
        et al. 2022, A crisis in simulation-based inference? Beware, your posterior approximations can be unfaithful
        (highest density). Säilynoja, Bürkner & Vehtari 2022 (the bands).

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = expected_coverage(vae.model, vae.guide, torch.zeros(30, 4), num_draws=19)
        >>> found.names, found.ranks.shape
        (('TARP', 'HPD'), torch.Size([30, 2]))
    """
    check(x, alpha, num_draws=num_draws, max_rows=max_rows)
    simulation, blocks = Simulation(model, guide, x, args, inputs, seed, max_rows, max_plate_nesting, to_x), []
    with simulation.running():
        points = None
        for start, simulated in simulation.blocks():
            codes = simulation.codes(start, simulated, num_draws)
            points = points or RandomPoints(simulation, codes.truth.shape[-1])
            blocks.append(_ranks(codes, points.at(simulated, start), seed, start))
            if progress is not None:
                progress(start + len(simulated.x))
    return ExpectedCoverage(torch.cat(blocks), NAMES, num_draws, seed, alpha)


def _ranks(codes: Codes, points: Tensor, seed: int, start: int) -> Tensor:
    """The ranks of one block, `[block, 2]`."""
    mean, deviation = codes.moments()
    truth, draws = ((z - mean) / deviation - points for z in (codes.truth, codes.draws))
    of_truth = torch.stack([truth.square().sum(-1), -codes.log_truth], -1)
    of_draws = torch.stack([draws.square().sum(-1), -codes.log_draws], -1)
    return ranked(without_nan(of_truth, NAMES), without_nan(of_draws, NAMES), seed, start)


class RandomPoints:
    """Random points in standardised codes, half of their variance a function of x.

    The units of the map from x are those of 50 data that the model draws for the first row, so that a datum's point
    does not depend on the other data.

    Args:
        simulation: what is drawn.
        size: numbers in a code.
    """

    def __init__(self, simulation: Simulation, size: int) -> None:
        self.seed, self.size = simulation.seed, size
        x = _pilot(simulation)
        self.map = torch.randn(x.shape[1], size, generator=generator(self.seed, "map of x"), dtype=torch.float64)
        self.mean, self.deviation = moments(x @ self.map)

    def at(self, simulated: Simulated, start: int) -> Tensor:
        """The points of a block of data, `[block, size]`."""
        stream = generator(self.seed, "points", start)
        noise = torch.randn(TILE_DATA, self.size, generator=stream, dtype=torch.float64)[: len(simulated.x)]
        of_x = (observed(simulated.x, simulated.inputs) @ self.map - self.mean) / self.deviation
        return (of_x + noise) / sqrt(2)


def _pilot(simulation: Simulation) -> Tensor:
    """50 simulated data, `[50, elements]`."""
    inputs = {name: value[:1] for name, value in simulation.inputs.items()}
    first = replace(simulation, x=simulation.x[:1], args=[a[:1] for a in simulation.args], inputs=inputs)
    _, drawn = next(first.of(TILE_DATA, "pilot").blocks())
    return observed(drawn.x, drawn.inputs)
