"""`--missing`: data with gaps in `fit` and in the commands that read a run's data."""

import json

import numpy as np
import pytest
import yaml

from tests.cli.test_cli import call

FIT = "--vae.likelihood Normal --vae.latent_dim 2 --vae.encoder.hidden [8] --vae.decoder.hidden [8] --epochs 1 --quiet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gaps")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 4)).astype(np.float32)
    x[generator.random(x.shape) < 0.4] = np.nan
    np.savez(folder / "x.npz", train=x[:40], test=x[40:])
    np.savez(folder / "coded.npz", train=np.nan_to_num(x[:40], nan=-9), test=np.nan_to_num(x[40:], nan=-9))
    done = call("fit", FIT, "--missing nan --pictures false --data", folder / "x.npz", "--run", folder / "run")
    assert done.code == 0
    return folder


def test_the_run_keeps_the_option(folder):
    config = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert config["missing"] == "nan"
    assert "missing" in call("info", folder / "run").out


@pytest.mark.parametrize("given", ["--missing -9", "YAML"])
def test_a_number_gives_the_same_run(folder, tmp_path, given):
    if given == "YAML":
        (tmp_path / "missing.yaml").write_text("missing: -9\n")
        given = f"--config {tmp_path / 'missing.yaml'}"
    done = call("fit", FIT, given, "--pictures false --data", folder / "coded.npz", "--run", tmp_path / "run")
    assert done.code == 0
    rows = [(run / "metrics.csv").read_text().splitlines()[1].split(",") for run in (folder / "run", tmp_path / "run")]
    assert rows[0][2:-1] == rows[1][2:-1]  # all but the seconds


def test_commands_read_the_gaps(folder):
    quick = "--num_particles 20 --json"
    found = json.loads(call("evaluate", folder / "run", quick).out)
    coded = json.loads(call("evaluate", folder / "run", quick, "--data", folder / "x.npz").out)
    assert found["log_p"] == coded["log_p"] and "missing" in found["data"]
    restored = json.loads(call("restore", folder / "run", "--num 5 --num_draws 4 --method encoder --channel.share 0.3", quick).out)  # fmt: skip  # noqa: E501
    assert restored["mean_squared_error"] >= 0 and np.isfinite(restored["log_p_truth"])
    assert json.loads(call("reconstruct", folder / "run", "--num 5 --json").out)["mean_squared_error"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--missing foo", "--missing: unknown value 'foo'. Known: nan, mask, a number, null"),
        (
            "--missing mask",
            "a mask is given for no split, expected train, test: add the other arrays to the .npz",
        ),
        ("--divide_by 1", "if NaN means not observed, pass --missing nan to fit or impute"),
    ],
)
def test_what_is_refused(folder, tmp_path, options, message):
    done = call("fit", FIT, options, "--data", folder / "x.npz", "--run", tmp_path / "run")
    assert done.code != 0 and message in done.err and "Traceback" not in done.err
