"""Figures of scores: their histograms, and the most anomalous data."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.plots.base import BLUE, ORANGE, TEXT, TITLE, dress, legend_below, make_figure
from pyro_vae.plots.images import drawable, value_limits
from pyro_vae.tasks.scores import Scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 50
_GAP = 2
"""Pixels between tiles."""
_OUTSIDE = 0.005
"""Share of the scores on either side that the histogram may leave out, at its ends."""


def anomaly_scores(
    scores: Scores,
    anomalies: Scores | None = None,
    threshold: float | None = None,
    x: Tensor | None = None,
    values: Tensor | None = None,
    elements: Tensor | None = None,
) -> "Figure":
    """Draw histograms of scores, and below them the most anomalous data.

    Args:
        scores: of data, normal ones if `anomalies` are given.
        anomalies: scores of anomalies, in another colour.
        threshold: where an alarm is raised, nats: a dashed line.
        x: data to show, `[n, *event]`, highest score first, at most about 10; shown where they are images.
        values: the scores of these data, `[n]`, printed above them.
        elements: the score of each element of these data, `[n, *event]`, nats: drawn below them.

    Returns:
        The figure.

    Raises:
        UsageError: if no score is finite.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> from pyro_vae.tasks.scores.methods import score
        >>> scores = score(VAE((4,), latent_dim=2), torch.ones(10, 4), "elbo")
        >>> type(anomaly_scores(scores)).__name__
        'Figure'
    """
    shown = [] if x is None else [_images(x)]
    if shown and shown[0] is not None and elements is not None:
        shown.append(_maps(elements))
    shown = [tiles for tiles in shown if tiles is not None]
    figure = make_figure(8.0, 3.4 + 1.0 * len(shown))
    heights = [3.0, *[1.0] * len(shown)]
    axes = np.atleast_1d(figure.subplots(len(heights), 1, height_ratios=heights))
    _histogram(figure, axes[0], scores, anomalies, threshold)
    for place, (ax, tiles) in enumerate(zip(axes[1:], shown, strict=True)):
        _strip(ax, tiles, is_map=place == 1)
    if shown:
        _label(axes[1], shown[0], values)
    return figure


def _histogram(figure: Any, axes: Any, scores: Scores, anomalies: Scores | None, threshold: float | None) -> None:
    groups = [(scores, BLUE, "data"), *([] if anomalies is None else [(anomalies, ORANGE, "anomalies")])]
    every = torch.cat([g.values[g.values.isfinite()] for g, _, _ in groups])
    if len(every) == 0:
        raise UsageError("no score is finite, so there is no histogram to draw")
    ends = every.quantile(torch.tensor([_OUTSIDE, 1 - _OUTSIDE], dtype=torch.float64)).tolist()
    low, high = min(ends[0], threshold or ends[0]), max(ends[1], threshold or ends[1])
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    for group, colour, label in groups:
        kept = np.clip(group.values.nan_to_num(nan=high).numpy(), edges[0], edges[-1])
        axes.hist(kept, edges, density=True, color=colour, alpha=0.6, label=f"{label}, N = {len(group)}")
    if threshold is not None:
        axes.axvline(threshold, color="black", lw=1, ls="--", label="threshold")
    axes.set_yticks([])
    dress(axes, f"scores by {scores.method}: higher is more anomalous", "score, nats per datum (ends: and beyond)")
    legend_below(figure, axes) if len(figure.axes) == 1 else axes.legend(frameon=False, fontsize=TEXT)


def _images(x: Tensor) -> np.ndarray | None:
    """Images as grey or coloured tiles, `[n, h, w, 3]` in [0, 1]; None for data that are none."""
    event = tuple(x.shape[1:])
    if len(event) < 2 or not drawable(event) or len(x) == 0:
        return None
    low, high = value_limits(x)
    tiles = _channels_last(((x.detach().cpu().double() - low) / (high - low)).clamp(0, 1))
    return tiles.expand(*tiles.shape[:3], 3).numpy()


def _maps(elements: Tensor) -> np.ndarray:
    """The scores of elements, summed over channels, `[n, h, w]`."""
    return _channels_last(elements.detach().cpu().double()).sum(-1).numpy()


def _channels_last(x: Tensor) -> Tensor:
    if x.dim() == 3:
        return x.unsqueeze(-1)
    return x.movedim(1, -1) if x.shape[1] in (1, 3) else x


def _strip(axes: Any, tiles: np.ndarray, is_map: bool) -> None:
    """Tiles side by side."""
    height = tiles.shape[1]
    gap = np.full((height, _GAP, *tiles.shape[3:]), np.nan if is_map else 1.0)
    row = np.concatenate([part for tile in tiles for part in (tile, gap)][:-1], axis=1)
    if is_map:
        shown = axes.imshow(row, cmap="magma", vmin=min(0.0, np.nanmin(row)), interpolation="nearest")
        bar = axes.figure.colorbar(shown, ax=axes, fraction=0.02, pad=0.01)
        bar.ax.tick_params(labelsize=TEXT - 2)
        axes.set_xlabel("-E log p(x_d|z) of each element, nats", fontsize=TEXT)
    else:
        axes.imshow(row, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _label(axes: Any, tiles: np.ndarray, values: Tensor | None) -> None:
    axes.set_title("the most anomalous data, and their scores", fontsize=TITLE, pad=16)
    if values is not None:
        width = tiles.shape[2] + _GAP
        for place, value in enumerate(values.tolist()):
            middle = place * width + tiles.shape[2] / 2
            axes.text(middle, -1.5, f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}", ha="center", fontsize=TEXT)
