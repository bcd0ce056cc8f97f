"""Kingma & Welling 2013, Figures 4 and 5: the bounds of the models whose pictures the script has drawn."""

from typing import Any

from _results.shared import markdown, minutes, passes, provenance, with_error

PICTURES = {
    "frey-2": ("aevb-manifold-frey", "Faces over a grid of two-dimensional codes"),
    "mnist-2": ("aevb-manifold-mnist", "Digits over a grid of two-dimensional codes"),
    "mnist-20": ("aevb-samples", "Draws of models with 2, 5, 10 and 20 latent dimensions, a row each"),
}


def text(result: dict[str, Any]) -> str:
    """The pictures, the bounds, and how they were measured."""
    parts = result["parts"]
    pictures = [f"![{alt}](pictures/{file}.png)" for part, (file, alt) in PICTURES.items() if part in parts]
    rows = [
        [name, with_error(part["values"]["test bound"], 1), passes(part), minutes(part)] for name, part in parts.items()
    ]
    table = markdown(["data, latent dimensions", "test bound, nats", "passes", "CPU minutes"], rows)
    return "\n\n".join([*pictures, table, provenance(parts)])
