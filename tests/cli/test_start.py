"""What a command does not wait for: modules that it has no use for, and pictures that are drawn twice."""

import json
import subprocess
import sys

import pytest

UNUSED = {
    *("arviz", "arviz_stats", "pandas", "scipy.stats", "sklearn", "torch._dynamo", "torchvision", "xarray", "zuko"),
    *("matplotlib.pyplot", "sympy", "tensorboard", "onnx"),
}
"""Each takes tenths of a second or seconds to import."""

FIT = ["fit", "--epochs", "1", "--vae.latent_dim", "2", "--vae.encoder.hidden", "[8]", "--vae.decoder.hidden", "[8]"]


def in_a_process(folder, words, modules=UNUSED):
    """Run a command, and report what it imported beyond torch and Pyro, and how often it drew each figure."""
    script = f"""
import json, sys
import torch, pyro
before = set(sys.modules)
from pyro_vae.cli import main
drawn, code = [], 0
if {"true" in words}:
    from matplotlib.figure import Figure
    draw = Figure.draw
    Figure.draw = lambda figure, renderer: (drawn.append(id(figure)), draw(figure, renderer))
code = main({words!r})
unused = {modules!r} & (set(sys.modules) - before)
print(json.dumps(dict(code=code, unused=sorted(unused), draws=len(drawn), figures=len(set(drawn)),
                      matplotlib="matplotlib" in sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return {**json.loads(last), "printed": "\n".join(printed), "err": done.stderr}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    return folder, in_a_process(folder, [*FIT, "--run", "r", "--pictures", "true", "--json"])


def test_fit_imports_what_it_uses(fitted):
    assert fitted[1]["code"] == 0 and fitted[1]["unused"] == []


def test_each_picture_is_drawn_once_and_said(fitted):
    """At the end, after the training's last line."""
    folder, found = fitted
    pictures = [folder / path for path in json.loads(found["printed"])["pictures"]]
    assert found["draws"] == found["figures"] == len(pictures) == len(list((folder / "r/pictures").iterdir())) == 6
    assert found["err"].splitlines()[-1] == "drawing pictures" and found["err"].count("drawing") == 1


def test_without_pictures_no_matplotlib(tmp_path):
    found = in_a_process(tmp_path, [*FIT, "--run", "r", "--pictures", "false"])
    assert found["code"] == 0 and found["unused"] == [] and not found["matplotlib"]


def test_a_resumed_training_neither(fitted):
    """Its optimizer's state is read back."""
    folder, _ = fitted
    found = in_a_process(folder, [*FIT, "--run", "r", "--pictures", "false"])
    assert found["code"] == 0 and found["unused"] == []


def test_evaluate_imports_what_it_uses(fitted):
    found = in_a_process(fitted[0], ["evaluate", "r", "--num_data", "20", "--num_particles", "100"])
    assert found["code"] == 0 and found["unused"] == []
