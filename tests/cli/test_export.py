"""`pyro-vae export`: files in the run or elsewhere, and mistakes in one line."""

import sys

import pytest
import torch

from pyro_vae.runs.loading import load
from tests.cli.test_cli import FAST, call, done


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = tmp_path_factory.mktemp("export") / "run"
    assert call("fit --data digits --binarize threshold --epochs 1", FAST, "--run", run).code == 0
    return run


def test_files_in_the_run(run):
    before = sorted(path.name for path in run.iterdir())
    found = done("export", run, "--to torch")
    assert list(found["files"]) == ["encoder", "draw", "decoder"] and found["left_out"] == {}
    encoder = found["files"]["encoder"]
    assert encoder["file"] == str(run / "exported/encoder.pt2") and encoder["largest_difference"] <= 1e-6
    assert encoder["run"] == "run" and encoder["preparation"]["options"] == {"binarize": "threshold", "divide_by": 16}
    assert sorted(path.name for path in run.iterdir()) == sorted([*before, "exported"])
    vae, x = load(run), torch.rand(3, 8, 8).round()
    got = torch.export.load(run / "exported/encoder.pt2").module()(x=x)
    with torch.no_grad():
        assert torch.equal(got["mean"], vae.encode(x).mean)


def test_in_words(run, tmp_path):
    result = call("export", run, "--to torch --raw 16 --parts encoder --out", tmp_path / "there")
    assert result.code == 0 and [path.name for path in (tmp_path / "there").iterdir()] == ["encoder.pt2"]
    assert "raw [batch, 8, 8]" in result.out and "x = raw / 16; then 1 where x > 0.5, else 0" in result.out
    assert "largest difference" in result.out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("--to torch --parts encodr", 2, "--parts: expected one of 'encoder', 'draw', 'decoder'"),
        ("--to tf", 2, "--to"),
        ("--to torch --raw 0", 2, "raw"),
        ("--to torch --raw many", 2, "--raw"),
    ],
)
def test_mistakes(run, words, code, message):
    result = call("export", run, words)
    assert result.code == code and message in result.error


def test_no_run(tmp_path):
    result = call("export", tmp_path / "nope", "--to torch")
    assert result.code == 4 and "there is no run directory" in result.error


def test_a_link_in_the_place_of_the_folder(run, tmp_path):
    """Nothing outside of the run is written through a link in it."""
    other = tmp_path / "run"
    other.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    (tmp_path / "elsewhere").mkdir()
    (other / "exported").symlink_to(tmp_path / "elsewhere")
    result = call("export", other, "--to torch")
    assert result.code == 4 and "refused to use" in result.error and not list((tmp_path / "elsewhere").iterdir())


def test_without_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    result = call("export", run)
    assert result.code == 2 and "pip install 'pyro-vae[onnx]'" in result.error
