"""Data sets with inputs made from their labels or elements: a context `c`, or `y`, the labels of some data."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_vae.arguments.remedies import option
from pyro_vae.data.dataset import Dataset
from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.seeding import generator

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
        >>> from pyro_vae.data.loading import load_data
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
        data: a data set whose values do not change from visit to visit.
        given: True for the elements to condition on, `[*event]` bool; some, but not all.

    Returns:
        A data set of vectors: train `[N, missing]`, context `[N, given]`, each in row-major order.

    Raises:
        UsageError: if `given` does not fit, or train is drawn anew at each visit (the context would not be).

    Example:
        >>> from pyro_vae.data.loading import load_data
        >>> halves = conditioned_on_elements(load_data("digits"), quadrants((8, 8), 2))
        >>> halves.event_shape, halves.input_shapes
        ((32,), {'c': (32,)})
    """
    if tuple(given.shape) != data.event_shape or given.dtype != torch.bool or given.all() or not given.any():
        shape = list(data.event_shape)
        raise UsageError(f"given: expected bool of shape {shape}, some but not all true, got {list(given.shape)}")
    if data.observed("train") is not None:
        raise UsageError("elements that are given to the model must all be observed, and these data have a mask")
    if data.draws_each_visit:
        raise UsageError(
            "dynamic binarisation, or dequantisation, draws the data anew at each visit, and what is given would not "
            f"be: pass {option('binarize', 'static')} or threshold, without dequantize"
        )
    splits = {name: data.split(name) for name in ("train", "valid", "test") if getattr(data, name) is not None}
    parts = {name: _compact(x, data) for name, x in splits.items()}
    missing = {name: x[:, ~given.to(x.device)] for name, x in parts.items()}
    contexts = {name: x[:, given.to(x.device)] for name, x in parts.items()}
    note = f"{data.preparation}, {int(given.sum())} of {given.numel()} elements given"
    changed = {"preparation": note, "divisor": 1.0, "binarization": "none", "exact": None, "table": None}
    return replace(data, **missing, **changed, inputs={**data.inputs, "c": contexts})


def semi_supervised(data: Dataset, labelled: int, seed: int = 0, repeats: int = 1) -> Dataset:
    """The same data with the labels of a few of train as input `y`; all others, valid and test have -1 there.

    Equally many are kept of each class, or one more of some. `labels` keeps all, to measure accuracy.

    A batch is drawn from labelled and unlabelled data with the same probability, so where labels are rare few batches
    have one, and the noise of the gradient is large. `repeats` puts each labelled datum into train several times: it
    counts as often in the bound, while the weight of `SemiSupervisedELBO`'s other term falls as it should.

    Args:
        data: a data set with labels from 0 for train.
        labelled: how many data of train keep their label, at least one of each class.
        seed: of the choice.
        repeats: how often each labelled datum is in train, at least 1.

    Raises:
        DataError: if train has no labels, or not enough of a class.
        UsageError: if `labelled` is less than the number of classes, or `repeats` is not positive; or if train is a
            mapped file, where no datum can be repeated.

    Example:
        >>> from pyro_vae.data.loading import load_data
        >>> few = semi_supervised(load_data("digits"), labelled=50)
        >>> few.inputs["y"]["train"].unique(return_counts=True)[1].tolist()
        [1347, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5]
    """
    if "train" not in data.labels or int(data.labels["train"].min()) < 0:
        raise DataError(f"{data.name} has no labels from 0 for train: semi-supervised training keeps some of them")
    if repeats < 1 or (repeats > 1 and not isinstance(data.train, Tensor)):
        raise UsageError(f"expected repeats of at least 1, and of 1 for a mapped file, got {repeats}")
    labels, splits = data.labels["train"], [n for n in ("train", "valid", "test") if getattr(data, n) is not None]
    kept = _some_of_each(labels, labelled, seed)
    known = {name: torch.full((len(getattr(data, name)),), -1, device=labels.device) for name in splits}
    known["train"][kept] = labels[kept]
    again = f", each {repeats} times" if repeats > 1 else ""
    note = f"{data.preparation}, labels of {labelled} known (seed {seed}){again}"
    few = replace(data, inputs={**data.inputs, "y": known}, preparation=note)
    return few if repeats == 1 else _repeated(few, kept.repeat(repeats - 1))


def _some_of_each(labels: Tensor, count: int, seed: int) -> Tensor:
    """`count` rows with labels, equally many of each class or one more of some, in a random order."""
    classes = int(labels.max()) + 1
    if count < classes:
        raise UsageError(f"expected labelled to be at least 1 for each of {classes} classes, got {count}")
    order = torch.randperm(len(labels), generator=generator(seed, "labelled")).to(labels.device)
    extra = torch.randperm(classes, generator=generator(seed, "extra")) < count % classes
    kept = []
    for y, more in enumerate(extra.tolist()):
        rows, wanted = order[labels[order] == y], count // classes + more
        if len(rows) < wanted:
            raise DataError(f"train has {len(rows)} data of class {y}, of which {wanted} should keep their label")
        kept.append(rows[:wanted])
    return torch.cat(kept)


def _repeated(data: Dataset, rows: Tensor) -> Dataset:
    """With some rows of train once more, at its end."""
    inputs = {name: {**x, "train": torch.cat([x["train"], x["train"][rows]])} for name, x in data.inputs.items()}
    labels = {**data.labels, "train": torch.cat([data.labels["train"], data.labels["train"][rows]])}
    assert isinstance(data.train, Tensor)
    return replace(data, train=torch.cat([data.train, data.train[rows]]), labels=labels, inputs=inputs)


def quadrants(event: tuple[int, ...], number: int) -> Tensor:
    """Which pixels are in the first quadrants of an image: lower left, then upper left, then upper right.

    Args:
        event: shape of an image, `[..., H, W]`.
        number: how many, 1 to 3.

    Returns:
        Bool, `[*event]`.

    Raises:
        UsageError: if the shape is no image's, or there are no such quadrants.

    References:
        Sohn et al. 2015, Learning structured output representation using deep conditional generative models. The order
        is that of Pyro's tutorial.

    Example:
        >>> quadrants((4, 4), 1).int()
        tensor([[0, 0, 0, 0],
                [0, 0, 0, 0],
                [1, 1, 0, 0],
                [1, 1, 0, 0]], dtype=torch.int32)
    """
    if len(event) < 2 or not 1 <= number <= 3:
        raise UsageError(f"quadrants need images [..., H, W] and a number from 1 to 3, got {event} and {number}")
    height, width = event[-2] // 2, event[-1] // 2
    given = torch.zeros(event, dtype=torch.bool)
    given[..., height:, :width] = True
    if number > 1:
        given[..., :height, :width] = True
    if number > 2:
        given[..., :height, width:] = True
    return given


def _compact(x: Tensor, data: Dataset) -> Tensor:
    """Binary values as bytes; all others in floating point."""
    return x.to(torch.uint8) if data.binarization != "none" else x
