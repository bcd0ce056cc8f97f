"""The generated part of `docs/gpu.md`, from `docs/results/gpu.json` alone; without that file: not measured."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from page import markdown, number

BEGIN, END = "<!-- results: begin (written by benchmarks/gpu.py) -->", "<!-- results: end -->"
NOT_MEASURED = """**Not measured.** This version has not been run on a GPU, so there are no figures here. On a machine
with an NVIDIA GPU, its driver and a CUDA build of torch,

```text
make gpu
```

checks and measures all this in less than eight minutes, and writes this page."""

Row = dict[str, Any]


def write(page: Path, results: Path) -> None:
    """Put the results between the markers of the page; other text of the page stays."""
    text = page.read_text() if page.exists() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    found = json.loads(results.read_text()) if results.exists() else None
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n\n{generate(found)}\n\n{END}{after}")


def generate(results: dict[str, Any] | None) -> str:
    """The results as Markdown."""
    if results is None:
        return NOT_MEASURED
    parts = results["parts"]
    rows = [row for part in parts.values() for row in part["rows"]]
    sections = {
        "Conditions": [conditions(results["protocol"]), notes(parts)],
        "The same as on the CPU": checks([row for row in rows if "outcome" in row]),
        "Training": training(rows),
        "log p(x)": estimates(rows),
        "What the device can do": device(rows),
    }
    return "\n\n".join(text for title, texts in sections.items() for text in (f"## {title}", *filter(None, texts)))


def conditions(protocol: dict[str, Any]) -> str:
    """What was measured on, in one paragraph."""
    told = protocol.get
    gpu = [told("device"), f"{told('device_memory_gib')} GiB", f"compute capability {told('capability')}"]
    device = ", ".join(gpu) + f", driver {told('driver')}, CUDA {told('cuda')}" if told("cuda") else told("device")
    quick = " **A trial at tiny sizes: these numbers are no measurement.**" if told("quick") else ""
    return (
        f"{device}; CPU {told('cpu')}, {told('cores')} cores, threads: {told('threads')}; torch {told('torch')}, Pyro "
        f"{told('pyro')}, {told('system')}; {told('data')}; model of the training: {told('model')}; seed "
        f"{told('seed')}; package {told('package')}, commit {told('commit') or 'unknown'}; {told('begun')}. Medians of "
        f"the rounds, with their range.{quick}"
    )


def notes(parts: dict[str, Any]) -> str:
    """How long each part took, and what is missing."""
    lines = []
    for name, part in parts.items():
        spent = f"{part['seconds']:.0f} of {part['budget_s']:.0f} s" if "seconds" in part else "not ended"
        missing = [part["note"], *(row.get("cut") or row.get("failed") for row in part["rows"])]
        lines.append("; ".join([f"- {name}: {spent}", *filter(None, missing)]))
    return "\n".join(lines)


# ---- checks


def checks(rows: list[Row]) -> list[str]:
    """How many passed, of each kind, and which did not."""
    if not rows:
        return ["Not measured."]
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault(_kind(row), []).append(row)
    table = markdown(
        ["what", "checks", "passed", "left out", "failed", "largest difference", "allowed"],
        [[kind, str(len(of)), *(_count(of, how) for how in ("passed", "skipped", "failed")), *_largest(of)]
         for kind, of in kinds.items()],
    )  # fmt: skip
    told = [f"- {row['outcome']}: {row['name']}: {row['reason']}" for row in rows if row["outcome"] != "passed"]
    return [table, "\n".join(told)]


def _kind(row: Row) -> str:
    """The axis of a part with the precision, or the name of what was checked."""
    if row["what"] == "test":
        return "tests of pytest"
    first, _, precision = row["name"].partition(" ")[0], *row["name"].rpartition(", ")[1:]
    return f"each {first}, {precision}" if precision in ("float64", "float32") else row["name"]


def _count(rows: list[Row], outcome: str) -> str:
    return str(sum(row["outcome"] == outcome for row in rows))


def _largest(rows: list[Row]) -> list[str]:
    found = [row for row in rows if "difference" in row]
    if not found:
        return ["", ""]
    return [f"{max(row['difference'] for row in found):.1e}", f"{max(row['tolerance'] for row in found):.0e}"]


# ---- speed


def training(rows: list[Row]) -> list[str]:
    """A line for each precision and size of a batch: `fit`, the loop by hand, and shares."""
    lines = []
    measured = {(row["precision"] != "float32", row["batch"]) for row in rows if row.get("what") == "fit"}
    for rough, batch in sorted(measured):
        precision = "bf16" if rough else "float32"
        case = {"precision": precision, "batch": batch}
        compiled, eager = (one(rows, what="fit", mode=mode, **case) for mode in ("compiled", "eager"))
        hand, products = one(rows, what="loop by hand", **case), one(rows, what="products of a step", **case)
        lines.append([
            precision, f"{batch:,}", _rate(compiled), _rate(eager), _rate(hand), _share(compiled, hand),
            _share(compiled, products), _of_bandwidth(compiled, products, one(rows, what="copy")),
            f"{compiled['loss']:.1f}; {hand['loss']:.1f}" if compiled and hand else "",
        ])  # fmt: skip
    heads = ["precision", "batch", "`fit`, compiled, images/s", "`fit`, eager", "loop by hand", "compiled / by hand",
             "of the products alone", "of the bandwidth", "loss of both, nats"]  # fmt: skip
    ran = [
        f"- {row['mode']}, {row['precision']}, batches of {row['batch']:,}: ran {row['ran']}; "
        f"{row['seconds_before']:.0f} s before the timed epochs{_memory(row)}{_warned(row)}"
        for row in rows
        if row.get("what") == "fit"
    ]
    return [markdown(heads, lines), "\n".join(ran)] if lines else ["Not measured."]


def estimates(rows: list[Row]) -> list[str]:
    """A line for each estimator and mode, with the share of the decoder's products alone."""
    lines = []
    for row in rows:
        if row.get("what") in ("log_marginal", "ais"):
            products = one(rows, what="products", of=f"decoder of {row['what']}")
            of_all = ""
            if products:
                flops = row["images_per_second"]["median"] * flops_of_an_image(row, products["widths"])
                of_all = f"{flops / products['flops_per_second']['median']:.2f}"
            error = f"{row['log_p']:.3f} ± {row['standard_error']:.3f}"
            lines.append([_name(row), row["mode"], f"{row['images']:,}", _rate(row), of_all, error])
    heads = ["estimator", "mode", "images", "images/s", "of the products alone", "log p(x), nats"]
    told = [f"- {r['what']}, {r['mode']}: {r['seconds_before']:.0f} s before the rounds{_memory(r)}{_warned(r)}"
            for r in rows if r.get("what") in ("log_marginal", "ais")]  # fmt: skip
    return [markdown(heads, lines), "\n".join(told)] if lines else ["Not measured."]


def flops_of_an_image(row: Row, widths: list[int]) -> float:
    """Of the decoder: K passes for importance sampling; for AIS each evaluation, and its gradient for z."""
    one_pass = 2 * sum(a * b for a, b in pairwise(widths))
    return one_pass * (row["particles"] if row["what"] == "log_marginal" else 2 * row["evaluations"])


def device(rows: list[Row]) -> list[str]:
    """The bandwidth, and the products that were timed."""
    copy = one(rows, what="copy")
    told = [["copy on the device", "", _scaled(copy["bytes_per_second"], 1e12, "TB/s")]] if copy else []
    for row in rows:
        if row.get("what") in ("products of a step", "products"):
            of = f"of a step, batches of {row['batch']:,}" if "batch" in row else f"{row['of']}, {row['rows']:,} rows"
            told.append([f"products {of}", row["precision"], _scaled(row["flops_per_second"], 1e12, "TFLOP/s")])
    return [markdown(["what", "precision", "reached"], told)] if told else ["Not measured."]


def one(rows: Iterable[Row], **wanted: Any) -> Row | None:
    """The row with these values; None if there is none."""
    return next((row for row in rows if all(row.get(name) == value for name, value in wanted.items())), None)


def _name(row: Row) -> str:
    if row["what"] == "log_marginal":
        return f"`log_marginal`, K = {row['particles']:,}"
    return f"`ais`, {row['temperatures']} temperatures, {row['chains']} chains"


def _rate(row: Row | None) -> str:
    if row is None:
        return ""
    found = row["images_per_second"]
    return f"{number(found['median'])} ({number(found['least'])} to {number(found['most'])})"


def _scaled(found: dict[str, float], unit: float, name: str) -> str:
    median, least, most = (f"{found[which] / unit:.3g}" for which in ("median", "least", "most"))
    return f"{median} ({least} to {most}) {name}"


def _share(row: Row | None, base: Row | None) -> str:
    if row is None or base is None:
        return ""
    return f"{row['images_per_second']['median'] / base['images_per_second']['median']:.2f}"


def _of_bandwidth(row: Row | None, products: Row | None, copy: Row | None) -> str:
    if row is None or products is None or copy is None:
        return ""
    moved = products["bytes_of_a_step"] / row["batch"] * row["images_per_second"]["median"]
    return f"{moved / copy['bytes_per_second']['median']:.2f}"


def _memory(row: Row) -> str:
    return f", at most {row['memory_mb']:,.0f} MB allocated" if row.get("memory_mb") else ""


def _warned(row: Row) -> str:
    return f"; warned: {'; '.join(row['warnings'])}" if row.get("warnings") else ""
