"""Training and evaluating in several processes: the result of one, stops, a lost process, and who tells what."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae.cli import main
from pyro_vae.runs.loading import load, read_manifest, read_metrics
from tests.distributed.test_world import TORCHRUN, free_ports, needs_gloo
from tests.support.trainings import COMMAND, LONG, call, dequantized, evidence, own_rows, recorded, trained

ROOT = Path(__file__).parents[2]
TORCHRUN_COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = needs_gloo


@pytest.fixture(autouse=True)
def _outside_torchrun(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)


def start(rank, port, folder):
    own = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.trainings", folder],
        cwd=ROOT,
        env={**os.environ, **own, "MASTER_PORT": port, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def first(folder):
    """Two processes of `tests.support.trainings`: what is printed, and what is saved when process 1 stops.

    Process 1 is killed then, and torchrun's SIGTERM comes while process 0 waits for it.
    """
    port = free_ports(1)[0]
    processes = [start(rank, port, folder) for rank in range(2)]
    try:
        status = os.waitpid(processes[1].pid, os.WUNTRACED)[1]
        assert os.WIFSTOPPED(status), processes[1].stderr.read()
        saved = read_manifest(folder / "broken")["progress"]
        processes[0].send_signal(signal.SIGTERM)
    except BaseException:
        processes[0].kill()
        raise
    finally:
        processes[1].kill()
        errors = [process.communicate(timeout=300)[1] for process in processes]
    assert processes[0].returncode == 6
    return errors, saved


@pytest.fixture(scope="module")
def pair(folder, first):
    """What the two tell and print: (results, standard errors)."""
    return results(folder, ""), [err.partition("data: ")[0] for err in first[0]]


@pytest.fixture(scope="module")
def broken(folder, first):
    """The checkpoint that process 0 leaves."""
    return read_manifest(folder / "broken")["progress"]


@pytest.fixture(scope="module")
def again(folder, broken):
    """Two processes that torchrun starts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [*TORCHRUN_COMMAND, "-m", "tests.support.trainings", folder]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


def results(folder, name):
    return [json.loads((folder / f"{name}{rank}.json").read_text()) for rank in range(2)]


def assert_same(a, b):
    """Two outcomes in double precision, up to the order in which floats are added."""
    for ours, theirs in zip(a["weights"], b["weights"], strict=True):
        torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=1e-5, atol=1e-9)
    for ours, theirs in zip(a["rows"], b["rows"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-7)
    assert a["best"] == b["best"]


class TestOneResult:
    """That of one process."""

    def test_eager(self, pair):
        """With a batch of one, a weight prior, clipping, warm-up, binarisation and validation."""
        (ours, theirs), _ = pair
        assert ours["eager"] == theirs["eager"]
        assert_same(ours["eager"], trained())

    def test_graph(self, pair):
        (ours, theirs), _ = pair
        assert ours["graph"] == theirs["graph"] and ours["graph"]["mode"] == "compiled (graph)"
        assert_same(ours["graph"], recorded())
        assert_same(ours["graph"], ours["eager"])

    def test_dequantized(self, pair):
        (ours, theirs), _ = pair
        assert ours["dequantized"] == theirs["dequantized"]
        assert_same(ours["dequantized"], dequantized())

    def test_processes_read_their_own_rows(self, pair):
        (ours, theirs), _ = pair
        assert (ours["own rows"].pop("seen"), theirs["own rows"].pop("seen")) == ([10, 10, 10, 1], [10, 10, 10, 0])
        assert_same(ours["own rows"], own_rows())

    def test_a_parameter_that_none_uses_has_no_gradient(self, pair):
        (ours, theirs), _ = pair
        assert ours["unused"] == theirs["unused"] == [[2.0, [1, 2], [2.0, 1.0]], [1.0, [1, 2], [2.0, 1.0]]]

    def test_evidence_to_the_bit(self, pair):
        (ours, theirs), _ = pair
        assert ours["evidence"] == theirs["evidence"] == evidence(None)


class TestStopping:
    def test_a_signal_to_one_stops_all(self, pair):
        (ours, theirs), _ = pair
        assert ours["stopped"] == theirs["stopped"]
        assert ours["stopped"]["message"].startswith("stopped by signal 15 at epoch 2, step 1 of 4; a checkpoint is")

    def test_resumed_by_both(self, pair):
        (ours, theirs), _ = pair
        assert ours["resumed"] == theirs["resumed"] == ours["eager"]

    def test_resumed_by_one(self, pair, folder):
        (ours, _), _ = pair
        assert_same(trained(run=folder / "copy"), ours["eager"])


REFUSALS = {
    "batch norm": ("UsageError", "encoder.norm is batch normalisation, which couples the rows of a batch"),
    "dropout": ("UsageError", "random numbers were drawn outside the sample sites (dropout?"),
    "coupled rows": ("UsageError", "a batch is shared out over processes, so its loss must be the sum"),
    "mean": ("UsageError", "a batch is shared out over processes, so its loss must be the sum"),
    "small batch": ("UsageError", "2 processes can't share out batches of 1: take a larger batch_size"),
    "other data": ("DataError", "process 1 was given other training data than process 0"),
    "not finite": ("NumericalError", "the loss is not finite at epoch 1, step "),
}


class TestErrors:
    @pytest.mark.parametrize("name", REFUSALS)
    def test_all_raise_the_same(self, pair, name):
        (ours, theirs), _ = pair
        (kind, message), error = REFUSALS[name], ours["refusals"][name]
        assert error == theirs["refusals"][name] and error["shared"]
        assert (
            error["class"] == kind and error["message"].startswith(message) and "Trace Shapes" not in error["message"]
        )

    def test_the_culprit_is_found_wherever_its_row_is(self, pair):
        message = pair[0][0]["refusals"]["not finite"]["message"]
        assert "(site 'z' of the model has a log-density that is not finite)" in message


class TestCommand:
    def test_one_prints(self, pair):
        (ours, theirs), errors = pair
        for command in ("fit", "evaluate"):
            assert ours[command]["code"] == theirs[command]["code"] == 0
            assert theirs[command]["out"] == theirs[command]["err"] == errors[1] == ""
            assert json.loads(ours[command]["out"])
        warning, epoch = errors[0].splitlines()  # of the fit of broken data above, and of the command
        assert "far from unit scale" in warning and epoch.startswith("epoch 1/1  elbo -")

    @pytest.mark.parametrize(
        ("command", "code", "message"),
        [
            ("locked", 4, "locked is in use by process "),
            ("nothing", 4, "there is no run directory "),
            ("mistyped", 2, "unknown option '--num_particle', did you mean '--num_particles'?"),
        ],
    )
    def test_one_tells_an_error(self, pair, command, code, message):
        (ours, theirs), _ = pair
        assert ours[command]["code"] == theirs[command]["code"] == code
        assert ours[command]["err"].count("error:") == 1 and message in ours[command]["err"]
        assert theirs[command]["err"] == ours[command]["out"] == ""

    def test_same_as_one_process(self, pair, tmp_path, folder):
        ours = json.loads(pair[0][0]["evaluate"]["out"])
        assert json.loads(call("evaluate", folder / "command", "--num_particles 60 --json --quiet")["out"]) == ours
        assert call(COMMAND, tmp_path / "run")["code"] == 0
        assert_close(load(tmp_path / "run"), load(folder / "command"))


def assert_close(a, b):
    """Weights in single precision after some training."""
    for ours, theirs in zip(a.state_dict().values(), b.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


class TestLost:
    """A process is killed while the other one waits for it; torchrun starts them again."""

    def test_checkpoint(self, first, broken):
        (err, _), saved = first
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("pyro-vae fit: error: process 0 of 2 (counted")
        assert (broken["epoch"], broken["step"]) >= (saved["epoch"], saved["step"]) and broken["epoch"] < 4

    def test_joining_again(self, folder, again):
        """A store outlives the group that met by it: its members must not look for those of the one before."""
        assert results(folder, "again") == [{"same": True, "left": []}] * 2

    def test_resumption(self, folder, again, tmp_path):
        assert json.loads(again.stdout)["epochs"] == 4 and again.stderr.count("run directory:") == 1
        path, whole = folder / "broken", tmp_path / "whole"
        assert main([*LONG.split(), str(whole), "--quiet"]) == 0
        assert_close(load(whole, which="last"), load(path, which="last"))
        losses = [[row["loss"] for row in read_metrics(run)] for run in (path, whole)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
