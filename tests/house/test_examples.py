"""The longer examples, on a small setting: that they run, and that their tables and pictures are what they say."""

import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pyro_vae.likelihoods import NegativeBinomial
from pyro_vae.shapes import Shapes

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *words):
    namespace = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    return namespace["main"](namespace["parser"]().parse_args([str(word) for word in words]))


def test_compare_parts(tmp_path, capsys):
    """Two tables that share a run; differences are those of the saved estimates, and nothing is done twice."""
    options = [
        "--tables",
        "guides",
        "layers",
        "--epochs",
        1,
        "--num_particles",
        20,
        "--num_data",
        30,
        "--out",
        tmp_path,
    ]
    tables = run("compare_parts", *options, "--fit", "--quiet", "--pictures", "false")
    assert list(tables["guides"]) == ["DiagonalNormal", "FullNormal", "InverseAutoregressiveFlow"]
    assert tables["layers"]["one"] == tables["guides"]["DiagonalNormal"] and len(list(tmp_path.iterdir())) == 5
    runs = [next(tmp_path.glob(pattern)) for pattern in ("*FullNormal", "50-MLP-200x200-MLP-200x200")]
    full, diagonal = (np.load(path / "evidence-test.npz")["log_p"] for path in runs)
    row = tables["guides"]["FullNormal"]
    assert row["better_by"] == pytest.approx((full - diagonal).mean()) and row["num_data"] == len(full) == 30
    assert row["standard_error_paired"] == pytest.approx((full - diagonal).std(ddof=1) / 30**0.5)
    assert "| FullNormal |" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*") if path.name.startswith("evidence")}
    assert run("compare_parts", *options, "--fit", "--quiet", "--pictures", "false") == tables
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_cvae_quadrants(tmp_path):
    options = ["--given", 1, 3, "--epochs", 2, "--hidden", 32, "--latent_dim", 4, "--num_particles", 20]
    table = run("cvae_quadrants", *options, "--out", tmp_path)
    assert json.loads((tmp_path / "table.json").read_text()) == table and (tmp_path / "3.png").stat().st_size > 1000
    for row in table.values():
        assert row["cvae"] < row["cvae_elbo"] and row["num_data"] == 200
        assert row["cvae_standard_error_data"] > 0 and row["baseline_standard_error_data"] > 0
    assert table["3 given"]["baseline"] < table["1 given"]["baseline"] / 2


def test_clusters(tmp_path, capsys):
    sizes = ["--seeds", 0, 1, "--epochs", 20, "--joint_epochs", 3, "--hidden", 64, "--lr", 3e-3, "--batch_size", 50]
    rows = run("clusters", *sizes, "--out", tmp_path)
    saved = json.loads((tmp_path / "table.json").read_text())
    means = saved.pop("mean")
    assert means["nmi"] == pytest.approx((rows["seed 0"]["nmi"] + rows["seed 1"]["nmi"]) / 2)
    assert saved == rows and all(row["accuracy"] > 0.3 and row["num_data"] == 200 for row in rows.values())
    assert (tmp_path / "clusters-1.png").stat().st_size > 1000 and "mean of 2 seeds" in capsys.readouterr().out


@pytest.mark.slow  # M2 alone is among the recipes, two stages among the clusters
def test_m1_m2(capsys):
    """Classes are found in the codes of a VAE that saw no label, better than chance by far."""
    sizes = ["--m1_epochs", 20, "--m1_latent_dim", 8, "--hidden", 64, "--latent_dim", 2, "--batch_size", 50]
    found = run("m1_m2", *sizes, "--epochs", 5, "--draws", 3, "--labelled", 50, "--repeats", 5, "--lr", 3e-3)
    told = capsys.readouterr().out
    assert "3 draws of q(z|x)" in told and "50 labels" in told
    assert found > 0.5


def test_held_out_digits(tmp_path, capsys):
    """A cell a digit, every score in it; what is saved is not done again."""
    sizes = ["--digits", 6, "--epochs", 3, "--background_epochs", 1, "--hidden", 16, "--max_steps", 50]
    sizes += ["--num_data", 100, "--valid_size", 100]
    options = [*sizes, "--num_particles", 20, "--members", 2, "--out", tmp_path]
    table = run("held_out_digits", *options)
    cell = table["digit6-latent2"]
    assert len(cell) == 10 and all(0 <= c["auroc"]["low"] <= c["auroc"]["value"] <= 1 for c in cell.values())
    assert cell["elbo"]["num_anomalies"] + cell["elbo"]["num_normal"] == 100
    assert "| `ensemble` |" in capsys.readouterr().out
    assert run("held_out_digits", *options) == table


def test_fashion_against_mnist(tmp_path, capsys):
    """On digits upside down: every way has its row, and the pictures are there."""
    sizes = ["--epochs", 3, "--background_epochs", 1, "--hidden", 16, "--max_steps", 50, "--num_data", 60]
    table = run("fashion_against_mnist", *sizes, "--num_particles", 20, "--members", 2, "--out", tmp_path)
    assert len(table) == 11 and table == json.loads((tmp_path / "table-all.json").read_text())
    assert all(row["num_normal"] == 60 and row["seconds"] > 0 for row in table.values())
    assert (
        tmp_path / "regret-50-steps.png"
    ).stat().st_size > 1000 and "| regret, 50 steps |" in capsys.readouterr().out


def test_false_alarms(tmp_path):
    """The mean over 300 divisions is the promise, within 4 standard errors: false alarm 6e-5 for each of 6."""
    table = run("false_alarms", "--divisions", 300, "--out", tmp_path)
    assert len(table) == 6 and table == json.loads((tmp_path / "table.json").read_text())
    for found in table.values():
        assert abs(found["mean"] - found["promise"]) < 4 * found["standard_error"]
        assert found["range"][0] <= found["promise"] <= found["range"][1] and found["num_calibration"] == 200


def test_missing_not_at_random(tmp_path):
    """A table of 12 columns: every method has its error, and the two models differ."""
    x = np.random.default_rng(0).normal(size=(60, 1)) + 0.5 * np.random.default_rng(1).normal(size=(60, 12))
    np.savetxt(tmp_path / "wine.csv", x, delimiter=";", header="names", comments="")
    sizes = ["--epochs", 2, "--num_particles", 3, "--draws", 50, "--hidden", 8, "--latent", 2]
    rows = run("missing_not_at_random", tmp_path / "wine.csv", *sizes)
    assert [row.get("method", row.get("missing")) for row in rows][-2:] == ["random", "high"] and len(rows) >= 3
    assert all(0 < row["rmse"] < 3 for row in rows) and rows[-1]["rmse"] != rows[-2]["rmse"]
    assert len(rows[-1]["slopes"]) == 5 and min(rows[-1]["slopes"]) > 0


def test_impute_table(tmp_path, capsys):
    """From CSV to CSV: what was observed is as it was, and every column has its errors by both methods."""
    sizes = ["--num", 120, "--epochs", 2, "--hidden", 8, "--num_particles", 20, "--quiet", "--out", tmp_path]
    found = run("impute_table", *sizes)
    before, after = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("people", "imputed"))
    assert list(before.columns) == list(after.columns) and not after.isna().any(axis=None)
    text = ["city", "education", "smoker"]
    assert ((before == after) | before.isna())[[*text, "visits"]].all(axis=None)
    assert found == json.loads((tmp_path / "table.json").read_text()) and list(found["VAE"]) == list(before.columns)
    assert all(row["num_elements"] == before[name].isna().sum() for name, row in found["VAE"].items())
    assert [row["measure"] == "wrong" for row in found["VAE"].values()] == [name in text for name in before.columns]
    assert "| city | wrong |" in capsys.readouterr().out


def test_missing_data(tmp_path, capsys):
    """After one epoch the error is near that of the mean, about 1 in units of standard deviations."""
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    sizes = ["--masks", 100, "--epochs", 1, "--hidden", 8, "--K", 2, "--num_particles", 10, "--runs", 2]
    found = run("missing_data", *sizes, "--baselines", "none", "--quiet", "--out", tmp_path / "errors.json")
    assert json.loads((tmp_path / "errors.json").read_text()) == found and list(found) == ["mask 100"]
    for row in found.values():
        assert list(row) == ["MIWAE", "average of 2 runs"] and all(0.4 < value < 1.5 for value in row.values())
    assert "| MIWAE | " in capsys.readouterr().out


def test_counts(tmp_path, capsys):
    """Neither beats the process that drew the cells, and the negative binomial is far better than Poisson."""
    pytest.importorskip("sklearn", reason="scikit-learn is an extra")
    sizes = ["--cells", 450, "--genes", 20, "--epochs", 15, "--hidden", 16, "--latent", 2, "--num_particles", 50]
    result = run("counts", *sizes, "--out", tmp_path / "counts.json")
    assert json.loads((tmp_path / "counts.json").read_text()) == result and "| Poisson VAE |" in capsys.readouterr().out
    assert result["negative binomial"]["below_truth"] > 0 and result["Poisson"]["below_truth"] > 0
    assert result["difference"]["value"] > 4 * result["difference"]["error"]
    difference = result["negative binomial"]["log_p"] - result["Poisson"]["log_p"]
    assert result["difference"]["value"] == pytest.approx(difference)
    assert abs(result["negative binomial"]["agreement"]["batches"]["value"]) < 0.1


def test_counts_truth():
    """The exact log p(x|c) sums to one over the counts of a gene, and with one mean it is the package's likelihood."""
    namespace = runpy.run_path(str(EXAMPLES / "counts.py"))
    x, means = np.arange(3000)[:, None], np.array([1.0, 2.0, 5.0, 9.0])[:, None, None]
    assert np.exp(namespace["log_density"](x, means)).sum() == pytest.approx(1, abs=1e-9)
    likelihood = NegativeBinomial(Shapes((1,), 1), dispersion=namespace["THETA"])
    ours = likelihood(torch.full((10, 1, 1), np.log(5.0))).log_prob(torch.arange(10.0)[:, None])[:, 0]
    assert namespace["log_density"](x[:10], np.full((4, 1, 1), 5.0)) == pytest.approx(ours.double().numpy(), abs=1e-5)
