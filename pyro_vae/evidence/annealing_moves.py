"""How the chains of an annealed run move: one trajectory of Hamiltonian Monte Carlo as a function of tensors alone.

It is the same function for chains that run the programs and for chains that run a compiled graph of it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pyro_vae.inference.trajectories import JITTER, Point

Terms = Callable[..., Sequence[Tensor]]
"""Of z, the data and remembered tensors: log f_0(z) and log p(x, z) - log f_0(z), `[chains, N]`, and the gradients of
both in z."""


def annealed(point: Point, beta: Tensor) -> tuple[Tensor, Tensor]:
    """The log-density at temperatures `beta` `[N]`, `[chains, N]`, and its gradient; f_0 alone where beta is 0.

    There the rise may be infinite.
    """
    _, base, rise, base_slope, rise_slope = point
    value = torch.where(beta > 0, base + beta * rise, base)
    return value, torch.where((beta > 0)[:, None], base_slope + beta[:, None] * rise_slope, base_slope)


def transition(terms: Terms, num_leapfrog: int, inputs: Sequence[Tensor]) -> list[Tensor]:
    r"""Move every chain along a trajectory, or leave it where it is.

    .. math:: r \leftarrow r + \tan(\tfrac{a}{2}) \, s \nabla \log f_\beta(z), \quad
        z \leftarrow z + \sin(a) \, s \, r, \quad r \leftarrow r + \tan(\tfrac{a}{2}) \, s \nabla \log f_\beta(z)

    With a / 2 and a in place of the tangent and the sine this is the usual leapfrog step, of length a in units of the
    scale s. With them it is a turn by the angle a, without any error, wherever the density is normal with standard
    deviations s, whatever its mean: the steps of a nearly normal posterior can be long.

    Each temperature takes `num_leapfrog` gradients. Values and gradients at the end of a trajectory serve to accept it,
    to weigh the chain, and to begin the next one.

    Args:
        terms: of z and the last inputs.
        num_leapfrog: steps of the trajectory.
        inputs: the point (z and its four terms), beta `[N]`, the angle `[N, 1]`, the scale `[N, size]`, standard
            normal noise like z, uniform noise `[chains, N, 2]`, and what else `terms` takes.

    Returns:
        The new point, and the acceptance probability, `[chains, N]`.

    References:
        Neal 2011, MCMC using Hamiltonian dynamics, section 5.5.1 (a trajectory that is exact for a normal part).
    """
    (*start, beta, angle, scale, momentum, uniform), data = inputs[:10], inputs[10:]
    angle = angle * (1 + JITTER * (2 * uniform[..., :1] - 1))
    kick, drift = (angle / 2).tan() * scale, angle.sin() * scale
    value, slope = annealed(tuple(start), beta)
    before, point = value - momentum.square().sum(-1) / 2, list(start)
    momentum = momentum + kick * slope
    for number in range(num_leapfrog):
        z = point[0] + drift * momentum
        point = [z, *terms(z, *data)]
        value, slope = annealed(tuple(point), beta)
        momentum = momentum + (2.0 if number < num_leapfrog - 1 else 1.0) * kick * slope
    change = value - momentum.square().sum(-1) / 2 - before
    change = change.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    accepted = uniform[..., 1].log() < change
    columns = [accepted[..., None] if new.dim() == 3 else accepted for new in point]
    moved = [torch.where(where, new, old) for where, new, old in zip(columns, point, start, strict=True)]
    return [*moved, change.clamp(max=0).exp()]
