"""Assign data to the components of a mixture prior, and compare with their labels."""

from typing import Any

from jsonargparse import Namespace

from pyro_vae.cli.option_groups import add_common, add_run, add_seed, add_split
from pyro_vae.cli.parsing import CommandParser


def add_options(parser: CommandParser) -> None:
    """Add the options of `pyro-vae cluster`."""
    add_run(parser)
    add_split(parser.add_argument_group("data"))
    method = parser.add_argument_group("method")
    method.add_argument("--num_particles", type=int, default=10, help="codes drawn for each datum")
    add_seed(method)
    add_common(parser.add_argument_group("output"))


def run(options: Namespace) -> int:
    """Assign the data, print the sizes and scores, and save the probabilities; returns the exit code."""
    from pyro_vae.cli.work.places import tried
    from pyro_vae.cli.work.printing import print_result
    from pyro_vae.cli.work.saved_runs import load_split, open_saved
    from pyro_vae.runs.files import packed
    from pyro_vae.tasks.clustering import cluster, clustering_scores

    saved = open_saved(options)
    chosen = load_split(saved, options, None)
    name = f"clusters-{options.split}.npz"
    place = tried(saved.path, name)[name]
    vae: Any = saved.vae
    found = cluster(vae, chosen.x, options.num_particles, options.seed, chosen.inputs.get("mask"))
    sizes = found.assignments.bincount(minlength=found.probabilities.shape[1]).tolist()
    result: dict[str, Any] = {"data": chosen.data.protocol, "split": options.split, "weights": saved.weights}
    result |= {"num": len(chosen), "num_particles": options.num_particles, "seed": options.seed}
    result |= {"components_in_use": found.num_used, "sizes": sizes if options.json else " ".join(map(str, sizes))}
    if options.split in chosen.data.labels:
        scores = clustering_scores(found.assignments, chosen.data.labels[options.split])
        result |= {name: getattr(scores, name) for name in ("accuracy", "standard_error", "nmi", "ari")}
    print_result({**result, "saved": str(place.path)}, options.json)
    place.write(packed({"assignments": found.assignments, "probabilities": found.probabilities}))
    return 0
