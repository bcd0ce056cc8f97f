"""`pyro-vae diagnose`: a page of diagnostics of a run, and the same numbers as JSON."""

import json
from collections.abc import Mapping
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_vae.autoencoders import VAE
from pyro_vae.cli.work.places import Place, wanted
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_split, open_saved, take
from pyro_vae.data import Dataset
from pyro_vae.diagnostics.predictive import fewest_draws
from pyro_vae.errors import UsageError
from pyro_vae.evidence.annealing_results import Annealing
from pyro_vae.messages import Progress, finite
from pyro_vae.process.seeding import generator
from pyro_vae.report.conclusions import conclusions, costs
from pyro_vae.report.html import page
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
    _check_trials(saved, options)
    notes = _fewer(options, len(chosen))
    held_out, train = _some(chosen, options.num_data, options.seed), _train(saved, chosen.data, options)
    subject = Subject(saved.vae, held_out, train, sizes, options.seed, _SectionProgress(not options.quiet).show)
    found = diagnose(subject, [name for name in SECTIONS if name not in options.skip])
    found = {"conclusions": _concluded(saved, chosen.data, subject, found, options), **found}
    _report(saved, chosen.data, len(held_out.x), options, found, places, notes)
    return 0


def _concluded(
    saved: SavedRun, data: Dataset, subject: Subject, found: Mapping[str, Finding], options: Namespace
) -> Finding:
    """The conclusions, with what was tried."""
    known = costs(saved.vae, {name: finding.numbers for name, finding in found.items()})
    tried: list[Trial] = []
    if options["try"]:
        whole = with_held_out(data)
        tried = trials(saved.vae, whole, subject.held_out, known, options["try"], options.seed, not options.quiet)
    finding = conclusions(known, str(saved.path), [trial.row() for trial in tried])
    return Finding(finding.section, {**finding.numbers, "tried": [trial.summary() for trial in tried]})


def _places(saved: SavedRun, options: Namespace) -> tuple[Place, Place]:
    """The files for the page and the numbers, once it is known that they can be written."""
    page = wanted(options.out, saved.path, f"diagnosis-{options.split}.html")
    if page.path.suffix != ".html":
        raise UsageError(f"--out must end in .html (the numbers go into a .json of the same name), got {options.out!r}")
    numbers = Place(page.path.with_suffix(".json"), page.run)
    page.check()
    numbers.check()
    return page, numbers


def _check_trials(saved: SavedRun, options: Namespace) -> None:
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
    """Shows progress, a bar for each section."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.name, self.bar = enabled, "", None

    def show(self, name: str, done: float, total: float) -> None:
        """Show how much of a section is done."""
        if name != self.name:
            self.name, self.bar = name, Progress(total, name, self.enabled)
        assert self.bar is not None
        self.bar.show(done, now=done >= total)


def _report(
    saved: SavedRun,
    data: Dataset,
    num: int,
    options: Namespace,
    found: dict[str, Finding],
    places: tuple[Place, Place],
    notes: list[str],
) -> None:
    """Print the warnings; save the page and the numbers."""
    lead = f"{data.protocol}; {num} data of {options.split}, chosen by seed {options.seed}; weights: {saved.weights}."
    lead = " ".join([lead, *(f"{note}." for note in notes)])
    text = page(f"Diagnosis of {saved.path.name}", lead, [finding.section for finding in found.values()])
    numbers = {name: {**finding.numbers, "warnings": finding.warnings} for name, finding in found.items()}
    result: dict[str, Any] = {"run": str(saved.path), "data": data.protocol, "split": options.split, "num_data": num}
    result |= {"weights": saved.weights, "seed": options.seed, **({"note": "; ".join(notes)} if notes else {})}
    printed = {**result, **numbers}
    if not options.json:
        warnings = [warning for finding in found.values() for warning in finding.warnings]
        printed = {**result, **_said(found["conclusions"]), "warnings": warnings or ["none"]}
    print_result({**printed, "page": str(places[0].path)}, as_json=options.json)
    places[0].write(text.encode(errors="backslashreplace"))
    places[1].write(json.dumps(finite({**result, **numbers}), indent=1).encode())


def _said(finding: Finding) -> dict[str, Any]:
    """The conclusions in lines: what costs how much, what was tried, and the commands."""
    numbers = finding.numbers
    found = {
        "costs": [f"{c['what']}: {_nats(c['nats'], c['standard_error'])}" for c in numbers["costs"]],
        "tried": [f"{t['what']}: {_gained(t['gain'])}" for t in numbers["tried"]],
        "to try": [c["command"] for c in numbers["costs"] if c["certain"] and "command" in c],
    }
    return {"conclusion": finding.section.text, **{name: lines for name, lines in found.items() if lines}}


def _nats(mean: float, error: float) -> str:
    return f"{mean:.3f} nats per datum (standard error {number(error)})"


def _gained(gain: dict[str, Any]) -> str:
    return f"{gain['verdict']}, the ELBO by {_nats(gain['mean'], gain['standard_error'])}"
