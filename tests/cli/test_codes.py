"""`pyro-vae encode` and the other commands that work with codes: what they print, save and refuse."""

import json
import warnings

import numpy as np
import pytest

from tests.cli.test_cli import SMALL, call, is_png


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("codes") / "run"
    assert call("fit", SMALL, "--epochs 1 --pictures false --quiet --run", run).code == 0
    return run


class TestEncode:
    """The command `encode`."""

    def test_arrays_and_a_picture_in_the_run(self, run):
        done = call("encode", run, "--num 20 --num_draws 3 --quiet --json")
        assert done.code == 0
        found = json.loads(done.out)
        assert found["num"] == 20 and found["codes"] == {"z": [2]} and found["mean_error"] is None
        assert found["kl_of_all_codes"]["standard_error"] > 0
        assert is_png(run / "pictures/codes-test-num20.png")
        with np.load(run / "pictures/codes-test-num20.npz") as saved:
            assert saved["z"].shape == (3, 20, 2) and saved["z_mean"].shape == saved["z_sd"].shape == (20, 2)
            assert saved["label"].shape == (20,)

    def test_netcdf(self, run, tmp_path):
        done = call("encode", run, "--num 5 --num_draws 4 --quiet --out", tmp_path / "c.nc")
        assert done.code == 0 and "KL of q(z) from p(z)" in done.out
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            import arviz

            saved = arviz.from_netcdf(tmp_path / "c.nc")
        assert saved["posterior"]["z"].dims == ("chain", "draw", "datum", "z_dim_0")
        assert saved["posterior"]["z"].shape == (1, 4, 5, 2) and saved["constant_data"]["z_sd"].shape == (5, 2)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("--num 1", "--num must be at least 2"),
            ("--num_draws 0", "num_draws must be at least 1"),
            ("--out c.txt", "--out must end in .png or .npz or .nc"),
            ("--data nowhere.npz", "nowhere.npz"),
        ],
    )
    def test_mistakes(self, run, words, message):
        done = call("encode", run, words, "--quiet")
        assert done.code in (2, 3, 7) and message in done.err and "Traceback" not in done.err
