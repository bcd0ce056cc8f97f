"""The guide against Hamiltonian Monte Carlo at real data: mean, spread and correlations of each datum's code."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.diagnostics.ranks import check
from pyro_vae.errors import UsageError
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.inference.posteriors import posterior
from pyro_vae.inference.programs import Program, evaluation_mode
from pyro_vae.inference.unconstrained import Target
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import derive_seed

_BATCHES = 10
"""Parts that each chain is cut into: the spread of their means gives the error of the mean of dependent draws."""
_LEAST_DRAWS = 20
"""Draws of each chain, for each part to have two."""


@dataclass(frozen=True, eq=False)
class Off:
    """By how much the guide is off in some numbers of each datum's code.

    Args:
        values: the guide's less HMC's, `[N, M]`; the unit is said where it is used.
        standard_errors: Monte Carlo standard errors, from the draws of both, `[N, M]`.
    """

    values: Tensor
    standard_errors: Tensor

    def beyond(self, tolerance: float, errors: float) -> Tensor:
        """Whether any number of a datum is off by more than the tolerance and so many standard errors, `[N]` bool."""
        return (self.values.abs() > tolerance + errors * self.standard_errors).any(-1)

    @property
    def root_mean_square(self) -> float:
        """The root of the mean square, less what the errors contribute; 0 for no numbers."""
        if self.values.numel() == 0:
            return 0.0
        return sqrt(max(0.0, self._mean_squares.mean().item()))

    @property
    def standard_error(self) -> float:
        """Standard error of `root_mean_square` from having so many data; nan for one datum, and where it is 0."""
        size = self.root_mean_square
        if size == 0 or len(self.values) < 2:
            return float("nan")
        return (self._mean_squares.std() / len(self.values) ** 0.5).item() / (2 * size)

    @property
    def _mean_squares(self) -> Tensor:
        """Of each datum, less what the errors contribute, `[N]`."""
        return (self.values.square() - self.standard_errors.square()).mean(-1)


@dataclass(frozen=True, eq=False)
class HMCComparison:
    """The guide's codes of each datum compared with those of Hamiltonian Monte Carlo.

    Codes are compared where HMC moves: as unconstrained real numbers, which for real-valued sites are the codes.

    Args:
        mean: difference of the means, in HMC's standard deviations, `[N, size]`.
        log_sd: logarithm of the ratio of the standard deviations, guide over HMC, `[N, size]`.
        correlation: difference of the correlations of each two dimensions, `[N, size (size - 1) / 2]`.
        unreliable: where the chains are not to be trusted, `[N]` bool; see `HMCResult.flagged`.
        tolerance: what difference does not matter: of a mean in standard deviations, of log sd, of a correlation.
        num_draws: draws of each datum, of the guide and of HMC.
        seed: seed of the draws.
        alpha: probability that a datum whose differences are within the tolerance is flagged.
    """

    mean: Off
    log_sd: Off
    correlation: Off
    unreliable: Tensor
    tolerance: float
    num_draws: int
    seed: int
    alpha: float = 0.01

    @property
    def by_kind(self) -> Mapping[str, Tensor]:
        """At which data the guide's "mean", "sd" or "correlation" is off by more than the tolerance, `[N]` bool each.

        Beyond it by so many standard errors that of the data that are within it at most a share `alpha` is flagged by
        any (Bonferroni over all numbers of a datum).
        """
        parts = {"mean": self.mean, "sd": self.log_sd, "correlation": self.correlation}
        errors = _quantile(self.alpha / sum(off.values.shape[1] for off in parts.values()))
        return {name: off.beyond(self.tolerance, errors) for name, off in parts.items()}

    @property
    def flagged(self) -> Tensor:
        """At which data any of them is off, `[N]` bool. Where `unreliable`, HMC may be what is wrong."""
        return torch.stack(list(self.by_kind.values())).any(0)

    def summary(self) -> dict[str, Any]:
        """Root mean squares of the differences, and shares of data with a flag, as plain numbers."""
        return {
            "off": {
                "mean_in_sd": self.mean.root_mean_square,
                "log_sd": self.log_sd.root_mean_square,
                "correlation": self.correlation.root_mean_square,
            },
            "log_sd_mean": self.log_sd.values.mean().item(),
            "flagged": self.flagged.double().mean().item(),
            "flagged_by": {name: flags.double().mean().item() for name, flags in self.by_kind.items()},
            "unreliable": self.unreliable.double().mean().item(),
            "tolerance": self.tolerance,
            "alpha": self.alpha,
            "num_data": len(self.unreliable),
            "num_draws": self.num_draws,
            "seed": self.seed,
        }

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name} {flags.double().mean().item():.0%}" for name, flags in self.by_kind.items())
        width = self.log_sd.values.mean().exp().item()
        return (
            f"HMCComparison(off by more than {self.tolerance}: {self.flagged.double().mean().item():.0%} of the data "
            f"({kinds}); sd {width:.2f} of HMC's; HMC unreliable {self.unreliable.double().mean().item():.0%}; "
            f"N = {len(self.unreliable)}, {self.num_draws} draws each, seed {self.seed})"
        )


def _quantile(tail: float) -> float:
    """Standard errors that are exceeded on either side with this probability, by errors from 40 parts."""
    from scipy.stats import t  # takes a second: not at every import of the package

    return float(t.ppf(1 - tail / 2, 4 * _BATCHES - 1))


@isolated
@checked
def compare_with_hmc(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_draws: int = 2000,
    hmc: HMC | None = None,
    tolerance: float = 0.1,
    alpha: float = 0.01,
    seed: int = 0,
    max_rows: int = 4096,
    max_plate_nesting: int = 1,
    progress: Callable[[int], object] | None = None,
    **inputs: Tensor,
) -> HMCComparison:
    r"""Compare mean, standard deviation and correlations of the code under q(z|x) with those under p(z|x), by HMC.

    All other checks of calibration use data that the model draws. This one is for data at hand: some tens of real ones,
    since HMC costs some thousands of gradients each. What it adds to `inference_gaps`, which says how many nats the
    guide loses, is in which way it is wrong. Errors of HMC's numbers are those of the means of 10 parts of each chain,
    through the influence function of each number (for a standard deviation :math:`(u^2 - 1) s / 2`, for a correlation
    :math:`u v - \rho (u^2 + v^2) / 2`, u and v being standardised).

    Chains start at draws of the guide. Where the guide misses a mode altogether, they may miss it too, and R-hat says
    so only if some of them find it.

    Args:
        model: Pyro program of p(x, z), with one data plate and continuous latent sites.
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front, passed to both programs.
        num_draws: draws for each datum, of the guide and of all chains together; at least 20 for each chain.
        hmc: settings of the chains; None for `HMC()`.
        tolerance: differences up to this are not flagged.
        alpha: probability that a datum whose differences are within the tolerance is flagged.
        seed: seed of the draws; the caller's generators do not change.
        max_rows: maximum number of (datum, draw) pairs in one run of the model; limits memory.
        max_plate_nesting: number of plate dimensions the programs use.
        progress: called with the number of data done so far.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        An `HMCComparison`, on the CPU.

    Raises:
        UsageError: if a number is out of range, or a latent site is discrete.
        NumericalError: if the log-density where the chains start is not finite.

    References:
        Vehtari et al. 2021, Rank-normalization, folding, and localization: an improved R-hat. Flegal & Jones 2010,
        Batch means and spectral variance estimators in Markov chain Monte Carlo.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> how = HMC(num_chains=2, num_warmup=20)
        >>> compare_with_hmc(vae.model, vae.guide, torch.ones(3, 4), num_draws=100, hmc=how).mean.values.shape
        torch.Size([3, 2])
    """
    check(x, alpha, num_draws=num_draws, max_rows=max_rows)
    how = hmc or HMC()
    if num_draws < (least := _LEAST_DRAWS * how.num_chains):
        raise UsageError(f"num_draws must be at least {least} for {how.num_chains} chains, got {num_draws}")
    if not 0 <= tolerance < inf:
        raise UsageError(f"tolerance must be a number from 0 on, got {tolerance}")
    given: dict[str, Any] = {**inputs, "max_plate_nesting": max_plate_nesting}
    found = posterior(
        model,
        guide,
        x,
        *args,
        num_draws=num_draws,
        method="hmc",
        hmc=how,
        seed=seed,
        max_rows=max_rows,
        progress=progress,
        **given,
    )
    assert found.chains is not None
    with evaluation_mode(model, guide):
        drawn, _ = Target(model, guide, x, *args, **given).draw_guide(num_draws, derive_seed(seed, "compared"))
    by_guide, by_hmc = _Moments(drawn[:, None], num_draws), _Moments(found.chains.draws, _BATCHES)
    return HMCComparison(*_differences(by_guide, by_hmc), found.chains.flagged, tolerance, num_draws, seed, alpha)


class _Moments:
    """Means, standard deviations and correlations of draws, with their errors.

    Args:
        draws: `[S, chains, N, size]`.
        parts: how many parts each chain is cut into.
    """

    def __init__(self, draws: Tensor, parts: int) -> None:
        draws = draws.double().cpu()
        flat = draws.flatten(0, 1)
        self.mean, self.sd = flat.mean(0), flat.std(0)
        u = (draws - self.mean) / self.sd
        first, second = torch.triu_indices(draws.shape[-1], draws.shape[-1], offset=1)
        self.correlation = (u[..., first] * u[..., second]).mean((0, 1))
        squares = (u[..., first].square() + u[..., second].square()) / 2
        self.mean_error = self.sd * _error(u, parts)
        self.sd_error = self.sd * _error((u.square() - 1) / 2, parts)
        self.correlation_error = _error(u[..., first] * u[..., second] - self.correlation * squares, parts)


def _error(values: Tensor, parts: int) -> Tensor:
    """Standard errors of the means of chains `[S, chains, ...]`, from the means of their parts; `[...]`."""
    length = len(values) // parts
    means = values[: parts * length].reshape(parts, length, *values.shape[1:]).mean(1).flatten(0, 1)
    return means.std(0) / sqrt(len(means))


def _differences(guide: _Moments, hmc: _Moments) -> tuple[Off, Off, Off]:
    """Of the means in HMC's standard deviations, of log sd, and of the correlations."""
    mean = Off((guide.mean - hmc.mean) / hmc.sd, _both(guide.mean_error / hmc.sd, hmc.mean_error / hmc.sd))
    relative = _both(guide.sd_error / guide.sd, hmc.sd_error / hmc.sd)
    log_sd = Off((guide.sd / hmc.sd).log(), relative)
    errors = _both(guide.correlation_error, hmc.correlation_error)
    return mean, log_sd, Off(guide.correlation - hmc.correlation, errors)


def _both(a: Tensor, b: Tensor) -> Tensor:
    return torch.hypot(a, b)
