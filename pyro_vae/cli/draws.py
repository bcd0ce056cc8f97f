"""What draws are given: classes (as the context of a conditional VAE, or as the label of M2), or contexts."""

import torch
from torch import Tensor

from pyro_vae.autoencoder import Autoencoder
from pyro_vae.semi_supervised import SemiSupervisedVAE

COLUMNS = 8
"""Of a picture of draws that are of no class."""


def of_classes(vae: Autoencoder, classes: Tensor) -> dict[str, Tensor]:
    """What `tasks.sample` is given, by name, to draw data of some classes `[num]`."""
    if isinstance(vae, SemiSupervisedVAE):
        return {"y": classes}
    assert vae.shapes.context is not None  # as its contexts are one-hot labels
    return {"context": torch.eye(vae.shapes.context[0])[classes]}


def cycled(rows: Tensor, num: int) -> Tensor:
    """So many rows, over and over from the first."""
    return rows[torch.arange(num) % len(rows)]


def columns(classes: int) -> int:
    """A column for each class, where there are not many."""
    return classes if 1 < classes <= 20 else COLUMNS
