"""`pyro-vae score`: scores of data, a threshold of known false alarms, and how well known anomalies are found."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from pyro_vae.cli.work.places import Place, wanted
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, check_chosen, choose, load_data_of, load_split, open_saved
from pyro_vae.cli.work.score_results import ENDINGS, Scored, contents, readable
from pyro_vae.errors import UsageError
from pyro_vae.messages import Progress
from pyro_vae.tasks.scores import Detection, Scores, Threshold, detection, score, states, threshold
from pyro_vae.tasks.scores.methods import options_of

_OWN = ("num_particles", "seed", "background", "others")
"""Options of the command that are passed to the methods that have them."""
_INNER = ("progress", "reference", "search", "max_rows")
"""Options of methods that the command line does not offer."""


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    _check(options)
    saved = open_saved(options)
    normal, anomalies = _chosen(saved, options)
    reference, calibration = _reference(saved, options)
    place = _place(saved, options)
    scoring = _Scoring(saved, options, reference)
    found = _scored(scoring, normal)
    alarm = None if calibration is None else _threshold(scoring, calibration, options)
    others = None if anomalies is None else _scored(scoring, anomalies)
    measured = None if others is None else detection(found.scores, others.scores, seed=options.seed)
    result = _result(saved, options, found, others, alarm, measured)
    shown = result if options.json else readable(result)
    print_result({**shown, "saved": str(place.path)}, options.json)
    place.write(contents(place.path.suffix, saved.vae, found, others, alarm))
    return 0


def _check(options: Namespace) -> None:
    """Refuse what makes no sense, before anything is read."""
    if options.num_data < 1:
        raise UsageError(f"--num_data must be at least 1, got {options.num_data}")
    if options.anomalies is not None and options.anomaly_labels:
        raise UsageError("--anomalies names data that are anomalous, --anomaly_labels classes: give one of them")
    if not 0 < options.false_alarms < 1:
        raise UsageError(f"--false_alarms: expected a rate between 0 and 1, got {options.false_alarms}")
    known = options_of(options.method)
    if options.background is not None and "background" not in known:
        raise UsageError(f"--background is for --method ratio, not {options.method}")
    if bool(options.others) != ("others" in known):
        what = "is for --method ensemble" if options.others else "RUN ... is needed: the other models of the ensemble"
        raise UsageError(f"--others {what}")
    if "reference" in known and options.reference == "none":
        raise UsageError(f"--method {options.method} needs reference data: --reference valid")
    settable = sorted(set(known) - {*_OWN, *_INNER})
    for name in options.options or {}:
        if name not in settable:
            also = f"It is --{name}" if name in _OWN else f"Known: {', '.join(settable) or 'none'}"
            raise UsageError(f"--options.{name}: --method {options.method} has no such option. {also}")


def _chosen(saved: SavedRun, options: Namespace) -> tuple[Chosen, Chosen | None]:
    """The data to score, and those that are known to be anomalies; None where it is not known."""
    chosen = load_split(saved, options, options.num_data)
    if options.anomaly_labels:
        is_anomaly = _of_classes(chosen, options)
        return _rows(chosen, ~is_anomaly), _rows(chosen, is_anomaly)
    if options.anomalies is None:
        return chosen, None
    data = load_data_of(saved, options.anomalies)
    anomalies = choose(data, options.anomalies_split, options.num_data, saved.device)
    if tuple(anomalies.x.shape[1:]) != tuple(saved.vae.shapes.event):
        expected, came = list(saved.vae.shapes.event), list(anomalies.x.shape[1:])
        raise UsageError(f"--anomalies {options.anomalies}: expected data of shape {expected}, got {came}")
    check_chosen(saved, anomalies, "anomalies")
    return chosen, anomalies


def _of_classes(chosen: Chosen, options: Namespace) -> Tensor:
    """Which data are of the classes that are anomalies, `[N]` bool."""
    if chosen.labels is None:
        raise UsageError(
            f"--anomaly_labels: the {chosen.split} data have no labels: name anomalies by --anomalies DATA"
        )
    found = torch.isin(chosen.labels, torch.tensor(options.anomaly_labels))
    if found.all() or not found.any():
        labels = " ".join(map(str, options.anomaly_labels))
        raise UsageError(f"--anomaly_labels {labels}: {int(found.sum())} of {len(found)} data are of these classes")
    return found


def _rows(chosen: Chosen, which: Tensor) -> Chosen:
    """Some of the data."""
    rows = which.to(chosen.x.device)
    inputs = {name: value[rows] for name, value in chosen.inputs.items()}
    return replace(
        chosen, x=chosen.x[rows], inputs=inputs, labels=None if chosen.labels is None else chosen.labels[which]
    )


def _reference(saved: SavedRun, options: Namespace) -> tuple[Chosen | None, Chosen | None]:
    """The data that a score is made with, and those that a threshold is calibrated on."""
    if options.reference == "none":
        return None, None
    source = None if saved.config.get("data") is not None else options.data
    needs = "reference" in options_of(options.method)
    chosen = choose(load_data_of(saved, source), options.reference, options.num_data * (1 + needs), saved.device)
    check_chosen(saved, chosen, f"{options.reference} data")
    if options.anomaly_labels and chosen.labels is not None:
        chosen = _rows(chosen, ~torch.isin(chosen.labels, torch.tensor(options.anomaly_labels)))
    if not needs:
        return None, chosen
    even = torch.arange(len(chosen)) % 2 == 0
    return _rows(chosen, even), _rows(chosen, ~even)


class _Scoring:
    """The method with all of its options, ready to be called with data."""

    def __init__(self, saved: SavedRun, options: Namespace, reference: Chosen | None) -> None:
        self.vae, self.method, self.quiet = saved.vae, options.method, options.quiet
        known = options_of(self.method)
        own: dict[str, Any] = {"num_particles": options.num_particles, "seed": options.seed}
        if options.background is not None:
            own["background"] = open_saved(options, saved.device, options.background).vae
        if options.others:
            own["others"] = [open_saved(options, saved.device, other).vae for other in options.others]
        own |= options.options or {}
        self.options = {name: value for name, value in own.items() if name in known and value is not None}
        if reference is not None:
            self.options["reference"] = self._of_reference(reference)

    def _of_reference(self, reference: Chosen) -> Any:
        """What the score compares with: evidence, or the statistics of the density of states."""
        given = {name: v for name, v in self.options.items() if name != "statistics"} | reference.inputs
        if self.method == "typicality":
            return score(self.vae, reference.x, "evidence", **given)
        return states(self.vae, reference.x, **given)

    def __call__(self, chosen: Chosen) -> Scores:
        """The scores of data, with progress."""
        with Progress(len(chosen), "datum", enabled=not self.quiet) as bar:
            show = lambda done: bar.show(min(done, len(chosen)), self.method)  # noqa: E731
            return score(self.vae, chosen.x, self.method, progress=show, **self.options, **chosen.inputs)


def _scored(scoring: _Scoring, chosen: Chosen) -> Scored:
    return Scored(chosen, scoring(chosen))


def _threshold(scoring: _Scoring, calibration: Chosen, options: Namespace) -> Threshold:
    return threshold(scoring(calibration), options.false_alarms)


def _result(
    saved: SavedRun,
    options: Namespace,
    found: Scored,
    others: Scored | None,
    alarm: Threshold | None,
    measured: Detection | None,
) -> dict[str, Any]:
    """All numbers, with their protocol."""
    data = found.chosen.data
    result: dict[str, Any] = {"run": str(saved.path), "data": data.protocol, "split": options.split}
    result |= {"weights": saved.weights, **found.scores.summary()}
    if alarm is not None:
        result["threshold"] = _alarms(options, found, others, alarm)
    if others is not None and measured is not None:
        source = f"labels {' '.join(map(str, options.anomaly_labels))}" if options.anomaly_labels else None
        result["anomalies"] = source or others.chosen.data.protocol
        result["anomalies_mean"], result["detection"] = others.scores.mean, measured.summary()
    return result


def _alarms(options: Namespace, found: Scored, others: Scored | None, alarm: Threshold) -> dict[str, Any]:
    """The threshold, its promise, and how many alarms there are."""
    low, high = alarm.interval()
    raised: Mapping[str, Any] = {"alarms": int(alarm.alarms(found.scores).sum())}
    if others is not None:
        raised = {**raised, "anomalies_found": int(alarm.alarms(others.scores).sum())}
    return {
        "value": alarm.value,
        "false_alarms": alarm.false_alarms,
        "probability_at_most": alarm.expected_rate,
        "realised_rate_95": [low, high],
        "calibrated_on": options.reference,
        "num_calibration": alarm.num_calibration,
        **raised,
    }


def _place(saved: SavedRun, options: Namespace) -> Place:
    """The file for the result, checked that it can be written."""
    place = wanted(options.out, saved.path, f"pictures/scores-{options.method}-{options.split}.png")
    if place.path.suffix not in ENDINGS:
        raise UsageError(f"--out must end in {', '.join(ENDINGS)}, got {place.path.name!r}")
    place.check()
    return place
