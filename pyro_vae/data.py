"""What is trained on: arrays in memory, their splits, and how grey values become binary.

`load_data` reads a named set, a file or a folder; `as_dataset` takes an array. Both give a `Dataset`, which checks
once, when it is made, all that the rest of the library takes for granted. `Dataset.protocol` says in one line what was
done to the values: numbers are comparable only under the same protocol.

References:
    Y. Burda, R. Grosse, R. Salakhutdinov, "Importance Weighted Autoencoders", ICLR 2016: dynamic binarisation, and the
    last 10,000 of MNIST's training images as the validation set.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_vae.errors import DataError, UsageError
from pyro_vae.linear_gaussian import LinearGaussian
from pyro_vae.seeding import derive_seed, generator
from pyro_vae.sources import NAMES, read

__all__ = ["Binarization", "Dataset", "LinearGaussian", "as_dataset", "load_data"]

Binarization = Literal["none", "static", "dynamic", "threshold"]

_SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Dataset:
    """What is trained on: splits in memory, checked when made, and binarised as `binarization` says.

    With `"static"` and `"threshold"` every split is binarised here, once. With `"dynamic"` train stays grey and is
    drawn afresh at each `visit`, while valid and test are drawn here, once. Values 0 and 1 stay so under all of these.

    Args:
        name: what it is called in reports.
        train: floating point, `[N, *event]`.
        valid: as train, with another N.
        test: as train, with another N.
        labels: split -> integer labels `[N]`.
        binarization: none | static (one Bernoulli draw) | dynamic (a draw per visit) | threshold (x > 0.5).
        seed: of the binarisation; each split has a stream of its own.
        exact: the generating process, where the evidence is known.
        preparation: what was done to the values before they came here; part of `protocol`.
        origin: how to load them again, as the command's options; empty where they came as an array.

    Raises:
        DataError: a split is empty, not floating point, not finite, of another event shape, or outside [0, 1] where it
            is to be binarised; or labels don't fit their split.

    Example:
        >>> data = Dataset("grey", torch.rand(10, 4), binarization="dynamic")
        >>> bool((data.visit(torch.arange(3), "step", 1) == data.visit(torch.arange(3), "step", 1)).all())
        True
    """

    name: str
    train: Tensor
    valid: Tensor | None = None
    test: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    binarization: Binarization = "none"
    seed: int = 0
    exact: LinearGaussian | None = None
    preparation: str = "values as given"
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.binarization not in get_args(Binarization):
            raise UsageError(f"expected a binarisation of {get_args(Binarization)}, got {self.binarization!r}")
        if self.exact is not None and self.binarization != "none":
            raise UsageError(
                "the known evidence of the generating process is not that of binarised data: pass exact=None"
            )
        for split, x in self._splits().items():
            _check_values(split, x, self.train)
            if self.binarization != "none":
                _check_unit_interval(split, x, self.binarization)
        for split, labels in self.labels.items():
            _check_labels(split, labels, self._splits())
        for split, x in self._splits().items():
            object.__setattr__(self, split, self._prepared(split, x))

    def _splits(self) -> dict[str, Tensor]:
        return {split: x for split in _SPLITS if (x := getattr(self, split)) is not None}

    def _prepared(self, split: str, x: Tensor) -> Tensor:
        if self.binarization == "threshold":
            return (x > 0.5).to(x.dtype)
        if self.binarization == "static" or (self.binarization == "dynamic" and split != "train"):
            return _bernoulli(x, self.seed, "binarize", split)
        return x

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one datum."""
        return tuple(self.train.shape[1:])

    @property
    def protocol(self) -> str:
        """One line: the name, how the values were scaled and binarised, and the sizes of the splits."""
        binarized = {
            "none": "not binarised",
            "static": f"static binarisation with seed {self.seed}",
            "dynamic": f"dynamic binarisation with seed {self.seed} (train drawn at each visit, the other splits once)",
            "threshold": "binarised at > 0.5",
        }[self.binarization]
        sizes = ", ".join(f"{split} {len(x)}" for split, x in self._splits().items())
        return f"{self.name}: {self.preparation}; {binarized}; {sizes}; shape {'x'.join(map(str, self.event_shape))}"

    def split(self, name: str) -> Tensor:
        """The data of one split, `[N, *event]`; of a dynamically binarised train, one draw that is always the same.

        Args:
            name: train | valid | test.

        Raises:
            UsageError: `name` is none of these.
            DataError: this data set has no such split.
        """
        if name not in _SPLITS:
            raise UsageError(f"expected a split of {_SPLITS}, got {name!r}")
        x = getattr(self, name)
        if x is None:
            remedy = "pass valid_size=n to take the last n of train" if name == "valid" else "choose one that it has"
            raise DataError(f"{self.name} has no split {name!r}, only {', '.join(self._splits())}: {remedy}")
        if name == "train" and self.binarization == "dynamic":
            return _bernoulli(x, self.seed, "binarize", name)
        return x

    def visit(self, index: Tensor, *key: object) -> Tensor:
        """The training batch `train[index]` as seen at this visit.

        Args:
            index: rows of train, `[B]`.
            *key: which visit this is, e.g. `epoch, step`.

        Returns:
            `[B, *event]`: under dynamic binarisation a Bernoulli draw that depends only on the rows, the seed and
            `key`, and is the same on every device; otherwise the rows themselves.
        """
        rows = self.train[index.to(self.train.device)]
        return _bernoulli(rows, self.seed, "visit", *key) if self.binarization == "dynamic" else rows

    def mean(self) -> Tensor:
        """Mean of each element over train, `[*event]` (of the grey values under dynamic binarisation)."""
        return self.train.mean(0)

    def std(self) -> Tensor:
        """Standard deviation of each element over train (divided by N), `[*event]`; grey under dynamic binarisation."""
        return self.train.std(0, correction=0)

    def to(self, device: str | torch.device) -> Self:
        """The same data on another device."""
        moved = copy.copy(self)  # not `replace`: what was checked and drawn once need not be again
        for split, x in self._splits().items():
            object.__setattr__(moved, split, x.to(device))
        object.__setattr__(moved, "labels", {split: y.to(device) for split, y in self.labels.items()})
        return moved


def _bernoulli(p: Tensor, seed: int, *keys: object) -> Tensor:
    # One type and one device for every uniform, so that a draw is the same wherever the data are.
    uniform = torch.rand(p.shape, generator=generator(seed, *keys), dtype=torch.float32, device="cpu")
    return (uniform.to(p.device) < p).to(p.dtype)


def _first(where: Tensor) -> tuple[int, ...]:
    return tuple(where.nonzero()[0].tolist())


def _check_values(split: str, x: Tensor, train: Tensor) -> None:
    shape = tuple(x.shape)
    if x.dim() < 2 or x.numel() == 0:
        raise DataError(f"{split} has shape {shape}; expected [N, *event] with no size 0 (a scalar datum is [N, 1])")
    if shape[1:] != tuple(train.shape[1:]):
        raise DataError(f"{split} has event shape {shape[1:]}, but train {tuple(train.shape[1:])}: make them equal")
    if not x.is_floating_point():
        raise DataError(
            f"{split} is {x.dtype}, expected floating point: convert it, or use as_dataset, which scales integers"
        )
    bad = ~torch.isfinite(x)
    if bad.any():
        where = f"{int(bad.sum())} NaN or infinite values, the first at {_first(bad)}"
        raise DataError(f"{split} has {where}: drop those rows or replace the values")


def _check_unit_interval(split: str, x: Tensor, binarization: str) -> None:
    bad = (x < 0) | (x > 1)
    if bad.any():
        first = _first(bad)
        problem = f"{split} has {int(bad.sum())} values outside [0, 1], the first {float(x[first]):g} at {first}"
        remedy = "scale them, e.g. divide_by=255 (--divide_by 255), or pass binarize='none'"
        raise DataError(f"{problem}, where {binarization} binarisation needs probabilities: {remedy}")


def _check_labels(split: str, labels: Tensor, splits: Mapping[str, Tensor]) -> None:
    if split not in splits:
        raise DataError(f"labels are given for the split {split!r}, but there are only {', '.join(splits)}")
    if labels.shape != splits[split].shape[:1] or labels.is_floating_point() or labels.is_complex():
        came = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise DataError(f"the labels of {split} are {came}, expected {len(splits[split])} integers")


def as_dataset(data: Dataset | Tensor | np.ndarray) -> Dataset:
    """The data as a `Dataset`; an array or a tensor becomes its train split.

    Floats keep their values, integers are scaled as `load_data` scales them. NumPy arrays get torch's default dtype.

    Args:
        data: a `Dataset` (returned as it is), or `[N, *event]`.

    Raises:
        DataError: as `Dataset`, and for integers whose scale is not known.

    Example:
        >>> as_dataset(np.zeros((10, 3))).protocol
        'array: values as given; not binarised; train 10; shape 3'
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, Tensor) and data.is_floating_point():
        return Dataset("array", data.detach())
    if not isinstance(data, Tensor | np.ndarray):
        raise UsageError(f"expected a Dataset, a Tensor or an ndarray [N, *event], got {type(data).__name__}")
    device = data.device if isinstance(data, Tensor) else "cpu"
    array = data.detach().cpu().numpy() if isinstance(data, Tensor) else data
    splits, preparation = _scaled({"train": array}, None)
    return Dataset("array", splits["train"].to(device), preparation=preparation)


def load_data(
    source: str | Path = "digits",
    *,
    binarize: Binarization = "none",
    divide_by: float | None = None,
    valid_size: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    seed: int = 0,
) -> Dataset:
    """Read a named data set, a file or a folder.

    Floats are kept as they are; integers of which the largest is 1 are kept as 0 and 1; other uint8 are divided by 255,
    and other integers need `divide_by`. All splits are scaled alike.

    Args:
        source: `digits` (embedded, divided by 16), `linear_gaussian` (synthetic, its evidence known), `mnist`,
            `fashion_mnist`, `kmnist`, `emnist` (balanced, upright), or the path of
            an `.npz` (arrays `train`, `valid`, `test`, `train_labels` ...; or `x_train`, `y_train` ...; or `x`, `y`),
            an `.npy` (train only), a folder with IDX files (`train-images-idx3-ubyte`, also `.gz`), or one such file.
        binarize: none | static | dynamic | threshold; see `Dataset`.
        divide_by: divide all values by this instead.
        valid_size: take the last n of train as the validation set, where the source has none.
        root: where the downloadable sets lie; by default `$PYRO_VAE_DATA`, else `~/.cache/pyro_vae`.
        download: fetch a downloadable set through torchvision where it is not in `root`.
        seed: of the binarisation, and of the process and samples of `linear_gaussian`.

    Raises:
        DataError: the source is unknown, absent or damaged, or its values are not usable.
        UsageError: options that make no sense together.

    Example:
        >>> load_data("digits").protocol
        'digits: divided by 16; not binarised; train 1397, valid 200, test 200; shape 8x8'
    """
    if divide_by is not None and not (math.isfinite(divide_by) and divide_by > 0):
        raise UsageError(f"expected a finite divide_by above 0, got {divide_by}")
    options = {"binarize": binarize, "divide_by": divide_by, "valid_size": valid_size, "data_seed": seed}
    origin = {"data": _lasting(source), **options, "data_root": None if root is None else str(root)}
    if source == "linear_gaussian":
        return _linear_gaussian(binarize, divide_by, valid_size, seed, origin)
    raw = read(source, root, download)
    splits, scaling = _scaled(raw.arrays, 16 if source == "digits" and divide_by is None else divide_by)
    labels = {split: _integers(split, y) for split, y in raw.labels.items()}
    notes = [note for note in (raw.note, scaling, _hold_out(splits, labels, valid_size)) if note]
    train, valid, test = (splits.get(split) for split in _SPLITS)
    assert train is not None  # every reader sees to it
    return Dataset(raw.name, train, valid, test, labels, binarize, seed, None, ", ".join(notes), origin)


def _lasting(source: str | Path) -> str:
    """A path as one that holds in every working directory; a name as it is."""
    return str(source) if source in NAMES else str(Path(source).expanduser().resolve())


def _linear_gaussian(
    binarize: Binarization, divide_by: float | None, valid_size: int, seed: int, origin: Mapping[str, Any]
) -> Dataset:
    if binarize != "none" or divide_by is not None or valid_size:
        raise UsageError("linear_gaussian takes no binarize, divide_by or valid_size: its evidence is known as it is")
    process = LinearGaussian.random(seed=seed)
    sizes = zip(_SPLITS, (2000, 500, 500), strict=True)
    train, valid, test = (process.sample(n, derive_seed(seed, split)) for split, n in sizes)
    note = f"drawn with seed {seed}, {process.weight.shape[1]} latent dimensions, noise of scale {process.scale:g}"
    return Dataset("linear_gaussian", train, valid, test, seed=seed, exact=process, preparation=note, origin=origin)


def _hold_out(splits: dict[str, Tensor], labels: dict[str, Tensor], n: int) -> str:
    if n == 0:
        return ""
    if "valid" in splits:
        raise UsageError(f"the source has a validation set of {len(splits['valid'])}: leave valid_size out")
    if not 0 < n < len(splits["train"]):
        raise UsageError(f"expected a valid_size from 1 to {len(splits['train']) - 1}, got {n}")
    for parts in (splits, labels):
        if "train" in parts:
            parts["train"], parts["valid"] = parts["train"][:-n], parts["train"][-n:]
    return f"last {n} of train held out as valid"


def _scaled(arrays: Mapping[str, np.ndarray], divide_by: float | None) -> tuple[dict[str, Tensor], str]:
    for split, array in arrays.items():
        if array.dtype.kind not in "fiub" or array.ndim == 0:
            came = f"{array.dtype} of shape {array.shape}"
            raise DataError(f"{split} is {came}, expected real numbers [N, *event]: convert it")
    divisor, note = _divisor(arrays, divide_by)
    return {split: _tensor(array).div_(divisor) for split, array in arrays.items()}, note


def _divisor(arrays: Mapping[str, np.ndarray], divide_by: float | None) -> tuple[float, str]:
    if divide_by is not None:
        return divide_by, f"divided by {divide_by:g}"
    filled = [array for array in arrays.values() if array.size]
    dtypes = {array.dtype for array in filled}
    if all(dtype.kind == "f" for dtype in dtypes):
        return 1, "values as given"
    if any(dtype.kind == "f" for dtype in dtypes):
        raise DataError("some splits are integers and some floats: store them in one type, or pass divide_by")
    low, high = min(array.min() for array in filled), max(array.max() for array in filled)
    if low >= 0 and high <= 1:
        return 1, "0/1 values as given"
    if dtypes == {np.dtype(np.uint8)}:
        return 255, "divided by 255"
    types = ", ".join(sorted(map(str, dtypes)))
    raise DataError(f"integers ({types}) from {low} to {high} have no known scale: pass divide_by, or give floats")


def _tensor(array: np.ndarray) -> Tensor:
    dtype = np.float64 if torch.get_default_dtype() == torch.float64 else np.float32
    with np.errstate(over="ignore"):  # what overflows becomes infinite, and is refused as such
        return torch.from_numpy(array.astype(dtype))


def _integers(split: str, labels: np.ndarray) -> Tensor:
    if labels.dtype.kind not in "iub":
        raise DataError(f"the labels of {split} are {labels.dtype}, expected integers")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))
