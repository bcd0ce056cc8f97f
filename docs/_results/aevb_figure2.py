"""Kingma & Welling 2013, Figure 2: ours over the published curves, digitised from the paper's own graphics."""

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

DATA = {"mnist": "MNIST, grey", "frey": "Frey Face"}
METHODS = {
    "aevb": "AEVB",
    "wake-sleep": "wake-sleep",
    "adam": "AEVB by Adam",
    "wide": "AEVB, weights of s.d. 0.1",
}
COLOURS = {"aevb": "C0", "wake-sleep": "C1", "adam": "C2", "wide": "C3"}
LATENT = {"mnist": (3, 5, 10, 20, 200), "frey": (2, 5, 10, 20)}
RANGES = {"mnist": (-160, -95), "frey": (0, 1600)}
"""Of the bound, nats; the paper's own for Frey Face."""
HEADS = ["curve", "latent", "passes", "samples", "published", "ours", "difference", "in s.e.", "train, published"]
HEADS += ["train, ours", "step", "CPU minutes"]


def text(result: dict[str, Any]) -> str:
    """The picture, a table of the last points, and how they were measured."""
    parts = result["parts"]
    order = [f"{data}-{latent}-{method}" for data in DATA for method in METHODS for latent in LATENT[data]]
    rows = [_row(name, parts[name]) for name in order if name in parts]
    alt = "The bound against training samples seen, ours and published, a panel for each number of dimensions"
    return f"![{alt}](pictures/aevb_figure2.png)\n\n{markdown(HEADS, rows)}\n\n{provenance(parts)}"


def _row(name: str, part: Part) -> list[str]:
    data, latent, method = name.split("-", 2)
    theirs = "aevb" if method == "wide" else method
    test, train = (between(_published(data, latent, theirs, split), part["samples"]) for split in ("test", "train"))
    shown = [_shown(test), with_error(part["values"]["test"], 1), *difference(part["values"]["test"], test, 1)]
    label = [f"{DATA[data]}: {METHODS[method]}", latent, passes(part), f"{part['samples']:.3g}".replace("e+0", "e")]
    return [*label, *shown, _shown(train), f"{part['curves']['running'][-1]:.1f}", f"{part['step']:g}", minutes(part)]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _published(data: str, latent: str | int, method: str, split: str) -> Points:
    """The published curve, if there is one."""
    name = {"aevb": "AEVB", "wake-sleep": "wake-sleep"}.get(method, "")
    return published_curves("aevb_figures.csv").get((f"fig2-{data}", str(latent), name, split), [])


def draw(result: dict[str, Any]) -> Figure:
    """A panel for each number of latent dimensions, MNIST above and Frey Face below."""
    figure = Figure(figsize=(15, 6.6), layout="constrained")
    panels = figure.subplots(2, 5)
    for row, data in zip(panels, DATA, strict=True):
        for axes, latent in zip(row, LATENT[data], strict=False):
            _panel(axes, result["parts"], data, latent)
        row[0].set_ylabel("bound, nats per image")
    panels[1, 4].axis("off")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    panels[1, 4].legend(handles, labels, loc="center", fontsize="small")
    return figure


def _panel(axes: Any, parts: dict[str, Part], data: str, latent: int) -> None:
    axes.set(title=f"{DATA[data]}, {latent} latent", xscale="log", xlim=(1e5, 1e8), ylim=RANGES[data])
    axes.set_xlabel("training samples seen")
    axes.grid(alpha=0.3)
    for method, colour in COLOURS.items():
        for split, line, style in (("test", "test", "-"), ("train", "running", "--")):
            if points := _published(data, latent, method, split):
                named = {"label": f"{METHODS[method]}, published, {split}"}
                axes.plot(*zip(*points, strict=True), style, color=colour, alpha=0.35, linewidth=4, **named)
            curves = parts.get(f"{data}-{latent}-{method}", {}).get("curves", {})
            errors = curves.get("test_error") if split == "test" else None
            x, y = curves.get("samples", []), curves.get(line, [])
            label = f"{METHODS[method]}, ours, {split}"
            axes.errorbar(x, y, yerr=errors, fmt=style, color=colour, linewidth=1.2, capsize=1.5, label=label)
