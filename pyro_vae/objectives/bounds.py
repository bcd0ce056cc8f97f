"""Bounds on log p(x), differentiated as they are; for reparameterised guides, `ELBO` for any."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program, sample_sites
from pyro_vae.objectives.base import NotTensorial, Objective, log_mean_exp
from pyro_vae.objectives.paths import draw_along_path, log_joint
from pyro_vae.process.pyro_internals import vectorized
from pyro_vae.schedules import Schedule


@dataclass(frozen=True)
class ELBO(Objective):
    r"""The evidence lower bound, by Pyro; with `beta` other than 1 a weighted bound.

    .. math:: -\mathcal L_\beta(x) = E_{q(z|x)}[-\log p(x|z)] + \beta \, KL(q(z|x) \| p(z))

    The default is Pyro's `Trace_ELBO` (AEVB's estimator A). `analytic_kl` is `TraceMeanField_ELBO` (estimator B): the
    KL in closed form where torch knows one, and *silently by sampling where it does not*. `beta` scales the latent
    sites of both programs, by a handler.

    Args:
        beta: weight of the KL, not negative; a number, or a schedule (warm-up).
        num_particles: draws of z for each datum, at least 1, in one vectorised run.
        analytic_kl: whether to take the KL in closed form.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive, or `beta` is negative; if called while `beta` is a schedule.

    References:
        Kingma & Welling 2013, Auto-encoding variational Bayes, eq. 6, 7. Higgins et al. 2017, beta-VAE.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> ELBO(num_particles=3)(vae.model, vae.guide, torch.ones(5, 4)).shape
        torch.Size([])
    """

    beta: float | Schedule = 1.0
    num_particles: int = 1
    analytic_kl: bool = False
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=1, beta=0)

    @property
    def is_bound(self) -> bool:
        """Only where `beta` is 1."""
        return self.beta == 1

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """The negative ELBO, summed over the batch, nats: Pyro's own estimate."""
        return self._estimator().differentiable_loss(*self._weighted(model, guide), *args, **kwargs)

    def tensor_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Pyro's estimate, draw for draw, without its reads of values; for reparameterised guides.

        Raises:
            NotTensorial: if a site of the guide is not reparameterised: its gradient needs Pyro's score function.
        """
        model, guide = self._weighted(model, guide)
        if self.num_particles > 1:
            estimator = self._estimator()
            model, guide = (vectorized(estimator, program) for program in (model, guide))
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
        drawn, scored = sample_sites(guide_trace), sample_sites(model_trace)
        _check_reparameterised(drawn)
        terms = _closed_form_kl(drawn, scored) if self.analytic_kl else {}
        log_p = sum(_log_prob_sum(site) for name, site in scored.items() if name not in terms)
        log_q = sum(_log_prob_sum(site) for name, site in drawn.items() if name not in terms)
        return (sum(terms.values()) + log_q - log_p) / self.num_particles  # pyright: ignore[reportReturnType]

    def _weighted(self, model: Program, guide: Program) -> tuple[Program, Program]:
        beta = self._number("beta")
        if isinstance(beta, int | float) and beta == 1:
            return model, guide
        return ScaleLatents(beta)(model), ScaleLatents(beta)(guide)

    def _estimator(self) -> Trace_ELBO:
        kind = TraceMeanField_ELBO if self.analytic_kl else Trace_ELBO
        vectorize = self.num_particles > 1
        return kind(self.num_particles, max_plate_nesting=self.max_plate_nesting, vectorize_particles=vectorize)


@dataclass(frozen=True)
class IWAE(Objective):
    r"""The importance weighted bound: tighter with every particle.

    .. math:: \mathcal L_K(x) = E\left[\log \frac1K \sum_{k=1}^K w_k\right], \quad
        w_k = \frac{p(x, z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

    Each datum has its own weights (Pyro's `RenyiELBO(alpha=0)` on a plain plate; inside a subsampled one that puts
    N / B into the exponent, which is no bound). Scales on sites are ignored, masks count, as in `importance`. With many
    particles noise dominates the guide's gradient: see `DReG`.

    Args:
        num_particles: K, draws of z for each datum, at least 1; 1 is the ELBO.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `num_particles` is not positive; if called with a guide that is not reparameterised.

    References:
        Burda et al. 2016, Importance weighted autoencoders, eq. 8. Rainforth et al. 2018, Tighter variational bounds
        are not necessarily better (on the noise).

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> IWAE(num_particles=5)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    num_particles: int = 5
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=1)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the batch, nats."""
        return -log_mean_exp(_log_weights(self, model, guide, *args, **kwargs)).sum()


@dataclass(frozen=True)
class Renyi(Objective):
    r"""The variational Renyi bound.

    .. math:: \mathcal L_\alpha(x) = \frac{1}{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha}, \quad
        w_k = \frac{p(x, z_k)}{q(z_k|x)}, \quad z_k \sim q(z|x)

    With K to infinity it falls from an upper bound (alpha < 0) over log p(x) (alpha = 0) to the ELBO (alpha to 1) and
    below. `alpha=0` is `IWAE`. With K draws it is a biased estimate of its limit, downwards for alpha < 1, so with
    a negative alpha it need not be an upper bound. Weights, scales and masks are as in `IWAE`.

    Args:
        alpha: order of the divergence, finite, not 1.
        num_particles: K, draws of z for each datum, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if `alpha` is 1 or not finite, or `num_particles` is not positive; if called with a guide that is
            not reparameterised.

    References:
        Li & Turner 2016, Renyi divergence variational inference, eq. 12.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> Renyi(alpha=0.5)(vae.model, vae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    alpha: float = 0.5
    num_particles: int = 5
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(num_particles=1)
        if self.alpha == 1 or not isfinite(self.alpha):
            raise UsageError(f"Renyi needs a finite alpha other than 1, got {self.alpha}: its limit at 1 is ELBO")

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the batch, nats."""
        order = 1 - self.alpha
        return -log_mean_exp(order * _log_weights(self, model, guide, *args, **kwargs)).sum() / order


def _log_weights(objective: IWAE | Renyi, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    """Log p(x, z) - log q(z|x) at draws that carry their path, `[particles, batch]`, nats."""
    kwargs["max_plate_nesting"] = objective.max_plate_nesting
    proposal = draw_along_path(guide, *args, num_particles=objective.num_particles, **kwargs)
    return log_joint(model, proposal.latents, *args, **kwargs) - proposal.log_guide


def _check_reparameterised(sites: Mapping[str, Any]) -> None:
    for name, site in sites.items():
        if not site["is_observed"] and not getattr(site["fn"], "has_rsample", False):
            raise NotTensorial(f"site {name!r} of the guide is not reparameterised")


def _closed_form_kl(drawn: Mapping[str, Any], scored: Mapping[str, Any]) -> dict[str, Tensor]:
    """KL(q || p) of every site for which torch has a closed form, summed over the batch."""
    known = {}
    for name, site in drawn.items():
        if name in scored and not site["is_observed"]:
            try:
                kl = kl_divergence(site["fn"], scored[name]["fn"])
            except NotImplementedError:
                continue
            known[name] = scale_and_mask(kl, scale=site["scale"], mask=site["mask"]).sum()
    return known


def _log_prob_sum(site: Mapping[str, Any]) -> Tensor:
    """The log-density of a site, scaled and masked, summed over the batch."""
    return scale_and_mask(site["fn"].log_prob(site["value"]), site["scale"], site["mask"]).sum()


class ScaleLatents(Messenger):
    """Effect handler that multiplies the log-densities of unobserved sites by `scale`.

    Used on model *and* guide: `TraceMeanField_ELBO` reads the guide's scale, `Trace_ELBO` both.
    """

    def __init__(self, scale: float | Tensor) -> None:
        super().__init__()
        self.scale = scale

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.scale
