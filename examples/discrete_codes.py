"""A VQ-VAE: a grid of discrete codes, a prior over them that is learned afterwards, and the bound on log p(x) of both.

With the packaged 8x8 digits and a grid of 2x2 codes it takes some seconds. For MNIST, with a grid of 7x7:

    python examples/discrete_codes.py --data mnist --binarize dynamic --codes 7 7 --size 128 --width 64 --epochs 50
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from pyro_vae import VQVAE, codebook_usage, fit, fit_code_prior, load_data, plots, reconstruct, sample
from pyro_vae.data import Binarization
from pyro_vae.evidence import bound
from pyro_vae.networks.grid import GridNet
from pyro_vae.objectives import VQBound
from pyro_vae.priors import AutoregressiveCodes
from pyro_vae.schedules import Cosine


def main(
    data: str = "digits",
    binarize: Binarization = "dynamic",
    codes: tuple[int, ...] = (2, 2),
    size: int = 64,
    width: int = 32,
    epochs: int = 20,
    prior_epochs: int = 20,
    out: str | Path = "runs/discrete_codes",
    run: str | None = None,
) -> None:
    """Train, fit the prior, print the bounds, save pictures."""
    dataset, folder = load_data(data, binarize=binarize), Path(out)
    torch.manual_seed(0)
    network = partial(GridNet, width=width)
    vqvae = VQVAE(
        dataset.event_shape,
        tuple(codes),
        codebook_size=size,
        encoder=network,
        decoder=network,
        update="ema",
        restart=0.1,
    )
    adam = partial(torch.optim.Adam, lr=2e-3)
    fit(vqvae, dataset, VQBound(), epochs=epochs, optimizer=adam, lr_schedule=Cosine(), start_at_mean=True, run=run)
    prior = partial(AutoregressiveCodes, width=4 * width)
    fitted = fit_code_prior(vqvae, dataset, prior, epochs=prior_epochs, optimizer=adam, patience=5)

    x = dataset.split("test")
    print(codebook_usage(vqvae, x))
    for name, v in (("uniform", vqvae), ("learned", fitted)):
        terms = bound(v.model, v.guide, x).means()
        print(f"{name} p(k): log p(x) >= {terms['elbo']:.2f} nats per datum, log p(k) = {-terms['kl']:.2f}")
    folder.mkdir(parents=True, exist_ok=True)
    plots.save(plots.reconstructions(x[:20], reconstruct(vqvae, x[:20])), folder / "reconstructions.png")
    plots.save(plots.samples(sample(fitted, 40)), folder / "samples.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--binarize", default="dynamic")
    parser.add_argument("--codes", type=int, nargs="+", default=[2, 2])
    parser.add_argument("--size", type=int, default=64, help="entries of the codebook")
    parser.add_argument("--width", type=int, default=32, help="planes of the networks")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--prior_epochs", type=int, default=20)
    parser.add_argument("--out", default="runs/discrete_codes")
    parser.add_argument("--run", default=None, help="run directory, to resume from")
    main(**vars(parser.parse_args()))
