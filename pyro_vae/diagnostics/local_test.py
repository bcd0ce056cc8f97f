"""Local classifier two-sample test: at which data does the guide differ from the posterior?"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.values import whole
from pyro_vae.diagnostics.pair_features import PairFeatures, Placed
from pyro_vae.diagnostics.ranks import check
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.inference.simulated_codes import Simulation, moments, observed
from pyro_vae.inference.simulating import ToX
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import generator
from pyro_vae.statistics.least_squares import fit_classifiers

_PENALTY = 0.05
"""The same for all labels: chosen by labels, it would be small where there is a fault, and the guesses too smooth to
compare with. Of 0.03 to 1 the smaller ones say better where a fault is, the larger find a wrong width with fewer data.
"""


@dataclass(frozen=True, eq=False)
class LocalC2ST:
    r"""How well a classifier tells the guide's codes from true ones at each datum, against classifiers that guess.

    Args:
        statistic: the mean over the guide's draws of (d(z, x) - 1/2)^2, `[N]`: 0 if the classifier sees no difference,
            at most 1/4.
        standard_error: its Monte Carlo standard error from the draws at the datum, `[N]`.
        null: the same statistic of H classifiers whose labels were exchanged at random within the pairs, `[H, N]`.
        accuracy: share of the simulated pairs' codes that are recognised when left out; 1/2 is guessing.
        num_simulated: pairs that the classifiers were made from.
        num_draws: draws of the guide at each datum.
        seed: seed of the draws.
        alpha: probability that a datum of an exact guide is flagged; also that such a guide is not `calibrated`.
    """

    statistic: Tensor
    standard_error: Tensor
    null: Tensor
    accuracy: float
    num_simulated: int
    num_draws: int
    seed: int
    alpha: float = 0.05

    @property
    def p_values(self) -> Tensor:
        """The share of the H + 1 classifiers whose statistic is at least as large, `[N]`; exact for an exact guide."""
        return (1 + (self.null >= self.statistic).sum(0)).double() / (len(self.null) + 1)

    @property
    def standard_errors_of_p(self) -> Tensor:
        """Monte Carlo standard errors of `p_values` from H classifiers, `[N]`."""
        return (self.p_values * (1 - self.p_values) / len(self.null)).sqrt()

    @property
    def flagged(self) -> Tensor:
        """At which data the guide differs from the posterior, `[N]` bool: p-value at most `alpha`.

        An exact guide has a share `alpha` of its data flagged, so ask `calibrated` first.
        """
        return self.p_values <= self.alpha

    @property
    def p_value(self) -> float:
        """The same p-value of the statistic's mean over the data: one test for all of them."""
        return (1 + int((self.null.mean(1) >= self.statistic.mean()).sum())) / (len(self.null) + 1)

    @property
    def calibrated(self) -> bool:
        """Whether `p_value` is above `alpha`. What the classifier does not see stays undetected."""
        return self.p_value > self.alpha

    @property
    def accuracy_error(self) -> float:
        """Standard error of `accuracy` for an exact guide."""
        return sqrt(0.25 / (2 * self.num_simulated))

    def summary(self) -> dict[str, Any]:
        """The verdict, p-value and share of flagged data as plain numbers."""
        return {
            "calibrated": self.calibrated,
            "alpha": self.alpha,
            "p_value": self.p_value,
            "flagged": self.flagged.double().mean().item(),
            "statistic": self.statistic.mean().item(),
            "statistic_of_guesses": self.null.mean().item(),
            "accuracy": self.accuracy,
            "accuracy_error": self.accuracy_error,
            "num_data": len(self.statistic),
            "num_simulated": self.num_simulated,
            "num_draws": self.num_draws,
            "num_null": len(self.null),
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        found = "no difference found" if self.calibrated else "the guide differs from the posterior"
        share = f"{self.flagged.double().mean().item():.1%}"
        flagged = f"{share} of the data flagged ({self.alpha:.0%} expected of an exact one)"
        recognised = f"codes recognised {self.accuracy:.1%} (se {self.accuracy_error:.1%})"
        sizes = f"N = {len(self.statistic)}, seed {self.seed}"
        return f"LocalC2ST({found}, p = {self.p_value:.3g}; {flagged}; {recognised}; {sizes})"


@isolated
@checked
def local_c2st(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_simulated: int = 1000,
    num_draws: int = 200,
    num_null: int = 199,
    alpha: float = 0.05,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> LocalC2ST:
    r"""Test q(z|x) = p(z|x) at each datum, by a classifier of simulated pairs.

    .. math:: (z^*, x) \sim p(z, x), \quad z \sim q(z|x), \qquad t(x_o) = E_{q(z|x_o)}[(d(z, x_o) - \tfrac12)^2]

    d(z, x) is the estimated probability that z is a true code of x and not one of the guide's. If the guide is the
    posterior, z* and z are exchangeable given x: classifiers made after exchanging them at random in each pair give the
    distribution of t, and p-values are exact if q(z|x) = p(z|x) for *all* x. If the guide is wrong for some x alone,
    `statistic` is largest there, but some other data are flagged too: a smooth function of x does not end at once.

    The classifier is a ridge regression of the label on functions of the code in the guide's units (linear, products,
    smooth random ones) times functions of x (principal components of x and of the guide's mean and spread, smooth
    random ones). In closed form, 200 classifiers cost little more than one. It sees shifts, wrong widths and wrong
    correlations, and how these change with x; little of finer shapes. It does not see data unlike those that the model
    draws; see `evidence_check`.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data to test at, `[N, *event]`: real or simulated.
        *args: further tensors with the data in front, passed to both programs.
        num_simulated: pairs that the model draws to make the classifiers; more find smaller differences.
        num_draws: draws of the guide at each datum.
        num_null: H, classifiers that guess; the least p-value is 1 / (H + 1).
        alpha: probability of a false alarm.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (datum, draw) pairs in one run of the model; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
        progress: called with the number of data simulated or tested so far, after each block of 50.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`; rows are repeated for the
            simulated data.

    Returns:
        A `LocalC2ST`, on the CPU.

    Raises:
        UsageError: if a size is not positive, there are too few classifiers for `alpha`, or as for `simulate`.
        NumericalError: if a draw is not finite.

    References:
        Linhart, Gramfort & Rodrigues 2023, L-C2ST: Local diagnostics for posterior approximations in simulation-based
        inference. Lopez-Paz & Oquab 2017, Revisiting classifier two-sample tests.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = local_c2st(vae.model, vae.guide, torch.ones(3, 4), num_simulated=50, num_draws=20, num_null=19)
        >>> found.p_values.shape
        torch.Size([3])
    """
    check(x, alpha, num_simulated=num_simulated, num_null=num_null, max_rows=max_rows)
    whole("num_draws", num_draws, 2)
    if 1 / (num_null + 1) > alpha:
        few = f"with num_null={num_null} nothing can be flagged at alpha {alpha}"
        raise UsageError(f"{few}: {round(1 / alpha) - 1} or more")
    report = progress or (lambda done: None)
    given = Simulation(model, guide, x, args, inputs, seed, max_rows, max_plate_nesting, to_x)
    with given.running():
        placed, order = _pairs(given.of(num_simulated, "pairs"), num_draws, report)
        features = PairFeatures(placed, seed)
        rows, labels = features(placed).flatten(0, 1), _labels(num_simulated, num_null, seed)
        weights, left_out = fit_classifiers(rows, labels, _PENALTY)
        tested = _tested(given, features, weights, order, num_draws, lambda done: report(num_simulated + done))
    values, errors = (torch.cat(parts) for parts in zip(*tested, strict=True))
    accuracy = (left_out[:, 0].sign() == labels[:, 0]).double().mean().item()
    return LocalC2ST(values[:, 0], errors, values[:, 1:].T, accuracy, num_simulated, num_draws, seed, alpha)


def _pairs(simulation: Simulation, num_draws: int, report: Callable[[int], object]) -> tuple[Placed, list[str]]:
    """The true code and one of the guide's for each simulated datum, `[2, n, size]`, and the order of the sites."""
    blocks, order = [], []
    for start, simulated in simulation.blocks():
        codes, order = simulation.codes(start, simulated, num_draws), list(simulated.latents)
        both = torch.stack([codes.truth, codes.draws[0]])
        blocks.append(_placed(both, *codes.moments(), observed(simulated.x, simulated.inputs)))
        report(start + len(simulated.x))
    return Placed(*(torch.cat([getattr(b, name) for b in blocks], dim) for name, dim in _DIMS.items())), order


_DIMS = {"codes": 1, "at": 0, "x": 0}
"""The dimension of the data in the fields of `Placed`."""


def _placed(codes: Tensor, mean: Tensor, deviation: Tensor, x: Tensor) -> Placed:
    standardised = (codes - mean) / deviation
    if not standardised.isfinite().all():
        raise NumericalError("a draw of the guide is not finite: look at x, and at the encoder's outputs")
    return Placed(standardised, torch.cat([mean, deviation.log()], -1), x)


def _labels(num: int, num_null: int, seed: int) -> Tensor:
    """+1 for true codes and -1 for the guide's, `[2 n, 1 + H]`; exchanged at random in all columns but the first."""
    signs = torch.randint(2, (num, num_null), generator=generator(seed, "exchanged")).double() * 2 - 1
    signs = torch.cat([torch.ones(num, 1, dtype=torch.float64), signs], 1)
    return torch.cat([signs, -signs])


def _tested(
    given: Simulation,
    features: PairFeatures,
    weights: Tensor,
    order: list[str],
    num_draws: int,
    report: Callable[[int], object],
) -> list[tuple[Tensor, Tensor]]:
    """The statistics `[block, 1 + H]` of each block of data, and the standard errors of the first column, `[block]`."""
    there, found = given.of(len(given.x), "tested"), []  # streams that no pair was made with
    for start in range(0, len(given.x), TILE_DATA):
        rows = slice(start, start + TILE_DATA)
        named = {name: value[rows] for name, value in there.inputs.items()}
        data = [there.x[rows], *(a[rows] for a in there.args), *named.values()]
        codes, _ = there.flat_draws(start, data, order, num_draws)
        placed = _placed(codes, *moments(codes), observed(data[0], named))
        probability = ((1 + features(placed) @ weights) / 2).clamp(0, 1)
        terms = (probability - 0.5).square()
        found.append((terms.mean(0), terms[..., 0].std(0) / sqrt(num_draws)))
        report(start + len(data[0]))
    return found
