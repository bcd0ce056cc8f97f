"""The inputs of draws: contexts, or classes (as the context of a conditional VAE, or as the label y)."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from pyro_vae.autoencoders import Autoencoder

NUM = 64
"""Number of draws by default."""
_COLUMNS = 8
_MOST_COLUMNS = 20


@dataclass(frozen=True)
class Drawn:
    """The inputs of draws, and how a picture shows them.

    Args:
        given: inputs of `tasks.sample`, by name.
        columns: tiles in a row.
        labels: the class of each draw; empty if draws have no class.
    """

    given: dict[str, Tensor]
    columns: int = _COLUMNS
    labels: Sequence[str] = ()


def of_each_class(vae: Autoencoder, classes: int, num: int) -> Drawn:
    """`num` draws that cycle through the classes: a column for each class, if there are at most 20."""
    which = cycled(torch.arange(classes), num)
    return of_classes(vae, which, classes if 1 < classes <= _MOST_COLUMNS else _COLUMNS)


def of_classes(vae: Autoencoder, classes: Tensor, columns: int = _COLUMNS) -> Drawn:
    """Draws of given classes `[num]`, labelled."""
    labels = [str(label) for label in classes.tolist()]
    if vae.classes:
        return Drawn({"y": classes}, columns, labels)
    assert vae.shapes.context is not None  # its contexts are one-hot labels
    return Drawn({"c": torch.eye(vae.shapes.context[0])[classes]}, columns, labels)


def cycled(rows: Tensor, num: int) -> Tensor:
    """The first `num` rows; if there are fewer, they are repeated in order."""
    return rows[torch.arange(num) % len(rows)]


def full_rows(classes: int, num: int) -> int:
    """The number of draws, at least `num`, that fills the last row of a picture with a column for each class."""
    return ceil(num / classes) * classes if 1 < classes <= _MOST_COLUMNS else num
