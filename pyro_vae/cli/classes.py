"""Classes to draw data of, for the models that have them: as a conditional VAE's context, or as M2's label."""

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


def in_turn(num: int, classes: int) -> Tensor:
    """Each class in turn, `[num]`."""
    return torch.arange(num) % classes


def columns(classes: int) -> int:
    """A column for each class, where there are not many."""
    return classes if 1 < classes <= 20 else COLUMNS
