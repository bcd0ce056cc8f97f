"""Conformal scaling: by what factor must a guide's credible sets grow to contain the truth as often as they say?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked_but_values
from pyro_vae.diagnostics.coverage import LEVELS, Coverage
from pyro_vae.diagnostics.ranks import check
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.inference.simulated_codes import Simulation
from pyro_vae.inference.simulating import ToX
from pyro_vae.process.isolation import isolated

TOGETHER = "all together"
"""Name of the set of the whole code, an ellipsoid; the others are intervals of single dimensions."""


@dataclass(frozen=True, eq=False)
class ConformalScaling:
    r"""Factors for a guide's credible sets, with a guarantee for finitely many simulated data.

    With L draws of the guide, the first half gives a centre m and a covariance, the second half a radius r_a that
    contains a share a of them. The sets are :math:`\{z : d(z, m) \le \lambda_a r_a\}`, with Mahalanobis' distance for
    the whole code, and :math:`|z_j - m_j|` for dimension j. :math:`\lambda_a` is the k-th smallest of the n scores
    :math:`d(z^*_i, m_i) / r_{a, i}`, with :math:`k = \lceil a (n + 1) \rceil`. For any guide,

    .. math:: a \le P(d(z^*, m) \le \lambda_a r_a) \le a + \frac{1}{n + 1}

    (the second if no two scores are equal). The probability is over a new pair (z*, x) that the model draws and over
    the n that were simulated: an average over x, not a promise for each x, nor for data that the model does not draw.

    Args:
        levels: a, `[J]`.
        scores: the scores, `[J, n, Q]`; the guide's set contains the truth where one is at most 1.
        radii: the radii before scaling, averaged over the data, `[J, Q]`: in standard deviations for the whole code, in
            the unit of z for a dimension.
        names: names of the Q kinds of sets: `"all together"`, then each dimension.
        num_draws: L.
        seed: seed of the draws.
        alpha: probability that any set of a calibrated guide is flagged.
    """

    levels: Tensor
    scores: Tensor
    radii: Tensor
    names: tuple[str, ...]
    num_draws: int
    seed: int
    alpha: float = 0.05

    @property
    def factors(self) -> Tensor:
        """The factors of the radii, `[J, Q]`: 1 for the posterior; what is above 1 is the cost in width."""
        ranks = [_rank(level, self.scores.shape[1]) for level in self.levels.tolist()]
        return torch.stack([row[rank - 1] for row, rank in zip(self.scores.sort(1).values, ranks, strict=True)])

    def intervals(self, confidence: float = 0.95) -> tuple[Tensor, Tensor]:
        """Between what the factors of infinitely many simulated data lie, `[J, Q]` each: order statistics.

        Args:
            confidence: least probability of each interval, between 0 and 1. Where n is too small for it, the ends are 0
                and infinity.
        """
        from scipy.stats import binom  # takes a second: not at every import of the package

        size, ordered = self.scores.shape[1], self.scores.sort(1).values
        places = binom.ppf([[(1 - confidence) / 2], [(1 + confidence) / 2]], size, self.levels.numpy())
        low, high = (torch.from_numpy(p).long() for p in (places[0], places[1] + 1))
        rows, ends = torch.arange(len(ordered)), torch.zeros_like(ordered[:, :1])
        ordered = torch.cat([ends, ordered, ends + torch.inf], 1)  # the k-th smallest at k
        return ordered[rows, low], ordered[rows, high]

    @property
    def coverage(self) -> Coverage:
        """How often the guide's own sets, before scaling, contain the truth."""
        shares = (self.scores <= 1).double().mean(1)
        return Coverage(self.levels, shares, self.names, self.scores.shape[1], self.alpha)

    @property
    def flagged(self) -> Tensor:
        """Which sets need another size, `[J, Q]` bool: those whose coverage before scaling is flagged."""
        return self.coverage.flagged

    @property
    def calibrated(self) -> bool:
        """Whether nothing is flagged."""
        return not self.flagged.any()

    def regions(self, draws: Tensor, z: Tensor) -> Tensor:
        """Whether the scaled region of the whole code contains given codes, `[J, N]` bool.

        Args:
            draws: L draws of the guide for each datum, `[L, N, size]`.
            z: codes, `[N, size]`.
        """
        shape = _Shape(self._enough(draws))
        return shape.distances(z[None])[0, :, 0] <= self.factors[:, :1] * shape.radii(self.levels)[..., 0]

    def credible_intervals(self, draws: Tensor) -> tuple[Tensor, Tensor]:
        """The scaled interval of each dimension, lower and upper ends, `[J, N, size]` each.

        Args:
            draws: L draws of the guide for each datum, `[L, N, size]`, e.g. of `posterior(..., method="guide")`.

        Raises:
            UsageError: if there are more or fewer than L draws, for which the factors were not made.
        """
        shape = _Shape(self._enough(draws))
        half = self.factors[:, None, 1:] * shape.radii(self.levels)[..., 1:]
        return shape.centre - half, shape.centre + half

    def _enough(self, draws: Tensor) -> Tensor:
        if draws.dim() != 3 or draws.shape[0] != self.num_draws or draws.shape[2] != len(self.names) - 1:
            expected = f"[{self.num_draws}, N, {len(self.names) - 1}]"
            raise UsageError(f"draws: expected {expected}, as the factors were made with, got {list(draws.shape)}")
        return draws.double().cpu()

    def summary(self) -> dict[str, Any]:
        """Levels, factors with their intervals and coverage before scaling, as plain numbers."""
        low, high = self.intervals()
        columns = zip(self.names, self.factors.T, low.T, high.T, self.coverage.shares.T, self.radii.T, strict=True)
        fields = ("factor", "lower", "upper", "coverage_before", "radius_before")
        sets = {name: dict(zip(fields, (v.tolist() for v in values), strict=True)) for name, *values in columns}
        sizes = {"num_data": self.scores.shape[1], "num_draws": self.num_draws, "seed": self.seed}
        return {"calibrated": self.calibrated, "levels": self.levels.tolist(), "sets": sets, **sizes}

    def __repr__(self) -> str:
        rows = zip(self.levels.tolist(), self.factors, *self.intervals(), strict=True)
        parts = [_shown(level, factor, low, high, self.names) for level, factor, low, high in rows]
        sizes = f"n = {self.scores.shape[1]}, L = {self.num_draws}, seed {self.seed}"
        return f"ConformalScaling({'; '.join(parts)}; {sizes})"


def _shown(level: float, factor: Tensor, low: Tensor, high: Tensor, names: Sequence[str]) -> str:
    most = int(factor[1:].argmax()) + 1
    whole = f"regions of {level:.0%} grow by {factor[0]:.2f} ({low[0]:.2f} to {high[0]:.2f})"
    return f"{whole}, intervals by at most {factor[most]:.2f} ({names[most]})"


def _rank(level: float, size: int) -> int:
    """ceil(level (n + 1)), with the level as it was written: 0.9 is 9/10."""
    return ceil(Fraction(str(round(level, 9))) * (size + 1))


class _Shape:
    """Centre, covariance and distances of a guide's draws, from which its credible sets are made.

    Args:
        draws: `[L, N, size]`.

    Raises:
        NumericalError: if the draws of a datum do not vary in every direction.
    """

    def __init__(self, draws: Tensor) -> None:
        first, self.others = draws.split([len(draws) // 2, len(draws) - len(draws) // 2])
        self.centre = first.mean(0)
        off = first - self.centre
        covariance = torch.einsum("lni,lnj->nij", off, off) / (len(first) - 1)
        self.factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed.any() or not covariance.isfinite().all():
            raise NumericalError("the guide's draws do not vary in every direction: conformal sets need a density")

    def distances(self, z: Tensor) -> Tensor:
        """Distances of codes `[S, N, size]` from the centre, of the whole and of each dimension, `[S, N, 1 + size]`."""
        off = z.double() - self.centre
        whole = torch.linalg.solve_triangular(self.factor, off.movedim(0, -1), upper=False).square().sum(-2).sqrt()
        return torch.cat([whole.T[..., None], off.abs()], -1)

    def radii(self, levels: Tensor) -> Tensor:
        """The radii of the sets of each level, `[J, N, 1 + size]`: order statistics of the other half's distances."""
        ordered = self.distances(self.others).sort(0).values
        return ordered[(levels * (len(ordered) + 1)).round().long() - 1]


@isolated
@checked_but_values
def conformal_scaling(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    levels: Sequence[float] = LEVELS,
    num_draws: int = 398,
    alpha: float = 0.05,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> ConformalScaling:
    """By what factors the guide's credible sets must grow, from codes and data that the model draws.

    The repaired sets have their stated coverage on average over the model's data, whatever is wrong with the guide. The
    repair changes sizes only: sets of a biased guide stay in the wrong place and become wide, and a guide that is wrong
    for some x alone gets sets that are too large for the others. `local_c2st` says where.

    Args:
        model: Pyro program of p(x, z), with one data plate and continuous latent sites.
        guide: Pyro program of q(z|x).
        x: data of the right shape, `[N, *event]`; N data are simulated, and these values are not used.
        *args: further tensors with the data in front, passed to both programs.
        levels: levels of the sets, between 0 and 1; moved to the nearest level that L / 2 draws allow.
        num_draws: L, draws of the guide for each datum, at least 4 for each dimension of the code. With 398, levels of
            1, 2, ... % are exact.
        alpha: probability that any set of a calibrated guide is flagged.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (datum, draw) pairs in one run of the model; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
        progress: called with the number of data done so far, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`; they are not simulated.

    Returns:
        A `ConformalScaling`, on the CPU.

    Raises:
        UsageError: if a level is out of range, L or N is too small for it, or a latent site is discrete.
        NumericalError: if the guide's draws do not vary in every direction.

    References:
        Vovk, Gammerman & Shafer 2005, Algorithmic learning in a random world. Patel et al. 2024, Variational inference
        with coverage guarantees in simulation-based inference.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = conformal_scaling(vae.model, vae.guide, torch.zeros(50, 4), levels=(0.9,), num_draws=38)
        >>> found.names, found.factors.shape
        (('all together', 'z[0]', 'z[1]'), torch.Size([1, 3]))
    """
    check(x, alpha, num_draws=num_draws, max_rows=max_rows)
    kept = _levels(levels, num_draws, len(x))
    simulation = Simulation(model, guide, x, args, inputs, seed, max_rows, max_plate_nesting, to_x)
    blocks, names = [], ()
    with simulation.running():
        for start, simulated in simulation.blocks():
            if not names:
                simulation.check_continuous(simulated)
            codes = simulation.codes(start, simulated, num_draws)
            names = simulation.element_names(simulated)
            blocks.append(_scores(codes.truth, codes.draws, kept))
            if progress is not None:
                progress(start + len(simulated.x))
    scores, radii = (torch.cat(part, 1) for part in zip(*blocks, strict=True))
    return ConformalScaling(kept, scores, radii.mean(1), (TOGETHER, *names), num_draws, seed, alpha)


def _scores(truth: Tensor, draws: Tensor, levels: Tensor) -> tuple[Tensor, Tensor]:
    """The scores and the radii of one block, `[J, block, Q]` each."""
    if len(draws) < 4 * truth.shape[-1]:
        size = truth.shape[-1]
        raise UsageError(f"{len(draws)} draws are too few for {size} dimensions: num_draws must be 4 for each")
    shape = _Shape(draws)
    radii = shape.radii(levels)
    return shape.distances(truth[None]) / radii, radii


def _levels(levels: Sequence[float], num_draws: int, size: int) -> Tensor:
    """The levels that half of the draws give exactly, `[J]`."""
    half = num_draws - num_draws // 2
    if len(levels) == 0:
        raise UsageError("levels: expected at least one, e.g. (0.5, 0.9), got none")
    for level in levels:
        if not 0 < level < 1:
            raise UsageError(f"a level must be between 0 and 1, got {level}")
        if not 0 < round(level * (half + 1)) <= half:
            needed = 2 * ceil(1 / min(level, 1 - level)) - 2
            raise UsageError(f"level {level} needs more than {num_draws} draws: {needed} or more")
        if _rank(level, size) > size:
            least = ceil(level / (1 - level))
            raise UsageError(f"{size} simulated data can't promise level {level}: give at least {least}")
    return torch.tensor([round(level * (half + 1)) / (half + 1) for level in levels], dtype=torch.float64)
