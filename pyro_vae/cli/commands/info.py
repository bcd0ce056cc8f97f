"""Tell what a run directory holds.

The weights are read and checked.
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_common, add_run
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae info`."""
    add_run(parser)
    add_common(parser.add_argument_group("output"))


def run(options: Namespace) -> int:
    """Print what the run directory holds; returns the exit code."""
    from pyro_vae.cli.work.info import run

    return run(options)
