"""`pyro-vae impute`: what it prints, saves and refuses."""

import csv
import json
from functools import partial

import numpy as np
import pytest

from pyro_vae import VAE, fit, load_data
from pyro_vae.cli.work.impute_results import readable
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP
from tests.cli.test_cli import call, is_png

QUICK = "--num 6 --num_particles 50 --quiet"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run on images, and one on a table of 3 columns."""
    folder = tmp_path_factory.mktemp("impute")
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    np.savez(folder / "table.npz", train=x, test=x[:9])
    small = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,)), "latent_dim": 2}
    for name, source, likelihood in (("images", "digits", Bernoulli), ("table", folder / "table.npz", Normal)):
        data = load_data(source, binarize="static" if name == "images" else "none")
        vae = VAE(data.event_shape, likelihood=likelihood, **small)
        fit(vae, data, epochs=1, run=folder / name, progress=False)
    return folder


def test_a_picture_and_its_measures(runs, tmp_path):
    words = (QUICK, "--hide 0.3 --json --out", tmp_path / "i.png")
    done = call("impute", runs / "images", *words)
    assert done.code == 0 and is_png(tmp_path / "i.png")
    found = json.loads(done.out)
    assert found["num_data"] == 6 and found["num_draws"] == 20 and 0.2 < found["missing"] < 0.4
    error = found["error"]
    assert error["num_elements"] == round(found["missing"] * 6 * 64)
    assert 0 < error["rmse"] < 1 and 0 < error["crps"] < error["rmse"] and 0 <= error["coverage"] <= 1
    assert json.loads(call("impute", runs / "images", *words).out) == found
    assert json.loads(call("impute", runs / "images", *words, "--seed 1").out)["missing"] != found["missing"]


def test_the_truth_is_hidden_from_the_model(runs, tmp_path):
    """Arrays: what is hidden is imputed, from draws that differ; what is not is as it was."""
    done = call("impute", runs / "table", QUICK, "--hide 0.5 --out", tmp_path / "i.npz")
    assert done.code == 0 and "RMSE" in done.out and "flagged" in done.out
    with np.load(tmp_path / "i.npz") as saved, np.load(runs / "table.npz") as table:
        rows, mask = np.arange(6) * 9 // 6, saved["mask"]
        assert (saved["truth"] == table["test"][rows]).all() and saved["latent_z"].shape == (20, 6, 2)
        assert (saved["best"][mask] == saved["truth"][mask]).all() and (saved["best"] != saved["truth"])[~mask].all()
        assert (saved["draws"].std(0) > 0)[~mask].all() and (saved["sd"] > 0)[~mask].all()


def test_a_table(runs, tmp_path):
    assert call("impute", runs / "table", QUICK, "--hide 0.5 --out", tmp_path / "i.csv").code == 0
    assert call("impute", runs / "table", QUICK, "--hide 0.5 --out", tmp_path / "i.npz").code == 0
    with (tmp_path / "i.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21 * 6 and list(rows[0]) == ["imputation", "row", "x1", "x2", "x3"]
    values = np.array([[float(row[f"x{n}"]) for n in (1, 2, 3)] for row in rows], np.float32)
    with np.load(tmp_path / "i.npz") as saved:
        np.testing.assert_array_equal(values[:6], saved["best"])
        np.testing.assert_array_equal(values[6:].reshape(20, 6, 3), saved["draws"])
    assert is_png(call_for_picture(runs))


def call_for_picture(runs):
    """The place that a picture of a table has by default."""
    done = call("impute", runs / "table", QUICK, "--hide 0.5 --json")
    assert done.code == 0
    return runs / "table" / "pictures" / "imputed-test-hide0.5-seed0.png"


def test_gaps_of_a_file(runs, tmp_path):
    """An empty field and nan are gaps, with `--missing nan`; what else is hidden is measured alone."""
    x = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    lines = [",".join(map(str, row)) for row in x]
    lines[0], lines[1] = f"{x[0, 0]},,{x[0, 2]}", f"nan,nan,{x[1, 2]}"
    (tmp_path / "gaps.csv").write_text("\n".join(lines))
    words = ("--missing nan --split train --quiet --num_particles 50 --data", tmp_path / "gaps.csv")
    assert call("impute", runs / "table", *words, "--out", tmp_path / "i.npz").code == 0
    with np.load(tmp_path / "i.npz") as saved:
        mask = saved["mask"]
        assert (~mask).sum() == 3 and not mask[0, 1] and not mask[1, :2].any() and "truth" not in saved
        np.testing.assert_array_equal(saved["best"][mask], x[mask])
        assert np.isfinite(saved["draws"]).all() and (saved["sd"][~mask] > 0).all()
    found = json.loads(call("impute", runs / "table", *words, "--hide 0.3 --json --out", tmp_path / "i.png").out)
    assert found["error"]["num_elements"] == round(found["missing"] * 90) - 3
    refused = call("impute", runs / "table", words[0].replace("--missing nan", ""), words[1])
    assert refused.code == 3 and "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "the data have no gaps"),
        ("--hide 1", "--hide: expected a share of the observed elements"),
        ("--hide 0.2 --num_draws 5", "take --num_draws 19 at least, got 5"),
        ("--hide 0.0001", "hides none"),
        ("--hide 0.2 --num 0", "at least 1 datum"),
        ("--hide 0.2 --num_particles 0", "num_particles 0"),
        ("--hide 0.2 --method mice", "unknown value 'mice'"),
        ("--hide 0.2 --out r.txt", "--out must end in .png"),
        ("--out r.png", "hide some observed elements"),
        ("--hide 0.2 --data nowhere.npz", "no data at 'nowhere.npz'"),
    ],
)
def test_mistakes(runs, words, message):
    done = call("impute", runs / "table", "--quiet", words)
    assert done.code in (2, 3) and message in done.err and "Traceback" not in done.err


def test_one_row_with_a_gap(runs, tmp_path):
    """A column that new data lack is imputed: only learning from them needs it."""
    (tmp_path / "new.csv").write_text("a,b,c\n1,,0.5\n")
    new = ("--data", tmp_path / "new.csv", "--missing nan --split train")
    assert call("impute", runs / "table", QUICK, *new, "--out", tmp_path / "i.npz").code == 0
    with np.load(tmp_path / "i.npz") as saved:
        assert saved["mask"].tolist() == [[True, False, True]] and saved["best"][0, [0, 2]].tolist() == [1, 0.5]
        assert np.isfinite(saved["draws"]).all()
    done = call("impute", runs / "table", QUICK, *new, "--num_particles 0")
    assert done.code == 2 and "numbers of at least 1, got 1 data and --num_particles 0\n" in done.err
    (tmp_path / "whole.csv").write_text("a,b,c\n1,2,0.5\n")
    done = call("encode", runs / "table", "--quiet --split train --data", tmp_path / "whole.csv")
    assert done.code == 2 and "encode needs at least 2 data" in done.err


def test_errors_of_columns_are_not_mixed():
    """The RMSE of a table's columns together would add squares of years, money and codes of levels."""
    first = {"run": "r", "data": "d", "split": "all", "weights": "w", "num_draws": 2, "num_particles": 5, "seed": 0}
    first |= {"missing": 0.1, "num_data": 3, "method": "psis", "sd": 1.0, "ess_median": 4.0, "unreliable": 0.0}
    error = {"num_elements": 2, "level": 0.9, "rmse": 7.0, "rmse_error": 1.0, "coverage": 0.9, "coverage_error": 0.1}
    first["error"] = error | {"crps": 3.0, "crps_error": 1.0}
    assert {"RMSE", "CRPS", "coverage"} <= set(readable(first))
    columns = {"age": {"num_elements": 2, "rmse": 7.0, "rmse_error": 1.0}}
    found = readable(first | {"columns": columns})
    assert not {"RMSE", "CRPS"} & set(found) and found["hidden age"] == "RMSE 7 (se 1), of 2 values"
