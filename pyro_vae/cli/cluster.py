"""`pyro-vae cluster`: which component of a mixture prior the data belong to, and how that agrees with their labels."""

from typing import Any

from pyro_vae.autoencoders import VAE
from pyro_vae.cli.options import cluster_parser
from pyro_vae.cli.parsing import parse
from pyro_vae.cli.places import tried
from pyro_vae.cli.printing import print_result
from pyro_vae.cli.saved_runs import load_split, open_saved
from pyro_vae.errors import UsageError
from pyro_vae.runs.files import packed
from pyro_vae.tasks.clustering import cluster, clustering_scores


def run(argv: list[str]) -> int:
    """Run the command with its arguments; returns the exit code."""
    options = parse(cluster_parser(), argv)
    saved = open_saved(options)
    chosen = load_split(saved, options, None)
    data, x = chosen.data, chosen.x
    if not isinstance(saved.vae, VAE):
        raise UsageError(
            f"clusters are components of a VAE's mixture prior, and this run is a {type(saved.vae).__name__}"
        )
    name = f"clusters-{options.split}.npz"
    place = tried(saved.path, name)[name]
    found = cluster(saved.vae, x, options.num_particles, options.seed)
    sizes = found.assignments.bincount(minlength=found.probabilities.shape[1]).tolist()
    result: dict[str, Any] = {"data": data.protocol, "split": options.split, "weights": saved.weights, "num": len(x)}
    result |= {"num_particles": options.num_particles, "seed": options.seed}
    result |= {"components_in_use": found.num_used, "sizes": sizes if options.json else " ".join(map(str, sizes))}
    if options.split in data.labels:
        scores = clustering_scores(found.assignments, data.labels[options.split])
        names = ("accuracy", "standard_error", "nmi", "ari")
        result |= {name: getattr(scores, name) for name in names}
    print_result({**result, "saved": str(place.path)}, options.json)
    place.write(packed({"assignments": found.assignments, "probabilities": found.probabilities}))
    return 0
