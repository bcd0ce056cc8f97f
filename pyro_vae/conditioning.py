"""What a conditional VAE is conditioned on: data sets with a context `c` made from their labels, or from the data."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vae.dataset import Dataset
from pyro_vae.errors import DataError, UsageError

Context = Literal["none", "labels", "array", "quadrants-1", "quadrants-2", "quadrants-3"]


def conditioned_on_labels(data: Dataset) -> Dataset:
    """The same data with their labels as context, one-hot.

    Args:
        data: a data set with labels for every split.

    Returns:
        The data set, whose input `c` is `[N, classes]`, uint8; the number of classes is that of train.

    Raises:
        DataError: if a split has no labels, or one that train has not.

    Example:
        >>> from pyro_vae.data import load_data
        >>> conditioned_on_labels(load_data("digits")).input_shapes
        {'c': (10,)}
    """
    splits = [name for name in ("train", "valid", "test") if getattr(data, name) is not None]
    missing = [name for name in splits if name not in data.labels]
    if missing:
        raise DataError(f"{data.name} has no labels for {', '.join(missing)}: a context of labels needs them")
    classes = int(data.labels["train"].max()) + 1
    for name in splits:
        labels = data.labels[name]
        if labels.min() < 0 or labels.max() >= classes:
            came = f"{int(labels.min())} to {int(labels.max())}"
            raise DataError(f"the labels of {name} run from {came}, expected 0 to {classes - 1}, those of train")
    contexts = {name: one_hot(data.labels[name], classes).to(torch.uint8) for name in splits}
    return replace(data, inputs={**data.inputs, "c": contexts})


def conditioned_on_elements(data: Dataset, given: Tensor) -> Dataset:
    """Some elements of each datum as context, all others as the datum: for p(x_missing | x_given).

    Args:
        data: a data set in memory, whose values do not change from visit to visit.
        given: True for the elements to condition on, `[*event]` bool; some, but not all.

    Returns:
        A data set of vectors: train `[N, missing]`, context `[N, given]`, each in row-major order.

    Raises:
        UsageError: if `given` does not fit, or train is drawn anew at each visit (the context would not be).

    Example:
        >>> from pyro_vae.data import load_data
        >>> halves = conditioned_on_elements(load_data("digits"), quadrants((8, 8), 2))
        >>> halves.event_shape, halves.input_shapes
        ((32,), {'c': (32,)})
    """
    if tuple(given.shape) != data.event_shape or given.dtype != torch.bool or given.all() or not given.any():
        shape = list(data.event_shape)
        raise UsageError(f"given: expected bool of shape {shape}, some but not all true, got {list(given.shape)}")
    if data.draws_each_visit:
        raise UsageError(
            "dynamic binarisation, or dequantisation, draws the data anew at each visit, and what is given would not "
            "be: pass binarize='static' or 'threshold', without dequantize"
        )
    splits = {name: data.split(name) for name in ("train", "valid", "test") if getattr(data, name) is not None}
    parts = {name: _compact(x, data) for name, x in splits.items()}
    missing = {name: x[:, ~given.to(x.device)] for name, x in parts.items()}
    contexts = {name: x[:, given.to(x.device)] for name, x in parts.items()}
    note = f"{data.preparation}, {int(given.sum())} of {given.numel()} elements given"
    changed = {"preparation": note, "divisor": 1.0, "binarization": "none", "exact": None}
    return replace(data, **missing, **changed, inputs={**data.inputs, "c": contexts})


def quadrants(event: tuple[int, ...], number: int) -> Tensor:
    """Which pixels are in the first quadrants of an image: lower left, then upper left, then lower right.

    Args:
        event: shape of an image, `[..., H, W]`.
        number: how many, 1 to 3.

    Returns:
        Bool, `[*event]`.

    Raises:
        UsageError: if the shape is no image's, or there are no such quadrants.

    References:
        Sohn et al. 2015, Learning structured output representation using deep conditional generative models.
    """
    if len(event) < 2 or not 1 <= number <= 3:
        raise UsageError(f"quadrants need images [..., H, W] and a number from 1 to 3, got {event} and {number}")
    height, width = event[-2] // 2, event[-1] // 2
    given = torch.zeros(event, dtype=torch.bool)
    given[..., height:, :width] = True
    if number > 1:
        given[..., :height, :width] = True
    if number > 2:
        given[..., height:, width:] = True
    return given


def _compact(x: Tensor, data: Dataset) -> Tensor:
    """Binary values as bytes; all others in floating point."""
    return x.to(torch.uint8) if data.binarization != "none" else x
