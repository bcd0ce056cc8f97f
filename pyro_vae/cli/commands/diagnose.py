"""Write a page on what can be believed, and on what to change: log p(x), gaps, codes, calibration, and their costs.

It begins with conclusions: which part of the model or of the guide costs most nats, and the command that changes it.
"""

from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_quiet, add_run, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant, options_of

_SIZES = {
    "num_particles": "K of importance sampling",
    "num_bracketed": "number of data whose log p(x) is bracketed, and of simulated ones",
    "num_gaps": "number of data whose gaps are measured",
    "num_simulated": "number of data for the calibration, and for comparing data with the model",
    "num_compared": "number of data whose codes are compared with HMC's",
    "num_replicated": "number of data sets drawn for the predictive check",
}


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae diagnose`."""
    add_run(parser)
    data = parser.add_argument_group("data")
    add_split(data)
    data.add_argument("--num_data", type=int, default=1000, help="number of data, chosen by the seed")
    _add_method(parser.add_argument_group("method"))
    output = parser.add_argument_group("output")
    help = "the page; without it RUN/diagnosis-SPLIT.html"
    output.add_argument("--out", type=str | None, default=None, metavar="HTML", help=help)
    add_quiet(output)


def run(options: Namespace) -> int:
    """Measure, write the page and the numbers, and print the warnings; returns the exit code."""
    from pyro_vae.cli.work.diagnose import run

    return run(options)


def _add_method(group: Any) -> None:
    sizes = options_of("pyro_vae.report.subject.Sizes")
    for name, help in _SIZES.items():
        group.add_argument(f"--{name}", type=int, default=sizes[name].default, help=help)
    for name, option in options_of("pyro_vae.evidence.annealing_results.Annealing").items():
        help = _as_help(option.help)
        group.add_argument(f"--annealing.{name}", type=option.kind, default=option.default, help=help)
    sections = constant("pyro_vae.report.sections", "SECTIONS")
    group.add_argument("--skip", nargs="*", action="extend", default=[], choices=sections, help="sections to leave out")
    help = "epochs of training for each of the two proposals that promise most, to measure their gains; 0 for none"
    group.add_argument("--try", type=int, default=0, metavar="EPOCHS", help=help)
    group.add_argument("--seed", type=int, default=0, help="seed of all draws")


def _as_help(docstring: str) -> str:
    """What a docstring says of an argument, without quotation marks and the last full stop."""
    return docstring.replace("`", "").replace('"', "").rstrip(".")
