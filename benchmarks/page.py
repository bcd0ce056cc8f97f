"""The generated part of `docs/performance.md`, and its pictures, from the raw results."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import Run, Spread, Store, column, disagreements, paired, select, values
from systems import BY_HAND, OURS, Scale, Suite

BEGIN, END = "<!-- results: begin (written by benchmarks/run.py) -->", "<!-- results: end -->"
_TOLERANCE = {"evidence": 0.05, "training": 3.0, "first step": float("inf")}


@dataclass(frozen=True)
class Section:
    """A suite as one machine measured it: its conditions and its runs."""

    suite: Suite
    conditions: dict[str, Any]
    runs: list[Run]


def write(page: Path, pictures: Path, stores: list[Store], suites: Callable[[Scale], dict[str, Suite]]) -> None:
    """Put the tables between the markers of the page, and save the pictures beside it.

    Args:
        page: the page.
        pictures: the folder of the pictures.
        stores: the results of each machine.
        suites: the suites at a scale; each table is drawn at the scale of its machine.
    """
    measured = _measured(stores, suites)
    drawn = {name: draw(sections, pictures / f"speed-{name}.png") for name, sections in measured.items()}
    links = {name: str(path.relative_to(page.parent)) for name, path in drawn.items() if path is not None}
    text = page.read_text() if page.exists() else f"{BEGIN}\n{END}\n"
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(f"{before}{BEGIN}\n\n{generate(measured, links)}\n{END}{after}")


def _measured(stores: list[Store], suites: Callable[[Scale], dict[str, Suite]]) -> dict[str, list[Section]]:
    """The sections of each suite, machine by machine, in the order in which the suites run."""
    found: dict[str, list[Section]] = {name: [] for name in suites(Scale(threads=1))}
    for store in stores:
        for name, measured in store.suites.items():
            suite = suites(Scale(**measured["conditions"]["scale"])).get(name)
            if suite is not None and select_any(measured["runs"]):
                found[name].append(Section(suite, **measured))
    return {name: sections for name, sections in found.items() if sections}


def generate(measured: dict[str, list[Section]], pictures: dict[str, str]) -> str:
    """All suites as Markdown: the table of each machine, then a picture of all machines."""
    parts = []
    for name, sections in measured.items():
        title = sections[0].suite.title
        parts.append(f"### {title}")
        for section in sections:
            suite, runs = section.suite, section.runs
            parts += [_conditions(section), table(suite, runs), *_remarks(suite, runs)]
        parts += [f"![{title}]({pictures[name]})"] if name in pictures else []
    return "\n\n".join(parts) + "\n"


def table(suite: Suite, runs: list[Run]) -> str:
    """The table of a suite."""
    if BY_HAND in suite.systems:
        return parts_table(suite, runs)
    if suite.axis:
        return growth_table(suite, runs)
    return {"training": training_table, "evidence": evidence_table, "first step": first_step_table}[suite.kind](
        suite, runs
    )


def training_table(suite: Suite, runs: list[Run]) -> str:
    """Systems down; speed, our ratio to each, and the loss across."""
    ours = [name for name in suite.systems if name.startswith("ours")]
    rows = []
    for name in _present(suite, runs):
        ratios = ["" if mine == name else _ratio(paired(runs, suite.kind, mine, name)) for mine in ours]
        loss = column(runs, name, "loss")
        rows.append([name, _speed(values(runs, suite.kind, name)), *ratios, f"{loss.median:.1f}" if loss else ""])
    return markdown(["system", "images/s", *(f"{mine} / it" for mine in ours), "loss, nats"], rows)


def evidence_table(suite: Suite, runs: list[Run]) -> str:
    """Systems down; speed, our ratio to each, the value and the memory across."""
    ours = [name for name in suite.systems if name.startswith("ours")]
    rows = []
    for name in _present(suite, runs):
        ratios = ["" if mine == name else _ratio(paired(runs, suite.kind, mine, name)) for mine in ours]
        value = column(runs, name, "log_p")
        number = select(runs, name)[0]["result"]["settings"]["images"]
        memory = [column(runs, name, key) for key in ("extra_rss_with_warm_up_mb", "extra_rss_mb")]
        megabytes = [f"{max(0, spread.median):.0f}" if spread else "" for spread in memory]
        error = column(runs, name, "log_p_error")
        spread = f" ± {error.median:.3f}" if error else ""
        log_p = f"{value.median:.3f}{spread} ({number})" if value and value.median else ""
        rows.append([name, _speed(values(runs, suite.kind, name)), *ratios, log_p, *megabytes])
    heads = ["system", "images/s", *(f"{mine} / it" for mine in ours), "log p(x), nats (images)"]
    return markdown([*heads, "MB above imports", "MB above warm-up"], rows)


def first_step_table(suite: Suite, runs: list[Run]) -> str:
    """Systems down; seconds across."""
    rows = []
    for name in _present(suite, runs):
        spread = values(runs, suite.kind, name)
        rows.append([name, "" if spread is None else f"{spread.median:.1f}" + _range(spread, "{:.1f}".format)])
    return markdown(["system", "seconds"], rows)


def growth_table(suite: Suite, runs: list[Run]) -> str:
    """Settings down; each system's speed across, with the ratio of ours to it."""
    systems = _present(suite, runs)
    rows = []
    for setting in suite.settings:
        cells = [_cell(suite, runs, name, setting) for name in systems]
        if any(cells):
            rows.append([setting, *cells])
    return markdown([suite.axis.removeprefix("--"), *systems], rows)


def parts_table(suite: Suite, runs: list[Run]) -> str:
    """Parts down; each system's speed and its loss across, then the ratios of ours, also to what is written by hand."""
    systems = _present(suite, runs)
    pairs = [(OURS, "ours, eager"), (OURS, BY_HAND), ("ours, eager", BY_HAND)]
    pairs = [pair for pair in pairs if set(pair) <= set(systems)]
    rows = []
    for part in suite.settings:
        cells = [_speed_and_loss(suite, runs, name, part) for name in systems]
        ratios = [_ratio(paired(runs, suite.kind, *pair, part)) for pair in pairs]
        rows += [[part, *cells, *ratios]] if any(cells) else []
    return markdown(["part", *(f"{name}, images/s (loss)" for name in systems), *map(" / ".join, pairs)], rows)


def _speed_and_loss(suite: Suite, runs: list[Run], name: str, setting: str) -> str:
    speed, loss = values(runs, suite.kind, name, setting), column(runs, name, "loss", setting)
    return "" if speed is None else number(speed.median) + (f" ({loss.median:.1f})" if loss else "")


def _cell(suite: Suite, runs: list[Run], name: str, setting: str) -> str:
    speed = values(runs, suite.kind, name, setting)
    ratio = None if name == OURS else paired(runs, suite.kind, OURS, name, setting)
    return "" if speed is None else number(speed.median) + (f"; {_ratio(ratio)}" if ratio else "")


def draw(sections: list[Section], path: Path) -> Path | None:
    """Save the picture of a growth suite, a panel for each machine; None where there is nothing to draw."""
    sections = [section for section in sections if len(_numbers(section)) > 1]
    if not sections:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7 * len(sections), 4.2), layout="constrained")
    panels = figure.subplots(1, len(sections), squeeze=False, sharey=True)[0]
    for axes, section in zip(panels, sections, strict=True):
        _draw_panel(axes, section)
        if len(sections) > 1:
            axes.set_title(section.conditions["cpu"], fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    return path


def _numbers(section: Section) -> list[str]:
    """The settings that have results, if all of them are numbers; a suite without an axis has none."""
    suite, measured = section.suite, {run["setting"] for run in section.runs if "result" in run}
    settings = [setting for setting in suite.settings if setting in measured]
    return settings if suite.axis and all(setting.isdigit() for setting in settings) else []


def _draw_panel(axes: Any, section: Section) -> None:
    """Each system's speed by setting, on logarithmic axes, with its range over the rounds."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    suite, runs, settings = section.suite, section.runs, _numbers(section)
    axes.set(xscale="log", yscale="log", ylabel="images/s", xlabel=suite.axis.removeprefix("--"))
    for name in _present(suite, runs):
        found = {int(s): spread for s in settings if (spread := values(runs, suite.kind, name, s)) is not None}
        middle = [spread.median for spread in found.values()]
        bars = [[s.median - s.least for s in found.values()], [s.most - s.median for s in found.values()]]
        axes.errorbar(list(found), middle, yerr=bars, marker="o", markersize=4, capsize=2, label=name)
    axes.set_xticks([int(setting) for setting in settings], labels=settings)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(LogLocator(subs=[1, 2, 5]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def select_any(runs: Iterable[Run]) -> bool:
    """Whether any run succeeded."""
    return any("result" in run for run in runs)


def _present(suite: Suite, runs: list[Run]) -> list[str]:
    return [name for name in suite.systems if select(runs, name)]


def _conditions(section: Section) -> str:
    """What the suite was measured on, in one paragraph."""
    conditions = section.conditions
    runs = [run for run in section.runs if "result" in run]
    rounds = len({run["round"] for run in runs})
    dates = sorted({run["finished"][:10] for run in runs})
    versions: dict[str, str] = {}
    for run in runs:
        versions.update({k: v for k, v in run["result"]["versions"].items() if k not in ("pyro-vae", "numpy")})
    others = Spread.of(run["others"] for run in runs if run.get("others") is not None)
    packages = ", ".join(f"{name} {number}" for name, number in sorted(versions.items()))
    machine = f"**{conditions['cpu']}**; {conditions['cores']} cores, {conditions['memory_gib']} GiB"
    scale = conditions["scale"]
    work = f"{_threads(runs)}; {_images(runs)}"
    products = (
        "float32 products by oneDNN" if scale.get("onednn", True) else "float32 products by torch's default library"
    )
    when = f"{rounds} {'round' if rounds == 1 else 'rounds'}, {' to '.join(dict.fromkeys((dates[0], dates[-1])))}"
    busy = f" Other processes used {others.median:.2f} cores (at most {others.most:.2f})." if others else ""
    return f"{machine}; {work}; {products}; {conditions['system']}; {packages}. {when}.{busy}"


def _threads(runs: list[Run]) -> str:
    counts = sorted({run["result"]["settings"].get("threads", 0) for run in runs})
    return f"{' or '.join(map(str, counts))} {'thread' if counts == [1] else 'threads'}"


def _images(runs: list[Run]) -> str:
    """How many images an epoch, or an estimate of log p(x), of these runs had."""
    settings = [run["result"]["settings"] for run in runs]
    counts = sorted({found["num"] if "num" in found else found.get("images", 0) for found in settings})
    several = f"{counts[0]:,} to {counts[-1]:,}" if len(counts) > 1 else f"{counts[0]:,}"
    return f"{several} images{' an epoch' if any('num' in found for found in settings) else ''}"


def _remarks(suite: Suite, runs: list[Run]) -> list[str]:
    """What was not measured, and which values disagree."""
    done = {(run["system"], run["setting"]) for run in runs if "result" in run}
    failed = {(r["system"], r["setting"]): r["failed"] for r in runs if "failed" in r}
    lines = [
        f"- Not measured: {system}{f' at {setting}' if setting else ''} ({reason})"
        for (system, setting), reason in failed.items()
        if (system, setting) not in done
    ]
    warned = {
        f"{run['system']} {run['setting']}".strip(): "; ".join(messages)
        for run in runs
        if (messages := run.get("result", {}).get("settings", {}).get("warnings"))
    }
    lines += [f"- Warned: {name}: {messages}" for name, messages in warned.items()]
    lines += [f"- To be looked at: {line}" for line in disagreements(runs, suite.kind, _TOLERANCE[suite.kind])]
    return ["\n".join(lines)] if lines else []


def _speed(spread: Spread | None) -> str:
    return "" if spread is None else number(spread.median) + _range(spread, number)


def _ratio(spread: Spread | None) -> str:
    return "" if spread is None else f"**{spread.median:.2f}**" + _range(spread, "{:.2f}".format)


def _range(spread: Spread, shown: Callable[[float], str]) -> str:
    return f" ({shown(spread.least)} to {shown(spread.most)})" if spread.count > 1 else ""


def number(value: float) -> str:
    """Whole from 100 on, else three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table; all columns but the first are numbers."""
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
