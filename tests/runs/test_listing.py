"""`pyro-vae list`: what the text files of runs say; broken ones have a line, and no work is without a bound."""

import fcntl
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.guides import Delta
from pyro_vae.networks import MLP
from pyro_vae.runs import locking
from pyro_vae.runs.listing import listed, runs_below
from pyro_vae.runs.locking import lock
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import SMALL, call

HOW = {"epochs": 3, "batch_size": 10, "progress": False}


def make(**parts):
    torch.manual_seed(0)
    return VAE((3,), 2, **{"encoder": partial(MLP, hidden=(4,)), "decoder": partial(MLP, hidden=(4,)), **parts})


def trained(run, vae=None, **how):
    x = torch.ones(25, 3)
    return fit(vae or make(), Dataset("ones", x, x[:5]), run=run, **{**HOW, **how})


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Four runs of the command: evaluated, interrupted, of a point, and refitted."""
    root = tmp_path_factory.mktemp("list") / "runs"
    fast = f"{SMALL} --pictures false --quiet"
    assert call("fit", f"{fast} --epochs 2 --run", root / "b").code == 0
    assert call("evaluate", "--num_particles 20 --num_data 30 --quiet", root / "b").code == 0
    assert call("fit", f"{fast} --epochs 1 --vae.guide Delta --valid_size 0 --run", root / "deep" / "point").code == 0
    assert call("refit", root / "b", "--prior LearnedNormal --epochs 2 --quiet --out", root / "a").code == 0
    with pytest.raises(KeyboardInterrupt):
        trained(root / "stopped", on_epoch=interrupted)
    return root


def interrupted(row):
    if row["epoch"] == 2:
        raise KeyboardInterrupt


def shown(*words):
    done = call("list", *words)
    assert done.code == 0 and "Traceback" not in done.err
    return done.out.splitlines()


class TestList:
    def test_a_line_each(self, runs):
        rows = {line.split()[0]: line for line in shown(runs)[1:]}
        assert list(rows) == ["a", "b", "deep/point", "stopped"]
        evidence = json.loads((runs / "b" / "evidence-test.json").read_text())
        errors = [f"{evidence[f'standard_error_{of}']:.3g}" for of in ("data", "monte_carlo")]
        assert f"{evidence['log_p']:.2f} (test, se data {errors[0]}, draws" in rows["b"] and errors[1] in rows["b"]
        assert "finished" in rows["b"] and "digits" in rows["b"] and "2/2" in rows["b"]
        assert "VAE 2 (StandardNormal, Bernoulli, DiagonalNormal)" in rows["b"]
        assert "VAE 2 (LearnedNormal, Bernoulli, DiagonalNormal)" in rows["a"] and "finished" in rows["a"]
        assert "interrupted" in rows["stopped"] and "2/3" in rows["stopped"] and "an array" in rows["stopped"]
        assert rows["deep/point"].endswith("1/1    -               -")  # a point has neither ELBO nor log p(x)

    def test_json_has_the_numbers(self, runs):
        done = call("list", runs, "--json")
        found = {Path(one["run"]).name: one for one in done.json["runs"]}
        rows = [line.split(",") for line in (runs / "b" / "metrics.csv").read_text().splitlines()]
        best = json.loads((runs / "b" / "manifest.json").read_text())["progress"]["best_epoch"]
        assert (
            found["b"]["bound"] == float(rows[best][rows[0].index("valid_elbo")]) and found["b"]["bound_of"] == "valid"
        )
        evidence = json.loads((runs / "b" / "evidence-test.json").read_text())
        kept = ("log_p", "standard_error_data", "standard_error_monte_carlo", "unreliable", "mean_flagged", "num_data")
        assert {name: found["b"]["evaluated"][name] for name in kept} == {name: evidence[name] for name in kept}
        assert found["b"]["state"] == "finished" and found["b"]["objective"] == "ELBO" and not found["b"]["stale"]
        assert found["stopped"]["data"] is None and found["a"]["evaluated"] is None

    def test_orders(self, runs):
        first = lambda order: [line.split()[0] for line in shown(runs, "--sort", order)[1:]]  # noqa: E731
        assert first("name") == ["a", "b", "deep/point", "stopped"] and first("log_p")[0] == "b"
        bounds = {Path(one["run"]).name: one["bound"] for one in call("list", runs, "--json").json["runs"]}
        high = sorted((name for name in bounds if bounds[name] is not None), key=lambda name: -bounds[name])
        assert [name for name in first("bound") if name in high] == high and first("bound")[:2] == high
        assert first("newest")[-1] == "b" or first("newest")[0] == "stopped"

    def test_flagged_stays_flagged(self, tmp_path):
        trained(tmp_path / "r")
        evidence = {"log_p": -3.25, "standard_error_data": 0.5, "standard_error_monte_carlo": 0.25}
        evidence |= {"standard_error_monte_carlo_is_at_least": True, "unreliable": 0.125, "mean_flagged": True}
        (tmp_path / "r" / "evidence-test.json").write_text(json.dumps(evidence))
        end = "-3.25 (test, se data 0.5, draws at least 0.25); FLAGGED: 12.5% of the data, and the mean"
        assert shown(tmp_path)[1].endswith(end)
        (tmp_path / "r" / "evidence-test.json").write_text(json.dumps({**evidence, "mean_flagged": False}))
        assert shown(tmp_path)[1].endswith("at least 0.25); flagged: 12.5% of the data")

    def test_of_earlier_weights(self, tmp_path):
        """A run that was lengthened after it was evaluated: its number says so, and does not rank it."""
        trained(tmp_path / "r")
        now = {"log_p": 3.0, "standard_error_data": None, "standard_error_monte_carlo": 0.1, "weights": "last, epoch 1"}
        (tmp_path / "r" / "evidence-valid.json").write_text(json.dumps(now))
        assert shown(tmp_path)[1].endswith("3.00 (valid, se data unknown, draws 0.1); of earlier weights")
        trained(tmp_path / "s")
        best = json.loads((tmp_path / "s" / "manifest.json").read_text())["progress"]["best_epoch"]
        now |= {"log_p": -9.0, "weights": f"best on validation, epoch {best}"}
        (tmp_path / "s" / "evidence-valid.json").write_text(json.dumps(now))
        assert [line.split()[0] for line in shown(tmp_path, "--sort log_p")[1:]] == ["s", "r"]

    def test_evidence_of_an_earlier_version(self, tmp_path):
        trained(tmp_path / "r")
        (tmp_path / "r" / "evidence-test.json").write_text('{"log_p": -3.0}')
        assert shown(tmp_path)[1].endswith("-3.00 (test, se data unknown, draws unknown)")

    def test_patience_is_an_end(self, tmp_path):
        history = trained(tmp_path, epochs=50, patience=1, optimizer=partial(torch.optim.SGD, lr=0.0))
        assert history.stopped_early and listed(tmp_path).state == "finished" and listed(tmp_path).epoch == 2

    def test_nothing_there(self, tmp_path, monkeypatch):
        done = call("list", tmp_path)
        assert done.code == 0 and not done.out and done.err == f"no runs below {tmp_path}\n"
        assert call("list", tmp_path, "--json").json == {"folder": str(tmp_path), "runs": []}
        monkeypatch.chdir(tmp_path)
        done = call("list")
        assert done.code == 4 and "there is no folder runs: name the one that holds your runs" in done.err

    def test_without_torch_or_numpy_weights(self, runs):
        script = (
            f"import sys; from pyro_vae.cli import main; main(['list', {str(runs)!r}]); print('torch' in sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


class TestRunning:
    def test_a_training_that_runs(self, tmp_path):
        states = []
        trained(tmp_path, on_epoch=lambda row: states.append(listed(tmp_path).state))
        assert states == ["running"] * 3 and listed(tmp_path).state == "finished"

    def test_one_that_has_just_begun(self, tmp_path):
        trained(tmp_path / "r")
        for path in [*tmp_path.glob("r/*.safetensors"), tmp_path / "r" / "manifest.json"]:
            path.unlink()
        found = listed(tmp_path / "r")
        assert found.state == "interrupted" and found.epoch == 0 and found.epochs == 3 and found.bound is None
        with lock(tmp_path / "r"):
            assert listed(tmp_path / "r").state == "running"
            assert shown(tmp_path)[1].split()[1] == "running"

    def test_looking_does_not_take_the_lock_from_a_training(self, tmp_path, monkeypatch):
        """A training that begins while somebody looks waits for that moment."""
        trained(tmp_path)
        held = os.open(tmp_path / "lock", os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_SH)
        with pytest.raises(CheckpointError, match="is in use by"):
            lock(tmp_path)
        monkeypatch.setattr(locking.time, "sleep", lambda seconds: os.close(held))
        lock(tmp_path).close()


DAMAGES = {
    "no config": (lambda run: (run / "config.yaml").unlink(), "is not a run directory: it has no config.yaml"),
    "a config of another form": (
        lambda run: (run / "config.yaml").write_text("vae: 3"),
        "config.yaml is damaged: epochs is missing",
    ),
    "a config that is no YAML": (lambda run: (run / "config.yaml").write_text("a: [b"), "can't be read"),
    "a config without a VAE": (
        lambda run: (run / "config.yaml").write_text("epochs: 3"),
        "config.yaml is damaged: objective is missing",
    ),
    "a manifest that is cut off": (
        lambda run: (run / "manifest.json").write_text((run / "manifest.json").read_text()[:50]),
        "manifest.json is damaged",
    ),
    "a later format": (lambda run: (run / "manifest.json").write_text('{"format": 9}'), "has format 9"),
    "metrics that are no table": (lambda run: (run / "metrics.csv").write_text("epoch\nx\n"), "metrics.csv is damaged"),
    "no metrics": (lambda run: (run / "metrics.csv").unlink(), "metrics.csv is not there"),
    "evidence of another form": (
        lambda run: (run / "evidence-test.json").write_text('{"log_p": "high"}'),
        "evidence-test.json is damaged: log_p: expected a finite number, got 'high'",
    ),
    "evidence that is a list": (
        lambda run: (run / "evidence-test.json").write_text("[]"),
        "evidence-test.json is damaged",
    ),
    "a link": (
        lambda run: ((run / "metrics.csv").rename(run / "m"), (run / "metrics.csv").symlink_to(run / "m")),
        "refused to use",
    ),
    "bytes": (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "can't be read"),
    "a deep config": (lambda run: (run / "config.yaml").write_text("[" * 5000), "can't be read"),
}


class TestBroken:
    @pytest.mark.parametrize("name", DAMAGES)
    def test_it_has_a_line_with_the_reason(self, tmp_path, name):
        trained(tmp_path / "good")
        trained(tmp_path / "bad")
        damage, words = DAMAGES[name]
        damage(tmp_path / "bad")
        (_, bad, good) = shown(tmp_path)
        assert bad.startswith("bad   unreadable") and words in bad and good.startswith("good  finished")
        found = call("list", tmp_path, "--json").json["runs"]
        assert [one["state"] for one in found] == ["unreadable", "finished"] and words in found[0]["problem"]

    def test_letters_that_would_move_the_cursor(self, tmp_path):
        trained(tmp_path / "r")
        path = tmp_path / "r" / "config.yaml"
        path.write_text(path.read_text() + 'data: "a\\e[2Jb\\nc"\n')
        (line,) = shown(tmp_path)[1:]
        assert "a?[2Jb?c" in line
        (tmp_path / "r").rename(tmp_path / "a\n\x1b[31mred")
        assert "a??[31mred" in shown(tmp_path)[1]

    def test_a_folder_that_can_not_be_read(self, tmp_path, monkeypatch):
        trained(tmp_path / "r")
        (tmp_path / "closed").mkdir()
        scandir = os.scandir

        def refusing(path):
            if Path(path).name == "closed":
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        assert [path.name for path in runs_below(tmp_path)] == ["r"]


class TestWork:
    def test_links_are_not_followed(self, tmp_path):
        trained(tmp_path / "a" / "r")
        (tmp_path / "a" / "loop").symlink_to(tmp_path)
        (tmp_path / "again").symlink_to(tmp_path / "a" / "r")
        assert list(runs_below(tmp_path)) == [tmp_path / "a" / "r"]

    def test_what_is_no_run(self, tmp_path):
        """A folder with a config.yaml or a manifest.json of another program; hidden folders; folders inside a run."""
        for name, file in {"a": "config.yaml", "b": "manifest.json", ".c": "config.yaml"}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / file).write_text("{}")
        trained(tmp_path / ".c" / "r")
        trained(tmp_path / "d")
        trained(tmp_path / "d" / "inside")
        assert list(runs_below(tmp_path)) == [tmp_path / "d"] and list(runs_below(tmp_path / "d")) == [tmp_path / "d"]

    def test_the_bound(self, tmp_path):
        for i in range(10):
            (tmp_path / str(i)).mkdir()
        assert list(runs_below(tmp_path, most=11)) == []
        with pytest.raises(UsageError, match="has more than 10 folders below it: name one that holds runs"):
            list(runs_below(tmp_path, most=10))

    def test_a_point_has_no_bound(self, tmp_path):
        trained(tmp_path, make(guide=Delta))
        assert listed(tmp_path).bound is None and "Delta" in (listed(tmp_path).model or "")
