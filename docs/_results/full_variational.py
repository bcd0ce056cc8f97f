"""Kingma & Welling 2013, appendix F: weights that maximise, and a posterior over them; no published numbers."""

from typing import Any

from _results.shared import Part, markdown, minutes, passes, provenance, with_error

NAMES = {"map": "weights that maximise (N(0, 1) log-prior)", "full": "a posterior over the decoder's weights"}
HEADS = [
    "decoder",
    "passes",
    "test",
    "train",
    "test, weights drawn",
    "divergence",
    "bound of the training data",
    "step",
]
HEADS += ["CPU minutes"]


def text(result: dict[str, Any]) -> str:
    """A table of the last points, and how they were measured."""
    parts = result["parts"]
    rows = [_row(name, parts[name]) for name in NAMES if name in parts]
    return f"{markdown(HEADS, rows)}\n\n{provenance(parts)}"


def _row(name: str, part: Part) -> list[str]:
    last = {key: values[-1] for key, values in part["curves"].items()}
    ends = [with_error(part["values"][split], 1) for split in ("test", "train")]
    return [NAMES[name], passes(part), *ends, *_of_the_posterior(last), f"{part['step']:g}", minutes(part)]


def _of_the_posterior(last: dict[str, float]) -> list[str]:
    """Three cells, empty where weights have no posterior."""
    if "divergence" not in last:
        return ["", "", ""]
    drawn = with_error({"value": last["predictive"], "error": last["predictive_error"]}, 1)
    return [drawn, f"{last['divergence']:.1f}", f"{last['running'] - last['divergence']:.1f}"]
