"""`Dataset`: splits held as compactly as they were stored, and how grey values become binary, or real."""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from pyro_vae.arguments.remedies import in_words, option, spoken
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.storage import (
    Stored,
    check_layout,
    chunk_rows,
    find,
    is_floating,
    joined,
    kind,
    read_in,
    read_in_parts,
    update_digest,
)
from pyro_vae.data.support import fitting
from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.seeding import generator

Binarization = Literal["none", "static", "dynamic", "threshold"]


Inputs = Mapping[str, Tensor]
"""What the programs of a pair are called with beside x, by name, e.g. a context `c`; the data are in front."""


SPLITS = ("train", "valid", "test")


_COPIED = 2**30
"""Elements of a mapped split that may be binarised into memory, a byte each."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What is trained on: splits, checked when made, and binarised as `binarization` says.

    A split is held as it was stored. Floating point means itself; uint8 in memory (a byte an element) and a
    memory-mapped file (none) mean their values over `divisor`; bool means 0 and 1. All that gives data out (`split`,
    `chunks`, `visit`, `mean`, `std`) gives floating point: the type of a floating point tensor, else torch's default
    type. Only `batch` and the attributes `train`, `valid`, `test` show what is stored.

    With `"static"` and `"threshold"` every split is binarised here, once. With `"dynamic"` train stays grey and is
    drawn afresh at each `visit`, while valid and test are drawn here, once. Values 0 and 1 stay so under all of these.
    What is drawn here is kept in memory, also where it comes from a mapped file: refused above 2^30 elements.

    With `dequantize` every element is spread over the cell of its level k, `x = (k + u) / levels` with u uniform on
    [0, 1), so that a density on [0, 1) bounds the probability of the levels. Train is drawn afresh at each `visit`,
    the other splits always with the same noise; all stay as they are stored.

    A mapped file is read at each use and never whole, except by `split`; it must stay as it is meanwhile.

    Args:
        name: what it is called in reports.
        train: `[N, *event]`: floating point, uint8 or bool, or a `numpy.memmap` of real numbers.
        valid: as train, with another N.
        test: as train, with another N.
        labels: split -> integer labels `[N]`.
        binarization: none | static (one Bernoulli draw) | dynamic (a draw per visit) | threshold (x > 0.5).
        seed: of the binarisation, or dequantisation; each split has a stream of its own.
        exact: the generating process, where the evidence is known.
        preparation: what was done to the values before they came here; part of `protocol`.
        origin: how to load them again, as the command's options; empty where they came as an array.
        divisor: what stored uint8 and mapped values are divided by; 1 once they are binarised for good.
        dequantize: whether to add uniform noise within each level; for whole numbers and a whole divisor.
        inputs: what model and guide are called with beside x: name -> split -> `[N, *shape]`, e.g. the context `c` of a
            conditional VAE; uint8 (one-hot labels, binary pixels) become floats as they are. Every split has all.

    Raises:
        DataError: a split is empty, of integers other than uint8, not finite, of another event shape, outside [0, 1]
            where it is to be binarised, or too large to be binarised into memory; or labels or inputs don't fit their
            split.
        UsageError: options that make no sense together.

    References:
        Theis, van den Oord & Bethge 2016, A note on the evaluation of generative models: uniform dequantisation.

    Example:
        >>> data = Dataset("grey", torch.arange(6, dtype=torch.uint8).reshape(3, 2), binarization="dynamic", divisor=5)
        >>> data.batch(torch.arange(2), "step", 1).dtype, data.visit(torch.arange(2), "step", 1).dtype
        (torch.uint8, torch.float32)
        >>> bool((data.visit(torch.arange(3), "step", 1) == data.visit(torch.arange(3), "step", 1)).all())
        True
    """

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

    def __post_init__(self) -> None:
        self._check_options()
        for split, x in self._splits().items():
            check_layout(split, x, self.train)
        self._check_divisor()
        self._check_levels()
        for split, x in self._splits().items():
            self._check_values(split, x)
        for split, labels in self.labels.items():
            _check_labels(split, labels, self._splits())
        for name, tensors in self.inputs.items():
            _check_inputs(name, tensors, self._splits())
        for split, x in self._splits().items():
            object.__setattr__(self, split, self._prepared(split, x))
        if self.binarization in ("static", "threshold"):
            object.__setattr__(self, "divisor", 1.0)

    # ---- what is there

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.train.shape[1:])

    @property
    def levels(self) -> int | None:
        """Values that an element in [0, 1] can have: `divisor + 1`, of bytes at most 256; None for floats."""
        kinds = {kind(x) for x in self._splits().values()}
        if self.binarization != "none" or (kinds == {"bool"} and self.divisor == 1):
            return 2
        if not kinds <= {"uint8", "integer"} or self.divisor != int(self.divisor):
            return None
        return min(int(self.divisor) + 1, 256) if kinds == {"uint8"} else int(self.divisor) + 1

    @property
    def draws_each_visit(self) -> bool:
        """Whether each `visit` draws: then the noise of a batch is drawn for all of its rows at once."""
        return self.dequantize or self.binarization == "dynamic"

    @property
    def protocol(self) -> str:
        """One line: the name, how the values were scaled and binarised, and the sizes of the splits."""
        drawn = f"with seed {self.seed} (train drawn at each visit, the other splits once)"
        binarized = {
            "none": f"dequantised to (k + u) / {self.levels} {drawn}" if self.dequantize else "not binarised",
            "static": f"static binarisation with seed {self.seed}",
            "dynamic": f"dynamic binarisation {drawn}",
            "threshold": "binarised at > 0.5",
        }[self.binarization]
        sizes = ", ".join(f"{split} {len(x)}" for split, x in self._splits().items())
        shapes = [f"shape {_by(self.event_shape)}", *(f"{n} {_by(s)}" for n, s in self.input_shapes.items())]
        return f"{self.name}: {self.preparation}; {binarized}; {sizes}; {', '.join(shapes)}"

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each input of one datum, by name."""
        return {name: tuple(tensors["train"].shape[1:]) for name, tensors in self.inputs.items()}

    def given(self, split: str, rows: Tensor | slice = slice(None)) -> dict[str, Any]:
        """The inputs of some data of a split, as they are stored; `widen_inputs` makes them floating point.

        Args:
            split: train | valid | test.
            rows: which data.

        Returns:
            By name, `[B, *shape]`.
        """
        self._stored(split)
        chosen = {name: tensors[split] for name, tensors in self.inputs.items()}
        return {name: x[rows.to(x.device) if isinstance(rows, Tensor) else rows] for name, x in chosen.items()}

    def widen_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """Inputs as the programs take them: uint8 and bool as floating point, others as they are."""
        narrow = (torch.uint8, torch.bool)
        return {name: x.to(self._dtype) if x.dtype in narrow else x for name, x in inputs.items()}

    def split(self, name: str) -> Tensor:
        """The data of one split in memory; where train is drawn at each visit, one draw that is always the same.

        Args:
            name: train | valid | test.

        Returns:
            `[N, *event]`, floating point. `chunks` gives the same in parts.

        Raises:
            UsageError: `name` is none of these.
            DataError: this data set has no such split.
        """
        x = self._stored(name)
        if self._drawn_by_visit(name):
            return joined(self._binary(name, x), x, self._dtype)
        if self.dequantize:
            return joined(self._spread(name, x), x, self._dtype)
        return self._scaled(read_in(x))

    def chunks(self, split: str, rows: int | None = None) -> Iterator[Tensor]:
        """The data of one split, part by part in order: together what `split` returns, without holding it whole.

        Args:
            split: train | valid | test.
            rows: data in a part, the last may have fewer; None for 10,000, or fewer where they are large (32 MiB).

        Returns:
            An iterator of `[rows, *event]`, floating point.

        Raises:
            UsageError: `split` is none of these, or `rows` is below 1.
            DataError: this data set has no such split.

        Example:
            >>> [len(x) for x in Dataset("array", torch.rand(5, 3)).chunks("train", rows=2)]
            [2, 2, 1]
        """
        if rows is not None and rows < 1:
            raise UsageError(f"expected at least 1 row in a chunk, got {rows}")
        x = self._stored(split)
        rows = rows or min(10_000, chunk_rows(x, 8))
        if self._drawn_by_visit(split):
            return (drawn.to(self._dtype) for drawn in self._binary(split, x, rows))
        if self.dequantize:
            return self._spread(split, x, rows)
        return map(self._scaled, read_in_parts(x, rows))

    def size(self, split: str) -> int:
        """How many data a split has.

        Raises:
            UsageError, DataError: as `split`.
        """
        return len(self._stored(split))

    def select(self, split: str, rows: Tensor) -> Tensor:
        """Some data of one split: `split(name)[rows]`, of which no others are held, nor read where none are drawn.

        Args:
            split: train | valid | test.
            rows: which, `[B]`, integers from 0.

        Returns:
            `[B, *event]`, floating point.

        Raises:
            UsageError, DataError: as `split`.

        Example:
            >>> Dataset("array", torch.arange(10.0).unsqueeze(-1)).select("train", evenly_spread(10, 4)).flatten()
            tensor([0., 2., 5., 7.])
        """
        x = self._stored(split)
        if not (self.dequantize or self._drawn_by_visit(split)):
            return self._scaled(read_in(x[rows.to(x.device) if isinstance(x, Tensor) else rows.numpy()]))
        (ascending, order), found, start = rows.sort(), [], 0
        for chunk in self.chunks(split):  # draws are made in order
            inside = ascending[(ascending >= start) & (ascending < start + len(chunk))]
            found.append(chunk[(inside - start).to(chunk.device)])
            start += len(chunk)
        return torch.cat(found)[order.argsort().to(x.device if isinstance(x, Tensor) else "cpu")]

    def visit(self, index: Tensor, *key: object) -> Tensor:
        """The training batch `train[index]` as seen at this visit: `widen(batch(index, *key))`.

        Args:
            index: rows of train, `[B]`, integers from 0.
            *key: which visit this is, e.g. `epoch, step`.

        Returns:
            `[B, *event]`, floating point: under dynamic binarisation and dequantisation a draw that depends only on the
            rows, the seed and `key`, and is the same on every device; otherwise the rows themselves.
        """
        return self.widen(self.batch(index, *key))

    def batch(self, index: Tensor, *key: object) -> Tensor:
        """The batch of `visit` in its compact form, e.g. to move it to another device before it becomes floats.

        Args:
            index: rows of train, `[B]`, integers from 0.
            *key: which visit this is, e.g. `epoch, step`.

        Returns:
            `[B, *event]`, where train is (a mapped file: on the CPU): uint8 0 and 1 under dynamic binarisation; floats
            under dequantisation; else the rows as they are stored (of a mapped file: uint8, or torch's default type),
            not yet divided.
        """
        if isinstance(self.train, Tensor):
            rows = self.train.index_select(0, index.to(self.train.device))  # bytes: 5 times as fast as []
        else:
            rows = read_in(self.train[index.cpu().numpy()])
        if self.dequantize:
            return self._dequantized(rows, generator(self.seed, "visit", *key))
        if self.binarization != "dynamic":
            return rows
        return _bernoulli(self._scaled(rows), generator(self.seed, "visit", *key)).to(torch.uint8)

    def widen(self, batch: Tensor) -> Tensor:
        """What a `batch` means, in floating point; a function of tensors alone, on any device, fit to be traced.

        Args:
            batch: what `batch` returned, or parts of it.

        Returns:
            Its values: floating point, divided by `divisor` where they are not binarised or dequantised.
        """
        return batch.to(self._dtype) if self.dequantize or self.binarization != "none" else self._scaled(batch)

    def some(self, count: int, seed: int, *key: object) -> Tensor:
        """Rows of train drawn without replacement, all of them in a random order where they are fewer than asked for.

        Args:
            count: how many.
            seed: of the draw, which depends on nothing else.
            *key: what they are for, as for `seeded`.

        Returns:
            `[min(count, N), *event]`, floating point, as one `visit` sees them.
        """
        index = torch.randperm(len(self.train), generator=generator(seed, *key))[:count]
        return self.visit(index, seed, *key)

    def mean(self) -> Tensor:
        """Mean of each element over train, `[*event]` (of the grey values under dynamic binarisation)."""
        if is_floating(self.train):
            return self.train.mean(0)
        mean = self._moments[0]
        return ((mean * self.divisor + 0.5) / self._cells if self.dequantize else mean).to(self._dtype)

    def std(self) -> Tensor:
        """Standard deviation of each element over train (divided by N), `[*event]`; grey under dynamic binarisation."""
        if is_floating(self.train):
            return self.train.std(0, correction=0)
        std = self._moments[1]
        spread = ((std * self.divisor).square() + 1 / 12).sqrt() / self._cells if self.dequantize else std
        return spread.to(self._dtype)

    def fingerprint(self) -> str:
        """The sha256 of what is trained on: equal for equal stored data, wherever they are stored."""
        drawn = self.seed if self.binarization == "dynamic" else ("dequantize", self.seed) if self.dequantize else None
        digest = hashlib.sha256(repr((tuple(self.train.shape), float(self.divisor), drawn)).encode())
        for x in read_in_parts(self.train):
            update_digest(digest, x)
        for name, tensors in self.inputs.items():
            digest.update(f"{name} {tuple(tensors['train'].shape)}".encode())
            update_digest(digest, tensors["train"])
        return digest.hexdigest()

    def to(self, device: str | torch.device) -> Self:
        """The same data on another device, as compact as they are; a mapped file stays where it is.

        Batches of a mapped train are then to be moved by the caller, best before they are widened.
        """
        moved = copy.copy(self)  # not `replace`: what was checked and drawn once need not be again
        for split, x in self._splits().items():
            object.__setattr__(moved, split, x.to(device) if isinstance(x, Tensor) else x)
        object.__setattr__(moved, "labels", {split: y.to(device) for split, y in self.labels.items()})
        inputs = {n: {split: x.to(device) for split, x in tensors.items()} for n, tensors in self.inputs.items()}
        object.__setattr__(moved, "inputs", inputs)
        vars(moved).pop("_moments", None)
        return moved

    # ---- from stored values to what they mean

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

    def _drawn_by_visit(self, split: str) -> bool:
        return split == "train" and self.binarization == "dynamic"

    @property
    def _dtype(self) -> torch.dtype:
        return self.train.dtype if is_floating(self.train) else torch.get_default_dtype()

    def _scaled(self, x: Tensor) -> Tensor:
        if x.dtype == torch.bool or self.divisor == 1:
            return x if x.is_floating_point() else x.to(self._dtype)
        x = x if x.is_floating_point() else x.to(self._dtype)
        return _over(x, self.divisor)

    def _binary(self, split: str, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """The split binarised once and for all, in bool chunks; the draw does not depend on how it is cut."""
        stream = generator(self.seed, "binarize", split)
        for grey in map(self._scaled, read_in_parts(x, rows)):
            yield grey > 0.5 if self.binarization == "threshold" else _bernoulli(grey, stream)

    @property
    def _cells(self) -> int:
        assert self.levels is not None  # checked when made
        return self.levels

    def _spread(self, split: str, x: Stored, rows: int | None = None) -> Iterator[Tensor]:
        """The split dequantised, always with the same noise however it is cut."""
        stream = generator(self.seed, "dequantize", split)
        for part in read_in_parts(x, rows):
            yield self._dequantized(part, stream)

    def _dequantized(self, stored: Tensor, stream: torch.Generator) -> Tensor:
        """`(k + u) / levels`, with so many bits of u that k can be read back from single precision."""
        steps = 2.0 ** (23 - (self._cells - 1).bit_length())
        u = torch.rand(stored.shape, generator=stream, dtype=torch.float32, device="cpu").mul_(steps).floor_()
        return _over(stored.to(self._dtype) + (u / steps).to(stored.device), self._cells)

    def _prepared(self, split: str, x: Stored) -> Stored:
        if self.binarization == "none" or self._drawn_by_visit(split):
            return x
        if not isinstance(x, Tensor) and x.size > _COPIED:
            raise DataError(f"{split} is a mapped file of {x.size} values, {_too_large(split, self.binarization)}")
        # bool where train stays grey: the divisor is train's, and these are not divided.
        compact = torch.bool if self.binarization == "dynamic" else torch.uint8
        return joined(self._binary(split, x), x, x.dtype if is_floating(x) else compact)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over train in double precision, chunk by chunk (Chan et al. 1983)."""
        count, mean, squares = 0, 0.0, 0.0
        for x in map(self._scaled, read_in_parts(self.train)):
            x, n = x.double(), len(x)
            shift, total = x.mean(0) - mean, count + n
            squares = (x - x.mean(0)).square().sum(0) + shift.square() * (count * n / total) + squares
            mean, count = shift * (n / total) + mean, total
        return torch.as_tensor(mean), (torch.as_tensor(squares) / count).sqrt()

    # ---- checks

    def _check_options(self) -> None:
        if self.binarization not in get_args(Binarization):
            raise UsageError(f"expected a binarisation of {get_args(Binarization)}, got {self.binarization!r}")
        if self.exact is not None and self.binarization != "none":
            raise UsageError(
                "the known evidence of the generating process is not that of binarised data: pass exact=None"
            )

    def _check_levels(self) -> None:
        if not self.dequantize:
            return
        if self.binarization != "none":
            raise UsageError(
                f"choose one of dequantize and {self.binarization} binarisation: binary data have no noise: "
                f"take {spoken('likelihood=Normal', '--vae.likelihood Normal')} and {_unbinarised()}, or no dequantize"
            )
        if self.levels is None or not 2 <= self.levels <= 2**16:
            held = ", ".join(f"{split} {x.dtype}" for split, x in self._splits().items())
            raise UsageError(
                f"dequantize needs whole numbers k = 0, 1, ..., divisor with a whole divisor below 2^16, got {held} "
                f"with divisor {self.divisor:g}: give bytes (uint8), or an .npy of integers with divide_by"
            )

    def _check_divisor(self) -> None:
        check_divisor("divisor", self.divisor)
        for split, x in self._splits().items():
            if self.divisor != 1 and is_floating(x):
                raise UsageError(
                    f"a divisor of {self.divisor:g} is for uint8 and mapped files, but {split} is {x.dtype}: divide it"
                )

    def _check_values(self, split: str, x: Stored) -> None:
        binary = self.binarization != "none" or self.dequantize
        if all(bool(_usable(values, binary).all()) for values in map(self._scaled, read_in_parts(x))):
            return
        count, first, _ = find(map(self._scaled, read_in_parts(x)), lambda values: ~torch.isfinite(values))
        if count:
            where = f"{count} NaN or infinite values, the first at {first}"
            raise DataError(f"{split} has {where}: drop those rows or replace the values")
        count, first, value = find(map(self._scaled, read_in_parts(x)), lambda values: ~_usable(values, True))
        problem = f"{split} has {count} values outside [0, 1], the first is {value:g} at {first}"
        if self.dequantize:
            highest = option("divide_by", "the highest level")
            raise DataError(f"{problem}, but dequantize needs k / {self.divisor:g}: pass {highest}")
        fits = fitting(next(map(self._scaled, read_in_parts(x)))) or f"scale them, e.g. {option('divide_by', 255)}"
        remedy = f"{fits}; and leave them as they are, by {_unbinarised()}"
        raise DataError(f"{problem}, where {self.binarization} binarisation needs probabilities: {remedy}")


def _bernoulli(p: Tensor, stream: torch.Generator) -> Tensor:
    # One type and one device for every uniform, so that a draw is the same wherever the data are.
    return torch.rand(p.shape, generator=stream, dtype=torch.float32, device="cpu").to(p.device) < p


def _over(x: Tensor, divisor: float) -> Tensor:
    # By a tensor: CUDA would multiply by the reciprocal of a number, which is not always the same quotient.
    return x / x.new_full((), divisor)


def evenly_spread(size: int, num: int) -> Tensor:
    """So many of `size` rows, at equal distances, or all where there are no more: of a sorted split some of each kind.

    Example:
        >>> evenly_spread(10, 4), evenly_spread(3, 4)
        (tensor([0, 2, 5, 7]), tensor([0, 1, 2]))
    """
    num = min(size, num)
    return torch.arange(num) * size // num


def _usable(x: Tensor, binary: bool) -> Tensor:
    return (x >= 0) & (x <= 1) if binary else torch.isfinite(x)


def _unbinarised() -> str:
    return spoken("binarize='none'", "--binarize none")


def _too_large(split: str, binarization: str) -> str:
    whole = f"which {binarization} binarisation would copy into memory (at most {_COPIED} values)"
    if binarization == "dynamic":
        return f"{whole}: hold out fewer by valid_size"
    remedy = in_words("binarize='dynamic'")
    return f"{whole}: pass {remedy}, or save the file binarised, as uint8 0 and 1"


def check_divisor(name: str, value: float) -> None:
    """Refuse what no single-precision value can be divided by."""
    limits = torch.finfo(torch.float32)
    if not limits.tiny <= value <= limits.max:
        raise UsageError(f"expected a {name} above 0 (from {limits.tiny:.3g} to {limits.max:.3g}), got {value}")


def _check_labels(split: str, labels: Tensor, splits: Mapping[str, Stored]) -> None:
    if split not in splits:
        raise DataError(f"labels are given for the split {split!r}, but there are only {', '.join(splits)}")
    if labels.shape != splits[split].shape[:1] or labels.is_floating_point() or labels.is_complex():
        came = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(f"the labels of {split} are {came}, expected {len(splits[split])} integers")


def _check_inputs(name: str, tensors: Mapping[str, Tensor], splits: Mapping[str, Stored]) -> None:
    if set(tensors) != set(splits):
        raise DataError(f"{name!r} is given for {', '.join(tensors) or 'no split'}, expected {', '.join(splits)}")
    for split, x in tensors.items():
        shape = (len(splits[split]), *tensors["train"].shape[1:])
        if tuple(x.shape) != shape or 0 in shape:
            raise DataError(f"{name!r} of {split} has shape {list(x.shape)}, expected {list(shape)}")
        if x.is_floating_point() and not x.isfinite().all():
            raise DataError(f"{name!r} of {split} has values that are not finite: replace them")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
