"""What was imputed: images with their gaps, best values and draws; of tables, imputed values against the truth."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.plots.base import BLUE, GREY, TEXT, dress, make_figure
from pyro_vae.plots.images import drawable, labelled_columns
from pyro_vae.tasks.imputing import Imputed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS, _DRAWS = 16, 3
"""Data of a picture, and draws of each."""
_POINTS = 500
"""The most values of a column in a diagram."""
_COLUMNS = 16
"""The most columns of a table that have a diagram."""


def imputations(imputed: Imputed, truth: Tensor | None = None) -> "Figure":
    """Draw imputations: images side by side, other data against the truth.

    Images: a row for each of the first 16 data, with the truth if it is known, the datum with its gaps (halfway
    between the darkest and the brightest), the best values, the standard deviations, and draws. Other data: a diagram
    for each element with gaps whose truth is known, at most 16 of them and 500 values each, with intervals of 90 %.

    Args:
        imputed: as `tasks.impute` gives it.
        truth: the data, `[N, *event]`; nan where it is not known.

    Returns:
        The figure.

    Raises:
        UsageError: if the data are no images, and no truth of a missing element is known.

    Example:
        >>> from pyro_vae.autoencoders import VAE
        >>> from pyro_vae.tasks import impute
        >>> truth = torch.ones(5, 4)
        >>> x = truth.clone()
        >>> x[:, 1] = torch.nan
        >>> type(imputations(impute(VAE((4,), latent_dim=2), x, num_draws=3, num_particles=50), truth)).__name__
        'Figure'
    """
    event = tuple(imputed.best.shape[1:])
    if len(event) > 1 and drawable(event):
        return _images(imputed, truth)
    known = torch.zeros_like(imputed.mask) if truth is None else ~imputed.mask & ~truth.isnan()
    if truth is None or not known.any():
        raise UsageError("there is no truth to draw imputations against: hide some of the observed elements")
    return _against_truth(imputed, truth, known)


def _images(imputed: Imputed, truth: Tensor | None) -> "Figure":
    rows = slice(_ROWS)
    best, mask, drawn = imputed.best[rows].double(), imputed.mask[rows], imputed.draws[:_DRAWS, rows].double()
    low, high = torch.stack([best, *drawn]).aminmax()
    grey = (low + high) / 2
    columns = [("gaps", torch.where(mask, best, grey)), ("best", best), ("sd", low + imputed.sd[rows])]
    columns += [(f"draw {n + 1}", draw) for n, draw in enumerate(drawn)]
    if truth is not None:
        columns.insert(0, ("truth", truth[rows].double().nan_to_num(nan=grey.item())))
    images = torch.stack([image for _, image in columns], 1).flatten(0, 1)
    return labelled_columns(images, [name for name, _ in columns], "gaps imputed")


def _against_truth(imputed: Imputed, truth: Tensor, known: Tensor) -> "Figure":
    parts = [a.flatten(1) for a in (known, truth.double(), imputed.best.double())]
    ends = [end.flatten(1) for end in imputed.interval(0.9)] if imputed.num_draws >= 19 else []
    shown = parts[0].any(0).nonzero().flatten().tolist()[:_COLUMNS]
    across = min(4, len(shown))
    down = -(-len(shown) // across)
    figure = make_figure(2.4 * across, 2.4 * down + 0.3)
    grid = figure.subplots(down, across, squeeze=False).flatten()
    for axes, column in zip(grid, shown, strict=False):
        rows = parts[0][:, column].nonzero().flatten()
        rows = rows[torch.linspace(0, len(rows) - 1, min(len(rows), _POINTS)).long()]
        _scatter(axes, f"x{column + 1}", *(part[rows, column] for part in (*parts[1:], *ends)))
    for axes in grid[len(shown) :]:
        axes.set_visible(False)
    figure.supylabel("imputed: best value" + (" and interval of 90 %" if ends else ""), fontsize=TEXT)
    return figure


def _scatter(axes: Any, name: str, truth: Tensor, best: Tensor, *ends: Tensor) -> None:
    """Imputed values against the truth, with the line on which they are equal."""
    if ends:
        axes.vlines(truth, *ends, color=BLUE, alpha=0.15, lw=0.7)
    axes.plot(truth, best, "o", ms=2, mew=0, color=BLUE, alpha=0.6)
    low, high = truth.min().item(), truth.max().item()
    axes.plot([low, high], [low, high], color=GREY, lw=1, ls="--")
    dress(axes, name, "truth")
