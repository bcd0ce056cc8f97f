"""`Dataset`: access to splits, whole, in parts, or a training batch at a time, prepared as its options say."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from pyro_vae.data.gaps import MASK, moments, share_missing, with_gaps
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.preparation import Binarization
from pyro_vae.data.splits import Splits
from pyro_vae.data.storage import (
    Stored,
    chunk_rows,
    is_floating,
    is_large,
    joined,
    read_in,
    read_in_parts,
    update_digest,
)
from pyro_vae.data.tables import Table
from pyro_vae.errors import UsageError
from pyro_vae.process.seeding import generator


class Dataset(Splits):
    """The data that a model is trained on: splits, checked when made, and prepared as the options say.

    A split is kept as it was stored. Floating point numbers are the values themselves; uint8 in memory (a byte an
    element) and a memory-mapped file (no memory) are divided by `divisor` when they are read; bool means 0 and 1. The
    methods that return data (`split`, `chunks`, `visit`, `mean`, `std`) return floating point: the type of train where
    that is floating point, else torch's default type. Only `batch` and the attributes `train`, `valid`, `test` show
    what is stored.

    With `"static"` and `"threshold"` every split is binarised once, when the data set is made. With `"dynamic"` train
    stays grey and is drawn afresh at each `visit`; valid and test are drawn once. Values 0 and 1 never change. Splits
    that are binarised once are kept in memory, also those of a mapped file: refused above 2^30 elements.

    With `dequantize` every element is spread over the cell of its level k, `x = (k + u) / levels` with u uniform on
    [0, 1), so that a density on [0, 1) bounds the probability of the levels. Train is drawn afresh at each `visit`,
    the other splits always with the same noise; all stay as they are stored.

    A mapped file is read at each use, and as a whole only by `split`. It must not change while the data set is in use.

    Args:
        name: the name in reports.
        train: `[N, *event]`: floating point, uint8 or bool, or a `numpy.memmap` of real numbers.
        valid: as train, with another N.
        test: as train, with another N.
        labels: split -> integer labels `[N]`.
        binarization: none | static (one Bernoulli draw) | dynamic (a draw per visit) | threshold (x > 0.5).
        seed: of the binarisation or dequantisation; each split has its own random stream.
        exact: the generating process, where the evidence is known.
        preparation: what was done to the values before; part of `protocol`.
        origin: the options of the command that load the data again; empty for data given as an array.
        divisor: divides stored uint8 and mapped values; 1 after `"static"` and `"threshold"` binarisation.
        dequantize: whether to add uniform noise within each level; for whole numbers and a whole divisor.
        inputs: what model and guide take in addition to x: name -> split -> `[N, *shape]`, e.g. the context `c` of a
            conditional VAE; uint8 (one-hot labels, binary pixels) is not divided. Every split has all inputs. An
            input `mask` is bool `[N, *event]`, False where an element of x was not observed; what x has there is
            ignored, and may be nan. Checks, means and standard deviations are of observed elements alone.
        table: the columns, of data that come from a table: their names, kinds and levels.

    Raises:
        DataError: a split is empty, of integers other than uint8, not finite, of another event shape than train,
            outside [0, 1] with a binarisation or `dequantize`, or too large to be binarised into memory; or labels or
            inputs don't fit their split.
        UsageError: options that contradict each other.

    References:
        Theis, van den Oord & Bethge 2016, A note on the evaluation of generative models: uniform dequantisation.

    Example:
        >>> data = Dataset("grey", torch.arange(6, dtype=torch.uint8).reshape(3, 2), binarization="dynamic", divisor=5)
        >>> data.batch(torch.arange(2), "step", 1).dtype, data.visit(torch.arange(2), "step", 1).dtype
        (torch.uint8, torch.float32)
        >>> bool((data.visit(torch.arange(3), "step", 1) == data.visit(torch.arange(3), "step", 1)).all())
        True
    """

    def __init__(
        self,
        name: str,
        train: Stored,
        valid: Stored | None = None,
        test: Stored | None = None,
        labels: Mapping[str, Tensor] | None = None,
        binarization: Binarization = "none",
        seed: int = 0,
        exact: LinearGaussian | None = None,
        preparation: str = "values as given",
        origin: Mapping[str, Any] | None = None,
        divisor: float = 1.0,
        dequantize: bool = False,
        inputs: Mapping[str, Mapping[str, Tensor]] | None = None,
        table: Table | None = None,
    ) -> None:
        options = (binarization, seed, exact, preparation, origin or {}, divisor, dequantize)
        given = Splits(name, train, valid, test, labels or {}, *options, inputs or {}, table)._without_gaps()
        how = given._checked()
        prepared = {split: how.prepare(split, x) for split, x in given._splits().items()}
        super().__init__(**{**given._fields(), **prepared, "divisor": how.divisor})

    @property
    def protocol(self) -> str:
        """One line: the name, how the values were scaled and prepared, and the sizes of the splits."""
        sizes = ", ".join(f"{split} {len(x)}" for split, x in self._splits().items())
        shapes = [f"shape {_by(self.event_shape)}", *(_input(name, x["train"]) for name, x in self.inputs.items())]
        return f"{self.name}: {self.preparation}; {self._how.describe()}; {sizes}; {', '.join(shapes)}"

    def split(self, name: str, gaps: float = torch.nan) -> Tensor:
        """The data of one split in memory; where train is drawn at each visit, one draw that is always the same.

        Args:
            name: train | valid | test.
            gaps: the value of elements that were not observed.

        Returns:
            `[N, *event]`, floating point; `chunks` gives the same in parts. Of a mapped file of 2^28 elements or more
            the values lie on the disk, in a file without a name, not in memory.

        Raises:
            UsageError: `name` is none of these.
            DataError: this data set has no such split.
            FileError: the disk has no room for them.
        """
        x, mask = self._stored(name), self.observed(name)
        if is_large(x) or self._how.draws(name):
            return joined(with_gaps(self._how.read(name, x), mask, gaps), x, self._how.scale.dtype)
        return next(with_gaps(iter([self._how.scale(read_in(x))]), mask, gaps))

    def chunks(self, split: str, rows: int | None = None) -> Iterator[Tensor]:
        """The data of one split, part by part in order: together what `split` returns, without holding it whole.

        Args:
            split: train | valid | test.
            rows: data in a part, the last may have fewer; None for 10,000, or fewer where they are large (32 MiB).

        Returns:
            An iterator of `[rows, *event]`, floating point, nan where not observed.

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
        parts = self._how.read(split, x, rows or min(10_000, chunk_rows(x, 8)))
        return with_gaps(parts, self.observed(split))

    def select(self, split: str, rows: Tensor) -> Tensor:
        """Some data of one split: `split(name)[rows]`, of which no others are held, nor read where none are drawn.

        Args:
            split: train | valid | test.
            rows: row numbers, `[B]`, from 0.

        Returns:
            `[B, *event]`, floating point, nan where not observed.

        Raises:
            UsageError, DataError: as `split`.

        Example:
            >>> Dataset("array", torch.arange(10.0).unsqueeze(-1)).select("train", evenly_spread(10, 4)).flatten()
            tensor([0., 2., 5., 7.])
        """
        x = self._stored(split)
        if not self._how.draws(split):
            chosen = self._how.scale(read_in(x[rows.to(x.device) if isinstance(x, Tensor) else rows.numpy()]))
            return next(with_gaps(iter([chosen]), self.observed(split, rows)))
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
        """The batch of `visit` before `widen`, e.g. to move it to another device while it is small.

        Args:
            index: rows of train, `[B]`, integers from 0.
            *key: which visit this is, e.g. `epoch, step`.

        Returns:
            `[B, *event]`, on the device of train (a mapped file: the CPU): uint8 0 and 1 under dynamic binarisation;
            floats under dequantisation; else the rows as they are stored (of a mapped file: uint8, or torch's default
            type), not yet divided. Where not observed the stored value is 0; the programs get the mask.
        """
        if isinstance(self.train, Tensor):
            rows = self.train.index_select(0, index.to(self.train.device))  # bytes: 5 times as fast as []
        else:
            rows = read_in(self.train[index.cpu().numpy()])
        return self._how.visit(rows, *key)

    def widen(self, batch: Tensor) -> Tensor:
        """The values of a `batch` in floating point; a function of tensors alone, on any device, that can be traced.

        Args:
            batch: what `batch` returned, or parts of it.

        Returns:
            The values, divided by `divisor` unless they are binarised or dequantised.
        """
        return self._how.widen(batch)

    def some(self, count: int, seed: int, *key: object) -> Tensor:
        """Rows of train drawn without replacement; all rows in a random order if `count` is more.

        Args:
            count: how many.
            seed: of the draw, which depends on nothing else.
            *key: names the random stream, as for `seeded`.

        Returns:
            `[min(count, N), *event]`, floating point, as one `visit` sees them; the mean of train where not observed.
        """
        index = torch.randperm(len(self.train), generator=generator(seed, *key))[:count]
        rows, mask = self.visit(index, seed, *key), self.observed("train", index)
        return rows if mask is None else torch.where(mask, rows, self.mean())

    def mean(self) -> Tensor:
        """Mean of each element over train, where observed, `[*event]`; of grey values under dynamic binarisation."""
        if is_floating(self.train) and self._gaps_of_train is None:
            return self.train.mean(0)
        return self._moments[0].to(self._how.scale.dtype)

    def std(self) -> Tensor:
        """Standard deviation of each element over train (divided by its number of values), `[*event]`; as `mean`."""
        if is_floating(self.train) and self._gaps_of_train is None:
            return self.train.std(0, correction=0)
        return self._moments[1].to(self._how.scale.dtype)

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        return self._how.moments(*moments(self._how.scale.parts(self.train), self._gaps_of_train))

    def fingerprint(self) -> str:
        """The sha256 of what is trained on: equal for equal stored data, wherever they are stored."""
        described = (tuple(self.train.shape), float(self.divisor), self._how.cache_key)
        digest = hashlib.sha256(repr(described).encode())
        for x in read_in_parts(self.train):
            update_digest(digest, x)
        for name, tensors in self.inputs.items():
            digest.update(f"{name} {tuple(tensors['train'].shape)}".encode())
            update_digest(digest, tensors["train"])
        return digest.hexdigest()

    def to(self, device: str | torch.device) -> Self:
        """The same data on another device, as they are stored; a mapped file stays where it is.

        The caller moves batches of a mapped train, best before `widen`.
        """
        moved = type(self).__new__(type(self))  # without `Dataset.__init__`: nothing is checked or drawn again
        Splits.__init__(moved, **self._moved(device))
        return moved


def observed_chunks(data: Dataset, split: str) -> Iterator[tuple[Tensor, Tensor | None]]:
    """The parts of `data.chunks(split)`, each with its mask `[rows, *event]`; None where the data set has no mask.

    Raises:
        UsageError, DataError: as `Dataset.chunks`.
    """
    start = 0
    for x in data.chunks(split):
        yield x, data.observed(split, slice(start, start + len(x)))
        start += len(x)


def without_test(data: Dataset) -> Dataset:
    """The same data without their test split, which is not read."""
    left = {name: value for name, value in data.labels.items() if name != "test"}
    inputs = {name: {s: x for s, x in tensors.items() if s != "test"} for name, tensors in data.inputs.items()}
    kept = type(data).__new__(type(data))  # without `Dataset.__init__`: nothing is checked or drawn again
    fields_of = {field.name: getattr(data, field.name) for field in fields(Splits)}
    Splits.__init__(kept, **{**fields_of, "test": None, "labels": left, "inputs": inputs})
    return kept


def evenly_spread(size: int, num: int) -> Tensor:
    """`num` row numbers out of `size` at equal distances, or all if there are fewer; some of each kind if sorted.

    Example:
        >>> evenly_spread(10, 4), evenly_spread(3, 4)
        (tensor([0, 2, 5, 7]), tensor([0, 1, 2]))
    """
    num = min(size, num)
    return torch.arange(num) * size // num


def _input(name: str, x: Tensor) -> str:
    return share_missing(x) if name == MASK else f"{name} {_by(x.shape[1:])}"


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
