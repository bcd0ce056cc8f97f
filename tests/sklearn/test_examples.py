"""The examples of the estimators, on a small setting: their tables are complete, and saved as they are printed."""

import json

from tests.house.test_examples import run


def test_outliers(tmp_path, capsys):
    sizes = ["--methods", "elbo", "--divisions", 2, "--epochs", 1, "--hidden", 4, "--batch_size", 100]
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
