"""The tables of models that are fitted and evaluated, on a small setting: what they save, resume and refuse."""

import json
import runpy
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.stopping import signals_at

REPRODUCE = Path(__file__).parents[2] / "examples" / "reproduce"
BASE, AFTER = "static-1-vae-1", "static-1-dreg-5"


@pytest.fixture
def script(tmp_path):
    """A script by its name as a function of words; its neighbours are found as when it runs by itself."""
    before, names = list(sys.path), set(sys.modules)

    def call(name, *words):
        namespace = runpy.run_path(str(REPRODUCE / f"{name}.py"))
        where = ["--quick", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
        return namespace["main"](namespace["parser"]().parse_args([*where, *map(str, words)]))

    yield call
    sys.path[:] = before
    for name in set(sys.modules) - names:
        if str(REPRODUCE) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_a_row_after_another(script, tmp_path, capsys):
    """The numbers are those of the saved estimate; the row that it begins with is trained, and nothing twice."""
    result = script("iwae_tables", "--only", AFTER)
    assert result == json.loads((tmp_path / "iwae_tables.json").read_text()) and list(result["parts"]) == [AFTER]
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
    assert f"| {AFTER} | {nll['value']:.2f} ± " in capsys.readouterr().out
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
    assert listed[BASE].endswith("published 88.71 after 3280: epoch 1 of 2") and len(listed) == 30
    assert "4 passes" in listed[AFTER] and listed[AFTER].endswith(": not begun")
    part = script("iwae_tables", "--only", BASE)["parts"][BASE]
    assert part["cpu_seconds"] > spent and part["passes"] == 2
    with pytest.raises(SystemExit, match="holds a training with other options"):
        script("iwae_tables", "--only", BASE, "--epochs", 3)


def test_priors_guides_and_layers(script, capsys):
    """Every model of the table trains and is evaluated, two layers with a VampPrior among them."""
    parts = script("vamp", "--only", "static-hvae-vamp", "static-guide-householder", "--epochs", 1)["parts"]
    assert set(parts) == {"static-hvae-vamp", "static-guide-householder"}
    assert all(part["passes"] == 1 and 15 < part["values"]["nll"]["value"] < 45 for part in parts.values())
    assert "85.57" not in capsys.readouterr().out and parts["static-hvae-vamp"]["published"]["nll"] == 83.19


def test_best_small_is_chosen_on_validation_images(script, tmp_path, capsys):
    """Rows are shared with `vamp.py`; the choice is that of the lowest NLL on `valid`, whatever test says."""
    rows = ["static-hvae-vamp", "static-hvae-vamp-dreg-5"]
    parts = script("best_small", "--only", *rows)["parts"]
    for name in rows:
        saved = json.loads((tmp_path / "runs" / name / "run" / "evidence-valid.json").read_text())
        assert parts[name]["values"]["valid_nll"]["value"] == saved["nll"] != parts[name]["values"]["nll"]["value"]
    best = min(rows, key=lambda name: parts[name]["values"]["valid_nll"]["value"])
    assert f"static: {best}, by its NLL on validation images" in capsys.readouterr().out
    namespace = runpy.run_path(str(REPRODUCE / "best_small.py"))
    other = {name: {"values": {"valid_nll": {"value": nll}}} for name, nll in (("a-1", 3), ("a-2", 1), ("b-1", 2))}
    other["b-0"] = {"values": {}}  # only evaluated on test, by another script
    assert namespace["choice"](other) == {"a": "a-2", "b": "b-1"}
