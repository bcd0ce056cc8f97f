"""`pyro-vae evaluate`: log p(x) of a split, with its errors and its health."""

import json
from typing import Any, Literal

from jsonargparse import ArgumentParser, Namespace
from torch import Tensor

from pyro_vae.agreement import agreed
from pyro_vae.checkpoint import write_arrays, write_atomic
from pyro_vae.cli.bounds import told_of_points
from pyro_vae.cli.parsing import make_parser, parse
from pyro_vae.cli.pictures import save_pareto_k
from pyro_vae.cli.processes import joined
from pyro_vae.cli.runs import SavedRun, add_run, add_split, given, load_split, open_saved
from pyro_vae.cli.tables import finite, print_result
from pyro_vae.collapse import collapse_warnings
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.distributed import World
from pyro_vae.errors import UsageError
from pyro_vae.evidence import Evidence, bits_per_dim, log_marginal
from pyro_vae.progress import Progress


def run(argv: list[str]) -> int:
    """Run the command with its arguments; returns the exit code."""
    options = parse(_parser(), argv)
    if options.num_data is not None and options.num_data < 1:
        raise UsageError(f"--num_data must be at least 1, got {options.num_data}")
    with joined(options.device) as world:
        with agreed(world):
            saved = open_saved(options, world.device)
            data, x = load_split(saved, options, options.num_data)
            inputs = given(data, options.split, len(x), saved.device)
        if told_of_points(saved, data, x, inputs, options, world):
            return 0
        evidence = _estimate(saved, x, inputs, options, world)
    if world.main:
        _tell(saved, data, x, inputs, options, evidence)
    return 0


def _tell(
    saved: SavedRun, data: Dataset, x: Tensor, inputs: dict[str, Any], options: Namespace, evidence: Evidence
) -> None:
    """Save and print all there is to know."""
    result = _result(saved, data, x, options, evidence)
    if len(x) > 1:
        statistics = latent_statistics(saved.vae, x, **inputs)
        result |= {"active_units": str(statistics), "warnings": collapse_warnings(statistics, _beta(saved.config))}
    _save(saved, options.split, evidence, result)
    print_result(result if options.json else _readable(result), as_json=options.json)


def _estimate(saved: SavedRun, x: Tensor, inputs: dict[str, Any], options: Namespace, world: World) -> Evidence:
    """Estimate log p(x) of all of `x`, with the progress of the first process for that of all."""
    with Progress(len(x), "datum", enabled=world.main and not options.quiet) as bar:
        return log_marginal(
            saved.vae.model,
            saved.vae.guide,
            x,
            num_particles=options.num_particles,
            seed=options.seed,
            max_rows=options.max_rows,
            compile=options.compile,
            precision=options.precision,
            world=world,
            progress=lambda done: bar.show(min(len(x), done * world.size), f"K = {options.num_particles}"),
            **inputs,
        )


def _parser() -> ArgumentParser:
    parser = make_parser("evaluate", "Estimate log p(x) of a split by importance sampling from the guide.")
    add_run(parser)
    add_split(parser)
    parser.add_argument("--num_particles", type=int, default=5000, help="K, draws for each datum")
    parser.add_argument("--num_data", type=int | None, default=None, help="only the first so many data")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws")
    parser.add_argument("--max_rows", type=int, default=4096, help="(datum, draw) pairs in one run of the decoder")
    parser.add_argument(
        "--compile",
        type=bool | Literal["auto"],
        default="auto",
        help="run the programs as compiled graphs; auto: if there is enough to do",
    )
    parser.add_argument(
        "--precision",
        type=Literal["float32", "bf16"],
        default="float32",
        help="bf16: a fast estimate, saved beside the exact one and marked as such",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    return parser


def _result(saved: SavedRun, data: Dataset, x: Tensor, options: Namespace, evidence: Evidence) -> dict[str, Any]:
    result = {"run": str(saved.path), "data": data.protocol, "split": options.split, "weights": saved.weights}
    result |= {"nll": -evidence.mean, **evidence.summary(), "device": str(saved.device)}
    result |= {"data_sha256": evidence.data, "weights_sha256": saved.weights_sha256}  # by which `compare` reuses it
    if (bits := bits_per_dim(evidence, saved.vae.likelihood, data)) is not None:
        result["bits_per_dim"] = vars(bits)
    if data.exact is not None:
        result["exact_log_p_of_the_generating_process"] = data.exact.log_prob(x).mean().item()
    return result


def _beta(config: dict[str, Any]) -> float | None:
    """The weight that the KL ended with in the training, where it had one."""
    objective = config.get("objective")
    beta = objective.get("init_args", {}).get("beta") if isinstance(objective, dict) else None
    beta = beta.get("init_args", {}).get("end") if isinstance(beta, dict) else beta
    return beta if isinstance(beta, int | float) else None


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    """The same for people: units, and the errors beside what they belong to."""
    r = {name: value for name, value in result.items() if not name.endswith("_sha256")}
    error_data, error_mc = r.pop("standard_error_data"), r.pop("standard_error_monte_carlo")
    share, threshold = r.pop("unreliable"), r.pop("pareto_k_threshold")
    warning = ": their estimates are not to be trusted one by one" if share else ""
    nll, log_p, num_particles = r.pop("nll"), r.pop("log_p"), r.pop("num_particles")
    fast = r.pop("fast_estimate", None)
    shift = (
        f" in {fast}, off by {r.pop('measured_shift'):+.4f} nats on the first data: not to be reported" if fast else ""
    )
    bits = r.pop("bits_per_dim", None)
    lines = {
        f"NLL{', FAST ESTIMATE' if fast else ''}": f"{nll:.3f} nats per datum (log p(x) = {log_p:.3f}){shift}",
        **({} if bits is None else {"bits per element": _bits_text(**bits)}),
        "standard error, data": f"{error_data:.3f} nats (N = {r.pop('num_data')} data)",
        "standard error, Monte Carlo": f"{error_mc:.4f} nats (K = {num_particles} draws, seed {r.pop('seed')})",
        f"k-hat > {threshold:.2f}": f"{share:.1%} of the data{warning}",
        "ELBO": f"{r.pop('elbo'):.3f} nats per datum",
    }
    return {**{name: r.pop(name) for name in ("run", "data", "split", "weights")}, **lines, **r}


def _bits_text(
    mean: float, standard_error_data: float, standard_error_monte_carlo: float, dequantized: int | None
) -> str:
    bound = f", an upper bound for the {dequantized} levels without noise" if dequantized else ""
    return f"{mean:.4f} (standard errors {standard_error_data:.4f} and {standard_error_monte_carlo:.5f}){bound}"


def _save(saved: SavedRun, split: str, evidence: Evidence, result: dict[str, Any]) -> None:
    """The summary as JSON, each datum's estimate as arrays, and the histogram of k-hat, in the run directory."""
    arrays = {name: getattr(evidence, name) for name in ("log_p", "standard_error", "ess", "pareto_k", "elbo")}
    name = f"evidence-{split}{'' if evidence.shift is None else f'-{evidence.precision}'}"
    write_arrays(saved.path / f"{name}.npz", arrays)
    write_atomic(saved.path / f"{name}.json", json.dumps(finite(result), indent=1).encode())
    if evidence.shift is None:
        save_pareto_k(evidence, saved.path, split)
