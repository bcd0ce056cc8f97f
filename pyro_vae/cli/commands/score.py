"""Score how anomalous data are, with a threshold of known false alarms.

A higher score is more anomalous; scores are in nats. The threshold is calibrated on data that are not anomalous,
those of --reference: a new such datum is above it with at most the promised probability, whatever the model and the
score. With anomalies that are known, from a second data set or by their labels, it also measures how well the score
finds them.

    pyro-vae score runs/mnist --method regret --anomalies fashion_mnist.npz --out scores.png
"""

from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_quiet, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser
from pyro_vae.cli.sources import constant


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae score`."""
    add_run(parser)
    _add_data(parser.add_argument_group("data"))
    _add_method(parser.add_argument_group("method"))
    _add_alarms(parser.add_argument_group("alarms"))
    output = parser.add_argument_group("output")
    help = "a .png (histograms, and the most anomalous data), .npz (arrays) or .csv; without it a picture in the run"
    output.add_argument("--out", type=str | None, default=None, metavar="FILE", help=help)
    add_quiet(output)


def run(options: Namespace) -> int:
    """Score, print and save; returns the exit code."""
    from pyro_vae.cli.work.score import run

    return run(options)


def _add_data(group: Any) -> None:
    add_split(group, with_all=True)
    help = "the most data of each kind, evenly spread over the split"
    group.add_argument("--num_data", type=int, default=1000, help=help)
    help = "a data set of anomalies, prepared as the run's data"
    group.add_argument("--anomalies", type=str | None, default=None, metavar="NAME|PATH", help=help)
    splits = constant("pyro_vae.data.splits", "SPLITS")
    group.add_argument("--anomalies_split", default="test", choices=splits, help="which of its data")
    help = "classes whose data are the anomalies, in the data that are scored; the reference is without them"
    group.add_argument("--anomaly_labels", type=int, nargs="+", default=[], metavar="CLASS", help=help)


def _add_method(group: Any) -> None:
    group.add_argument(
        "--method",
        default="evidence",
        choices=(*constant("pyro_vae.tasks.scores.methods", "METHODS"),),
        help="which score",
    )
    help = "K, draws for each datum; by default the method's own number"
    group.add_argument("--num_particles", type=int | None, default=None, help=help)
    add_seed(group)
    help = "the run of a background model, for --method ratio"
    group.add_argument("--background", type=str | None, default=None, metavar="RUN", help=help)
    help = "runs of further models of the same data, for --method ensemble"
    group.add_argument("--others", type=str, nargs="+", default=[], metavar="RUN", help=help)
    group.add_argument(
        "--options",
        type=dict[str, Any] | None,
        default=None,
        metavar="NAME.VALUE",
        help="further options of the method, e.g. --options.max_steps 200 for regret",
    )


def _add_alarms(group: Any) -> None:
    splits = constant("pyro_vae.data.splits", "SPLITS")
    help = (
        "the split by which the threshold is calibrated, such as the model was not trained on; for typicality and "
        "density_of_states half of it is their reference. none: no threshold"
    )
    group.add_argument("--reference", default="valid", choices=(*splits, "none"), help=help)
    help = "the highest probability of a false alarm, between 0 and 1"
    group.add_argument("--false_alarms", type=float, default=0.01, help=help)
