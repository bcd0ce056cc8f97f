"""`Splits`: train, valid and test as they are stored, with their labels and inputs."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.data.checks import (
    check_binarization,
    check_divided,
    check_inputs,
    check_labels,
    check_table,
    check_values,
)
from pyro_vae.data.gaps import MASK, without_gaps
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.preparation import Binarization, Preparation, Scale, preparation_of
from pyro_vae.data.storage import Stored, check_layout, is_floating, levels
from pyro_vae.data.tables import Table
from pyro_vae.errors import DataError, UsageError

SPLITS = ("train", "valid", "test")


Inputs = Mapping[str, Tensor]
"""What the programs of a pair are called with in addition to x, by name, e.g. a context `c`; one row for each datum."""


@dataclass(frozen=True, eq=False)
class Splits:
    """Splits that were checked and prepared before, as they are stored; `Dataset` describes the fields."""

    name: str
    train: Stored
    valid: Stored | None = None
    test: Stored | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    binarization: Binarization = "none"
    seed: int = 0
    exact: LinearGaussian | None = None
    preparation: str = "values as given"
    origin: Mapping[str, Any] = field(default_factory=dict)
    divisor: float = 1.0
    dequantize: bool = False
    inputs: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    table: Table | None = None

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.train.shape[1:])

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input of one datum, by name."""
        return {name: tuple(tensors["train"].shape[1:]) for name, tensors in self.inputs.items()}

    @property
    def levels(self) -> int | None:
        """Values that an element in [0, 1] can have: `divisor + 1`, of bytes at most 256; None for floats."""
        return self._how.levels

    @property
    def draws_each_visit(self) -> bool:
        """Whether each `visit` draws noise, for all rows of the batch at once."""
        return self._how.draws_each_visit

    def size(self, split: str) -> int:
        """How many data a split has.

        Raises:
            UsageError: `split` is not train, valid or test.
            DataError: this data set has no such split.
        """
        return len(self._stored(split))

    def given(self, split: str, rows: Tensor | slice = slice(None)) -> dict[str, Any]:
        """The inputs of some data of a split, as they are stored; `widen_inputs` makes them floating point.

        Args:
            split: train | valid | test.
            rows: which data.

        Returns:
            By name, `[B, *shape]`.

        Raises:
            UsageError, DataError: as `size`.
        """
        self._stored(split)
        chosen = {name: tensors[split] for name, tensors in self.inputs.items()}
        return {name: x[rows.to(x.device) if isinstance(rows, Tensor) else rows] for name, x in chosen.items()}

    def widen_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Inputs as the programs take them: uint8 and bool as floating point, others and the mask as they are."""
        narrow = (torch.uint8, torch.bool)
        wide = {name: x.to(self._how.scale.dtype) for name, x in inputs.items() if x.dtype in narrow and name != MASK}
        return {**inputs, **wide}

    def observed(self, split: str, rows: Tensor | slice = slice(None)) -> Tensor | None:
        """True where an element of some data was observed, `[B, *event]` bool; None if this data set has no mask.

        Args:
            split: train | valid | test.
            rows: which data.

        Raises:
            UsageError, DataError: as `size`.
        """
        self._stored(split)
        mask = self.inputs[MASK][split] if MASK in self.inputs else None
        return None if mask is None else mask[rows.to(mask.device) if isinstance(rows, Tensor) else rows]

    @cached_property
    def _gaps_of_train(self) -> Tensor | None:
        """The mask of train; None where nothing is missing, so that a mask without gaps changes no bit."""
        mask = self.observed("train")
        return None if mask is None or bool(mask.all()) else mask

    @cached_property
    def _how(self) -> Preparation:
        """How the stored numbers become the data."""
        scale = Scale(self.divisor, self.train.dtype if is_floating(self.train) else None)
        stored_levels = levels(self._splits().values(), self.divisor)
        return preparation_of(self.binarization, self.dequantize)(scale, self.seed, stored_levels)

    def _without_gaps(self) -> "Splits":
        """With 0 where the input `mask` says that an element was not observed, whatever came there.

        Raises:
            UsageError, DataError: if the mask does not fit.
        """
        if (masks := self.inputs.get(MASK)) is None:
            return self
        for split, x in self._splits().items():
            check_layout(split, x, self.train)
        filled: Any = without_gaps(self._splits(), masks)
        return replace(self, **filled)

    def _checked(self) -> Preparation:
        """How to prepare the splits, once all fields are found to be usable and to fit together.

        Raises:
            UsageError, DataError: as `Dataset`.
        """
        check_binarization(self.binarization, self.exact, MASK in self.inputs)
        splits = self._splits()
        for split, x in splits.items():
            check_layout(split, x, self.train)
        check_table(self.table, self.event_shape)
        check_divided(splits, self.divisor)
        self._how.check(splits)
        for split, x in splits.items():
            check_values(split, x, self._how)
        for split, labels in self.labels.items():
            check_labels(split, labels, splits)
        for name, tensors in self.inputs.items():
            check_inputs(name, tensors, splits)
        return self._how

    def _splits(self) -> dict[str, Stored]:
        return {split: x for split in SPLITS if (x := getattr(self, split)) is not None}

    def _stored(self, name: str) -> Stored:
        if name not in SPLITS:
            raise UsageError(f"expected a split of {SPLITS}, got {name!r}")
        x = getattr(self, name)
        if x is None:
            there, held_out = list(self._splits()), option(f"{name}_size", "n")
            raise DataError(
                f"{self.name} has no split {name!r}, only {', '.join(there)}: take {spoken('', '--split ')}{there[-1]}"
                f", or train on data loaded with {held_out}, which holds out the last n of train"
            )
        return x

    def _fields(self) -> dict[str, Any]:
        """The fields by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def _moved(self, device: str | torch.device) -> dict[str, Any]:
        """All fields by name, with their tensors on another device; a mapped file stays where it is."""
        splits = {split: x.to(device) if isinstance(x, Tensor) else x for split, x in self._splits().items()}
        labels = {split: y.to(device) for split, y in self.labels.items()}
        inputs = {n: {split: x.to(device) for split, x in tensors.items()} for n, tensors in self.inputs.items()}
        return {**self._fields(), **splits, "labels": labels, "inputs": inputs}
