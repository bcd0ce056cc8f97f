"""The examples of the estimators, on a small setting: their tables are complete, and saved as they are printed."""

import json

from tests.house.test_examples import run


def test_outliers(tmp_path, capsys):
    sizes = ["--methods", "elbo", "--divisions", 2, "--epochs", 1, "--hidden", 4, "--batch_size", 100, "--trees", 20]
    table = run("outliers", *sizes, "--out", tmp_path)
    assert table == json.loads((tmp_path / "table.json").read_text())
    assert (
        list(table) == ["VAE, `elbo`", "IsolationForest", "PCA, log p(x)"]
        and "| PCA, log p(x) |" in capsys.readouterr().out
    )
    assert all(
        len(values) == 2 and 0 <= min(values) <= max(values) <= 1 for row in table.values() for values in row.values()
    )
    assert min(table["IsolationForest"]["auroc"]) > 0.9


def test_grid_search(tmp_path, capsys):
    sizes = [
        "--models",
        "PCA",
        "VAE",
        "--latent_dims",
        1,
        "--folds",
        2,
        "--epochs",
        1,
        "--hidden",
        4,
        "--num_particles",
        10,
    ]
    table = run("grid_search", *sizes, "--out", tmp_path)
    assert table == json.loads((tmp_path / "table.json").read_text()) and list(table) == ["PCA", "VAE"]
    assert (
        table["VAE"]["chosen"] == "1" and len(table["PCA"]["tried"]) == 24 and "| VAE | 1 |" in capsys.readouterr().out
    )
    assert table["PCA"]["folds"] == max(table["PCA"]["tried"].values()) > table["VAE"]["folds"]
