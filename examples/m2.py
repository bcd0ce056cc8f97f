"""Semi-supervised digits: model M2 with few labels, its accuracy on the test set, and log p(x).

The classifier q(y|x) is first trained on the labels alone, then all parameters together. Labelled data are repeated in
train (`--repeats`) until they have the same total weight as those without; otherwise y may encode slant or width, which
increases the bound as much as the class does. On MNIST (Kingma et al. 2014: 500 hidden units, 100 or 3000 labels):

    python examples/m2.py --data mnist.npz --labelled 3000 --activation silu --supervised_steps 3000 --epochs 20
    python examples/m2.py --data mnist.npz --labelled 100 --supervised_steps 500 --epochs 120

Without options it uses the packaged digits and takes a minute. An epoch includes the repeated data.
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
    """Train the classifier on the labelled data, binarised anew at each use."""
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
    """The options; defaults are those of the paper, except sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--valid_size", type=int, default=0, help="hold out the last n of train")
    parser.add_argument("--labelled", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=None, help="of each labelled datum; default N / N_labelled")
    parser.add_argument("--alpha", type=float, default=5.0, help="weight of log q(y|x)")
    parser.add_argument("--supervised_steps", type=int, default=1000, help="steps of the classifier alone")
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
