"""`load_data` on files of a user's own: what is read; everything else is one clear line that says what to do."""

import gzip
import io
import os
import pickle
import re
import struct
import zipfile

import numpy as np
import pytest
import torch

from pyro_vae import VAE, fit, load_data
from pyro_vae.arguments.remedies import on_command_line
from pyro_vae.cli import main
from pyro_vae.data import as_dataset, sources
from pyro_vae.data.sources import formats
from pyro_vae.errors import DataError, FileError, PyroVaeError, UsageError

TABLE = np.array([[7.0, 0.27, -3.0], [6.3, 0.3, 1e-3]])


def refused(error, *parts):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def header(shape, descr="'<f8'"):
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    text = text.ljust(118 - len(text) % 64 + 64 if len(text) > 117 else 117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


# ---- tables of numbers


@pytest.mark.parametrize(
    "text",
    [
        "7,0.27,-3\n6.3,0.3,1e-3\n",
        "a,b,c\n7,0.27,-3\n6.3,0.3,1e-3",
        '"fixed acidity";"volatile; acidity";"pH"\r\n7;0.27;-3\r\n6.3;0.3;1e-3\r\n',
        "a\tb\tc\n7\t0.27\t-3\n6.3\t0.3\t1e-3\n",
        "# written by savetxt\n7.0 0.27 -3\n  6.3 0.3   1e-3  # the last\n",
        "\ufeffa, b, c\n\n7, 0.27, -3\n\n6.3, 0.3, 1e-3\n\n",
        '"a","b","c"\n"7","0.27","-3"\n"6.3","0.3","1e-3"\n',
        "label,0,1\n7,0.27,-3\n6.3,0.3,1e-3\n",
    ],
    ids=["plain", "header", "semicolons", "tabs", "savetxt", "bom and spaces", "quoted", "numbered columns"],
)
def test_tables_of_numbers(tmp_path, text):
    data = load_data(written(tmp_path / "table.csv", text))
    assert torch.equal(data.split("train"), torch.tensor(TABLE, dtype=torch.float32))
    assert data.protocol == "table: values as given; not binarised; train 2; shape 3"


@pytest.mark.parametrize("delimiter", [" ", ",", ";", "\t"])
def test_what_savetxt_writes_is_read_back(tmp_path, delimiter):
    x = np.random.default_rng(0).normal(size=(20, 4))
    np.savetxt(tmp_path / "x.txt", x, delimiter=delimiter, header="a b c d")
    assert torch.equal(load_data(tmp_path / "x.txt").split("train"), torch.tensor(x, dtype=torch.float32))


def test_a_column_and_a_row_are_tables(tmp_path):
    assert load_data(written(tmp_path / "column.csv", "height\n1.5\n2\n")).train.tolist() == [[1.5], [2]]
    assert load_data(written(tmp_path / "row.csv", "1.5,2")).train.tolist() == [[1.5, 2]]


def test_the_wine_table(shared):
    data = load_data(shared / "winequality_white.csv", test_size=898)
    assert data.split("train").shape == (4000, 12) and data.split("test").shape == (898, 12)
    assert data.train[0].tolist() == pytest.approx([7, 0.27, 0.36, 20.7, 0.045, 45, 170, 1.001, 3, 0.45, 8.8, 6])


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a,b\n1,2\n3\n", ("line 3 has 1 columns, line 1 has 2",)),
        ("a,b\n1,2\n3,4,5\n", ("line 3 has 3 columns, line 1 has 2",)),
        ("x,species\n5.1,setosa\n", ("column 'species' has one text alone, 'setosa': leave",)),
        ("1,2\n3,abc\n", ("line 2, column 2 is 'abc'",)),
        ("1,abc\n3,4\n", ("line 1 has both numbers and text ('abc')",)),
        ("1,,3\n4,5,6\n", ("line 1, column 2 has no value ('')", "fill it in")),
        ("a,b\n1,NA\n", ("line 2, column 2 ('b') has no value ('NA')",)),
        ("a;b\n7,5;0,27\n", ("line 2, column 1 ('a') is '7,5': write decimals with a point",)),
        (",a,b\n0,1,2\n1,3,4\n", ("line 1", "has no name for the first", "to_csv(path, index=False)")),
        ("a,b\n", ("no rows of numbers below its first line", "'a, b'")),
        ("# nothing\n\n", ("no line with data",)),
        ('a,b\n"1,2\n', ("line 2 has 1 columns, line 1 has 2",)),
        ("day,x\n2024-05-01,3\n", ("line 2, column 1 ('day') is '2024-05-01', not a number",)),
        ("Dear reader,\nthis is a letter.\n", ("line 2 has 1 columns, line 1 has 2",)),
        ("x\n1_000\n", ("line 2, column 1 ('x') is '1_000', not a number",)),
        ("a,b\n1,2,\n3,4,\n", ("line 2 has 3 columns, line 1 has 2",)),
    ],
)
def test_tables_that_are_refused(tmp_path, text, parts):
    with refused(DataError, "can't read", "x.csv", *parts):
        load_data(written(tmp_path / "x.csv", text))


def test_values_of_a_table_that_are_not_finite_are_found(tmp_path):
    with refused(DataError, "train has 2 NaN or infinite values, the first at (0, 1)"):
        load_data(written(tmp_path / "x.csv", "a,b\n1,nan\ninf,2\n"))


# ---- files that are something else


def torch_file(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")


def spreadsheet(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", b"")
        archive.writestr("xl/workbook.xml", b"")


def other_archive(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("letter.txt", b"")


FILES = {
    "empty.npz": (b"", ("it is empty (0 bytes)",)),
    "garbage.npz": (b"garbage" * 99, ("not an .npz file but text, beginning 'garbage",)),
    "noise.npz": (bytes(range(256)), ("unknown format", "expected .npz, .npy, CSV, Parquet or IDX")),
    "text.npy": ("1,2,3\n", ("not an .npy file but text, beginning '1,2,3",)),
    "text.csv.gz": (gzip.compress(b"1,2\n"), ("compressed by gzip: unpack it first",)),
    "x.h5": (b"\x89HDF\r\n\x1a\n" + bytes(99), ("an HDF5 file: read it with h5py", "anndata.read_h5ad", "numpy.savez")),
    "x.arrow": (b"ARROW1" + bytes(99), ("an Arrow file: read it with pandas",)),
    "x.mat": (b"MATLAB 5.0 MAT-file" + bytes(99), ("scipy.io.loadmat",)),
    "x.pkl": (pickle.dumps({"train": [1, 2]}), ("a pickle, which can run any code",)),
    "x.png": (b"\x89PNG\r\n\x1a\n" + bytes(9), ("one picture: give the folder with all of them",)),
    "x.xz": (b"\xfd7zXZ\x00" + bytes(9), ("compressed by xz: unpack it",)),
    "x.txt": ("1,2\n".encode("utf-16"), ("text in UTF-16: save it as UTF-8",)),
    "mnist.idx": (struct.pack(">4BIII", 0, 0, 8, 3, 1, 1, 1) + b"x", ("must be called train-images-idx3-ubyte",)),
    "x.pt": (torch_file, ("saved by torch.save", "train=train.numpy()")),
    "x.xlsx": (spreadsheet, ("a spreadsheet", "save the table as CSV")),
    "x.zip": (other_archive, ("an archive of 'letter.txt', none an array saved by numpy.savez",)),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_something_else(tmp_path, name):
    content, parts = FILES[name]
    content(tmp_path / name) if callable(content) else written(tmp_path / name, content)
    with refused(DataError, "can't read", name, *parts) as found:
        load_data(tmp_path / name)
    assert "allow_pickle" not in str(found.value)


def test_paths_that_are_no_file(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    for source, parts in (
        ("https://example.org/x.npz", ("is an address: download it",)),
        (tmp_path / "pipe", ("not a regular file",)),
        ("/dev/null", ("not a regular file",)),
        (tmp_path / "tain.npz", ("no data at", "(did you mean 'train.npz'?)")),
        (tmp_path, ("is a folder without images, train.npy or IDX files", "a file in it, e.g. train.npz")),
        ("", ("no data at ''",)),
        ("x\0y", ("no data at",)),
        ("~nobody-of-this-name/x.npz", ("no data at",)),
        ("x" * 5000, ("no data at",)),
    ):
        with refused(DataError, *parts):
            load_data(source)


@pytest.mark.parametrize("source", [np.zeros((3, 2)), torch.zeros(3, 2), None, 5, [[1.0]], b"x.npz"])
def test_what_is_no_path(source):
    with refused(UsageError, "load_data takes a name or a path, got", type(source).__name__, "pass an array to fit"):
        load_data(source)


# ---- arrays


ODD = {
    "objects": (np.array([[1], None], dtype=object), "Python objects"),
    "strings": (np.array([["a", "b"]]), "text (<U1)"),
    "bytes": (np.array([[b"a", b"b"]]), "text (|S1)"),
    "dates": (np.array([["2024-01-01"]], "datetime64[D]"), "dates or durations"),
    "complex": (np.ones((2, 2), complex), "complex"),
    "structured": (np.ones(3, [("a", "f4"), ("b", "f4")]), "columns with names"),
    "no dimensions": (np.array(3.0), "of shape ()"),
    "one dimension": (np.ones(3), "has shape (3,)"),
    "no rows": (np.ones((0, 3)), "has shape (0, 3)"),
    "no columns": (np.ones((3, 0)), "has shape (3, 0)"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_no_data(tmp_path, kind, suffix):
    array, part = ODD[kind]
    path = tmp_path / f"x{suffix}"
    np.save(path, array) if suffix == ".npy" else np.savez(path, train=array)
    with refused(DataError, part) as found:
        load_data(path)
    assert "allow_pickle" not in str(found.value)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_that_are_cut_off_or_followed_by_others(tmp_path, suffix):
    whole = npy_bytes(np.ones((4, 2)))
    for content, part in (
        (whole[:-8], "it is cut off, with 56 bytes of values where shape (4, 2) of float64 has 64"),
        (whole + whole, "bytes follow its values: save one array in a file"),
    ):
        path = tmp_path / f"x{suffix}"
        if suffix == ".npz":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("train.npy", content)
        else:
            path.write_bytes(content)
        with refused(DataError, "can't read", "x.np", part):
            load_data(path)


@pytest.mark.parametrize("text", ["x" * 20_000, "{'descr': 'O', 'shape': (1,)}", "{", "None"])
def test_headers_that_are_damaged(tmp_path, text):
    text = text + "\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(64)
    with refused(DataError, "can't read", "x.npy") as found:
        load_data(written(tmp_path / "x.npy", content))
    assert "pickle" not in str(found.value)


def test_a_small_file_of_very_much_data_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", train=np.zeros((1000, 1000)), test=np.zeros((1000, 1000)))
    monkeypatch.setattr(formats, "memory", lambda: 15_000_000)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("read"))
    with refused(DataError, "can't read", "bomb.npz", "0.0 GiB", "save the data as one .npy"):
        load_data(tmp_path / "bomb.npz")


def test_a_table_with_an_endless_field(tmp_path):
    with refused(DataError, "can't read", "long.csv", "field larger than"):
        load_data(written(tmp_path / "long.csv", "9" * 200_000 + ",1\n"))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_place_of_idx_images(tmp_path, make):
    make(tmp_path / "train-images-idx3-ubyte")
    with refused(DataError, "without images, train.npy or IDX files"):
        load_data(tmp_path)


def test_an_idx_file_that_unpacks_to_more_than_it_declares(tmp_path):
    content = struct.pack(">4BIII", 0, 0, 8, 3, 2, 2, 2) + bytes(10**6)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content))
    with refused(DataError, "is damaged: 25 bytes or more, expected 24"):
        load_data(tmp_path)


def test_a_declared_size_beyond_any_memory(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("train.npy", header((10**12, 784)))
    with refused(DataError, "can't read", "it is cut off, with 0 bytes"):
        load_data(tmp_path / "x.npz")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(struct.pack(">4BIII", 0, 0, 8, 3, *[2**31] * 3))
    with refused(DataError, "GiB, but this machine has"):
        load_data(tmp_path)


def test_a_file_that_may_not_be_read_is_an_error_of_the_system(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    path = written(tmp_path / "x.csv", "1,2\n")
    monkeypatch.setattr(type(path), "open", denied)
    with refused(FileError, "can't read", "x.csv: Permission denied"):
        load_data(path)


# ---- what an .npz has beside the data


def test_arrays_that_are_not_read_are_named(tmp_path, caplog):
    x = np.ones((4, 2))
    np.savez(tmp_path / "x.npz", train=x, train_mask=x > 0, trian_labels=np.arange(4), x_train=x)
    load_data(tmp_path / "x.npz")
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3 and all("is not read" in text and "Known: train, x_train, x" in text for text in messages)
    assert any("'trian_labels' is not read, did you mean 'train_labels'?" in text for text in messages)
    assert any("'train_mask' is not read: with missing='mask' it says what was observed" in text for text in messages)
    caplog.clear()
    np.savez(tmp_path / "x.npz", train=x, train_labels=np.arange(4), train_context=x)
    load_data(tmp_path / "x.npz")
    assert not caplog.records


LABELS = {
    "real": np.linspace(0, 1, 4),
    "text": np.array(["cat", "dog", "cat", "dog"]),
    "objects": np.array(["cat", None, "dog", 3], dtype=object),
    "one-hot": np.eye(4),
    "too few": np.arange(3),
    "nan": np.array([0, 1, np.nan, np.inf]),
    "dates": np.array(["2024-01-01"] * 4, "datetime64[D]"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_that_are_no_classes_matter_only_where_they_are_used(tmp_path, kind, caplog):
    np.savez(tmp_path / "x.npz", train=np.ones((4, 2)), train_labels=LABELS[kind])
    data = load_data(tmp_path / "x.npz")
    assert len(data.train) == 4 and not data.labels
    assert "the labels of train" in caplog.text and "they are left out" in caplog.text
    for options in ({"context": "labels"}, {"labelled": 2}):
        with refused(DataError, "the labels of train"):
            load_data(tmp_path / "x.npz", **options)


@pytest.mark.parametrize(
    "labels", [np.array([0.0, 1, 2, 1]), np.array([[0], [1], [2], [1]]), np.array([0, 1, 2, 1], "u1")]
)
def test_whole_numbers_of_any_type_are_classes(tmp_path, labels):
    np.savez(tmp_path / "x.npz", train=np.ones((4, 2)), y=labels)
    assert load_data(tmp_path / "x.npz").labels["train"].tolist() == [0, 1, 2, 1]


# ---- a test set of one's own


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_test_size_holds_out_the_last_rows_before_valid_size(tmp_path, suffix):
    x = np.arange(20.0).reshape(10, 2)
    path = tmp_path / f"x{suffix}"
    np.save(path, x) if suffix == ".npy" else np.savetxt(path, x)
    data = load_data(path, test_size=np.int64(3), valid_size=2)
    assert [len(data.split(name)) for name in ("train", "valid", "test")] == [5, 2, 3]
    assert torch.equal(data.split("test"), torch.tensor(x[7:], dtype=torch.float32))
    assert torch.equal(data.split("valid"), torch.tensor(x[5:7], dtype=torch.float32))
    assert "last 3 of train held out as test, last 2 of train held out as valid" in data.protocol
    assert data.origin["test_size"] == 3 and type(data.origin["test_size"]) is int
    assert "test_size" not in load_data(path).origin  # a run begun without it is still the same
    assert isinstance(data.train, np.memmap) == (suffix == ".npy")


def test_test_size_that_makes_no_sense(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((10, 2)))
    with refused(UsageError, "has a test set of 200: leave test_size out"):
        load_data("digits", test_size=5)
    for n in (-1, 10):
        with refused(UsageError, "test_size: expected a number of rows from 1 to 9, got", str(n)):
            load_data(tmp_path / "x.npy", test_size=n)
    for n in (2.5, "3", True, None):
        with refused(UsageError, "test_size: expected a whole number, got"):
            load_data(tmp_path / "x.npy", test_size=n)


def test_a_split_that_is_not_there_says_how_to_go_on(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((10, 2)))
    data = load_data(tmp_path / "x.npy")
    with refused(DataError, "x has no split 'test', only train: take train, or", "test_size=n", "last n of train"):
        data.split("test")
    with on_command_line(), refused(DataError, "only train: take --split train, or", "--test_size n"):
        data.split("test")


# ---- any file at all


@pytest.mark.parametrize("name", ["x.csv", "x.npz", "x.npy", "train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_changed_bytes_give_data_or_one_line(tmp_path, name):
    """200 files with a few bytes changed, removed or put in: data, or one line that advises nothing unsafe."""
    path, rng, x = tmp_path / name, np.random.default_rng(1), np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    idx = struct.pack(">4BIII", 0, 0, 8, 3, *x.shape) + x.tobytes()
    file = io.BytesIO()
    np.savez_compressed(file, train=x, train_labels=np.arange(5))
    whole = {
        "x.csv": "\n".join(",".join(map(str, row)) for row in x.reshape(5, 12)).encode(),
        "x.npz": file.getvalue(),
        "x.npy": npy_bytes(x),
        "train-images-idx3-ubyte": idx,
        "train-images-idx3-ubyte.gz": gzip.compress(idx),
    }[name]
    for _ in range(200):
        broken = bytearray(whole)
        for at in rng.integers(len(whole), size=3):
            broken[at : at + rng.integers(3)] = rng.bytes(rng.integers(3))
        path.write_bytes(bytes(broken))
        try:
            load_data(path)
        except PyroVaeError as error:
            assert isinstance(error, DataError) and "\n" not in str(error) and "pickle" not in str(error)


def test_every_name_is_known():
    assert sources.NAMES[:2] == ("digits", "linear_gaussian")


# ---- data that the likelihood does not take


@pytest.mark.parametrize(
    ("values", "python", "command"),
    [
        ([-3.5, 2.0], "these are real numbers: take likelihood=Normal, StudentT or Laplace", "--vae.likelihood Normal"),
        ([-3.0, 2.0], "take likelihood=Normal", "take --vae.likelihood Normal"),
        ([0.5, 2.0], "take likelihood=Normal", "take --vae.likelihood Normal"),
        (
            [0.0, 7.0],
            "take likelihood=Poisson or NegativeBinomial where they are counts; likelihood=Categorical or "
            "BetaBinomial, with divide_by=7 and levels=8",
            "with --divide_by 7 and --vae.likelihood.levels 8",
        ),
        ([0.0, 0.5], "binarise the data (binarize='dynamic'", "binarise the data (--binarize dynamic"),
    ],
)
def test_the_likelihood_that_fits_is_named(values, python, command):
    vae, x = VAE((2,), latent_dim=1), torch.tensor([values])
    with refused(DataError, "outside the support of Bernoulli", python):
        fit(vae, x, epochs=1, progress=False)
    with on_command_line(), refused(DataError, "outside the support of Bernoulli", command):
        vae.likelihood.check(x)


@pytest.mark.parametrize(
    ("low", "parts"),
    [
        (0, ("divide_by=1 for counts (likelihood=Poisson", "divide_by=9 for levels", "BetaBinomial, with levels=10)")),
        (-2, ("divide_by=1 for a likelihood of reals (likelihood=Normal)",)),
    ],
)
def test_integers_name_the_likelihoods_that_fit(low, parts):
    with refused(DataError, f"from {low} to 9 have no known scale", *parts):
        as_dataset(np.array([[low, 9]]))


def test_the_command_speaks_its_own_syntax(tmp_path, capsys):
    np.savetxt(tmp_path / "x.csv", [[-1.5, 2.0], [0.25, 1.0]], delimiter=",")
    for binarize in ("none", "auto"):
        command = ["fit", "--data", str(tmp_path / "x.csv"), "--binarize", binarize, "--run", str(tmp_path / "run")]
        assert main(command) == 3
        said = capsys.readouterr().err
        assert "take --vae.likelihood Normal" in said and "=" not in said


def test_a_run_of_data_without_a_test_set_can_be_evaluated(tmp_path, capsys):
    """Held out by `--test_size`, or on what was trained on by `--split train`."""
    np.savetxt(tmp_path / "x.csv", np.random.default_rng(0).normal(size=(30, 3)), delimiter=";")
    small = ["--vae.likelihood", "Normal", "--vae.latent_dim", "2", "--epochs", "1", "--pictures", "false", "--quiet"]
    for options in ([], ["--test_size", "10"]):
        run = str(tmp_path / f"run{len(options)}")
        assert main(["fit", "--data", str(tmp_path / "x.csv"), "--run", run, *small, *options]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run0"), "--num_particles", "10", "--quiet"]) == 3
    assert "take --split train, or train on data loaded with --test_size n" in capsys.readouterr().err
    for run, split, size in (("run0", "train", 30), ("run2", "test", 10)):
        assert main(["evaluate", str(tmp_path / run), "--split", split, "--num_particles", "10", "--quiet"]) == 0
        assert f"(N = {size} data)" in capsys.readouterr().out
