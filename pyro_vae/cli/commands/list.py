"""List the runs below a folder: data, model, epochs, ELBO, log p(x) and state.

Only their text files are read. A run that can't be read has a line with the reason.

    pyro-vae list
    pyro-vae list experiments --sort log_p
"""

from jsonargparse import Namespace

from pyro_vae.cli.parsing import CommandParser

ORDERS = ("name", "log_p", "bound", "newest")


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae list`."""
    parser.add_argument("folder", type=str, nargs="?", default="runs", metavar="DIR", help="the folder (default: runs)")
    help = "by path; by log p(x) or the ELBO, the highest first and those without last; or the last trained first"
    parser.add_argument("--sort", default="name", choices=ORDERS, help=help)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: Namespace) -> int:
    """Print the list; returns the exit code."""
    from pyro_vae.cli.work.list import run

    return run(options)
