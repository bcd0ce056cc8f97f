"""Reading data: `load_data` for named sets and files, `as_dataset` for arrays.

Both return a `Dataset`, which checks its values once, when it is made; the rest of the library relies on that.
`Dataset.protocol` says in one line what was done to the values: results are comparable only under the same protocol.

Bytes stay bytes and an `.npy` file is not read into memory; both become floating point a batch or a chunk at a time.

References:
    Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016: dynamic binarisation, and the
    last 10,000 of MNIST's training images as the validation set.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from pyro_vae.arguments.checked import checked
from pyro_vae.arguments.remedies import option, spoken
from pyro_vae.arguments.values import choice, folder, number, truth, whole
from pyro_vae.data.annotations import contexts_of, labels_of
from pyro_vae.data.checks import check_divisor
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.gaps import MASK, Missing, filled, masks_of, missing_of
from pyro_vae.data.given import as_dataset
from pyro_vae.data.inputs import Context, conditioned_on_elements, conditioned_on_labels, quadrants, semi_supervised
from pyro_vae.data.linear_gaussian import LinearGaussian
from pyro_vae.data.preparation import Binarization
from pyro_vae.data.scaling import scaled
from pyro_vae.data.sources import NAMES, Raw, read
from pyro_vae.data.sources.images import ImageOptions
from pyro_vae.data.splits import SPLITS
from pyro_vae.data.tables import Kinds, Table, table_of
from pyro_vae.errors import DataError, UsageError
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import derive_seed

__all__ = [
    "Binarization",
    "Context",
    "Dataset",
    "LinearGaussian",
    "as_dataset",
    "conditioned_on_elements",
    "conditioned_on_labels",
    "load_data",
    "quadrants",
    "semi_supervised",
]


_log = logging.getLogger("pyro_vae")


class HoldOutError(UsageError):
    """The last rows of train can't be held out as another split.

    Args:
        message: for whoever gave their number.
        split: valid | test.
        rows: how many rows train has, of which they are too many; None if the source has such a split itself.
    """

    def __init__(self, message: str, split: str, rows: int | None) -> None:
        super().__init__(message)
        self.split, self.rows = split, rows


@isolated
@checked
def load_data(
    source: str | Path = "digits",
    *,
    binarize: Binarization = "none",
    dequantize: bool = False,
    divide_by: float | None = None,
    valid_size: int = 0,
    test_size: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
    context: Context = "none",
    labelled: int = 0,
    repeats: int = 1,
    missing: Missing = None,
    mask: Any = None,
    kinds: Kinds = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Read a named data set, a file or a folder.

    Floats are kept as they are; integers of which the largest is 1 are kept as 0 and 1; other uint8 are divided by 255,
    and other integers need `divide_by`. All splits are scaled by the same factor.

    Where all splits are uint8 (or bool) they stay so in memory, and are divided a batch at a time. An `.npy` file and
    the arrays of a folder are memory-mapped: they may be larger than memory.

    Images of a folder are decoded once into such arrays, in `root`, and read from there as long as no file changes.

    Args:
        source: `digits` (embedded, divided by 16), `linear_gaussian` (synthetic, its evidence known), `mnist`,
            `fashion_mnist`, `kmnist`, `emnist` (balanced, upright), or the path of
            an `.npz` (arrays `train`, `valid`, `test`, `train_labels` ...; or `x_train`, `y_train` ...; or `x`, `y`;
            a warning names arrays that are not read), an `.npy` (train only; mapped), a table in a text file
            (train only; columns between `;`, tabs, `,` or spaces, all of them data; names in the first line, which only
            a table of numbers may lack), a Parquet file (a table too; needs pyarrow), a folder
            with IDX files (`train-images-idx3-ubyte`, also `.gz`), or one of these files; a folder that `store_data`
            has written, or with `train.npy`, `train_labels.npy`, ..., called as in an `.npz`; or a folder of images, a
            sub-folder for each class, or for each split (`train`, `valid`, `test`) and in it one for each class.
        binarize: none | static | dynamic | threshold; see `Dataset`.
        dequantize: add uniform noise within each grey level, for densities; see `Dataset`.
        divide_by: divide all values by this instead.
        valid_size: take the last n of train as the validation set, where the source has none.
        test_size: take the last n of train as the test set, where the source has none, before `valid_size` does. Rows
            are not shuffled: shuffle them first where they are sorted.
        root: where the downloadable sets lie, and the arrays of decoded images; by default `$PYRO_VAE_DATA`, else
            `~/.cache/pyro_vae`.
        download: fetch a downloadable set through torchvision where it is not in `root`.
        seed: of the binarisation or dequantisation, and of the process and samples of `linear_gaussian`.
        context: what a conditional VAE is conditioned on: `labels` (one-hot), `array` (the arrays `train_context`,
            `valid_context`, `test_context` of an `.npz`), or `quadrants-n` (n quadrants of each image, of which the
            others are then the data).
        labelled: how many data of train keep their label, as the input `y`; 0 for no such input. See `semi_supervised`.
        repeats: how often each of these is in train.
        missing: what says that an element was not observed: `"nan"` (also an empty field of a table), a number in its
            place, as it is in the file (e.g. -1), or `"mask"`: the arrays `train_mask`, `valid_mask`, `test_mask` of an
            `.npz` or a folder, True where observed. None where all elements were observed. With gaps an `.npy` is read
            into memory, and so is an array of a folder that is not 0 there.
        mask: True where an element was observed, in place of `missing`: bool, of the shape of train before parts of it
            are held out, or one for each split by name. A run can't read such data again from their file.
        kinds: of the columns of a table, by name: real, positive, count, binary, category or ordered; a list is the
            levels of an ordered column from lowest to highest, `{"category": [...]}` those of a category in the order
            of their codes. Others are guessed from all rows (`"guess"`: all); see docs/data.md. The `Table` of another
            data set reads a file with the same columns by name, in any order. None: guessed if the table has texts,
            else the numbers as they are. What is known of the columns is in the attribute `table`.
        image_size: of a folder of images, their height and width: each is scaled until it covers them, its sides in
            proportion, and what lies outside is cut off. None to keep sizes, which must then be equal.
        channels: of a folder of images, 1 to make all grey, `[height, width]`, or 3 for colour, `[3, height, width]`.
            None to keep them, if all are grey or all in colour.
        progress: whether to show the progress of decoding images.

    The data set has the gaps as the input `mask` of the programs, and nan in x. A datum without any observed element is
    allowed: its log p(x) is 0. `fit` refuses an element that is observed in no datum of train.

    Raises:
        DataError: the source is unknown, absent or damaged, or its values are not usable.
        UsageError: options that make no sense together.
        MissingPackage: pyarrow is needed and not installed.
        FileError: the disk is full, or a file can't be read or written.

    Example:
        >>> load_data("digits").protocol
        'digits: divided by 16; not binarised; train 1397, valid 200, test 200; shape 8x8'
    """
    if not isinstance(source, str | Path):
        raise UsageError(
            f"load_data takes a name or a path, got {type(source).__name__}: pass an array to fit, or to "
            "pyro_vae.data.as_dataset, as it is"
        )
    for name, value, known in (("binarize", binarize, Binarization), ("context", context, Context)):
        choice(name, value, get_args(known))
    root = folder("root", root)
    dequantize, download = truth("dequantize", dequantize), truth("download", download)
    valid_size, test_size = whole("valid_size", valid_size, None), whole("test_size", test_size, None)
    labelled, repeats, seed = whole("labelled", labelled), whole("repeats", repeats), whole("seed", seed, None)
    divide_by = None if divide_by is None else number("divide_by", divide_by)
    missing, images, progress = missing_of(missing), ImageOptions.of(image_size, channels), truth("progress", progress)
    if divide_by is not None:
        check_divisor("divide_by", divide_by)
    if repeats != 1 and not labelled:
        raise UsageError(
            f"{option('repeats', repeats)} is for data that keep their label: pass {option('labelled', 'n')} too"
        )
    options = {"binarize": binarize, "divide_by": divide_by, "valid_size": valid_size, "data_seed": seed}
    options |= {"test_size": test_size} if test_size else {}
    options |= {"dequantize": True} if dequantize else {}  # a run begun before there was this option is still the same
    options |= {} if context == "none" else {"context": context}
    options |= {"labelled": labelled, "repeats": repeats} if labelled else {}
    options |= {} if missing is None else {"missing": missing}
    options |= images.given
    if source == "linear_gaussian":
        if dequantize:
            raise UsageError("linear_gaussian has no levels to dequantize: its elements are real")
        if context != "none" or labelled:
            raise UsageError("linear_gaussian takes no context and no labels: its evidence is known as it is")
        if missing is not None or mask is not None:
            raise UsageError("linear_gaussian has no missing values: its evidence is known as it is")
        if images.given:
            raise UsageError("linear_gaussian has no images: leave image_size and channels out")
        return _linear_gaussian(binarize, divide_by, valid_size or test_size, seed, _origin(source, options, root))
    raw = read(source, root, download, context == "array", missing, _keeps_texts(kinds), images, progress)
    raw, table = _tabulated(raw, kinds, missing, divide_by)
    options |= {} if table is None else {"kinds": table.described}
    origin = _origin(source, options, root) if mask is None else {}
    masks = masks_of(raw.arrays, missing, raw.masks if missing == "mask" else mask)
    arrays = {split: filled(x, masks.get(split)) for split, x in raw.arrays.items()}
    splits, divisor, scaling = scaled(arrays, 16 if source == "digits" and divide_by is None else divide_by)
    needed = context == "labels" or labelled > 0
    labels = {split: y for split in raw.labels if (y := _labels(split, raw, needed)) is not None}
    contexts = contexts_of(raw.contexts, source) if context == "array" else {}
    parts = splits, labels, contexts, masks
    held_out = [_hold_out(parts, *held) for held in (("test", test_size), ("valid", valid_size))]
    notes = [note for note in (raw.note, scaling, *held_out) if note]
    train, valid, test = (splits.get(split) for split in SPLITS)
    assert train is not None  # every reader sees to it
    note, inputs = ", ".join(notes), {n: x for n, x in {"c": contexts, MASK: masks}.items() if x}
    options = (labels, binarize, seed, None, note, origin, divisor, dequantize, inputs, table)
    data = _conditioned(Dataset(raw.name, train, valid, test, *options), context)
    return semi_supervised(data, labelled, seed, repeats) if labelled else data


def _keeps_texts(kinds: Kinds) -> bool:
    """Whether a file of numbers must be read as texts: they may be levels."""
    return any(column.levels for column in kinds.columns) if isinstance(kinds, Table) else kinds is not None


def _tabulated(raw: Raw, kinds: Kinds, missing: Missing, divide_by: float | None) -> tuple[Raw, Table | None]:
    """The numbers of a table, and its columns; any other source as it is."""
    if raw.cells is None:
        if isinstance(kinds, Mapping):
            raise UsageError(f"{spoken('', '--')}kinds: {raw.name} has no names of columns: give a table in a CSV")
        return raw, kinds if isinstance(kinds, Table) else None
    if raw.kinds and not isinstance(kinds, Table | list | tuple):
        kinds = {**raw.kinds, **(kinds if isinstance(kinds, Mapping) else {})}
    table = table_of(raw.cells, kinds, missing)
    if divide_by is not None and set(table.kinds) != {"real"}:
        raise UsageError(
            f"{option('divide_by', f'{divide_by:g}')} is for numbers of one kind: leave it out for a table"
        )
    return replace(raw, arrays={"train": table.codes(raw.cells, missing)}), table


def _conditioned(data: Dataset, context: Context) -> Dataset:
    if context == "labels":
        return conditioned_on_labels(data)
    if context.startswith("quadrants-"):
        return conditioned_on_elements(data, quadrants(data.event_shape, int(context[-1])))
    return data


def _origin(source: str | Path, options: Mapping[str, Any], root: str | Path | None) -> dict[str, Any]:
    """How to load the data again: a path as an absolute one, a name unchanged."""
    lasting = str(source) if source in NAMES else str(Path(source).expanduser().resolve())
    return {"data": lasting, **options, "data_root": None if root is None else str(root)}


def _linear_gaussian(
    binarize: Binarization, divide_by: float | None, held_out: int, seed: int, origin: Mapping[str, Any]
) -> Dataset:
    if binarize != "none" or divide_by is not None or held_out:
        raise UsageError(
            "linear_gaussian takes no binarize, divide_by, valid_size or test_size: its evidence is known as it is"
        )
    process = LinearGaussian.random(seed=seed)
    sizes = zip(SPLITS, (2000, 500, 500), strict=True)
    train, valid, test = (process.sample(n, derive_seed(seed, split)) for split, n in sizes)
    note = f"drawn with seed {seed}, {process.weight.shape[1]} latent dimensions, noise of scale {process.scale:g}"
    return Dataset("linear_gaussian", train, valid, test, seed=seed, exact=process, preparation=note, origin=origin)


def _hold_out(parts: Sequence[dict[str, Any]], split: str, n: int) -> str:
    """Move the last `n` of train in each of the parts, the data themselves first; returns what was done."""
    splits = parts[0]
    if n == 0:
        return ""
    if split in splits:
        name = {"valid": "validation", "test": "test"}[split]
        has = f"the source has a {name} set of {len(splits[split])}"
        raise HoldOutError(f"{has}: leave {spoken('', '--')}{split}_size out", split, None)
    if not 0 < n < len(splits["train"]):
        rows = len(splits["train"])
        expected = f"expected a number of rows from 1 to {rows - 1}, got {n}"
        raise HoldOutError(f"{spoken('', '--')}{split}_size: {expected}", split, rows)
    for of_each in parts:
        _cut(of_each, split, n)
    return f"last {n} of train held out as {split}"


def _cut(parts: dict[str, Any], split: str, n: int) -> None:
    if "train" in parts:
        parts["train"], parts[split] = parts["train"][:-n], parts["train"][-n:]


def _labels(split: str, raw: Raw, needed: bool) -> Tensor | None:
    """The labels of a split; None, with a warning, if they are not classes and are not needed.

    Raises:
        DataError: if they are needed.
    """
    try:
        return labels_of(split, raw)
    except DataError as error:
        if needed:
            raise
        _log.warning("%s; they are left out", error)
        return None
