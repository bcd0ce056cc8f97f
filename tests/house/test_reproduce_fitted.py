"""The tables of models that are fitted and evaluated, on a small setting: what they save, resume, refuse and print."""

import importlib
import json
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_vae import load, load_data, reconstruct
from tests.support.stopping import signals_at

DOCS = Path(__file__).parents[2] / "docs"
sys.path.append(str(DOCS))
make = importlib.import_module("make_results")
REPRODUCE = Path(__file__).parents[2] / "examples" / "reproduce"
BASE, AFTER = "static-1-vae-1", "static-1-dreg-5"


@pytest.fixture
def script(tmp_path):
    """A script by its name as a function of words; its neighbours are found as when it runs by itself."""
    before, names = list(sys.path), set(sys.modules)

    def call(name, *words):
        namespace = runpy.run_path(str(REPRODUCE / f"{name}.py"))
        where = ["--quick", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "results")]
        return namespace["main"](namespace["parser"]().parse_args([*where, *map(str, words)]))

    yield call
    sys.path[:] = before
    for name in set(sys.modules) - names:
        if str(REPRODUCE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_row_after_another(script, tmp_path, capsys):
    """The numbers are those of the saved estimate; the row that it begins with is trained, and nothing twice."""
    result = script("iwae_tables", "--only", AFTER)
    assert result == json.loads((tmp_path / "results" / "iwae_tables.json").read_text()) and list(result["parts"]) == [
        AFTER
    ]
    part, run = result["parts"][AFTER], tmp_path / "runs" / AFTER / "run"
    with np.load(run / "evidence-test.npz") as arrays:
        log_p = arrays["log_p"]
    nll = part["values"]["nll"]
    assert nll["value"] == pytest.approx(-log_p.mean(), rel=1e-6) and len(log_p) == 200
    assert nll["error"] == pytest.approx(log_p.std(ddof=1) / 200**0.5, rel=1e-6) and 0 < nll["monte_carlo_error"] < 1
    assert part["passes"] == 4 and part["passes_published"] == 3280 and part["after"] == BASE
    assert part["published"] == {"nll": 87.63, "active_units": "22", "passes": 3280}
    assert "--objective DReG" in part["fit"] and f"--start_from RUNS/{BASE}/run" in part["fit"]
    assert part["cpu_seconds"] > 0 and part["evaluation"]["cpu_seconds"] > 0 and str(tmp_path) not in part["fit"]
    assert f"published 87.63 after 3280: NLL {nll['value']:.2f} ± {nll['error']:.2f}\n" in capsys.readouterr().out
    row = f"| 1-dreg-5 | 87.63 | {nll['value']:.2f} ± {nll['error']:.2f} | {nll['value'] - 87.63:+.2f} | "
    assert row in make.content(tmp_path, "iwae_tables")
    before = {
        path: path.stat().st_mtime_ns for path in [*tmp_path.glob("runs/*/run/*"), *tmp_path.glob("runs/*/*.json")]
    }
    assert script("iwae_tables", "--only", AFTER)["parts"][AFTER] == part
    assert all(path.stat().st_mtime_ns == time for path, time in before.items()) and len(before) > 5


def test_stopped_and_resumed(script, tmp_path, capsys):
    """The time before the stop counts; what a row is at can be listed, and other options are refused."""
    with signals_at({20: signal.SIGTERM}), pytest.raises(SystemExit) as stop:
        script("iwae_tables", "--only", BASE)
    spent = json.loads((tmp_path / "runs" / BASE / "part.json").read_text())["cpu_seconds"]
    assert stop.value.code == 128 + signal.SIGTERM and spent > 0
    assert script("iwae_tables", "--list") == {}
    listed = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "passes" in line}
    assert listed[BASE].endswith("published 88.71 after 3280: epoch 1 of 2") and len(listed) == 34
    assert "4 passes" in listed[AFTER] and listed[AFTER].endswith(": not begun")
    part = script("iwae_tables", "--only", BASE)["parts"][BASE]
    assert part["cpu_seconds"] > spent and part["passes"] == 2
    with pytest.raises(SystemExit, match="holds a training with other options"):
        script("iwae_tables", "--only", BASE, "--epochs", 3)


def test_priors_guides_and_layers(script):
    """Every model of the table trains and is evaluated, two layers with a VampPrior among them."""
    parts = script("vamp", "--only", "static-hvae-vamp", "static-guide-householder", "--epochs", 1)["parts"]
    assert set(parts) == {"static-hvae-vamp", "static-guide-householder"}
    assert all(part["passes"] == 1 and 15 < part["values"]["nll"]["value"] < 45 for part in parts.values())
    assert parts["static-hvae-vamp"]["published"]["nll"] == 83.19 and not parts["static-guide-householder"]["published"]


def test_best_small_is_chosen_on_validation_images(script, tmp_path, capsys):
    """Rows are shared with `vamp.py`, whose values do not replace those on `valid`; the choice is by these."""
    rows = ["static-hvae-vamp", "static-hvae-vamp-dreg-5"]
    parts, told = script("best_small", "--only", *rows)["parts"], capsys.readouterr().out
    for name in rows:
        saved = json.loads((tmp_path / "runs" / name / "run" / "evidence-valid.json").read_text())
        assert parts[name]["values"]["valid_nll"]["value"] == saved["nll"] != parts[name]["values"]["nll"]["value"]
        assert f", on valid {saved['nll']:.2f}\n" in told
    assert script("vamp", "--only", rows[0])["parts"][rows[0]] == parts[rows[0]]
    page = make.content(tmp_path, "best_small")
    best = min(rows, key=lambda name: parts[name]["values"]["valid_nll"]["value"])
    assert f"Chosen on validation images: `{best}`" in page and page.count("| hvae-vamp") == 2
    for name in rows:
        parts[name]["values"]["valid_nll"]["value"] *= -1  # the other one, whatever its NLL on test
    (tmp_path / "results" / "best_small.json").write_text(json.dumps({"parts": parts}))
    assert f"Chosen on validation images: `{best}`" not in make.content(tmp_path, "best_small")


def test_softened_images(script, tmp_path):
    """Half the image, half its reconstruction by the row before; what is evaluated are the images themselves."""
    first, last = "static-hvae-vamp-softened", "static-hvae-vamp-softened-dreg-5"
    parts = script("best_small", "--only", first, last, "--epochs", 1)["parts"]
    data, teacher = load_data("digits", binarize="threshold"), load(tmp_path / "runs" / "static-hvae-vamp" / "run")
    with np.load(tmp_path / "runs" / first / "softened.npz") as arrays:
        found = {split: torch.from_numpy(arrays[split]) / 255 for split in arrays}
    x = data.split("train")
    torch.testing.assert_close(found["train"], (x + reconstruct(teacher, x, num_particles=10)) / 2, rtol=0, atol=0.003)
    assert all((found[split] - data.split(split)).abs().max() < 0.003 for split in ("valid", "test"))
    assert f"--data RUNS/{first}/softened.npz --binarize dynamic" in parts[first]["fit"]
    assert parts[first]["teacher"] == "static-hvae-vamp" and parts[first]["passes"] == 2
    assert "--data digits" in parts[last]["fit"] and parts[last]["after"] == first and parts[last]["passes"] == 3


def test_shifted_images(script, tmp_path):
    """Nine of each: moved by a pixel or less; what is evaluated are the images themselves."""
    first, last = "static-hvae-skip-vamp-shifted", "static-hvae-skip-vamp-shifted-elbo"
    parts = script("best_small", "--only", first, last, "--epochs", 1)["parts"]
    data = load_data("digits", binarize="threshold")
    with np.load(tmp_path / "runs" / first / "shifted.npz") as arrays:
        found = {split: torch.from_numpy(arrays[split]) / 255 for split in arrays}
    x, nine = data.split("train"), found["train"].unflatten(0, (9, -1))
    assert torch.equal(nine[4], x) and all((found[split] == data.split(split)).all() for split in ("valid", "test"))
    assert torch.equal(nine[0][:, :-1, :-1], x[:, 1:, 1:]) and torch.equal(nine[5][:, :, 1:], x[:, :, :-1])
    assert len({image.numpy().tobytes() for image in nine[:, 0]}) == 9
    assert f"--data RUNS/{first}/shifted.npz" in parts[first]["fit"] and parts[first]["passes"] == 9
    assert "--data digits" in parts[last]["fit"] and parts[last]["after"] == first and parts[last]["passes"] == 10


def test_shifted_grey_images(script, tmp_path):
    """They are binarised afresh at each visit, and the images that are evaluated are those of the other rows."""
    name = "dynamic-hvae-skip-vamp-shifted"
    parts = script("best_small", "--only", name, "--epochs", 1)["parts"]
    file, grey = tmp_path / "runs" / name / "shifted.npz", load_data("digits")
    with np.load(file) as arrays:
        assert (
            torch.from_numpy(arrays["train"][4 * len(grey.train) :][:9]) / 255 - grey.split("train")[:9]
        ).abs().max() < 0.003
    assert f"--data RUNS/{name}/shifted.npz --binarize dynamic" in parts[name]["fit"]
    ours, theirs = load_data(file, binarize="dynamic"), load_data("digits", binarize="dynamic")
    assert all((ours.split(split) != theirs.split(split)).float().mean() < 0.003 for split in ("valid", "test"))
