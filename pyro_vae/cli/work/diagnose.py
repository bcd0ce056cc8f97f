"""`pyro-vae diagnose`: a page of diagnostics of a run, and the same numbers as JSON."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_vae.autoencoders import VAE
from pyro_vae.cli.work.places import Place, wanted
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_data_of, load_split, open_saved, take
from pyro_vae.data import Dataset
from pyro_vae.diagnostics.predictive import fewest_draws
from pyro_vae.errors import UsageError
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.messages import Progress, finite
from pyro_vae.process.seeding import generator
from pyro_vae.report.conclusions import conclusions
from pyro_vae.report.costs import Cost, costs
from pyro_vae.report.html import page
from pyro_vae.report.retraining import Training
from pyro_vae.report.sections import SECTIONS, diagnose
from pyro_vae.report.subject import Finding, Given, Sizes, Subject
from pyro_vae.report.trials import Trial, trials
from pyro_vae.statistics.averages import number
from pyro_vae.training.refit import with_held_out


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    if options.num_data < 2:
        raise UsageError(f"--num_data must be at least 2, for standard errors, got {options.num_data}")
    sizes, saved = _sizes(options), open_saved(options)
    places = _places(saved, options)
    chosen = load_split(saved, options, None)
    if len(chosen) < 2:
        raise UsageError(f"{options.split} has {len(chosen)} datum: at least 2 are needed, for standard errors")
    training = _training(saved, chosen.data, options)
    _check_trials(saved, options, training)
    notes = _fewer(options, len(chosen))
    held_out, train = _some(chosen, options.num_data, options.seed), _train(saved, chosen.data, options)
    subject = Subject(saved.vae, held_out, train, sizes, options.seed, _SectionProgress(not options.quiet).show)
    found = diagnose(subject, [name for name in SECTIONS if name not in options.skip])
    known = costs(saved.vae, {name: finding.numbers for name, finding in found.items()}, training)
    files = _Files(saved, chosen.data, len(held_out.x), options, places, notes)
    tried: list[Trial] = []

    def keep(trial: Trial) -> None:
        tried.append(trial)
        files.write(_with_conclusions(saved, known, found, options, tried))

    try:
        if options["try"] and training is not None:
            files.write(_with_conclusions(saved, known, found, options))
            trials(subject, known, options["try"], training, not options.quiet, keep)
    finally:  # what is known is printed and kept, also if a trial is interrupted
        files.report(_with_conclusions(saved, known, found, options, tried))
    return 0


def _with_conclusions(
    saved: SavedRun,
    known: Sequence[Cost],
    found: Mapping[str, Finding],
    options: Namespace,
    tried: Sequence[Trial] = (),
) -> dict[str, Finding]:
    return {"conclusions": conclusions(known, str(saved.path), tried, options.seed), **found}


def _training(saved: SavedRun, data: Dataset, options: Namespace) -> Training | None:
    """How the run was trained; None if another data set is diagnosed."""
    if options.data is not None:
        return None

    def load(valid_size: int | None) -> Dataset:
        if valid_size is None:
            return with_held_out(data)
        return load_data_of(replace(saved, config={**saved.config, "valid_size": valid_size}))

    return Training(saved.config, load, data.valid is not None, data.size("train"), options.trust)


def _places(saved: SavedRun, options: Namespace) -> tuple[Place, Place]:
    """The files for the page and the numbers, once it is known that they can be written."""
    page = wanted(options.out, saved.path, f"diagnosis-{options.split}.html")
    if page.path.suffix != ".html":
        raise UsageError(f"--out must end in .html (the numbers go into a .json of the same name), got {options.out!r}")
    numbers = Place(page.path.with_suffix(".json"), page.run)
    page.check()
    numbers.check()
    return page, numbers


def _check_trials(saved: SavedRun, options: Namespace, training: Training | None) -> None:
    """Refuse what can't be tried before anything is measured."""
    if options["try"] < 0:
        raise UsageError(f"--try: expected a number of epochs, 0 or more, got {options['try']}")
    if options["try"] and options.split == "train":
        raise UsageError("--try trains on the training data, so gains must be measured on others: take another --split")
    if options["try"] and options.data is not None:
        raise UsageError("--try trains on the run's own data: leave --data out")
    if options["try"] and not isinstance(saved.vae, VAE):
        raise UsageError(
            f"--try fits the guide or the prior of a VAE anew, and this run is a {type(saved.vae).__name__}"
        )
    if options["try"] and training is not None:
        training.settings()  # refuses classes that are not trusted


def _fewer(options: Namespace, size: int) -> list[str]:
    """A note for each option that asks for more data than there are."""
    asked = {name: options[name] for name in ("num_data", "num_bracketed", "num_gaps")}
    most = min(size, options.num_data)
    known = {"num_data": size, "num_bracketed": most, "num_gaps": most}
    return [
        f"--{name} {num}: {options.split} has only {known[name]} to take, and all are taken"
        for name, num in asked.items()
        if num > known[name]
    ]


def _sizes(options: Namespace) -> Sizes:
    names = ("num_particles", "num_bracketed", "num_gaps", "num_simulated", "num_compared", "num_replicated")
    values = {name: options[name] for name in names}
    least: dict[str, int] = dict.fromkeys(names, 2)
    if "predictive" not in options.skip:
        least["num_replicated"] = fewest_draws()  # with fewer draws no datum could be flagged
    bad = [name for name, value in values.items() if value < least[name]]
    if bad:
        raise UsageError(f"--{bad[0]} must be at least {least[bad[0]]}, got {values[bad[0]]}")
    return Sizes(**values, annealing=Annealing(**vars(options.annealing)))


def _train(saved: SavedRun, data: Dataset, options: Namespace) -> Given | None:
    """Some of the training data, for the gaps; None if another data set or `train` itself is diagnosed."""
    if options.data is not None or options.split == "train":
        return None
    rows = _any_rows(data.size("train"), "train", options.num_gaps, options.seed)
    chosen = take(data, "train", rows, saved.device)
    return Given(chosen.x, chosen.inputs)


def _some(chosen: Chosen, num: int, seed: int) -> Given:
    rows = _any_rows(len(chosen), chosen.split, num, seed).to(chosen.x.device)
    return Given(chosen.x[rows], {name: value[rows] for name, value in chosen.inputs.items()})


def _any_rows(size: int, split: str, num: int, seed: int) -> torch.Tensor:
    """Random rows in random order, so that the first of them are a random sample too, even if the split is sorted."""
    return torch.randperm(size, generator=generator(seed, "diagnose", split))[:num]


class _SectionProgress:
    """Shows progress, a bar for each section, and the end of a section once."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.name, self.bar = enabled, "", None

    def show(self, name: str, done: float, total: float) -> None:
        """Show how much of a section is done."""
        if name != self.name:
            self.name, self.bar = name, Progress(total, name, self.enabled)
        if self.bar is not None:
            self.bar.show(done, now=done >= total)
        if done >= total:
            self.bar = None


@dataclass(frozen=True)
class _Files:
    """The page and the numbers of a diagnosis.

    Args:
        saved: the run.
        data: its data.
        num: how many of them were diagnosed.
        options: those of the command.
        places: where the page and the numbers go.
        notes: remarks on the options.
    """

    saved: SavedRun
    data: Dataset
    num: int
    options: Namespace
    places: tuple[Place, Place]
    notes: Sequence[str]

    def report(self, found: Mapping[str, Finding]) -> None:
        """Print what was found, and write the files."""
        about = self._about()
        printed = {**about, **_numbers(found)}
        if not self.options.json:
            warnings = [warning for finding in found.values() for warning in finding.warnings]
            printed = {**about, **_said(found["conclusions"]), "warnings": warnings or ["none"]}
        print_result({**printed, "page": str(self.places[0].path)}, as_json=self.options.json)
        self.write(found)

    def write(self, found: Mapping[str, Finding]) -> None:
        """Write the files."""
        options = self.options
        chosen = f"{self.num} data of {options.split}, chosen by seed {options.seed}"
        lead = f"{self.data.protocol}; {chosen}; weights: {self.saved.weights}."
        lead = " ".join([lead, *(f"{note}." for note in self.notes)])
        text = page(f"Diagnosis of {self.saved.path.name}", lead, [finding.section for finding in found.values()])
        self.places[0].write(text.encode(errors="backslashreplace"))
        numbers = {**self._about(), "weights_sha256": self.saved.weights_sha256, **_numbers(found)}
        numbers["shown"] = {name: finding.section.plain() for name, finding in found.items()}
        self.places[1].write(json.dumps(finite(numbers), indent=1).encode())

    def _about(self) -> dict[str, Any]:
        note = {"note": "; ".join(self.notes)} if self.notes else {}
        about = {"run": str(self.saved.path), "data": self.data.protocol, "split": self.options.split}
        return {**about, "num_data": self.num, "weights": self.saved.weights, "seed": self.options.seed, **note}


def _numbers(found: Mapping[str, Finding]) -> dict[str, Any]:
    return {name: {**finding.numbers, "warnings": finding.warnings} for name, finding in found.items()}


def _said(finding: Finding) -> dict[str, Any]:
    """The conclusions in lines: what costs how much, what was tried, and the commands."""
    numbers = finding.numbers
    tried = {trial["what"] for trial in numbers["tried"]}
    commands = {cost["what"]: cost["command"] for cost in numbers["costs"] if "command" in cost}
    found = {
        "costs": [f"{c['what']}: {_nats(c)}" for c in numbers["costs"]],
        "tried": [f"{t['what']}: {_gained(t)}" for t in numbers["tried"]],
        "to do": [command for what, command in commands.items() if what in tried],
        "to try": [command for what, command in commands.items() if what not in tried],
    }
    return {"conclusion": finding.section.text, **{name: lines for name, lines in found.items() if lines}}


def _nats(cost: Mapping[str, Any]) -> str:
    if isnan(cost["nats"]):
        return "not known from one run"
    return f"{cost['nats']:.3f} nats per datum (standard error {number(cost['standard_error'])})"


def _gained(trial: Mapping[str, Any]) -> str:
    if "failed" in trial:
        return f"failed: {trial['failed']}"
    gain = trial["gain"]
    error = number(gain["standard_error"])
    what = f"{gain['of']} {gain['mean']:+.3f} nats per datum (standard error {error}) over {gain['over']}"
    return f"{gain['verdict']}, after {trial['epochs']} epochs: {what}"
