"""Conditional VAEs on the quadrants of MNIST: log p(missing pixels | given pixels), and a network without a code.

The setting of Pyro's tutorial (after Sohn et al. 2015): 1, 2 or 3 quadrants of a grey image are given, 500-500 hidden
units, 200 latent dimensions, Adam at 1e-3, batches of 128, at most 50 epochs; all figures are the cross-entropy of the
grey values of the missing pixels, nats per image. Here the last 10,000 of train are held out to choose the epoch;
the tutorial uses the test set.

    python examples/cvae_quadrants.py --data mnist.npz --out runs/quadrants

Without options it uses the packaged digits and takes a minute. The baseline has independent pixels: it cannot express
their dependence. Its figure is exact. The CVAE's are the ELBO (10 draws, as in the tutorial) and
the importance-sampling estimate, both upper bounds on its negative log-likelihood in expectation.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae import VAE, fit, load, load_data, log_marginal, sample, seeded
from pyro_vae.data import Dataset
from pyro_vae.data.loading import quadrants
from pyro_vae.evidence import bound
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.plots import image_grid, save
from pyro_vae.priors import ConditionalNormal
from pyro_vae.schedules import Cosine


def main(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train and score all; returns and saves the table."""
    out, table = Path(options.out), {}
    for given in options.given:
        data = load_data(options.data, binarize="none", valid_size=options.valid_size, context=f"quadrants-{given}")
        vae, network = _train(data, out / str(given), options), _train_baseline(data, options)
        row = {**_score(vae, data, options), **_score_baseline(network, data)}
        print(f"{given} given", {name: round(value, 3) for name, value in row.items()})
        save(_picture(vae, network, data, given, options), out / f"{given}.png")
        table[f"{given} given"] = row
        (out / "table.json").write_text(json.dumps(table, indent=1))
    return table


def _train(data: Dataset, run: Path, options: argparse.Namespace) -> VAE:
    """A CVAE whose prior, decoder and guide depend on the given pixels, with the weights of its best epoch."""
    network = partial(MLP, hidden=(options.hidden, options.hidden), activation="relu")
    with seeded(options.seed, "init"):
        vae = VAE(
            data.event_shape,
            options.latent_dim,
            prior=partial(ConditionalNormal, network=network),
            likelihood=partial(Bernoulli, grey=True),
            encoder=network,
            decoder=network,
            context=data.input_shapes["c"],
        )
    settings = {name: getattr(options, name) for name in ("epochs", "batch_size", "precision", "seed")}
    fit(vae, data, optimizer=partial(torch.optim.Adam, lr=1e-3), lr_schedule=Cosine(), run=run, **settings)
    return load(run, device="cpu")


def _score(vae: VAE, data: Dataset, options: argparse.Namespace) -> dict[str, float]:
    """Negative conditional log-likelihood of the test images, with its standard errors."""
    x, c = data.split("test"), data.widen_inputs(data.given("test"))["c"]
    elbo = bound(vae.model, vae.guide, x, c=c, num_particles=10, seed=options.seed).elbo
    evidence = log_marginal(vae.model, vae.guide, x, c=c, num_particles=options.num_particles, seed=options.seed)
    return {
        "cvae_elbo": -elbo.mean().item(),
        "cvae": -evidence.mean,
        "cvae_standard_error_data": evidence.standard_error_data,
        "cvae_standard_error_monte_carlo": evidence.standard_error_monte_carlo,
        "cvae_unreliable": evidence.unreliable,
        "num_data": len(x),
        "num_particles": options.num_particles,
    }


def _train_baseline(data: Dataset, options: argparse.Namespace) -> nn.Module:
    """A network from the given pixels to the others, trained the same way, with the best weights on `valid`."""
    (c, x), shapes = _pixels(data, "train"), (data.input_shapes["c"], data.event_shape)
    best, weights = float("inf"), {}
    with seeded(options.seed, "baseline"):
        network = MLP(*shapes, hidden=(options.hidden, options.hidden), activation="relu")
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
        for _ in range(options.epochs):
            for rows in torch.randperm(len(x)).split(options.batch_size):
                optimizer.zero_grad()
                _losses(network, c[rows], x[rows]).mean().backward()
                optimizer.step()
            schedule.step()
            with torch.no_grad():
                loss = _losses(network, *_pixels(data, "valid")).mean().item()
            if loss < best:
                best, weights = loss, {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    return network.requires_grad_(False)


def _score_baseline(network: nn.Module, data: Dataset) -> dict[str, float]:
    losses = _losses(network, *_pixels(data, "test"))
    return {
        "baseline": losses.mean().item(),
        "baseline_standard_error_data": (losses.std() / len(losses) ** 0.5).item(),
    }


def _picture(vae: VAE, network: nn.Module, data: Dataset, given: int, options: argparse.Namespace) -> Any:
    """One column for each of 10 test images: given pixels, truth, means of the baseline, three means of the CVAE."""
    c, x = (pixels[:10] for pixels in _pixels(data, "test"))
    drawn = [sample(vae, len(c), seed=seed, c=c).mean for seed in range(3)]
    rows = [torch.full_like(x, 0.5), x, network(c).sigmoid(), *drawn]
    side = round((c.shape[1] + x.shape[1]) ** 0.5)
    mask = quadrants((side, side), given)
    images = torch.empty(len(rows), len(c), side, side)
    images[..., mask], images[..., ~mask] = c.expand(len(rows), *c.shape), torch.stack(rows)
    return image_grid(images.flatten(0, 1), columns=len(c), title="Given, truth, plain network, three draws")


def _pixels(data: Dataset, split: str) -> tuple[Tensor, Tensor]:
    return data.widen_inputs(data.given(split))["c"], data.split(split)


def _losses(network: nn.Module, c: Tensor, x: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(network(c), x, reduction="none").sum(-1)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument(
        "--valid_size", type=int, default=0, help="hold out the last n of train; 0: use the valid split of the data"
    )
    parser.add_argument("--given", type=int, nargs="+", default=[1, 2, 3], help="numbers of given quadrants")
    parser.add_argument("--latent_dim", type=int, default=200)
    parser.add_argument("--hidden", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--precision", default="float32", help="precision of the CVAE's training, not of results")
    parser.add_argument("--num_particles", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="runs/quadrants")
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
