"""One pass over the streams of all splits: planned from the first block of each, then written, or compared."""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.data.gaps import Missing
from pyro_vae.data.places import free_space
from pyro_vae.data.storing.arrays import ArrayFile
from pyro_vae.data.storing.folders import MANIFEST, manifest_of, written_whole
from pyro_vae.data.storing.plan import PlannedArray, StoragePlan
from pyro_vae.data.streams import Block, Stream
from pyro_vae.data.streams.checked import Continued
from pyro_vae.errors import DataError, PyroVaeError, file_errors
from pyro_vae.messages import Progress


def file_name(split: str, role: str) -> str:
    """The name of the array of a part, without `.npy`: that of `load_data`'s arrays in an `.npz`."""
    return split if role == "x" else f"{split}_{role}"


@dataclass
class Pass:
    """A pass that has begun: its first block is known.

    Args:
        split: what the data are.
        stream: what is passed over.
        first: the first block.
        rest: the others.
        batches: how many there have been.
    """

    split: str
    stream: Stream
    first: Block
    rest: Generator[Block, None, None]
    batches: "Counted"

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, once."""
        return chain([self.first], self.rest)

    @property
    def size(self) -> int:
        """How many data there will be; about, where only the number of batches is known."""
        if self.stream.size is not None:
            return self.stream.size
        return (self.stream.batches or 1) * len(self.first["x"])

    @property
    def arrays(self) -> list[PlannedArray]:
        """The files to write."""
        parts = sorted(self.first.items(), key=lambda part: part[0] != "x")
        return [
            PlannedArray(file_name(self.split, role), (self.size, *array.shape[1:]), array.dtype)
            for role, array in parts
        ]

    def check_end(self, rows: int) -> None:
        """Refuse a source that had more or fewer data than its length says.

        Raises:
            DataError: if so.
        """
        if self.stream.size is not None and rows != self.stream.size:
            count = f"{rows} data and more" if rows > self.stream.size else f"{rows} data"
            raise DataError(self._other(count, f"{self.stream.size} data"))
        if self.stream.batches is not None and self.batches.count != self.stream.batches:
            raise DataError(self._other(f"{self.batches.count} batches", f"{self.stream.batches}"))

    def _other(self, came: str, told: str) -> str:
        remedy = "correct its length, or pass num_data=N, how many data to take"
        return f"{self.split}: the {self.stream.name} gave {came}, and its length says {told}: {remedy}"


class Counted:
    """The blocks of a stream, counted; an error of the user's code says after how many data it came."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.count, self.rows = stream, 0, 0

    def __iter__(self) -> Iterator[Block]:
        try:
            for block in self.stream.start():
                self.count, self.rows = self.count + 1, self.rows + len(block["x"])
                yield block
        except PyroVaeError:
            raise
        except Exception as error:
            error.add_note(f"The {self.stream.name} raised this after {self.rows} data; nothing is stored.")
            raise


@contextmanager
def begun(streams: Mapping[str, Stream], missing: Missing) -> Iterator[list[Pass]]:
    """Passes over all streams, each with its first block; at the end they are closed.

    Raises:
        DataError: if one has no data, or a first block can't be used.
    """
    passes = []
    try:
        for split, stream in streams.items():
            counted = Counted(stream)
            blocks = Continued(split, missing).of(iter(counted))
            first = next(blocks, None)
            if first is None:
                raise DataError(f"{split}: the {stream.name} has no data")
            passes.append(Pass(split, stream, first, blocks, counted))
        yield passes
    finally:
        for started in passes:
            started.rest.close()


def plan_of(passes: list[Pass], folder: Path) -> StoragePlan:
    """What the passes will write."""
    arrays = tuple(array for started in passes for array in started.arrays)
    exact = all(started.stream.size is not None for started in passes)
    return StoragePlan(str(folder), arrays, free_space(folder), exact)


def write(passes: list[Pass], folder: Path, request: Mapping[str, Any], progress: bool) -> None:
    """Write all arrays and the manifest to `folder`: whole, or not at all.

    Raises:
        DataError: if a block can't be used, or a source has another length than it says.
        FileError: if a file can't be written.
    """
    with written_whole(folder) as made, Progress(sum(p.size for p in passes), "datum", progress) as bar:
        arrays, done = {}, 0
        for started in passes:
            arrays |= _written(started, made, folder, lambda rows, done=done: bar.show(done + rows))
            done += arrays[started.split]["shape"][0]
        with file_errors(folder, "write"), (made / MANIFEST).open("xb") as file:
            file.write(manifest_of(arrays, request))


def _written(started: Pass, made: Path, folder: Path, show: Callable[[int], None]) -> dict[str, Any]:
    """Write the arrays of one split; returns their descriptions."""
    names = {role: file_name(started.split, role) for role in started.first}
    with file_errors(folder, "write"):
        files = {
            role: ArrayFile(made / f"{names[role]}.npy", array.dtype, array.shape[1:])
            for role, array in started.first.items()
        }
    try:
        for block in started.blocks:
            with file_errors(folder, "write"):
                for role, array in block.items():
                    files[role].add(array)
            show(files["x"].rows)
            if started.stream.size is not None and files["x"].rows > started.stream.size:
                break
        started.check_end(files["x"].rows)
        with file_errors(folder, "write"):
            return {names[role]: file.finish() for role, file in files.items()}
    finally:
        for file in files.values():
            file.close()


def compare(passes: list[Pass], folder: Path, progress: bool) -> None:
    """Pass over data that are stored already, and see that they are the same.

    Raises:
        DataError: with the first data that differ, or if a file is not there or damaged.
    """
    with Progress(sum(p.size for p in passes), "datum", progress) as bar:
        done = 0
        for started in passes:
            stored = {role: _mapped(folder / f"{file_name(started.split, role)}.npy") for role in started.first}
            start = 0
            for block in started.blocks:
                end = start + len(block["x"])
                same = all(_equal(array, stored[role][start:end]) for role, array in block.items())
                if not same:
                    raise _others(folder, f"{started.split} data[{start}:{end}]")
                start = end
                bar.show(done + start)
            if start != len(stored["x"]):
                raise _others(folder, f"{start} data of {started.split} in place of {len(stored['x'])}")
            done += start


def _others(folder: Path, what: str) -> DataError:
    return DataError(
        f"{folder} has other data: {what} differ. Give another folder, or delete this one if nothing needs it. Data "
        "whose order or values change from pass to pass are stored once, with a name: store_data(..., key='a name')"
    )


def _equal(array: np.ndarray, stored: np.ndarray) -> bool:
    return array.dtype == stored.dtype and np.array_equal(array, stored)


def _mapped(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not there, or damaged ({error}): delete its folder, or give another one") from error
