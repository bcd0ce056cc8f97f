"""The bound of discrete codes at the nearest entries of a codebook, by the straight-through estimator."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyro_vae.inference.programs import Program
from pyro_vae.networks.codebook import StraightThrough
from pyro_vae.objectives.base import Objective, reporting
from pyro_vae.objectives.paths import draw_along_path, log_joint
from pyro_vae.schedules import Schedule


@dataclass(frozen=True)
class VQBound(Objective):
    r"""The loss of a `VQVAE`: the bound, and two losses that bring encoder and codebook together.

    .. math:: -\log p(x | k(x)) - \log p(k(x)) \; [\text{reported}] \;
        + |\mathrm{sg}(v) - e_{k(x)}|^2 + \beta \, |v - \mathrm{sg}(e_{k(x)})|^2 \; [\text{differentiated as well}]

    v is the encoder's output and e the entries of the codebook; sg stops the gradient. The gradient of the likelihood
    passes from the entries to v as if v had not been quantised. What is reported is a bound on -log p(x) in nats, since
    p(x) is a sum over codes; the squares, summed over positions and dimensions, are not in nats and not part of it.
    A codebook of moving averages moves after each evaluation with gradients, and then has no codebook loss.

    Scales on sites are ignored, masks count. For a pair without a codebook it is the ELBO with one draw.

    Args:
        beta: weight of the commitment loss, not negative; a number, or a schedule.
        codebook: weight of the codebook loss, not negative.
        max_plate_nesting: number of plate dimensions the programs use.

    Raises:
        UsageError: if a weight is negative; if called while `beta` is a schedule.

    References:
        van den Oord et al. 2017, Neural discrete representation learning, eq. 3.

    Example:
        >>> from pyro_vae.autoencoders.vector_quantized import VQVAE
        >>> vqvae = VQVAE((4,), codes=(3,), codebook_size=5)
        >>> VQBound()(vqvae.model, vqvae.guide, torch.ones(3, 4)).shape
        torch.Size([])
    """

    beta: float | Schedule = 0.25
    codebook: float = 1.0
    max_plate_nesting: int = 1

    def __post_init__(self) -> None:
        self._require(beta=0, codebook=0)

    def __call__(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Minus the bound, summed over the batch, nats."""
        beta, nesting = self._number("beta"), {"max_plate_nesting": self.max_plate_nesting}
        with StraightThrough() as path:
            proposal = draw_along_path(guide, *args, num_particles=1, **nesting, **kwargs)
            value = (proposal.log_guide - log_joint(model, proposal.latents, *args, **nesting, **kwargs)).sum()
        losses = [self.codebook * seen.codebook_loss + beta * seen.commitment_loss for seen in path.seen.values()]
        loss = reporting(value, value + sum(losses))
        path.learn()
        return loss
