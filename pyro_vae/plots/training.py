"""Figures of a training."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_vae.errors import UsageError
from pyro_vae.plots.base import BLUE, ORANGE, dress, legend_below, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Limits = tuple[float, float]

_TITLES = {"elbo": "ELBO", "reconstruction": "E[log p(x|z)]", "kl": "KL(q(z|x) || p(z))"}


def curves(rows: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw the ELBO and its two terms against the epoch, for training and, where present, validation data.

    For a point-mass guide, which has no ELBO and no KL, the reconstruction alone. Values far from all the others (those
    of the first epochs, a spike) are outside the axes' limits; the label of the x axis states how many.

    Args:
        rows: `History.rows`, or the rows of a run's metrics.csv.

    Returns:
        A figure with one panel for each term present; nats per datum.

    Raises:
        UsageError: if no row has a term.

    Example:
        >>> rows = [{"epoch": e, "loss": 10.0 / e, "train_elbo": -10.0 / e} for e in (1, 2, 3)]
        >>> type(curves(rows)).__name__
        'Figure'
    """
    terms = [term for term in _TITLES if any(f"{split}_{term}" in row for split in ("train", "valid") for row in rows)]
    if not terms:
        raise UsageError(f"expected the rows of a training, with train_elbo or valid_elbo, got {len(rows)} without")
    figure = make_figure(max(5.0, 10 / 3 * len(terms)), 3.3)
    panels = figure.subplots(1, len(terms), sharex=True, squeeze=False)[0]
    for axes, term in zip(panels, terms, strict=True):
        _draw_terms(axes, rows, term, _TITLES[term])
    _mark_best(panels[0], rows, f"valid_{terms[0]}")
    legend_below(figure, panels[0])
    return figure


def _draw_terms(axes: "Axes", rows: Sequence[Mapping[str, Any]], term: str, title: str) -> None:
    drawn = []
    for split, colour, label in (("train", BLUE, "training"), ("valid", ORANGE, "validation")):
        points = [(row["epoch"], float(row[f"{split}_{term}"])) for row in rows if f"{split}_{term}" in row]
        if points:
            marker = "." if len(points) < 3 else ""
            axes.plot(*zip(*points, strict=True), color=colour, label=label, lw=1.2, marker=marker)
            drawn.append(np.array([value for _, value in points]))
    outside = _set_limits(axes, drawn)
    note = f" ({outside} value{'s' * (outside > 1)} off the scale)" if outside else ""
    dress(axes, f"{title}, nats per datum", f"epoch{note}")


def _set_limits(axes: "Axes", series: Sequence[np.ndarray]) -> int:
    """Set robust limits; returns the number of values outside them or not finite."""
    if not any(np.isfinite(values).any() for values in series):
        return sum(len(values) for values in series)
    low, high = robust_limits(series)
    pad = 0.06 * (high - low) or max(abs(high), 1.0) * 0.06
    axes.set_ylim(low - pad, high + pad)
    return sum(int((~((values >= low - pad) & (values <= high + pad))).sum()) for values in series)


def robust_limits(series: Sequence[np.ndarray]) -> Limits:
    """The range of the finite values of time series, without values that are far from all the others.

    Far means: further from the bulk than the bulk is wide. The bulk is the range of the values after the first 5 % in
    time (at least one), without the lowest and the highest 5 %.

    Args:
        series: values in the order of time, one array for each series; at least one value is finite.

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


def _mark_best(axes: "Axes", rows: Sequence[Mapping[str, Any]], name: str) -> None:
    """Mark the epoch with the best validation objective; runs of earlier versions have only the ELBO."""
    valid = [row for row in rows if isfinite(row.get(name, float("nan")))]
    judged = [row for row in valid if isfinite(row.get("valid_loss", float("nan")))]
    if valid:
        best = min(judged, key=lambda row: row["valid_loss"]) if judged else max(valid, key=lambda row: row[name])
        value, epoch = best[name], best["epoch"]
        axes.plot([epoch], [value], "o", color=ORANGE, ms=5, label=f"best {value:.2f}, epoch {epoch:.0f}")
