"""Draw from a trained VAE's prior and save a picture or arrays.

Codes are drawn from the prior and decoded.
"""

from typing import Literal

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_picture, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae sample`."""
    add_run(parser)
    draws, data = parser.add_argument_group("draws"), parser.add_argument_group("data, for --context data")
    num = constant("pyro_vae.cli.work.draws", "NUM")
    help = f"how many; without it {num}, or as many more as fill the rows of a picture of classes"
    draws.add_argument("--num", type=int | None, default=None, help=help)
    add_seed(draws)
    draws.add_argument(
        "--context",
        type=Literal["each", "data"] | int | None,
        default=None,
        metavar="each|data|N",
        help="where there are classes: class N, or each in turn (the default); of a conditional VAE also data: "
        "the contexts of the first data of a split",
    )
    add_split(data)
    add_picture(parser)


def run(options: Namespace) -> int:
    """Draw, print and save; returns the exit code."""
    from pyro_vae.cli.work.generate import run_sample

    return run_sample(options)
