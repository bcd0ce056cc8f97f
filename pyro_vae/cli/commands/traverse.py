"""Move one coordinate of the code at a time, and decode: what each does to the data.

A row for each coordinate, the one with the highest KL from the prior first. By default a row goes from -3 to 3 standard
deviations of the aggregate posterior, the mean of q(z|x) over the data; --along prior takes those of p(z), which for
the standard normal are its quantiles.

    pyro-vae traverse runs/mnist
    pyro-vae traverse runs/mnist --datum 3 --along prior --steps 11 --out traversal.npz
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_picture, add_run, add_split
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae traverse`."""
    add_run(parser)
    data, path = parser.add_argument_group("data"), parser.add_argument_group("rows")
    add_split(data)
    data.add_argument("--num", type=int, default=1000, help="data whose codes set order, centre and range")
    help = "move the code of this datum of them, from 0; without it the mean of all codes"
    data.add_argument("--datum", type=int | None, default=None, help=help)
    path.add_argument("--along", default="aggregate", choices=("aggregate", "prior"), help="whose mean and spread")
    path.add_argument("--span", type=float, default=3.0, help="how far, in standard deviations")
    path.add_argument("--steps", type=int, default=9, help="values of each coordinate")
    path.add_argument("--dims", type=int, default=20, help="the most coordinates in a picture")
    add_picture(parser)


def run(options: Namespace) -> int:
    """Traverse, print and save; returns the exit code."""
    from pyro_vae.cli.work.moved_codes import run_traverse

    return run_traverse(options)
