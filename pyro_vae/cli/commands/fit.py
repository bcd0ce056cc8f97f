"""Train a VAE, save the run and its pictures; resumes a run that was stopped.

The training is by stochastic variational inference. The config.yaml of a run directory holds these options, and
--config takes it.
"""

from typing import Any, Literal

from jsonargparse import Namespace

from pyro_vae.cli.class_options import ClassOption
from pyro_vae.cli.option_groups import add_lr_schedule, optimizer
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant

# These defaults of the command are a recipe that works; `fit` in Python has other defaults. If the user names a class,
# even the same one, only the defaults of the class itself apply.
_WARM_UP = {"class_path": "Linear", "init_args": {"start": 0.0, "end": 1.0, "share": 0.125}}
_WARMED_ELBO = {"class_path": "ELBO", "init_args": {"beta": _WARM_UP}}
_ADAM = {"class_path": "Adam", "init_args": {"lr": 2e-3}}

_VAE = ClassOption(
    ("pyro_vae.autoencoders.Autoencoder",), {"class_path": "VAE"}, later={"event_shape": (), "context": None}
)
"""The data decide the shapes of x and of c."""
_OBJECTIVE = ClassOption(("pyro_vae.objectives.Objective",), _WARMED_ELBO)
_TRACKER = ClassOption(("pyro_vae.trackers.Tracker",))


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae fit`."""
    _add_data(parser.add_argument_group("data"))
    _add_model(parser)
    _add_objective(parser)
    _add_training(parser)
    _add_output(parser)


def run(options: Namespace) -> int:
    """Train, save the run and its pictures, and print a summary; returns the exit code."""
    from pyro_vae.cli.work.fit import run

    return run(options)


def _add_data(group: Any) -> None:
    group.add_argument(
        "--data",
        type=str,
        default="digits",
        metavar="NAME|PATH",
        help="digits, linear_gaussian, mnist, ..., a file: .npz, CSV, Parquet, IDX, or .npy, which may be larger than "
        "memory, or a folder: of images in a sub-folder for each class, or as store_data writes it",
    )
    group.add_argument(
        "--binarize",
        type=Literal["auto", "none", "static", "dynamic", "threshold"],
        default="auto",
        help="auto: dynamic (with quadrants static) if the likelihood is for {0, 1}, else none",
    )
    group.add_argument(
        "--dequantize", type=bool, default=False, help="add uniform noise within each grey level, for densities"
    )
    group.add_argument(
        "--image_size",
        type=int | tuple[int, int] | None,
        default=None,
        metavar="SIZE|[HEIGHT,WIDTH]",
        help="of a folder of images: scale each until it covers this size, and cut off what lies outside",
    )
    group.add_argument(
        "--channels", type=int | None, default=None, help="of a folder of images: 1 makes all grey, 3 all coloured"
    )
    group.add_argument("--divide_by", type=float | None, default=None, help="divide all values by this")
    group.add_argument("--valid_size", type=int, default=0, help="hold out the last N of train for validation")
    group.add_argument(
        "--test_size", type=int, default=0, help="hold out the last N of train for testing, before valid_size does"
    )
    group.add_argument(
        "--missing",
        type=constant("pyro_vae.data.gaps", "Missing"),
        default=None,
        metavar="nan|mask|VALUE",
        help="what stands for an element that was not observed: nan (also an empty field of a table), a number such as "
        "-1, or mask: the arrays train_mask, valid_mask, test_mask of an .npz, true where observed",
    )
    help = (
        "of the columns of a table: real, positive, count, binary, category or ordered, e.g. --kinds.age real, or "
        "--kinds '{age: real, size: [S, M, L]}', where a list has the levels of an ordered column in their order. "
        "Mixed takes them; what is not given is guessed"
    )
    group.add_argument("--kinds", type=dict[str, Any] | None, default=None, metavar="COLUMN.KIND", help=help)
    context = constant("pyro_vae.data.inputs", "Context")
    group.add_argument(
        "--context", type=context, default="none", help="what a conditional VAE is given in addition to x"
    )
    group.add_argument("--labelled", type=int, default=0, help="data of train that keep their label, as the input y")
    group.add_argument("--repeats", type=int, default=1, help="how often each labelled datum is in train")
    group.add_argument(
        "--standardize",
        type=bool,
        default=False,
        help="let the networks work on standardised data, for real data of any scale; results keep the data's units",
    )
    group.add_argument(
        "--data_root",
        type=str | None,
        default=None,
        metavar="FOLDER",
        help="where downloadable sets lie, and decoded images",
    )
    group.add_argument("--data_seed", type=int, default=0, help="seed of the binarisation or dequantisation")
    group.add_argument("--download", type=bool, default=False, help="fetch a downloadable set that is not there")


def _add_model(parser: CommandParser) -> None:
    group = parser.add_argument_group("model")
    parser.add_class(
        group,
        "vae",
        _VAE,
        help="{classes}, or a class of your own by import path (default: VAE). Its options are written "
        "--vae.OPTION VALUE, those of its parts --vae.PART.OPTION VALUE: --vae.latent_dim 8 --vae.prior VampPrior "
        "--vae.encoder.hidden [200,100]. Of a VAE: {options}. "
        "--vae.help CLASS and --vae.PART.help CLASS list the options of a class",
    )


def _add_objective(parser: CommandParser) -> None:
    group = parser.add_argument_group("objective")
    parser.add_class(
        group,
        "objective",
        _OBJECTIVE,
        help="{classes}, or your own by import path (default: ELBO whose beta rises from 0 "
        "to 1 over the first eighth of the training). A class that is named starts from its own defaults: "
        "--objective ELBO has beta 1. --objective.help CLASS lists its options",
    )


def _add_training(parser: CommandParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", type=int, default=400, help="passes over the training data")
    group.add_argument("--batch_size", type=int, default=100, help="data in a step")
    parser.add_class(
        group,
        "optimizer",
        optimizer(_ADAM),
        help="a class of torch.optim: {classes} (default: Adam with lr 0.002). "
        "--optimizer.lr 0.01 and others; --optimizer.help CLASS lists them",
    )
    add_lr_schedule(parser, group)
    group.add_argument(
        "--clip_norm", type=float | None, default=None, help="largest gradient norm of the loss per datum"
    )
    group.add_argument(
        "--weight_prior",
        type=float | None,
        default=None,
        help="standard deviation of a normal prior on the decoder's weights",
    )
    group.add_argument("--patience", type=int | None, default=None, help="epochs without a better validation value")
    keep = constant("pyro_vae.training.settings", "Keep")
    group.add_argument("--keep", type=keep, default="best", help="weights: best by the objective on validation data")
    group.add_argument(
        "--start_at_mean",
        type=bool | Literal["auto"],
        default="auto",
        help="output bias of the decoder from the training means; auto: if its class and the likelihood's know how",
    )
    group.add_argument(
        "--start_from",
        type=str | None,
        default=None,
        metavar="RUN",
        help="begin with the weights of this run, of the same model, e.g. to go on with another objective",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of weights, order and noise")
    group.add_argument("--log_every", type=int, default=50, help="steps between measurements of the bound")
    group.add_argument(
        "--compile",
        type=bool | Literal["auto"],
        default="auto",
        help="compile the step; auto: if the training is long enough for it to pay",
    )
    precision = constant("pyro_vae.networks.precision", "Precision")
    group.add_argument(
        "--precision", type=precision, default="float32", help="of the networks' products; weights stay float32"
    )
    group.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")


def _add_output(parser: CommandParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument(
        "--run", type=str | None, default=None, metavar="FOLDER", help="run directory; without it runs/NAME-HASH"
    )
    group.add_argument("--save_every", type=float, default=10.0, help="seconds between checkpoints")
    help = "is told each epoch and the pictures: {classes}, or your own by import path; --tracker.OPTION VALUE"
    parser.add_class(group, "tracker", _TRACKER, help=help)
    group.add_argument("--pictures", type=bool, default=True, help="save pictures at the end")
    group.add_argument("--quiet", action="store_true", help="no progress")
    group.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_config(group, help="YAML with any of these options, e.g. a run's config.yaml; what comes later counts")
