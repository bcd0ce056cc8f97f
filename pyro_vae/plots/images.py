"""Figures of data: grids of tiles, reconstructions, samples and manifolds."""

from collections.abc import Sequence
from math import ceil
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import UsageError
from pyro_vae.plots.base import BLUE, GREY, ORANGE, TEXT, TITLE, make_figure
from pyro_vae.tasks.generation import Generated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EDGE = "#B8B8B8"
_NOT_FINITE = (213 / 255, 94 / 255, 0.0)
"""The colour of a pixel that is nan or infinite, which no grey level can be mistaken for."""
_GAP = 0.08
"""Space between tiles, as a fraction of their height."""
_LABELLED = 0.3
"""The same if each tile has a label above it."""
_PAIR = ["x", "E[x|z]"]

Limits = tuple[float, float]


def image_grid(images: Tensor, columns: int = 10, title: str = "") -> "Figure":
    """Draw data as a grid of tiles, row by row.

    Images `(H, W)`, `(1, H, W)`, `(3, H, W)`, `(H, W, 1)` and `(H, W, 3)` become pixels (if the first and the last size
    are 1 or 3, channels come first); vectors `(D,)` become a dot for each element. If all values are in [0, 1], that is
    the scale; otherwise it goes from the least to the greatest value of the figure, printed under it. If the elements
    of vectors have very different ranges, each has its own scale. Pixels that are not finite are orange.

    Args:
        images: `[N, *event]`.
        columns: tiles in a row.
        title: title of the figure.

    Returns:
        The figure.

    Raises:
        UsageError: if there are no data, `columns` is below 1, or the event has another shape.

    Example:
        >>> len(image_grid(torch.rand(12, 8, 8), columns=4).axes)
        1
    """
    images = _checked(images, columns)
    columns = min(columns, len(images))
    (images,), limits, own = _scaled(images)
    figure = _tiled_figure(images, columns)
    axes = figure.subplots()
    _draw_tiles(axes, [images], columns, limits)
    _name_tiles(figure, title, images, limits, own)
    return figure


def labelled_columns(images: Tensor, labels: Sequence[str], title: str = "") -> "Figure":
    """Draw images row by row, with a label above each column.

    Args:
        images: `[rows * len(labels), *event]`.
        labels: one for each column.
        title: text above.

    Returns:
        The figure.

    Raises:
        UsageError: as `image_grid`.
    """
    images, columns = _checked(images, len(labels)), len(labels)
    figure = _tiled_figure(images, columns)
    axes = figure.subplots()
    _draw_tiles(axes, [images], columns, value_limits(images))
    _label_classes(axes, images, labels, columns, _GAP)
    figure.suptitle("\n".join(wrap(title, 14 * columns)), fontsize=TEXT)
    return figure


def labelled_grid(images: Tensor, rows: Sequence[str], columns: Sequence[str], title: str = "") -> "Figure":
    """Draw data in rows and columns that have labels.

    Args:
        images: `[rows, columns, *event]`.
        rows: a label to the left of each row.
        columns: a label above each column.
        title: text above.

    Returns:
        The figure.

    Raises:
        UsageError: as `image_grid`.
    """
    images, count = _checked(images.flatten(0, 1), len(columns)), len(columns)
    (images,), limits, own = _scaled(images)
    figure = _tiled_figure(images, count)
    axes = figure.subplots()
    _draw_tiles(axes, [images], count, limits)
    _label_classes(axes, images, columns, count, _GAP)
    height, _ = _tile_size(images)
    down, _, _ = _steps(images, 1, round(_GAP * height))
    axes.set_yticks([row * down + height / 2 for row in range(len(rows))], list(rows))
    axes.tick_params(length=0, labelsize=7, labelcolor="black")
    _name_tiles(figure, "", images, limits, own)
    figure.suptitle("\n".join(wrap(title, max(30, 11 * count))), fontsize=TEXT)
    return figure


def reconstructions(x: Tensor, x_mean: Tensor, columns: int = 5) -> "Figure":
    """Draw each datum next to its reconstruction (vectors: both as dots in one tile).

    Args:
        x: data `[N, *event]`.
        x_mean: their reconstructions `[N, *event]`, as `tasks.reconstruct` gives them.
        columns: pairs in a row.

    Returns:
        The figure; rows are labelled with the index of their first datum.

    Raises:
        UsageError: as `image_grid`, and if the two have different shapes.

    Example:
        >>> x = torch.rand(5, 8, 8)
        >>> type(reconstructions(x, x)).__name__
        'Figure'
    """
    if x.shape != x_mean.shape:
        raise UsageError(
            f"expected data and reconstructions of one shape, got {list(x.shape)} and {list(x_mean.shape)}"
        )
    x, x_mean = _checked(x, columns), _checked(x_mean, columns)
    columns = min(columns, len(x))
    (x, x_mean), limits, own = _scaled(x, x_mean)
    figure = _tiled_figure(x, columns, series=2)
    axes = figure.subplots()
    _draw_tiles(axes, [x, x_mean], columns, limits)
    _label_pairs(axes, x, columns)
    _name_tiles(figure, "data x and reconstruction E[x|z], z ~ q(z|x)", x, limits, own)
    return figure


def samples(generated: Generated, columns: int = 8, labels: Sequence[str] = ()) -> "Figure":
    """Draw the decoder's means E[x|z] and the data x drawn from them, side by side in the same order.

    Args:
        generated: as `tasks.sample` gives it.
        columns: tiles in a row of each half.
        labels: the class of each datum, shown above the columns if each has one class, otherwise above each tile.

    Returns:
        A figure with two panels.

    Raises:
        UsageError: as `image_grid`.

    Example:
        >>> from pyro_vae.autoencoders.vae import VAE
        >>> from pyro_vae.tasks.generation import sample
        >>> type(samples(sample(VAE((8, 8), latent_dim=2), 4))).__name__
        'Figure'
    """
    x, mean = _checked(generated.x, columns), _checked(generated.mean, columns)
    columns = min(columns, len(x))
    (x, mean), limits, own = _scaled(x, mean)
    in_columns = all(label == labels[place % columns] for place, label in enumerate(labels))
    gap = _GAP if in_columns else _LABELLED
    figure = _tiled_figure(x, columns, panels=2, gap=gap)
    panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    halves = ((mean, "mean E[x|z]"), (x, "draw x ~ p(x|z)"))
    for axes, (images, title) in zip(panels, halves, strict=True):
        _draw_tiles(axes, [images], columns, limits, gap)
        if len(set(labels)) > 1:
            _label_classes(axes, images, labels[:columns] if in_columns else labels, columns, gap)
        axes.set_title(title, fontsize=TEXT, pad=14 if labels else 6)
    of = f" of class {labels[0]}" if len(set(labels)) == 1 else ", class above" if labels else ""
    _name_tiles(figure, f"samples{of}, z ~ p(z)", x, limits, own)
    return figure


def manifold(grid: Tensor) -> "Figure":
    """Draw decoder means over a two-dimensional latent space as touching tiles (Kingma & Welling 2013, figure 4).

    Args:
        grid: `[rows, columns, *event]`, as `tasks.manifold` gives it.

    Returns:
        The figure.

    Raises:
        UsageError: if `grid` has fewer than 3 dimensions, and as `image_grid`.

    Example:
        >>> type(manifold(torch.rand(3, 3, 8, 8))).__name__
        'Figure'
    """
    if grid.dim() < 3:
        raise UsageError(f"expected a grid [rows, columns, *event], got {list(grid.shape)}")
    images, columns = _checked(grid.flatten(0, 1), grid.shape[1]), grid.shape[1]
    limits = value_limits(images)
    figure = _tiled_figure(images, columns, tile=0.32, gap=0.0)
    axes = figure.subplots()
    _draw_tiles(axes, [images], columns, limits, gap=0.0)
    _show_axes(axes, "first latent dimension, in quantiles of N(0, 1)", "second latent dimension")
    _name_tiles(figure, "manifold of means E[x|z]", images, limits)
    return figure


def value_limits(*images: Tensor) -> Limits:
    """The values drawn as black and as white: (0, 1) if all data are inside, otherwise the least and the greatest.

    Example:
        >>> value_limits(torch.tensor([0.2, 0.3])), value_limits(torch.tensor([-1.0, 3.0]))
        ((0.0, 1.0), (-1.0, 3.0))
    """
    values = torch.cat([array.detach().cpu().double().flatten() for array in images])
    finite = values[values.isfinite()]
    if finite.numel() == 0:
        return 0.0, 1.0
    low, high = finite.min().item(), finite.max().item()
    if low >= -1e-6 and high <= 1 + 1e-6:  # rounding of a sigmoid or of a mean must not change the scale
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


_UNLIKE = 10
"""One scale is used if the range of all elements is at most this many times the median range of an element."""


def _scaled(*series: Tensor) -> tuple[tuple[Tensor, ...], Limits, bool]:
    """What is drawn, the values of black and white, and whether each element has a scale of its own."""
    limits = value_limits(*series)
    series, own = _on_own_scales(*series)
    return series, (0.0, 1.0) if own else limits, own


def _on_own_scales(*series: Tensor) -> tuple[tuple[Tensor, ...], bool]:
    """Scale each element of vectors to 0 to 1 if ranges differ much, as columns of a table may.

    Returns:
        The vectors, and whether that was done.
    """
    if not _is_vectors(series[0]):
        return series, False
    values = torch.cat([array.detach().double().cpu() for array in series])
    least = values.where(values.isfinite(), torch.inf).amin(0)
    widths = (values.where(values.isfinite(), -torch.inf).amax(0) - least).clamp(min=0)
    varying = widths[widths > 0]
    low, high = value_limits(*series)
    if not widths.isfinite().all() or varying.numel() == 0 or high - low <= _UNLIKE * varying.median():
        return series, False
    scaled = [(x.detach().double().cpu() - least) / widths.where(widths > 0, 1.0) for x in series]
    return tuple(x.where(widths > 0, x + 0.5) for x in scaled), True


def drawable(event: Sequence[int]) -> bool:
    """Whether data of this shape can be drawn.

    Example:
        >>> drawable((5,)), drawable((8, 8, 3)), drawable((2, 8, 8))
        (True, True, False)
    """
    return len(event) in (1, 2) or (len(event) == 3 and bool({event[0], event[-1]} & {1, 3}))


def _checked(images: Tensor, columns: int) -> Tensor:
    """The data as vectors, or as images with channels first.

    Raises:
        UsageError: if they are neither.
    """
    event = tuple(images.shape[1:])
    if images.dim() == 0 or not drawable(event) or images.numel() == 0:
        raise UsageError(
            "expected data [N, *event] with event (D,), (H, W), (1, H, W), (3, H, W), (H, W, 1) or (H, W, 3), got "
            f"{list(images.shape)}: reshape them first"
        )
    if columns < 1:
        raise UsageError(f"columns must be at least 1, got {columns}")
    return images.movedim(-1, 1) if len(event) == 3 and event[0] not in (1, 3) else images


def _is_vectors(images: Tensor) -> bool:
    return images.dim() == 2


def _tile_size(images: Tensor) -> tuple[int, int]:
    """Height and width of one tile in pixels; small images are enlarged, to allow narrow gaps."""
    if _is_vectors(images):
        return 60, 90
    height, width = images.shape[-2:]
    factor = ceil(48 / max(height, width))
    return height * factor, width * factor


def _tiled_figure(
    images: Tensor, columns: int, tile: float = 0.6, series: int = 1, panels: int = 1, gap: float = _GAP
) -> "Figure":
    """A figure that fits the tiles: `tile` inches high each, the whole at least 3, at most 14 wide and 40 high."""
    height, _ = _tile_size(images)
    down, right, _ = _steps(images, series, round(gap * height))
    wide, high = panels * columns * right / height, ceil(len(images) / columns) * down / height
    tile = min(max(tile, min(3 / wide, 3 / high, 1.0)), 40 / high, 14 / wide)
    labels = 0.3 if series == 1 else 1.5 if _is_vectors(images) else 0.8
    return make_figure(max(wide * tile + labels, 4.2), max(high * tile + 0.65, 1.6))


def _draw_tiles(axes: "Axes", series: Sequence[Tensor], columns: int, limits: Limits, gap: float = _GAP) -> None:
    """Draw one tile for each datum, `gap` of its height apart; two series: images side by side, vectors in one tile."""
    draw = _draw_dots if _is_vectors(series[0]) else _draw_images
    draw(axes, series, columns, limits, round(gap * _tile_size(series[0])[0]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_images(axes: "Axes", series: Sequence[Tensor], columns: int, limits: Limits, gap: int) -> None:
    """Draw all tiles as one image: a hundred axes would take seconds."""
    height, width = _tile_size(series[0])
    down, right, between = _steps(series[0], len(series), gap)
    rows = ceil(len(series[0]) / columns)
    canvas = np.ones((rows * down - between, columns * right - between, 3), np.float32)
    for place, images in enumerate(series):
        corners = _corners(len(images), columns, down, right) + np.array([place * (width + gap), 0])
        for (left, top), tile in zip(corners[:, 0], _pixels(images, limits), strict=True):
            canvas[top : top + height, left : left + width] = tile
        if gap:  # a frame separates the white edge of an image from the page
            _frame(axes, corners - 0.5, height, width)
    axes.imshow(canvas)


def _steps(images: Tensor, series: int, gap: int) -> tuple[int, int, int]:
    """Pixels from tile to tile downwards and to the right, and the space between; a pair side by side is one tile."""
    height, width = _tile_size(images)
    side_by_side = 1 if _is_vectors(images) else series
    between = gap if side_by_side == 1 else 3 * gap
    return height + between, side_by_side * (width + gap) - gap + between, between


def _pixels(images: Tensor, limits: Limits) -> np.ndarray:
    """Images as RGB tiles `[N, h, w, 3]` in [0, 1]."""
    values = images.detach().cpu().double().numpy()
    values = values[:, None] if values.ndim == 3 else values
    with np.errstate(invalid="ignore"):
        grey = np.clip((values - limits[0]) / (limits[1] - limits[0]), 0, 1)
    colour = np.broadcast_to(grey, (len(grey), 3, *grey.shape[2:])).transpose(0, 2, 3, 1).astype(np.float32)
    colour[~np.isfinite(values).all(1)] = _NOT_FINITE
    factor = _tile_size(images)[0] // images.shape[-2]
    return colour.repeat(factor, 1).repeat(factor, 2)


def _corners(count: int, columns: int, down: int, right: int) -> np.ndarray:
    """The upper left corner of each tile as (x, y), `[count, 1, 2]`, with steps of `down` and `right`."""
    index = np.arange(count)
    return np.stack([index % columns * right, index // columns * down], -1)[:, None]


def _frame(axes: "Axes", corners: np.ndarray, height: int, width: int) -> None:
    from matplotlib.collections import PolyCollection

    box = np.array([(0, 0), (width, 0), (width, height), (0, height)])
    axes.add_collection(
        PolyCollection(list(corners + box), facecolors="none", edgecolors=_EDGE, linewidths=0.5, clip_on=False)
    )


def _draw_dots(axes: "Axes", series: Sequence[Tensor], columns: int, limits: Limits, gap: int) -> None:
    """Vectors as dots, in frames that lie where images would; y downwards as in an image.

    They are not joined: the elements of a vector may be the columns of a table, which have no order.
    """
    height, width = _tile_size(series[0])
    down, right, _ = _steps(series[0], len(series), gap)
    corners = _corners(len(series[0]), columns, down, right)
    _frame(axes, corners, height, width)
    size = min(max(24 / series[0].shape[1], 1.0), 3.0)
    for vectors, colour, inside in zip(series, (BLUE, ORANGE), (BLUE, "none"), strict=False):
        points = (corners + _dots(vectors, limits) * (width, height)).reshape(-1, 2)
        axes.plot(*points.T, "o", ms=size, mew=size / 4, color=colour, mfc=inside)
    rows = ceil(len(corners) / columns)
    axes.set_xlim(-1, columns * right - gap + 1)
    axes.set_ylim(rows * down - gap + 1, -1)
    axes.set_aspect("equal")


def _dots(vectors: Tensor, limits: Limits) -> np.ndarray:
    """Vectors as points in the unit square, `[N, D, 2]`, y downwards; values that are not finite have no point."""
    values = vectors.detach().cpu().double().numpy()
    values = np.where(np.isfinite(values), values, np.nan)
    y = 1 - np.clip((values - limits[0]) / (limits[1] - limits[0]), 0, 1)
    x = np.broadcast_to((np.arange(values.shape[1]) + 0.5) / values.shape[1], values.shape)
    return np.stack([x, 0.06 + 0.88 * y], -1)


def _label_pairs(axes: "Axes", x: Tensor, columns: int) -> None:
    """Label the columns `x` and `E[x|z]` (dots: a legend), and each row with the index of its first datum."""
    height, width = _tile_size(x)
    gap = round(_GAP * height)
    down, right, _ = _steps(x, 2, gap)
    rows = range(ceil(len(x) / columns))
    axes.set_yticks([row * down + height / 2 for row in rows], [f"datum {row * columns}" for row in rows])
    if _is_vectors(x):
        axes.legend(axes.lines, _PAIR, frameon=False, fontsize=TEXT, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        left = [column * right for column in range(columns)]
        ticks = [start + width / 2 + place * (width + gap) for start in left for place in (0, 1)]
        axes.set_xticks(ticks, _PAIR * columns)
        axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=7, labelcolor=GREY)


def _label_classes(axes: "Axes", images: Tensor, labels: Sequence[str], columns: int, gap: float) -> None:
    """Write the class above each of the first tiles, or of all."""
    height, width = _tile_size(images)
    down, right, between = _steps(images, 1, round(gap * height))
    style = {"ha": "center", "va": "bottom", "fontsize": 7, "color": "black", "clip_on": False}
    for (left, top), label in zip(_corners(len(labels), columns, down, right)[:, 0], labels, strict=True):
        axes.text(left + width / 2, top - 0.25 * min(between, height), label, **style)


def _show_axes(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(f"{x}  \N{RIGHTWARDS ARROW}", fontsize=TEXT)
    axes.set_ylabel(f"{y}  \N{RIGHTWARDS ARROW}", fontsize=TEXT)


def _name_tiles(figure: "Figure", title: str, images: Tensor, limits: Limits, own: bool = False) -> None:
    if title:
        figure.suptitle(title, fontsize=TITLE)
    values = "each on its own scale" if own else f"values {limits[0]:.3g} to {limits[1]:.3g}"
    if _is_vectors(images):
        note = f"elements 0 to {images.shape[1] - 1} from left to right, {values} from bottom to top"
        figure.supxlabel(note, fontsize=7, color=GREY)
    elif limits != (0.0, 1.0):
        figure.supxlabel(f"{values} from black to white", fontsize=7, color=GREY)
