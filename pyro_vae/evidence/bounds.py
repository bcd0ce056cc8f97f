"""The ELBO of every datum, in its two terms."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.distributed import World
from pyro_vae.importance import Called, Program, evaluation_mode, importance
from pyro_vae.seeding import seeded


@dataclass(frozen=True, eq=False)
class Bound:
    """The ELBO and its two terms for each datum, `[N]`, nats: `elbo = reconstruction - kl`, estimated by sampling."""

    reconstruction: Tensor
    kl: Tensor

    @property
    def elbo(self) -> Tensor:
        """The lower bound on log p(x), `[N]`, nats."""
        return self.reconstruction - self.kl

    def means(self) -> dict[str, float]:
        """Averages over the data: `elbo`, `reconstruction`, `kl`, nats per datum."""
        return {name: getattr(self, name).mean().item() for name in ("elbo", "reconstruction", "kl")}


def bound(
    model: Program,
    guide: Program,
    x: Tensor,
    *args: Any,
    num_particles: int = 1,
    seed: int = 0,
    batch: int = 1000,
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
        batch: data in one run.
        max_plate_nesting: number of plate dimensions the programs use.
        world: the processes to share the data with; all of them get the whole result. None for this one alone.
        **inputs: tensors with the data in front that both programs take by name, e.g. `c`.

    Returns:
        A `Bound`, in double precision on the CPU.
    """
    world, empty = world or World(), torch.empty(0, dtype=torch.float64)
    starts = range(0, len(x), batch)
    terms = [(empty, empty)]
    model, guide = Called(model, list(inputs)), Called(guide, list(inputs))
    sizes = {"num_particles": num_particles, "max_plate_nesting": max_plate_nesting}
    with evaluation_mode(model, guide):
        for start in starts[world.rows(len(starts))]:
            data = tuple(a[start : start + batch] for a in (x, *args, *inputs.values()))
            with seeded(seed, "bound", start):
                samples = importance(model, guide, *data, **sizes)
            terms.append((samples.log_likelihood.double().mean(0).cpu(), samples.kl.double().mean(0).cpu()))
    reconstruction, kl = (world.gather(torch.cat(column)) for column in zip(*terms, strict=True))
    return Bound(reconstruction, kl)
