"""Encode data: the mean, the spread and draws of q(z|x) of each datum.

Saves them as arrays, with a picture of the two coordinates that tell most of the data apart, and prints how many
coordinates are in use and how far the codes of all data together are from the prior.

    pyro-vae encode runs/mnist --split train --num 1000
    pyro-vae encode runs/mnist --num_draws 100 --out codes.nc
    pyro-vae encode runs/shapes --factors shapes_factors.npy

In the .npz, `z` are the draws [draws, N, latent], `z_mean`, `z_sd` and `z_mean_error` are [N, latent]; a .nc (NetCDF)
has them in the groups of ArviZ, `posterior` and `constant_data`.
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_quiet, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae encode`."""
    add_run(parser)
    data, draws = parser.add_argument_group("data"), parser.add_argument_group("draws")
    add_split(data, with_all=True)
    data.add_argument("--num", type=int | None, default=None, help="how many, evenly spread; without it all")
    help = (
        "a .npy file of factors [N, K] of the data, numbers: how well single coordinates agree with them (MIG, SAP, "
        "and DCI if scikit-learn is installed)"
    )
    data.add_argument("--factors", type=str | None, default=None, metavar="FILE", help=help)
    draws.add_argument("--num_draws", type=int, default=10, help="draws of the code of each datum")
    add_seed(draws)
    output = parser.add_argument_group("output")
    help = "a .npz (arrays), .nc (NetCDF) or .png (a picture); without it arrays and a picture in the run"
    output.add_argument("--out", type=str | None, default=None, metavar="FILE", help=help)
    add_quiet(output)


def run(options: Namespace) -> int:
    """Encode, print and save; returns the exit code."""
    from pyro_vae.cli.work.encode import run

    return run(options)
