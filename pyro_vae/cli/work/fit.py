"""`pyro-vae fit`: train a VAE, save the run and its pictures."""

import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from pyro.distributions import constraints

from pyro_vae.autoencoders import Autoencoder
from pyro_vae.cli.parsing import named
from pyro_vae.cli.work.pictures import save_pictures
from pyro_vae.cli.work.printing import print_result
from pyro_vae.cli.work.processes import in_turn, joined
from pyro_vae.data import Dataset, load_data
from pyro_vae.distributed.agreement import agreed
from pyro_vae.errors import CheckpointError, PyroVaeError, UsageError
from pyro_vae.messages import remark
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, import_class, resolve, vae_parts
from pyro_vae.trackers import Guarded
from pyro_vae.training.fitting import fit
from pyro_vae.training.history import History
from pyro_vae.training.settings import Settings, run_config
from pyro_vae.training.telling import Described, Telling

_SETTINGS = (
    "epochs",
    "batch_size",
    "clip_norm",
    "weight_prior",
    "patience",
    "keep",
    "start_at_mean",
    "start_from",
    "seed",
    "log_every",
    "compile",
    "precision",
)


def run(options: Namespace) -> int:
    """Run the command with its options; returns the exit code."""
    check_classes(options)
    with joined(options.device) as world:
        data = in_turn(world, lambda: load_from_options(options)) if options.download else None
        with agreed(world):
            data = data or load_from_options(options)
            vae, objective, settings = build(options, data)
            directory = options.run or _default_run(run_config(vae, data, objective, settings))
        if world.main:
            remark(f"data: {data.protocol}")
            _remark_on_columns(data)
            remark(f"run directory: {directory}")
            _remark_on_classes(vae, objective)
        where = {"device": str(world.device), "run": directory}
        tracker = _tracker(options)
        with without_pyros_advice():
            history = fit(
                vae,
                data,
                objective,
                **vars(settings),
                **where,
                progress=not options.quiet,
                save_every=options.save_every,
                tracker=tracker,
            )
    if world.main:
        told = Telling(tracker, Described(vae, data, objective, settings, Path(directory)))
        pictures, error = _drawn(vae, data, Path(directory), history, options, told)
        if tracker is not None:
            tracker.close()
        print_result(_summary(history, data, str(directory), pictures), as_json=options.json)
        if error is not None:
            raise error
    return 0


def check_classes(options: Namespace) -> None:
    """Refuse null where a class is required; YAML can contain it and the parser accepts it."""
    for name in ("vae", "objective", "optimizer", "lr_schedule"):
        if options[name] is None:
            raise UsageError(f"--{name}: expected a class, got null: name one, or leave the key out for the default")


def _tracker(options: Namespace) -> Guarded | None:
    """The tracker that the options name, to be made when the training begins; its failures are warnings."""
    make = tracker_of(options)
    return None if make is None else Guarded(make)


def tracker_of(options: Namespace) -> Callable[[], Any] | None:
    """A function that makes the tracker which the options name, and has its name; None where they name none."""
    if options.tracker is None:
        return None
    description = options.tracker.as_dict()

    def make() -> Any:
        made = resolve(description, named(options.tracker))
        return made() if isinstance(made, type | partial) else made

    make.__name__ = description["class_path"].rpartition(".")[2]
    return make


def _drawn(
    vae: Autoencoder, data: Dataset, run: Path, history: History, options: Namespace, told: Telling
) -> tuple[list[Path], PyroVaeError | None]:
    """The pictures of the run, or the error that prevented them: the run is already trained and saved."""
    if not options.pictures:
        return [], None
    if not options.quiet:
        remark("drawing pictures")
    try:
        tell = partial(told.figures, step=history.rows[-1]["step"])
        return save_pictures(vae, data, run, history.rows, options.seed, tell), None
    except PyroVaeError as error:
        return [], error


def _remark_on_columns(data: Dataset) -> None:
    """Show the kinds of the columns, where they have kinds."""
    if data.table is not None and set(data.table.kinds) != {"real"}:
        remark(f"columns of train (to change one: --kinds.COLUMN KIND):\n{data.table.summary(data.split('train'))}")


def _remark_on_classes(vae: Autoencoder, objective: Objective) -> None:
    """Recommend the objective for a model with classes if the ELBO trains it."""
    if vae.classes and isinstance(objective, ELBO):
        remark(
            f"the ELBO draws the class y of a {type(vae).__name__}, so its gradient is noisy: "
            "--objective SemiSupervisedELBO sums over the classes"
        )


@contextmanager
def without_pyros_advice() -> Iterator[None]:
    """Hide Pyro's advice to use TraceEnum_ELBO; `_remark_on_classes` recommends an objective of this package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).*need to use TraceEnum_ELBO", UserWarning)
        yield


def _check_labels(options: Namespace, vae: Autoencoder) -> None:
    """Refuse `--labelled` for a model that has no input `y`."""
    inputs = signature(vae.model).parameters.values()
    if options.labelled and not any(p.name == "y" or p.kind is p.VAR_KEYWORD for p in inputs):
        raise UsageError(
            f"--labelled {options.labelled} gives the model labels as the input y, which {type(vae).__name__} does not "
            "take: add --vae SemiSupervisedVAE --objective SemiSupervisedELBO, or leave --labelled out"
        )


def load_from_options(options: Namespace) -> Dataset:
    """The data set that the options name, with `--binarize auto` resolved."""
    names = (
        "context",
        "dequantize",
        "divide_by",
        "valid_size",
        "test_size",
        "download",
        "labelled",
        "repeats",
        "missing",
        "image_size",
        "channels",
    )
    load = {name: options[name] for name in names}
    load |= {"root": options.data_root, "seed": options.data_seed, "kinds": _kinds(options)}
    load |= {"progress": not options.quiet}
    if options.binarize != "auto":
        return load_data(options.data, binarize=options.binarize, **load)
    data = load_data(options.data, **load)
    if not is_binary(options.vae.init_args.get("likelihood")) or data.exact is not None or _holds_binary(data):
        return data
    if options.context.startswith("quadrants-"):  # the context is drawn with the rest, so not anew at each visit
        return load_data(options.data, binarize="static", **load)
    return replace(data, binarization="dynamic", origin={**data.origin, "binarize": "dynamic"})


def _kinds(options: Namespace) -> Any:
    """The kinds of columns for `load_data`: as typed, or as typed for the likelihood, or for one with kinds guessed."""
    likelihood = options.vae.init_args.get("likelihood")
    if options.kinds is not None or not _takes_kinds(likelihood):
        return options.kinds
    return list(likelihood.get("init_args", {}).get("kinds") or ()) or "guess"


def _takes_kinds(likelihood: Namespace | None) -> bool:
    if likelihood is None:
        return False
    cls = resolve({"class_path": likelihood.class_path}, named(likelihood))
    return "kinds" in signature(cls).parameters


def _holds_binary(data: Dataset) -> bool:
    return all(bool(((x == 0) | (x == 1) | x.isnan()).all()) for x in data.chunks("train"))  # nan: not observed


def is_binary(likelihood: Namespace | None) -> bool:
    """Whether data are to be binarised for a likelihood by `--binarize auto`."""
    if likelihood is None:
        return False
    cls = resolve({"class_path": likelihood.class_path}, named(likelihood))
    grey = likelihood.get("init_args", {}).get("grey", False)
    return getattr(cls, "support", None) is constraints.boolean and not grey


def build(options: Namespace, data: Dataset) -> tuple[Autoencoder, Objective, Settings]:
    """The VAE with initial weights, the objective and the settings. The user named all classes: they are trusted."""
    with seeded(options.seed, "init"):
        vae = _built(_with_shapes(options.vae, data, options.standardize), named(options.vae))
    _check_labels(options, vae)
    if options.patience is not None and data.valid is None:
        raise UsageError(
            f"--patience {options.patience} counts epochs without a better validation value, and there are no "
            "validation data: hold some out with --valid_size n, or leave --patience out"
        )
    values = {
        name: resolve(options[name].as_dict(), named(options[name]))
        for name in ("objective", "lr_schedule", "optimizer")
    }
    objective = values.pop("objective")
    values |= {name: options[name] for name in _SETTINGS}
    if options.start_at_mean == "auto":
        values["start_at_mean"] = vae.can_start_at_mean and options.start_from is None
    return vae, objective, Settings(**values)


def _built(description: dict[str, Any], trust: Sequence[str]) -> Autoencoder:
    """The VAE; if it can't be built, the options are wrong, not a run directory."""
    try:
        return build_vae(description, trust)
    except CheckpointError as error:
        raise UsageError(str(error)) from error.__cause__


def _with_shapes(vae: Namespace, data: Dataset, standardize: bool = False) -> dict[str, Any]:
    """The description of the VAE, with the shapes of the data where the options leave them open."""
    path, keywords = vae_parts(vae.as_dict())
    context = data.input_shapes.get("c")
    likelihood = vae.init_args.get("likelihood")
    if data.table is not None and _takes_kinds(likelihood) and not likelihood.get("init_args", {}).get("kinds"):
        of_class = keywords["likelihood"]
        keywords["likelihood"] = {**of_class, "init_args": {**of_class.get("init_args", {}), "kinds": data.table.kinds}}
    if not keywords.get("event_shape"):
        keywords["event_shape"] = data.event_shape
    if standardize:
        if "standardize" not in signature(import_class(path, ("pyro_vae", *named(vae)))).parameters:
            raise UsageError(f"--standardize: {path.rpartition('.')[2]} does not know how; leave it out")
        keywords["standardize"] = True
    if "context" in keywords:
        keywords["context"] = context if keywords["context"] is None else keywords["context"]
    elif context is not None:
        raise UsageError(f"--context: {path.rpartition('.')[2]} takes none; leave it out, or take --vae VAE")
    return {"class_path": path, "init_args": keywords}


def _default_run(config: dict[str, Any]) -> str:
    """`runs/NAME-HASH`: the same settings resume the run, other settings get another directory."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]
    return f"runs/{Path(config['data']).stem}-{digest}"


def _summary(history: History, data: Dataset, run: str, pictures: list[Path]) -> dict[str, Any]:
    last = history.rows[history.best_epoch - 1]
    kept = {name: last[name] for name in last if name not in ("epoch", "step", "lr", "seconds")}
    return {
        "data": data.protocol,
        "run": run,
        "epochs": history.rows[-1]["epoch"],
        "best_epoch": history.best_epoch,
        "kept": history.kept,
        "stopped_early": history.stopped_early,
        "device": history.device,
        "mode": history.mode,
        "seconds": history.rows[-1]["seconds"],
        "numbers": f"of epoch {history.best_epoch} of {history.rows[-1]['epoch']}, whose weights are kept",
        "units": "nats per datum; train: batches under way, now and then; valid: one draw for each datum",
        **kept,
        "pictures": [str(path) for path in pictures],
    }
