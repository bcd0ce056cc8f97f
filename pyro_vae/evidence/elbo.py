"""The ELBO of every datum, in its two terms."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.data.storage import rows_at_once
from pyro_vae.distributed import World
from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.inference.programs import Called, Program, evaluation_mode
from pyro_vae.inference.weighing import Proposal, propose, weigh
from pyro_vae.messages import ByShapes
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded


@dataclass(frozen=True, eq=False, repr=False)
class Bound(ByShapes):
    """The ELBO and its two terms for each datum, `[N]`, nats, estimated by sampling: `elbo = reconstruction - kl`.

    Args:
        reconstruction: log p(x|z) at draws of the guide.
        kl: log q(z|x) - log p(z) at draws; infinite for a guide that puts a continuous site on one point (`Delta`).
        is_bound: whether there is an ELBO: False for such a guide.
    """

    reconstruction: Tensor
    kl: Tensor
    is_bound: bool = True

    @property
    def elbo(self) -> Tensor:
        """The lower bound on log p(x), `[N]`, nats."""
        return self.reconstruction - self.kl

    def means(self) -> dict[str, float]:
        """Averages over the data: `elbo`, `reconstruction`, `kl`, nats per datum; `reconstruction` alone if there is no
        bound.
        """
        names = ("elbo", "reconstruction", "kl") if self.is_bound else ("reconstruction",)
        return {name: getattr(self, name).mean().item() for name in names}


@isolated
def has_elbo(guide: Program, *args: Any, max_plate_nesting: int = 1, **inputs: Any) -> bool:
    """Whether a guide has an ELBO: no site is a `Delta` of real numbers, whose KL from any density is infinite.

    A single discrete value (`VQVAE`) has one: log p(x|k) + log p(k).

    Args:
        guide: Pyro program of q(z|x).
        *args: its arguments, with the data in front.
        max_plate_nesting: number of plate dimensions it uses.
        **inputs: its arguments by name.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.guides import Delta
        >>> vaes = VAE((4,), latent_dim=2), VAE((4,), latent_dim=2, guide=Delta)
        >>> [has_elbo(vae.guide, torch.ones(3, 4)) for vae in vaes]
        [True, False]
    """
    with evaluation_mode(guide), seeded(0, "structure"):
        return not _is_point(propose(guide, *args, num_particles=1, max_plate_nesting=max_plate_nesting, **inputs))


def _is_point(drawn: Proposal) -> bool:
    """Whether a site of the guide is a `Delta` of real numbers."""
    return any(is_point_mass(site["fn"]) and site["value"].is_floating_point() for site in drawn.sites.values())


@isolated
@checked
def bound(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_particles: int = 1,
    seed: int = 0,
    batch: int | None = None,
    max_plate_nesting: int = 1,
    world: World | None = None,
    **inputs: Tensor,
) -> Bound:
    r"""Estimate the ELBO of every datum, split into reconstruction and KL, in evaluation mode and without gradients.

    .. math:: \mathcal L(x) = E_{q(z|x)}[\log p(x|z)] - KL(q(z|x) \| p(z))

    Args:
        model: Pyro program of p(x, z).
        guide: Pyro program of q(z|x).
        x: data `[N, *event]`.
        *args: further tensors with the data in front.
        num_particles: draws for each datum.
        seed: seed of the draws; the same seed gives the same noise to another model.
        batch: data in one run; None for 1000, or fewer if they have more than 2097 elements each.
        max_plate_nesting: number of plate dimensions the programs use.
        world: the processes to share the data with; all of them get the whole result. None for this one alone.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        A `Bound`, in double precision on the CPU; without a KL if the guide is a `Delta` of real numbers.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> vae = VAE((4,), latent_dim=2)
        >>> found = bound(vae.model, vae.guide, torch.ones(5, 4))
        >>> found.reconstruction.shape, found.kl.shape
        (torch.Size([5]), torch.Size([5]))
    """
    world, batch = world or World(), rows_at_once(x) if batch is None else batch
    starts = range(0, len(x), batch)
    own = starts[world.rows(len(starts))]
    rows = min(len(x), own.start + len(own) * batch) - own.start if own else 0
    # In place, not one after another: small results among large temporary arrays would fragment the heap, which then
    # grows with the data.
    terms = torch.empty(2, rows, dtype=torch.float64)
    model, guide = Called(model, list(inputs)), Called(guide, list(inputs))
    points = []
    with evaluation_mode(model, guide):
        for start in own:
            data = tuple(a[start : start + batch] for a in (x, *args, *inputs.values()))
            with seeded(seed, "bound", start):
                drawn = propose(guide, *data, num_particles=num_particles, max_plate_nesting=max_plate_nesting)
                log_likelihood, log_prior = weigh(model, drawn.latents, *data, max_plate_nesting=max_plate_nesting)
            points.append(_is_point(drawn))
            kl = torch.full_like(drawn.log_guide, torch.inf) if points[-1] else drawn.log_guide - log_prior
            part = terms[:, start - own.start :][:, :batch]
            for column, values in zip(part, torch.broadcast_tensors(log_likelihood, kl), strict=True):
                column.copy_(values.double().mean(0))
    reconstruction, kl = map(world.gather, terms)
    return Bound(reconstruction, kl, is_bound=not (points[0] if points else _is_infinite(kl)))


def _is_infinite(kl: Tensor) -> bool:
    """For a process that had no data: whether the others found a `Delta`."""
    return len(kl) > 0 and bool((kl == torch.inf).all())
