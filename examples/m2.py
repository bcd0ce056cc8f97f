"""Semi-supervised digits: model M2 with the labels of a few, its accuracy on the test set, and log p(x).

The published setting (Kingma et al. 2014) is MNIST with 100 or 3000 labels, a 50-dimensional z and 500 hidden units:

    python examples/m2.py --data mnist.npz --labelled 100 --run runs/m2-100
    python examples/m2.py --data mnist.npz --labelled 3000 --run runs/m2-3000

Without options it takes the packaged digits and a minute. Every epoch passes through all data; `--repeats` puts each
labelled datum into it several times, so that batches without one are rare.
"""

import argparse
from functools import partial

import torch

from pyro_vae import SemiSupervisedVAE, accuracy, classify, fit, load_data, log_marginal, seeded
from pyro_vae.networks import MLP
from pyro_vae.objectives import SemiSupervisedELBO
from pyro_vae.schedules import Cosine


def main(options: argparse.Namespace) -> float:
    """Train, classify, estimate; returns the accuracy."""
    data = load_data(
        options.data,
        binarize="dynamic",
        valid_size=options.valid_size,
        labelled=options.labelled,
        repeats=options.repeats,
        seed=options.seed,
    )
    print(data.protocol)
    network = partial(MLP, hidden=(options.hidden,))
    with seeded(options.seed, "init"):
        vae = SemiSupervisedVAE(
            data.event_shape, 10, options.latent_dim, classifier=network, encoder=network, decoder=network
        )
    history = fit(
        vae,
        data,
        SemiSupervisedELBO(alpha=options.alpha),
        epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer=partial(torch.optim.Adam, lr=options.lr),
        lr_schedule=Cosine(),
        start_at_mean=True,
        precision=options.precision,
        seed=options.seed,
        run=options.run,
    )
    print(f"trained on {history.device}, {history.mode}, {history.rows[-1]['seconds']:.0f} s")
    x, labels, device = data.split("test"), data.labels["test"], next(vae.parameters()).device
    result = accuracy(classify(vae, x), labels)
    print(f"test error {1 - result.mean:.2%} +- {result.standard_error:.2%} ({options.labelled} labels)")
    few = x[: options.num_data].to(device)
    print(log_marginal(vae.model, vae.guide, few, num_particles=options.num_particles))
    return result.mean


def parser() -> argparse.ArgumentParser:
    """The options, with those of the published setting where they are not of size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--valid_size", type=int, default=0, help="hold out the last n of train")
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1, help="how often each labelled datum is in train")
    parser.add_argument("--alpha", type=float, default=None, help="weight of log q(y|x); default 0.1 N / N_labelled")
    parser.add_argument("--latent_dim", type=int, default=50)
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--precision", default="float32", help="of the training; log p(x) is always in float32")
    parser.add_argument("--num_data", type=int, default=200, help="test data whose log p(x) is estimated")
    parser.add_argument("--num_particles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", default=None, help="a run directory")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
