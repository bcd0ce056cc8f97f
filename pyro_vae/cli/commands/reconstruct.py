"""Encode and decode data and save a picture or arrays.

A code of each datum is drawn from q(z|x) and decoded.
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_picture, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae reconstruct`."""
    add_run(parser)
    data, draws = parser.add_argument_group("data"), parser.add_argument_group("draws")
    add_split(data, with_all=True)
    draws.add_argument("--num", type=int, default=constant("pyro_vae.cli.work.draws", "NUM"), help="how many")
    add_seed(draws)
    help = "codes drawn for each datum; their decodings are averaged"
    draws.add_argument("--num_particles", type=int, default=1, help=help)
    add_picture(parser)


def run(options: Namespace) -> int:
    """Reconstruct, print and save; returns the exit code."""
    from pyro_vae.cli.work.generate import run_reconstruct

    return run_reconstruct(options)
