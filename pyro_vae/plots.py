"""Results as matplotlib figures: each function takes a result and returns a `Figure`, which `save` writes as a PNG.

Only matplotlib's object-oriented interface is used, and only once a figure is asked for: no window, no `pyplot`, no
global setting is touched, and importing this module does not import matplotlib.
"""

import io
from collections.abc import Mapping, Sequence
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyro_vae.checkpoint import write_atomic
from pyro_vae.diagnostics import ACTIVE_VARIANCE, LatentStatistics
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence
from pyro_vae.tasks import Generated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
# From Okabe & Ito's palette, told apart with any colour vision.
_BLUE, _ORANGE, _GREY, _FAINT = "#0072B2", "#D55E00", "#8C8C8C", "#E4E4E4"
_EDGE = "#B8B8B8"
_NOT_FINITE = (213 / 255, 94 / 255, 0.0)
"""The colour of a pixel that is nan or infinite: no grey level may stand for it."""
_TITLE, _TEXT = 10, 8.5
_GAP = 0.08
"""Space between tiles, as a part of their height."""
_PAIR = ["x", "E[x|z]"]

Limits = tuple[float, float]


# ---- training ------------------------------------------------------------------------------------------------------


def curves(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the ELBO and its two terms against the epoch, for training and, where present, validation data.

    The axes show where training goes, not where it came from: values far from all the others (those of the first
    epochs, a spike) are left outside, and their number is told.

    Args:
        rows: `History.rows`, or the rows of a run's metrics.csv.

    Returns:
        A figure with three panels, nats per datum.

    Raises:
        UsageError: if no row has a `train_elbo` or a `valid_elbo`.
    """
    if not any("train_elbo" in row or "valid_elbo" in row for row in rows):
        raise UsageError(f"expected the rows of a training, with train_elbo or valid_elbo, got {len(rows)} without")
    figure = _figure(10, 3.3)
    panels = figure.subplots(1, 3, sharex=True)
    _draw_terms(panels[0], rows, "elbo", "ELBO")
    _draw_terms(panels[1], rows, "reconstruction", "E[log p(x|z)]")
    _draw_terms(panels[2], rows, "kl", "KL(q(z|x) || p(z))")
    _mark_best(panels[0], rows)
    panels[0].legend(frameon=False, fontsize=_TEXT, loc="lower right")
    return figure


def _draw_terms(axes: "Axes", rows: Sequence[Mapping[str, Any]], term: str, title: str) -> None:
    drawn = []
    for split, colour, label in (("train", _BLUE, "training"), ("valid", _ORANGE, "validation")):
        points = [(row["epoch"], float(row[f"{split}_{term}"])) for row in rows if f"{split}_{term}" in row]
        if points:
            marker = "." if len(points) < 3 else ""
            axes.plot(*zip(*points, strict=True), color=colour, label=label, lw=1.2, marker=marker)
            drawn.append(np.array([value for _, value in points]))
    outside = _set_limits(axes, drawn)
    note = f" ({outside} value{'s' * (outside > 1)} off the scale)" if outside else ""
    _dress(axes, f"{title}, nats per datum", f"epoch{note}")


def _set_limits(axes: "Axes", series: Sequence[np.ndarray]) -> int:
    """Set robust limits; the number of values outside, or not finite."""
    if not any(np.isfinite(values).any() for values in series):
        return sum(len(values) for values in series)
    low, high = robust_limits(series)
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    axes.set_ylim(low - pad, high + pad)
    return sum(int((~((values >= low - pad) & (values <= high + pad))).sum()) for values in series)


def robust_limits(series: Sequence[np.ndarray]) -> Limits:
    """The range of the finite values of series over time, without values that are far from all the others.

    Far is further from the bulk than the bulk is wide; the bulk are the values after the first 5 % (at least one),
    without 5 % at each end.

    Args:
        series: values in the order of time, one array a series, at least one value finite.

    Returns:
        The lowest and the highest value to show.

    Example:
        >>> robust_limits([np.array([-5000.0, -120.0, -100.0, -95.0])])
        (-120.0, -95.0)
    """
    every = np.concatenate([values[np.isfinite(values)] for values in series])
    later = np.concatenate([v[max(1, round(0.05 * len(v))) :] if len(v) > 2 else v for v in series])
    bulk = np.sort(later[np.isfinite(later)]) if np.isfinite(later).any() else np.sort(every)
    cut = int(0.05 * len(bulk))
    low, high = bulk[cut], bulk[-1 - cut]
    near = every[(every >= 2 * low - high) & (every <= 2 * high - low)]
    return float(near.min()), float(near.max())


def _mark_best(axes: "Axes", rows: Sequence[Mapping[str, Any]]) -> None:
    """A dot where the validation bound is highest: those are the weights that are kept."""
    valid = [(row["valid_elbo"], row["epoch"]) for row in rows if isfinite(row.get("valid_elbo", float("nan")))]
    if valid:
        elbo, epoch = max(valid, key=lambda point: point[0])
        axes.plot([epoch], [elbo], "o", color=_ORANGE, ms=5, label=f"best {elbo:.2f}, epoch {epoch:.0f}")


# ---- images --------------------------------------------------------------------------------------------------------


def image_grid(images: Tensor, columns: int = 10, title: str = "") -> "Figure":
    """Draw data as a grid of tiles, row by row.

    Images `(H, W)`, `(1, H, W)` and `(3, H, W)` become pixels, vectors `(D,)` become lines. Values in [0, 1] are drawn
    on that scale, others between the least and the greatest of the figure, which is then told under it. Pixels that
    are not finite are orange.

    Args:
        images: `[N, *event]`.
        columns: tiles in a row.
        title: what they are.

    Returns:
        The figure.

    Raises:
        UsageError: if there is nothing to draw, `columns` is below 1, or the event is none of these shapes.
    """
    _check_images(images, columns)
    columns, limits = min(columns, len(images)), value_limits(images)
    figure = _tiled_figure(images, columns)
    axes = figure.subplots()
    _draw_tiles(axes, [images], columns, limits)
    _name_tiles(figure, title, images, limits)
    return figure


def reconstructions(x: Tensor, x_mean: Tensor, columns: int = 5) -> "Figure":
    """Draw each datum beside its reconstruction (vectors: both as lines in one tile).

    Args:
        x: data `[N, *event]`.
        x_mean: their reconstructions `[N, *event]`, as `tasks.reconstruct` gives them.
        columns: pairs in a row.

    Returns:
        The figure; rows are labelled with the index of their first datum.

    Raises:
        UsageError: as `image_grid`, and if the two have different shapes.
    """
    _check_images(x, columns)
    if x.shape != x_mean.shape:
        raise UsageError(
            f"expected data and reconstructions of one shape, got {list(x.shape)} and {list(x_mean.shape)}"
        )
    columns, limits = min(columns, len(x)), value_limits(x, x_mean)
    figure = _tiled_figure(x, columns, series=2)
    axes = figure.subplots()
    _draw_tiles(axes, [x, x_mean], columns, limits)
    _label_pairs(axes, x, columns)
    _name_tiles(figure, "data x and reconstruction E[x|z], z ~ q(z|x)", x, limits)
    return figure


def samples(generated: Generated, columns: int = 8) -> "Figure":
    """Draw the decoder's means E[x|z] and the data x drawn from them, side by side in the same order.

    Args:
        generated: as `tasks.sample` gives it.
        columns: tiles in a row of each half.

    Returns:
        A figure with two panels.

    Raises:
        UsageError: as `image_grid`.
    """
    _check_images(generated.x, columns)
    columns, limits = min(columns, len(generated.x)), value_limits(generated.mean, generated.x)
    figure = _tiled_figure(generated.x, columns, panels=2)
    panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    halves = ((generated.mean, "mean E[x|z]"), (generated.x, "draw x ~ p(x|z)"))
    for axes, (images, title) in zip(panels, halves, strict=True):
        _draw_tiles(axes, [images], columns, limits)
        axes.set_title(title, fontsize=_TEXT)
    _name_tiles(figure, "samples, z ~ p(z)", generated.x, limits)
    return figure


def manifold(grid: Tensor) -> "Figure":
    """Draw decoder means over a two-dimensional latent space as touching tiles (Kingma & Welling 2013, figure 4).

    Args:
        grid: `[rows, columns, *event]`, as `tasks.manifold` gives it.

    Returns:
        The figure.

    Raises:
        UsageError: if `grid` is not a grid, and as `image_grid`.
    """
    if grid.dim() < 3:
        raise UsageError(f"expected a grid [rows, columns, *event], got {list(grid.shape)}")
    images, columns = grid.flatten(0, 1), grid.shape[1]
    _check_images(images, columns)
    limits = value_limits(images)
    figure = _tiled_figure(images, columns, tile=0.32, gap=0.0)
    axes = figure.subplots()
    _draw_tiles(axes, [images], columns, limits, gap=0.0)
    _show_axes(axes, "first latent dimension, in quantiles of N(0, 1)", "second latent dimension")
    _name_tiles(figure, "manifold of means E[x|z]", images, limits)
    return figure


def value_limits(*images: Tensor) -> Limits:
    """The values that are drawn black and white: (0, 1) where all data are in it, else their least and greatest.

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


def _check_images(images: Tensor, columns: int) -> None:
    event = tuple(images.shape[1:])
    drawable = len(event) in (1, 2) or (len(event) == 3 and event[0] in (1, 3))
    if not drawable or images.numel() == 0:
        raise UsageError(
            f"expected data [N, *event] with event (D,), (H, W), (1, H, W) or (3, H, W), got {list(images.shape)}: "
            "reshape them first"
        )
    if columns < 1:
        raise UsageError(f"columns must be at least 1, got {columns}")


def _is_lines(images: Tensor) -> bool:
    return images.dim() == 2


def _tile_size(images: Tensor) -> tuple[int, int]:
    """Height and width of one tile in pixels; those of small images are repeated, for gaps narrower than one."""
    if _is_lines(images):
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
    labels = 0.3 if series == 1 else 1.5 if _is_lines(images) else 0.8
    return _figure(max(wide * tile + labels, 4.2), max(high * tile + 0.65, 1.6))


def _draw_tiles(axes: "Axes", series: Sequence[Tensor], columns: int, limits: Limits, gap: float = _GAP) -> None:
    """Draw one tile a datum, `gap` of its height apart; of two series, images lie side by side, lines in one tile."""
    draw = _draw_lines if _is_lines(series[0]) else _draw_images
    draw(axes, series, columns, limits, round(gap * _tile_size(series[0])[0]))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def _draw_images(axes: "Axes", series: Sequence[Tensor], columns: int, limits: Limits, gap: int) -> None:
    """All tiles as one image: a hundred axes would take seconds."""
    height, width = _tile_size(series[0])
    down, right, between = _steps(series[0], len(series), gap)
    rows = ceil(len(series[0]) / columns)
    canvas = np.ones((rows * down - between, columns * right - between, 3), np.float32)
    for place, images in enumerate(series):
        corners = _corners(len(images), columns, down, right) + np.array([place * (width + gap), 0])
        for (left, top), tile in zip(corners[:, 0], _pixels(images, limits), strict=True):
            canvas[top : top + height, left : left + width] = tile
        if gap:  # a white edge of an image must not run into the page
            _frame(axes, corners - 0.5, height, width)
    axes.imshow(canvas)


def _steps(images: Tensor, series: int, gap: int) -> tuple[int, int, int]:
    """Pixels from tile to tile downwards and to the right, and the space between; a pair side by side is one tile."""
    height, width = _tile_size(images)
    side_by_side = 1 if _is_lines(images) else series
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


def _draw_lines(axes: "Axes", series: Sequence[Tensor], columns: int, limits: Limits, gap: int) -> None:
    """Vectors as lines, in frames that lie where images would; y downwards as in an image."""
    from matplotlib.collections import LineCollection

    height, width = _tile_size(series[0])
    down, right, _ = _steps(series[0], len(series), gap)
    corners = _corners(len(series[0]), columns, down, right)
    _frame(axes, corners, height, width)
    for vectors, colour in zip(series, (_BLUE, _ORANGE), strict=False):
        segments = corners + _line(vectors, limits) * (width, height)
        axes.add_collection(LineCollection(list(segments), colors=colour, linewidths=0.9))
    rows = ceil(len(corners) / columns)
    axes.set_xlim(-1, columns * right - gap + 1)
    axes.set_ylim(rows * down - gap + 1, -1)
    axes.set_aspect("equal")


def _line(vectors: Tensor, limits: Limits) -> np.ndarray:
    """Vectors as lines in the unit square, `[N, D, 2]`, y downwards; nan breaks a line, one element makes a level."""
    values = vectors.detach().cpu().double().numpy()
    values = np.where(np.isfinite(values), values, np.nan)
    values = values.repeat(2, 1) if values.shape[1] == 1 else values
    y = 1 - np.clip((values - limits[0]) / (limits[1] - limits[0]), 0, 1)
    x = np.broadcast_to(np.linspace(0, 1, values.shape[1]), values.shape)
    return np.stack([x, 0.04 + 0.92 * y], -1)


def _label_pairs(axes: "Axes", x: Tensor, columns: int) -> None:
    """`x` and `E[x|z]` over the columns (a legend for lines), and at each row the index of its first datum."""
    height, width = _tile_size(x)
    gap = round(_GAP * height)
    down, right, _ = _steps(x, 2, gap)
    rows = range(ceil(len(x) / columns))
    axes.set_yticks([row * down + height / 2 for row in rows], [f"datum {row * columns}" for row in rows])
    if _is_lines(x):
        lines = axes.collections[1:]
        axes.legend(lines, _PAIR, frameon=False, fontsize=_TEXT, loc="upper left", bbox_to_anchor=(1, 1))
    else:
        left = [column * right for column in range(columns)]
        ticks = [start + width / 2 + place * (width + gap) for start in left for place in (0, 1)]
        axes.set_xticks(ticks, _PAIR * columns)
        axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=7, labelcolor=_GREY)


def _show_axes(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlabel(f"{x}  \N{RIGHTWARDS ARROW}", fontsize=_TEXT)
    axes.set_ylabel(f"{y}  \N{RIGHTWARDS ARROW}", fontsize=_TEXT)


def _name_tiles(figure: "Figure", title: str, images: Tensor, limits: Limits) -> None:
    if title:
        figure.suptitle(title, fontsize=_TITLE)
    values = f"values {limits[0]:.3g} to {limits[1]:.3g}"
    if _is_lines(images):
        note = f"elements 0 to {images.shape[1] - 1} from left to right, {values} from bottom to top"
        figure.supxlabel(note, fontsize=7, color=_GREY)
    elif limits != (0.0, 1.0):
        figure.supxlabel(f"{values} from black to white", fontsize=7, color=_GREY)


# ---- diagnostics ---------------------------------------------------------------------------------------------------


def latent_kl(stats: LatentStatistics) -> "Figure":
    """Draw the KL of each latent dimension from its prior as bars, greatest first, active ones in colour.

    Args:
        stats: as `diagnostics.latent_statistics` gives them.

    Returns:
        The figure; bars in nats per datum, labelled with the dimension's index.

    Raises:
        UsageError: if the statistics have no KL, or one is not finite, as for a guide without width.
    """
    if stats.kl is None:
        raise UsageError("these statistics have no KL of each dimension: only those of a VAE with one site 'z' do")
    if not stats.kl.isfinite().all():
        raise UsageError("a KL is infinite, so there are no bars to draw: q(z|x) has no width (a Delta guide)")
    order = stats.kl.argsort(descending=True)
    kl, active = stats.kl[order].numpy(), stats.active[order].numpy()
    place = np.arange(len(kl))
    figure = _figure(min(max(3.2 + 0.14 * len(kl), 5.0), 12), 3.2)
    axes = figure.subplots()
    for chosen, colour, label in (
        (active, _BLUE, f"active: variance of E[z|x] over the data > {ACTIVE_VARIANCE}"),
        (~active, _GREY, "not active"),
    ):
        if chosen.any():
            axes.bar(place[chosen], kl[chosen], color=colour, width=0.8, label=label)
    middle, half = (len(kl) - 1) / 2, max(len(kl), 8) / 2 + 0.2
    axes.set_xlim(middle - half, middle + half)
    axes.set_ylim(0, max(1.25 * kl.max(), 1e-3))
    axes.set_xticks(place[:: ceil(len(kl) / 60)], [str(int(i)) for i in order[:: ceil(len(kl) / 60)]])
    axes.set_ylabel("KL, nats per datum", fontsize=_TEXT)
    total = f"KL {float(stats.kl.sum()):.2f} nats per datum in sum"
    title = f"{stats.num_active} of {len(kl)} latent dimensions active, {total}"
    _dress(axes, title, "latent dimension, sorted")
    axes.legend(frameon=False, fontsize=_TEXT, loc="upper right")
    return figure


def pareto_k(evidence: Evidence) -> "Figure":
    """Draw a histogram of Pareto's k, with the threshold above which an estimate of log p(x) is not to be trusted.

    Args:
        evidence: as `evidence.log_marginal` gives it.

    Returns:
        The figure. Values that a histogram can't show are counted under its title: -inf (all weights equal: exact),
        +inf, and nan (too few draws to tell).
    """
    k = evidence.pareto_k.detach().cpu().double().numpy()
    above = float((k > evidence.threshold).mean())
    figure = _figure(6, 3.4)
    axes = figure.subplots()
    _draw_histogram(axes, k[np.isfinite(k)], evidence.threshold)
    axes.axvline(evidence.threshold, color="black", lw=1, ls="--", label=f"threshold {evidence.threshold:.2f}")
    axes.set_ylabel("data", fontsize=_TEXT)
    axes.legend(frameon=False, fontsize=_TEXT)
    share = f"Pareto k above {evidence.threshold:.2f} for {above:.1%} of {len(k)} data"
    title = [f"{share}, {evidence.num_particles} draws each", *_not_shown(k)]
    _dress(axes, "\n".join(title), "Pareto k of the importance weights of a datum")
    return figure


def _draw_histogram(axes: "Axes", values: np.ndarray, threshold: float) -> None:
    from matplotlib.ticker import MaxNLocator

    if len(values) == 0:
        axes.text(0.5, 0.5, "no finite value", transform=axes.transAxes, ha="center", va="bottom", color=_GREY)
        axes.set_yticks([])
        return
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    low, high = min(values.min(), threshold), max(values.max(), threshold)
    width = max((high - low) / 30, 1e-3)
    # An edge lies on the threshold, so that each bar is on one side of it.
    edges = threshold + width * np.arange(-ceil((threshold - low) / width) - 1, ceil((high - threshold) / width) + 2)
    for chosen, colour in ((values <= threshold, _BLUE), (values > threshold, _ORANGE)):
        axes.hist(values[chosen], bins=list(edges), color=colour, edgecolor="white", linewidth=0.4)


def _not_shown(k: np.ndarray) -> list[str]:
    """One line on the values that are not finite; none where there are none."""
    counts = {
        "at -inf (all weights equal)": int(np.isneginf(k).sum()),
        "at +inf": int(np.isposinf(k).sum()),
        "nan (unknown, not to be trusted)": int(np.isnan(k).sum()),
    }
    told = [f"{count} {what}" for what, count in counts.items() if count]
    return [f"not shown: {', '.join(told)}"] if told else []


# ---- every figure --------------------------------------------------------------------------------------------------


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure as a PNG; its place holds the old file or the whole new one, never a part.

    Args:
        figure: the figure.
        path: where to, ending in `.png`; its folder is made if it is not there.

    Raises:
        UsageError: if `path` ends otherwise, or can't be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"figures are written as PNG: expected a path that ends in .png, got {path}")
    content = io.BytesIO()
    figure.savefig(content, format="png", metadata={"Software": None})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content.getvalue())
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror or error}") from error


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(width, height), dpi=_DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: "Axes", title: str, xlabel: str) -> None:
    """The look that all diagrams share."""
    axes.set_title(title, fontsize=_TITLE)
    axes.set_xlabel(xlabel, fontsize=_TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_TEXT)
    axes.grid(axis="y", color=_FAINT, lw=0.7)
    axes.set_axisbelow(True)
