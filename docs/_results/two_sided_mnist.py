"""Log p(x) of static MNIST from both sides, by importance sampling and by annealing, for two guides."""

from typing import Any

from _results.shared import markdown, provenance

HEADS = (
    "guide, method",
    "log p(x) from below",
    "from above",
    "width of an image's interval",
    "below 1.5 nats",
    "width of the means",
    "flagged",
    "seconds an image",
)


def text(result: dict[str, Any]) -> str:
    """One table and how it was measured."""
    parts = result["parts"]
    rows = [[name, *_cells(part["values"])] for name, part in parts.items()]
    protocols = "\n".join(
        f"- {name}: {part['data']}; {part['protocol']}; {part['passes']} passes of training."
        for name, part in parts.items()
    )
    return "\n\n".join([markdown(HEADS, rows), protocols, provenance(parts)])


def _cells(values: dict[str, Any]) -> list[str]:
    width = values["width"]
    return [
        *(f"{values[end]['value']:.3f} ± {values[end]['monte_carlo_error']:.3f}" for end in ("lower", "upper")),
        f"{width['value']:.2f} ± {width['error']:.2f}, at most {values['width, largest']['value']:.1f}",
        _percent(values["width below 1.5 nats"]),
        f"{values['width of the means']['value']:.3f}",
        _percent(values["flagged"]),
        f"{values['seconds for an image']['value']:.2g}",
    ]


def _percent(entry: dict[str, float]) -> str:
    return f"{100 * entry['value']:.1f} ± {100 * entry['error']:.1f} %"
