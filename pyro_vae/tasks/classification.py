"""Classes of data by a `SemiSupervisedVAE`: their probabilities, the evidence of each, and how often they are right."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.autoencoders import SemiSupervisedVAE
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.process.isolation import isolated


@isolated
@checked
def classify(vae: SemiSupervisedVAE, x: Tensor, mask: Tensor | None = None, batch: int = 1000) -> Tensor:
    r"""The classifier's probabilities q(y|x), in evaluation mode and without gradients.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        mask: True where an element of `x` is observed, broadcastable to `x`; None where all are.
        batch: data in one run of the network.

    Returns:
        `[N, classes]`, on the CPU; `argmax(-1)` is the class.

    Raises:
        DataError: if the data have another shape than the model's.

    Example:
        >>> classify(SemiSupervisedVAE((8, 8), classes=10), torch.zeros(5, 8, 8)).shape
        torch.Size([5, 10])
    """
    if not vae.classes:
        raise UsageError(f"vae: expected a SemiSupervisedVAE, which has classes, got a {type(vae).__name__}")
    if tuple(x.shape[1:]) != vae.shapes.event or len(x) == 0:
        raise DataError(f"x: expected shape [N >= 1, {', '.join(map(str, vae.shapes.event))}], got {list(x.shape)}")
    device, observed = next(vae.parameters()).device, None if mask is None else mask.expand(x.shape)
    with evaluation_mode(vae):
        tiles = [slice(start, start + batch) for start in range(0, len(x), batch)]
        masks = [None if observed is None else observed[tile].to(device) for tile in tiles]
        probs = [vae.classify(x[tile].to(device), m).probs.cpu() for tile, m in zip(tiles, masks, strict=True)]
    return torch.cat(probs)


@isolated
@checked
def label_evidence(
    vae: SemiSupervisedVAE, x: Tensor, num_particles: int = 100, seed: int = 0, **options: Any
) -> Tensor:
    r"""Estimate log p(x, y) of every class y by importance sampling over z alone.

    .. math:: \log p(x) = \log \sum_y p(x, y), \qquad p(y|x) = p(x, y) / p(x)

    So `logsumexp(-1)` estimates log p(x) with an exact sum over y, and `softmax(-1)` the model's own posterior of the
    class, which q(y|x) approximates. It costs as much as `classes` runs of `log_marginal`.

    Args:
        vae: the model; left as it is.
        x: data `[N, *event]`.
        num_particles: K, draws of z for each datum and class.
        seed: seed of the draws.
        **options: further options of `log_marginal`.

    Returns:
        `[N, classes]`, nats, in double precision on the CPU; each in expectation below its exact value.

    Example:
        >>> vae = SemiSupervisedVAE((4,), classes=3, latent_dim=2)
        >>> label_evidence(vae, torch.ones(2, 4)).logsumexp(-1).shape
        torch.Size([2])
    """
    sampling: dict[str, Any] = {"num_particles": num_particles, "seed": seed, **options}
    each = [torch.full((len(x),), y, device=x.device) for y in range(vae.classes)]
    return torch.stack([log_marginal(vae.model, vae.guide, x, y=y, **sampling).log_p for y in each], -1)


@dataclass(frozen=True, eq=False)
class Accuracy:
    """How often a classifier is right.

    Args:
        correct: whether it is right about each datum, `[N]` bool.
    """

    correct: Tensor

    @property
    def mean(self) -> float:
        """Share of the data that are classified right."""
        return self.correct.double().mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of `mean`, from having N data: `sqrt(mean (1 - mean) / N)`."""
        return (self.mean * (1 - self.mean) / len(self.correct)) ** 0.5

    def __repr__(self) -> str:
        return f"Accuracy({self.mean:.2%} +- {self.standard_error:.2%}, N = {len(self.correct)})"


@isolated
def accuracy(probabilities: Tensor, labels: Tensor) -> Accuracy:
    """Compare the most probable class of each datum with its label.

    Args:
        probabilities: `[N, classes]`, as of `classify` or `label_evidence`.
        labels: `[N]`, all known.

    Raises:
        DataError: if there are no labels, not as many as probabilities, or one below 0.

    Example:
        >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]]), torch.tensor([0, 1, 1])).mean
        0.6666666666666666
    """
    if labels.shape != probabilities.shape[:1] or len(labels) == 0 or labels.min() < 0:
        raise DataError(
            f"expected a label from 0 for each of {len(probabilities)} data, got {list(labels.shape)}"
            f"{f' from {int(labels.min())}' if labels.numel() else ''}: leave out data whose class is not known"
        )
    return Accuracy(probabilities.argmax(-1).cpu() == labels.cpu())
