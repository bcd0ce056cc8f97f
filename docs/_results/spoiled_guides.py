"""How often each check of a guide finds each fault."""

from typing import Any

from _results.shared import markdown, provenance, with_error

CHECKS = ("SBC, dimensions", "SBC", "TARP", "HPD", "local C2ST")


def text(result: dict[str, Any]) -> str:
    """The shares, the factors, and how they were measured."""
    rows = [
        [fault, *(_percent(part["values"][name]) for name in CHECKS), with_error(part["values"]["factor at 90 %"])]
        for fault, part in result["parts"].items()
    ]
    table = markdown(["guide", *CHECKS, "factor at 90 %"], rows)
    return f"{table}\n\n{provenance(result['parts'])}"


def _percent(value: dict[str, float]) -> str:
    """A share, in bold where the check sees the fault in most repetitions."""
    shown = f"{value['value']:.0%}".replace("%", " %")
    return f"**{shown}**" if value["value"] > 0.5 else shown
