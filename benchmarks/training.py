"""Training speed: `fit` beside hand-written PyTorch loops, in turn, in one process.

Prints the images per second of each and the median over rounds of the ratio of `fit` to it *in the same round*:
absolute speeds move with the load of the machine. The network is 784-200-200-50, Bernoulli, one draw of z,
Adam, float32, on synthetic binary images.

    python benchmarks/training.py --batch 100 --rounds 5 --threads 2
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae import VAE, fit
from pyro_vae.networks import MLP

LATENT, HIDDEN = 50, (200, 200)


def make() -> VAE:
    """A fresh VAE of the size timed."""
    network = partial(MLP, hidden=HIDDEN)
    return VAE((28, 28), LATENT, encoder=network, decoder=network)


def ours(x: Tensor, batch: int) -> None:
    """`fit` as a user calls it."""
    fit(make(), x, epochs=1, batch_size=batch, progress=False)


def by_hand(x: Tensor, batch: int, fused: bool) -> None:
    """The loop that people write: the same networks, estimator and batches, without Pyro."""
    vae = make()
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=fused)
    for rows in batches(x, batch):
        optimizer.zero_grad(set_to_none=True)
        loss = negative_elbo(vae.encoder, vae.decoder, rows)
        loss.backward()
        optimizer.step()
        loss.item()


def batches(x: Tensor, batch: int) -> Iterator[Tensor]:
    """One shuffled epoch."""
    return (x[index] for index in torch.randperm(len(x)).split(batch))


def negative_elbo(encoder: nn.Module, decoder: nn.Module, x: Tensor) -> Tensor:
    """The same Monte Carlo estimator as `Trace_ELBO`, summed over the batch."""
    loc, log_scale = encoder(x).unbind(-2)
    noise = torch.randn_like(loc)
    z = loc + noise * log_scale.exp()
    reconstruction = binary_cross_entropy_with_logits(decoder(z).squeeze(1), x, reduction="sum")
    return reconstruction + (0.5 * (z.square() - noise.square()) - log_scale).sum()


def main(batch: int, rounds: int, threads: int, num: int) -> None:
    """Time all systems in turn and print the table."""
    torch.set_num_threads(threads)
    x = (torch.rand(num, 28, 28) < 0.13).float()
    systems: dict[str, Callable[[Tensor, int], None]] = {
        "fit": ours,
        "by hand, fused Adam": partial(by_hand, fused=True),
        "by hand, default Adam": partial(by_hand, fused=False),
    }
    for system in systems.values():
        system(x[: 20 * batch], batch)
    speeds = [{name: num / _seconds(system, x, batch) for name, system in systems.items()} for _ in range(rounds)]
    for name in systems:
        ratios = [round_["fit"] / round_[name] for round_ in speeds]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        speed = median(r[name] for r in speeds)
        print(f"{name:<24}{speed:>9.0f} images/s   fit is {median(ratios):.2f} x ({spread})")


def _seconds(system: Callable[[Tensor, int], None], x: Tensor, batch: int) -> float:
    start = time.perf_counter()
    system(x, batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num", type=int, default=20_000, help="images in an epoch")
    main(**vars(parser.parse_args()))
