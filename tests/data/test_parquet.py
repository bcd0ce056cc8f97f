"""Parquet files as tables: with the types of their columns; and what is said where pyarrow is not installed."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import load_data
from pyro_vae.cli import main
from pyro_vae.data import as_dataset
from pyro_vae.data.sources import formats
from pyro_vae.errors import DataError, MissingPackage, UsageError


def refused(error, *parts):
    """Expect `error` with a one-line message that has all the parts, in this order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)) + r"[^\n]*\Z")


def test_pyarrow_is_an_extra(tmp_path, monkeypatch, capsys):
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(99))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with refused(MissingPackage, "x.parquet is a Parquet file", "needs pyarrow", "pip install 'pyro-vae[parquet]'"):
        load_data(tmp_path / "x.parquet")
    assert main(["fit", "--data", str(tmp_path / "x.parquet"), "--run", str(tmp_path / "run")]) == 2
    assert "pip install 'pyro-vae[parquet]'" in capsys.readouterr().err


@pytest.fixture
def written(tmp_path):
    """A function that writes a table to a Parquet file; skips where pyarrow is not installed."""
    pytest.importorskip("pyarrow")

    def write(columns, name="x.parquet", **options):
        pd.DataFrame(columns).to_parquet(tmp_path / name, engine="pyarrow", **options)
        return tmp_path / name

    return write


MIXED = {
    "age": pd.array([30, None, 41, 55] * 10, dtype="Int64"),
    "city": pd.Categorical(["Bern", "Chur", "Bern", None] * 10, categories=["Chur", "Bern", "Genf"]),
    "size": pd.Categorical(["S", "M", "L", "S"] * 10, categories=["S", "M", "L"], ordered=True),
    "smoker": [True, False, False, True] * 10,
    "income": [1e3, 2e3, 1.5e3, 9e2] * 10,
    "name": ["a", "b", "c", "a"] * 10,
}


def test_a_table_with_types(written):
    data = load_data(written(MIXED), missing="nan", kinds={"age": "real", "income": "real"}, test_size=8)
    expected = as_dataset(pd.DataFrame(MIXED), missing="nan", kinds={"age": "real", "income": "real"})
    assert (
        data.table.described
        == expected.table.described
        == {
            "age": "real",
            "city": {"category": ["Chur", "Bern", "Genf"]},
            "size": {"ordered": ["S", "M", "L"]},
            "smoker": {"binary": ["False", "True"]},
            "income": "real",
            "name": {"category": ["a", "b", "c"]},
        }
    )
    torch.testing.assert_close(data.split("train"), expected.split("train")[:32], equal_nan=True, rtol=0, atol=0)
    assert data.size("test") == 8


def test_a_table_of_numbers(written):
    x = np.random.default_rng(0).normal(size=(20, 3))
    data = load_data(written({"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}))
    assert torch.equal(data.split("train"), torch.tensor(x).float()) and data.table.names == ("a", "b", "c")
    listed = load_data(written({"a": [0, 1] * 5, "b": [2.5] * 10}), kinds=["binary", "real"])
    assert listed.table.kinds == ("binary", "real")


def test_files_that_are_refused(tmp_path, written, monkeypatch):
    (tmp_path / "empty.parquet").write_bytes(b"")
    with refused(DataError, "can't read", "empty.parquet: it is empty (0 bytes)"):
        load_data(tmp_path / "empty.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + bytes(99))
    with refused(DataError, "can't read", "bad.parquet"):
        load_data(tmp_path / "bad.parquet")
    whole = written({"a": np.arange(1000.0)}).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with refused(DataError, "can't read", "cut.parquet"):
        load_data(tmp_path / "cut.parquet")
    with refused(DataError, "x.parquet: it has 0 rows and 1 columns"):
        load_data(written({"a": np.zeros(0)}))
    with refused(DataError, "x.parquet: it has 0 rows and 0 columns"):
        load_data(written({}))
    with refused(UsageError, "column 'v' has lists, arrays or bytes, not one value a row"):
        load_data(written({"v": [[1.0, 2.0], [3.0, 4.0]]}))
    with refused(UsageError, "column 'v' has lists, arrays or bytes"):
        load_data(written({"v": [b"\x00", b"\x01"]}))
    with refused(UsageError, "column 'd' has dates or times"):
        load_data(written({"d": pd.to_datetime(["2024-01-01", "2024-01-02"])}))
    with refused(DataError, "row 1, column 1 ('a')", "has no value"):
        load_data(written({"a": ["x", None, "y"] * 5}))
    monkeypatch.setattr(formats, "memory", lambda: 7000)
    with refused(DataError, "its arrays take", "pass over it in parts"):
        load_data(written({"a": np.arange(1000.0)}))


def test_an_index_is_not_lost_in_silence(written, caplog):
    frame = pd.DataFrame({"a": [1.0, 2.0], "id": [5, 6]}).set_index("id")
    frame.to_parquet(written({"a": [1.0]}), engine="pyarrow")
    assert load_data(written(frame)).table.names == ("a",)
    assert "the index 'id' is not read: reset_index() makes columns of it" in caplog.text


def test_the_command_reads_it(written, tmp_path, capsys):
    run = str(tmp_path / "run")
    options = ["--data", str(written(MIXED)), "--missing", "nan", "--vae.likelihood", "Mixed", "--test_size", "8"]
    assert main(["fit", *options, "--epochs", "1", "--run", run, "--pictures", "false", "--quiet"]) == 0
    assert "category:3  Chur, Bern, Genf" in capsys.readouterr().err
    assert main(["evaluate", run, "--num_particles", "10", "--quiet"]) == 0
