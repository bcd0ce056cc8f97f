"""What draws are given: classes (as the context of a conditional VAE, or as the label of M2), or contexts."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from pyro_vae.autoencoders import Autoencoder

NUM = 64
"""Draws that are shown where no number is asked for."""
_COLUMNS = 8
_MOST_COLUMNS = 20


@dataclass(frozen=True)
class Drawn:
    """What draws are given, and how a picture shows them.

    Args:
        given: what `tasks.sample` is given, by name.
        columns: tiles in a row.
        labels: the class of each draw; none if they are of no class.
    """

    given: dict[str, Tensor]
    columns: int = _COLUMNS
    labels: Sequence[str] = ()


def of_each_class(vae: Autoencoder, classes: int, num: int) -> Drawn:
    """`num` draws of each class in turn: a column for each, where there are not many."""
    which = cycled(torch.arange(classes), num)
    return of_classes(vae, which, classes if 1 < classes <= _MOST_COLUMNS else _COLUMNS)


def of_classes(vae: Autoencoder, classes: Tensor, columns: int = _COLUMNS) -> Drawn:
    """Draws of some classes `[num]`, labelled."""
    labels = [str(label) for label in classes.tolist()]
    if vae.classes:
        return Drawn({"y": classes}, columns, labels)
    assert vae.shapes.context is not None  # as its contexts are one-hot labels
    return Drawn({"c": torch.eye(vae.shapes.context[0])[classes]}, columns, labels)


def cycled(rows: Tensor, num: int) -> Tensor:
    """So many rows, over and over from the first."""
    return rows[torch.arange(num) % len(rows)]


def full_rows(classes: int, num: int) -> int:
    """At least `num` draws of each class in turn, as many as fill the last row."""
    return ceil(num / classes) * classes if 1 < classes <= _MOST_COLUMNS else num
