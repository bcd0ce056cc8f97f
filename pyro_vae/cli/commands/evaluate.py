"""Estimate log p(x) of a split, by importance sampling or another method, with errors and health."""

from typing import Any, Literal

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_importance, add_quiet, add_run, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae evaluate`."""
    add_run(parser)
    _add_data(parser.add_argument_group("data"))
    _add_method(parser.add_argument_group("method"))
    add_quiet(parser.add_argument_group("output"))


def run(options: Namespace) -> int:
    """Estimate, print and save; returns the exit code."""
    from pyro_vae.cli.work.evaluate import run

    return run(options)


def _add_data(group: Any) -> None:
    add_split(group)
    few = constant("pyro_vae.cli.work.evaluate", "FEW")
    help = (
        "number of data, evenly spread over the split; by default all for importance, psis and prior, "
        f"{few} for the other methods"
    )
    group.add_argument("--num_data", type=int | None, default=None, help=help)


def _add_method(group: Any) -> None:
    group.add_argument(
        "--method",
        default="importance",
        choices=(*constant("pyro_vae.evidence.methods", "METHODS"), "all"),
        help="how to estimate it; all: every one that can, side by side on the same data",
    )
    add_importance(group, num_particles="K, draws for each datum, of methods that have them")
    group.add_argument(
        "--compile",
        type=bool | Literal["auto"],
        default="auto",
        help="run the programs as compiled graphs; auto: if there is enough to do",
    )
    group.add_argument(
        "--precision",
        type=constant("pyro_vae.networks.precision", "Precision"),
        default="float32",
        help="bf16: a fast estimate, saved in addition to the exact one and marked as such",
    )
    group.add_argument(
        "--options",
        type=dict[str, Any] | None,
        default=None,
        metavar="NAME.VALUE",
        help="options of the method, e.g. --options.num_chains 8; with all, for every method that has it",
    )
