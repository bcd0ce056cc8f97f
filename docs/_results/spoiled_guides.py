"""How often each check of a guide finds each fault."""

from typing import Any

from _results.shared import markdown, provenance, with_error

CHECKS = ("SBC, dimensions", "SBC", "TARP", "HPD", "local C2ST")


def text(result: dict[str, Any]) -> str:
    """The shares, the factors, who finds what, the false alarms, and how they were measured."""
    rows = [
        [fault, *(_percent(part["values"][name]) for name in CHECKS), with_error(part["values"]["factor at 90 %"])]
        for fault, part in result["parts"].items()
    ]
    table = markdown(["guide", *CHECKS, "factor at 90 %"], rows)
    return "\n\n".join([table, *_sentences(result["parts"]), provenance(result["parts"])])


def _percent(value: dict[str, float]) -> str:
    """A share, in bold where the check sees the fault in most repetitions."""
    shown = f"{value['value']:.0%}".replace("%", " %")
    return f"**{shown}**" if value["value"] > 0.5 else shown


def _sentences(parts: dict[str, Any]) -> list[str]:
    """The false alarms with their errors, and by which checks each fault is found."""
    said = []
    if "exact" in parts:
        exact = parts["exact"]
        rates = [f"{name} {_with_error(exact['values'][name])}" for name in CHECKS]
        said.append(
            f"False alarms of the exact guide, in {exact['protocol'].partition(' of ')[0]}: {', '.join(rates)}."
        )
    found = {fault: _finders(part["values"]) for fault, part in parts.items() if fault != "exact"}
    said += ["Found more often than not: " + "; ".join(f"{fault} by {by}" for fault, by in found.items()) + "."]
    return said


def _with_error(value: dict[str, float]) -> str:
    return f"{100 * value['value']:.1f} ± {100 * value['error']:.1f} %"


def _finders(values: dict[str, Any]) -> str:
    finders = [name for name in CHECKS if values[name]["value"] > 0.5]
    return "all" if len(finders) == len(CHECKS) else ", ".join(finders) or "none"
