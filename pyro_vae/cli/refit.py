"""`pyro-vae refit`: another prior for a trained run, fitted to its codes, saved as a run of its own."""

import json
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.options import refit_parser
from pyro_vae.cli.parsing import allow_own_modules, named, parse
from pyro_vae.cli.places import tried
from pyro_vae.cli.runs import SavedRun, load_data_of, open_saved
from pyro_vae.cli.tables import finite, print_result
from pyro_vae.code_priors import AutoregressiveCodes, CodePrior
from pyro_vae.data import Dataset
from pyro_vae.derived import derived_run
from pyro_vae.describing import describe, resolve
from pyro_vae.errors import UsageError
from pyro_vae.networks import Conditioned
from pyro_vae.priors import Prior
from pyro_vae.refit import CrossEntropy, cross_entropy, refit_prior, with_held_out
from pyro_vae.vae import VAE
from pyro_vae.vq import VQVAE


def run(argv: list[str]) -> int:
    """Run the command with its arguments; returns the exit code."""
    allow_own_modules()
    options = parse(refit_parser(), argv)
    saved = open_saved(options)
    prior = _prior(saved, options)
    data = with_held_out(load_data_of(saved, options.data))
    settings = {"epochs": options.epochs, "batch_size": options.batch_size, "patience": options.patience}
    settings |= {"optimizer": _resolved(options.optimizer), "seed": options.seed}
    told = {**{name: describe(value) for name, value in settings.items()}, "data": options.data}
    with derived_run(saved.path, options.out, {"prior": prior}, told) as derived:
        place = tried(Path(options.out), "refit.json")["refit.json"]
        vae = refit_prior(saved.vae, data, prior, **settings, progress=not options.quiet)  # pyright: ignore[reportArgumentType]
        result = _result(saved, vae, data, options)
        print_result(result if options.json else _readable(result), options.json)
        derived.save(vae)
        place.write(json.dumps(finite(result), indent=1).encode())
    return 0


def _prior(saved: SavedRun, options: Namespace) -> Any:
    """The new prior's class or partial, once it is known to be for such a run."""
    vae = saved.vae
    if not isinstance(vae, VAE | VQVAE):
        raise UsageError(f"refit fits the one prior of a VAE or a VQVAE, and this run is a {type(vae).__name__}")
    if isinstance(getattr(vae, "encoder", None), Conditioned):
        raise UsageError("the codes of this run depend on a context, and refit fits p(z) to codes alone")
    base = CodePrior if isinstance(vae, VQVAE) else Prior
    if options.prior is None and base is Prior:
        raise UsageError("--prior: expected the class of the new prior, e.g. --prior MixtureOfNormals")
    prior = AutoregressiveCodes if options.prior is None else _resolved(options.prior)
    if not issubclass(cls := getattr(prior, "func", prior), base):
        kinds = {Prior: "priors p(z), such as MixtureOfNormals", CodePrior: "priors p(k), such as AutoregressiveCodes"}
        raise UsageError(f"--prior: a {type(vae).__name__} takes {kinds[base]}, got {cls.__name__}")
    return prior


def _resolved(options: Namespace) -> Any:
    return resolve(options.as_dict(), named(options))


def _result(saved: SavedRun, vae: Any, data: Dataset, options: Namespace) -> dict[str, Any]:
    held_out = data.split("valid")
    both: tuple[Any, Any] = (saved.vae, vae)
    before, after = (cross_entropy(v, held_out, seed=options.seed) for v in both)
    return {
        "run": options.out,
        "from": str(saved.path),
        "data": data.protocol,
        "prior": type(vae.prior).__name__,
        "before": type(saved.vae.prior).__name__,
        "cross_entropy": _numbers(after),
        "cross_entropy_before": _numbers(before),
        "held_out": len(held_out),
    }


def _numbers(found: CrossEntropy) -> dict[str, float]:
    return {"mean": found.mean, "standard_error": found.standard_error}


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    def text(mean: float, standard_error: float) -> str:
        return f"{mean:.3f} nats per datum (standard error {standard_error:.3f})"

    told = {name: text(**value) if isinstance(value, dict) else value for name, value in result.items()}
    return {**told, "next": f"pyro-vae evaluate {result['run']}"}
