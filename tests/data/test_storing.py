"""`store_data`: one pass into files that are mapped; whole or not at all; used again where the data are the same."""

import errno
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from pyro_vae import load_data
from pyro_vae.data import Dataset, StoragePlan, as_dataset, places, storage, storage_plan, store_data
from pyro_vae.data.storing import folders, stores
from pyro_vae.errors import DataError, FileError, UsageError

X = np.random.default_rng(0).random((20, 3, 2), np.float32)
Y = np.arange(20) % 4
GIB = 2**30


def refused(error, *parts):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


def loader(x=X, y=Y, **options):
    return DataLoader(TensorDataset(torch.tensor(x), torch.tensor(y)), batch_size=6, **options)


class Watched(TorchDataset):
    """Counts how often its data are read."""

    def __init__(self, x=X, size=None):
        self.x, self.size, self.read = x, len(x) if size is None else size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.read += 1
        return self.x[index % len(self.x)], index % 4


def disk(monkeypatch, free):
    usage = namedtuple("usage", "total used free")(2**50, 0, free)
    monkeypatch.setattr(places.shutil, "disk_usage", lambda path: usage)


def everything_in(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- what is stored


def test_the_folder_is_read_as_the_data(tmp_path):
    path = store_data({"train": loader(), "test": loader(X[:5], Y[:5])}, tmp_path / "cells.v2", progress=False)
    assert path == tmp_path / "cells.v2"
    names = ["stored.json", "test.npy", "test_labels.npy", "train.npy", "train_labels.npy"]
    assert everything_in(path) == names and everything_in(tmp_path) == ["cells.v2"]
    assert np.array_equal(np.load(path / "train.npy"), X) and np.load(path / "train.npy").dtype == np.float32
    data = load_data(path, valid_size=4)
    assert isinstance(data.train, np.memmap) and torch.equal(data.split("train"), torch.tensor(X[:16]))
    assert torch.equal(data.split("test"), torch.tensor(X[:5]))
    assert data.labels["train"].tolist() == Y[:16].tolist() and data.labels["valid"].tolist() == Y[16:].tolist()
    values = "values as given, last 4 of train held out as valid"
    assert data.protocol == f"cells.v2: {values}; not binarised; train 16, valid 4, test 5; shape 3x2"
    assert data.origin["data"] == str(path)


def test_bytes_are_kept_as_bytes(tmp_path):
    x = np.random.default_rng(1).integers(0, 256, (30, 4), np.uint8)
    data = load_data(store_data(x, tmp_path / "x", progress=False), binarize="dynamic")
    assert data.train.dtype == np.uint8 and np.array_equal(data.train, x) and data.divisor == 255
    array = as_dataset(x)
    assert load_data(tmp_path / "x").fingerprint() == array.fingerprint()


def test_the_fingerprint_is_that_of_the_values(tmp_path):
    def fingerprint(name, source, **options):
        store_data(source, tmp_path / name, progress=False, **options)
        return json.loads((tmp_path / name / "stored.json").read_text())["fingerprint"]

    first = fingerprint("a", loader())
    assert first == fingerprint("b", TensorDataset(torch.tensor(X), torch.tensor(Y)), key="other") and len(first) == 64
    others = [
        loader(X + 1),
        loader(X[:19], Y[:19]),
        loader(X.astype(np.float64)),
        loader(y=Y + 1),
        loader(X.reshape(20, 6)),
    ]
    assert len({first, *(fingerprint(f"o{i}", other) for i, other in enumerate(others))}) == 6


def test_gaps_are_stored_as_a_mask(tmp_path):
    gaps = np.where(X < 0.2, np.float32("nan"), X)
    path = store_data(gaps, tmp_path / "x", missing="nan", progress=False)
    assert everything_in(path) == ["stored.json", "train.npy", "train_mask.npy"]
    data = load_data(path, missing="mask", valid_size=5)
    assert isinstance(data.train, np.memmap) and torch.equal(data.observed("train"), torch.tensor(X[:15] >= 0.2))
    expected = as_dataset(gaps[:15], missing="nan")
    torch.testing.assert_close(data.split("train"), expected.split("train"), equal_nan=True, rtol=0, atol=0)
    assert torch.equal(data.mean(), expected.mean()) and torch.equal(data.std(), expected.std())
    index = torch.tensor([3, 1, 14])
    assert torch.equal(data.batch(index), expected.batch(index))
    with refused(UsageError, "has train_mask.npy, which says what was observed: pass missing='mask'"):
        load_data(path)
    np.save(path / "train.npy", np.where(X < 0.2, np.float32(7), X))  # by a user: it is filled, in memory
    filled = load_data(path, missing="mask", valid_size=5)
    torch.testing.assert_close(filled.split("train"), expected.split("train"), equal_nan=True, rtol=0, atol=0)
    with refused(UsageError, "train is a mapped file, in which nothing can be filled in: store it with 0"):
        mapped = np.load(path / "train.npy", mmap_mode="r")
        Dataset("x", mapped, inputs={"mask": {"train": torch.tensor(X >= 0.2)}})


def test_a_mask_of_a_stored_folder_may_be_written_to_without_an_effect_on_the_file(tmp_path):
    path = store_data(X, tmp_path / "x", missing=0.5, progress=False)
    load_data(path, missing="mask").inputs["mask"]["train"].zero_()
    assert np.load(path / "train_mask.npy").all()


def test_a_context_is_stored(tmp_path):
    path = store_data(TensorDataset(torch.tensor(X), torch.tensor(Y)), tmp_path / "x", fields={"x": 0, "context": 1})
    data = load_data(path, context="array", valid_size=2)
    assert data.inputs["c"]["train"].tolist() == [[float(y)] for y in Y[:18]]


def test_a_folder_made_by_hand(tmp_path, caplog):
    for name, array in {"train": X, "valid": X[:3], "train_labels": Y, "labels": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    data = load_data(tmp_path)
    assert isinstance(data.valid, np.memmap) and data.labels["train"].tolist() == Y.tolist()
    assert "the array 'labels' is not read" in caplog.text and "train_labels" in caplog.text


# ---- used again


def test_the_same_key_needs_no_pass(tmp_path, capsys):
    source = Watched()
    path = store_data(source, tmp_path / "x", key="June")
    assert source.read == 20 and "storing " in capsys.readouterr().err
    before = {name: (path / name).stat().st_mtime_ns for name in everything_in(path)}
    assert store_data(Watched(), tmp_path / "x", key="June") == path
    again = Watched()
    store_data(again, tmp_path / "x", key="June")
    assert again.read == 0 and "is there already, and is used again" in capsys.readouterr().err
    assert before == {name: (path / name).stat().st_mtime_ns for name in everything_in(path)}
    with refused(DataError, "has data of the key 'June', not 'July': give another folder"):
        store_data(again, tmp_path / "x", key="July")
    with refused(DataError, "has the same key, but 20 data of train, and the Watched has 25"):
        store_data(Watched(size=25), tmp_path / "x", key="June")


def test_without_a_key_the_data_are_compared(tmp_path, capsys):
    path = store_data(loader(), tmp_path / "x")
    before = (path / "train.npy").stat().st_mtime_ns
    store_data(TensorDataset(torch.tensor(X), torch.tensor(Y)), tmp_path / "x")
    assert "the data are compared with it" in capsys.readouterr().err
    assert (path / "train.npy").stat().st_mtime_ns == before
    changed = X.copy()
    changed[13, 0, 0] += 1
    for other, parts in (
        (loader(changed), "train data[12:18] differ"),
        (loader(y=Y + 1), "train data[0:6] differ"),
        (loader(X[:18], Y[:18]), "18 data of train in place of 20 differ"),
        (loader(np.concatenate([X, X]), np.concatenate([Y, Y])), "train data[18:24] differ"),
        (loader(X.astype(np.float64)), "train data[0:6] differ"),
    ):
        with refused(DataError, f"{path} has other data: {parts}", "Give another folder", "key='a name'"):
            store_data(other, tmp_path / "x", progress=False)
    assert np.array_equal(np.load(path / "train.npy"), X)


def test_data_that_change_from_pass_to_pass(tmp_path):
    generator = torch.Generator().manual_seed(0)
    shuffled = loader(shuffle=True, generator=generator)
    store_data(shuffled, tmp_path / "x", progress=False)
    with refused(DataError, "has other data", "are stored once, with a name: store_data(..., key='a name')"):
        store_data(shuffled, tmp_path / "x", progress=False)
    path = store_data(shuffled, tmp_path / "y", key="first", progress=False)
    kept = np.load(path / "train.npy")
    store_data(shuffled, tmp_path / "y", key="first", progress=False)
    assert np.array_equal(np.load(path / "train.npy"), kept)


@pytest.mark.parametrize("name", ["train.npy", "stored.json"])
@pytest.mark.parametrize("how", ["gone", "cut"])
def test_a_folder_that_was_damaged(tmp_path, name, how):
    path = store_data(loader(), tmp_path / "x", progress=False)
    (path / name).unlink() if how == "gone" else (path / name).write_bytes((path / name).read_bytes()[:150])
    with pytest.raises(DataError, match=re.escape(str(path))):
        store_data(loader(), tmp_path / "x", progress=False)
    if (name, how) != ("stored.json", "gone"):  # without it the folder is one that was made by hand
        with pytest.raises(DataError, match=r"damaged|cut off"):
            load_data(path)


def test_other_things_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    with refused(DataError, "file is a file, not written by store_data"):
        store_data(X, tmp_path / "file")
    with refused(DataError, "full is a folder with other files, not written by store_data"):
        store_data(X, tmp_path / "full")
    assert everything_in(tmp_path / "full") == ["letter.txt"]
    assert len(load_data(store_data(X, tmp_path / "empty", progress=False)).train) == 20
    with refused(FileError, "can't write", "file"):
        store_data(X, tmp_path / "file" / "inside")
    for odd in ("", 5, None, "/", "x\0y"):
        with refused(UsageError, "folder: expected the path of a folder"):
            store_data(X, odd)
    with refused(UsageError, "key: expected a text, or None, got 5"):
        store_data(X, tmp_path / "x", key=5)
    with refused(UsageError, "load_data reads files and folders"):
        store_data(str(tmp_path / "x.npy"), tmp_path / "x")


# ---- planned


def test_the_plan_names_all_files_and_their_sizes(tmp_path, monkeypatch):
    disk(monkeypatch, 100 * GIB)
    source = {"train": loader(), "test": Watched(size=10**9)}
    plan = storage_plan(source, tmp_path / "x", missing="nan")
    assert isinstance(plan, StoragePlan) and plan.exact and plan.fits
    assert [(a.name, a.shape, a.size) for a in plan.arrays] == [
        ("train", (20, 3, 2), 480),
        ("train_labels", (20,), 160),
        ("train_mask", (20, 3, 2), 120),
        ("test", (10**9, 3, 2), 24 * 10**9),
        ("test_labels", (10**9,), 8 * 10**9),
        ("test_mask", (10**9, 3, 2), 6 * 10**9),
    ]
    assert str(plan).splitlines()[0] == (
        f"{tmp_path}/x: 35.4 GiB for 20 data of train, 1,000,000,000 data of test, and 100 GiB are free"
    )
    assert source["test"].read <= 256 and not list(tmp_path.iterdir())


def test_a_plan_of_batches_is_about(tmp_path):
    class Batches:
        def __len__(self):
            return 4

        def __iter__(self):
            return iter([X[:6], X[6:12], X[12:18], X[18:]])

    plan = storage_plan(Batches(), tmp_path)
    assert not plan.exact and plan.arrays[0].shape == (24, 3, 2)
    assert str(plan).startswith(f"{tmp_path}: about 576 bytes for about 24 data of train")
    with refused(UsageError, "train is an iterator, which can be passed over once"):
        storage_plan(iter(Batches()), num_data=20)


def test_a_pass_of_20_gb_is_planned_and_a_claim_of_1e9_rows_refused_before_it(tmp_path, monkeypatch):
    """A `DataLoader` that would give 20 GB: the plan says so from its first batch, and a small disk refuses it."""
    images = Watched(np.zeros((1, 64, 64), np.uint8), size=20 * 10**9 // 64**2)
    plan = storage_plan(DataLoader(images, batch_size=100), tmp_path / "x")
    assert plan.size == 4_882_812 * (64**2 + 8) and images.read == 100
    assert "18.7 GiB for 4,882,812 data of train" in str(plan)
    disk(monkeypatch, 18 * GIB)
    with refused(
        FileError, "can't write", "18.7 GiB are needed for 4,882,812 data of train, and 18.0 GiB are free"
    ) as found:
        store_data(DataLoader(images, batch_size=100), tmp_path / "x")
    assert found.value.errno == errno.ENOSPC and images.read == 200 and not list(tmp_path.iterdir())
    many = Watched(np.zeros((1, 8), np.float32), size=10**9)
    with refused(FileError, "37.3 GiB are needed for 1,000,000,000 data of train", "or fewer data by num_data=N"):
        store_data(many, tmp_path / "x")
    with refused(FileError, "37.3 GiB are needed", "load_data(store_data(source, folder))"):
        as_dataset(many)


def test_the_disk_is_checked_by_the_first_folder_that_is_there(tmp_path):
    free = places.free_space(tmp_path / "a" / "b" / "c")
    assert abs(free - shutil.disk_usage(tmp_path).free) < 2**30


# ---- whole or not at all


class Full:
    """A file on a disk that becomes full after some writes."""

    def __init__(self, file, left):
        self.file, self.left = file, left

    def write(self, data):
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_a_disk_that_becomes_full(tmp_path, monkeypatch):
    from pyro_vae.data.storing import arrays

    made = arrays.ArrayFile.__init__

    def full(self, *args):
        made(self, *args)
        self.file = Full(self.file, 2)

    monkeypatch.setattr(arrays.ArrayFile, "__init__", full)
    with refused(FileError, f"can't write {tmp_path}/x: No space left on device"):
        store_data(loader(), tmp_path / "x", progress=False)
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    assert len(load_data(store_data(loader(), tmp_path / "x", progress=False)).train) == 20


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_leaves_nothing(tmp_path, error):
    class Interrupted(Watched):
        def __getitem__(self, index):
            if index == 10:
                raise error
            return super().__getitem__(index)

    with pytest.raises(error):
        store_data(DataLoader(Interrupted(), batch_size=4), tmp_path / "x", progress=False)
    assert not list(tmp_path.iterdir())


class Waiting(Watched):
    """Gives its last datum only once a file is there."""

    def __init__(self, file, size):
        super().__init__(size=size)
        self.file = file

    def __getitem__(self, index):
        if index == self.size - 1:
            _wait(self.file.exists)
        return super().__getitem__(index)


def _store(path, file, size=600):
    store_data(Waiting(file, size), path, key="a", progress=False)


def _wait(condition):
    for _ in range(30_000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError


def _started(tmp_path):
    """A process that stores data, and has written some."""
    process = multiprocessing.get_context("fork").Process(target=_store, args=(tmp_path / "x", tmp_path / "go"))
    process.start()
    _wait(lambda: any(path.suffix == ".tmp" for path in tmp_path.iterdir()))
    return process


def test_what_a_killed_process_left_is_deleted(tmp_path):
    process = _started(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "x").exists() and any(path.suffix == ".tmp" for path in tmp_path.iterdir())
    store_data(loader(), tmp_path / "x", progress=False)
    assert everything_in(tmp_path) == ["x"]


def test_two_processes_store_the_same_once(tmp_path, monkeypatch):
    said = []

    def remark(text):
        said.append(text)
        (tmp_path / "go").touch()

    monkeypatch.setattr(folders, "remark", remark)
    process, mine = _started(tmp_path), Watched(size=600)
    store_data(mine, tmp_path / "x", key="a", progress=False)
    process.join()
    assert process.exitcode == 0 and mine.read == 0 and everything_in(tmp_path) == ["go", "x"]
    assert said == [f"waiting for another process that stores data in {tmp_path}/x"]


# ---- larger data


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Everything is large: nothing is kept in memory."""
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "own"))
    monkeypatch.setattr(stores, "IN_MEMORY", 100)
    monkeypatch.setattr(storage, "LARGE", 10)
    return tmp_path / "own"


def test_large_data_are_mapped_from_a_file_without_a_name(large, capsys):
    data = as_dataset(loader())
    assert isinstance(data.train, np.memmap) and not list((large / "scratch").iterdir())
    assert torch.equal(data.split("train"), torch.tensor(X)) and data.labels["train"].tolist() == Y.tolist()
    text = capsys.readouterr().err
    assert "640 bytes for 20 data of train" in text and "a file that is deleted at the end of this process" in text
    as_dataset(loader(), progress=False)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("options", [{}, {"binarize": "dynamic"}, {"dequantize": True}, {"binarize": "static"}])
def test_a_large_split_as_a_whole_lies_on_the_disk(large, tmp_path, monkeypatch, options):
    x = np.random.default_rng(1).integers(0, 256, (30, 4), np.uint8)
    np.save(tmp_path / "x.npy", x)
    found = {split: load_data(tmp_path / "x.npy", valid_size=9, **options).split(split) for split in ("train", "valid")}
    monkeypatch.setattr(storage, "LARGE", 2**28)
    expected = load_data(tmp_path / "x.npy", valid_size=9, **options)
    for split, values in found.items():
        assert torch.equal(values, expected.split(split))
        values.zero_()  # it can be written to
    assert np.array_equal(np.load(tmp_path / "x.npy"), x) and not list((large / "scratch").iterdir())
    disk(monkeypatch, 100)
    monkeypatch.setattr(storage, "LARGE", 10)
    if options != {"binarize": "static"}:
        with refused(FileError, "can't write", "336 bytes are needed, and 100 bytes are free", "PYRO_VAE_DATA"):
            load_data(tmp_path / "x.npy", valid_size=9, **options).split("train")


def test_a_place_for_scratch_files_that_can_not_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "IN_MEMORY", 100)
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("PYRO_VAE_DATA", str(tmp_path / "file"))
    with refused(FileError, "can't write", "file", "name a folder by load_data(store_data(source, folder))"):
        as_dataset(loader())


def test_scratch_folders_of_killed_processes_are_deleted(large, monkeypatch):
    (large / "scratch" / "scratch-dead").mkdir(parents=True)
    (large / "scratch" / "other").mkdir()
    monkeypatch.setattr(places, "_NEW", -1)
    with places.scratch_folder() as held, places.scratch_folder():
        assert Path(held).is_dir() and not (large / "scratch" / "scratch-dead").exists()
    assert everything_in(large / "scratch") == ["other"]


def test_a_folder_behind_a_link(tmp_path):
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "empty")
    (tmp_path / "new").symlink_to(tmp_path / "disk" / "made")
    for name, target in (("link", "empty"), ("new", "made")):
        assert store_data(X, tmp_path / name, progress=False) == tmp_path / "disk" / target
        assert len(load_data(tmp_path / name).train) == 20
