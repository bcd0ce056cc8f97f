"""Raw results: a JSON file for each machine, which grows run by run, and the statistics of pairs of runs of a round."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

Run = dict[str, Any]
"""`system`, `setting`, `round`, `command`, `finished`, `seconds`, `others` and `result`, or `failed` in its place."""


@dataclass(frozen=True)
class Spread:
    """Median and range of some numbers."""

    median: float
    least: float
    most: float
    count: int

    @staticmethod
    def of(values: Iterable[float]) -> "Spread | None":
        """Of these numbers; None if there are none."""
        found = list(values)
        return Spread(median(found), min(found), max(found), len(found)) if found else None


class Store:
    """The file of raw results: suites by name, each with the conditions it was measured under and its runs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.suites: dict[str, dict[str, Any]] = json.loads(path.read_text())["suites"] if path.exists() else {}

    def open(self, suite: str, conditions: dict[str, Any], fresh: bool) -> None:
        """Make ready to add runs to a suite.

        Args:
            suite: its name.
            conditions: machine, versions and scale of the runs to come.
            fresh: whether to forget the runs there are.

        Raises:
            ValueError: if there are runs under other conditions.
        """
        known = self.suites.get(suite)
        if known is None or fresh:
            self.suites[suite] = {"conditions": conditions, "runs": []}
            return
        changed = [name for name in conditions if conditions[name] != known["conditions"].get(name)]
        if changed and known["runs"]:
            was, now = ({name: c.get(name) for name in changed} for c in (known["conditions"], conditions))
            raise ValueError(f"{suite} was measured under other conditions: {was}, now {now}; --fresh starts it anew")
        known["conditions"] = conditions

    def done(self, suite: str, system: str, setting: str, turn: int) -> bool:
        """Whether this run has succeeded already."""
        key = (system, setting, turn)
        return any((r["system"], r["setting"], r["round"]) == key and "result" in r for r in self.runs(suite))

    def add(self, suite: str, run: Run) -> None:
        """Add a run, in place of a failed one, and save: the file is whole at any moment."""
        key = ("system", "setting", "round")
        kept = [r for r in self.runs(suite) if [r[k] for k in key] != [run[k] for k in key]]
        self.suites[suite]["runs"] = [*kept, run]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps({"suites": self.suites}, indent=1) + "\n")
        draft.replace(self.path)

    def runs(self, suite: str) -> list[Run]:
        """All runs of a suite, the failed ones too."""
        return self.suites.get(suite, {}).get("runs", [])


def value(run: Run, kind: str) -> float | None:
    """What a run is compared by: images per second (the median of its epochs), or seconds; None if it failed."""
    if "result" not in run:
        return None
    if kind == "first step":
        return run["result"]["first_step_s"]
    rate = run["result"]["images_per_second"]
    return median(rate) if isinstance(rate, list) else rate


def select(runs: Iterable[Run], system: str, setting: str | None = None) -> list[Run]:
    """The runs of a system that succeeded, at one setting or all."""
    return [
        run
        for run in runs
        if run["system"] == system and "result" in run and (setting is None or run["setting"] == setting)
    ]


def values(runs: Iterable[Run], kind: str, system: str, setting: str = "") -> Spread | None:
    """A system's value over the rounds."""
    return Spread.of(v for run in select(runs, system, setting) if (v := value(run, kind)) is not None)


def paired(runs: list[Run], kind: str, system: str, base: str, setting: str = "") -> Spread | None:
    """The ratio of `system` to `base`, each pair taken in the same round; None without a common round."""
    of_base, of_system = _by_round(runs, kind, base, setting), _by_round(runs, kind, system, setting)
    return Spread.of(of_system[turn] / of_base[turn] for turn in sorted(of_base.keys() & of_system.keys()))


def _by_round(runs: list[Run], kind: str, system: str, setting: str) -> dict[int, float]:
    """A system's value in each round where it has one, not zero."""
    return {run["round"]: found for run in select(runs, system, setting) if (found := value(run, kind))}


def column(runs: Iterable[Run], system: str, name: str, setting: str = "") -> Spread | None:
    """Another number of a system's lines over the rounds, e.g. `loss`."""
    found = (run["result"].get(name) for run in select(runs, system, setting))
    return Spread.of(number for number in found if number is not None)


def disagreements(runs: list[Run], kind: str, tolerance: float) -> list[str]:
    """Systems whose loss or log p(x) is not that of the others with the same work, a sentence each.

    Args:
        runs: of one suite.
        kind: the suite's kind.
        tolerance: largest distance from the median of the group, nats.
    """
    name = "log_p" if kind == "evidence" else "loss"
    groups: dict[Any, dict[str, float]] = {}
    for run in runs:
        if (number := run.get("result", {}).get(name)) and kind != "first step":
            work = run["result"]["settings"].get("images")
            groups.setdefault((run["setting"], work), {})[run["system"]] = number
    return [
        f"{name} of {system}{f' at {setting}' if setting else ''} is {number:.2f}, of the others {centre:.2f}"
        for (setting, _), group in groups.items()
        for centre in [median(group.values())]
        for system, number in group.items()
        if abs(number - centre) > tolerance
    ]
