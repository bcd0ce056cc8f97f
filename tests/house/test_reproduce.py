"""The scripts that reproduce published results, on a small setting: what they save, resume and refuse."""

import argparse
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae.guides import DiagonalNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.shapes import Shapes

REPRODUCE = Path(__file__).parents[2] / "examples" / "reproduce"


@pytest.fixture(scope="module")
def figure2():
    """`aevb_figure2.py` as a function of words."""
    yield from script("aevb_figure2.py")


@pytest.fixture(scope="module")
def figure3():
    """`aevb_figure3.py` as a function of words."""
    yield from script("aevb_figure3.py")


@pytest.fixture(scope="module")
def full():
    """`full_variational.py` as a function of words."""
    yield from script("full_variational.py")


def script(name):
    """A script as a function of words; its neighbours are found as when a script runs."""
    before = list(sys.path)
    namespace = runpy.run_path(str(REPRODUCE / name))
    yield lambda *words: namespace["main"](namespace["parser"]().parse_args([str(word) for word in words]))
    sys.path[:] = before
    for name in ("record", "curves", "variances", "machine", "aevb_figure3"):
        sys.modules.pop(name, None)


def part(folder, name="mnist-20-aevb"):
    return json.loads((folder / "aevb_figure2.json").read_text())["parts"][name]


def test_figure2_is_resumed_and_lengthened(figure2, tmp_path):
    """What is done is not done again, and a longer training has the shorter one's points, and further ones."""
    where = ["--quick", "--only", "mnist-20-aevb", "--runs", tmp_path / "runs", "--out", tmp_path]
    figure2(*where, "--samples", 900)
    first, run = part(tmp_path), tmp_path / "runs" / "mnist-20-aevb"
    assert first["curves"]["samples"] == [300, 600, 900] and first["samples"] == 900 and first["passes"] == 3
    assert first["step"] in (0.01, 0.02, 0.1) and max(first["trials"].values()) == first["trials"][f"{first['step']:g}"]
    for name in ("test", "train"):
        last = {"value": first["curves"][name][-1], "error": first["curves"][f"{name}_error"][-1]}
        assert first["values"][name] == last and -60 < last["value"] < -20 and 0 < last["error"] < 3
    assert {"command", "version", "commit", "finished", "machine", "threads", "seed", "data", "protocol"} <= set(first)
    assert first["cpu_seconds"] > 0 and first["wall_seconds"] > 0 and first["passes_published"] > 3

    before = {path: path.stat().st_mtime_ns for path in run.glob("step*/*")}
    figure2(*where, "--samples", 900)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert part(tmp_path)["curves"] == first["curves"]

    figure2(*where, "--samples", 1200)
    second = part(tmp_path)
    assert second["curves"]["samples"] == [300, 600, 900, 1200] and second["cpu_seconds"] > first["cpu_seconds"]
    assert all(values[:3] == first["curves"][name] for name, values in second["curves"].items())
    assert second["values"]["test"]["value"] > first["values"]["test"]["value"]


def test_figure2_of_frey_face_and_wake_sleep(figure2, tmp_path):
    """A density, and another objective; parts of several calls are in one file, and bounds rise."""
    where = ["--quick", "--samples", 1500, "--runs", tmp_path / "runs", "--out", tmp_path]
    figure2(*where, "--only", "frey-10-aevb")
    figure2(*where, "--only", "mnist-20-wake-sleep")
    for name in ("frey-10-aevb", "mnist-20-wake-sleep"):
        curves = part(tmp_path, name)["curves"]
        assert curves["test"][-1] > curves["test"][0] and len(set(map(len, curves.values()))) == 1
    assert "wake-sleep" in part(tmp_path, "mnist-20-wake-sleep")["protocol"]


def test_parts_of_another_machine_stay(figure2, tmp_path):
    """The file keeps what is not computed here, and gets what is."""
    file = tmp_path / "aevb_figure2.json"
    there = {"values": {"test": {"value": -100.0, "error": 1.0}}, "seed": 7}
    file.write_text(json.dumps({"parts": {"mnist-20-wake-sleep": there, "frey-10-wide": there}}))
    figure2("--quick", "--samples", 300, "--only", "frey-10-wide", "--runs", tmp_path / "runs", "--out", tmp_path)
    assert part(tmp_path, "mnist-20-wake-sleep") == there and part(tmp_path, "frey-10-wide")["seed"] == 0


def test_figure2_refuses(figure2, tmp_path):
    with pytest.raises(SystemExit, match="no result: give another folder by --out"):
        figure2("--quick", "--runs", tmp_path)
    with pytest.raises(SystemExit, match="--data_root"):
        figure2("--out", tmp_path, "--runs", tmp_path)
    with pytest.raises(SystemExit, match=r"expected mnist-20-aevb, .*; got mnist-21-aevb"):
        figure2("--quick", "--out", tmp_path, "--only", "mnist-21-aevb")
    assert not list(tmp_path.iterdir())


def test_an_error_is_one_line(figure2, tmp_path, capsys, monkeypatch):
    """Another seed is another training: it can't go on in the folder of the first."""
    import record

    where = ["--quick", "--samples", 300, "--only", "frey-10-wide", "--runs", tmp_path, "--out", tmp_path]
    figure2(*where)
    assert "N(0, 0.1^2)" in part(tmp_path, "frey-10-wide")["protocol"]
    (tmp_path / "frey-10-wide" / "part.json").unlink()
    monkeypatch.setattr(sys, "argv", ["a.py"])
    with pytest.raises(SystemExit) as ended:
        record.script(lambda _: figure2(*where, "--seed", 1), argparse.ArgumentParser())
    assert ended.value.code == 4 and "seed is 0 there, 1 here" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["aevb", "mcem"])
def test_figure3_measures_log_p_twice(figure3, tmp_path, method):
    """Importance sampling and appendix D agree, and a longer training goes on, with its chains where it has some."""
    name, where = f"n1000-{method}", ["--quick", "--runs", tmp_path / "runs", "--out", tmp_path]
    for samples in (200, 400):
        figure3(*where, "--only", name, "--samples", samples)
    found = json.loads((tmp_path / "aevb_figure3.json").read_text())["parts"][name]
    curves = found["curves"]
    assert curves["samples"] == [200, 400] and found["protocol"].count(method)
    assert found["appendix_d"]["samples"] == 400
    assert abs(found["appendix_d"]["value"] - curves["test"][-1]) < 0.3 and 0 <= found["appendix_d"]["flagged"] <= 1
    for split in ("test", "train"):
        assert found["values"][split] == {"value": curves[split][-1], "error": curves[f"{split}_error"][-1]}
        assert curves[split][-1] > curves[split][0]


def test_full_variational(full, tmp_path):
    """Weights with a posterior: its divergence counts, and averages over it differ from its mean."""
    full("--quick", "--only", "full", "--runs", tmp_path / "runs", "--out", tmp_path)
    curves = json.loads((tmp_path / "full_variational.json").read_text())["parts"]["full"]["curves"]
    assert curves["samples"] == [200] and curves["divergence"][0] > 10
    assert 0 < abs(curves["predictive"][0] - curves["test"][0]) < 1


def test_normals_by_variance(figure2):
    """The logarithm of the variance is twice that of the standard deviation: the package's densities, at half of it."""
    from variances import NormalByVariance, SigmoidNormal

    shapes, params = Shapes((3,), 2), torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    halved = torch.stack([params[0], params[1] / 2])
    x = torch.linspace(0, 1, 3).expand(5, 3)
    expected = Normal(shapes, scale="per_element", bounded=True, min_scale=0.0).distribution(*halved).log_prob(x)
    torch.testing.assert_close(SigmoidNormal(shapes).distribution(*params).log_prob(x), expected)
    params, halved = (p[..., :2].transpose(0, 1) for p in (params, halved))
    expected = DiagonalNormal(shapes).distribution(halved).log_prob(x[:, :2])
    torch.testing.assert_close(NormalByVariance(shapes).distribution(params).log_prob(x[:, :2]), expected)


def test_a_command_names_no_folder_of_this_machine(figure2, tmp_path, monkeypatch):
    import record

    words = [str(REPRODUCE / "a.py"), "--data_root", "here", "--out", str(tmp_path), "--samples", "1e7"]
    monkeypatch.setattr(sys, "argv", words)
    command = record.provenance()["command"]
    assert command == "python examples/reproduce/a.py --data_root FOLDER --out FOLDER --samples 1e7"
