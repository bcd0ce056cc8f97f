"""What all models share: the data, a trained model, an estimate of log p(x), and the training loop."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import inf

import torch
from torch import Tensor, nn

from pyro_vae import load_data, seeded
from pyro_vae.data import Dataset


@dataclass(frozen=True)
class Data:
    """The packaged digits as bits, 64 a datum, under dynamic binarisation.

    Args:
        source: the data set as `pyro_vae.fit` takes it; its name, its scale and its binarisation are in `protocol`.
        grey: training images, `[1397, 64]`, each pixel the probability of a 1.
        train: one draw of bits of each training image, `[1397, 64]`; for what needs fixed data.
        test: bits of the test images, drawn once, `[N, 64]`.
        joined: the anomalies: upper halves of test images above lower halves of images of another digit, `[N, 64]`.
            Each half is normal, and so is each pixel; only that they are together is not.
        train_labels: the digits, `[1397]`.
        test_labels: the digits, `[N]`.
    """

    source: Dataset
    grey: Tensor
    train: Tensor
    test: Tensor
    joined: Tensor
    train_labels: Tensor
    test_labels: Tensor

    @classmethod
    def load(cls, num_data: int, seed: int) -> "Data":
        """The data, of which the first `num_data` test images are used."""
        source = load_data("digits", binarize="dynamic")
        grey = load_data("digits").split("train").flatten(1)
        with seeded(seed, "fixed draw"):
            train = torch.bernoulli(grey)
        labels, test_labels = source.labels["train"], source.labels["test"][:num_data]
        test = source.split("test")[:num_data].flatten(1)
        joined = torch.cat([test[:, :32], test[of_another(test_labels, seed), 32:]], 1)
        return cls(source, grey, train, test, joined, labels, test_labels)

    def passes(self, count: int, seed: int) -> Tensor:
        """The training images `count` times, each time with a fresh draw of bits, `[count * 1397, 64]`."""
        with seeded(seed, "passes"):
            return torch.bernoulli(self.grey.repeat(count, 1))


def of_another(labels: Tensor, seed: int) -> Tensor:
    """For each datum the row of one with another label, drawn at random, `[N]`."""
    with seeded(seed, "of another digit"):
        return (labels[:, None] != labels).double().multinomial(1).squeeze(1)


@dataclass(frozen=True)
class LogP:
    """What is known of log p(x) of test data, nats.

    Args:
        values: for each datum, `[N]`; the middle of the bracket if there is one.
        kind: "exact", "estimate" (below log p(x) in expectation, by less than `monte_carlo`), "bracket" or
            "lower bound".
        how: the method, with its protocol.
        monte_carlo: standard error of the mean due to the method's draws.
        half_width: half the width of the bracket.
    """

    values: Tensor
    kind: str
    how: str
    monte_carlo: float = 0.0
    half_width: float = 0.0

    @property
    def ends(self) -> tuple[float, float]:
        """Between which numbers the mean of log p(x) over the data lies, but for the draws of the method."""
        mean = self.values.mean().item()
        return mean - self.half_width, inf if self.kind == "lower bound" else mean + self.half_width


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model: one function for each thing that it can compute, None for each that it can't.

    Args:
        name: its name in the table.
        family: what is known of its density: "exact", "bounded" or "none".
        parameters: how many numbers were learned.
        sample: draws `n` data, `[n, 64]` bits.
        log_p: log p(x) of data `[N, 64]`.
        reconstruct: expected bits of a datum from its code, `[N, 64]`.
        encode: codes, `[N, L]`.
        impute: expected bits given the observed ones: takes x and a mask that is True where observed, `[N, 64]`.
        anomaly: a score that is higher for an unusual datum, `[N]`.
        seconds: CPU time of the training and of finding log Z.
    """

    name: str
    family: str
    parameters: int
    sample: Callable[[int], Tensor] | None = None
    log_p: Callable[[Tensor], LogP] | None = None
    reconstruct: Callable[[Tensor], Tensor] | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    impute: Callable[[Tensor, Tensor], Tensor] | None = None
    anomaly: Callable[[Tensor], Tensor] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Budget:
    """The same for all models.

    Args:
        epochs: passes over the training images, each with a fresh draw of bits.
        hidden: width of a hidden layer.
        latent: numbers in a code.
        draws: draws of a datum in estimates of log p(x).
        temperatures: of annealed importance sampling.
        chains: of annealed importance sampling, and of Gibbs sampling.
        seed: of everything.
    """

    epochs: int = 100
    hidden: int = 128
    latent: int = 8
    draws: int = 1000
    temperatures: int = 2000
    chains: int = 500
    seed: int = 0

    @property
    def stacked(self) -> int:
        """Passes that are stacked into one data set for models that are fitted to all data at once."""
        return max(1, self.epochs // 10)


def batches(data: Data, epochs: int, size: int = 50) -> Iterator[tuple[float, Tensor]]:
    """Batches of freshly drawn bits, each with the share of the training that is done."""
    steps = -(-len(data.grey) // size)
    for epoch in range(epochs):
        for step, rows in enumerate(torch.randperm(len(data.grey)).split(size)):
            yield (epoch + step / steps) / epochs, torch.bernoulli(data.grey[rows])


def descend(network: nn.Module, loss: Callable[[Tensor], Tensor], data: Data, epochs: int) -> None:
    """Adam on `loss(bits)`, nats per datum, with a learning rate that falls to 0 in a straight line."""
    optimizer = torch.optim.Adam(network.parameters(), lr=4e-3)
    for done, x in batches(data, epochs):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - done)
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()


def layers(*widths: int) -> nn.Sequential:
    """Affine layers of these widths with ReLU between them."""
    each = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*each[:-1])


def size(network: nn.Module) -> int:
    """How many numbers a network has learned."""
    return sum(p.numel() for p in network.parameters())


def bit_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """Log-probability of bits, `[N]`, given their logits, both `[N, 64]`; nats."""
    return -nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
