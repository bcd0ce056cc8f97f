"""What was measured of a run, for its card: evaluations and the diagnosis, as the commands saved them.

A number is shown only if it is of the weights that the run has now, and with its errors and its protocol. What was
flagged stays flagged; what was not measured is said to be, with the command that measures it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro_vae.errors import PyroVaeError
from pyro_vae.runs.archives import open_archive
from pyro_vae.runs.files import LARGEST_TEXT, has, read, regular_files
from pyro_vae.runs.formats import parse_json
from pyro_vae.runs.saved_evidence import read_saved
from pyro_vae.sharing.source import Source
from pyro_vae.statistics.averages import at_least, number, standard_error

SPLITS = ("test", "valid", "train")
_FILES = re.compile(r"(?:evidence|bound|reconstruction)-(?:test|valid|train)(?:-\w+)?\.json")
_SIDES = {
    "lower": "too low on average",
    "upper": "too high on average",
    "consistent": "off to either side",
}
_FLAGGED = "FLAGGED"
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Row:
    """A number with all that is needed to read it.

    Args:
        what: the quantity, with its unit.
        value: the number.
        error_data: its standard error from having so few data; empty if it has none.
        error_draws: its standard error from the draws, or of the method; empty if it has none.
        protocol: how it was measured.
        trust: what is flagged.
        number: log p(x) itself, for programs; None for other quantities.
    """

    what: str
    value: str
    error_data: str
    error_draws: str
    protocol: str
    trust: str
    number: float | None = None

    @property
    def flagged(self) -> bool:
        """Whether it is not to be trusted within its errors."""
        return self.trust.startswith(_FLAGGED)


@dataclass(frozen=True)
class Measured:
    """The evaluations of a run.

    Args:
        rows: the numbers.
        notes: what was left out, and why.
        caveats: what the nats are, where they are not what they seem.
        data: what was evaluated, in words.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    caveats: tuple[str, ...]
    data: tuple[str, ...]


def evaluations(source: Source) -> Measured:
    """All that `pyro-vae evaluate` saved of the weights that the run has now."""
    rows: list[Row] = []
    notes, caveats, data = [], {}, {}
    for name, found in _saved(source):
        if isinstance(found, str):
            notes.append(f"{name}: {found}")
            continue
        try:
            rows += _rows(source, found)
        except _DAMAGED:
            notes.append(f"{name}: of another version of pyro_vae: evaluate again")
            continue
        data[str(found.get("data"))] = True
        caveats |= {str(found["nats_are"]): True} if found.get("nats_are") else {}
    return Measured(tuple(rows), tuple(notes), tuple(caveats), tuple(data))


def _saved(source: Source) -> Iterator[tuple[str, Any]]:
    """The files of evaluations, each with its content or the reason why it is not shown."""
    assert source.path is not None
    for name in sorted(filter(_FILES.fullmatch, _names(source.path)), key=_order):
        try:
            found = parse_json(read(source.path, name, LARGEST_TEXT), dict[str, Any], name)
        except PyroVaeError as error:
            yield name, str(error)
            continue
        yield name, _reason_against(source, found) or found


def _names(path: Path) -> list[str]:
    """The files of a run, or of its archive."""
    if not path.is_file():
        return regular_files(path)
    with open_archive(path) as archive:
        return list(archive.files)


def _order(name: str) -> tuple[int, int, str]:
    """Test first, then valid, then train; of each importance sampling first, whose name is the shortest."""
    return next(i for i, split in enumerate(SPLITS) if f"-{split}" in name), len(name), name


def _reason_against(source: Source, found: Mapping[str, Any]) -> str:
    """Why numbers are not shown; empty if they are."""
    if found.get("weights_sha256") is None:
        return "does not say of which weights it is (an earlier version wrote it): evaluate again"
    if found["weights_sha256"] != source.weights_sha256:
        return "is of other weights than the run has now: evaluate again"
    if "fast_estimate" in found:
        return "is a fast estimate in low precision, not to be reported"
    return ""


def _rows(source: Source, found: Mapping[str, Any]) -> list[Row]:
    if "methods" in found:
        entries = found["methods"].items()
        done = [(name, entry) for name, entry in entries if "refused" not in entry]
        return [row for name, entry in done for row in _of_method(name, {**found, **entry})]
    if "is_bound" in found:
        return [_of_point(found)]
    return _of_importance(source, found) if "num_particles" in found else _of_method(found["method"], found)


def _of_importance(source: Source, found: Mapping[str, Any]) -> list[Row]:
    protocol = f"importance sampling, K = {found['num_particles']:,}, {_data(found)}, seed {found['seed']}"
    rows = [*_evidence(found, protocol), *_bits(found, protocol)]
    bound = _elbo(source, found, protocol)
    return rows if bound is None else [*rows, bound]


def _of_method(name: str, found: Mapping[str, Any]) -> list[Row]:
    side = _SIDES[found["bound"]]
    rows = _evidence(found, f"{name} ({side}), {_data(found)}; {found['health']}")
    return [replace(row, number=None) for row in rows]  # the hub's index has the estimate of importance sampling alone


def _evidence(found: Mapping[str, Any], protocol: str) -> Iterator[Row]:
    """Log p(x) and, where there is one, its upper bound."""
    is_at_least = found["standard_error_monte_carlo_is_at_least"]
    error = at_least(_number(found["standard_error_monte_carlo"], ".4f"), is_at_least)
    of_data = _number(found["standard_error_data"])
    trust = _trust(found["unreliable"], found["mean_flagged"], found["num_data"])
    name = "log p(x), nats per datum"
    yield Row(name, _number(found["log_p"]), of_data, error, protocol, trust, found["log_p"])
    if found.get("upper") is not None:
        share = found["upper_unreliable"]
        error = at_least(_number(found["upper_standard_error_monte_carlo"], ".4f"), share > 0)
        trust = _trust(share, share > 0.05, found["num_data"])
        yield Row(
            f"upper bound on {name}", f"{found['upper']:.3f}", of_data, error, f"by the same draws: {protocol}", trust
        )


def _bits(found: Mapping[str, Any], protocol: str) -> Iterator[Row]:
    bits = found.get("bits_per_dim")
    if bits is None:
        return
    trust = _trust(found["unreliable"], found["mean_flagged"], found["num_data"])
    levels = f"; an upper bound for the {bits['dequantized']} levels" if bits["dequantized"] else ""
    is_at_least = found["standard_error_monte_carlo_is_at_least"]
    error = at_least(_number(bits["standard_error_monte_carlo"], ".5f"), is_at_least)
    yield Row(
        "bits per element",
        f"{bits['mean']:.4f}",
        _number(bits["standard_error_data"], ".4f"),
        error,
        protocol + levels,
        trust,
    )


def _elbo(source: Source, found: Mapping[str, Any], protocol: str) -> Row | None:
    """The ELBO of the same draws, whose error is that of the values of each datum."""
    assert source.path is not None
    saved = read_saved(source.path, found["split"], ["elbo"])
    if saved is None:
        return None
    values = saved[1][0]
    error = number(standard_error(values))
    trust = "a bound on log p(x), not log p(x)"
    return Row("ELBO, nats per datum", f"{values.mean().item():.3f}", error, "included", protocol, trust)


def _of_point(found: Mapping[str, Any]) -> Row:
    error = _number(found["standard_error_data"])
    if found["is_bound"]:
        what, value = "LOWER BOUND on log p(x), nats per datum", found["lower_bound"]
        return Row(what, f"{value:.3f}", error, "none: no draws", f"each datum's code, {_data(found)}", "a bound alone")
    what, value = "reconstruction log p(x given z), nats per datum", found["reconstruction"]
    trust = "NOT log p(x), nor a bound on it: the guide is a point"
    return Row(what, f"{value:.3f}", error, "none: no draws", f"each datum's code, {_data(found)}", trust)


def _data(found: Mapping[str, Any]) -> str:
    return f"{found['num_data']:,} data of {found['split']}"


def _trust(share: float, mean: bool, num: int) -> str:
    """What is flagged: how many data, and whether the mean is."""
    if not share:
        return f"none of {num:,} data flagged"
    count = f"{round(share * num):,} of {num:,} data"
    return f"{_FLAGGED}: {count}{', and the mean' if mean else ''}; not to be trusted within the errors"


def _number(value: float | None, form: str = ".3f") -> str:
    return number(float("nan") if value is None else value, form)


# ---- the diagnosis ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Diagnosis:
    """What `pyro-vae diagnose` saved of one split.

    Args:
        split: test, valid or train.
        about: the data, how many, and the seed, in words.
        sections: title, text, tables, warnings and note of each, by its name.
    """

    split: str
    about: str
    sections: Mapping[str, Mapping[str, Any]]

    @property
    def warnings(self) -> list[str]:
        """The warnings of all sections."""
        found = (section["warnings"] for section in self.sections.values())
        return [f"{warned['what']} {warned['advice']}" for warnings in found for warned in warnings]


def diagnoses(source: Source) -> tuple[list[Diagnosis], list[str]]:
    """The diagnoses of the weights that the run has now, and why others are left out."""
    assert source.path is not None
    kept, notes = [], []
    for split in SPLITS:
        name = f"diagnosis-{split}.json"
        if not has(source.path, name):
            continue
        found = _diagnosis(source, name, split)
        if isinstance(found, Diagnosis):
            kept.append(found)
        else:
            notes.append(f"{name}: {found}")
    return kept, notes


def _diagnosis(source: Source, name: str, split: str) -> Diagnosis | str:
    assert source.path is not None
    try:
        found = parse_json(read(source.path, name, LARGEST_TEXT), dict[str, Any], name)
    except PyroVaeError as error:
        return str(error)
    if reason := _reason_against(source, found):
        return reason.replace("evaluate", "diagnose")
    try:
        about = f"{found['num_data']:,} data of {split}, chosen by seed {found['seed']}; {found['data']}"
        sections = {key: _section(found["shown"][key], str(found["run"])) for key in found["shown"]}
    except _DAMAGED:
        return "of another version of pyro_vae: diagnose again"
    return Diagnosis(split, about, sections)


def _section(shown: Mapping[str, Any], run: str) -> dict[str, Any]:
    """A section, its form checked; in commands the run is RUN, wherever it was."""
    path = re.compile(rf"(?<=[\s'\"]){re.escape(run)}(?=[-/\s'\"]|$)")

    def named(value: Any) -> str:
        return path.sub("RUN", str(value)) if "pyro-vae " in str(value) else str(value)

    tables = [[{str(k): named(v) for k, v in row.items()} for row in rows] for rows in shown["tables"] if rows]
    warnings = [{key: named(warned[key]) for key in ("what", "advice")} for warned in shown["warnings"]]
    texts = {key: named(shown[key]) for key in ("title", "text", "note")}
    return {**texts, "tables": tables, "warnings": warnings}
