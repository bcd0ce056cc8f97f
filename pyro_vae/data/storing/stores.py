"""`store_data`: one pass over data into files that `load_data` maps; `storage_plan`: what it will take."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pyro_vae.arguments.values import scalar, shown, truth, whole
from pyro_vae.data.gaps import Missing, missing_of
from pyro_vae.data.places import scratch_folder
from pyro_vae.data.storing.folders import alone, read_manifest, unwritable
from pyro_vae.data.storing.passing import Pass, begun, compare, plan_of, write
from pyro_vae.data.storing.plan import StoragePlan
from pyro_vae.data.streams import Fields, Stream, by_split, fields_of, stream_of
from pyro_vae.errors import DataError, FileError, UsageError, file_errors
from pyro_vae.messages import remark
from pyro_vae.process.seeding import seeded

IN_MEMORY = 2**28
"""Bytes up to which data that are given to `fit` as a stream are kept in memory: 256 MiB."""

_OTHER_DISK = "give a folder on a larger disk, or fewer data by num_data=N"


def store_data(
    source: Any,
    folder: str | Path,
    *,
    fields: Fields | None = None,
    missing: float | Literal["nan"] | None = None,
    num_data: int | None = None,
    key: str | None = None,
    progress: bool = True,
) -> Path:
    """Pass once over data that come piece by piece, and store them in a folder that `load_data` reads.

    The files are memory-mapped when they are read, so the data may be larger than memory; the pass holds one batch at a
    time. Its plan is printed first, and refused if the disk has no room. The folder is written whole or not at all.

    Where the folder is there already, it is used again, without a pass, if `key` is the one it was stored with.
    Otherwise the source is passed over and compared: if the data are the same, the folder is used again, and if not,
    that is an error.

    Torch's generator is seeded for the pass, so that a loader that shuffles gives the same order in each process.

    Args:
        source: a torch `Dataset` or `DataLoader`; another object with a length and items, a datum each; another
            iterable, of batches; a data set of Hugging Face; an `AnnData`; an array, or a table of numbers; or a
            dictionary from `"train"`, `"valid"` and `"test"` to such. A datum or a batch is x alone, a tuple
            `(x, labels)`, or a dictionary. Pictures of Pillow become arrays.
        folder: where to; a folder that is not there, is empty, or was written by this function.
        fields: which part of a datum is what: a dictionary from `"x"`, `"labels"` (whole numbers), `"mask"` (True
            where observed) and `"context"` to places in a tuple, names in a dictionary, columns of a data set, or
            columns of `obs` and layers of an `AnnData`. Parts that are not named are left out.
        missing: `"nan"`, or the number, that stands for an element that was not observed. The mask is stored too:
            `load_data(folder, missing="mask")`.
        num_data: the first so many data; needed where a source has no length, such as a generator.
        key: a text that names this state of the data, for the next time.
        progress: whether to show the plan and the progress on standard error.

    Returns:
        The folder. It has `train.npy`, `train_labels.npy`, ..., as the arrays of an `.npz` are called, and
        `stored.json`, with the sha256 of all.

    Raises:
        UsageError: for a source without a length, or parts that are not clear.
        DataError: for data that differ in shape or type, are no numbers, or are not finite; for a source with another
            number of data than its length says; or if the folder has other data.
        FileError: if the disk is full, or the folder can't be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from pyro_vae.data.loading import load_data
        >>> loader = DataLoader(TensorDataset(torch.rand(100, 8, 8), torch.arange(100) % 10), batch_size=32)
        >>> with TemporaryDirectory() as path:
        ...     data = load_data(store_data(loader, f"{path}/small", progress=False), valid_size=20)
        ...     print(data.protocol)
        small: values as given, last 20 of train held out as valid; not binarised; train 80, valid 20; shape 8x8
    """
    folder, progress = _folder(folder), truth("progress", progress)
    options = _options(fields, missing, num_data, key)
    streams = _streams(source, options)
    with alone(folder):
        store_streams(streams, folder, options, progress)
    return folder


def storage_plan(
    source: Any,
    folder: str | Path = ".",
    *,
    fields: Fields | None = None,
    missing: float | Literal["nan"] | None = None,
    num_data: int | None = None,
) -> StoragePlan:
    """What `store_data` would write: files, sizes and the free space. Only the first batch is read.

    Args:
        source: as for `store_data`, but not an iterator, whose first batch would be lost.
        folder: where to.
        fields: as for `store_data`.
        missing: as for `store_data`.
        num_data: as for `store_data`.

    Raises:
        UsageError, DataError: as `store_data`.

    Example:
        >>> plan = storage_plan(torch.zeros(10**6, 64, dtype=torch.uint8))
        >>> plan.size, plan.arrays[0].shape
        (64000000, (1000000, 64))
    """
    options = _options(fields, missing, num_data, None)
    for split, part in by_split(source).items():
        if isinstance(part, Iterator):
            raise UsageError(f"{split} is an iterator, which can be passed over once: store_data prints the same plan")
    with seeded(0, "pass"), begun(_streams(source, options), options["missing"]) as passes:
        return plan_of(passes, _folder(folder))


def store_streams(streams: Mapping[str, Stream], folder: Path, request: Mapping[str, Any], progress: bool) -> None:
    """`store_data` without its checks, once no other process stores data in the folder.

    Args:
        streams: of each split.
        folder: where to.
        request: what was asked for, as plain data; `missing` and `key` count here.
        progress: whether to show the plan and the progress.
    """
    found = read_manifest(folder)
    if found is not None and _same(found, request, streams, folder):
        _say(f"{folder} is there already, and is used again", progress)
        return
    with seeded(0, "pass"), begun(streams, request["missing"]) as passes:
        if found is not None:
            _say(f"{folder} is there already: the data are compared with it", progress)
            compare(passes, folder, progress)
            return
        plan = plan_of(passes, folder)
        _say(f"storing {'; '.join([str(plan), *_notes(passes)])}", progress)
        plan.check(_OTHER_DISK)
        write(passes, folder, request, progress)


def store_in_cache(
    begin: Callable[[], Mapping[str, Stream]], folder: Path, key: str, elsewhere: str, progress: bool
) -> Path:
    """Store data in a folder of the package's own, unless it has them by their key; else what it has is replaced.

    Args:
        begin: makes the streams.
        folder: where to.
        key: changes whenever the data do.
        elsewhere: for messages, how to name another place for the folder.
        progress: whether to show the plan and the progress.

    Returns:
        The folder.

    Raises:
        DataError: as `store_data`.
        FileError: if the disk is full, or the folder can't be written.
    """
    if _has(folder, key):
        return folder
    try:
        with alone(folder):
            if not _has(folder, key):
                streams = begin()
                with file_errors(folder, "write"):
                    shutil.rmtree(folder, ignore_errors=True)
                store_streams(streams, folder, {**_options(None, None, None, key)}, progress)
    except FileError as error:
        if str(error.filename or "").startswith(str(folder.parent)):
            raise unwritable(error, elsewhere) from error
        raise
    return folder


def _has(folder: Path, key: str) -> bool:
    found = read_manifest(folder)
    return found is not None and found["request"].get("key") == key


@contextmanager
def stored_for_now(
    source: Any,
    fields: Fields | None,
    missing: Missing,
    num_data: int | None,
    progress: bool,
    check: Callable[[np.ndarray], None],
) -> Iterator[tuple[Path, bool]]:
    """A folder with data that come piece by piece, which is deleted at the end; and whether they are small.

    What was mapped from its files stays: the system frees their space when the process ends.

    Args:
        source: as for `store_data`.
        fields: as for `store_data`.
        missing: as for `store_data`.
        num_data: as for `store_data`.
        progress: whether to show the plan and the progress of large data.
        check: called with the first data of each split before the pass; refuses them by an error.
    """
    options = _options(fields, missing, num_data, None)
    with ExitStack() as held:
        with seeded(0, "pass"), begun(_streams(source, options), missing) as passes:
            for started in passes:
                check(started.first["x"])
            plan = plan_of(passes, Path())
            small = plan.exact and plan.size <= IN_MEMORY
            folder = Path(held.enter_context(_temporary(small)))
            plan = plan_of(passes, folder)
            if not small:
                kept = "a file that is deleted at the end of this process; store_data(source, folder) keeps it"
                _say(f"storing {plan}\nin {kept}", progress)
            plan.check("keep the data on a larger disk, by load_data(store_data(source, folder))")
            write(passes, folder / "data", options, progress and not small)
        yield folder / "data", small


@contextmanager
def _temporary(small: bool) -> Iterator[str]:
    """A new folder, deleted at the end: small ones where temporary files lie, which may be in memory."""
    if small:
        with file_errors(tempfile.gettempdir(), "write"):
            made = tempfile.TemporaryDirectory()
        with made as folder:
            yield folder
        return
    try:
        with scratch_folder() as folder:
            yield folder
    except FileError as error:
        remedy = "name a folder by load_data(store_data(source, folder)), or by PYRO_VAE_DATA for such files"
        raise unwritable(error, remedy) from error


def _say(text: str, progress: bool) -> None:
    if progress:
        remark(text)


def _notes(passes: list[Pass]) -> list[str]:
    return [f"{started.split}: {started.stream.note}" for started in passes if started.stream.note]


def _folder(folder: Any) -> Path:
    try:
        found = Path(folder).expanduser().resolve() if str(folder) else None
    except (TypeError, ValueError, RuntimeError, OSError):  # no path, one with a null, an unknown user, a loop of links
        found = None
    if found is None or not found.name:
        raise UsageError(f"folder: expected the path of a folder, got {shown(folder)}")
    return found


def _options(fields: Any, missing: Any, num_data: Any, key: Any) -> dict[str, Any]:
    """What was asked for, checked, as plain data."""
    if key is not None and (not isinstance(key, str) or not key):
        raise UsageError(f"key: expected a text, or None, got {shown(key)}")
    missing = missing_of(missing)
    if missing == "mask":
        raise UsageError("missing: expected 'nan' or a number; name a mask by fields={'x': ..., 'mask': ...}")
    if num_data is not None:
        num_data = whole("num_data", scalar(num_data), 1)
    return {"fields": fields_of(fields), "missing": missing, "num_data": num_data, "key": key}


def _streams(source: Any, options: Mapping[str, Any]) -> dict[str, Stream]:
    sources, num_data = by_split(source), options["num_data"]
    if num_data is not None and len(sources) > 1:
        raise UsageError("num_data is for one split: cut the sources of several, e.g. by torch.utils.data.Subset")
    return {split: stream_of(part, options["fields"], split, num_data) for split, part in sources.items()}


def _same(found: Mapping[str, Any], request: Mapping[str, Any], streams: Mapping[str, Stream], folder: Path) -> bool:
    """Whether a folder has what is asked for, as far as that is known without a pass.

    Raises:
        DataError: if it was stored with another key, or its size contradicts the same key.
    """
    before, key = found["request"], request["key"]
    if key is not None and before.get("key") not in (None, key):
        raise DataError(
            f"{folder} has data of the key {before['key']!r}, not {key!r}: give another folder, or delete this one if "
            "nothing needs it"
        )
    if key is None or any(before.get(name) != request[name] for name in ("key", "fields", "missing", "num_data")):
        return False
    for split, stream in streams.items():
        shape = found["arrays"].get(split, {}).get("shape", [0])
        if stream.size is not None and stream.size != shape[0]:
            sizes = f"{shape[0]} data of {split}, and the {stream.name} has {stream.size}"
            raise DataError(f"{folder} has the same key, but {sizes}: give another key and folder")
    return True
