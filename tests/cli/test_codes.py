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
        aggregate = found["aggregate"]
        assert aggregate["marginal_kl"]["standard_error_data"] > 0 and aggregate["num_data"] == 20
        assert aggregate["information"]["mean"] <= aggregate["log_num_data"] + 1e-9
        assert is_png(run / "pictures/codes-test-num20.png")
        with np.load(run / "pictures/codes-test-num20.npz") as saved:
            assert saved["z"].shape == (3, 20, 2) and saved["z_mean"].shape == saved["z_sd"].shape == (20, 2)
            assert saved["label"].shape == (20,)

    def test_known_factors(self, run, tmp_path):
        labels = call("encode", run, "--quiet --num_draws 1 --out", tmp_path / "c.npz")
        assert labels.code == 0
        with np.load(tmp_path / "c.npz") as saved:
            np.save(tmp_path / "f.npy", saved["z_mean"] @ np.array([[0.0], [2.0]]))
        done = call(
            "encode", run, "--quiet --json --num_draws 1 --out", tmp_path / "c.npz", "--factors", tmp_path / "f.npy"
        )
        found = json.loads(done.out)["factors"]
        assert found["mig"]["value"] > 0.5 and found["sap"]["standard_error"] > 0
        short = call("encode", run, "--num 5 --quiet --factors", tmp_path / "f.npy")
        assert short.code == 2 and "expected 5 rows" in short.err

    def test_netcdf(self, run, tmp_path):
        done = call("encode", run, "--num 5 --num_draws 4 --quiet --out", tmp_path / "c.nc")
        assert done.code == 0 and "KL of q(z) from p(z)" in done.out
        assert "at most log N = 1.61" in done.out
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
            ("--num_draws 0", "--num_draws must be at least 1"),
            ("--out c.txt", "--out must end in .png or .npz or .nc"),
            ("--data nowhere.npz", "nowhere.npz"),
        ],
    )
    def test_mistakes(self, run, words, message):
        done = call("encode", run, words, "--quiet")
        assert done.code in (2, 3, 7) and message in done.err and "Traceback" not in done.err


class TestMovedCodes:
    """The commands `traverse`, `manifold`, `interpolate` and `edit`."""

    @pytest.mark.parametrize(
        ("words", "name", "shapes"),
        [
            ("traverse --num 20 --steps 3", "traversal-test-aggregate", {"x": (2, 3, 8, 8), "kl_standard_error": (2,)}),
            ("manifold --num 20 --side 3", "manifold-side3-margin0.05", {"x": (3, 3, 8, 8), "rows": (3,)}),
            (
                "interpolate --num 2 --steps 4 --kind geodesic --bends 2 --num_particles 20",
                "paths-test-geodesic-num2-seed0",
                {"x": (2, 4, 8, 8), "z": (2, 4, 2), "length": (2,), "log_p": (2, 4)},
            ),
            (
                "edit --to 7 --from 1 --num 3 --strengths -1 0 2",
                "edits-test-1-to-7-num3",
                {"edited": (3, 3, 8, 8), "x": (3, 8, 8), "vector": (2,), "found": (3, 3)},
            ),
        ],
    )
    def test_arrays_and_a_picture_in_the_run(self, run, words, name, shapes):
        command, *options = words.split()
        done = call(command, run, *options)
        assert done.code == 0 and "standard error" in done.out and name in done.out
        assert is_png(run / f"pictures/{name}.png")
        with np.load(run / f"pictures/{name}.npz") as saved:
            assert {key: saved[key].shape for key in shapes} == shapes

    def test_numbers_for_programs(self, run, tmp_path):
        found = json.loads(call("traverse", run, "--num 20 --json --out", tmp_path / "t.npz").out)
        assert [row["kl_standard_error"] > 0 for row in found["coordinates"]] == [True, True]
        paths = call("interpolate", run, "--num 2 --num_particles 20 --steps 3 --json --out", tmp_path / "i.npz")
        found = json.loads(paths.out)
        assert found["num_paths"] == 2 and set(found["mean_log_p"]) == set(found["log_p_at_the_ends"])
        found = json.loads(call("edit", run, "--to 3 --num 2 --json --out", tmp_path / "e.npz").out)
        assert [row["strength"] for row in found["edits"]] == [-1.0, 0.0, 0.5, 1.0, 1.5]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ("traverse --along nowhere", "along"),
            ("traverse --datum 1000 --num 20", "--datum: expected an index from 0 to 19"),
            ("traverse --span 0", "--span > 0, got 200 data, steps 9 and span 0.0"),
            ("traverse --dims 0", "--dims must be at least 1"),
            ("manifold --side 1", "--side >= 2"),
            ("interpolate --kind curved", "kind"),
            ("interpolate --num 0", "--num >= 1"),
            ("interpolate --steps 1", "--steps >= 2"),
            ("edit", "--to"),
            ("edit --to 7 --num 0", "--num must be at least 1, got 0"),
            ("edit --to 7 --from 7", "--from another class than --to"),
            ("edit --to 17", "--to 17: valid has 0 such data"),
            ("edit --to 7 --strengths a", "strengths"),
            ("edit --to 7 --reference train --out e.gif", "--out must end in .png or .npz"),
        ],
    )
    def test_mistakes(self, run, words, message):
        command, *options = words.split()
        done = call(command, run, *options)
        assert done.code in (2, 3, 7) and message in done.err and "Traceback" not in done.err

    def test_layers_have_no_such_code(self, tmp_path):
        layers = "--vae HierarchicalVAE --vae.latent_dims [2,2] --vae.encoder.hidden [8] --vae.decoder.hidden [8]"
        assert call("fit", layers, "--epochs 1 --pictures false --quiet --run", tmp_path / "h").code == 0
        done = call("traverse", tmp_path / "h")
        assert done.code == 2 and "one latent site" in done.err
        done = call("encode", tmp_path / "h", "--num 4 --num_draws 5 --quiet")
        assert done.code == 0 and "z2 [2], z1 [2]" in done.out and is_png(tmp_path / "h/pictures/codes-test-num4.png")
