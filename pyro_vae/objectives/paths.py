"""Runs of the programs for the estimators: draws with and without their path, densities at fixed draws, dreams.

A draw z = g(noise; phi, x) of a guide depends on phi, and so does its density: log q(z; phi). Of a sum over both,

    d/dphi f(z, phi) = df/dz dz/dphi  [the path]  +  df/dphi with z held fixed  [the score, where f is log q],

estimators of gradients use one part, or give the two different weights. The code need not know which tensors are phi: a
detached draw carries no path, and the whole derivative minus the score is the path.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program, sample_sites
from pyro_vae.inference.weighing import Proposal, log_density, per_datum, propose, sites_at, weigh


def draw_along_path(guide: Program, *args: Any, num_particles: int, max_plate_nesting: int, **kwargs: Any) -> Proposal:
    """Draws that carry their path, and log q(z|x) at them with its whole derivative.

    Raises:
        UsageError: if a site of the guide is not reparameterised.
    """
    proposal = propose(guide, *args, num_particles=num_particles, max_plate_nesting=max_plate_nesting, **kwargs)
    for name, site in proposal.sites.items():
        if not getattr(site["fn"], "has_rsample", False):
            raise UsageError(
                f"site {name!r} of the guide ({type(site['fn']).__name__}) is not reparameterised, so gradients do not "
                "reach the guide through its draws: take ScoreFunction, ReweightedWakeSleep or WakeSleep"
            )
    return proposal


def log_guide_held(guide: Program, proposal: Proposal, *args: Any, max_plate_nesting: int, **kwargs: Any) -> Tensor:
    """Log q(z|x) at draws that carry their path, as a function of the guide's parameters alone: `[particles, batch]`.

    Its derivative is the score. A chain of sites is run again on the held draws: there a draw is also a parameter of
    the next site, which holding it site by site would miss.
    """
    if len(proposal.sites) == 1:
        (site,) = proposal.sites.values()
        return per_datum(_log_prob_held(site["fn"], site["value"]), site, max_plate_nesting)
    held = {name: value.detach() for name, value in proposal.latents.items()}
    sites = sites_at(guide, held, *args, max_plate_nesting=max_plate_nesting, role="guide", **kwargs)
    return log_density(sites.values(), max_plate_nesting)


def _log_prob_held(distribution: Any, value: Tensor) -> Tensor:
    """The log-density at a held draw, by the distribution's `log_prob_held` if it has one."""
    own = getattr(distribution, "log_prob_held", None)
    return distribution.log_prob(value.detach()) if own is None else own(value)


@dataclass(frozen=True)
class HeldDraws:
    """Draws from a guide without their path, so that it need not be reparameterised.

    Args:
        latents: the draws, `[particles, batch, *event]` by site name; constants.
        log_guide: log q(z|x) as the guide computes it at its own draws, `[particles, batch]`, nats; a constant.
        score: log q(z|x) as a function of the guide's parameters, whose derivative is the score; `[particles, batch]`.
    """

    latents: Mapping[str, Tensor]
    log_guide: Tensor
    score: Tensor


def draw_held(guide: Program, *args: Any, num_particles: int, max_plate_nesting: int, **kwargs: Any) -> HeldDraws:
    """Draws without their path, in one run of the guide."""
    with _CutPaths() as cut:
        proposal = propose(guide, *args, num_particles=num_particles, max_plate_nesting=max_plate_nesting, **kwargs)
    refuse_point_masses(proposal.sites)
    with torch.no_grad():
        drawn = [{**site, "value": cut.drawn.get(name, site["value"])} for name, site in proposal.sites.items()]
        log_guide = log_density(drawn, max_plate_nesting).detach()
    return HeldDraws(proposal.latents, log_guide, proposal.log_guide)


def refuse_point_masses(sites: Mapping[str, Any], remedy: str = "ELBO") -> None:
    """Refuse a `Delta` in estimators that use the gradient of log q, which is 0 there: the guide would learn nothing.

    Args:
        sites: of the guide's trace, by name.
        remedy: what to take instead.

    Raises:
        UsageError: if a site is a `Delta`.
    """
    for name, site in sites.items():
        if is_point_mass(site["fn"]):
            raise UsageError(
                f"site {name!r} of the guide is a Delta, which has no density to learn from: take {remedy}, or a guide "
                "with a width"
            )


class _CutPaths(Messenger):
    """Effect handler that detaches every draw before other code gets it, and keeps the original.

    Some distributions recognise their own draws by identity, and compute the density there more accurately.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not poutine.util.site_is_subsample(msg):
            self.drawn[msg["name"]] = msg["value"]
            msg["value"] = msg["value"].detach()


def log_joint(model: Program, latents: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Log p(x, z), `[particles, batch]`, nats; arguments as for `importance.weigh`."""
    log_likelihood, log_prior = weigh(model, latents, *args, **kwargs)
    return log_likelihood + log_prior


class PathWeights:
    """Draws whose paths are weighted by numbers that become known only after the model has run.

    Called with the draws, it returns equal ones for the model; `weights`, `[particles, batch]`, are set after the model
    has run, and multiply the gradients for the draws. Gradients for the model's parameters are unchanged.

    Args:
        nesting: number of plate dimensions the programs use.
    """

    def __init__(self, nesting: int) -> None:
        self.nesting = nesting
        self.weights: Tensor | None = None

    def __call__(self, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Equal draws, to pass to the model."""
        return {name: self._gated(value) for name, value in latents.items()}

    def _gated(self, value: Tensor) -> Tensor:
        gated = value.view_as(value)
        if gated.requires_grad:
            gated.register_hook(self._weigh)
        return gated

    def _weigh(self, gradient: Tensor) -> Tensor:
        assert self.weights is not None
        particles, batch = self.weights.shape
        event = gradient.dim() - 1 - self.nesting
        return gradient * self.weights.reshape(particles, *[1] * (self.nesting - 1), batch, *[1] * event)


def log_guide_of_dreams(model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
    r"""Log q(z|x) of one dream (x, z) ~ p for each datum, summed, nats; differentiable for the guide's parameters.

    Args:
        model: Pyro program with one observed site, of the shape of the first argument; run unconditioned.
        guide: Pyro program of q(z|x).
        *args: data, of which only the size counts, and further arguments of both programs.
        **kwargs: keyword arguments of both programs.

    Raises:
        UsageError: if it is not clear which draw to give the guide as data, or the sites do not match.
    """
    latents, x = _dream(model, *args, **kwargs)
    trace = poutine.trace(poutine.condition(guide, data=latents)).get_trace(x, *args[1:], **kwargs)
    sites = sample_sites(trace)
    if set(sites) != set(latents):
        raise UsageError(f"the guide draws {sorted(sites)}, the model's latent sites are {sorted(latents)}")
    log_probs = [scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"]).sum() for site in sites.values()]
    return torch.stack(log_probs).sum()


def _dream(model: Program, *args: Any, **kwargs: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of all sites from the model itself: the latents by name, and data in place of the first argument."""
    with torch.no_grad():
        trace = poutine.trace(poutine.uncondition(model)).get_trace(*args, **kwargs)
    sites = sample_sites(trace)
    observed = {name: site["value"] for name, site in sites.items() if site["infer"].get("was_observed")}
    shape = getattr(args[0], "shape", None) if args else None
    if len(observed) != 1 or next(iter(observed.values())).shape != shape:
        found = {name: tuple(value.shape) for name, value in observed.items()}
        raise UsageError(
            "the sleep phase draws data from the model and gives them to the guide as its first argument, so the model "
            f"must observe one site of that argument's shape; it observes {found}, the argument has shape "
            f"{None if shape is None else tuple(shape)}: take ReweightedWakeSleep(insomnia=1), which does not dream"
        )
    latents = {name: site["value"] for name, site in sites.items() if name not in observed}
    return latents, next(iter(observed.values())).to(args[0].dtype)
