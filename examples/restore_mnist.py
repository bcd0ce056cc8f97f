"""How well a trained model restores binary images, beside the mean of the training data and 5 nearest neighbours.

    python examples/restore_mnist.py RUN --data static_mnist.npz --num 100

Half of the pixels missing at random, the lower half missing, 10 % of the bits flipped, and the means of blocks of 4 by
4 pixels. Neighbours are near by what was observed: of training images seen through the same channel where that has no
noise. The errors are mean squared errors of the pixels that were not observed (of all of them for flips and blocks),
averaged over images, with the standard error over images. The 90 % intervals cover the truth in 90 % of the pixels if
the model's uncertainty is right.
"""

import argparse
import json
import time

import torch
from torch import Tensor

from pyro_vae import load, load_data
from pyro_vae.channels import AveragePool, BitFlip, Channel, Missing, through
from pyro_vae.process.seeding import seeded
from pyro_vae.statistics.averages import standard_error
from pyro_vae.tasks import infer_strength, restore

CHANNELS = {
    "random": Missing("random", 0.5),
    "lower_half": Missing("lower_half"),
    "flips": BitFlip(0.1),
    "pool": AveragePool(4),
}


def neighbours(y: Tensor, train: Tensor, channel: Channel, num: int = 5) -> Tensor:
    """The mean of the training images that are nearest to each observation, by the elements that were observed."""
    means, through_it = [], channel.draw(train) if isinstance(channel, AveragePool) else train
    for row in y:
        seen = ~row.isnan()
        distance = (through_it[:, seen] - row[seen]).square().sum(-1)
        means.append(train[distance.topk(num, largest=False).indices].mean(0))
    return torch.stack(means)


def error(guess: Tensor, truth: Tensor, known: Tensor) -> str:
    """The mean squared error of the elements that are not known, with its standard error."""
    open_ = (~known).flatten(1).float()
    each = ((guess - truth).square().flatten(1) * open_).sum(1) / open_.sum(1)
    return f"{each.mean():.4f} +- {standard_error(each):.4f}"


def row(vae: object, x: Tensor, train: Tensor, channel: Channel, num_particles: int) -> dict[str, object]:
    """One line of the table."""
    with seeded(0, "observe"):
        y = channel.draw(x)
    start = time.monotonic()
    found = restore(vae, y, channel, truth=x, num_particles=num_particles)
    seconds = (time.monotonic() - start) / len(x)
    covered, mse = found.coverage(0.9), found.mean_squared_error
    return {
        "channel": str(channel),
        "error": f"{mse.mean:.4f} +- {mse.standard_error_data:.4f}",
        "mean": error(train.mean(0).expand_as(x), x, found.known),
        "5 neighbours": error(neighbours(y, train, channel), x, found.known),
        "log p(x|y)": f"{found.log_p_truth.mean():.2f} +- {standard_error(found.log_p_truth):.2f}",
        "coverage": f"{covered.mean:.3f} +- {covered.standard_error_data:.3f}",
        "methods": found.methods,
        "flagged": found.unreliable,
        "log p(y) flagged": found.log_p_flagged.double().mean().item(),
        "seconds an image": round(seconds, 2),
    }


def main() -> None:
    """Print the table, and the flip rate that is inferred."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", required=True)
    parser.add_argument("--num", type=int, default=100)
    parser.add_argument("--num_particles", type=int, default=1000)
    parser.add_argument("--channels", nargs="+", choices=CHANNELS, default=list(CHANNELS))
    options = parser.parse_args()
    vae, data = load(options.run), load_data(options.data)
    test, train = data.split("test"), data.split("train")
    x = test[torch.arange(options.num) * len(test) // options.num]
    for channel in (CHANNELS[name] for name in options.channels):
        through(vae, channel)  # refuses data that are no images before the work
        print(json.dumps(row(vae, x, train, channel, options.num_particles)), flush=True)
    if "flips" not in options.channels:
        return
    with seeded(0, "flips"):
        y = BitFlip(0.1).draw(x[::2])
    grid = [BitFlip(p / 1000) for p in range(88, 113, 3)]
    found = infer_strength(vae, y, grid, options.num_particles)
    print(found, [round(p, 4) for p in found.probabilities.tolist()])


if __name__ == "__main__":
    main()
