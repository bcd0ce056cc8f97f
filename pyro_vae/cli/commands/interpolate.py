"""Paths between the codes of data, and what they decode to.

    straight    z0 + t (z1 - z0)
    spherical   the angle grows evenly
    geodesic    the shortest path in the decoder's metric: E[x|z] travels as little as possible

Prints the length of the paths, how far E[x|z] travels, and the mean of log p(x) of draws x ~ p(x|z) along them.

    pyro-vae interpolate runs/mnist --kind geodesic --num 8
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_picture, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae interpolate`."""
    add_run(parser)
    data, path = parser.add_argument_group("data"), parser.add_argument_group("paths")
    add_split(data)
    data.add_argument("--num", type=int, default=6, help="pairs of data, evenly spread")
    path.add_argument("--kind", default="straight", choices=("straight", "spherical", "geodesic"), help="which path")
    path.add_argument("--steps", type=int, default=10, help="codes on each path, with both ends")
    path.add_argument("--bends", type=int, default=8, help="degrees of freedom of a geodesic for each coordinate")
    help = "K of the importance sampling of log p(x); 0 to leave it out"
    path.add_argument("--num_particles", type=int, default=500, help=help)
    add_seed(path)
    add_picture(parser)


def run(options: Namespace) -> int:
    """Find the paths, print and save; returns the exit code."""
    from pyro_vae.cli.work.moved_codes import run_interpolate

    return run_interpolate(options)
