"""What was restored: truth, observation, mean, spread and draws side by side."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pyro_vae.plots.images import labelled_columns
from pyro_vae.tasks.restored import Restored

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def restorations(restored: Restored, y: Tensor, num_draws: int = 4) -> "Figure":
    """A row for each datum: the truth if it is known, what was observed, E[x|y], sd[x|y], and draws of x given y.

    Args:
        restored: as `tasks.restore` gives it, of images.
        y: what was observed, `[N, *observed]`; gaps (nan) are drawn halfway between the darkest and the brightest. It
            is left out if it is neither an image of the size of x nor a smaller one.
        num_draws: draws in a row.

    Returns:
        The figure.

    Raises:
        UsageError: if these are no images.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.channels import Missing
        >>> from pyro_vae.tasks import restore
        >>> y = torch.zeros(2, 8, 8)
        >>> y[:, 4:] = torch.nan
        >>> restored = restore(VAE((8, 8), latent_dim=2), y, Missing(), num_draws=5, num_particles=50)
        >>> type(restorations(restored, y)).__name__
        'Figure'
    """
    x, drawn = restored.mean, restored.draws[:num_draws]
    low, high = drawn.min(), drawn.max()
    shown = _in_shape_of(torch.where(y.isnan(), (low + high) / 2, y).cpu().to(x.dtype), x)
    observed = [] if shown is None else [("y", shown.clamp(low, high))]
    truth = [] if restored.truth is None else [("x", restored.truth.to(x.dtype))]
    columns = [*truth, *observed, ("E[x|y]", x), ("sd[x|y]", low + restored.sd)]
    columns += [(f"draw {n + 1}", draw) for n, draw in enumerate(drawn)]
    images = torch.stack([image for _, image in columns], 1).flatten(0, 1)
    return labelled_columns(images, [name for name, _ in columns], f"x given y, y through {restored.channel}")


def _in_shape_of(y: Tensor, x: Tensor) -> Tensor | None:
    """Observations in the shape of x: blocks of pixels for smaller images; None if they are no images."""
    if y.shape == x.shape:
        return y
    if y.dim() == x.dim() and all(a % b == 0 for a, b in zip(x.shape[1:], y.shape[1:], strict=True)):
        for dim in range(1, x.dim()):
            y = y.repeat_interleave(x.shape[dim] // y.shape[dim], dim)
        return y
    return None
