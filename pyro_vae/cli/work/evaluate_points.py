"""`pyro-vae evaluate` for a guide that is a point, where importance weights have no meaning.

With discrete codes a lower bound on log p(x) is reported. A continuous point has no such bound, since its density and
the KL are infinite: the reconstruction log p(x|z) is reported instead.
"""

import json
from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae.cli.work.evaluate_results import IDENTITY, identity
from pyro_vae.cli.work.places import tried
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import SavedRun
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.distributed import World
from pyro_vae.distributed.agreement import agreed
from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.evidence import Bound, bound
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import propose
from pyro_vae.messages import finite
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.files import packed
from pyro_vae.shapes import CodeShapes
from pyro_vae.statistics.averages import number, standard_error
from pyro_vae.tasks.codebook import codebook_usage

_DRAWS = "none: the guide gives each datum one code, so there is nothing for a seed or a number of draws to change"


def report_point_guide(
    saved: SavedRun, data: Dataset, x: Tensor, inputs: dict[str, Any], options: Namespace, world: World
) -> bool:
    """Report the bound or the reconstruction if the guide is a point; returns whether it is.

    Args:
        saved: the run.
        data: the data set that x was taken from.
        x: the data.
        inputs: the programs' further inputs, by name.
        options: the options of the command.
        world: the processes that share the data.
    """
    discrete = _points(saved, x, inputs)
    if not discrete:
        return False
    name = f"{'bound' if all(discrete) else 'reconstruction'}-{options.split}"
    with agreed(world):
        places = tried(saved.path, f"{name}.npz", f"{name}.json") if world.main else {}
    found = bound(saved.vae.model, saved.vae.guide, x, seed=options.seed, world=world, **inputs)
    if world.main:
        numbers = _lower_bound(found) if all(discrete) else _reconstruction(found)
        result = {"run": str(saved.path), "data": data.protocol, "split": options.split, "weights": saved.weights}
        result |= {**numbers, "draws": _DRAWS, **_use_of_codes(saved, x, inputs), "device": str(saved.device)}
        result |= identity(saved, x, inputs)
        print_result(result if options.json else _readable(result), options.json)
        places[f"{name}.npz"].write(packed(_columns(found, result["is_bound"])))
        places[f"{name}.json"].write(json.dumps(finite(result), indent=1).encode())
    return True


def _points(saved: SavedRun, x: Tensor, inputs: dict[str, Any]) -> list[bool]:
    """For each site where the guide is a point, whether its values are discrete."""
    first = {name: value[:1] for name, value in inputs.items()}
    with evaluation_mode(saved.vae), seeded(0, "structure"):
        sites = propose(saved.vae.guide, x[:1], num_particles=1, **first).sites.values()
    return [not site["value"].is_floating_point() for site in sites if is_point_mass(site["fn"])]


def _lower_bound(found: Bound) -> dict[str, Any]:
    return {
        "lower_bound": found.means()["elbo"],
        "standard_error_data": standard_error(found.elbo),
        "is_bound": True,
        "reconstruction": found.means()["reconstruction"],
        "log_p_of_codes": -found.means()["kl"],
        "num_data": len(found.elbo),
    }


def _reconstruction(found: Bound) -> dict[str, Any]:
    return {
        "reconstruction": found.means()["reconstruction"],
        "standard_error_data": standard_error(found.reconstruction),
        "is_bound": False,
        "num_data": len(found.reconstruction),
    }


def _use_of_codes(saved: SavedRun, x: Tensor, inputs: dict[str, Any]) -> dict[str, Any]:
    """The used entries of a codebook, or the active dimensions of a code."""
    vae: Any = saved.vae
    if isinstance(vae.shapes, CodeShapes):
        usage = codebook_usage(vae, x, mask=inputs.get("mask"))
        used = f"{int((usage.counts > 0).sum())} of {len(usage.counts)}"
        return {"codebook_entries_used": used, "codebook_usage": usage.usage, "codebook_perplexity": usage.perplexity}
    return {"active_units": str(latent_statistics(vae, x, **inputs))} if len(x) > 1 else {}


def _columns(found: Bound, is_bound: bool) -> dict[str, Tensor]:
    """Each datum's numbers, under other names than those of evidence, so that nobody takes them for it."""
    arrays = {"reconstruction": found.reconstruction}
    return arrays | {"lower_bound": found.elbo, "log_p_of_codes": -found.kl} if is_bound else arrays


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    """The result for readers: with units, and with what each number is and is not."""
    r = {name: value for name, value in result.items() if name not in IDENTITY}
    error = f"{number(r.pop('standard_error_data'))} nats (N = {r.pop('num_data')} data)"
    head = {name: r.pop(name) for name in ("run", "data", "split", "weights")}
    if r.pop("is_bound"):
        terms = f"log p(x|k) {r.pop('reconstruction'):.3f}, log p(k) {r.pop('log_p_of_codes'):.3f}"
        lines = {"LOWER BOUND": f"log p(x) >= {r.pop('lower_bound'):.3f} nats per datum ({terms} at each datum's code)"}
    else:
        reconstruction = f"log p(x|z) = {r.pop('reconstruction'):.3f} nats per datum at each datum's code"
        lines = {"RECONSTRUCTION": f"{reconstruction}: NOT log p(x), nor a bound on it"}
    return {**head, **lines, "standard error, data": error, **r}
