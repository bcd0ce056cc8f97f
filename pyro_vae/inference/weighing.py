"""One vectorised run of any Pyro (model, guide) pair gives all log-densities of every particle and datum.

The ELBO, IWAE, log p(x), effective sample sizes, Pareto k and resampled posteriors are computed from these numbers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import Program, sample_sites
from pyro_vae.inference.sites import in_order
from pyro_vae.messages import ByShapes
from pyro_vae.process.isolation import isolated_keeping_gradients


@dataclass(frozen=True, repr=False)
class ImportanceSamples(ByShapes):
    """Draws z_k ~ q(z|x) and their log-densities, in nats, `[particles, batch]`.

    Args:
        log_likelihood: log p(x|z): all observed sites.
        log_prior: log p(z): all latent sites of the model.
        log_guide: log q(z|x): all latent sites of the guide.
        latents: the draws, `[particles, batch, *event]` by site name, in the order in which the model draws them.
    """

    log_likelihood: Tensor
    log_prior: Tensor
    log_guide: Tensor
    latents: Mapping[str, Tensor]

    @property
    def log_weights(self) -> Tensor:
        """The log-weights log p(x|z) + log p(z) - log q(z|x), `[particles, batch]`, nats; their mean is the ELBO."""
        return self.log_likelihood + self.log_prior - self.log_guide

    @property
    def kl(self) -> Tensor:
        """The difference log q(z|x) - log p(z), `[particles, batch]`, nats; its mean estimates KL(q(z|x) || p(z))."""
        return self.log_guide - self.log_prior


@isolated_keeping_gradients
def importance(
    model: Program, guide: Program, *args: Any, num_particles: int, max_plate_nesting: int = 1, **kwargs: Any
) -> ImportanceSamples:
    r"""Draw `num_particles` codes for every datum and compute their log-weights, in one run of each program.

    .. math:: z_k \sim q(z|x), \qquad \log w_k = \log p(x, z_k) - \log q(z_k | x)

    The guide's network runs once on the batch, not once for each particle. Gradients are on if the caller has them on.
    Scales of sites (`poutine.scale`, subsampling) are ignored, since they are weights of a loss; masks are applied.

    Args:
        model: Pyro program of p(x, z), with every sample site in one data plate at dimension -1.
        guide: Pyro program of q(z|x), with the model's latent sites in the same plate.
        *args: arguments of both programs; data with the batch in front.
        num_particles: draws for each datum, at least 1.
        max_plate_nesting: number of plate dimensions the programs use.
        **kwargs: keyword arguments of both programs.

    Returns:
        Log-densities `[num_particles, batch]` in nats, per datum.

    Raises:
        UsageError: if a site is outside the data plate, or the sites of model and guide do not match.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> importance(vae.model, vae.guide, torch.ones(3, 4), num_particles=7).log_weights.shape
        torch.Size([7, 3])
    """
    proposal = propose(guide, *args, num_particles=num_particles, max_plate_nesting=max_plate_nesting, **kwargs)
    sites = sites_at(model, proposal.latents, *args, max_plate_nesting=max_plate_nesting, **kwargs)
    log_likelihood, log_prior = _log_terms(sites, proposal.latents, max_plate_nesting)
    log_likelihood, log_prior, log_guide = torch.broadcast_tensors(log_likelihood, log_prior, proposal.log_guide)
    return ImportanceSamples(log_likelihood, log_prior, log_guide, in_order(proposal.latents, sites))


@dataclass(frozen=True, repr=False)
class Proposal(ByShapes):
    """Draws from the guide.

    Args:
        latents: the draws, `[particles, batch, *event]` by site name, in the guide's order.
        log_guide: log q(z|x), `[particles, batch]`, nats.
        sites: the sites of the guide's trace, by name.
    """

    latents: Mapping[str, Tensor]
    log_guide: Tensor
    sites: Mapping[str, Any] = field(default_factory=dict)


def propose(guide: Program, *args: Any, num_particles: int, max_plate_nesting: int = 1, **kwargs: Any) -> Proposal:
    """The first half of `importance`: draws from the guide and their log q(z|x)."""
    if num_particles < 1:
        raise UsageError(f"num_particles must be at least 1, got {num_particles}")
    trace = _run(guide, num_particles, max_plate_nesting, args, kwargs)
    sites = _sites_per_datum(trace, "guide")
    if not sites:
        raise UsageError("the guide has no sample site: it must draw the model's latent sites")
    log_guide = log_density(sites.values(), max_plate_nesting)
    return Proposal({name: site["value"] for name, site in sites.items()}, log_guide, sites)


def weigh(
    model: Program, latents: Mapping[str, Tensor], *args: Any, max_plate_nesting: int = 1, **kwargs: Any
) -> tuple[Tensor, Tensor]:
    """The second half of `importance`: `(log p(x|z), log p(z))` of given latents, each `[particles, batch]`.

    Args:
        model: Pyro program of p(x, z).
        latents: values by site name, `[particles, batch, *event]`.
        *args: arguments of the program.
        max_plate_nesting: number of plate dimensions the program uses.
        **kwargs: keyword arguments of the program.
    """
    sites = sites_at(model, latents, *args, max_plate_nesting=max_plate_nesting, **kwargs)
    return _log_terms(sites, latents, max_plate_nesting)


def _log_terms(sites: Mapping[str, Any], latents: Mapping[str, Tensor], nesting: int) -> tuple[Tensor, Tensor]:
    """`(log p(x|z), log p(z))`, each `[particles, batch]`, nats, from the sites of the model."""
    prior = log_density([site for name, site in sites.items() if name in latents], nesting)
    observed = [site for name, site in sites.items() if name not in latents]
    return log_density(observed, nesting) if observed else torch.zeros_like(prior), prior


def model_order(
    model: Program, latents: Mapping[str, Tensor], *args: Any, max_plate_nesting: int = 1, **kwargs: Any
) -> list[str]:
    """The names of latent sites in the order in which the model draws them, which all results have.

    Args:
        model: Pyro program of p(x, z); it runs on the first draw of the first datum.
        latents: values by site name, `[particles, batch, *event]`, in any order.
        *args: arguments of the program, with the data in front.
        max_plate_nesting: number of plate dimensions the program uses.
        **kwargs: its keyword arguments, with the data in front.
    """
    one = {name: value[:1].narrow(max_plate_nesting, 0, 1) for name, value in latents.items()}
    given = {name: value[:1] for name, value in kwargs.items()}
    sites = sites_at(model, one, *(a[:1] for a in args), max_plate_nesting=max_plate_nesting, **given)
    return [name for name in sites if name in latents]


def sites_at(
    program: Program,
    latents: Mapping[str, Tensor],
    *args: Any,
    max_plate_nesting: int = 1,
    role: Literal["model", "guide"] = "model",
    **kwargs: Any,
) -> dict[str, Any]:
    """The sample sites of a program run at given latents, by name, with their distributions.

    Args:
        program: a Pyro program, with every sample site in one data plate at dimension -1.
        latents: values by site name, `[particles, batch, *event]`.
        *args: arguments of the program.
        max_plate_nesting: number of plate dimensions the program uses.
        role: name of the program in messages.
        **kwargs: keyword arguments of the program.

    Raises:
        UsageError: if a site is outside the data plate, or the latents do not match the program's sites.
    """
    num_particles = next(iter(latents.values())).shape[0]
    trace = _run(poutine.condition(program, data=dict(latents)), num_particles, max_plate_nesting, args, kwargs)
    sites = _sites_per_datum(trace, role)
    _check_match(set(latents), {name for name, site in sites.items() if not site["is_observed"]}, set(sites))
    return sites


def refuse_point_masses(guide: Program, *args: Any, max_plate_nesting: int = 1, **kwargs: Any) -> None:
    """Refuse a guide with a point mass: weights p(x, z) / q(z|x) are then no estimate of p(x).

    Args:
        guide: Pyro program of q(z|x).
        *args: arguments of the guide.
        max_plate_nesting: number of plate dimensions it uses.
        **kwargs: keyword arguments of the guide.

    Raises:
        UsageError: if a site is a point mass; names the site.
    """
    for name, site in sample_sites(_run(guide, 1, max_plate_nesting, args, kwargs)).items():
        if is_point_mass(site["fn"]):
            raise UsageError(
                f"site {name!r} of the guide is a Delta: it puts all of q(z|x) on one point, so there are no draws to "
                f"estimate log p(x) with. {_INSTEAD[site['value'].is_floating_point()]}"
            )


_INSTEAD = {
    True: "Take a guide with a density (e.g. train DiagonalNormal for the same decoder, frozen), or compare "
    "autoencoders by their reconstructions",
    False: "Its values are discrete, so evidence.bound gives a lower bound: log p(x|k) + log p(k)",
}
"""What to do instead, for point masses on real numbers (True) and on discrete codes (False)."""


def _run(program: Program, num_particles: int, nesting: int, args: Any, kwargs: Any) -> poutine.Trace:
    with pyro.plate("particles", num_particles, dim=-1 - nesting):
        return poutine.trace(program).get_trace(*args, **kwargs)


def _sites_per_datum(trace: poutine.Trace, program: str) -> dict[str, Any]:
    """The sample sites of a trace; each must lie in a data plate at dimension -1."""
    sites = sample_sites(trace)
    for name, site in sites.items():
        if all(frame.dim != -1 for frame in site["cond_indep_stack"]):
            raise UsageError(
                f"site {name!r} of the {program} is not in a data plate at dimension -1: log-weights are per datum, "
                "so put it under `with pyro.plate('data', len(x), dim=-1)`"
            )
    return sites


def _check_match(guide: set[str], unmatched: set[str], model: set[str]) -> None:
    if unmatched:
        raise UsageError(f"the model's latent sites {sorted(unmatched)} are neither observed nor drawn by the guide")
    if not guide <= model:
        raise UsageError(f"the guide draws {sorted(guide - model)}, which are not sites of the model")


def log_density(sites: Iterable[Mapping[str, Any]], nesting: int = 1) -> Tensor:
    """The log-density of sites of a trace, `[particles, batch]`, nats: masked, not scaled, summed over the sites."""
    first, *others = (per_datum(site["fn"].log_prob(site["value"]), site, nesting) for site in sites)
    return sum(others, first)


def per_datum(values: Tensor, site: Mapping[str, Any], nesting: int = 1) -> Tensor:
    """Values of a site's batch shape, with its mask applied, summed over its inner plates: `[particles, batch]`."""
    values = scale_and_mask(values, mask=site["mask"])
    size = {frame.dim: frame.size for frame in site["cond_indep_stack"]}
    values = values.expand([size.get(dim, 1) for dim in range(-1 - nesting, 0)])
    return values.sum(tuple(range(1, nesting))) if nesting > 1 else values
