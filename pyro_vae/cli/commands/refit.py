"""Fit another prior, or another guide, to a trained VAE, and save it as a new run.

A prior is fitted to the codes of the run's training data. A guide or an encoder is trained by the ELBO from new
weights, with p(x, z) as it is: log p(x) stays the same, and the gap below it changes.
"""

from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.class_options import ClassOption
from pyro_vae.cli.option_groups import add_lr_schedule, add_quiet, add_run, optimizer
from pyro_vae.cli.parsing import CommandParser

_PRIOR = ClassOption(("pyro_vae.priors.Prior", "pyro_vae.priors.CodePrior"), built_with=1)
_GUIDE = ClassOption(("pyro_vae.guides.Guide",), built_with=1)
_ENCODER = ClassOption(("pyro_vae.networks.Network",), built_with=2)
_ADAM = {"class_path": "Adam", "init_args": {"lr": 2e-3}}


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae refit`."""
    add_run(parser)
    data, training = parser.add_argument_group("data"), parser.add_argument_group("training")
    help = "another data set than the run's"
    data.add_argument("--data", type=str | None, default=None, metavar="NAME|PATH", help=help)
    _add_parts(parser)
    _add_training(parser, training)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=str, required=True, metavar="FOLDER", help="the new run directory; required")
    add_quiet(output)


def run(options: Namespace) -> int:
    """Fit the new part, compare it with the old one, print and save; returns the exit code."""
    from pyro_vae.cli.work.refit import run

    return run(options)


def _add_parts(parser: CommandParser) -> None:
    group, more = parser.add_argument_group("model"), "; --{0}.OPTION VALUE, --{0}.help CLASS"
    help = (
        "the new prior: {classes}, or your own by import path. Of discrete codes one of pyro_vae.priors.codes "
        "(default: AutoregressiveCodes). Its options are written --prior.OPTION VALUE; --prior.help CLASS lists them"
    )
    parser.add_class(group, "prior", _PRIOR, help=help)
    help = "a new guide, in place of a prior: {classes}, or your own by import path" + more.format("guide")
    parser.add_class(group, "guide", _GUIDE, help=help)
    help = "a new encoder, with the run's guide or a new one: {classes}, or your own" + more.format("encoder")
    parser.add_class(group, "encoder", _ENCODER, help=help)


def _add_training(parser: CommandParser, group: Any) -> None:
    group.add_argument("--epochs", type=int, default=100, help="passes over the training data")
    group.add_argument("--batch_size", type=int, default=100, help="data in a step")
    help = "a class of torch.optim: {classes} (default: Adam with lr 0.002); --optimizer.help CLASS lists its options"
    parser.add_class(group, "optimizer", optimizer(_ADAM), help=help)
    add_lr_schedule(parser, group)
    group.add_argument("--patience", type=int | None, default=None, help="epochs without a better held-out fit")
    group.add_argument("--seed", type=int, default=0, help="seed of first weights, order and draws")
