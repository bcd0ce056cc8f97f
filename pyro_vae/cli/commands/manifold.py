"""Decode a grid over a two-dimensional code.

Tiles are spread as the standard normal prior spreads its draws: at its quantiles from --margin to 1 - margin. Prints
which share of the data has its code inside the grid.

    pyro-vae manifold runs/mnist-2d --side 30
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_picture, add_run, add_split
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae manifold`."""
    add_run(parser)
    data, grid = parser.add_argument_group("data"), parser.add_argument_group("grid")
    add_split(data)
    data.add_argument("--num", type=int, default=1000, help="data whose codes are counted")
    grid.add_argument("--side", type=int, default=20, help="tiles along each side")
    grid.add_argument("--margin", type=float, default=0.05, help="probability that is left out on each side")
    add_picture(parser)


def run(options: Namespace) -> int:
    """Decode, print and save; returns the exit code."""
    from pyro_vae.cli.work.moved_codes import run_manifold

    return run_manifold(options)
