"""Semi-supervised digits: model M2 with the labels of a few, its accuracy on the test set, and log p(x).

The classifier q(y|x) first learns from the labels alone, then all is trained together. Each labelled datum is in train
so often (`--repeats`) that data with a label count as much as those without: else y comes to stand for slant or width,
which the bound likes as well as the class. On MNIST (Kingma et al. 2014: 500 hidden units, 100 or 3000 labels):

    python examples/m2.py --data mnist.npz --labelled 3000 --activation silu --supervised_steps 3000 --epochs 20
    python examples/m2.py --data mnist.npz --labelled 100 --supervised_steps 500 --epochs 120

Without options it takes the packaged digits and a minute. A pass goes through all data, the repeated ones included.
"""

import argparse
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from pyro_vae import SemiSupervisedVAE, accuracy, classify, fit, load_data, log_marginal, seeded
from pyro_vae.data import Dataset
from pyro_vae.networks import MLP
from pyro_vae.objectives import SemiSupervisedELBO
from pyro_vae.schedules import Cosine


def main(options: argparse.Namespace) -> float:
    """Train, classify, estimate; returns the accuracy."""
    kept = {"valid_size": options.valid_size, "labelled": options.labelled, "seed": options.seed}
    repeats = options.repeats or load_data(options.data, **kept).size("train") // options.labelled
    data = load_data(options.data, binarize="dynamic", repeats=repeats, **kept)
    print(data.protocol)
    network = partial(MLP, hidden=(options.hidden,), activation=options.activation)
    classifier = partial(MLP, hidden=(options.hidden,), activation="relu", dropout=options.dropout)
    with seeded(options.seed, "init"):
        vae = SemiSupervisedVAE(
            data.event_shape, 10, options.latent_dim, classifier=classifier, encoder=network, decoder=network
        )
    x, labels = data.split("test"), data.labels["test"]
    _teach(vae.classifier, data, options)
    print(f"by the labels alone: test error {1 - accuracy(classify(vae, x), labels).mean:.2%}")
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
        run=options.run,
        seed=options.seed,
    )
    print(f"trained on {history.device}, {history.mode}, {history.rows[-1]['seconds']:.0f} s")
    device, result = next(vae.parameters()).device, accuracy(classify(vae, x), labels)
    print(f"test error {1 - result.mean:.2%} +- {result.standard_error:.2%} ({options.labelled} labels)")
    few = x[: options.num_data].to(device)
    print(log_marginal(vae.model, vae.guide, few, num_particles=options.num_particles))
    return result.mean


def _teach(classifier: torch.nn.Module, data: Dataset, options: argparse.Namespace) -> None:
    """Train the classifier on the data with a label, each binarised afresh whenever it is seen."""
    optimizer = torch.optim.Adam(classifier.parameters(), lr=options.lr)
    known = data.inputs["y"]["train"]
    rows = (known >= 0).nonzero().squeeze(-1)
    with seeded(options.seed, "teach"):
        for step in range(options.supervised_steps):
            some = rows[torch.randint(len(rows), (options.batch_size,))]
            optimizer.zero_grad()
            cross_entropy(classifier(data.visit(some, "teach", step)), known[some]).backward()
            optimizer.step()


def parser() -> argparse.ArgumentParser:
    """The options, with those of the published setting where they are not of size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--valid_size", type=int, default=0, help="hold out the last n of train")
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=None, help="of each labelled datum; default N / N_labelled")
    parser.add_argument("--alpha", type=float, default=5.0, help="weight of log q(y|x)")
    parser.add_argument("--supervised_steps", type=int, default=1000, help="of the classifier by itself")
    parser.add_argument("--dropout", type=float, default=0.5, help="of the classifier")
    parser.add_argument("--latent_dim", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--activation", default="relu", help="of encoder and decoder")
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
