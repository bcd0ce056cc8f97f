"""What comes piece by piece: which part is what, which values it becomes, and what is refused in one clear line."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from pyro_vae import VAE, fit, load_data, log_marginal
from pyro_vae.data import as_dataset, store_data
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Normal

X = np.random.default_rng(0).random((20, 3, 2), np.float32)
Y = np.arange(20) % 4


def refused(error, *parts):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


class Listed(TorchDataset):
    """A map-style data set of given items."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


class Batches:
    """An iterable of batches, which can be passed over again; with a length if one is told."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Counted(Batches):
    def __init__(self, batches, length=None):
        super().__init__(batches)
        self.length = len(batches) if length is None else length

    def __len__(self):
        return self.length


class Streamed(IterableDataset):
    """An iterable data set of torch without a length."""

    def __iter__(self):
        return iter(zip(X, Y.tolist(), strict=True))


def cut(*arrays, rows=6):
    return [tuple(a[i : i + rows] for a in arrays) for i in range(0, len(arrays[0]), rows)]


# ---- what is read


SOURCES = {
    "tensors": TensorDataset(torch.tensor(X), torch.tensor(Y)),
    "subset": Subset(TensorDataset(torch.tensor(X), torch.tensor(Y)), range(20)),
    "arrays": Listed(list(zip(X, Y, strict=True))),
    "dictionaries": Listed([{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)]),
    "lists": Listed([[x, int(y)] for x, y in zip(X, Y, strict=True)]),
    "loader": DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=7),
    "loader without batches": DataLoader(Listed(cut(X, Y)), batch_size=None),
    "loader of dictionaries": DataLoader(
        Listed([{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)]), batch_size=7
    ),
    "loader with its own batches": DataLoader(
        TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_sampler=[range(5), range(5, 15), range(15, 20)]
    ),
    "batches": Counted(cut(X, Y)),
    "batches with labels as columns": Counted(cut(X, Y[:, None].astype(float))),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_give_data_and_labels(name):
    data = as_dataset(SOURCES[name])
    assert torch.equal(data.split("train"), torch.tensor(X)) and data.labels["train"].tolist() == Y.tolist()
    assert data.name == type(SOURCES[name]).__name__ and data.labels["train"].dtype == torch.int64


@pytest.mark.parametrize(
    "source", [(b for b in cut(X, Y)), Batches(cut(X, Y)), Streamed(), DataLoader(Streamed(), batch_size=8)]
)
def test_what_has_no_length_is_read_with_its_number(source):
    data = as_dataset(source, num_data=20)
    assert torch.equal(data.split("train"), torch.tensor(X)) and data.labels["train"].tolist() == Y.tolist()


def test_the_first_of_an_endless_source_are_taken():
    endless = ((X, Y) for _ in itertools.count())
    data = as_dataset(endless, num_data=45)
    assert torch.equal(data.split("train"), torch.tensor(np.concatenate([X, X, X[:5]])))
    assert len(as_dataset(SOURCES["tensors"], num_data=3).train) == 3


def test_x_alone():
    for source in (TensorDataset(torch.tensor(X)), Listed(list(X)), Counted([X[:15], X[15:]])):
        data = as_dataset(source)
        assert torch.equal(data.split("train"), torch.tensor(X)) and not data.labels


def test_a_list_of_numbers_is_a_datum_and_a_tuple_is_not():
    assert as_dataset(Listed([[1.0, 2.0], [3.0, 5.0]])).train.tolist() == [[1, 2], [3, 5]]
    assert as_dataset(Listed([([1.0], 2), ([3.0], 5)])).labels["train"].tolist() == [2, 5]


def test_splits_by_name():
    source = {"train": SOURCES["tensors"], "validation": SOURCES["loader"], "test": torch.tensor(X[:4])}
    data = as_dataset(source)
    assert [data.size(split) for split in ("train", "valid", "test")] == [20, 20, 4]
    assert set(data.labels) == {"train", "valid"}


def test_fields_name_the_parts():
    mask = X > 0.3
    items = [
        {"a": x, "seen": m, "c": [y, 1], "y": y, "id": "text"} for x, m, y in zip(X, mask, Y.tolist(), strict=True)
    ]
    fields = {"x": "a", "mask": "seen", "context": "c", "labels": "y"}
    data = as_dataset(Listed(items), fields=fields)
    assert torch.equal(data.observed("train"), torch.tensor(mask)) and data.labels["train"].tolist() == Y.tolist()
    assert torch.equal(data.inputs["c"]["train"], torch.tensor([[float(y), 1] for y in Y]))
    assert torch.equal(data.split("train", gaps=0.0), torch.tensor(np.where(mask, X, 0)))
    other = as_dataset(Counted(cut(Y, X, Y)), fields={"x": 1})
    assert torch.equal(other.split("train"), torch.tensor(X)) and not other.labels


def test_missing_values_get_a_mask():
    gaps = X.copy()
    gaps[X < 0.2] = np.nan
    data = as_dataset(Counted(cut(gaps)), missing="nan")
    assert torch.equal(data.observed("train"), torch.tensor(X >= 0.2))
    codes = np.where(X < 0.2, np.float32(-99.9), X)
    other = as_dataset(Counted(cut(codes)), missing=-99.9)
    assert torch.equal(other.observed("train"), data.observed("train"))
    torch.testing.assert_close(other.split("train"), data.split("train"), equal_nan=True, rtol=0, atol=0)


KINDS = {
    "float64": (X.astype(np.float64), X),
    "float16": (X.astype(np.float16), X.astype(np.float16)),
    "bfloat16": (torch.tensor(X).bfloat16(), torch.tensor(X).bfloat16().float().numpy()),
    "big endian": (X.astype(">f4"), X),
    "bytes": ((X * 255).astype(np.uint8), (X * 255).astype(np.uint8) / np.float32(255)),
    "truths": (X > 0.5, (X > 0.5).astype(np.float32)),
    "0 and 1": ((X > 0.5).astype(np.int64), (X > 0.5).astype(np.float32)),
    "sparse tensor": (torch.tensor(X).to_sparse(), X),
    "with gradient": (torch.tensor(X, requires_grad=True), X),
}


@pytest.mark.parametrize("name", KINDS)
def test_types_of_numbers(name):
    given, expected = KINDS[name]
    data = as_dataset(Counted([given]))
    assert torch.equal(data.split("train"), torch.tensor(np.asarray(expected, np.float32)))


def test_matrices_and_tables_as_batches():
    flat = X.reshape(20, 6)
    sparse = Counted([scipy.sparse.csr_matrix(flat[:9]), scipy.sparse.csc_matrix(flat[9:])])
    assert torch.equal(as_dataset(sparse).split("train"), torch.tensor(flat))
    tables = [pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan]}), pd.DataFrame({"a": [3.0], "b": [4]})]
    tables.append(pd.DataFrame({"a": pd.array([5, None], "Int64"), "b": [1, 2]}))
    data = as_dataset(Counted(tables), missing="nan")
    assert torch.equal(data.split("train", gaps=0.0), torch.tensor([[1, 0.5], [2, 0], [3, 4], [5, 1], [0, 2]]))


def picture(mode, size=(4, 3), seed=0):
    grey = np.random.default_rng(seed).integers(0, 256, size[::-1], np.uint8)
    return Image.fromarray(grey).convert(mode)


@pytest.mark.parametrize(("mode", "shape"), [("L", (3, 4)), ("RGB", (3, 3, 4)), ("P", (3, 3, 4)), ("LA", (3, 4))])
def test_pictures(mode, shape):
    items = [(picture(mode, seed=i), i) for i in range(5)]
    data = as_dataset(Listed(items))
    grey = np.stack([np.asarray(picture("L", seed=i)) for i in range(5)])
    expected = grey if len(shape) == 2 else grey[:, None].repeat(3, 1)
    assert data.event_shape == shape and np.array_equal(data.train.numpy(), expected)


def test_counts_are_read_with_a_divisor():
    counts = (X * 20).astype(np.int64)
    data = as_dataset(Counted(cut(counts)), divide_by=1)
    assert torch.equal(data.split("train"), torch.tensor(counts.astype(np.float32)))
    assert torch.equal(as_dataset(counts, divide_by=2).split("train"), torch.tensor(counts / 2).float())
    assert torch.equal(as_dataset(torch.tensor(X), divide_by=4.0).split("train"), torch.tensor(X) / 4)


def test_fit_and_evaluation_on_a_loader_are_those_on_the_tensor():
    weights = []
    for source in ({"train": SOURCES["loader"], "valid": torch.tensor(X)}, {"train": torch.tensor(X), "valid": X}):
        torch.manual_seed(0)
        vae = VAE((3, 2), 1, likelihood=Normal)
        fit(vae, source, epochs=2, batch_size=8, progress=False)
        weights.append(vae.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    with refused(UsageError, "x: expected data in one tensor or array", "DataLoader", "as_dataset(loader)"):
        log_marginal(vae.model, vae.guide, SOURCES["loader"])


def test_a_shuffling_loader_gives_the_same_order_each_time_and_leaves_the_generator_alone(tmp_path, capsys):
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(Y)), batch_size=8, shuffle=True, drop_last=True)
    torch.manual_seed(1)
    first, drawn = as_dataset(loader), torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(2)) and torch.equal(first.train, as_dataset(loader).train)
    assert len(first.train) == 16 and not torch.equal(first.train, torch.tensor(X[:16]))
    store_data(loader, tmp_path / "x")
    assert "drop_last leaves out 4 data; its order is that of this pass" in capsys.readouterr().err


# ---- what is refused


RAGGED = [torch.zeros(2, 3), torch.zeros(2, 4)]
REFUSED = {
    "no length": (Batches(cut(X)), UsageError, ("the Batches has no length", "say how many to take by num_data=N")),
    "a generator": (
        (x for x in cut(X)),
        UsageError,
        ("the generator has no length", "say how many to take by num_data=N"),
    ),
    "an endless one": (
        itertools.count(),
        UsageError,
        ("the count has no length", "say how many to take by num_data=N"),
    ),
    "a streamed set": (Streamed(), UsageError, ("the Streamed has no length",)),
    "a loader of it": (DataLoader(Streamed()), UsageError, ("the DataLoader has no length",)),
    "a function": (lambda: X, UsageError, ("function",)),
    "no data": (Listed([]), DataError, ("train: the Listed has no data",)),
    "no batches": (Counted([]), DataError, ("train: the Counted has no data",)),
    "empty batches": (Counted([X[:0], X[:0]]), DataError, ("train: the Counted has no data",)),
    "ragged batches": (Counted(RAGGED), DataError, ("x of train data[2:4] has shape [4], and those before [3]",)),
    "ragged data": (
        Listed([torch.zeros(3), torch.zeros(4)]),
        DataError,
        ("x of train data[1] has shape [4]", "resize"),
    ),
    "ragged lists": (
        Counted([{"x": [[1.0, 2.0], [3.0]]}]),
        DataError,
        ("datum 1 has shape [1], and those before [2]",),
    ),
    "another type": (
        Counted([torch.zeros(2, 3), torch.zeros(2, 3).double()]),
        DataError,
        ("x of train data[2:4] is float64, and those before float32: convert all to one type",),
    ),
    "another type of data": (
        Listed([np.zeros(3, np.uint8), np.zeros(3)]),
        DataError,
        ("x of train data[1] is float64",),
    ),
    "nan": (Counted([X, X * np.nan]), DataError, ("x of train data[20] has the value nan", "pass missing='nan'")),
    "infinity": (Listed([X[0], X[1] * np.inf]), DataError, ("x of train data[1] has the value inf: replace it",)),
    "a label that is not there": (
        Listed([(X[0], 1), (X[1], None)]),
        DataError,
        ("train data[1]: its labels is None: give all data one",),
    ),
    "a part that is not there": (
        Listed([(X[0], 1), (X[1],)]),
        DataError,
        ("data[1] has x, and those before x and labels",),
    ),
    "labels of some batches": (
        Counted([(X, Y), X]),
        DataError,
        ("data[20:40] has x, and the data before x and labels",),
    ),
    "a label of nan": (
        Counted([(X, np.where(Y > 2, np.nan, Y))]),
        DataError,
        ("labels", "nan among them", "number the"),
    ),
    "labels of reals": (Counted([(X, X[:, 0, 0])]), DataError, ("expected a whole number for each datum", "fields=")),
    "texts as labels": (
        Listed([(X[0], "cat")]),
        DataError,
        ("labels of train data[0]: expected numbers", "got str 'cat'"),
    ),
    "fewer labels": (
        Counted([(X, Y[:3])]),
        DataError,
        ("expected as many of each part as data, got 20 of x, 3 of labels",),
    ),
    "three parts": (Counted([(X, Y, Y)]), UsageError, ("is a tuple of 3 parts: say which by fields=",)),
    "many columns": (Listed([{"a": X[0], "b": X[0]}]), UsageError, ("data[0] has 'a', 'b': say which by fields=",)),
    "texts": (Listed(["a", "b"]), DataError, ("x of train data[0]: expected numbers", "str")),
    "arrays of texts": (Listed([np.array(["a"])]), DataError, ("expected numbers, got text",)),
    "dates": (Listed([np.array(["2024-01-01"], "datetime64[D]")]), DataError, ("expected numbers, got dates",)),
    "complex numbers": (Counted([X * 1j]), DataError, ("expected numbers, got complex numbers",)),
    "objects": (Listed([object()]), DataError, ("expected numbers, a tensor, an array or a picture, got object",)),
    "a text column": (
        Counted([pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})]),
        DataError,
        ("the columns b are no numbers: leave them out",),
    ),
    "single numbers": (Listed([1.0, 2.0]), DataError, ("x of train data[0:2] has shape [2]", "x.reshape(-1, 1)")),
    "a number as a batch": (Counted([np.float64(3)]), DataError, ("is a single number: expected a batch",)),
    "an empty event": (
        Counted([np.zeros((3, 0))]),
        DataError,
        ("has shape [3, 0], expected [B, *event] with no size 0",),
    ),
    "integers of no scale": (Counted([(X * 20).astype(int)]), DataError, ("integers (int64) have no known scale",)),
    "a masked array": (Counted([np.ma.masked_less(X, 0.5)]), DataError, ("a masked array, whose mask would be lost",)),
    "a negative length": (Counted(cut(X), length=-1), UsageError, ("the length of the Counted is no number of data",)),
    "a length beyond all": (Counted(cut(X), length=10**30), UsageError, ("the length of the Counted is no number",)),
    "a length too long": (Counted(cut(X), length=9), DataError, ("the Counted gave 4 batches, and its length says 9",)),
    "a length too short": (
        Counted(cut(X), length=2),
        DataError,
        ("the Counted gave 4 batches, and its length says 2",),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    source, error, parts = REFUSED[name]
    with refused(error, *parts):
        as_dataset(source)


class Lying(Listed):
    """A data set with another length than it has."""

    def __init__(self, items, length):
        super().__init__(items)
        self.length = length

    def __len__(self):
        return self.length


class StreamedTwice(Streamed):
    """As where each of two workers reads all data."""

    def __len__(self):
        return 10


def test_a_length_that_is_not_true():
    with refused(
        DataError, "train: the StreamedTwice gave 20 data and more, and its length says 10 data: correct its length"
    ):
        as_dataset(StreamedTwice())
    with pytest.raises(IndexError) as found:
        as_dataset(Lying(list(X), 30))
    assert found.value.__notes__ == ["The Lying raised this after 0 data; nothing is stored."]
    with refused(DataError, "num_data=21: the TensorDataset has only 20 data"):
        as_dataset(SOURCES["tensors"], num_data=21)
    with refused(DataError, "the generator gave 20 data, and its length says 25 data"):
        as_dataset((b for b in cut(X)), num_data=25)


class Raising(Listed):
    def __getitem__(self, index):
        if index == 13:
            raise RuntimeError("a bad file")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_users_code_is_left_as_it_is(tmp_path, workers):
    loader = DataLoader(
        Raising(list(X)), batch_size=5, num_workers=workers, multiprocessing_context="fork" if workers else None
    )
    with pytest.raises(RuntimeError, match="a bad file") as found:
        store_data(loader, tmp_path / "x", progress=False)
    assert "raised this after 10 data; nothing is stored." in found.value.__notes__[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"fields": {"labels": 1}}, ("fields: expected a dictionary", "'x' among them")),
        ({"fields": {"x": 0, "label": 1}}, ("got 'label', did you mean 'labels'?",)),
        ({"fields": {"x": 0.5}}, ("got 0.5 for 'x'",)),
        ({"fields": "image"}, ("got 'image'",)),
        ({"num_data": 0}, ("num_data must be at least 1",)),
        ({"missing": "none"}, ("missing: expected 'nan'",)),
        ({"kinds": "guess"}, ("kinds is for an array or a table, not for TensorDataset",)),
        ({"mask": X > 0}, ("mask is for an array or a table", "fields=")),
    ],
)
def test_options_that_make_no_sense(options, parts):
    with refused(UsageError, *parts):
        as_dataset(SOURCES["tensors"], **options)


def test_options_that_are_for_streams():
    with refused(UsageError, "fields and num_data are for data that come piece by piece, not ndarray"):
        as_dataset(X, num_data=3)
    with refused(UsageError, "a Dataset is taken as it is"):
        as_dataset(load_data("digits"), num_data=3)
    with refused(DataError, "has no 7, its labels: it has the places 0 to 1"):
        as_dataset(SOURCES["tensors"], fields={"x": 0, "labels": 7})
    with refused(DataError, "has no 'y', its labels: it has 'image', 'label'"):
        as_dataset(SOURCES["dictionaries"], fields={"x": "image", "labels": "y"})
    with refused(UsageError, "fields={'x': 'image'} are for a dictionary or a tuple, got ndarray"):
        as_dataset(Listed(list(X)), fields={"x": "image"})
    with refused(UsageError, "give one of missing=nan and a mask"):
        as_dataset(Counted(cut(X, X > 0)), fields={"x": 0, "mask": 1}, missing="nan")
    with refused(DataError, "mask of train data[0:20] has shape [20], expected that of x, [20, 3, 2]"):
        as_dataset(Counted([(X, Y > 1)]), fields={"x": 0, "mask": 1})
    with refused(DataError, "mask of", "with other values than 0 and 1"):
        as_dataset(Counted([(X, X)]), fields={"x": 0, "mask": 1})


@pytest.mark.parametrize("splits", [{"valid": X}, {"train": X, "valid": X, "val": X}])
def test_splits_that_make_no_sense(splits):
    with refused(UsageError, "expected a dictionary of splits, train and perhaps valid and test"):
        as_dataset(splits)


@pytest.mark.parametrize("other", [{"train": X, "extra": X}, {"a": X}, {}])
def test_a_dictionary_of_other_things_is_no_data(other):
    with refused(UsageError, "data: expected a dictionary of splits, train and perhaps valid and test, got one of"):
        as_dataset(other)


def test_a_column_of_arrays():
    column = pd.Series([X[0], X[1]])
    assert torch.equal(as_dataset(Counted([column])).split("train"), torch.tensor(X[:2]))
