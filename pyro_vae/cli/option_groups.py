"""Options that several commands have. Nothing here imports torch: choices are read from the sources."""

from collections.abc import Mapping
from typing import Any

from pyro_vae.cli.class_options import ClassOption
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_run(parser: CommandParser) -> None:
    """The run directory, and `--trust`."""
    parser.add_argument("run", type=str, help="the run directory")
    add_trust(parser)


def add_trust(parser: CommandParser) -> None:
    """`--trust`: modules whose classes a run directory may name."""
    help = "a module of yours, besides pyro_vae, whose classes may be built; can be given several times"
    parser.add_argument("--trust", type=str, default=[], action="append", metavar="MODULE", help=help)


def add_split(group: Any, with_all: bool = False) -> None:
    """Which data are read: by default those of the run.

    Args:
        group: where they stand in the help.
        with_all: whether a file without a test set can be read whole.
    """
    splits = constant("pyro_vae.data.splits", "SPLITS")
    more = "; all: of a file without a test set every row, also those that the run held out" if with_all else ""
    choices = (*splits, "all") if with_all else splits
    group.add_argument("--split", default="test", choices=choices, help=f"which data{more}")
    help = "another data set than the run's, prepared likewise"
    group.add_argument("--data", type=str | None, default=None, metavar="NAME|PATH", help=help)


def add_importance(group: Any, num_particles: str) -> None:
    """The settings of importance sampling.

    Args:
        group: where they stand in the help.
        num_particles: the help of `--num_particles`.
    """
    group.add_argument("--num_particles", type=int, default=5000, help=num_particles)
    add_seed(group)
    group.add_argument("--max_rows", type=int, default=4096, help="(datum, draw) pairs in one run of the decoder")


def add_seed(group: Any) -> None:
    """The seed of a command that draws."""
    group.add_argument("--seed", type=int, default=0, help="seed of the draws")


def add_picture(parser: CommandParser) -> None:
    """Where a command that makes a picture or arrays saves them, with the options of every command."""
    group = parser.add_argument_group("output")
    help = "a .png (a picture), .npz (arrays) or .csv, for a run on a table; without it a picture or a table in the run"
    group.add_argument("--out", type=str | None, default=None, metavar="FILE", help=help)
    add_common(group)


def add_quiet(group: Any) -> None:
    """`--quiet`, for a command that shows progress, with the options of every command."""
    group.add_argument("--quiet", action="store_true", help="no progress")
    add_common(group)


def add_common(group: Any) -> None:
    """The options that every command has."""
    group.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    group.add_argument("--json", action="store_true", help="print the result as JSON")


def add_lr_schedule(parser: CommandParser, group: Any) -> None:
    """`--lr_schedule`, which falls by default."""
    schedule = ClassOption(("pyro_vae.schedules.Schedule",), {"class_path": "Cosine"})
    help = (
        "factor on the learning rate, in epochs: {classes} (default: Cosine, from 1 to 0 over the training). "
        "--lr_schedule.help CLASS lists its options"
    )
    parser.add_class(group, "lr_schedule", schedule, help=help)


def optimizer(default: Mapping[str, Any]) -> ClassOption:
    """An option for a class of torch.optim.

    Args:
        default: the description of the optimizer that the command takes where none is named.
    """
    return ClassOption(("torch.optim.Optimizer",), default, built_with=1)
