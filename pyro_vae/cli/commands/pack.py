"""Write a run as one file, which `load` and `unpack` read.

The file is a zip with a list of sizes and sha256 in it. Pictures and evaluations are in it too. The same run gives the
same bytes. A training may go on in the run meanwhile.

    pyro-vae pack runs/mnist
    pyro-vae pack runs/mnist /backup/mnist.zip
"""

from jsonargparse import Namespace

from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae pack`."""
    parser.add_argument("run", type=str, help="the run directory")
    help = "the file to write; without it the name of the run with .zip, beside it"
    parser.add_argument("file", type=str | None, nargs="?", default=None, metavar="FILE", help=help)
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: Namespace) -> int:
    """Pack the run; returns the exit code."""
    from pyro_vae.cli.work.packing import packed

    return packed(options)
