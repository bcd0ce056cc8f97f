"""`pyro-vae refit`: fit another prior or guide to a trained run, and save it as a new run."""

import json
import shlex
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.parsing import named
from pyro_vae.cli.work.places import tried
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.refitted import NewGuide, NewPart, NewPrior
from pyro_vae.cli.work.saved_runs import SavedRun, load_data_of, open_saved
from pyro_vae.errors import UsageError
from pyro_vae.messages import finite
from pyro_vae.runs.derived import derived_run
from pyro_vae.runs.describing import describe, resolve
from pyro_vae.statistics.averages import number
from pyro_vae.training.refit import with_held_out


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    saved = open_saved(options)
    part = _part(saved, options)
    whole = load_data_of(saved, options.data)
    data = with_held_out(whole)
    settings = {"epochs": options.epochs, "batch_size": options.batch_size, "patience": options.patience}
    settings |= {name: _resolved(options[name]) for name in ("optimizer", "lr_schedule")} | {"seed": options.seed}
    described = {**{name: describe(value) for name, value in settings.items()}, "data": options.data}
    own = whole.valid is None and options.data is None
    with derived_run(saved.path, options.out, part.parts, described) as derived:
        place = tried(Path(options.out), "refit.json")["refit.json"]
        vae = part.fitted(data, progress=not options.quiet, **settings)
        result = {
            "run": options.out,
            "from": str(saved.path),
            "data": data.protocol,
            **part.compared(vae, data, options.seed),
            "held_out": len(data.split("valid")),
            "held_out_of": f"train, which the old {part.what} was trained on" if own else "valid",
        }
        print_result(result if options.json else _readable(result, part), options.json)
        derived.save(vae)
        place.write(json.dumps(finite(result), indent=1).encode())
    return 0


def _part(saved: SavedRun, options: Namespace) -> NewPart:
    """What is to be fitted."""
    new = {name: _resolved(options[name]) for name in ("guide", "encoder") if options[name] is not None}
    if new and options.prior is not None:
        raise UsageError(f"--prior and --{next(iter(new))}: one is fitted at a time; refit the result for the other")
    if new:
        return NewGuide(saved.vae, new)
    return NewPrior(saved.vae, None if options.prior is None else _resolved(options.prior))


def _resolved(options: Namespace) -> Any:
    return resolve(options.as_dict(), named(options))


def _readable(result: dict[str, Any], part: NewPart) -> dict[str, Any]:
    def text(mean: float, standard_error: float) -> str:
        return f"{mean:.3f} nats per datum (standard error {number(standard_error)})"

    texts = {name: text(**value) if isinstance(value, dict) else value for name, value in result.items()}
    return {**texts, "verdict": _verdict(result, part), "next": _next(result)}


def _verdict(result: dict[str, Any], part: NewPart) -> str:
    """Which of the two is better, in a sentence; the gain is that of the ELBO on the same draws."""
    new, old, verdict = result[part.what], result["before"], result["verdict"]
    if verdict == "worse":
        return f"WORSE: {new} {part.fits} less well than {old} did: keep {result['from']}"
    if verdict == "better":
        return f"better: {new} {part.fits} better than {old} did"
    if result["gain"] == {"mean": 0, "standard_error": 0}:
        return "none: no epoch was better than the start, which was kept: more --epochs, or another --optimizer.lr"
    return f"{verdict}: {new} and {old}; hold out more data to tell them apart"


def _next(result: dict[str, Any]) -> str:
    """The command to run next: on the run that is not known to be worse."""
    run = result["from"] if result["verdict"] == "worse" else result["run"]
    return shlex.join(["pyro-vae", "evaluate", run])
