"""Make a run directory of a file that `pack` wrote.

Every byte is compared with the list in the file before the folder appears. Nothing of the run is executed.

    pyro-vae unpack mnist.zip
    pyro-vae unpack mnist.zip runs/mnist
"""

from jsonargparse import Namespace

from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae unpack`."""
    parser.add_argument("file", type=str, metavar="FILE", help="the file of a run")
    help = "the run directory to make; without it the name of the file without .zip, in the current folder"
    parser.add_argument("folder", type=str | None, nargs="?", default=None, metavar="DIR", help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace the run directory if it is there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: Namespace) -> int:
    """Unpack the run; returns the exit code."""
    from pyro_vae.cli.work.packing import unpacked

    return unpacked(options)
