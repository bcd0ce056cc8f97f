"""Open a page in the browser: codes, the true posterior beside the guide, and what is missing of a datum, live.

The page is served on this machine alone, at an address that is printed, until Ctrl-C. A point of the plane is decoded
at once; a datum, picked or drawn with the mouse, shows its guide, its true posterior, ELBO, log p(x) and the gap.

    pyro-vae explore runs/mnist-2d
    pyro-vae explore runs/mnist --split valid --num 2000 --no-browser --port 8000
    pyro-vae explore runs/mnist-2d --num 200 --export mnist.html
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_run, add_split
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae explore`."""
    add_run(parser)
    data, page = parser.add_argument_group("data"), parser.add_argument_group("page")
    add_split(data, with_all=True)
    data.add_argument("--num", type=int, default=1000, help="how many data are shown, evenly spread over the split")
    page.add_argument("--port", type=int, default=0, help="the port on 127.0.0.1; 0 for any free one")
    page.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")
    help = "write the page as one file that opens without a server (normal guides), and end"
    page.add_argument("--export", type=str | None, default=None, metavar="HTML", help=help)
    page.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")


def run(options: Namespace) -> int:
    """Serve the page until it is interrupted; returns the exit code."""
    from pyro_vae.cli.work.explore import run

    return run(options)
