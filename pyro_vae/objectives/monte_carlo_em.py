"""Monte Carlo EM: the model learns from codes that Hamiltonian Monte Carlo draws from its own posterior."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.inference.trajectories import CallersNoise, Density, Differentiated, Walk
from pyro_vae.inference.unconstrained import Target
from pyro_vae.inference.weighing import log_density, sites_at
from pyro_vae.objectives.base import Objective, reporting
from pyro_vae.objectives.bounds import ELBO
from pyro_vae.objectives.paths import log_joint, refuse_point_masses

_GAIN = 0.5
"""How far one trajectory moves the logarithm of the step size, for each unit of acceptance off the target. At 0.9 it
takes some four trajectories to follow a change, and the mean acceptance of 100 data moves the step size by 1 %."""


@dataclass(frozen=True)
class Draws:
    """Where chains are.

    Args:
        z: positions, `[num_chains, B, size]`, unconstrained (`Target`).
        log_step: logarithm of the step size, one for all.
        accept: mean acceptance of the last trajectory, over data and chains.
    """

    z: Tensor
    log_step: Tensor
    accept: Tensor


@dataclass(frozen=True)
class MonteCarloEM(Objective):
    r"""Monte Carlo EM: Hamiltonian Monte Carlo draws codes from the posterior, and the model learns from them.

    .. math:: \text{E: } z_c \sim p_\theta(z|x) \text{ by HMC}, \qquad
        \text{M: } \max_\theta \frac1C \sum_c \log p_\theta(x, z_c), \quad
        \max_\phi \frac1C \sum_c \log q_\phi(z_c|x)

    By Fisher's identity the gradient of the M-step at the weights of the draws is, on average over exact draws, that of
    log p(x). No guide is needed; with `teach_guide` it learns from the same draws and descends KL(p(z|x) || q(z|x)), so
    that `evaluate`, `reconstruct` and the other tasks can use it. It changes nothing in what the model learns (but for
    a prior made of the encoder, as `VampPrior`). The latents must be continuous; the guide need not be reparameterised.

    In `fit` a batch is drawn for once, and the weights are updated `num_updates` times with these draws. The chains of
    a datum go on where they were at its last visit, with `num_trajectories`; the weights have changed little since.
    That is what the code of AEVB's authors does (`dpkingma/anglepy`: `step_batch_mcem`), with all data as one batch:
    `batch_size=N` gives their algorithm, and smaller batches the same on line, which theirs was not. Called elsewhere,
    as by `pyro.infer.SVI`, chains start anew, and there is one update for each call: draws are then biased towards the
    prior, where they start, unless `num_warmup` is large.

    One step size for all data follows the target of acceptance. A visit costs `num_leapfrog + 1` gradients of
    log p(x, z) in z for each trajectory and chain, and `num_updates` of the M-step; kept chains take `N * num_chains`
    codes in memory and in each checkpoint.

    What is reported is `-log p(x, z) + log q(z|x)` at the draws. Its mean over exact draws is
    `-log p(x) - KL(p(z|x) || q(z|x))`: an *upper* bound on log p(x), where `train_elbo` and `valid_loss`, the ELBO of
    the guide, are lower ones. Without `teach_guide` it is `-log p(x, z)`, which is no bound; neither is `train_elbo`
    worth anything then, and `keep="last"` is the choice. Scales are ignored, masks count.

    Args:
        num_updates: updates of the weights with the same draws, at least 1.
        num_chains: chains of each datum, at least 1.
        num_trajectories: trajectories of each chain at a visit, at least 1.
        num_warmup: trajectories of a chain that starts, at a draw from the prior, before those.
        num_leapfrog: leapfrog steps of a trajectory, at least 1.
        target_accept: mean acceptance probability that the step size follows.
        teach_guide: whether the guide learns from the draws.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: for an option out of range; if called with discrete latents, or to teach a guide without a density.

    References:
        Wei & Tanner 1990, A Monte Carlo implementation of the EM algorithm. Kingma & Welling 2013, section 5 and
        appendix E.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> MonteCarloEM()(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    latents: ClassVar[Mapping[str, Tensor]] = {}

    num_updates: int = 5
    num_chains: int = 1
    num_trajectories: int = 1
    num_warmup: int = 5
    num_leapfrog: int = 10
    target_accept: float = 0.9
    teach_guide: bool = True
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_updates=1, num_chains=1, num_trajectories=1, num_warmup=0, num_leapfrog=1)
        if not 0 < self.target_accept < 1:
            raise UsageError(f"MonteCarloEM needs target_accept between 0 and 1, got {self.target_accept}")

    @property
    def is_bound(self) -> bool:
        """An upper bound on log p(x), with `teach_guide`."""
        return self.teach_guide

    @property
    def couples_rows(self) -> bool:
        """True: the step size is that of the batch."""
        return True

    @property
    def trains_guide(self) -> bool:
        """`teach_guide`."""
        return self.teach_guide

    @property
    def updates(self) -> int:
        """`num_updates`."""
        return self.num_updates

    def holding(self, values: Mapping[str, Tensor]) -> Self:
        """The M-step alone, at given latents: by site name, with the data in front, `[B, num_chains, ...]`."""
        held = copy(self)
        nesting = self.max_plate_nesting
        object.__setattr__(held, "latents", {name: value.movedim(0, nesting) for name, value in values.items()})
        return held

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the reported value, summed over the batch, nats; its gradient is that of the M-step."""
        latents = self.latents or self._drawn(model, guide, *args, **kwargs)
        run = {**kwargs, "max_plate_nesting": self.max_plate_nesting}
        log_p = log_joint(model, latents, *args, **run).mean(0).sum()
        if not self.teach_guide:
            return -log_p
        log_q = self._log_guide(guide, latents, *args, **run).mean(0).sum()
        return reporting(log_q - log_p, -log_p - log_q)

    def evaluate(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Any:
        """Minus the ELBO of the guide, which draws the codes itself; without `teach_guide` as in training."""
        bound = ELBO(num_particles=self.num_chains, max_plate_nesting=self.max_plate_nesting)
        return (bound if self.teach_guide else self)(model, guide, *args, **kwargs)

    def draw(
        self,
        target: Target,
        z: Tensor | None = None,
        log_step: Tensor | None = None,
        density: Density | None = None,
    ) -> Draws:
        """The E-step: trajectories of the chains of each datum, with torch's own generators.

        Args:
            target: log p(x, z) at the data.
            z: where kept chains are, `[num_chains, B, size]`; None for chains that start.
            log_step: logarithm of the step size so far; None to find one.
            density: how to compute log p(x, z) and its gradient; None for the target's programs and autograd.
        """
        number = self.num_trajectories + (self.num_warmup if z is None else 0)
        z = target.draw_prior(self.num_chains, int(torch.randint(1 << 62, ()))) if z is None else z
        walk = Walk(density or Differentiated(target.log_joint), z, self.num_leapfrog, CallersNoise(z))
        unit, accept = torch.ones_like(z[0, :, :1]), z.new_zeros(())
        log_step = walk.rough_step_size(unit).log().mean() if log_step is None else log_step
        for _ in range(number):
            accept = walk.step(log_step.exp() * unit).mean()
            log_step = log_step + _GAIN * (accept - self.target_accept)
        return Draws(walk.point[0], log_step, accept)

    def _drawn(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Mapping[str, Tensor]:
        """Latents of fresh chains, `[num_chains, ..., B, *event]`, by site name."""
        target = Target(model, guide, *args, max_plate_nesting=self.max_plate_nesting, **kwargs)
        return target.latents(self.draw(target).z)

    def _log_guide(self, guide: Program, latents: Mapping[str, Tensor], *args: Any, **run: Any) -> Tensor:
        """Log q(z|x) at the draws, `[num_chains, B]`, nats."""
        sites = sites_at(guide, latents, *args, role="guide", **run)
        refuse_point_masses(sites, "teach_guide=False")
        return log_density(sites.values(), self.max_plate_nesting)
