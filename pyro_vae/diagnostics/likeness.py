"""Are the data like what the model draws? log p(x) of each datum among log p(x) of simulated data."""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.diagnostics.ranks import check
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence, log_marginal
from pyro_vae.inference.programs import Program
from pyro_vae.inference.simulated_codes import Simulation
from pyro_vae.inference.simulating import ToX, simulate
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.averages import number

Measure = Literal["log p(x)", "ELBO"]
_CLEAR = 2.0
"""A difference of the averages is named if it is larger than this many standard errors."""


@dataclass(frozen=True, eq=False)
class EvidenceCheck:
    r"""Log p(x) of data, and of data that the model draws.

    Args:
        observed: log p(x) of each datum, or its ELBO, `[N]`, nats.
        simulated: the same of n simulated data, `[n]`, nats.
        standard_errors: Monte Carlo standard errors of `observed`, `[N]`, nats; nan for the ELBO.
        measure: "log p(x)" or "ELBO".
        unreliable: shares of the data, and of the simulated ones, whose estimate of log p(x) is flagged.
        num_particles: draws of the guide for each datum.
        seed: seed of the draws.
        alpha: probability that a datum that the model draws is flagged; also that N such data are not `consistent`.
    """

    observed: Tensor
    simulated: Tensor
    standard_errors: Tensor
    measure: Measure
    unreliable: tuple[float, float]
    num_particles: int
    seed: int
    alpha: float = 0.05

    @property
    def lower(self) -> Tensor:
        """P(log p(x_sim) <= log p(x)), `[N]`: small for a datum that is less likely than those that the model draws.

        The datum is counted among the simulated ones, so that the p-value is exact for one that the model draws.
        """
        return (1 + (self.simulated[:, None] <= self.observed).sum(0)).double() / (len(self.simulated) + 1)

    @property
    def upper(self) -> Tensor:
        """P(log p(x_sim) >= log p(x)), `[N]`: small for a datum that is too typical."""
        return (1 + (self.simulated[:, None] >= self.observed).sum(0)).double() / (len(self.simulated) + 1)

    @property
    def p_values(self) -> Tensor:
        """The two-sided p-values, twice the smaller tail, `[N]`."""
        return (2 * torch.minimum(self.lower, self.upper)).clamp(max=1)

    @property
    def standard_errors_of_p(self) -> Tensor:
        """Monte Carlo standard errors of the smaller tail, from n simulated data, `[N]`."""
        tail = torch.minimum(self.lower, self.upper)
        return (tail * (1 - tail) / len(self.simulated)).sqrt()

    @property
    def flagged(self) -> Tensor:
        """Which data are unlike those of the model, `[N]` bool: p-value at most `alpha`.

        Of data that the model draws a share `alpha` is flagged, so ask `consistent` first.
        """
        return self.p_values <= self.alpha

    @property
    def p_value(self) -> float:
        """Kolmogorov and Smirnov's two-sample test that both sets have one distribution of log p(x)."""
        from scipy.stats import ks_2samp  # takes a second: not at every import of the package

        found: Any = ks_2samp(self.observed.numpy(), self.simulated.numpy())
        return float(found.pvalue)

    @property
    def consistent(self) -> bool:
        """Whether `p_value` is above `alpha`. Data that differ in other ways than log p(x) stay undetected."""
        return self.p_value > self.alpha

    @property
    def difference(self) -> tuple[float, float]:
        """Average of the data minus that of the simulated ones, and its standard error, nats."""
        squares = [v.var().item() / len(v) if len(v) > 1 else float("nan") for v in (self.observed, self.simulated)]
        return (self.observed.mean() - self.simulated.mean()).item(), sqrt(sum(squares))

    @property
    def verdict(self) -> str:
        """What was found, in words."""
        if self.consistent:
            return "no difference found"
        difference, error = self.difference
        if abs(difference) <= _CLEAR * error:
            return "as likely on average, but spread otherwise"
        return "less likely than simulated data" if difference < 0 else "more likely than simulated data"

    def summary(self) -> dict[str, Any]:
        """The verdict, p-value, averages and share of flagged data as plain numbers."""
        difference, error = self.difference
        return {
            "consistent": self.consistent,
            "verdict": self.verdict,
            "p_value": self.p_value,
            "alpha": self.alpha,
            "measure": self.measure,
            "observed": self.observed.mean().item(),
            "simulated": self.simulated.mean().item(),
            "difference": difference,
            "standard_error": error,
            "flagged": self.flagged.double().mean().item(),
            "unreliable": dict(zip(("observed", "simulated"), self.unreliable, strict=True)),
            "num_data": len(self.observed),
            "num_simulated": len(self.simulated),
            "num_particles": self.num_particles,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        difference, error = self.difference
        flagged = f"{self.flagged.double().mean().item():.1%} of the data flagged ({self.alpha:.0%} expected)"
        sizes = f"N = {len(self.observed)}, n = {len(self.simulated)}, seed {self.seed}"
        return (
            f"EvidenceCheck({self.verdict}, p = {self.p_value:.3g}; {self.measure} {difference:+.2f} nats "
            f"(se {number(error, '.2f')}) from simulated data; {flagged}; {sizes})"
        )


@isolated
@checked
def evidence_check(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_simulated: int = 500,
    measure: Measure = "log p(x)",
    num_particles: int = 1000,
    alpha: float = 0.05,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    to_x: ToX | None = None,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> EvidenceCheck:
    r"""Compare log p(x) of data with log p(x) of data that the model draws.

    .. math:: p_-(x) = P(\log p(x_{sim}) \le \log p(x)), \quad p_+(x) = P(\log p(x_{sim}) \ge \log p(x)), \qquad
        x_{sim} \sim p(x)

    If the model draws data like x, `log p(x)` has the same distribution for both, whichever estimate stands for it: the
    p-values are exact for importance sampling with any K, and for the ELBO too. Data may be too unlikely (noise, an
    anomaly, a model that has not learned them), or too likely (a model that draws more varied data than there are).

    This is a check of p(x) alone, by one number: data of another kind can have the same log p(x) (see
    `posterior_predictive_check` for statistics of your choice, and `tasks.scores` for anomalies). Checks of calibration
    speak about data that the model draws, so they say little of data that this check flags.

    Args:
        model: Pyro program of p(x, z), with one data plate.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`, at best not those of the training.
        *args: further tensors with the data in front, passed to both programs.
        num_simulated: n, data that the model draws.
        measure: "log p(x)" by importance sampling, or "ELBO" from the same draws, which has the guide's errors in it.
        num_particles: draws of the guide for each datum.
        alpha: probability of a false alarm; at least `2 / (n + 1)`.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (datum, draw) pairs in one run of the model; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        to_x: computes x from the draws of the observed sites; see `simulate`.
        progress: called with the number of data done so far, the simulated ones after the others.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c` or `mask`; rows are repeated
            for the simulated data.

    Returns:
        An `EvidenceCheck`, on the CPU.

    Raises:
        UsageError: if a number is out of range, there are too few simulated data for `alpha`, or as for `simulate`.

    References:
        Box 1980, Sampling and Bayes' inference in scientific modelling and robustness. Nalisnick et al. 2019, Detecting
        out-of-distribution inputs to deep generative models using typicality.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = evidence_check(vae.model, vae.guide, torch.ones(20, 4), num_simulated=60, num_particles=20)
        >>> found.p_values.shape
        torch.Size([20])
    """
    check(x, alpha, num_particles=num_particles, num_simulated=num_simulated, max_rows=max_rows)
    if measure not in ("log p(x)", "ELBO"):
        raise UsageError(f"measure must be 'log p(x)' or 'ELBO', got {measure!r}")
    if 2 / (num_simulated + 1) > alpha:
        few = f"with num_simulated={num_simulated} nothing can be flagged at alpha {alpha}"
        raise UsageError(f"{few}: {round(2 / alpha)} or more")
    like = Simulation(model, guide, x, args, inputs, seed).of(num_simulated, "simulated")
    common: dict[str, Any] = {"max_plate_nesting": max_plate_nesting}
    given: dict[str, Any] = {**common, **like.inputs}
    drawn = simulate(model, like.x, *like.args, seed=like.seed, to_x=to_x, **given)
    common |= {"num_particles": num_particles, "max_rows": max_rows}
    later = None if progress is None else lambda done: progress(len(x) + done)
    given = {**common, **inputs}
    of_data = log_marginal(model, guide, x, *args, seed=seed, progress=progress, **given)
    given = {**common, **drawn.inputs}
    of_simulated = log_marginal(model, guide, drawn.x, *drawn.args, seed=like.seed, progress=later, **given)
    shares = of_data.unreliable, of_simulated.unreliable
    values = [_values(found, measure) for found in (of_data, of_simulated)]
    errors = of_data.standard_error if measure == "log p(x)" else torch.full_like(of_data.standard_error, torch.nan)
    return EvidenceCheck(values[0], values[1], errors, measure, shares, num_particles, seed, alpha)


def _values(found: Evidence, measure: Measure) -> Tensor:
    return (found.log_p if measure == "log p(x)" else found.elbo).double()
