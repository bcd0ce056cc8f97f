"""`pyro-vae fit`: train a VAE, save the run and its pictures."""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from pyro.distributions import constraints

from pyro_vae.agreement import agreed
from pyro_vae.autoencoder import Autoencoder
from pyro_vae.cli.parsing import add_common, allow_own_modules, known_classes, make_parser, named, parse
from pyro_vae.cli.pictures import save_pictures
from pyro_vae.cli.processes import in_turn, joined
from pyro_vae.cli.tables import print_result
from pyro_vae.data import Context, Dataset, load_data
from pyro_vae.describing import build_vae, import_class, resolve, vae_parts
from pyro_vae.errors import UsageError
from pyro_vae.hierarchical import HierarchicalVAE as HierarchicalVAE  # so that these are known by name
from pyro_vae.objectives import Objective
from pyro_vae.precision import Precision
from pyro_vae.progress import remark
from pyro_vae.schedules import Schedule
from pyro_vae.seeding import seeded
from pyro_vae.semi_supervised import SemiSupervisedVAE as SemiSupervisedVAE
from pyro_vae.settings import Keep, Settings, run_config
from pyro_vae.training import History, fit
from pyro_vae.vae import VAE
from pyro_vae.vq import VQVAE as VQVAE

_SETTINGS = (
    "epochs",
    "batch_size",
    "clip_norm",
    "weight_prior",
    "patience",
    "keep",
    "start_at_mean",
    "seed",
    "log_every",
    "compile",
    "precision",
)

# The command's defaults are a recipe that works; `fit` in Python starts from none of it.
_WARM_UP = {"class_path": "pyro_vae.schedules.Linear", "init_args": {"start": 0.0, "end": 1.0, "share": 0.125}}
_WARMED_ELBO = {"class_path": "pyro_vae.objectives.ELBO", "init_args": {"beta": _WARM_UP}}
_ADAM = {"class_path": "torch.optim.Adam", "init_args": {"lr": 2e-3}}
_VAE = {"class_path": "pyro_vae.VAE", "init_args": {"event_shape": []}}
"""No event shape: that of the data."""
_DECAY = {"class_path": "pyro_vae.schedules.Cosine"}


def run(argv: list[str]) -> int:
    """Run the command with its arguments; returns the exit code."""
    allow_own_modules()
    options = parse(fit_parser(), argv)
    with joined(options.device) as world:
        data = in_turn(world, lambda: load_from_options(options)) if options.download else None
        with agreed(world):
            data = data or load_from_options(options)
            vae, objective, settings = _build(options, data)
            directory = options.run or _default_run(run_config(vae, data, objective, settings))
        if world.main:
            remark(f"data: {data.protocol}")
            remark(f"run directory: {directory}")
        history = fit(
            vae,
            data,
            objective,
            **vars(settings),
            device=str(world.device),
            run=directory,
            progress=not options.quiet,
            save_every=options.save_every,
        )
    if world.main:
        pictures = save_pictures(vae, data, Path(directory), history.rows, options.seed) if options.pictures else []
        print_result(_summary(history, data, str(directory), pictures), as_json=options.json)
    return 0


def fit_parser() -> ArgumentParser:
    """The parser of `pyro-vae fit`; its configuration is what a run directory's config.yaml holds."""
    parser = make_parser("fit", "Train a VAE by stochastic variational inference and save the run.")
    parser.add_argument("--config", action="config", help="YAML with any of these options, e.g. a run's config.yaml")
    _add_data(parser)
    parser.add_subclass_arguments(
        Autoencoder, "vae", default=_VAE, instantiate=False, fail_untyped=False, help=_vae_help()
    )
    parser.add_subclass_arguments(Objective, "objective", default=_WARMED_ELBO, instantiate=False)
    _add_training(parser)
    parser.add_argument(
        "--run", type=str | None, default=None, help="run directory; default: runs/NAME-HASH of the settings"
    )
    parser.add_argument("--save_every", type=float, default=10.0, help="seconds between checkpoints")
    parser.add_argument("--pictures", type=bool, default=True, help="save pictures at the end")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    add_common(parser)
    return parser


def _vae_help() -> str:
    """The classes, and the options of the one that is taken where none is named."""
    names = [name for name in signature(VAE).parameters if name != "event_shape"]
    classes = " or ".join(cls.__name__ for cls in known_classes(Autoencoder))
    return (
        f"{classes}, or a class of your own by import path; without one a VAE, whose options are "
        f"{', '.join(f'--vae.{name}' for name in names)}. See --vae.help CLASS"
    )


def _add_data(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--data",
        type=str,
        default="digits",
        help="digits, linear_gaussian, mnist, ..., or a path (an .npy may be larger than memory)",
    )
    kinds = Literal["auto", "none", "static", "dynamic", "threshold"]
    parser.add_argument(
        "--binarize",
        type=kinds,
        default="auto",
        help="auto: dynamic (with quadrants static) if the likelihood is for {0, 1}, else none",
    )
    parser.add_argument(
        "--dequantize", type=bool, default=False, help="add uniform noise within each grey level, for densities"
    )
    parser.add_argument("--divide_by", type=float | None, default=None, help="divide all values by this")
    parser.add_argument("--valid_size", type=int, default=0, help="hold out the last n of train for validation")
    parser.add_argument(
        "--test_size", type=int, default=0, help="hold out the last n of train for testing, before valid_size does"
    )
    parser.add_argument(
        "--context", type=Context, default="none", help="of a conditional VAE: labels, array or quadrants-N"
    )
    parser.add_argument("--labelled", type=int, default=0, help="data of train that keep their label, as the input y")
    parser.add_argument("--repeats", type=int, default=1, help="how often each labelled datum is in train")
    parser.add_argument(
        "--standardize",
        type=bool,
        default=False,
        help="let the networks work on standardised data, for real data of any scale; results keep the data's units",
    )
    parser.add_argument("--data_root", type=str | None, default=None, help="where downloadable sets lie")
    parser.add_argument("--data_seed", type=int, default=0, help="seed of the binarisation or dequantisation")
    parser.add_argument("--download", type=bool, default=False, help="fetch a downloadable set that is not there")


def _add_training(parser: ArgumentParser) -> None:
    factory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
    parser.add_argument("--epochs", type=int, default=400, help="passes over the training data")
    parser.add_argument("--batch_size", type=int, default=100, help="data in a step")
    parser.add_argument("--optimizer", type=factory, default=_ADAM, help="a torch.optim class")
    parser.add_argument(
        "--lr_schedule",
        type=Schedule,
        default=_DECAY,
        help="factor on the learning rate, in epochs",
    )
    parser.add_argument(
        "--clip_norm", type=float | None, default=None, help="largest gradient norm of the loss per datum"
    )
    parser.add_argument(
        "--weight_prior",
        type=float | None,
        default=None,
        help="standard deviation of a normal prior on the decoder's weights",
    )
    parser.add_argument("--patience", type=int | None, default=None, help="epochs without a better validation value")
    parser.add_argument("--keep", type=Keep, default="best", help="weights: best by the objective on validation data")
    parser.add_argument(
        "--start_at_mean",
        type=bool | Literal["auto"],
        default="auto",
        help="output bias of the decoder from the training means; auto: if its class and the likelihood's know how",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise")
    parser.add_argument("--log_every", type=int, default=50, help="steps between measurements of the bound")
    parser.add_argument(
        "--compile",
        type=bool | Literal["auto"],
        default="auto",
        help="compile the step; auto: if the training is long enough for it to pay",
    )
    parser.add_argument(
        "--precision", type=Precision, default="float32", help="of the networks' products; weights stay float32"
    )


def load_from_options(options: Namespace) -> Dataset:
    """The data set that the options name, `--binarize auto` decided."""
    names = ("context", "dequantize", "divide_by", "valid_size", "test_size", "download", "labelled", "repeats")
    load = {name: options[name] for name in names}
    load |= {"root": options.data_root, "seed": options.data_seed}
    if options.binarize != "auto":
        return load_data(options.data, binarize=options.binarize, **load)
    data = load_data(options.data, **load)
    if not _is_binary(options.vae.init_args.get("likelihood")) or data.exact is not None or _holds_binary(data):
        return data
    if options.context.startswith("quadrants-"):  # what is given is drawn with the rest, so not at each visit
        return load_data(options.data, binarize="static", **load)
    return replace(data, binarization="dynamic", origin={**data.origin, "binarize": "dynamic"})


def _holds_binary(data: Dataset) -> bool:
    return all(bool(((x == 0) | (x == 1)).all()) for x in data.chunks("train"))


def _is_binary(likelihood: Namespace | None) -> bool:
    if likelihood is None:
        return False
    cls = resolve({"class_path": likelihood.class_path}, named(likelihood))
    grey = likelihood.get("init_args", {}).get("grey", False)
    return getattr(cls, "support", None) is constraints.boolean and not grey


def _build(options: Namespace, data: Dataset) -> tuple[Autoencoder, Objective, Settings]:
    """The VAE with its first weights, the objective and the settings; every class was named by the user."""
    with seeded(options.seed, "init"):
        vae = build_vae(_with_shapes(options.vae, data, options.standardize), named(options.vae))
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
        values["start_at_mean"] = vae.can_start_at_mean
    return vae, objective, Settings(**values)


def _with_shapes(vae: Namespace, data: Dataset, standardize: bool = False) -> dict[str, Any]:
    """The description of the VAE, with the shapes that the options leave to the data."""
    path, keywords = vae_parts(vae.as_dict())
    context = data.input_shapes.get("c")
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
    """`runs/NAME-HASH`: the same settings resume, others get a directory of their own."""
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
        "units": "nats per datum; train: batches under way, now and then; valid: one draw for each datum",
        **kept,
        "pictures": [str(path) for path in pictures],
    }
