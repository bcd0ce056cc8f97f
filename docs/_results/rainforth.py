"""Rainforth et al. 2018: the signal-to-noise ratio of gradients against the number of particles."""

from typing import Any

from _results.shared import markdown, provenance, with_error
from rainforth import draw

__all__ = ["draw", "text"]
EXPECTED = {"IWAE encoder": "-1/2", "IWAE decoder": "1/2", "DReG encoder": "not falling", "DReG decoder": "1/2"}
"""The slopes that the paper derives for IWAE, and what Tucker et al. 2019 claim for DReG."""


def text(result: dict[str, Any]) -> str:
    """The slopes, the ratios for each K, the picture."""
    parts = result["parts"]
    slopes = parts.get("slopes", {"values": {}})["values"]
    fitted = [[name, EXPECTED.get(name, ""), with_error(value, 3)] for name, value in slopes.items()]
    ratios = list(EXPECTED)
    rows = [
        [str(part["num_particles"]), *(with_error(part["values"][name], 3) for name in ratios)]
        for part in parts.values()
        if "num_particles" in part
    ]
    alt = "Signal-to-noise ratio of the gradients of encoder and decoder against K, with lines of the published slopes"
    tables = [markdown(["gradient", "published slope", "ours"], fitted), markdown(["K", *ratios], rows)]
    return "\n\n".join([*tables, f"![{alt}](pictures/rainforth.png)", provenance(parts)])
