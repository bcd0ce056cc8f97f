"""How stored numbers become what is trained on: scaled, and then binarised, dequantised, or left as they are.

To add a kind of preparation: a subclass of `Preparation` here, and its line in `preparation_of`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from pyro_vae.arguments.remedies import in_words, option, spoken
from pyro_vae.data.storage import Stored, is_floating, joined, read_in_parts
from pyro_vae.data.support import fitting
from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.seeding import generator

Binarization = Literal["none", "static", "dynamic", "threshold"]


_COPIED = 2**30
"""Most elements of a mapped split that are binarised into memory, where each takes a byte."""


@dataclass(frozen=True)
class Scale:
    """Stored numbers divided by a divisor, in floating point. Bool means 0 and 1, and is never divided.

    Args:
        divisor: what numbers are divided by; 1 leaves them as they are.
        floating: the type of stored floating point numbers, which is kept; None for torch's default type.
    """

    divisor: float
    floating: torch.dtype | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The type of the result."""
        return self.floating or torch.get_default_dtype()

    def __call__(self, x: Tensor) -> Tensor:
        """The values of some rows."""
        values = x if x.is_floating_point() else x.to(self.dtype)
        return values if x.dtype == torch.bool or self.divisor == 1 else _over(values, self.divisor)

    def parts(self, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """The values of a split, part by part in order."""
        return map(self, read_in_parts(x, rows))


@dataclass(frozen=True)
class Preparation(ABC):
    """What is done to scaled values. Unless a method is overridden, they are the data.

    Args:
        scale: what the stored numbers mean.
        seed: of all draws; each split and each visit has its own stream.
        stored_levels: how many values a stored element can have; None for floats.
    """

    on_unit_interval: ClassVar[bool] = False
    """Whether the values must lie in [0, 1]."""
    draws_each_visit: ClassVar[bool] = False
    """Whether train is drawn afresh at each visit."""

    scale: Scale
    seed: int
    stored_levels: int | None

    @property
    def levels(self) -> int | None:
        """How many values an element can have before noise is added; None for floats."""
        return self.stored_levels

    @property
    def cache_key(self) -> object:
        """What the training data depend on besides the stored numbers and the divisor; None for nothing."""
        return None

    @property
    def divisor(self) -> float:
        """What the numbers that `prepare` returned are still to be divided by."""
        return self.scale.divisor

    @abstractmethod
    def describe(self) -> str:
        """The preparation in words, for the protocol."""

    def check(self, splits: Mapping[str, Stored]) -> None:  # noqa: B027 - most kinds refuse nothing
        """Refuse stored numbers that can't be prepared in this way, by their types alone.

        Raises:
            UsageError: if they can't.
        """

    def refusal(self, problem: str, x: Stored) -> str:
        """The message for values outside [0, 1], with what to do."""
        return problem

    def prepare(self, split: str, x: Stored) -> Stored:
        """What is kept of a split: drawn here if the draw is made once.

        Raises:
            DataError: if the draw would not fit in memory.
        """
        return x

    def draws(self, split: str) -> bool:
        """Whether `read` draws the split, always with the same noise; else the values are those that are kept."""
        return False

    def read(self, split: str, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """The values of a split, part by part in order; they do not depend on how it is cut."""
        return self.scale.parts(x, rows)

    def visit(self, rows: Tensor, *key: object) -> Tensor:
        """Rows of train as one visit sees them, before `widen`."""
        return rows

    def widen(self, batch: Tensor) -> Tensor:
        """The values of rows that `visit` returned, in floating point; a function of tensors alone."""
        return self.scale(batch)

    def moments(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the training data, given those of the scaled values."""
        return mean, std


class Scaled(Preparation):
    """Scaled values, as they are."""

    def describe(self) -> str:
        """That nothing else is done."""
        return "not binarised"


class _Binarized(Preparation):
    """Scaled values in [0, 1] as probabilities of ones."""

    on_unit_interval = True
    binarization: ClassVar[Binarization]

    @property
    def levels(self) -> int:
        """Two: 0 and 1."""
        return 2

    @property
    def divisor(self) -> float:
        """1: zeros and ones are kept."""
        return 1.0

    @abstractmethod
    def binary(self, grey: Tensor, stream: torch.Generator) -> Tensor:
        """Ones with the given probabilities, bool."""

    def prepare(self, split: str, x: Stored) -> Stored:
        """The zeros and ones, of the type of floats, or as bytes."""
        return self._kept(split, x, torch.uint8)

    def widen(self, batch: Tensor) -> Tensor:
        """Zeros and ones in floating point."""
        return batch.to(self.scale.dtype)

    def refusal(self, problem: str, x: Stored) -> str:
        """Which likelihoods fit the values, or how to scale them."""
        fits = fitting(next(self.scale.parts(x))) or f"scale them, e.g. {option('divide_by', 255)}"
        remedy = f"{fits}; and leave them as they are, by {_unbinarised()}"
        return f"{problem}, where {self.binarization} binarisation needs probabilities: {remedy}"

    def _kept(self, split: str, x: Stored, compact: torch.dtype) -> Tensor:
        if not isinstance(x, Tensor) and x.size > _COPIED:
            raise DataError(f"{split} is a mapped file of {x.size} values, {_too_large(split, self.binarization)}")
        return joined(self._parts(split, x), x, x.dtype if is_floating(x) else compact)

    def _parts(self, split: str, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """The split drawn with its own stream, in bool parts; the draw does not depend on how it is cut."""
        stream = generator(self.seed, "binarize", split)
        return (self.binary(grey, stream) for grey in self.scale.parts(x, rows))


class Static(_Binarized):
    """Every split is drawn once: one Bernoulli draw of each element."""

    binarization = "static"

    def describe(self) -> str:
        """With the seed."""
        return f"static binarisation with seed {self.seed}"

    def binary(self, grey: Tensor, stream: torch.Generator) -> Tensor:
        """A Bernoulli draw."""
        return _bernoulli(grey, stream)


class Threshold(_Binarized):
    """Ones where the value is above 0.5."""

    binarization = "threshold"

    def describe(self) -> str:
        """With the threshold."""
        return "binarised at > 0.5"

    def binary(self, grey: Tensor, stream: torch.Generator) -> Tensor:
        """No draw."""
        return grey > 0.5


class Dynamic(_Binarized):
    """Train stays grey and gets a Bernoulli draw at each visit; the other splits are drawn once."""

    binarization = "dynamic"
    draws_each_visit = True

    @property
    def cache_key(self) -> object:
        """The seed."""
        return self.seed

    @property
    def divisor(self) -> float:
        """That of the grey values of train."""
        return self.scale.divisor

    def describe(self) -> str:
        """With the seed, and what is drawn when."""
        return f"dynamic binarisation {_drawn(self.seed)}"

    def binary(self, grey: Tensor, stream: torch.Generator) -> Tensor:
        """A Bernoulli draw."""
        return _bernoulli(grey, stream)

    def prepare(self, split: str, x: Stored) -> Stored:
        """Train unchanged; the other splits as bool, which is never divided: `divisor` still applies to train."""
        return x if self.draws(split) else self._kept(split, x, torch.bool)

    def draws(self, split: str) -> bool:
        """Train alone."""
        return split == "train"

    def read(self, split: str, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """One draw of train; the other splits as they are kept."""
        return map(self.widen, self._parts(split, x, rows)) if self.draws(split) else self.scale.parts(x, rows)

    def visit(self, rows: Tensor, *key: object) -> Tensor:
        """A draw that depends on the rows, the seed and the key, as bytes 0 and 1."""
        return _bernoulli(self.scale(rows), generator(self.seed, "visit", *key)).to(torch.uint8)


class Dequantized(Preparation):
    """`(k + u) / levels` for the stored level k, with u uniform on [0, 1): drawn afresh at each visit of train."""

    on_unit_interval = True
    draws_each_visit = True

    @property
    def cells(self) -> int:
        """The number of levels."""
        assert self.stored_levels is not None  # see `check`
        return self.stored_levels

    @property
    def cache_key(self) -> object:
        """The seed, and that the noise is not that of a binarisation."""
        return ("dequantize", self.seed)

    def describe(self) -> str:
        """With the levels and the seed."""
        return f"dequantised to (k + u) / {self.cells} {_drawn(self.seed)}"

    def check(self, splits: Mapping[str, Stored]) -> None:
        """Refuse what has no levels, or too many for single precision."""
        if self.stored_levels is None or not 2 <= self.stored_levels <= 2**16:
            held = ", ".join(f"{split} {x.dtype}" for split, x in splits.items())
            raise UsageError(
                f"dequantize needs whole numbers k = 0, 1, ..., divisor with a whole divisor below 2^16, got {held} "
                f"with divisor {self.divisor:g}: give bytes (uint8), or an .npy of integers with divide_by"
            )

    def refusal(self, problem: str, x: Stored) -> str:
        """Which divisor the levels need."""
        highest = option("divide_by", "the highest level")
        return f"{problem}, but dequantize needs k / {self.divisor:g}: pass {highest}"

    def draws(self, split: str) -> bool:
        """All splits stay as they are stored."""
        return True

    def read(self, split: str, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """The split dequantised, always with the same noise."""
        stream = generator(self.seed, "dequantize", split)
        return (self._spread(part, stream) for part in read_in_parts(x, rows))

    def visit(self, rows: Tensor, *key: object) -> Tensor:
        """A draw that depends on the rows, the seed and the key."""
        return self._spread(rows, generator(self.seed, "visit", *key))

    def widen(self, batch: Tensor) -> Tensor:
        """The draw, which is floating point already."""
        return batch.to(self.scale.dtype)

    def moments(self, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Those of level and noise together: u has mean 1/2 and variance 1/12."""
        spread = ((std * self.divisor).square() + 1 / 12).sqrt() / self.cells
        return (mean * self.divisor + 0.5) / self.cells, spread

    def _spread(self, stored: Tensor, stream: torch.Generator) -> Tensor:
        """`(k + u) / levels`, where u has few enough bits that k can be read back from single precision."""
        steps = 2.0 ** (23 - (self.cells - 1).bit_length())
        u = torch.rand(stored.shape, generator=stream, dtype=torch.float32, device="cpu").mul_(steps).floor_()
        return _over(stored.to(self.scale.dtype) + (u / steps).to(stored.device), self.cells)


def preparation_of(binarization: Binarization, dequantize: bool) -> type[Preparation]:
    """The kind of preparation that a data set's options name.

    Raises:
        UsageError: for an unknown binarisation, or both binarisation and dequantisation.
    """
    kinds = {"none": Scaled, "static": Static, "dynamic": Dynamic, "threshold": Threshold}
    if not dequantize:
        return kinds[binarization]
    if binarization != "none":
        raise UsageError(
            f"choose one of dequantize and {binarization} binarisation: binary data have no noise: "
            f"take {spoken('likelihood=Normal', '--vae.likelihood Normal')} and {_unbinarised()}, or no dequantize"
        )
    return Dequantized


def _drawn(seed: int) -> str:
    return f"with seed {seed} (train drawn at each visit, the other splits once)"


def _bernoulli(p: Tensor, stream: torch.Generator) -> Tensor:
    # One type and one device for every uniform, so that a draw is the same wherever the data are.
    return torch.rand(p.shape, generator=stream, dtype=torch.float32, device="cpu").to(p.device) < p


def _over(x: Tensor, divisor: float) -> Tensor:
    # By a tensor: CUDA would multiply by the reciprocal of a number, which is not always the same quotient.
    return x / x.new_full((), divisor)


def _unbinarised() -> str:
    return spoken("binarize='none'", "--binarize none")


def _too_large(split: str, binarization: str) -> str:
    whole = f"which {binarization} binarisation would copy into memory (at most {_COPIED} values)"
    if binarization == "dynamic":
        return f"{whole}: hold out fewer by valid_size"
    remedy = in_words("binarize='dynamic'")
    return f"{whole}: pass {remedy}, or save the file binarised, as uint8 0 and 1"
