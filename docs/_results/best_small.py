"""The best small network; the model with the lowest NLL on validation images is the one that counts."""

from typing import Any

from _results import evaluated


def text(result: dict[str, Any]) -> str:
    """The tables, and which models were chosen."""
    valid = {
        name: part["values"]["valid_nll"]["value"]
        for name, part in result["parts"].items()
        if "valid_nll" in part["values"]
    }
    lowest: dict[str, str] = {}
    for name in sorted(valid, key=valid.__getitem__):
        lowest.setdefault(name.partition("-")[0], name)
    chosen = [f"`{name}` ({valid[name]:.2f} on validation images, K = 500)" for name in lowest.values()]
    return f"{evaluated.text(result)}\n\nChosen on validation images: {', '.join(chosen)}."
