"""Find the best of many models by successive halving on validation data; goes on after a stop.

The space is a YAML file with options of `pyro-vae fit` and their values: a list, {uniform: [low, high]} or
{log: [low, high]}. Every candidate is trained a little, log p(x) of the validation data is estimated, the best third
goes on, and so on. The test data are not read.
"""

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_quiet, add_seed
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae search`."""
    help = "YAML with the options of `pyro-vae fit` that all candidates share, e.g. a run's config.yaml"
    parser.add_argument("config", type=str, metavar="CONFIG", help=help)
    group = parser.add_argument_group("candidates")
    help = "YAML with the options to search, e.g. {vae.latent_dim: [2, 10, 20], optimizer.lr: {log: [1e-4, 1e-2]}}"
    group.add_argument("--space", type=str, required=True, metavar="FILE", help=f"{help}; required")
    help = "how many candidates to draw; by default all combinations, of lists alone"
    group.add_argument("--num_candidates", type=int | None, default=None, help=help)
    help = "epochs of all trainings together, in equal parts for the rounds; required"
    group.add_argument("--budget", type=int, required=True, metavar="EPOCHS", help=help)
    group.add_argument("--factor", type=int, default=3, help="how many times fewer candidates each round has")
    method = parser.add_argument_group("log p(x) of the validation data")
    help = "number of validation data, evenly spread over them; by default all"
    method.add_argument("--num_data", type=int | None, default=None, help=help)
    method.add_argument("--num_particles", type=int, default=1000, help="K, draws for each datum")
    add_seed(method)
    help = "(datum, draw) pairs in one run of the decoder"
    method.add_argument("--max_rows", type=int, default=4096, help=help)
    output = parser.add_argument_group("output")
    help = "folder for the candidates' run directories, result.json and result.png; required"
    output.add_argument("--run", type=str, required=True, metavar="FOLDER", help=help)
    add_quiet(output)


def run(options: Namespace) -> int:
    """Search, print the rounds, and save them with a picture; returns the exit code."""
    from pyro_vae.cli.work.search import run

    return run(options)
