"""Restore data from what was observed of them: gaps, noise, low resolution.

Draws of x given y, their mean and spread. By default the channel makes y of the data, which are then the truth:
  pyro-vae restore RUN --channel Missing --channel.pattern lower_half
  pyro-vae restore RUN --channel BitFlip --strengths p=0.02,0.05,0.1,0.2 --num 100
With --observed y is read from a file, with nan for what was not observed:
  pyro-vae restore RUN --observed y.npy --channel BitFlip --channel.p 0.1 --out restored.npz
"""

from typing import Any, Literal

from jsonargparse import Namespace

from pyro_vae.cli.class_options import ClassOption
from pyro_vae.cli.option_groups import add_picture, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser

_CHANNEL = ClassOption(("pyro_vae.channels.Channel",), {"class_path": "Missing"})


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae restore`."""
    add_run(parser)
    data, channel = parser.add_argument_group("data"), parser.add_argument_group("what was observed")
    add_split(data, with_all=True)
    data.add_argument("--num", type=int, default=16, help="how many")
    help = "a .npy file of observations y [N, ...], nan for gaps, in place of data of the run seen through the channel"
    data.add_argument("--observed", type=str | None, default=None, metavar="FILE", help=help)
    help = (
        "p(y|x): {classes}, or your own by import path (default: Missing). Its options are written "
        "--channel.OPTION VALUE; --channel.help CLASS lists them"
    )
    parser.add_class(channel, "channel", _CHANNEL, help=help)
    help = "infer an option of the channel that all data share, over these values, and restore with the most probable"
    channel.add_argument("--strengths", type=str | None, default=None, metavar="OPTION=V,V,...", help=help)
    _add_draws(parser.add_argument_group("draws"))
    add_picture(parser)


def _add_draws(group: Any) -> None:
    group.add_argument("--num_draws", type=int, default=100, help="draws of x for each datum")
    help = "draws of the guide for each datum that are weighed"
    group.add_argument("--num_particles", type=int, default=1000, help=help)
    help = (
        "auto: the encoder's draws, refined where they are not healthy, and Hamiltonian Monte Carlo where these are "
        "not; gibbs: z and x in turn, for channels without an exact p(y|z), where auto takes it in place of refined"
    )
    kinds = Literal["auto", "encoder", "refined", "gibbs", "hmc"]
    group.add_argument("--method", type=kinds, default="auto", help=help)
    add_seed(group)


def run(options: Namespace) -> int:
    """Restore, print and save; returns the exit code."""
    from pyro_vae.cli.work.restore import run

    return run(options)
