"""What other libraries print for the same weights, beside the exact log p(x)."""

from typing import Any

from _results.points import COLOURS, dress
from _results.shared import Part, markdown, provenance, with_error
from matplotlib.figure import Figure

LIBRARIES = {"ours": "pyro_vae", "pyro": "Pyro", "pythae": "pythae"}
CURVES = {
    ("ours", "bound"): (COLOURS[0], "o"),
    ("pyro", "RenyiELBO"): (COLOURS[3], "x"),
    ("pyro", "RenyiELBO, 10 of 100 data in the plate"): (COLOURS[1], "s"),
    ("pyro", "vectorized_importance_weights, 10 data at a time"): (COLOURS[1], "v"),
    ("pythae", "IWAE's loss and the constant"): (COLOURS[2], "s"),
    ("pythae", "get_nll"): (COLOURS[2], "x"),
}


def text(result: dict[str, Any]) -> str:
    """The picture, a row for each number, and how they were measured."""
    exact = result["parts"]["exact"]["values"]
    truth = exact["log p(x)"]["value"]
    heads = ["printed by", "K", "value", "less log p(x)", "less the bound of K", "in s.e."]
    rows = [row for part in LIBRARIES for row in _rows(result, part, truth)]
    said = "; ".join(f"{name} = {entry['value']:.4f}" for name, entry in exact.items())
    picture = "![What is printed less the exact log p(x), against K](pictures/other_libraries.png)"
    return f"{picture}\n\nExact: {said} (nats per datum).\n\n{markdown(heads, rows)}\n\n{provenance(result['parts'])}"


def _rows(result: dict[str, Any], part: str, truth: float) -> list[list[str]]:
    bounds = result["parts"]["ours"]["values"]
    rows = []
    for name, found in result["parts"].get(part, {"values": {}})["values"].items():
        what, k = name.rsplit(", K = ", 1)
        bound = bounds[f"bound, K = {k}"]
        gap, error = found["value"] - bound["value"], (found["error"] ** 2 + bound["error"] ** 2) ** 0.5
        same = (part, what) in (("ours", "bound"), ("pyro", "RenyiELBO"))  # of the same draws
        off = ["", ""] if same else [f"{gap:+.3f}", f"{gap / error:+.1f}"]
        rows.append([f"{LIBRARIES[part]}: {what}", k, with_error(found, 3), f"{found['value'] - truth:+.3f}", *off])
    return rows


def draw(result: dict[str, Any]) -> Figure:
    """What is printed less the exact log p(x), against K."""
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    axes, truth = figure.subplots(), result["parts"]["exact"]["values"]["log p(x)"]["value"]
    for (part, what), (colour, marker) in CURVES.items():
        found = _curve(result["parts"].get(part, {"values": {}}), what)
        if found:
            k, entries = list(found), found.values()
            gap, error = [entry["value"] - truth for entry in entries], [entry["error"] for entry in entries]
            label = f"{LIBRARIES[part]}: {what}"
            axes.errorbar(k, gap, error, color=colour, marker=marker, ms=4, lw=1, capsize=2, label=label)
    axes.axhline(0, color="black", lw=0.8)
    axes.set_xscale("log")
    dress(axes, "What is printed, less the exact log p(x)", "particles K", "nats per datum")
    figure.legend(frameon=False, fontsize="small", loc="outside right center")
    return figure


def _curve(part: Part, what: str) -> dict[int, Any]:
    """The values of one name, by K."""
    named = {
        name.rsplit(", K = ", 1)[-1]: entry
        for name, entry in part["values"].items()
        if name.startswith(f"{what}, K = ")
    }
    return {int(k): entry for k, entry in named.items()}
