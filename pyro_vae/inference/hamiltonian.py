"""Hamiltonian Monte Carlo for all data at once, with a step size for each datum and a decision for each chain.

Pyro's own HMC takes a batch as one state: it accepts or rejects all of it at once, so that its acceptance falls with
the number of data, and the step size is that of the worst datum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pyro_vae.arguments.values import plain_fields
from pyro_vae.errors import UsageError
from pyro_vae.inference.adaptation import Adaptation
from pyro_vae.inference.trajectories import Differentiated, Noise, Walk
from pyro_vae.process.isolation import isolated
from pyro_vae.statistics.convergence import bulk_ess, r_hat

MOST_R_HAT = 1.01
"""R-hat above which chains are taken not to have converged (Vehtari et al. 2021)."""


LEAST_ESS = 100
"""Effective draws, for each chain, below which estimates are not to be trusted (Vehtari et al. 2021)."""


@dataclass(frozen=True)
@plain_fields
class HMC:
    """Settings of Hamiltonian Monte Carlo: how many chains, and how they warm up and move.

    Args:
        num_chains: chains of each datum.
        num_warmup: draws of each chain before those that are kept, in which step sizes and scales adapt; 0 keeps them.
        num_leapfrog: most leapfrog steps of a trajectory.
        target_accept: mean acceptance probability that step sizes are adapted to.

    Raises:
        UsageError: if a value is out of range.

    Example:
        >>> HMC(num_chains=2, num_warmup=100)
        HMC(num_chains=2, num_warmup=100, num_leapfrog=10, target_accept=0.8)
    """

    num_chains: int = 4
    num_warmup: int = 300
    num_leapfrog: int = 10
    target_accept: float = 0.8

    def __post_init__(self) -> None:
        if self.num_chains < 1 or self.num_warmup < 0 or self.num_leapfrog < 1:
            came = f"{self.num_chains}, {self.num_warmup} and {self.num_leapfrog}"
            raise UsageError(f"hmc needs num_chains >= 1, num_warmup >= 0 and num_leapfrog >= 1, got {came}")
        if not 0 < self.target_accept < 1:
            raise UsageError(f"target_accept must lie between 0 and 1, got {self.target_accept}")


@dataclass(frozen=True, eq=False)
class HMCResult:
    """Draws of chains, and their health.

    Args:
        draws: `[num_samples, chains, N, size]`.
        accept: mean acceptance probability, `[chains, N]`.
        step_size: of each datum, `[N]`, in units of `scale`.
        scale: standard deviations that the steps are scaled by, `[N, size]`.
        divergences: trajectories whose energy went out of bounds, `[chains, N]`.
        evaluations: gradients of the log-density for each datum and chain, warm-up and all.
        seed: of the noise.
    """

    draws: Tensor
    accept: Tensor
    step_size: Tensor
    scale: Tensor
    divergences: Tensor
    evaluations: int
    seed: int

    @cached_property
    def r_hat(self) -> Tensor:
        """Rank-normalised split R-hat, `[N, size]`, by ArviZ; nan with a single chain. About a millisecond each."""
        return torch.from_numpy(r_hat(self.draws.permute(2, 3, 1, 0).cpu().numpy()))

    @cached_property
    def ess(self) -> Tensor:
        """Bulk effective sample size of all chains, `[N, size]`, by ArviZ."""
        return torch.from_numpy(bulk_ess(self.draws.permute(2, 3, 1, 0).cpu().numpy()))

    @property
    def flagged(self) -> Tensor:
        """Which data's draws are not to be trusted, `[N]` bool.

        Those with an R-hat above 1.01 or unknown, fewer than 100 effective draws for each chain, or a divergence. The
        largest R-hat of 50 dimensions is above 1.01 by chance alone until chains are some 1000 draws long.
        """
        unmixed = ~(self.r_hat <= MOST_R_HAT).all(-1)
        short = ~(self.ess >= LEAST_ESS * self.draws.shape[1]).all(-1)
        return unmixed | short | (self.divergences.sum(0) > 0).cpu()

    def summary(self) -> dict[str, float | int]:
        """What to look at first, as plain numbers."""
        samples, chains, num_data, size = self.draws.shape
        return {
            "num_data": num_data,
            "size": size,
            "num_chains": chains,
            "num_samples": samples,
            "accept": self.accept.mean().item(),
            "r_hat_max": self.r_hat.max().item(),
            "ess_min": self.ess.min().item(),
            "divergences": int(self.divergences.sum()),
            "unreliable": self.flagged.double().mean().item(),
            "evaluations": self.evaluations * chains,
            "seed": self.seed,
        }

    def __repr__(self) -> str:  # without R-hat and ESS, which take their time
        samples, chains, num_data, size = self.draws.shape
        return (
            f"HMCResult({chains} chains of {samples} draws for N = {num_data} data of {size} dimensions, acceptance "
            f"{self.accept.mean().item():.2f}, {int(self.divergences.sum())} divergences, seed {self.seed})"
        )


@isolated
def hmc(
    log_density: Callable[[Tensor], Tensor],
    start: Tensor,
    num_samples: int,
    *,
    settings: HMC | None = None,
    step_size: float | Tensor = 0.1,
    seed: int = 0,
    first: int = 0,
    progress: Callable[[int], object] | None = None,
) -> HMCResult:
    r"""Draw from a density for every datum by Hamiltonian Monte Carlo, all data and chains at once.

    .. math:: H(z, r) = -\log p(z) + \tfrac12 |r|^2, \qquad
        r \leftarrow r + \tfrac{\epsilon s}{2} \nabla \log p(z), \quad z \leftarrow z + \epsilon s r, \quad
        r \leftarrow r + \tfrac{\epsilon s}{2} \nabla \log p(z)

    Each chain of each datum is accepted or rejected separately. The warm-up finds each datum's step size by dual
    averaging of the acceptance of its chains, and the scale s of each of its dimensions from their draws; then both are
    fixed. The number of steps of a trajectory is drawn anew each time from 1 to `num_leapfrog`, the same for all data,
    and step sizes vary by 20% either way, so that no trajectory is periodic. A draw costs `(num_leapfrog + 1) / 2`
    gradients a chain on average.

    A datum's chains do not depend on the data that follow, up to rounding, nor on the caller's generators. Trajectories
    that end where the density is nan are rejected, and counted as divergences.

    Args:
        log_density: from z `[chains, N, size]` to `[chains, N]`, nats, up to a constant, differentiable; each element
            depends on its chain and datum alone. For example `Target.log_joint`.
        start: where the chains start, `[chains, N, size]`. R-hat detects most if they are spread widely.
        num_samples: draws to keep of each chain.
        settings: how chains warm up and move, with as many chains as `start` has; None for the defaults of `HMC`.
        step_size: where the adaptation starts, one for all or `[N]`.
        seed: of the noise.
        first: the position of the first datum in the whole set, a multiple of 50; it selects the random streams.
        progress: called with the number of draws done, those of the warm-up included.

    Returns:
        An `HMCResult`, on the device of `start`.

    Raises:
        UsageError: if an argument is out of range, or `start` has another number of chains than `settings`.
        NumericalError: if the log-density at the start, or its gradient, is not finite.

    References:
        Neal 2011, MCMC using Hamiltonian dynamics. Hoffman & Gelman 2014, The No-U-Turn sampler, section 3.2. Vehtari
        et al. 2021, Rank-normalization, folding, and localization: an improved R-hat.

    Example:
        >>> scale = torch.tensor([0.01, 1.0, 100.0])[:, None]
        >>> how = HMC(num_chains=16, num_warmup=100)
        >>> result = hmc(lambda z: -(z / scale).square().sum(-1) / 2, torch.zeros(16, 3, 1), 50, settings=how)
        >>> bool((result.draws.std((0, 1)) / scale - 1).abs().max() < 0.2)
        True
    """
    how = settings or HMC(num_chains=max(1, len(start)))
    _check(start, num_samples, how)
    density = Differentiated(log_density)
    walk = Walk(density, start, how.num_leapfrog, Noise(seed, "hmc", num_data=start.shape[1], first=first, like=start))
    adaptation = Adaptation(walk, step_size, how.target_accept, how.num_warmup)
    for done in range(how.num_warmup):
        adaptation.step()
        if progress is not None:
            progress(done + 1)
    step, draws, accept = adaptation.result(), [], torch.zeros_like(walk.point[1])
    walk.divergences = torch.zeros_like(walk.divergences)
    for done in range(num_samples):
        accept = accept + walk.step(step * adaptation.scale)
        draws.append(walk.point[0])
        if progress is not None:
            progress(how.num_warmup + done + 1)
    return HMCResult(
        torch.stack(draws),
        accept / num_samples,
        step.squeeze(-1),
        adaptation.scale,
        walk.divergences,
        walk.evaluations,
        seed,
    )


def _check(start: Tensor, num_samples: int, how: HMC) -> None:
    if start.dim() != 3 or 0 in start.shape or not start.is_floating_point():
        raise UsageError(f"start: expected real numbers [chains, N, size], got {start.dtype} {list(start.shape)}")
    if len(start) != how.num_chains:
        raise UsageError(
            f"start has {len(start)} chains, but settings has num_chains={how.num_chains}: make them equal"
        )
    if num_samples < 1:
        raise UsageError(f"hmc needs num_samples >= 1, got {num_samples}")
