"""Bounds whose gradients are estimated in another way than by differentiating them. The value is the bound's own."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.objectives.base import Objective, log_mean_exp, reporting, weight_shares
from pyro_vae.objectives.paths import (
    PathWeights,
    draw_along_path,
    draw_held,
    log_guide_held,
    log_joint,
    refuse_point_masses,
)


@dataclass(frozen=True)
class StickingTheLanding(Objective):
    r"""The ELBO with the path gradient for the guide: no noise where the guide is the exact posterior.

    .. math:: \nabla_\phi \mathcal L = E\left[\nabla_z \left(\log p(x, z) - \log q_\phi(z|x)\right)
        \frac{\partial z}{\partial \phi}\right]

    The ELBO's derivative has a second term, the score of log q, which is zero on average and only adds noise;
    here it is left out. The model's gradient is the ELBO's. Right for chains of latent sites too.

    The score is found from log q at held draws, as a function of the guide's parameters alone. So the guide must know
    its density at any z, or the score at its own draws: the flows of this package find it from the Jacobian there,
    without an inversion, at the cost of a pass on `latent + 1` copies. Where the map is badly conditioned the gradient,
    never the value, suffers from rounding. A guide with several sites runs a second time, on the same draws: with
    dropout in it the two runs would differ, and the estimate be biased; a flow among them is inverted.

    Args:
        num_particles: draws of z for each datum, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive; if called with a guide that is not reparameterised.

    References:
        Roeder et al. 2017, Sticking the landing. Vaitl et al. 2024, Fast and unified path gradient estimators for
        normalizing flows.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> StickingTheLanding()(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    num_particles: int = 1
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=1)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO, summed over the batch, nats; differentiated without the score."""
        kwargs["max_plate_nesting"] = self.max_plate_nesting
        proposal = draw_along_path(guide, *args, num_particles=self.num_particles, **kwargs)
        log_weights = log_joint(model, proposal.latents, *args, **kwargs) - proposal.log_guide
        score = log_guide_held(guide, proposal, *args, **kwargs)
        return reporting(-log_weights.mean(0).sum(), -(log_weights + score).mean(0).sum())


@dataclass(frozen=True)
class DReG(Objective):
    r"""The importance weighted bound with doubly reparameterised gradients for the guide.

    .. math:: \nabla_\phi \mathcal L_K = E\left[\sum_k \tilde w_k^2 \, \nabla_z \log w_k
        \frac{\partial z_k}{\partial \phi}\right], \quad
        \nabla_\theta \mathcal L_K = E\left[\sum_k \tilde w_k \nabla_\theta \log p_\theta(x, z_k)\right]

    Here the normalised weights of a datum sum to 1. Unbiased for the gradient of `IWAE`, but its noise does not
    dominate the guide's gradient as K grows. The model's gradient is `IWAE`'s. Right for chains of latent sites too;
    for what the guide must provide see `StickingTheLanding`. A parameter that the model and the guide share gets the
    sum of both gradients.

    Args:
        num_particles: K, draws of z for each datum, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive; if called with a guide that is not reparameterised.

    References:
        Tucker et al. 2019, Doubly reparameterized gradient estimators for Monte Carlo objectives, eq. 8.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> DReG(num_particles=5)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    num_particles: int = 5
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=1)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the importance weighted bound, summed over the batch, nats; its gradient is that of the class."""
        kwargs["max_plate_nesting"] = self.max_plate_nesting
        proposal = draw_along_path(guide, *args, num_particles=self.num_particles, **kwargs)
        refuse_point_masses(proposal.sites)
        paths = PathWeights(self.max_plate_nesting)
        log_p = log_joint(model, paths(proposal.latents), *args, **kwargs)
        log_weights = (log_p - proposal.log_guide).detach()
        paths.weights = share = weight_shares(log_weights)  # so the path of log p gets its square
        score = log_guide_held(guide, proposal, *args, **kwargs)
        surrogate = share * log_p + share.square() * (score - proposal.log_guide)
        return reporting(-log_mean_exp(log_weights).sum(), -surrogate.sum())


@dataclass(frozen=True)
class ScoreFunction(Objective):
    r"""The ELBO with the score-function gradient for the guide (REINFORCE); for any guide, reparameterised or not.

    .. math:: \nabla_\phi \mathcal L = E\left[\frac1K \sum_k \left(\log w_k - b_k\right)
        \nabla_\phi \log q_\phi(z_k|x)\right], \quad w_k = \frac{p(x, z_k)}{q(z_k|x)}

    Unbiased, and much noisier than the gradient through the draws, where there is one. A baseline b that does not
    depend on its own draw leaves the mean unchanged and removes most of the variance.

    Args:
        num_particles: K, draws of z for each datum, at least 1.
        baseline: what is subtracted: `"none"`, or `"mean"`, the mean of log w over the datum's other draws (K >= 2).
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive, or too small for the baseline; for an unknown baseline.

    References:
        Williams 1992, Simple statistical gradient-following algorithms. Paisley et al. 2012, Variational Bayesian
        inference with stochastic search. Kool et al. 2019, Buy 4 REINFORCE samples, get a baseline for free.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> ScoreFunction(num_particles=4)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    num_particles: int = 5
    baseline: Literal["none", "mean"] = "mean"
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        if self.baseline not in ("none", "mean"):
            raise UsageError(f"ScoreFunction needs baseline to be 'none' or 'mean', got {self.baseline!r}")
        self._require(num_particles=1)
        if self.baseline == "mean" and self.num_particles < 2:
            raise UsageError(
                "ScoreFunction's baseline 'mean' is that of a datum's other draws: expected num_particles >= 2, got "
                f"{self.num_particles}; take more, or baseline='none'"
            )

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO, summed over the batch, nats; its gradient is that of the class."""
        kwargs["max_plate_nesting"] = self.max_plate_nesting
        draws = draw_held(guide, *args, num_particles=self.num_particles, **kwargs)
        log_p = log_joint(model, draws.latents, *args, **kwargs)
        log_weights = (log_p - draws.log_guide).detach()
        surrogate = log_p + self._signal(log_weights) * draws.score
        return reporting(-log_weights.mean(0).sum(), -surrogate.mean(0).sum())

    def _signal(self, log_weights: Tensor) -> Tensor:
        """Log-weights less the baseline, `[particles, batch]`."""
        if self.baseline == "none":
            return log_weights
        # x_k less the mean of the others is K / (K - 1) times x_k less the mean of all
        return (log_weights - log_weights.mean(0)) * (self.num_particles / (self.num_particles - 1))
