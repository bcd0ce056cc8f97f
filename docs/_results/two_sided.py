"""Where log p(x) is known: whether the interval holds it, and whether it is flagged where it does not."""

from collections.abc import Iterator
from typing import Any

from _results.shared import markdown, provenance, with_error

HEALTHY = 0.5
"""The k of the weights from which on a guide is too narrow, and its intervals should be flagged."""


def text(result: dict[str, Any]) -> str:
    """One table of exact models, the totals, one table of brackets, and how they were measured."""
    known = {name: part for name, part in result["parts"].items() if not name.endswith("bracket")}
    bracketed = {name: part for name, part in result["parts"].items() if name.endswith("bracket")}
    heads = ["model", "k", "inside", "by the error of the draws alone", "flagged", "missed, not flagged", "width, nats"]
    table = markdown(heads, [row for name, part in known.items() for row in _rows(name, part)])
    beside = markdown(["model", *BESIDE], [_beside(name, part) for name, part in bracketed.items()])
    return "\n\n".join([table, _totals(known), *([beside] if bracketed else []), provenance(result["parts"])])


def _rows(name: str, part: dict[str, Any]) -> Iterator[list[str]]:
    for k, found in _guides(part).items():
        shares = ("inside", "inside by the error of the draws", "flagged", "missed and not flagged")
        yield [name, k, *(_percent(found[share]) for share in shares), f"{found['width']['value']:.2g}"]


def _guides(part: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The values of a part by k, and by what they are."""
    found: dict[str, dict[str, Any]] = {}
    for key, entry in part["values"].items():
        k, what = key.removeprefix("k = ").split(", ", 1)
        found.setdefault(k, {})[what] = entry
    return found


def _totals(parts: dict[str, Any]) -> str:
    """One sentence for all guides that are good enough, and one for the others."""
    guides = [(float(k), found) for part in parts.values() for k, found in _guides(part).items()]
    healthy = [found["inside"]["value"] for k, found in guides if k < HEALTHY]
    narrow = [found for k, found in guides if k >= HEALTHY]
    missed = sum(1 - found["inside"]["value"] for found in narrow)
    unseen = sum(found["missed and not flagged"]["value"] for found in narrow)
    flagged = sum(found["flagged"]["value"] for found in narrow) / len(narrow)
    lost = _rounded(unseen / missed if missed else 0.0)
    inside = f"{_rounded(min(healthy), 2)} to {_rounded(max(healthy), 2)} of the data are inside"
    return (
        f"Guides of k below {HEALTHY}: {inside}. Of k above: {_rounded(flagged)} are flagged, and of the data outside "
        f"{lost} are not flagged."
    )


def _rounded(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


BESIDE = {
    "have a point in common": "overlap",
    "lower end less that of the bracket": "lower end less that of the bracket",
    "upper end less that of the bracket": "upper end less that of the bracket",
    "width of the bracket": "width of the bracket",
    "width of the interval": "width of the interval",
    "flagged": "flagged",
}


def _beside(name: str, part: dict[str, Any]) -> list[str]:
    values = {what: part["values"][what] for what in BESIDE.values()}
    return [
        name.removesuffix(", bracket"),
        *(
            _percent(entry) if what in ("overlap", "flagged") else with_error(entry, 4)
            for what, entry in values.items()
        ),
    ]


def _percent(entry: dict[str, float]) -> str:
    return f"{100 * entry['value']:.4g} ± {100 * entry['error']:.1g} %"
