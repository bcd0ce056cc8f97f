"""What `pyro-vae evaluate` prints and saves: the estimate of one method, or those of all methods side by side."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jsonargparse import Namespace

from pyro_vae import plots
from pyro_vae.cli.work.places import Place, tried
from pyro_vae.cli.work.saved_runs import SavedRun
from pyro_vae.data import Dataset
from pyro_vae.data.fingerprint import fingerprint
from pyro_vae.evidence import Evidence, bits_per_dim
from pyro_vae.evidence.base import Estimate
from pyro_vae.messages import finite
from pyro_vae.runs.files import packed
from pyro_vae.runs.saved_evidence import proof_of
from pyro_vae.statistics.averages import at_least, number

Found = Mapping[str, tuple[Estimate | str, float]]
"""For each method: its estimate, or the reason why there is none; and the seconds it took."""


def result_of(saved: SavedRun, data: Dataset, x: torch.Tensor, options: Namespace, found: Estimate) -> dict[str, Any]:
    """All numbers of one method, with their protocol."""
    result = _protocol(saved, data, options)
    result |= {"nll": -found.mean, **found.summary(), "device": str(saved.device)}
    if (bits := bits_per_dim(found, saved.vae.likelihood, data)) is not None:
        result["bits_per_dim"] = vars(bits)
    return result | _exact(data, x)


def result_of_all(saved: SavedRun, data: Dataset, x: torch.Tensor, options: Namespace, found: Found) -> dict[str, Any]:
    """All numbers of all methods, or the reason why a method has none."""
    result = _protocol(saved, data, options)
    result |= {"num_data": len(x), "seed": options.seed, "device": str(saved.device), **_exact(data, x)}
    return result | {"methods": {name: _entry(estimate, seconds) for name, (estimate, seconds) in found.items()}}


def _entry(estimate: Estimate | str, seconds: float) -> dict[str, Any]:
    if isinstance(estimate, str):
        return {"refused": estimate}
    return {"nll": -estimate.mean, **_described(estimate), "seconds": round(seconds, 3)}


def _described(estimate: Estimate) -> dict[str, Any]:
    """The summary, with the kind of bound and the health for every method."""
    summary = {"bound": estimate.bound, "health": estimate.health, **estimate.summary()}
    return {name: value for name, value in summary.items() if name != "method"}


def _protocol(saved: SavedRun, data: Dataset, options: Namespace) -> dict[str, Any]:
    caveat = getattr(saved.vae.likelihood, "caveat", None)
    note = {} if caveat is None else {"nats_are": caveat}
    return {"run": str(saved.path), "data": data.protocol, "split": options.split, "weights": saved.weights, **note}


def _exact(data: Dataset, x: torch.Tensor) -> dict[str, Any]:
    if data.exact is None:
        return {}
    return {"exact_log_p_of_the_generating_process": data.exact.log_prob(x).mean().item()}


def identity(saved: SavedRun, x: torch.Tensor, inputs: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of data and weights: two estimates with the same ones estimate the same quantity."""
    return dict(zip(IDENTITY, (fingerprint(x, **inputs), saved.weights_sha256), strict=True))


IDENTITY = ("data_sha256", "weights_sha256")


def readable(result: dict[str, Any]) -> dict[str, Any]:
    """One method's result for readers: with units, and each error next to its number."""
    r = {name: value for name, value in result.items() if name not in IDENTITY}
    first = {name: r.pop(name) for name in ("run", "data", "split", "weights")}
    interval = _interval_line(r)
    lines = _of_importance(r) if "num_particles" in r else _of_another(r)
    return {**first, **lines, **interval, **_accuracy_line(r), **r}


def _of_importance(r: dict[str, Any]) -> dict[str, str]:
    error_data, threshold = r.pop("standard_error_data"), r.pop("pareto_k_threshold")
    nll, log_p, num_particles = r.pop("nll"), r.pop("log_p"), r.pop("num_particles")
    fast = r.pop("fast_estimate", None)
    shift = (
        f" in {fast}, off by {r.pop('measured_shift'):+.4f} nats on the first data: not to be reported" if fast else ""
    )
    return {
        **_method_line(r),
        f"NLL{', FAST ESTIMATE' if fast else ''}": f"{nll:.3f} nats per datum (log p(x) = {log_p:.3f}){shift}",
        **_bits_line(r),
        "standard error, data": f"{number(error_data)} nats (N = {r.pop('num_data')} data)",
        **_error_lines(r, f"K = {num_particles} draws, seed {r.pop('seed')}"),
        f"k-hat > {threshold:.2f}": f"{r.pop('pareto_k_above'):.1%} of the data",
        "flagged": _flagged_text(r),
        "ELBO": f"{r.pop('elbo'):.3f} nats per datum",
    }


def _error_lines(r: dict[str, Any], protocol: str) -> dict[str, str]:
    """The Monte Carlo error; and the bias and the rounding error, which it does not include, if they matter."""
    error, bias, rounding = r.pop("standard_error_monte_carlo"), r.pop("bias"), r.pop("rounding", 0.0)
    found = at_least(number(error, ".4f"), r.pop(_IS_AT_LEAST))
    low = {"too low for want of draws": f"by about {bias:.4f} nats"} if bias > error / 2 else {}
    also = f"; rounding alone gives {rounding:.2g}" if rounding > error / 2 and rounding > 1e-4 else ""
    return {"standard error, Monte Carlo": f"{found} nats ({protocol}{also})", **low}


_IS_AT_LEAST = "standard_error_monte_carlo_is_at_least"


def _flagged_text(r: dict[str, Any]) -> str:
    """The share of flagged data, and whether the mean is unreliable too."""
    share, mean = r.pop("unreliable"), r.pop("mean_flagged")
    who = "they and the mean are" if mean else "they are"
    return f"{share:.1%} of the data{f': {who} not to be trusted within their errors' if share else ''}"


def _of_another(r: dict[str, Any]) -> dict[str, str]:
    error_data, error = r.pop("standard_error_data"), r.pop("standard_error_monte_carlo")
    return {
        **_method_line(r),
        "NLL": f"{r.pop('nll'):.3f} nats per datum (log p(x) = {r.pop('log_p'):.3f})",
        **_bits_line(r),
        "standard error, data": f"{number(error_data)} nats (N = {r.pop('num_data')} data)",
        "standard error, method": f"{at_least(number(error, '.2g'), r.pop(_IS_AT_LEAST))} nats",
        "flagged": _flagged_text(r),
        "health": r.pop("health"),
    }


def _interval_line(r: dict[str, Any]) -> dict[str, str]:
    """Log p(x) from both sides, if the method has an upper bound."""
    if "upper" not in r:
        return {}
    upper, error, share = (r.pop(name) for name in ("upper", "upper_standard_error_monte_carlo", "upper_unreliable"))
    errors = " and ".join(number(e, ".4f") for e in (r["standard_error_monte_carlo"], error))
    doubt = f"; flagged for {share:.1%} of the data, whose log p(x) may be higher" if share else ""
    ends = f"[{r['log_p']:.4f}, {number(upper, '.4f')}]"
    errors = f"with standard errors {at_least(errors, share > 0)}"
    return {"interval": f"log p(x) in {ends} nats per datum: each end in expectation over the draws, {errors}{doubt}"}


def _method_line(r: dict[str, Any]) -> dict[str, str]:
    """The method's name and side, except for plain importance sampling."""
    return {"method": f"{r.pop('method')} ({_SIDES[r.pop('bound')]})"} if "method" in r else {}


_SIDES = {
    "lower": "log p(x) too low on average",
    "upper": "log p(x) too high on average",
    "consistent": "log p(x) off to either side",
}


def _accuracy_line(r: dict[str, Any]) -> dict[str, str]:
    found = r.pop("accuracy", None)
    return {} if found is None else {"accuracy": "{mean:.2%} +- {standard_error:.2%} (N = {num_data})".format(**found)}


def _bits_line(r: dict[str, Any]) -> dict[str, str]:
    bits = r.pop("bits_per_dim", None)
    return {} if bits is None else {"bits per element": _bits_text(**bits, is_at_least=r[_IS_AT_LEAST])}


def _bits_text(
    mean: float,
    standard_error_data: float,
    standard_error_monte_carlo: float,
    dequantized: int | None,
    is_at_least: bool,
) -> str:
    monte_carlo = at_least(number(standard_error_monte_carlo, ".5f"), is_at_least)
    bound = f", an upper bound for the {dequantized} levels without noise" if dequantized else ""
    return f"{mean:.4f} (standard errors {number(standard_error_data, '.4f')} and {monte_carlo}){bound}"


def readable_all(result: dict[str, Any]) -> dict[str, Any]:
    """The results of all methods for readers: a table, and below it the health of each method."""
    r = {name: value for name, value in result.items() if name not in IDENTITY}
    methods = r.pop("methods")
    done = {name: entry for name, entry in methods.items() if "refused" not in entry}
    refused = [f"{name}: {entry['refused']}" for name, entry in methods.items() if "refused" in entry]
    return {
        **r,
        "nats per datum": columns_of([_HEADER, *(_row(name, entry) for name, entry in done.items())]),
        "health": columns_of([[name, entry["health"]] for name, entry in done.items()]),
        "not done": refused,
    }


_HEADER = ["method", "NLL", "at least", "s.e. data", "s.e. method", "log p(x) is", "flagged", "seconds"]


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    side = {"lower": "too low", "upper": "too high", "consistent": "off either way"}[entry["bound"]]
    error = at_least(number(entry["standard_error_monte_carlo"], ".2g"), entry[_IS_AT_LEAST])
    flagged = f"{entry['unreliable']:.1%}{', mean too' * entry['mean_flagged']}"
    errors = number(entry["standard_error_data"]), error
    least = number(-entry["upper"]) if "upper" in entry else "-"
    return [name, f"{entry['nll']:.3f}", least, *errors, side, flagged, f"{entry['seconds']:.1f}"]


def columns_of(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of a table as lines: the first column left-aligned, the others right-aligned if there are more than two."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) > 2
    return [
        "  ".join(
            cell.rjust(width) if at and last else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def places_of(saved: SavedRun, options: Namespace) -> dict[str, Place]:
    """The files for the result, once it is known that they can be written."""
    names = {_name(options.split, options.method, precision) for precision in ("float32", options.precision)}
    pictures = [_picture(options.split)] if options.method == "importance" else []
    return tried(saved.path, *(f"{name}.{kind}" for name in sorted(names) for kind in ("npz", "json")), *pictures)


def save(places: Mapping[str, Place], split: str, found: Estimate, result: dict[str, Any]) -> None:
    """Save the summary as JSON, each datum's estimate as arrays, and the histogram of k-hat, in the run directory."""
    fast = isinstance(found, Evidence) and found.shift is not None
    precision = found.precision if fast else "float32"  # pyright: ignore[reportAttributeAccessIssue]
    _write(places, _name(split, found.method, precision), found.columns(), result)
    if isinstance(found, Evidence) and found.method == "importance" and not fast:
        places[_picture(split)].write(plots.encoded(plots.pareto_k(found)))


def save_all(places: Mapping[str, Place], split: str, found: Found, result: dict[str, Any]) -> None:
    """Save the summary as JSON, and each method's arrays as `METHOD/NAME`; no other file is changed."""
    estimates = {name: estimate for name, (estimate, _) in found.items() if isinstance(estimate, Estimate)}
    arrays = {f"{name}/{key}": a for name, estimate in estimates.items() for key, a in estimate.columns().items()}
    _write(places, _name(split, "all", "float32"), arrays, result)


def _name(split: str, method: str, precision: str) -> str:
    """The name of a method's files, without the ending."""
    of_method = "" if method == "importance" else f"-{method}"
    return f"evidence-{split}{of_method}{'' if precision == 'float32' else f'-{precision}'}"


def _picture(split: str) -> str:
    return f"pictures/pareto_k-{split}.png"


def _write(places: Mapping[str, Place], name: str, arrays: Mapping[str, torch.Tensor], result: dict[str, Any]) -> None:
    data = packed(arrays)
    summary = {**finite(result), **proof_of(data)}
    places[f"{name}.npz"].write(data)
    places[f"{name}.json"].write(json.dumps(summary, indent=1).encode())
