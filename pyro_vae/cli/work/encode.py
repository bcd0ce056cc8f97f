"""`pyro-vae encode`: the codes of data."""

from typing import Any

from jsonargparse import Namespace
from torch import Tensor

from pyro_vae import plots
from pyro_vae.cli.work.code_outputs import outputs_of, save_all, saved_as
from pyro_vae.cli.work.factors import agreement, agreement_lines, read_factors
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.saved_runs import Chosen, SavedRun, load_split, open_saved
from pyro_vae.diagnostics import code_information, latent_statistics
from pyro_vae.diagnostics.arviz import codes_to_arviz
from pyro_vae.errors import UsageError
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.messages import Progress
from pyro_vae.statistics.averages import number
from pyro_vae.tasks.codes import Encoded, aggregate_posterior, encode_data


def run(options: Namespace) -> int:
    """Run `pyro-vae encode` with its options; returns the exit code."""
    if options.num is not None and options.num < 2:
        raise UsageError(f"--num must be at least 2, for a spread over the data, got {options.num}")
    saved = open_saved(options)
    chosen = load_split(saved, options, options.num)
    if len(chosen) < 2:
        raise UsageError(f"encode needs at least 2 data, for a spread over them, and {options.split} has {len(chosen)}")
    num = "" if options.num is None else f"-num{options.num}"
    places = outputs_of(saved, options, f"codes-{options.split}{num}", picture=True, netcdf=True)
    factors = None if options.factors is None else read_factors(options.factors, len(chosen))
    encoded = _encoded(saved, chosen, options)
    result = _result(saved, chosen, encoded, options)
    if factors is not None:
        result["factors"] = agreement(encoded.codes, factors, options.seed)
    print_result({**(result if options.json else _readable(result)), "saved": saved_as(places)}, options.json)
    label = {} if chosen.labels is None else {"label": chosen.labels}
    draw = lambda: plots.codes(encoded.codes, _spreads(encoded), chosen.labels)  # noqa: E731
    save_all(places, {**encoded.arrays(), **label}, draw, lambda: _for_arviz(encoded, label))
    return 0


def _encoded(saved: SavedRun, chosen: Chosen, options: Namespace) -> Encoded:
    with Progress(len(chosen), "datum", enabled=not options.quiet) as bar:
        sizes = {"num_draws": options.num_draws, "seed": options.seed}
        return encode_data(saved.vae, chosen.x, progress=bar.show, **sizes, **chosen.inputs)


def _spreads(encoded: Encoded) -> Tensor:
    """The standard deviations of all sites, in the order of `codes`."""
    return Encoded(encoded.draws, encoded.sd, encoded.sd, encoded.sd, encoded.seed).codes


def _for_arviz(encoded: Encoded, label: dict[str, Tensor]) -> Any:
    of_data = {name: value for name, value in encoded.arrays().items() if name not in encoded.draws}
    return codes_to_arviz(encoded.draws, {**of_data, **label}, {"method": "guide", "seed": encoded.seed})


def _result(saved: SavedRun, chosen: Chosen, encoded: Encoded, options: Namespace) -> dict[str, Any]:
    statistics = latent_statistics(saved.vae, chosen.x, **chosen.inputs)
    found = {
        "data": chosen.data.protocol,
        "split": options.split,
        "weights": saved.weights,
        "num": len(encoded),
        "num_draws": encoded.num_draws,
        "seed": encoded.seed,
        "codes": {name: list(value.shape[2:]) for name, value in encoded.draws.items()},
        "active": str(statistics),
        "mean_sd": _spreads(encoded).mean().item(),
        "mean_error": None if encoded.exact else max(v.max().item() for v in encoded.mean_error.values()),
    }
    return {**found, **_information(saved, chosen, options)}


def _information(saved: SavedRun, chosen: Chosen, options: Namespace) -> dict[str, Any]:
    """What the aggregate posterior says of the codes; nothing where its density is not known, or p(z) depends on c."""
    if saved.vae.code_site is None:
        return {}
    try:
        with evaluation_mode(saved.vae):
            q, prior = aggregate_posterior(saved.vae, chosen.x, **chosen.inputs), saved.vae.prior_distribution()
            found = code_information(q, prior, num_draws=1, seed=options.seed)
    except UsageError:  # a guide without a width, or without a density at other codes than its own draws
        return {}
    return {"aggregate": found.summary()}


def _readable(result: dict[str, Any]) -> dict[str, Any]:
    sizes = ", ".join(f"{name} {shape}" for name, shape in result.pop("codes").items())
    error, aggregate = result.pop("mean_error"), result.pop("aggregate", None)
    lines = {"codes": f"{sizes}, {result.pop('num_draws')} draws of each datum, seed {result.pop('seed')}"}
    lines["active dimensions"] = result.pop("active")
    lines["mean sd of q(z|x)"] = f"{result.pop('mean_sd'):.4f}"
    lines["error of the means"] = "none: of the guide's family" if error is None else f"at most {error:.4f}, of draws"
    lines |= {} if aggregate is None else _aggregate_lines(aggregate)
    lines |= agreement_lines(result.pop("factors", {}))
    return {**result, **lines}


def _aggregate_lines(found: dict[str, Any]) -> dict[str, str]:
    shown = {
        name: f"{found[name]['mean']:.3f} nats (standard error {number(found[name]['standard_error_data'])}"
        for name in ("information", "marginal_kl")
    }
    limit = ", SATURATED: take more data" if found["saturated"] else ""
    return {
        "information about x": f"{shown['information']}; at most log N = {found['log_num_data']:.2f}{limit})",
        "KL of q(z) from p(z)": f"{shown['marginal_kl']}, of these {found['num_data']} data)",
    }
