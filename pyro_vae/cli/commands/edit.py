"""Edit data: move their codes towards a class, by the difference of the mean codes of classes.

The vector v is the mean code of the class --to less that of the class --from, or of all others, over the data of
--reference. Each datum of --from (or of no class --to) is decoded at its code plus --strengths times v, and the edited
data are encoded again to say how far along v they are then.

    pyro-vae edit runs/mnist --to 7 --from 1 --strengths 0 0.5 1 1.5
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_picture, add_run, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae edit`."""
    add_run(parser)
    data, vector = parser.add_argument_group("data"), parser.add_argument_group("vector")
    add_split(data)
    data.add_argument("--num", type=int, default=8, help="data that are edited")
    vector.add_argument("--to", type=int, required=True, metavar="CLASS", help="the class with the attribute; required")
    help = "the class without it; without this option all others"
    vector.add_argument("--from", type=int | None, default=None, metavar="CLASS", dest="source", help=help)
    help = "how far, in lengths of the vector; negative away from the class"
    vector.add_argument("--strengths", type=float, nargs="+", default=[-1.0, 0.0, 0.5, 1.0, 1.5], help=help)
    splits = constant("pyro_vae.data.splits", "SPLITS")
    vector.add_argument("--reference", default="valid", choices=splits, help="the data of the mean codes")
    vector.add_argument("--num_reference", type=int, default=2000, help="the most of them, evenly spread")
    add_picture(parser)


def run(options: Namespace) -> int:
    """Edit, print and save; returns the exit code."""
    from pyro_vae.cli.work.moved_codes import run_edit

    return run_edit(options)
