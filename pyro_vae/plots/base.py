"""What all figures share: colours and sizes, the style of a diagram, and writing to a file."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.errors import UsageError, file_errors
from pyro_vae.runs.files import write_atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
# From Okabe & Ito's palette, which people with colour blindness can distinguish.
BLUE, ORANGE, GREY, FAINT = "#0072B2", "#D55E00", "#8C8C8C", "#E4E4E4"
TITLE, TEXT = 10, 8.5
"""Font sizes, in points."""


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure as a PNG, atomically: after an error the old file is still there.

    Args:
        figure: the figure.
        path: the file, which ends in `.png`; its folder is made if it does not exist.

    Raises:
        UsageError: if `path` does not end in `.png`.
        FileError: if it can't be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(make_figure(2, 2), Path(folder) / "figure.png")
        ...     (Path(folder) / "figure.png").exists()
        True
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise UsageError(f"figures are written as PNG: expected a path that ends in .png, got {path}")
    content = encoded(figure)
    with file_errors(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content)


def encoded(figure: "Figure") -> bytes:
    """A figure as the bytes of a PNG.

    Example:
        >>> encoded(make_figure(2, 2))[1:4]
        b'PNG'
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    canvas: Any = figure.canvas if hasattr(figure.canvas, "print_png") else FigureCanvasAgg(figure)
    canvas.print_png(content, metadata={"Software": None})  # `savefig` would draw everything twice
    return content.getvalue()


def make_figure(width: float, height: float) -> "Figure":
    """An empty figure without a window; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: "Axes", title: str, xlabel: str) -> None:
    """The common style of diagrams."""
    axes.set_title(title, fontsize=TITLE)
    axes.set_xlabel(xlabel, fontsize=TEXT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=TEXT)
    axes.grid(axis="y", color=FAINT, lw=0.7)
    axes.set_axisbelow(True)


def legend_below(figure: "Figure", axes: "Axes", columns: int | None = None) -> None:
    """The legend under the diagram, where it hides nothing; in one row unless `columns` are given."""
    handles, labels = axes.get_legend_handles_labels()
    ncols = columns or len(labels)
    figure.legend(handles, labels, frameon=False, fontsize=TEXT, loc="outside lower center", ncols=ncols)
