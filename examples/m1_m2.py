"""Semi-supervised digits by two models, M1+M2: a VAE's codes are the data of a second model with few labels.

A VAE (M1) is trained on all images; the data of M2 are draws from its q(z|x), in the active dimensions. M2 has a class
and a second code as latent variables. It needs a few epochs instead of hundreds on pixels, and an epoch is cheap, since
classes are well separated in the codes of M1 (Kingma et al. 2014). On MNIST, with the VAE of
`examples/static_mnist.yaml`:

    pyro-vae fit --config examples/static_mnist.yaml --data static_mnist.npz --run runs/m1
    python examples/m1_m2.py --data mnist.npz --m1 runs/m1 --labelled 100 --repeats 150 --draws 5 --epochs 8

Without options it uses the packaged digits and takes a minute. `--repeats`: copies of each labelled datum in train.
"""

import argparse
from functools import partial

import torch

from pyro_vae import VAE, SemiSupervisedVAE, accuracy, classify, fit, latent_statistics, load, load_data, seeded
from pyro_vae.data import Dataset
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import SemiSupervisedELBO
from pyro_vae.schedules import Cosine


def main(options: argparse.Namespace) -> float:
    """Train M1 unless a run is given, train M2 on its codes, classify; returns the accuracy."""
    data = load_data(
        options.data, binarize="dynamic", labelled=options.labelled, repeats=options.repeats, seed=options.seed
    )
    print(data.protocol)
    m1 = load(options.m1) if options.m1 else _m1(options)
    codes = codes_of(m1.cpu(), data, options.draws, options.seed)
    print(codes.protocol)
    with seeded(options.seed, "init"):
        network = partial(MLP, hidden=(options.hidden,))
        m2 = SemiSupervisedVAE(
            codes.event_shape,
            latent_dim=options.latent_dim,
            likelihood=partial(Normal, scale="per_element"),
            classifier=partial(MLP, hidden=(options.hidden,), activation="relu", dropout=options.dropout),
            encoder=network,
            decoder=network,
        )
    history = fit(m2, codes, SemiSupervisedELBO(alpha=options.alpha), epochs=options.epochs, **_settings(options))
    print(f"trained on {history.device}, {history.mode}, {history.rows[-1]['seconds']:.0f} s")
    result = accuracy(classify(m2, codes.split("test")), codes.labels["test"])
    print(f"test error {1 - result.mean:.2%} +- {result.standard_error:.2%} ({options.labelled} labels)")
    return result.mean


def codes_of(m1: VAE, data: Dataset, draws: int, seed: int) -> Dataset:
    """The codes as a data set: some draws of q(z|x) for each datum of train, its mean for each of test."""
    train, test = torch.arange(data.size("train")), data.split("test")
    used = latent_statistics(m1, test).active
    with torch.no_grad(), seeded(seed, "codes"):
        drawn = [m1.encode(data.visit(train, "codes", number)).sample()[:, used] for number in range(draws)]
        means = m1.encode(test).mean[:, used]
    labels = {"train": data.labels["train"].repeat(draws), "test": data.labels["test"]}
    known = {"train": data.inputs["y"]["train"].repeat(draws), "test": data.inputs["y"]["test"]}
    note = f"{data.preparation}, {draws} draws of q(z|x), {means.shape[1]} dimensions in use"
    return Dataset(data.name, torch.cat(drawn), test=means, labels=labels, inputs={"y": known}, preparation=note)


def _m1(options: argparse.Namespace) -> VAE:
    """A VAE of all images, with or without label, each counted once."""
    images = load_data(options.data, binarize="dynamic", seed=options.seed)
    with seeded(options.seed, "m1"):
        network = partial(MLP, hidden=(options.hidden,))
        m1 = VAE(images.event_shape, options.m1_latent_dim, encoder=network, decoder=network)
    fit(m1, images, epochs=options.m1_epochs, start_at_mean=True, **_settings(options))
    return m1.eval()


def _settings(options: argparse.Namespace) -> dict:
    """Options of both trainings."""
    adam = partial(torch.optim.Adam, lr=options.lr)
    return {"optimizer": adam, "lr_schedule": Cosine(), "batch_size": options.batch_size, "seed": options.seed}


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--m1", default=None, help="run directory of a VAE of the images; without it one is trained")
    parser.add_argument("--m1_epochs", type=int, default=50)
    parser.add_argument("--m1_latent_dim", type=int, default=20)
    parser.add_argument("--draws", type=int, default=10, help="codes of each datum of train")
    parser.add_argument("--labelled", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5, help="copies of each labelled datum in train")
    parser.add_argument("--alpha", type=float, default=5.0, help="weight of log q(y|x)")
    parser.add_argument("--dropout", type=float, default=0.2, help="of the classifier")
    parser.add_argument("--latent_dim", type=int, default=10, help="of M2")
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=15, help="passes over all draws")
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
