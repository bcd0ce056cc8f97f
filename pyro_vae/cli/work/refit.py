"""`pyro-vae refit`: fit another prior to the codes of a trained run, and save it as a new run."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.parsing import named
from pyro_vae.cli.work.places import tried
from pyro_vae.cli.work.printing import finite, print_result
from pyro_vae.cli.work.saved_runs import SavedRun, load_data_of, open_saved
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.networks import Conditioned
from pyro_vae.priors import AutoregressiveCodes, CodePrior, Prior
from pyro_vae.runs.derived import derived_run
from pyro_vae.runs.describing import describe, resolve
from pyro_vae.statistics.averages import number
from pyro_vae.training.refit import CrossEntropy, compare_priors, refit_prior, with_held_out


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    saved = open_saved(options)
    prior = _prior(saved, options)
    whole = load_data_of(saved, options.data)
    data = with_held_out(whole)
    settings = {"epochs": options.epochs, "batch_size": options.batch_size, "patience": options.patience}
    settings |= {"optimizer": _resolved(options.optimizer), "seed": options.seed}
    described = {**{name: describe(value) for name, value in settings.items()}, "data": options.data}
    with derived_run(saved.path, options.out, {"prior": prior}, described) as derived:
        place = tried(Path(options.out), "refit.json")["refit.json"]
        vae = refit_prior(saved.vae, data, prior, **settings, progress=not options.quiet)  # pyright: ignore[reportArgumentType]
        result = _result(saved, vae, data, options, own=whole.valid is None and options.data is None)
        print_result(result if options.json else _readable(result), options.json)
        derived.save(vae)
        place.write(json.dumps(finite(result), indent=1).encode())
    return 0


def _prior(saved: SavedRun, options: Namespace) -> Any:
    """The new prior's class or partial, checked to fit the run."""
    vae: Any = saved.vae
    if not vae.has_one_code:
        raise UsageError(f"refit fits the one prior of a VAE or a VQVAE, and this run is a {type(vae).__name__}")
    if isinstance(getattr(vae, "encoder", None), Conditioned):
        raise UsageError("the codes of this run depend on a context, and refit fits p(z) to codes alone")
    base = CodePrior if isinstance(vae.prior, CodePrior) else Prior
    if options.prior is None and base is Prior:
        raise UsageError("--prior: expected the class of the new prior, e.g. --prior MixtureOfNormals")
    prior = AutoregressiveCodes if options.prior is None else _resolved(options.prior)
    if not issubclass(cls := getattr(prior, "func", prior), base):
        kinds = {Prior: "priors p(z), such as MixtureOfNormals", CodePrior: "priors p(k), such as AutoregressiveCodes"}
        raise UsageError(f"--prior: a {type(vae).__name__} takes {kinds[base]}, got {cls.__name__}")
    return prior


def _resolved(options: Namespace) -> Any:
    return resolve(options.as_dict(), named(options))


def _result(saved: SavedRun, vae: Any, data: Dataset, options: Namespace, own: bool) -> dict[str, Any]:
    held_out = data.split("valid")
    found = compare_priors(saved.vae, vae, held_out, seed=options.seed, mask=data.observed("valid"))
    return {
        "run": options.out,
        "from": str(saved.path),
        "data": data.protocol,
        "prior": type(vae.prior).__name__,
        "before": type(saved.vae.prior).__name__,
        "cross_entropy": _numbers(found.after),
        "cross_entropy_before": _numbers(found.before),
        "gain": {"mean": found.gain, "standard_error": found.standard_error},
        "verdict": found.verdict,
        "held_out": len(held_out),
        "held_out_of": "train, which the old prior was trained on" if own else "valid",
    }


def _numbers(found: CrossEntropy) -> dict[str, float]:
    return {"mean": found.mean, "standard_error": found.standard_error}


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    def text(mean: float, standard_error: float) -> str:
        return f"{mean:.3f} nats per datum (standard error {number(standard_error)})"

    texts = {name: text(**value) if isinstance(value, dict) else value for name, value in result.items()}
    return {**texts, "verdict": _verdict(result), "next": _next(result)}


def _verdict(result: dict[str, Any]) -> str:
    """Which of the two priors is better, in a sentence; the gain is that of the ELBO on the same draws."""
    new, old, verdict = result["prior"], result["before"], result["verdict"]
    if verdict == "worse":
        return f"WORSE: {new} fits the held-out codes less well than {old} did: keep {result['from']}"
    if verdict == "better":
        return f"better: {new} fits the held-out codes better than {old} did"
    return f"{verdict}: {new} and {old}; hold out more data to tell them apart"


def _next(result: dict[str, Any]) -> str:
    """The command to run next: on the run that is not known to be worse."""
    return f"pyro-vae evaluate {result['from'] if result['verdict'] == 'worse' else result['run']}"
