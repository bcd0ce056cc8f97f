"""The model and the guide each have their own loss: no gradient passes from one to the other through a draw."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program
from pyro_vae.objectives.base import Objective, log_mean_exp, reporting, weight_shares
from pyro_vae.objectives.paths import draw_held, log_guide_of_dreams, log_joint
from pyro_vae.schedules import Schedule


@dataclass(frozen=True)
class WakeSleep(Objective):
    r"""Wake-sleep: the model learns from the guide's codes of the data, the guide from the model's dreams.

    .. math:: \text{wake: } \max_\theta E_{q_\phi(z|x)}[\log p_\theta(x, z)], \qquad
        \text{sleep: } \max_\phi E_{p_\theta(x, z)}[\log q_\phi(z|x)]

    Both in one step, from the same parameters. The sleep phase is not the gradient of any bound on log p(x). It dreams
    one (x, z) for each datum: the model is run unconditioned, with the batch for its size alone, and the guide is given
    the dream as its first argument. So the model must observe one site, of the shape of that argument. The guide need
    not be reparameterised. What is reported is the ELBO of the guide's draws. Scales are ignored, masks count.

    Args:
        num_particles: draws of z for each datum in the wake phase, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive; if called with a model that observes something else.

    References:
        Hinton et al. 1995, The wake-sleep algorithm for unsupervised neural networks. Kingma & Welling 2013, section 5
        (which compares with it).

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> WakeSleep()(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    num_particles: int = 1
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=1)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the ELBO, summed over the batch, nats; its gradient is that of the class."""
        run = {**kwargs, "max_plate_nesting": self.max_plate_nesting}
        draws = draw_held(guide, *args, num_particles=self.num_particles, **run)
        log_p = log_joint(model, draws.latents, *args, **run)
        asleep = log_guide_of_dreams(model, guide, *args, **kwargs)
        return reporting(-(log_p - draws.log_guide).mean(0).sum(), -(log_p.mean(0).sum() + asleep))


@dataclass(frozen=True)
class ReweightedWakeSleep(Objective):
    r"""Reweighted wake-sleep: the guide's draws, weighted by importance, teach both the model and the guide.

    .. math:: \nabla_\theta: \sum_k \tilde w_k \nabla \log p_\theta(x, z_k), \qquad
        \nabla_\phi: \iota \sum_k \tilde w_k \nabla \log q_\phi(z_k|x) + (1 - \iota) \nabla \log q_\phi(z'|x'), \quad
        (x', z') \sim p_\theta

    Here the normalised weights of a datum sum to 1 (Pyro's has one weight for the whole batch). The model ascends the
    importance weighted bound, which is what is reported; the guide descends KL(p(z|x) || q(z|x)), on the data (wake) or
    on dreams (sleep). The guide need not be reparameterised. For finite K the normalised weights are biased, and so is
    the wake phase. For the dreams see `WakeSleep`.

    Args:
        num_particles: K, draws of z for each datum, at least 2: a single draw has weight 1 and teaches the guide only
            to repeat it.
        insomnia: share iota of the wake phase in the guide's gradient, in [0, 1]; a number, or a schedule. 1 does not
            dream at all, 0 is sleep alone.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: for an option out of range; if called while `insomnia` is a schedule, or with a model
            from which no data can be drawn.

    References:
        Bornschein & Bengio 2015, Reweighted wake-sleep, section 3. Le et al. 2020, Revisiting reweighted wake-sleep.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> ReweightedWakeSleep(insomnia=0.5)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    num_particles: int = 5
    insomnia: float | Schedule = 1.0
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=2, insomnia=0)
        if not isinstance(self.insomnia, Schedule) and not self.insomnia <= 1:
            raise UsageError(f"ReweightedWakeSleep needs insomnia in [0, 1], got {self.insomnia}")

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the importance weighted bound, summed over the batch, nats; its gradient is that of the class."""
        run = {**kwargs, "max_plate_nesting": self.max_plate_nesting}
        draws = draw_held(guide, *args, num_particles=self.num_particles, **run)
        log_p = log_joint(model, draws.latents, *args, **run)
        log_weights = (log_p - draws.log_guide).detach()
        share, awake = weight_shares(log_weights), self._number("insomnia")
        surrogate = (share * (log_p + awake * draws.score)).sum()
        if isinstance(awake, Tensor) or awake != 1:
            surrogate = surrogate + (1 - awake) * log_guide_of_dreams(model, guide, *args, **kwargs)
        return reporting(-log_mean_exp(log_weights).sum(), -surrogate)
