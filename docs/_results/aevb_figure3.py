"""Kingma & Welling 2013, Figure 3: ours over the published curves, digitised from the paper's own graphics."""

from typing import Any

from _results.shared import (
    Part,
    Points,
    between,
    difference,
    markdown,
    minutes,
    passes,
    provenance,
    published_curves,
    with_error,
)
from matplotlib.figure import Figure

METHODS = {
    "aevb": "AEVB",
    "wake-sleep": "wake-sleep",
    "mcem": "Monte Carlo EM",
    "mcem-online": "Monte Carlo EM, batches of 100",
}
PUBLISHED = {"aevb": "AEVB", "wake-sleep": "wake-sleep", "mcem": "MCEM"}
SIZES = {"1000": (-190, -100), "50000": (-170, -125)}
"""Numbers of training data, and the range of log p(x) that is drawn, nats."""
HEADS = ["curve", "training data", "passes", "samples", "published", "ours", "difference", "in s.e.", "by appendix D"]
HEADS += ["train, published", "train, ours", "flagged", "step", "CPU minutes"]


def text(result: dict[str, Any]) -> str:
    """The picture, a table of the last points, and how they were measured."""
    parts = result["parts"]
    rows = [
        _row(size, method, parts[f"n{size}-{method}"])
        for size in SIZES
        for method in METHODS
        if _has(parts, size, method)
    ]
    alt = "Log p(x) against training samples seen, ours and published, for 1000 and 50,000 training images"
    return f"![{alt}](pictures/aevb_figure3.png)\n\n{markdown(HEADS, rows)}\n\n{provenance(parts)}"


def _has(parts: dict[str, Part], size: str, method: str) -> bool:
    return f"n{size}-{method}" in parts


def _row(size: str, method: str, part: Part) -> list[str]:
    test, train = (between(_published(size, method, split), part["samples"]) for split in ("test", "train"))
    last = {name: values[-1] for name, values in part["curves"].items()}
    value, density = part["values"]["test"], part.get("appendix_d", {})
    measured = density.get("samples") == part["samples"]  # not in a training that was stopped, or made longer, since
    by_density = with_error(density, 1) if measured else ""
    shown = [_shown(test), with_error(value, 1), *difference(value, test, 1), by_density]
    label = [METHODS[method], f"{int(size):,}", passes(part), f"{part['samples']:.3g}".replace("e+0", "e")]
    ours = [
        _shown(train),
        with_error(part["values"]["train"], 1),
        f"{last['test_flagged']:.0%}" + (f", {density['flagged']:.0%}" if measured else ""),
    ]
    return [*label, *shown, *ours, f"{part['step']:g}", minutes(part)]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _published(size: str, method: str, split: str) -> Points:
    """The published curve; none for Monte Carlo EM in batches."""
    key = ("fig3", size, PUBLISHED.get(method, ""), split)
    return published_curves("aevb_figures.csv").get(key, [])


def draw(result: dict[str, Any]) -> Figure:
    """A panel for each number of training data."""
    figure = Figure(figsize=(13, 5), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(4, 4, 2))
    for axes, size in zip(panels, SIZES, strict=False):
        _panel(axes, result["parts"], size)
    panels[0].set_ylabel("log p(x), nats per image (lines of ours: importance sampling)")
    handles = {
        label: handle for axes in panels[:2] for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    panels[2].axis("off")
    panels[2].legend(handles.values(), handles.keys(), loc="center", fontsize="x-small")
    return figure


def _panel(axes: Any, parts: dict[str, Part], size: str) -> None:
    axes.set(title=f"MNIST, grey, {int(size):,} training images", xscale="log", xlim=(1e5, 1e8), ylim=SIZES[size])
    axes.set_xlabel("training samples seen")
    axes.grid(alpha=0.3)
    for number, (method, name) in enumerate(METHODS.items()):
        for split, style in (("test", "-"), ("train", "--")):
            if points := _published(size, method, split):
                named = {"label": f"{name}, published, {split}"}
                axes.plot(*zip(*points, strict=True), style, color=f"C{number}", alpha=0.35, linewidth=4, **named)
            if _has(parts, size, method):
                curves = parts[f"n{size}-{method}"]["curves"]
                x, y, errors = (curves[key] for key in ("samples", split, f"{split}_error"))
                label = f"{name}, ours, {split}"
                axes.errorbar(x, y, yerr=errors, fmt=style, color=f"C{number}", linewidth=1.2, capsize=1.5, label=label)
        density = parts.get(f"n{size}-{method}", {}).get("appendix_d")
        if density is not None:
            at, value, error = (density[key] for key in ("samples", "value", "error"))
            label = f"{name}, ours, test, appendix D"
            axes.errorbar(1.06 * at, value, yerr=error, fmt="D", color=f"C{number}", markersize=5, label=label)
