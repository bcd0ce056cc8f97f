"""What `pyro-vae score` prints and saves."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae import plots
from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli.work.saved_runs import Chosen
from pyro_vae.runs.files import packed
from pyro_vae.statistics.averages import number
from pyro_vae.tasks.scores import Scores, Threshold, score

ENDINGS = (".png", ".npz", ".csv")
"""Of the file: a picture, arrays, a table."""
_SHOWN = 10
"""The most anomalous data of a picture."""


@dataclass(frozen=True)
class Scored:
    """Some data and their scores."""

    chosen: Chosen
    scores: Scores


def readable(result: Mapping[str, Any]) -> dict[str, Any]:
    """The result for readers: with units, and each error next to its number."""
    r = dict(result)
    first = {name: r.pop(name) for name in ("run", "data", "split", "weights", "method")}
    draws = f"K = {r.pop('num_particles')} draws, seed {r.pop('seed')}"
    lines = {
        "mean score": f"{r.pop('mean'):.3f} nats per datum, higher is more anomalous",
        "standard error, data": f"{number(r.pop('standard_error_data'))} nats (N = {r.pop('num_data')} data)",
        "standard error, draws": f"{number(r.pop('standard_error_monte_carlo'), '.4f')} nats ({draws})",
        "flagged": f"{r.pop('unreliable'):.1%} of the data: the score is not to be trusted within its error",
    }
    return {**first, **lines, **_threshold_lines(r.pop("threshold", None)), **_detection_lines(r), **r}


def _threshold_lines(t: Mapping[str, Any] | None) -> dict[str, str]:
    if t is None:
        return {}
    low, high = t["realised_rate_95"]
    found = f", and of the anomalies {t['anomalies_found']}" if "anomalies_found" in t else ""
    return {
        "threshold": f"{t['value']:.3f} nats, calibrated on {t['num_calibration']} data of {t['calibrated_on']}",
        "false alarms": f"probability at most {t['probability_at_most']:.4f}; over many new data {low:.4f} to "
        f"{high:.4f} (95 %)",
        "alarms": f"{t['alarms']} of the data{found}",
    }


def _detection_lines(r: dict[str, Any]) -> dict[str, str]:
    found = r.pop("detection", None)
    if found is None:
        return {}
    counts = f"{found['num_anomalies']} anomalies, {found['num_normal']} others"
    names = {"AUROC": "auroc", "average precision": "average_precision", "false alarms at 95 % found": "fpr_at_95"}
    measures = {name: f"{_interval(found[key])}" for name, key in names.items()}
    measures["AUROC"] += f" ({counts}; {found['level']:.0%} bootstrap intervals)"
    mean = f"{r.pop('anomalies_mean'):.3f} nats per datum"
    return {"anomalies": r.pop("anomalies"), "their mean score": mean, **measures}


def _interval(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.4f}, {measure['low']:.4f} to {measure['high']:.4f}"


def contents(ending: str, vae: Autoencoder, found: Scored, others: Scored | None, alarm: Threshold | None) -> bytes:
    """The file, by its ending."""
    if ending == ".png":
        return plots.encoded(_picture(vae, found, others, alarm))
    groups = {"": found, **({} if others is None else {"anomalies_": others})}
    if ending == ".npz":
        return packed({f"{k}{name}": v for k, g in groups.items() for name, v in _arrays(g, alarm).items()})
    return _table({"data": found, **({} if others is None else {"anomalies": others})}, alarm)


def _arrays(scored: Scored, alarm: Threshold | None) -> dict[str, Tensor]:
    """What is known of each datum, by name."""
    arrays = dict(scored.scores.columns())
    if alarm is not None:
        arrays["alarm"] = alarm.alarms(scored.scores)
    if scored.chosen.labels is not None:
        arrays["label"] = scored.chosen.labels
    if scored.scores.elements is not None:
        arrays["elements"] = scored.scores.elements
    return arrays


def _table(groups: Mapping[str, Scored], alarm: Threshold | None) -> bytes:
    """A row for each datum; `index` counts from 0 in the order of the scored data."""
    text = io.StringIO()
    writer: Any = None
    for name, scored in groups.items():
        columns = {key: value for key, value in _arrays(scored, alarm).items() if value.dim() == 1}
        if writer is None:
            names = ["set", "index", *columns, *([] if "label" in columns else ["label"])]
            writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
        values: Sequence[list[Any]] = [column.tolist() for column in columns.values()]
        for index, row in enumerate(zip(*values, strict=True)):
            writer.writerow({"set": name, "index": index, **dict(zip(columns, row, strict=True))})
    return text.getvalue().encode()


def _picture(vae: Autoencoder, found: Scored, others: Scored | None, alarm: Threshold | None) -> Any:
    """Histograms, and the most anomalous of all data with the maps of their elements."""
    groups = [found] if others is None else [found, others]
    values = torch.cat([g.scores.values for g in groups])
    top = values.nan_to_num(nan=torch.inf).argsort(descending=True)[:_SHOWN]
    x = torch.cat([g.chosen.x.cpu() for g in groups])[top]
    names = found.chosen.inputs
    inputs = {name: torch.cat([g.chosen.inputs[name].cpu() for g in groups])[top] for name in names}
    maps = _maps(vae, x, inputs)
    anomalies = None if others is None else others.scores
    limit = None if alarm is None else alarm.value
    return plots.anomaly_scores(
        found.scores, anomalies=anomalies, threshold=limit, x=x, values=values[top], elements=maps
    )


def _maps(vae: Autoencoder, x: Tensor, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The reconstruction score of each element: all methods have the same maps, as most have none of their own."""
    device = next(vae.parameters()).device
    given: dict[str, Any] = {name: value.to(device) for name, value in inputs.items()}
    return score(vae, x.to(device), "reconstruction", **given).elements
