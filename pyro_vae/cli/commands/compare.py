"""Rank runs by log p(x) of the same data, with errors of the differences."""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_importance, add_quiet, add_split, add_trust
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae compare`."""
    parser.add_argument("runs", type=str, nargs="+", help="the run directories, two or more")
    add_trust(parser)
    data = parser.add_argument_group("data")
    add_split(data)
    help = "number of data, evenly spread over the split; by default all"
    data.add_argument("--num_data", type=int | None, default=None, help=help)
    add_importance(parser.add_argument_group("method"), num_particles="K, draws for each datum")
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str | None, default=None, metavar="PNG", help="file to draw the differences in")
    add_quiet(output)


def run(options: Namespace) -> int:
    """Compare, print, and draw the differences if asked; returns the exit code."""
    from pyro_vae.cli.work.compare import run

    return run(options)
