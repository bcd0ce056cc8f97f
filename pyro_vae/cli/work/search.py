"""`pyro-vae search`: successive halving over options of `pyro-vae fit`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from pyro_vae import plots
from pyro_vae.arguments.values import whole
from pyro_vae.cli.parsing import options_of, parse, parser_of, read_yaml
from pyro_vae.cli.streams import say
from pyro_vae.cli.values import suggest
from pyro_vae.cli.work.fit import build, check_classes, is_binary, load_from_options, tracker_of, without_pyros_advice
from pyro_vae.cli.work.places import Place
from pyro_vae.cli.work.printing import table
from pyro_vae.data import Dataset
from pyro_vae.diagnostics.halving import SearchResult, stages
from pyro_vae.errors import UsageError
from pyro_vae.messages import finite, remark
from pyro_vae.training.searching import search
from pyro_vae.training.space import candidates

_SEARCHED = (
    "vae",
    "objective",
    "optimizer",
    "lr_schedule",
    "batch_size",
    "clip_norm",
    "weight_prior",
    "keep",
    "start_at_mean",
    "start_from",
    "standardize",
    "seed",
    "compile",
    "precision",
)
"""Options of `fit` that may differ between candidates: log p(x) is then still of the same data."""


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    space = _space(options)
    base = _parsed(options.config)
    found = candidates_of(space, options)
    data = _data(base, found, options)
    places = {name: Place(Path(options.run) / name) for name in ("result.json", "result.png")}
    for place in places.values():
        place.check()
    remark(f"data: {data.protocol}\n{len(found)} candidates, run directories in {options.run}")
    result = _search(space, data, options)
    summary = {"data": data.protocol, "config": options.config, "space": options.space, **result.summary()}
    text = json.dumps(finite(summary), indent=1)
    say(text if options.json else _readable(result, data))
    places["result.json"].write(text.encode())
    places["result.png"].write(plots.encoded(plots.search(result)))
    return 0


def _search(space: Mapping[str, Any], data: Dataset, options: Namespace) -> SearchResult:
    names = ("budget", "run", "num_candidates", "factor", "num_particles", "num_data", "seed", "max_rows", "device")

    def make(values: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        given = _parsed(options.config, values, options.space)
        vae, objective, settings = build(given, data)
        keywords = {name: value for name, value in vars(settings).items() if name not in ("epochs", "patience")}
        return vae, {**keywords, "objective": objective, "tracker": tracker_of(given)}

    with without_pyros_advice():
        return search(make, space, data, progress=not options.quiet, **{name: options[name] for name in names})


def _space(options: Namespace) -> dict[str, Any]:
    """The space, with options before those below them, so that a class is named before its options."""
    space = read_yaml(options.space, "--space")
    if not isinstance(space, Mapping):
        raise UsageError(f"--space {options.space}: expected options with their values, e.g. vae.latent_dim: [2, 10]")
    for key in space:
        _check_key(key, options.space)
    return dict(sorted(space.items(), key=lambda item: item[0].count(".")))


def _check_key(key: str, file: str) -> None:
    first, fit = key.partition(".")[0], parser_of("fit")
    known = [*fit.classes, *options_of(fit)]
    if first in _SEARCHED:
        return
    if first not in known:
        raise UsageError(f"--space {file}: unknown key {key!r}{suggest(first, _SEARCHED)}")
    why = {"epochs": "--budget decides it", "patience": "the search itself stops trainings"}
    reason = why.get(first, "it is the same for all candidates, so that log p(x) is of the same data: set it in CONFIG")
    raise UsageError(f"--space {file}: {key} can't be searched: {reason}")


def candidates_of(space: Mapping[str, Any], options: Namespace) -> list[dict[str, Any]]:
    """The candidates, each with options that `pyro-vae fit` takes.

    Raises:
        UsageError: if not, with the file.
    """
    try:
        found = candidates(space, options.num_candidates, options.seed)
    except UsageError as error:
        message = str(error).replace("num_candidates", "--num_candidates")
        raise UsageError(f"--space {options.space}: {message}") from None
    for name in ("budget", "factor"):
        whole(f"--{name}", options[name], {"budget": 1, "factor": 2}[name])
    stages(options.budget, len(found), options.factor, lengthened=True)  # refuses a small budget before all is parsed
    for values in found:
        _parsed(options.config, values, options.space)
    return found


def _parsed(config: str, values: Mapping[str, Any] | None = None, file: str = "") -> Namespace:
    """The options of `pyro-vae fit` in CONFIG, with those of a candidate in their place."""
    words = [] if values is None else ["--config", json.dumps(dict(values))]
    try:
        options = parse(parser_of("fit"), ["--config", config, *words])
        check_classes(options)
    except UsageError as error:
        message = str(error).replace("--config: ", "CONFIG: ", 1).removeprefix("--config ")
        raise UsageError(message if values is None else f"--space {file}: {message}") from error
    if options.patience is not None:
        raise UsageError(f"{config}: patience: the search itself stops trainings: leave it out")
    tracker = {} if options.tracker is None else options.tracker.as_dict().get("init_args") or {}
    if tracker.get("folder") is not None:
        raise UsageError(
            f"{config}: tracker.folder: the curves of all candidates would be in it: leave it out, and those of each "
            "are in its run directory"
        )
    return options


def _data(base: Namespace, found: list[dict[str, Any]], options: Namespace) -> Dataset:
    """The data of CONFIG, which are prepared alike for all candidates."""
    if base.binarize == "auto":
        each = (_parsed(options.config, values, options.space) for values in found)
        if len({is_binary(one.vae.init_args.get("likelihood")) for one in (base, *each)}) > 1:
            raise UsageError(
                f"--space {options.space}: with binarize: auto the data would depend on the likelihood: set binarize "
                f"in {options.config}"
            )
    data = load_from_options(base)
    if data.valid is None:
        raise UsageError(
            f"a search compares candidates on validation data, and there are none: set valid_size in {options.config}"
        )
    return data


def _readable(result: SearchResult, data: Dataset) -> str:
    shown = {
        "data": data.protocol,
        "epochs": f"{result.spent} of {result.budget}, {'runs go on' if result.lengthened else 'anew in each round'}",
        "log p(x)": f"of validation data, nats per datum, K = {result.num_particles}; differences by pairs",
    }
    after = "its log p(x) is that of the best of several, so too high on average: evaluate it on test"
    return f"{table(shown)}\n\n{result}\nrun: {result.run}; {after}"
