"""Fill the gaps of data: several values for each missing element, and a single best one.

Where the truth is known it is measured how far they are off. --hide hides elements that were observed, to measure:

    pyro-vae impute RUN --hide 0.2
    pyro-vae impute RUN --data new.csv --missing nan --split all --out imputed.csv

Of a run on a table with names the .csv is the table with its gaps filled by the best values. With --rows all, and of
other runs, it has a row for each datum and imputation (0: the best values, 1 to 20: draws). To carry the uncertainty
into what you compute from the data, compute it on each of the draws and pool the results (`pyro_vae.pool`).
"""

from typing import Any, Literal

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_quiet, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae impute`."""
    add_run(parser)
    data = parser.add_argument_group("data")
    add_split(data, with_all=True)
    help = (
        "what stands for an element that was not observed, as for fit: nan (also an empty field of a table), a number, "
        "or mask; by default as in the run's data"
    )
    kind = constant("pyro_vae.data.gaps", "Missing")
    data.add_argument("--missing", type=kind, default=None, metavar="nan|mask|VALUE", help=help)
    data.add_argument("--num", type=int | None, default=None, help="how many, evenly spread over the split; else all")
    help = "share of the observed elements to hide, to measure how far their imputations are off"
    data.add_argument("--hide", type=float, default=0.0, metavar="SHARE", help=help)
    _add_draws(parser.add_argument_group("draws"))
    output = parser.add_argument_group("output")
    help = (
        "a .png (a picture), .npz (arrays) or .csv (a table); without it a picture in the run, or a table where there "
        "is none to draw"
    )
    output.add_argument("--out", type=str | None, default=None, metavar="FILE", help=help)
    help = (
        "of a .csv. best: each datum once, with its best values; all: its draws too, with the columns imputation and "
        "row; auto: best for a table with names, else all"
    )
    output.add_argument("--rows", type=Literal["auto", "best", "all"], default="auto", help=help)
    add_quiet(output)


def _add_draws(group: Any) -> None:
    group.add_argument("--num_draws", type=int, default=20, help="imputations of each datum")
    help = "draws of the guide for each datum that are weighed"
    group.add_argument("--num_particles", type=int, default=1000, help=help)
    methods = constant("pyro_vae.inference.posteriors", "METHODS")
    help = "psis, sir: the guide's draws, weighed and resampled; guide: as they come; hmc: Hamiltonian Monte Carlo"
    group.add_argument("--method", default="psis", choices=methods, help=help)
    add_seed(group)


def run(options: Namespace) -> int:
    """Impute, print and save; returns the exit code."""
    from pyro_vae.cli.work.impute import run

    return run(options)
