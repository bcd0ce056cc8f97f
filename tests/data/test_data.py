"""`pyro_vae.data`: every source, every refusal, and the laws of the draws."""

import builtins
import dataclasses
import gzip
import os
import pickle
import random
import re
import struct
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch.fx.experimental.proxy_tensor import make_fx

import pyro_vae
from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, LinearGaussian, as_dataset, load_data, preparation
from pyro_vae.data import storage as stored
from pyro_vae.data.dataset import evenly_spread
from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Bernoulli, ContinuousBernoulli, Normal
from pyro_vae.process.seeding import seeded
from pyro_vae.training.fitting import fit

REAL = Path(__file__).parents[3] / "shared" / "data"
DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")


def real(file: str) -> Path:
    path = REAL / file
    if not path.is_file():
        pytest.skip(f"{file} is not beside the repository")
    return path


def refused(error: type[Exception], *parts: str):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


def images(*shape: int, seed: int = 0, high: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape, dtype=np.uint8)


def write_idx(path: Path, array: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return array


def write_mnist(folder: Path, prefix: str = "", test: str = "t10k", packed: str = "") -> dict[str, np.ndarray]:
    arrays = {
        "train-images-idx3": images(7, 5, 4, seed=1),
        "train-labels-idx1": images(7, seed=2, high=10),
        f"{test}-images-idx3": images(3, 5, 4, seed=3),
        f"{test}-labels-idx1": images(3, seed=4, high=10),
    }
    return {
        key.replace("t10k", "test"): write_idx(folder / f"{prefix}{key}-ubyte{packed}", x) for key, x in arrays.items()
    }


def assert_holds(data: Dataset, arrays: dict[str, np.ndarray], transposed: bool = False) -> None:
    for split in ("train", "test"):
        x = torch.tensor(arrays[f"{split}-images-idx3"]) / 255
        torch.testing.assert_close(data.split(split), x.mT if transposed else x, rtol=0, atol=0)
        assert data.labels[split].tolist() == arrays[f"{split}-labels-idx1"].tolist()
    assert data.valid is None


# --- named sources ---


def test_digits_are_embedded():
    data = load_data()
    assert data.name == "digits"
    assert data.event_shape == (8, 8)
    assert [len(data.split(split)) for split in ("train", "valid", "test")] == [1397, 200, 200]
    train = data.split("train")
    assert data.train.dtype == torch.uint8 and train.dtype == torch.float32
    assert train.max() == 1 and train.min() == 0
    assert torch.equal(train * 16, data.train.float())
    assert data.protocol == "digits: divided by 16; not binarised; train 1397, valid 200, test 200; shape 8x8"


def test_digits_are_stratified():
    data = load_data("digits")
    counts = {split: torch.bincount(labels, minlength=10) for split, labels in data.labels.items()}
    total = counts["train"] + counts["valid"] + counts["test"]
    for split in ("valid", "test"):
        assert (counts[split] - total * 200 / 1797).abs().max() < 1


def test_digits_are_split_by_the_recipe_in_their_readme():
    pytest.importorskip("sklearn", reason="the recipe starts from scikit-learn's copy")
    readme = (Path(pyro_vae.data.__file__).parent / "packaged" / "README.md").read_text(encoding="utf-8")
    recipe = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0].replace("np.savez_compressed", "# ")
    namespace = {}
    exec(recipe, namespace)
    data = load_data("digits", divide_by=1)
    for split in ("train", "valid", "test"):
        assert torch.equal(data.split(split), torch.tensor(namespace["arrays"][split]).float())
        assert data.labels[split].tolist() == namespace["arrays"][f"{split}_labels"].tolist()


def test_linear_gaussian_comes_with_its_process():
    data = load_data("linear_gaussian", seed=3)
    assert [len(data.split(split)) for split in ("train", "valid", "test")] == [2000, 500, 500]
    assert data.train.dtype == torch.float32
    assert data.exact is not None
    assert data.exact.log_prob(data.split("test")).shape == (500,)
    assert torch.equal(data.train, load_data("linear_gaussian", seed=3).train)
    assert not torch.equal(data.train, load_data("linear_gaussian", seed=4).train)
    assert not torch.equal(data.split("valid"), data.split("test"))


def test_linear_gaussian_takes_no_change_of_its_values():
    for options in ({"divide_by": 2.0}, {"binarize": "static"}, {"valid_size": 10}):
        with refused(UsageError, "linear_gaussian takes no", "evidence"):
            load_data("linear_gaussian", **options)


# --- files ---


def test_npz_with_our_keys(tmp_path):
    train, valid, test = images(6, 2, 3), images(4, 2, 3, seed=1), images(5, 2, 3, seed=2)
    path = tmp_path / "mine.npz"
    np.savez(path, train=train, valid=valid, test=test, test_labels=np.arange(5), other=np.array(["text"]))
    data = load_data(path)
    assert (data.name, data.event_shape) == ("mine", (2, 3))
    for split, x in (("train", train), ("valid", valid), ("test", test)):
        torch.testing.assert_close(data.split(split), torch.tensor(x) / 255, rtol=0, atol=0)
    assert set(data.labels) == {"test"} and data.labels["test"].tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(load_data(str(path)).split("train"), data.split("train"))


@pytest.mark.parametrize("keys", [("x_train", "y_train"), ("x", "y")])
def test_npz_with_other_keys(tmp_path, keys):
    x, y = images(6, 2, 3), images(6, 1, high=10)
    np.savez(tmp_path / "set.npz", **{keys[0]: x, keys[1]: y})
    data = load_data(tmp_path / "set.npz")
    assert torch.equal(data.split("train"), torch.tensor(x) / 255)
    assert data.labels["train"].tolist() == y.ravel().tolist()


def test_npy_is_train_only(tmp_path):
    x = np.random.default_rng(0).normal(size=(6, 3))
    np.save(tmp_path / "floats.npy", x)
    data = load_data(tmp_path / "floats.npy")
    assert torch.equal(data.split("train"), torch.tensor(x, dtype=torch.float32))
    assert data.valid is None and data.test is None and data.labels == {}
    assert data.protocol == "floats: values as given; not binarised; train 6; shape 3"


def test_big_endian_and_fortran_order_are_read(tmp_path):
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(6, 3)).astype(">f4"))
    np.save(tmp_path / "x.npy", x)
    assert load_data(tmp_path / "x.npy").split("train").tolist() == x.tolist()


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("prefix", ["", "my-"])
@pytest.mark.parametrize("test", ["t10k", "test"])
@pytest.mark.parametrize("below", [".", "raw", "MNIST/raw"])
def test_idx_folder(tmp_path, packed, prefix, test, below):
    arrays = write_mnist(tmp_path / below, prefix, test, packed)
    assert_holds(load_data(tmp_path), arrays)


def test_idx_reads_the_unpacked_file_where_both_are_there(tmp_path):
    write_mnist(tmp_path, packed=".gz")
    plain = write_idx(tmp_path / "train-images-idx3-ubyte", images(7, 5, 4, seed=9))
    assert torch.equal(load_data(tmp_path).split("train"), torch.tensor(plain) / 255)


def test_idx_names_its_set(tmp_path):
    write_mnist(tmp_path / "KMNIST" / "raw")
    assert load_data(tmp_path).name == "KMNIST"
    assert load_data(tmp_path / "KMNIST" / "raw").name == "KMNIST"


def test_idx_by_one_file_where_a_folder_holds_several(tmp_path):
    letters = write_mnist(tmp_path, "emnist-letters-", "test")
    write_mnist(tmp_path, "emnist-digits-", "test", ".gz")
    with refused(
        DataError, "several training sets", "emnist-digits-train-images-idx3-ubyte.gz", "emnist-letters-train"
    ):
        load_data(tmp_path)
    data = load_data(tmp_path / "emnist-letters-train-images-idx3-ubyte")
    assert data.name == "emnist-letters"
    assert "transposed upright" in data.protocol
    assert_holds(data, letters, transposed=True)


def test_idx_without_test_or_labels(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte", images(4, 2, 2))
    data = load_data(tmp_path)
    assert data.test is None and data.labels == {}


def test_debian_package_of_fashion_mnist():
    if not DEBIAN_FASHION.is_dir():
        pytest.skip("the Debian package dataset-fashion-mnist is not installed")
    data = load_data(DEBIAN_FASHION)
    assert (data.train.shape, data.split("test").shape) == ((60000, 28, 28), (10000, 28, 28))
    assert torch.bincount(data.labels["train"]).tolist() == [6000] * 10


@pytest.mark.parametrize(
    ("name", "folder", "prefix", "test"),
    [
        ("mnist", "MNIST", "", "t10k"),
        ("fashion_mnist", "FashionMNIST", "", "t10k"),
        ("kmnist", "KMNIST", "", "t10k"),
        ("emnist", "EMNIST", "emnist-balanced-", "test"),
    ],
)
def test_torchvision_sets_that_are_there(tmp_path, monkeypatch, name, folder, prefix, test):
    arrays = write_mnist(tmp_path / folder / "raw", prefix, test)
    data = load_data(name, root=tmp_path, download=True)  # already there, so nothing is fetched
    assert data.name == name
    assert_holds(data, arrays, transposed=name == "emnist")
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path))
    assert torch.equal(load_data(name).train, data.train)


def test_torchvision_reads_the_same(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets", reason="no torchvision that works here", exc_type=Exception)
    write_mnist(tmp_path / "MNIST" / "raw")
    write_mnist(tmp_path / "EMNIST" / "raw", "emnist-balanced-", "test")
    theirs = datasets.MNIST(str(tmp_path), train=True), datasets.EMNIST(str(tmp_path), "balanced", train=False)
    assert torch.equal(load_data("mnist", root=tmp_path).split("train"), theirs[0].data / 255)
    assert torch.equal(load_data("emnist", root=tmp_path).split("test"), theirs[1].data.mT / 255)
    assert torch.equal(load_data("mnist", root=tmp_path).labels["train"], theirs[0].targets)


def fake_torchvision(monkeypatch, download) -> None:
    datasets = types.ModuleType("torchvision.datasets")
    datasets.MNIST = datasets.EMNIST = download
    package = types.ModuleType("torchvision")
    package.datasets = datasets
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", datasets)


def test_download_only_on_request(tmp_path, monkeypatch):
    calls = []

    def download(root, **options):
        calls.append(options)
        write_mnist(Path(root) / "EMNIST" / "raw", "emnist-balanced-", "test")

    fake_torchvision(monkeypatch, download)
    with refused(DataError, "emnist is not in", "pass download=True, or the path"):
        load_data("emnist", root=tmp_path)
    assert calls == []
    assert len(load_data("emnist", root=tmp_path, download=True).train) == 7
    assert calls == [{"download": True, "split": "balanced"}]


def test_half_a_set_counts_as_absent(tmp_path):
    write_idx(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", images(4, 2, 2))
    with refused(DataError, "mnist is not in"):
        load_data("mnist", root=tmp_path)


def test_download_that_fails(tmp_path, monkeypatch):
    def download(root, **options):
        raise RuntimeError("Error downloading:\nTried one mirror, got:\nno route")

    fake_torchvision(monkeypatch, download)
    with refused(DataError, "can't download MNIST", "Tried one mirror, got: no route", "try again"):
        load_data("mnist", root=tmp_path, download=True)


def test_download_with_a_torchvision_that_cannot_be_imported(tmp_path, monkeypatch):
    def fails(name, *args):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real_import(name, *args)

    real_import = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", fails)
    with refused(DataError, "torchvision", "can't be imported (operator", "install the version", "path"):
        load_data("mnist", root=tmp_path, download=True)


def test_download_without_torchvision_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with refused(DataError, "downloading MNIST takes torchvision", "pip install 'pyro-vae[images]'", "path"):
        load_data("mnist", root=tmp_path, download=True)


# --- sources that are refused ---


def test_unknown_source_names_the_nearest():
    with refused(DataError, "'fashion-mnits'", "did you mean 'fashion_mnist'?", "digits, linear_gaussian, mnist"):
        load_data("fashion-mnits")
    with refused(DataError, "no data at 'nowhere/zzz.npz': expected one of"):
        load_data("nowhere/zzz.npz")


@pytest.mark.parametrize(("name", "remedy"), [("x.npy", "numpy.stack"), ("x.npz", "numpy.stack"), ("x.pkl", "savez")])
def test_pickles_are_refused(tmp_path, name, remedy):
    objects, path = np.array([{"a": 1}, None], dtype=object), tmp_path / name
    write = {"x.npy": lambda: np.save(path, objects, allow_pickle=True), "x.npz": lambda: np.savez(path, train=objects)}
    write.get(name, lambda: path.write_bytes(pickle.dumps([1, 2, 3])))()
    with refused(DataError, name, remedy) as found:
        load_data(path)
    assert "allow_pickle" not in str(found.value)


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_damaged_arrays_are_refused(tmp_path, name):
    x = images(20, 8, 8)
    path = tmp_path / name
    np.save(path, x) if name == "x.npy" else np.savez_compressed(path, train=x, test=x)
    whole = path.read_bytes()
    for length in (0, 3, 10, 60, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with refused(DataError, "can't read", name):
            load_data(path)


@pytest.mark.parametrize("name", ["x.npz", "x.npy"])
def test_changed_bytes_give_data_or_a_refusal(tmp_path, name):
    path, rng = tmp_path / name, np.random.default_rng(0)
    x = images(20, 8, 8)
    np.save(path, x) if name == "x.npy" else np.savez_compressed(path, train=x, train_labels=np.arange(20))
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(300):
        broken = whole.copy()
        broken[rng.integers(min(len(whole), 200), size=3)] = rng.integers(256, size=3)
        path.write_bytes(broken.tobytes())
        try:
            load_data(path)
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("shape", [(10**20, 8), (2**63 - 1, 8, 8), (2**32, 2**32, 8), (-20, 8), (20, -8, -8), (20, 9)])
def test_shapes_that_a_file_cannot_have_are_refused(tmp_path, shape):
    header = str({"descr": "|u1", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(160))
    with refused(DataError, "can't read", "x.npy"):
        load_data(tmp_path / "x.npy")


def test_npz_without_train_lists_what_it_holds(tmp_path):
    np.savez(tmp_path / "x.npz", pixels=images(2, 2), test=images(2, 2))
    with refused(DataError, "no array 'train', 'x_train' or 'x', only 'pixels', 'test': rename"):
        load_data(tmp_path / "x.npz")


def test_folder_without_idx_files(tmp_path):
    with refused(DataError, "without images, train.npy or IDX files", "train-images-idx3-ubyte"):
        load_data(tmp_path)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_damaged_idx_files(tmp_path, packed):
    path = tmp_path / f"train-images-idx3-ubyte{packed}"
    write_idx(path, images(7, 5, 4))
    whole = path.read_bytes()
    for content in (whole[:2], whole[:9], whole[:-1], b"text" * 9, whole + b"x", b""):
        path.write_bytes(content)
        with refused(DataError, path.name):
            load_data(tmp_path)


def test_idx_of_wrong_dimensions_or_no_rows(tmp_path):
    path = tmp_path / "emnist-x-train-images-idx3-ubyte"
    write_idx(path, images(7))
    with refused(DataError, "not an IDX file of unsigned bytes in 3 dimensions"):
        load_data(tmp_path)
    write_idx(path, images(0, 5, 4))
    with refused(DataError, "train has shape (0, 4, 5)"):
        load_data(tmp_path)


# --- scaling ---


@pytest.mark.parametrize(
    ("array", "expected", "note"),
    [
        (np.array([[0, 255], [51, 1]], np.uint8), [[0, 1], [0.2, 1 / 255]], "divided by 255"),
        (np.array([[0, 1], [1, 1]], np.uint8), [[0, 1], [1, 1]], "0/1 values as given"),
        (np.array([[0, 1], [1, 1]], np.int64), [[0, 1], [1, 1]], "0/1 values as given"),
        (np.array([[False, True]]), [[0, 1]], "0/1 values as given"),
        (np.array([[-3.5, 200.0]]), [[-3.5, 200.0]], "values as given"),
        (np.array([[0.5]], np.float16), [[0.5]], "values as given"),
    ],
)
def test_scaling_rule(tmp_path, array, expected, note):
    np.save(tmp_path / "x.npy", array)
    for data in (load_data(tmp_path / "x.npy"), as_dataset(array)):
        expected = torch.as_tensor(expected, dtype=torch.float32)
        torch.testing.assert_close(data.split("train"), expected, rtol=1e-7, atol=0)
        assert f": {note};" in data.protocol


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float64, np.bool_])
def test_divide_by_applies_to_any_array(tmp_path, dtype):
    x = np.array([[0, 1], [1, 0]], dtype)
    np.save(tmp_path / "x.npy", x)
    data = load_data(tmp_path / "x.npy", divide_by=4)
    assert data.split("train").tolist() == [[0, 0.25], [0.25, 0]]
    assert "divided by 4;" in data.protocol


def test_splits_are_scaled_alike(tmp_path):
    np.savez(tmp_path / "x.npz", train=np.ones((2, 2), np.uint8), test=np.full((2, 2), 255, np.uint8))
    data = load_data(tmp_path / "x.npz")
    torch.testing.assert_close(data.split("train"), torch.full((2, 2), 1 / 255))
    np.savez(tmp_path / "y.npz", train=np.ones((2, 2), np.uint8), test=np.ones((2, 2), np.float32))
    with refused(DataError, "some splits are integers and some floats", "divide_by"):
        load_data(tmp_path / "y.npz")


@pytest.mark.parametrize("array", [np.array([[0, 16]]), np.array([[-1, 1]], np.int8), np.array([[0, 2]], np.uint16)])
def test_integers_of_unknown_scale_are_refused(array):
    with refused(DataError, "no known scale: pass divide_by"):
        as_dataset(array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([[1j]]), np.array(3.0)])
def test_what_is_not_an_array_of_real_numbers_is_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    with refused(DataError, "train is", "expected real numbers"):
        load_data(tmp_path / "x.npy", valid_size=1)


def test_floats_too_large_for_single_precision_are_refused():
    with refused(DataError, "1 NaN or infinite values, the first at (0, 1)"):
        as_dataset(np.array([[1.0, 1e300]]))


@pytest.mark.parametrize("divide_by", [0.0, -1.0, 1e-60, 1e60, float("nan"), float("inf")])
def test_divide_by_must_be_positive(divide_by):
    with refused(UsageError, "divide_by above 0"):
        load_data("digits", divide_by=divide_by)


def test_default_dtype_is_followed(tmp_path):
    np.save(tmp_path / "x.npy", images(4, 3))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        for data in (load_data(tmp_path / "x.npy"), load_data("linear_gaussian"), load_data("digits")):
            assert data.split("train").dtype == data.mean().dtype == data.visit(torch.arange(2)).dtype == torch.float64
    finally:
        torch.set_default_dtype(before)


# --- valid_size ---


def test_valid_size_takes_the_last_of_train(tmp_path):
    x = images(10, 2)
    np.savez(tmp_path / "x.npz", train=x, train_labels=np.arange(10), test=x)
    data = load_data(tmp_path / "x.npz", valid_size=3)
    whole = torch.tensor(x) / 255
    assert torch.equal(data.split("train"), whole[:7]) and torch.equal(data.split("valid"), whole[7:])
    assert data.labels["train"].tolist() == list(range(7)) and data.labels["valid"].tolist() == [7, 8, 9]
    expected = "x: divided by 255, last 3 of train held out as valid; not binarised; train 7, valid 3, test 10; shape 2"
    assert data.protocol == expected


def test_valid_size_is_refused_where_it_makes_no_sense(tmp_path):
    with refused(UsageError, "has a validation set of 200: leave valid_size out"):
        load_data("digits", valid_size=10)
    np.save(tmp_path / "x.npy", images(10, 2))
    for n in (-1, 10, 11):
        with refused(UsageError, "valid_size: expected a number of rows from 1 to 9", str(n)):
            load_data(tmp_path / "x.npy", valid_size=n)


# --- Dataset ---


def test_as_dataset():
    x = torch.rand(5, 3, requires_grad=True)
    data = as_dataset(x)
    assert torch.equal(data.train, x) and not data.train.requires_grad
    assert as_dataset(data) is data
    assert as_dataset(torch.rand(2, 2, dtype=torch.float64)).train.dtype == torch.float64
    assert as_dataset(torch.tensor([[0, 255]], dtype=torch.uint8)).split("train").tolist() == [[0, 1]]
    assert as_dataset([[1.0, 2.5], [0.0, 0.0]]).train.tolist() == [[1, 2.5], [0, 0]]


def test_as_dataset_copies_a_read_only_array():
    x = np.zeros((2, 2), np.float32)
    x.flags.writeable = False
    data = as_dataset(x)
    data.train[0, 0] = 1
    assert x[0, 0] == 0


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (5, 0)])
def test_empty_and_scalar_data_are_refused(shape):
    with refused(DataError, f"train has shape {shape}", "expected [N, *event]"):
        Dataset("x", torch.zeros(shape))


def test_splits_must_agree():
    with refused(DataError, "test has event shape (4,), but train (3,)"):
        Dataset("x", torch.rand(5, 3), test=torch.rand(5, 4))
    with refused(DataError, "valid has shape (0, 3)"):
        Dataset("x", torch.rand(5, 3), valid=torch.rand(0, 3))


def test_integers_are_not_trained_on():
    with refused(DataError, "train is torch.int64, expected floating point", "as_dataset"):
        Dataset("x", torch.ones(5, 3, dtype=torch.long))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value):
    test = torch.rand(5, 2, 3)
    test[3, 1, 2] = test[4, 0, 0] = value
    with refused(DataError, "test has 2 NaN or infinite values, the first at (3, 1, 2): drop those rows"):
        Dataset("x", torch.rand(5, 2, 3), test=test)


@pytest.mark.parametrize("binarize", ["static", "dynamic", "threshold"])
@pytest.mark.parametrize("value", [-0.25, 1.5, 237.0])
def test_only_probabilities_are_binarised(binarize, value):
    train = torch.rand(5, 3)
    train[2, 1] = value
    problem = f"train has 1 values outside [0, 1], the first is {value:g} at (2, 1), where {binarize} binarisation"
    with refused(DataError, problem, "take likelihood=Normal", "binarize='none'"):
        Dataset("x", train, binarization=binarize)


def test_labels_must_fit():
    x = torch.rand(5, 3)
    with refused(DataError, "labels are given for the split 'test', but there are only train"):
        Dataset("x", x, labels={"test": torch.arange(5)})
    for labels in (torch.arange(4), torch.rand(5), torch.zeros(5, 2, dtype=torch.long)):
        with refused(DataError, "the labels of train are", "expected 5 integers"):
            Dataset("x", x, labels={"train": labels})


def test_unknown_binarisation_is_refused():
    with refused(UsageError, "'none', 'static', 'dynamic', 'threshold'", "'bernoulli'"):
        load_data("digits", binarize="bernoulli")


def test_known_evidence_is_not_kept_under_binarisation():
    with refused(UsageError, "known evidence", "exact=None"):
        Dataset("x", torch.rand(5, 16), binarization="static", exact=LinearGaussian.random())


def test_splits_that_are_absent():
    data = as_dataset(torch.rand(5, 3))
    with refused(DataError, "array has no split 'valid', only train: take train, or", "valid_size=n"):
        data.split("valid")
    with refused(DataError, "array has no split 'test', only train"):
        data.split("test")
    with refused(UsageError, "expected a split of ('train', 'valid', 'test'), got 'validation'"):
        data.split("validation")


def test_mean_and_std():
    data = load_data("digits", binarize="dynamic")
    grey = load_data("digits").split("train").double()
    torch.testing.assert_close(data.mean().double(), grey.mean(0))
    torch.testing.assert_close(data.std().double(), ((grey - grey.mean(0)) ** 2).mean(0).sqrt())
    assert as_dataset(torch.ones(1, 3)).std().tolist() == [0, 0, 0]


def test_datasets_are_values():
    data = load_data("digits", binarize="dynamic")
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.seed = 1
    again = pickle.loads(pickle.dumps(data))
    assert again.protocol == data.protocol and torch.equal(again.split("test"), data.split("test"))
    same = dataclasses.replace(data, name="same")
    assert torch.equal(same.split("test"), data.split("test"))  # what is binary is not drawn again


def test_to_moves_everything():
    data = load_data("digits").to("meta")
    assert {x.device.type for x in (data.train, data.valid, data.test, *data.labels.values())} == {"meta"}
    assert data.protocol == load_data("digits").protocol


@pytest.mark.cuda
def test_draws_are_the_same_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = load_data("digits", binarize="dynamic")
    moved, index = data.to("cuda"), torch.arange(50)
    assert moved.split("test").device.type == "cuda"
    assert torch.equal(moved.split("train").cpu(), data.split("train"))
    assert torch.equal(moved.visit(index, 1).cpu(), data.visit(index, 1))
    assert torch.equal(moved.visit(index.cuda(), 1), moved.visit(index, 1))
    assert LinearGaussian.random(dim=64).log_prob(moved.train.flatten(1)).device.type == "cuda"


# --- some of a split ---


@pytest.mark.parametrize("options", [{}, {"binarize": "static"}, {"binarize": "dynamic"}, {"dequantize": True}])
@pytest.mark.parametrize("mapped", [False, True])
def test_select_is_a_part_of_split(tmp_path, options, mapped):
    np.save(tmp_path / "x.npy", images(50, 6))
    data = (
        load_data(tmp_path / "x.npy", **options) if mapped else Dataset("x", torch.tensor(images(50, 6)), divisor=255)
    )
    if not mapped:
        data = dataclasses.replace(
            data, binarization=options.get("binarize", "none"), dequantize=options.get("dequantize", False)
        )
    for rows in (evenly_spread(50, 7), torch.tensor([49]), torch.tensor([7, 3, 41]), torch.arange(50)):
        assert torch.equal(data.select("train", rows), data.split("train")[rows])
    assert data.size("train") == 50
    with refused(DataError, "has no split 'test'"):
        data.select("test", torch.arange(2))


def test_select_takes_draws_in_order_over_chunks(monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", 10)
    data = Dataset("x", torch.tensor(images(50, 6)), divisor=255, binarization="dynamic")
    assert len(list(data.chunks("train"))) > 1
    rows = torch.tensor([23, 0, 48, 1])
    assert torch.equal(data.select("train", rows), data.split("train")[rows])


def test_evenly_spread_takes_some_of_each_kind_of_a_sorted_split():
    labels = torch.arange(10).repeat_interleave(7)
    assert labels[evenly_spread(70, 20)].bincount().tolist() == [2] * 10
    assert evenly_spread(70, 70).tolist() == evenly_spread(70, 1000).tolist() == list(range(70))


# --- binarisation ---


def is_binary(x: torch.Tensor) -> bool:
    return bool(((x == 0) | (x == 1)).all())


def test_none_leaves_grey():
    data = load_data("digits")
    index = torch.tensor([3, 1, 3])
    assert torch.equal(data.visit(index, "epoch", 0), data.split("train")[index])
    assert not is_binary(data.split("train"))


def test_threshold():
    grey, data = load_data("digits"), load_data("digits", binarize="threshold")
    for split in ("train", "valid", "test"):
        assert torch.equal(data.split(split), (grey.split(split) > 0.5).float())
    assert as_dataset(torch.rand(2, 2)).binarization == "none"
    assert "binarised at > 0.5" in data.protocol


def test_static_is_drawn_once_by_the_seed():
    data, again = (load_data("digits", binarize="static", seed=5) for _ in range(2))
    for split in ("train", "valid", "test"):
        assert is_binary(data.split(split))
        assert torch.equal(data.split(split), again.split(split))
    assert not torch.equal(data.train, load_data("digits", binarize="static", seed=6).train)
    index = torch.arange(9)
    assert torch.equal(data.visit(index, 1), data.visit(index, 2))
    assert "static binarisation with seed 5" in data.protocol


def test_splits_have_streams_of_their_own():
    grey = torch.full((50, 20), 0.5)
    data = Dataset("x", grey, grey, grey, binarization="static")
    x = torch.stack([data.split(split) for split in ("train", "valid", "test")]).flatten(1) * 2 - 1
    # Correlations of 1000 independent signs: above 5 / sqrt(1000) with probability 6e-7 each, over the choice of seed.
    assert (x @ x.T / 1000 - torch.eye(3)).abs().max() < 5 / 1000**0.5


def test_dynamic_draws_afresh_by_key():
    data, again = (load_data("digits", binarize="dynamic", seed=5) for _ in range(2))
    index = torch.randperm(1397, generator=torch.Generator().manual_seed(0))[:100]
    x = data.visit(index, 3, 17)
    assert is_binary(x) and x.dtype == torch.float32
    assert torch.equal(x, again.visit(index, 3, 17))
    for key in ((3, 18), (4, 17), (3,), (), ("3", 17)):
        assert not torch.equal(x, data.visit(index, *key))
    assert not torch.equal(x, load_data("digits", binarize="dynamic", seed=6).visit(index, 3, 17))


def test_dynamic_keeps_train_grey_and_fixes_the_rest():
    grey, data = load_data("digits"), load_data("digits", binarize="dynamic", seed=5)
    static = load_data("digits", binarize="static", seed=5)
    assert torch.equal(data.train, grey.train)
    for split in ("train", "valid", "test"):
        assert is_binary(data.split(split))
        assert torch.equal(data.split(split), data.split(split))
        assert torch.equal(data.split(split), static.split(split))
    assert "dynamic binarisation with seed 5" in data.protocol


def test_certain_pixels_never_flip():
    data = Dataset("x", torch.tensor([[0.0, 1.0]]).repeat(50_000, 1), binarization="dynamic")
    assert torch.equal(data.visit(torch.arange(50_000)), data.train)
    assert torch.equal(data.split("train"), data.train)


def test_frequencies_are_the_grey_values():
    """Under each grey value p, a count of ones in 200,000 draws.

    A two-sided binomial test at 1e-6 for each of 5 values and 2 ways to draw: a right program fails for at most 1 in
    100,000 choices of the seed.
    """
    p = torch.tensor([0.01, 0.2, 0.5, 0.75, 0.999])
    data = Dataset("x", p.repeat(200_000, 1), binarization="dynamic", seed=1)
    for x in (data.visit(torch.arange(200_000), "epoch", 0), data.split("train")):
        for ones, rate in zip(x.sum(0).tolist(), p.tolist(), strict=True):
            assert stats.binomtest(int(ones), 200_000, rate).pvalue > 1e-6


def test_draws_are_those_of_the_seeded_generator():
    data = Dataset("x", torch.rand(6, 3), binarization="dynamic", seed=7)
    with seeded(7, "visit", 2, 9):
        uniform = torch.rand(4, 3)
    index = torch.tensor([5, 0, 0, 2])
    assert torch.equal(data.visit(index, 2, 9), (uniform < data.train[index]).float())


def test_no_global_generator_is_touched():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    data = load_data("digits", binarize="dynamic")
    data.visit(torch.arange(5), 1)
    data.split("train")
    load_data("digits", binarize="static")
    load_data("linear_gaussian")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


# --- dequantisation ---


def stored_levels(tmp_path) -> dict[str, tuple[Dataset, np.ndarray, int]]:
    """Dequantised data, the whole numbers in them, and how many levels they have."""
    bytes_, few, wide = images(40, 3, 2), images(40, 3, 2, high=17), images(40, 3, 2).astype(np.int32) * 250
    np.save(tmp_path / "wide.npy", wide)
    np.save(tmp_path / "bytes.npy", bytes_)
    return {
        "bytes": (Dataset("x", torch.tensor(bytes_), divisor=255, dequantize=True), bytes_, 256),
        "bytes by 256": (Dataset("x", torch.tensor(bytes_), divisor=256, dequantize=True), bytes_, 256),
        "sixteenths": (Dataset("x", torch.tensor(few), divisor=16, dequantize=True), few, 17),
        "mapped": (load_data(tmp_path / "bytes.npy", dequantize=True), bytes_, 256),
        "wide": (load_data(tmp_path / "wide.npy", divide_by=2**16 - 1, dequantize=True), wide, 2**16),
        "bool": (Dataset("x", torch.tensor(few > 8), dequantize=True), few > 8, 2),
    }


@pytest.mark.parametrize("name", ["bytes", "bytes by 256", "sixteenths", "mapped", "wide", "bool"])
def test_dequantised_values_lie_in_the_cell_of_their_level(tmp_path, name):
    data, stored, levels = stored_levels(tmp_path)[name]
    assert data.levels == levels and isinstance(data.train, np.memmap) == (name in ("mapped", "wide"))
    index = torch.tensor([7, 0, 7, 39])
    for x, k in ((data.split("train"), stored), (data.visit(index, 0, 1), stored[index])):
        assert x.dtype == torch.float32 and x.min() >= 0 and x.max() < 1
        assert np.array_equal((x * levels).floor().numpy(), k)
        assert not torch.equal(x * levels, (x * levels).floor())


def test_the_highest_level_with_the_highest_noise_stays_below_one():
    """Single precision would round 255 + u up to 256 for one u in 130,000: 10 million draws of the highest level."""
    data = Dataset("x", torch.full((1000, 10_000), 255, dtype=torch.uint8), divisor=255, dequantize=True)
    assert all(x.max() < 1 and (x * 256).floor().min() == 255 for x in data.chunks("train", rows=100))


def test_noise_is_uniform_and_fresh_at_each_visit():
    """Kolmogorov-Smirnov over 200,000 draws, and their correlation between two visits: false alarms below 2e-6."""
    data = Dataset("x", torch.tensor(images(100, 2000)), divisor=255, dequantize=True, seed=3)
    index = torch.arange(100)
    first, second = ((data.visit(index, 0, step) * 256).frac().flatten() for step in (1, 2))
    assert torch.equal(data.visit(index, 0, 1), data.visit(index, 0, 1))
    assert stats.kstest(first.numpy(), stats.uniform.cdf).pvalue > 1e-6
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / 200_000**0.5
    other = dataclasses.replace(data, seed=4)
    assert not torch.equal(other.visit(index, 0, 1), data.visit(index, 0, 1))


def test_splits_are_dequantised_once_by_the_seed(monkeypatch):
    data, again = (load_data("digits", dequantize=True, seed=5) for _ in range(2))
    for split in ("train", "valid", "test"):
        x = data.split(split)
        assert torch.equal(x, data.split(split)) and torch.equal(x, again.split(split))
        assert torch.equal(torch.cat(list(data.chunks(split, rows=7))), x)
        assert not torch.equal(x, load_data("digits", dequantize=True, seed=6).split(split))
        assert getattr(data, split).dtype == torch.uint8
    monkeypatch.setattr(stored, "CHUNK", 64 * 10)
    assert torch.equal(again.split("train"), data.split("train"))
    noise = [(data.split(split)[:200] * 17).frac() for split in ("train", "valid", "test")]
    assert not torch.equal(noise[0], noise[1]) and not torch.equal(noise[1], noise[2])
    assert data.protocol == (
        "digits: divided by 16; dequantised to (k + u) / 17 with seed 5 (train drawn at each visit, the other splits "
        "once); train 1397, valid 200, test 200; shape 8x8"
    )


def test_moments_of_dequantised_data():
    """Of all levels and all noise: the mean over u on a fine grid, and its variance of 1/12 a level."""
    data = load_data("digits", dequantize=True)
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    for i, j in ((0, 0), (3, 4)):
        x = (data.train[:, i, j].double().unsqueeze(-1) + u) / 17
        assert data.mean()[i, j].item() == pytest.approx(x.mean().item(), rel=1e-6)
        assert data.std()[i, j].item() == pytest.approx(x.std(correction=0).item(), rel=1e-6)


def test_levels_that_data_have():
    grey, floats = torch.tensor(images(4, 2)), torch.rand(4, 2)
    assert Dataset("x", grey, divisor=255).levels == 256 and Dataset("x", grey > 9).levels == 2
    assert load_data("digits").levels == 17 and load_data("digits", binarize="dynamic").levels == 2
    assert Dataset("x", floats).levels is None and Dataset("x", grey, divisor=254.5).levels is None
    assert Dataset("x", grey, test=floats, divisor=1).levels is None
    assert Dataset("x", floats.round(), binarization="static").levels == 2


def test_what_has_no_levels_is_not_dequantised(tmp_path):
    floats, grey = torch.rand(4, 2), torch.tensor(images(4, 2))
    np.save(tmp_path / "x.npy", floats.numpy())
    for make in (lambda: Dataset("x", floats, dequantize=True), lambda: load_data(tmp_path / "x.npy", dequantize=True)):
        with refused(UsageError, "dequantize needs whole numbers", "got train", "float32 with divisor 1: give bytes"):
            make()
    with refused(UsageError, "dequantize needs whole numbers", "divisor 254.5"):
        Dataset("x", grey, divisor=254.5, dequantize=True)
    np.save(tmp_path / "x.npy", images(4, 2).astype(np.int64))
    with refused(UsageError, "a whole divisor below 2^16, got train int64 with divisor 70000"):
        load_data(tmp_path / "x.npy", divide_by=70_000, dequantize=True)
    with refused(DataError, "values outside [0, 1]", "dequantize needs k / 16: pass divide_by=the highest level"):
        Dataset("x", grey, divisor=16, dequantize=True)
    with refused(UsageError, "choose one of dequantize and dynamic binarisation"):
        load_data("digits", binarize="dynamic", dequantize=True)
    with refused(UsageError, "linear_gaussian has no levels"):
        load_data("linear_gaussian", dequantize=True)


def test_dequantised_data_can_be_widened_in_a_graph_and_hashed():
    data = load_data("digits", dequantize=True)
    batch = data.batch(torch.arange(5), 1)
    assert batch.dtype == torch.float32 and torch.equal(make_fx(lambda x: data.widen(x))(batch)(batch), batch)
    others = [
        load_data("digits"),
        load_data("digits", dequantize=True, seed=1),
        load_data("digits", binarize="dynamic"),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 4
    assert data.draws_each_visit and others[2].draws_each_visit and not others[0].draws_each_visit


@pytest.mark.cuda
def test_dequantised_draws_are_the_same_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    data = load_data("digits", dequantize=True)
    moved, index = data.to("cuda"), torch.arange(50)
    assert moved.split("test").device.type == "cuda" and torch.equal(moved.split("test").cpu(), data.split("test"))
    assert torch.equal(moved.visit(index, 1).cpu(), data.visit(index, 1))


def test_a_dequantised_training_resumes_to_the_bit(tmp_path, monkeypatch):
    """Stopped in the middle of an epoch and started again, it ends with the weights and rows of one that never was."""
    data = load_data("digits", dequantize=True)
    data = dataclasses.replace(data, train=data.train[:60], valid=data.valid[:20], test=None, labels={})

    def trained(run):
        with seeded(0, "weights"):
            vae = VAE((8, 8), 2, likelihood=ContinuousBernoulli)
        history = fit(vae, data, epochs=3, batch_size=25, run=tmp_path / run, save_every=0.0, progress=False)
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
        return vae.state_dict(), rows

    batch, calls = Dataset.batch, []

    def failing(*args):
        calls.append(args)
        if len(calls) == 8:
            raise InterruptedError
        return batch(*args)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(Dataset, "batch", failing)
        trained("broken")
    (weights, rows), (expected, expected_rows) = trained("broken"), trained("whole")
    assert all(torch.equal(value, expected[name]) for name, value in weights.items()) and rows == expected_rows


# --- compact and mapped data ---


BINARIZATIONS = ("none", "static", "dynamic", "threshold")


def assert_same(data: Dataset, expected: Dataset) -> None:
    """All that gives data out, to the bit."""
    assert data.protocol == expected.protocol
    for split in ("train", "valid", "test"):
        assert (getattr(data, split) is None) == (getattr(expected, split) is None)
        if getattr(data, split) is not None:
            x = expected.split(split)
            assert data.split(split).dtype == x.dtype
            assert torch.equal(data.split(split), x)
            assert torch.equal(torch.cat(list(data.chunks(split, rows=3))), x)
    index = torch.tensor([4, 0, 4, 9, 1])
    for key in ((), (0, 3), ("epoch", 1)):
        x = data.visit(index, *key)
        assert x.dtype == expected.visit(index, *key).dtype
        assert torch.equal(x, expected.visit(index, *key))
        assert torch.equal(x, data.widen(data.batch(index, *key)))
    torch.testing.assert_close(data.mean(), expected.mean())
    torch.testing.assert_close(data.std(), expected.std())


def in_floats(arrays: dict[str, np.ndarray], divisor: float, binarize, preparation: str, name: str = "x") -> Dataset:
    """The same data as they would be without any care for memory."""
    splits = {split: torch.tensor(x.astype(np.float32)) / divisor for split, x in arrays.items()}
    return Dataset(name, **splits, binarization=binarize, seed=3, preparation=preparation)


@pytest.mark.parametrize("binarize", BINARIZATIONS)
@pytest.mark.parametrize(
    ("dtype", "high", "divide_by", "divisor", "note"),
    [
        (np.bool_, 2, None, 1, "0/1 values as given"),
        (np.uint8, 2, None, 1, "0/1 values as given"),
        (np.uint8, 256, None, 255, "divided by 255"),
        (np.uint8, 17, 16, 16, "divided by 16"),
        (np.uint8, 256, 300.7, 300.7, "divided by 300.7"),
    ],
)
def test_bytes_mean_the_same_as_floats(tmp_path, binarize, dtype, high, divide_by, divisor, note):
    arrays = {split: images(12, 3, 2, seed=i, high=high) for i, split in enumerate(("train", "valid", "test"))}
    np.savez(tmp_path / "x.npz", **{split: x.astype(dtype) for split, x in arrays.items()})
    data = load_data(tmp_path / "x.npz", binarize=binarize, divide_by=divide_by, seed=3)
    assert_same(data, in_floats(arrays, divisor, binarize, note))
    for split in ("train", "valid", "test"):
        assert getattr(data, split).element_size() == 1
    assert data.train.dtype == data.batch(torch.arange(3), 1).dtype == torch.uint8
    assert_same(dataclasses.replace(data, name="y"), in_floats(arrays, divisor, binarize, note, name="y"))
    assert_same(
        dataclasses.replace(load_data(tmp_path / "x.npz", divide_by=divide_by, seed=3), binarization=binarize), data
    )


@pytest.mark.parametrize("binarize", BINARIZATIONS)
@pytest.mark.parametrize("dtype", ["u1", "?", "i4", "f2", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("divide_by", [None, 3.7])
@pytest.mark.parametrize("order", ["C", "F"])
def test_mapped_files_mean_the_same_as_floats(tmp_path, binarize, dtype, divide_by, order):
    whole = np.random.default_rng(0).random((15, 3, 2))
    array = np.array(whole if "f" in dtype else whole.round(), dtype, order=order)
    np.save(tmp_path / "x.npy", array)
    data = load_data(tmp_path / "x.npy", binarize=binarize, divide_by=divide_by, valid_size=4, seed=3)
    values = "divided by 3.7" if divide_by else "values as given" if "f" in dtype else "0/1 values as given"
    arrays = {"train": array[:-4], "valid": array[-4:]}
    expected = in_floats(arrays, divide_by or 1, binarize, f"{values}, last 4 of train held out as valid")
    assert_same(data, expected)
    assert_same(dataclasses.replace(data), expected)
    assert isinstance(data.train, np.memmap) == (binarize in ("none", "dynamic"))
    assert isinstance(data.valid, np.memmap) == (binarize == "none")


def test_a_0_1_float_source_stays_float():
    x = torch.rand(5, 3).round()
    for binarize in BINARIZATIONS:
        data = Dataset("x", x.double(), valid=x.double(), binarization=binarize)
        assert data.train.dtype == data.valid.dtype == data.visit(torch.arange(2)).dtype == torch.float64
    assert data.batch(torch.arange(2)).dtype == torch.float64
    assert Dataset("x", x, binarization="dynamic").batch(torch.arange(2)).dtype == torch.uint8


def test_bool_tensors_are_0_and_1():
    x = torch.rand(5, 3) > 0.5
    assert as_dataset(x).train.dtype == torch.uint8
    for data in (as_dataset(x), Dataset("x", x), Dataset("x", x, divisor=255), Dataset("x", x, binarization="static")):
        assert torch.equal(data.split("train"), x.float()) and torch.equal(data.visit(torch.arange(5)), x.float())


def test_a_tensor_of_bytes_is_not_copied_and_an_array_is():
    x = torch.tensor(images(5, 3))
    assert as_dataset(x).train.data_ptr() == x.data_ptr()
    array = images(5, 3)
    assert as_dataset(array).train.data_ptr() != array.ctypes.data
    assert torch.equal(as_dataset(array[::-1]).split("train"), torch.tensor(array).flip(0) / 255)


def test_as_dataset_takes_a_mapped_array_as_it_is(tmp_path):
    np.save(tmp_path / "x.npy", images(5, 3))
    data = as_dataset(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert isinstance(data.train, np.memmap)
    assert torch.equal(data.split("train"), torch.tensor(images(5, 3)) / 255)


@pytest.mark.parametrize("binarize", BINARIZATIONS)
@pytest.mark.parametrize("source", ["u1", "f4", "tensor"])
def test_widen_can_be_traced(tmp_path, binarize, source):
    np.save(tmp_path / "x.npy", images(9, 4) if source == "u1" else np.random.default_rng(0).random((9, 4), np.float32))
    data = load_data(tmp_path / "x.npy", binarize=binarize) if source != "tensor" else load_data(binarize=binarize)
    batch, other = data.batch(torch.arange(5), 1), data.batch(torch.arange(4, 9), 2)
    traced = make_fx(lambda x: data.widen(x))(batch)  # make_fx takes no bound method
    assert torch.equal(traced(batch), data.widen(batch))
    assert torch.equal(traced(other), data.visit(torch.arange(4, 9), 2))
    assert not list(traced.buffers()) and batch.is_floating_point() == (source == "f4" and binarize == "none")


def test_chunks_are_the_split_in_parts():
    data = load_data("digits", binarize="dynamic", seed=5)
    for split in ("train", "test"):
        for rows in (1, 7, 200, 5000, None):
            parts = list(data.chunks(split, rows))
            assert all(len(x) == (rows or 10_000) for x in parts[:-1])
            assert torch.equal(torch.cat(parts), data.split(split))
    with refused(UsageError, "expected at least 1 row in a chunk, got 0"):
        data.chunks("train", 0)
    with refused(DataError, "array has no split 'valid'"):
        as_dataset(torch.rand(5, 3)).chunks("valid")
    assert [len(x) for x in as_dataset(torch.zeros(20, 2**20, dtype=torch.uint8)).chunks("train")] == [8, 8, 4]


def test_results_do_not_depend_on_the_size_of_chunks(monkeypatch):
    large = {name: load_data("digits", binarize=name) for name in BINARIZATIONS}
    monkeypatch.setattr(stored, "CHUNK", 64 * 10)
    for name, data in large.items():
        assert_same(load_data("digits", binarize=name), data)


def test_moments_of_mapped_data_far_from_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", 30)
    x = (np.random.default_rng(0).normal(size=(1000, 3)) * 1e-2 + [1e3, -1e3, 0]).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    data = load_data(tmp_path / "x.npy", divide_by=2)
    np.testing.assert_allclose(data.mean(), x.astype(float).mean(0) / 2, rtol=1e-6)
    np.testing.assert_allclose(data.std(), x.astype(float).std(0) / 2, rtol=1e-5)
    assert as_dataset(torch.full((7, 2), 3, dtype=torch.uint8)).std().tolist() == [0, 0]


def test_offences_are_found_in_any_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "CHUNK", 30)
    x = np.random.default_rng(0).random((50, 3))
    x[17, 2] = x[40, 0] = 1.5
    np.save(tmp_path / "x.npy", x)
    assert load_data(tmp_path / "x.npy", divide_by=1.5, binarize="dynamic").train.dtype == np.float64
    with refused(DataError, "train has 2 values outside [0, 1], the first is 1.5 at (17, 2), where dynamic"):
        load_data(tmp_path / "x.npy", binarize="dynamic")
    x[30, 1] = np.nan
    x[35, 1] = 1e300
    np.save(tmp_path / "x.npy", x)
    with refused(DataError, "train has 2 NaN or infinite values, the first at (30, 1): drop"):
        load_data(tmp_path / "x.npy", binarize="dynamic")
    with refused(DataError, "valid has 2 NaN or infinite values, the first at (2, 1): drop"):
        load_data(tmp_path / "x.npy", valid_size=22, divide_by=1e20)


def test_mapped_data_are_not_binarised_into_memory_where_they_are_large(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", images(10, 3, high=2))
    monkeypatch.setattr(preparation, "_COPIED", 29)
    for name in ("static", "threshold"):
        with refused(
            DataError, f"train is a mapped file of 30 values, which {name} binarisation", "at most 29", "'dynamic'"
        ):
            load_data(tmp_path / "x.npy", binarize=name)
    assert len(load_data(tmp_path / "x.npy", binarize="dynamic", valid_size=9).train) == 1
    monkeypatch.setattr(preparation, "_COPIED", 26)
    with refused(DataError, "valid is a mapped file of 27 values", "hold out fewer by valid_size"):
        load_data(tmp_path / "x.npy", binarize="dynamic", valid_size=9)
    assert len(load_data("digits", binarize="static").train) == 1397  # in memory already


def test_fingerprints(tmp_path):
    x = images(10, 3)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x / 255)
    mapped, data = load_data(tmp_path / "x.npy"), as_dataset(x)
    assert re.fullmatch("[0-9a-f]{64}", data.fingerprint())
    assert mapped.fingerprint() == data.fingerprint() == data.to("cpu").fingerprint()
    assert load_data(tmp_path / "y.npy").fingerprint() == as_dataset(x / 255).fingerprint()
    changed = x.copy()
    changed[9, 2] ^= 1
    others = [
        as_dataset(changed),
        as_dataset(x.reshape(5, 6)),
        load_data(tmp_path / "x.npy", divide_by=256),
        *(load_data(tmp_path / "x.npy", binarize="dynamic", seed=seed) for seed in (0, 1)),
        load_data(tmp_path / "x.npy", binarize="static"),
        load_data(tmp_path / "x.npy", valid_size=1),
        as_dataset(torch.tensor(x).float()),
        as_dataset(torch.tensor(x).bfloat16()),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 1 + len(others)


def test_mapped_data_stay_on_the_cpu(tmp_path):
    np.save(tmp_path / "x.npy", images(10, 3))
    data = load_data(tmp_path / "x.npy", binarize="dynamic", valid_size=3).to("meta")
    assert isinstance(data.train, np.memmap) and data.valid.device.type == "meta"
    assert data.visit(torch.arange(3), 1).device.type == data.mean().device.type == "cpu"


def test_moments_are_those_of_the_device():
    data = load_data("digits")
    assert data.mean().device.type == "cpu" and data.to("meta").mean().device.type == "meta"


def test_a_divisor_that_makes_no_sense():
    x = torch.tensor(images(4, 2))
    for divisor in (0.0, -1.0, 1e60, float("nan"), float("inf")):
        with refused(UsageError, "divisor above 0", str(divisor)):
            Dataset("x", x, divisor=divisor)
    with refused(UsageError, "a divisor of 4 is for uint8 and mapped files, but test is torch.float32: divide it"):
        Dataset("x", x, test=x.float(), divisor=4)
    assert Dataset("x", x, divisor=4).split("train").tolist() == (x / 4).tolist()


def test_what_a_dataset_does_not_hold(tmp_path):
    with refused(UsageError, "train is a ndarray, expected a Tensor or a numpy.memmap: use as_dataset"):
        Dataset("x", np.zeros((3, 2)))
    np.save(tmp_path / "x.npy", np.ones((3, 2), complex))
    with refused(DataError, "train is complex (complex128) of shape (3, 2), expected real numbers"):
        Dataset("x", np.load(tmp_path / "x.npy", mmap_mode="r"))


def test_a_mapped_file_is_read_only(tmp_path):
    np.save(tmp_path / "x.npy", images(10, 3))
    data = load_data(tmp_path / "x.npy")
    with pytest.raises(ValueError, match="read-only"):
        data.train[0, 0] = 1
    data.split("train").zero_()
    data.batch(torch.arange(10)).zero_()
    assert np.array_equal(np.load(tmp_path / "x.npy"), images(10, 3))


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_training_on_a_mapped_file_is_training_on_the_tensor(tmp_path, binarize, dtype):
    x = images(60, 4) if dtype == np.uint8 else np.random.default_rng(0).random((60, 4), dtype)
    np.save(tmp_path / "x.npy", x)
    mapped = load_data(tmp_path / "x.npy", binarize=binarize, valid_size=10)
    whole = torch.tensor(x) / 255 if dtype == np.uint8 else torch.tensor(x)
    weights = []
    for data in (mapped, Dataset("x", whole[:-10], whole[-10:], binarization=binarize)):
        with seeded(0, "weights"):
            vae = VAE((4,), 2, likelihood=Normal if binarize == "none" else Bernoulli)
        history = fit(vae, data, epochs=2, batch_size=20, progress=False)
        weights.append({**vae.state_dict(), "valid": torch.tensor(history.column("valid_elbo"))})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


IN_LITTLE_MEMORY = """
import resource, sys
import torch
from pyro_vae.data import load_data

def used():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
    return int(line.split()[1]) * 1024

def work(path):
    data = load_data(path, binarize="dynamic", valid_size=10)
    x = data.visit(torch.tensor([3, len(data.train) - 1, 77]), 0, 1)
    rows = sum(len(chunk) for chunk in data.chunks("train", rows=500))
    assert rows == len(data.train) and len(x) == 3 and len(data.split("valid")) == 10
    assert data.mean().shape == data.std().shape == data.event_shape and len(data.fingerprint()) == 64
    return data

work(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (used() + 96 * 2**20,) * 2)
data = work(sys.argv[2])
try:
    data.split("train")
except (RuntimeError, MemoryError):
    print("the limit holds")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts memory without mapped files on Linux alone")
@pytest.mark.parametrize(
    ("dtype", "size"), [("u1", 120 * 2**20), pytest.param("f4", 400 * 2**20, marks=pytest.mark.slow)]
)
def test_data_larger_than_memory(tmp_path, dtype, size):
    """A file (with holes, so the disk is spared) whose floats take 400 MB and more, in 96 MB beyond the imports."""
    for name, rows in (("small", 100), ("large", size // 4096 // np.dtype(dtype).itemsize)):
        np.lib.format.open_memmap(tmp_path / f"{name}.npy", "w+", dtype, (rows, 64, 64)).flush()
    files = [str(tmp_path / "small.npy"), str(tmp_path / "large.npy")]
    command = [sys.executable, "-c", IN_LITTLE_MEMORY, *files]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert (done.stdout, done.stderr, done.returncode) == ("the limit holds\n", "", 0)


# --- LinearGaussian ---


@pytest.mark.parametrize(("dim", "latent", "scale"), [(16, 2, 0.5), (1, 1, 2.0), (5, 8, 0.01), (30, 3, 1e-3)])
def test_evidence_against_scipy(dim, latent, scale):
    process = LinearGaussian.random(dim, latent, scale, seed=1)
    weight, bias = process.weight.double().numpy(), process.bias.double().numpy()
    x = process.sample(12, seed=2).reshape(3, 4, dim)
    peer = stats.multivariate_normal(bias, weight @ weight.T + scale**2 * np.eye(dim))
    log_prob = process.log_prob(x)
    assert (log_prob.shape, log_prob.dtype) == ((3, 4), torch.float64)
    np.testing.assert_allclose(log_prob, peer.logpdf(x.double().numpy()).reshape(3, 4), rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize(("dim", "latent", "scale"), [(16, 2, 0.5), (1, 1, 2.0), (5, 8, 0.1)])
def test_posterior_by_bayes_rule(dim, latent, scale):
    """log p(x) = log p(x | z) + log p(z) - log p(z | x), at any z."""
    process = LinearGaussian.random(dim, latent, scale, seed=1)
    x = process.sample(6, seed=2).reshape(2, 3, dim)
    mean, covariance = process.posterior(x)
    assert (mean.shape, covariance.shape, mean.dtype) == ((2, 3, latent), (latent, latent), torch.float64)
    generator = torch.Generator().manual_seed(0)
    z = mean + 0.3 * torch.randn(mean.shape, dtype=torch.float64, generator=generator)
    normal = torch.distributions.Normal
    log_x = normal(z @ process.weight.double().T + process.bias, scale).log_prob(x.double()).sum(-1)
    log_z = normal(0.0, 1.0).log_prob(z).sum(-1)
    log_q = torch.distributions.MultivariateNormal(mean, covariance).log_prob(z)
    torch.testing.assert_close(log_x + log_z - log_q, process.log_prob(x), rtol=1e-8, atol=1e-8)


def test_samples_follow_the_process():
    """(x - b)' S^-1 (x - b) is chi-squared with D degrees of freedom.

    A Kolmogorov-Smirnov test of 20,000 samples at 1e-6: a right program fails for 1 in a million choices of the seed.
    """
    process = LinearGaussian.random(dim=6, latent=2, scale=0.5, seed=1)
    x = process.sample(20_000, seed=3)
    weight = process.weight.double()
    _, log_det = torch.linalg.slogdet(weight @ weight.T + 0.25 * torch.eye(6))
    distance = -2 * process.log_prob(x) - log_det - 6 * np.log(2 * np.pi)
    assert stats.kstest(distance.numpy(), stats.chi2(6).cdf).pvalue > 1e-6


def test_samples_are_a_function_of_the_seed():
    process = LinearGaussian.random(seed=1)
    assert process.sample(4, seed=0).dtype == process.weight.dtype == torch.float32
    assert torch.equal(process.sample(4, seed=0), process.sample(4, seed=0))
    assert not torch.equal(process.sample(4, seed=0), process.sample(4, seed=1))
    assert not torch.equal(process.weight, LinearGaussian.random(seed=2).weight)


def test_processes_that_make_no_sense():
    with refused(UsageError, "weight [D, L] and a bias [D], got weight (3, 2) and bias (2,)"):
        LinearGaussian(torch.zeros(3, 2), torch.zeros(2), 1.0)
    for scale in (0.0, -1.0, float("nan")):
        with refused(UsageError, "scale above 0"):
            LinearGaussian(torch.zeros(3, 2), torch.zeros(3), scale)


# --- real data ---


def test_real_static_mnist():
    data = load_data(real("static_mnist.npz"))
    assert is_binary(data.train)
    expected = "static_mnist: 0/1 values as given; not binarised; train 50000, valid 10000, test 10000; shape 28x28"
    assert data.protocol == expected
    assert set(data.labels) == {"test"}


def test_real_mnist_under_the_protocol_of_iwae():
    data = load_data(real("mnist.npz"), binarize="dynamic", valid_size=10_000)
    assert "train 50000, valid 10000, test 10000" in data.protocol
    test, valid = data.split("test"), data.split("valid")
    assert is_binary(test) and is_binary(valid)
    x = data.visit(torch.arange(1000), 0)
    # The share of ones in 784,000 independent draws against its expectation; variance at most 1/4 each: 5 sigma, 6e-7.
    grey = data.train[:1000] / 255
    assert abs(float(x.mean() - grey.mean())) < 5 * 0.5 / 784_000**0.5


def test_real_frey_faces_are_divided_as_asked():
    data = load_data(real("frey_faces.npz"), divide_by=256)
    assert "divided by 256" in data.protocol
    assert data.event_shape == (28, 20)
    assert float(data.split("train").max()) == 236 / 256
