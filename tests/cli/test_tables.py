"""A table on the command line, from CSV to CSV: kinds, runs, later commands, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae import load, log_marginal
from pyro_vae.data import Table
from pyro_vae.runs.loading import read_config
from pyro_vae.runs.safe_yaml import dump_yaml
from tests.cli.test_cli import call

SMALL = (
    "--vae.latent_dim 2 --vae.encoder MLP --vae.encoder.hidden [8] --vae.decoder MLP --vae.decoder.hidden [8] "
    "--epochs 2 --batch_size 40 --pictures false --quiet"
)
KINDS = {
    "age": "count",
    "city": {"category": ["Basel", "Bern", "Chur"]},
    "size": {"ordered": ["S", "M", "L"]},
    "smoker": {"binary": ["no", "yes"]},
    "temp": "real",
}


def people():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": draw.poisson(30, 80),
            "city": draw.choice(["Chur", "Bern", "Basel"], 80),
            "size": draw.choice(["S", "M", "L"], 80),
            "smoker": draw.choice(["yes", "no"], 80),
            "temp": draw.normal(20, 5, 80).round(2),
        }
    )
    return frame.astype({"age": "Int64"})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on a table with gaps, whose kinds but one are guessed."""
    folder = tmp_path_factory.mktemp("tables")
    frame = people()
    for row, name in enumerate(frame.columns):
        frame.loc[row, name] = None
    frame.to_csv(folder / "people.csv", index=False)
    done = call("fit --data", folder / "people.csv", words(), "--run", folder / "run")
    assert done.code == 0 and "city    category:3  Basel, Bern, Chur" in done.err
    return folder


def words():
    """As a user types them; the list is one word."""
    return f"--missing nan --test_size 20 --vae.likelihood Mixed --kinds.size [S,M,L] {SMALL}"


def test_kinds_are_guessed_and_kept(runs):
    config = read_config(runs / "run")
    assert config["kinds"] == KINDS
    assert config["vae"]["likelihood"]["init_args"]["kinds"] == list(Table.of(KINDS).kinds)
    again = call("fit --config", runs / "run" / "config.yaml", "--quiet --pictures false --run", runs / "run")
    assert again.code == 0 and read_config(runs / "run") == config


def test_a_table_is_imputed_from_csv_to_csv(runs, tmp_path):
    """Every observed field as it was, every gap a value of its column, in the order of the file."""
    quick = ("--split train --num_particles 50 --quiet --out", tmp_path / "i.csv")
    assert call("impute", runs / "run", *quick).code == 0
    before = pd.read_csv(runs / "people.csv", dtype=str)[:60]
    after = pd.read_csv(tmp_path / "i.csv", dtype=str)
    assert list(after.columns) == list(before.columns) and not after.isna().any(axis=None)
    assert before.isna().sum().sum() == 5
    same = (after == before) | before.isna()
    assert same.drop(columns="temp").all(axis=None)
    assert (after.temp.astype(float) == before.temp.astype(float))[before.temp.notna()].all()
    assert after.city[1] in KINDS["city"]["category"] and after["size"][2] in "SML" and after.age[0].isdecimal()


def test_another_file_is_read_by_names(runs, tmp_path):
    """Its columns in another order, with fewer levels in it; the result is in the order of the run."""
    new = people()[["temp", "smoker", "size", "city", "age"]][:4]
    new.loc[:, "city"] = ["Chur", None, "Chur", "Chur"]
    new.to_csv(tmp_path / "new.csv", index=False)
    quick = ("--split all --num_particles 50 --quiet --data", tmp_path / "new.csv")
    assert call("impute", runs / "run", *quick, "--out", tmp_path / "i.csv").code == 0
    after = pd.read_csv(tmp_path / "i.csv")
    assert list(after.columns) == list(KINDS) and after.city[[0, 2, 3]].tolist() == ["Chur"] * 3
    assert call("impute", runs / "run", *quick, "--rows all --num_draws 3 --out", tmp_path / "a.csv").code == 0
    every = pd.read_csv(tmp_path / "a.csv")
    assert list(every.columns) == ["imputation", "row", *KINDS] and len(every) == 16
    pd.testing.assert_frame_equal(every[every.imputation == 0].drop(columns=["imputation", "row"]), after)


def test_errors_of_each_column(runs, tmp_path):
    done = call("impute", runs / "run --hide 0.3 --num_particles 50 --quiet --json --out", tmp_path / "i.csv")
    columns = json.loads(done.out)["columns"]
    assert set(columns) == set(KINDS) and columns["temp"]["rmse"] > 0 and 0 <= columns["city"]["wrong"] <= 1
    assert sum(column["num_elements"] for column in columns.values()) == json.loads(done.out)["error"]["num_elements"]


@pytest.mark.parametrize("command", ["sample --num 7", "reconstruct --num 7", "restore --num 7 --method encoder"])
def test_results_are_tables(runs, tmp_path, command):
    name, _, options = command.partition(" ")
    assert call(name, runs / "run", options, "--out", tmp_path / "t.csv").code == 0
    table = pd.read_csv(tmp_path / "t.csv", dtype=str)
    assert list(table.columns) == list(KINDS) and len(table) == 7
    assert table.age.str.fullmatch(r"\d+").all() and table.smoker.isin(["no", "yes"]).all()
    assert table.city.isin(KINDS["city"]["category"]).all() and table["size"].isin(["S", "M", "L"]).all()


def test_log_p_is_that_of_columns_coded_by_hand(runs):
    """The same numbers from codes that this test makes itself."""
    frame = pd.read_csv(runs / "people.csv")[60:]
    codes = {"city": ["Basel", "Bern", "Chur"], "size": ["S", "M", "L"], "smoker": ["no", "yes"]}
    for name, levels in codes.items():
        frame[name] = frame[name].map({level: code for code, level in enumerate(levels)})
    x = torch.tensor(frame.to_numpy(np.float32))
    done = call("evaluate", runs / "run", "--num_particles 50 --num_data 20 --quiet --json --device cpu")
    vae = load(runs / "run")
    found = log_marginal(vae.model, vae.guide, x, num_particles=50, mask=~x.isnan())
    assert done.code == 0 and json.loads(done.out)["log_p"] == pytest.approx(found.mean, rel=1e-9)


def test_kinds_typed_for_the_likelihood_count(runs, tmp_path):
    """They are taken as they are, but for the order of texts; those that contradict the data are refused."""
    kinds = ("--vae.likelihood Mixed --vae.likelihood.kinds", "[real,category:3,category:3,binary,real]")
    start = ("fit --data", runs / "people.csv", "--missing nan", SMALL, "--run", tmp_path / "run")
    assert call(*start, *kinds).code == 0
    assert read_config(tmp_path / "run")["kinds"]["age"] == "real"
    assert read_config(tmp_path / "run")["kinds"]["size"] == {"category": ["L", "M", "S"]}
    refused = call(*start, kinds[0], "[real,category:3,ordered:3,binary,real]")
    assert refused.code == 2 and "size: texts have no order of their own" in refused.err
    refused = call(*start, "--kinds.size [S,M,L]", kinds[0], "[real,category:3,real,binary,real]")
    assert refused.code == 2 and "'size' is ordered:3 in the data and real in the likelihood" in refused.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("Chur", "Zug"), "('city') is 'Zug', which is none of its levels: Basel, Bern, Chur"),
        (("smoker", "smokes"), "it lacks the column 'smoker', did you mean 'smokes'?"),
        ((",temp", ""), "columns, line 1 has 4"),
        (("yes", "-1"), "('smoker') is '-1', which is none of its levels: no, yes"),
    ],
)
def test_files_that_do_not_fit(runs, tmp_path, change, message):
    (tmp_path / "bad.csv").write_text((runs / "people.csv").read_text().replace(*change))
    for command in ("impute", "evaluate"):
        done = call(command, runs / "run", "--split train --quiet --data", tmp_path / "bad.csv")
        assert done.code == 3 and message in done.err and "Traceback" not in done.err


@pytest.mark.parametrize(
    ("typed", "code", "message"),
    [
        ("--vae.likelihood Normal", 2, "column 'city' has levels, as category: take --vae.likelihood Mixed"),
        ("--vae.likelihood Mixed --kinds.town real", 2, "--kinds: the table has no column 'town'"),
        ("--vae.likelihood Mixed --kinds.age reel", 2, "--kinds: age: expected one of real"),
        ("--vae.likelihood Mixed --kinds.city real", 3, "line 2, column 2 ('city') is 'Chur', not a number"),
        ("--vae.likelihood Mixed --kinds.smoker [no,yes]", 2, "--kinds: smoker: write the levels in quotes"),
        ("--vae.likelihood Mixed --kinds 3", 2, "--kinds"),
    ],
)
def test_mistakes(runs, tmp_path, typed, code, message):
    done = call("fit --data", runs / "people.csv", "--missing nan", SMALL, typed, "--run", tmp_path / "run")
    assert done.code == code and message in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_gaps_need_a_word(runs, tmp_path):
    done = call("fit --data", runs / "people.csv --vae.likelihood Mixed", SMALL, "--run", tmp_path / "run")
    assert done.code == 3 and "('age') has no value (''): pass --missing nan" in done.err


def test_a_run_on_numbers_takes_no_texts(runs, tmp_path):
    np.savez(tmp_path / "x.npz", train=np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32))
    fitted = call("fit --data", tmp_path / "x.npz", "--vae.likelihood Normal", SMALL, "--run", tmp_path / "run")
    assert fitted.code == 0
    done = call("impute", tmp_path / "run", "--split train --quiet --missing nan --data", runs / "people.csv")
    assert done.code == 2 and "was trained on numbers without levels" in done.err
    done = call("sample", tmp_path / "run", "--out", tmp_path / "s.csv")
    assert done.code == 2 and "was not trained on a table with names" in done.err


def test_numbers_with_names_keep_them(tmp_path):
    """A table of numbers for Normal: values as they are, in results the names of the columns."""
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    pd.DataFrame(x, columns=["left", "right"]).to_csv(tmp_path / "x.csv", index=False)
    run = tmp_path / "run"
    assert call("fit --data", tmp_path / "x.csv --test_size 9 --vae.likelihood Normal", SMALL, "--run", run).code == 0
    assert call("reconstruct", run, "--num 9 --out", tmp_path / "r.csv").code == 0
    assert list(pd.read_csv(tmp_path / "r.csv").columns) == ["left", "right"]
    config = read_config(run)
    assert config.pop("kinds") == {"left": "real", "right": "real"}
    (run / "config.yaml").write_text(dump_yaml(config))  # as an earlier version wrote it
    assert call("fit --data", tmp_path / "x.csv --test_size 9 --vae.likelihood Normal", SMALL, "--run", run).code == 0


def test_other_rows_than_those_that_the_run_held_out(tmp_path):
    """The run's sizes were not typed now: too few rows are told with what helps, and splits of a file are its own."""
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    frame, run = pd.DataFrame(x, columns=["left", "right"]), tmp_path / "run"
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert call("fit --data", tmp_path / "x.csv --test_size 9 --vae.likelihood Normal", SMALL, "--run", run).code == 0
    frame.head(5).to_csv(tmp_path / "few.csv", index=False)
    done = call("encode", run, "--data", tmp_path / "few.csv")
    assert done.code == 2 and "has 5 rows, too few to hold out 9 of them as test data" in done.err
    assert "--split all" in done.err and "--test_size" not in done.err
    for command in ("encode", "reconstruct"):
        assert call(command, run, "--data", tmp_path / "few.csv", "--split all --out", tmp_path / "c.npz").code == 0
    np.savez(tmp_path / "splits.npz", train=x, test=x[:4])
    done = call("encode", run, "--data", tmp_path / "splits.npz", "--json --out", tmp_path / "c.npz")
    assert done.code == 0 and "test 4" in json.loads(done.out)["data"]
