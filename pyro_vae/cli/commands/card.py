"""Write a model card: the run in words, what was measured of it with errors, and what was not.

It is Markdown with the header that hubs of models read, and goes into the run as README.md. It carries what
`evaluate` and `diagnose` saved of the weights that the run has now: run them first.

    pyro-vae evaluate runs/digits
    pyro-vae diagnose runs/digits
    pyro-vae card runs/digits --repo me/digits --license apache-2.0
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_run
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae card`."""
    add_run(parser)
    group, output = parser.add_argument_group("card"), parser.add_argument_group("output")
    help = "the name on the hub by which others load it"
    group.add_argument("--repo", type=str | None, default=None, metavar="USER/NAME", help=help)
    help = "the license of the weights, an identifier of the hub such as apache-2.0; none is stated if left out"
    group.add_argument("--license", type=str | None, default=None, metavar="IDENTIFIER", help=help)
    help = "the file; README.md in the run, if left out. A page that is not a card is not replaced there"
    output.add_argument("--out", type=str | None, default=None, metavar="MD", help=help)
    output.add_argument("--json", action="store_true", help="print the result as JSON")


def run(options: Namespace) -> int:
    """Write the card and print what it lacks; returns the exit code."""
    from pyro_vae.cli.work.card import run

    return run(options)
