"""Trackers and `on_epoch`: told each epoch once, and whatever they do, the weights are the same to the bit."""

import json
import logging
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset, load_data
from pyro_vae.errors import NumericalError, Stopped, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import Others
from pyro_vae.runs.loading import load
from pyro_vae.tasks import sample
from pyro_vae.trackers import Guarded, guarded
from pyro_vae.training.fitting import fit
from tests.distributed.test_world import TORCHRUN, needs_gloo
from tests.support.stopping import signals_at

SMALL = partial(MLP, hidden=(16,))
HOW = {"epochs": 4, "batch_size": 30, "progress": False}


def make():
    with seeded(0, "init"):
        return VAE((8, 8), 3, encoder=SMALL, decoder=SMALL)


def digits(n=60):
    x = load_data("digits").split("train")
    return Dataset("digits", x[:n], x[n : n + 20], binarization="dynamic")


def weights(vae):
    return torch.cat([p.detach().reshape(-1) for p in vae.parameters()])


class Listening:
    """Keeps all that it is told."""

    def __init__(self):
        self.heard = []

    def settings(self, settings):
        self.heard.append(("settings", dict(settings)))

    def numbers(self, numbers, step):
        self.heard.append(("numbers", numbers, step))

    def figure(self, name, figure, step):
        self.heard.append(("figure", name, step))

    @property
    def steps(self):
        return [told[2] for told in self.heard if told[0] == "numbers"]


class Meddling(Listening):
    """Sets what a training relies on, and changes what it is given."""

    def settings(self, settings):
        settings["vae"] = None
        self.numbers({}, 0)

    def numbers(self, numbers, step):
        torch.manual_seed(step)
        torch.rand(3)
        random.seed(0)
        np.random.seed(0)
        torch.set_num_threads(2)
        torch.set_grad_enabled(False)
        pyro.set_rng_seed(3)
        pyro.enable_validation(True)
        pyro.plate("data", 3).__enter__()
        torch.set_default_dtype(torch.float64)
        torch.use_deterministic_algorithms(True)
        torch.set_flush_denormal(True)
        torch.backends.mkldnn.enabled = False
        torch.backends.cudnn.benchmark = True
        numbers.clear()
        time.sleep(0.01)


class Failing(Listening):
    """Raises where it is told to."""

    def __init__(self, where: str | None, error=None):
        super().__init__()
        self.where, self.error = where, error or OSError("the\nserver is gone")
        self.at("construction")

    def at(self, where):
        if where == self.where:
            raise self.error

    def settings(self, settings):
        self.at("settings")

    def numbers(self, numbers, step):
        self.heard.append(("numbers", numbers, step))
        self.at("numbers")

    def close(self):
        self.at("close")


@pytest.fixture(scope="module")
def alone():
    """The weights without a tracker, and the rows without what the clock says."""
    vae = make()
    return fit(vae, digits(), **HOW), weights(vae)


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class TestWhatIsTold:
    def test_the_settings_then_each_row_once(self, alone, tmp_path):
        tracker = Listening()
        history = fit(make(), digits(), run=tmp_path, tracker=tracker, **HOW)
        (first, settings), *others = tracker.heard
        assert first == "settings" and settings["run"] == str(tmp_path) and settings["batch_size"] == 30
        assert settings["vae"]["latent_dim"] == 3 and settings["objective"]["class_path"].endswith("ELBO")
        assert [told[2] for told in others] == [row["step"] for row in history.rows] == [2, 4, 6, 8]
        assert [{"step": told[2], **told[1]} for told in others] == history.rows
        assert without_time(history.rows) == without_time(alone[0].rows)

    def test_without_a_run_directory_and_of_own_programs(self):
        class Pair(torch.nn.Module):
            def __init__(self, vae):
                super().__init__()
                self.vae, self.model, self.guide = vae, vae.model, vae.guide

        tracker = Listening()
        fit(
            Pair(make()),
            (digits().split("train") > 0.5).float(),
            tracker=tracker,
            optimizer=lambda p: torch.optim.Adam(p),
            **HOW,
        )
        settings = tracker.heard[0][1]
        assert settings["run"] is None and settings["vae"] == "Pair" and settings["objective"] == "ELBO"
        assert settings["optimizer"] == "<lambda>" and tracker.steps == [2, 4, 6, 8]

    def test_a_class_is_made_and_closed_an_object_is_not_closed(self):
        closed = []

        class Closing(Listening):
            def close(self):
                closed.append(self.steps)

        fit(make(), digits(), tracker=Closing, **HOW)
        fit(make(), digits(), tracker=Closing(), **HOW)
        fit(make(), digits(), tracker=lambda: Closing(), **HOW)
        assert closed == [[2, 4, 6, 8]] * 2

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            (3, "expected an object with the methods settings, numbers, figure, or a class of such, got 3"),
            ("TensorBoard", "which lacks settings, numbers, figure"),
            (dict, "which lacks settings, numbers, figure"),
            (partial(dict), "which lacks settings"),
            (type("Half", (), {"settings": print, "numbers": print}), "which lacks figure"),
        ],
    )
    def test_what_is_no_tracker_is_refused_before_the_training(self, value, words, tmp_path):
        with pytest.raises(UsageError, match=f"^tracker: .*{words}"):
            fit(make(), digits(), tracker=value, run=tmp_path / "run", **HOW)
        assert not (tmp_path / "run").exists()


class TestNothingIsAltered:
    def test_by_what_it_sets(self, alone):
        """The same bits with a tracker that seeds, draws, sets threads and gradients, and leaves a plate open."""
        vae, threads, others = make(), torch.get_num_threads(), Others.now()
        state = random.getstate(), np.random.get_state()
        history = fit(vae, digits(), tracker=Meddling, **HOW)
        random.setstate(state[0])
        np.random.set_state(state[1])
        assert torch.equal(weights(vae), alone[1]) and without_time(history.rows) == without_time(alone[0].rows)
        assert torch.get_num_threads() == threads and torch.is_grad_enabled() and not pyro.poutine.runtime._PYRO_STACK
        assert Others.now() == others

    def test_by_a_training_of_its_own(self, alone):
        class Training(Listening):
            def numbers(self, numbers, step):
                super().numbers(numbers, step)
                fit(make(), digits(), **{**HOW, "epochs": 1})

        vae, tracker = make(), Training()
        fit(vae, digits(), tracker=tracker, **HOW)
        assert torch.equal(weights(vae), alone[1]) and tracker.steps == [2, 4, 6, 8]

    @pytest.mark.parametrize("where", ["construction", "settings", "numbers", "close"])
    @pytest.mark.parametrize("error", [OSError("the\nserver is gone"), SystemExit(3), UsageError("no such folder")])
    def test_by_where_it_fails(self, alone, where, error, caplog, tmp_path):
        vae = make()
        fit(vae, digits(), tracker=partial(Failing, where, error), run=tmp_path, **HOW)
        assert torch.equal(weights(vae), alone[1]) and torch.equal(weights(load(tmp_path)), alone[1])
        (record,) = caplog.records
        place = "its construction" if where == "construction" else where
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        told = " ".join(str(error).split())
        assert record.levelno == logging.WARNING and record.name == "pyro_vae"
        expected = f"the tracker Failing failed in {place}; the training goes on without it ({kind}{told})"
        assert record.getMessage() == expected

    def test_a_failed_one_is_not_called_again(self, caplog):
        tracker = Failing("numbers")
        fit(make(), digits(), tracker=tracker, **HOW)
        assert tracker.steps == [2] and len(caplog.records) == 1

    def test_what_a_function_makes_is_no_tracker(self, alone, caplog):
        vae = make()
        fit(vae, digits(), tracker=lambda: 3, **HOW)
        assert torch.equal(weights(vae), alone[1]) and "its construction" in caplog.text and "got 3" in caplog.text

    def test_a_slow_one_is_waited_for_and_said_to_be_slow_once(self, alone, caplog, monkeypatch):
        monkeypatch.setattr(guarded, "_LEAST", 0.0)
        monkeypatch.setattr(guarded, "_SHARE", 0.0)
        vae, tracker = make(), Listening()
        fit(vae, digits(), tracker=tracker, **HOW)
        assert torch.equal(weights(vae), alone[1]) and tracker.steps == [2, 4, 6, 8]
        (record,) = caplog.records
        assert "the tracker Listening is slow" in record.getMessage()

    def test_ctrl_c_in_it_is_passed_on(self):
        with pytest.raises(KeyboardInterrupt):
            fit(make(), digits(), tracker=partial(Failing, "numbers", KeyboardInterrupt()), **HOW)


class TestResuming:
    @pytest.mark.parametrize("save_every", [0.0, 1e9])
    @pytest.mark.parametrize("stopped_at", [3, 5])
    def test_no_step_is_repeated_or_left_out(self, alone, tmp_path, save_every, stopped_at):
        """Stopped by a signal inside an epoch, with a checkpoint at each step or only at the end."""
        vae, tracker = make(), Listening()
        with pytest.raises(Stopped), signals_at({stopped_at: signal.SIGTERM}):
            fit(vae, digits(), tracker=tracker, run=tmp_path, save_every=save_every, **HOW)
        first = list(tracker.steps)
        again = make()
        fit(again, digits(), tracker=tracker, run=tmp_path, save_every=save_every, **HOW)
        assert 0 < len(first) < 4 and tracker.steps == [2, 4, 6, 8] and torch.equal(weights(again), alone[1])
        fit(make(), digits(), tracker=tracker, run=tmp_path, **HOW)
        assert tracker.steps == [2, 4, 6, 8] and [told[0] for told in tracker.heard].count("settings") == 2

    def test_killed_while_it_is_told(self, tmp_path):
        """KeyboardInterrupt stands for a process that dies: nothing of ours runs after it but `finally`."""
        tracker = Failing("numbers", KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            fit(make(), digits(), tracker=tracker, run=tmp_path, save_every=0.0, **HOW)
        tracker.where = None
        fit(make(), digits(), tracker=tracker, run=tmp_path, **HOW)
        assert tracker.steps == [2, 4, 6, 8]

    def test_one_that_failed_is_told_what_it_missed(self, tmp_path, caplog):
        fit(make(), digits(), tracker=partial(Failing, "numbers"), run=tmp_path, **HOW)
        other = Failing(None)
        fit(make(), digits(), tracker=other, run=tmp_path, **HOW)
        assert other.steps == [2, 4, 6, 8] and len(caplog.records) == 1

    def test_another_one_is_told_all(self, tmp_path):
        fit(make(), digits(), tracker=Listening(), run=tmp_path, **HOW)
        other = Failing(None)
        fit(make(), digits(), tracker=other, run=tmp_path, **HOW)
        assert other.steps == [2, 4, 6, 8]
        told = json.loads((tmp_path / "tracked.json").read_text())
        assert told == {name: {"numbers": 8, "figures": 0} for name in ("Listening", "Failing")}

    def test_a_damaged_file_stops_the_tracker_alone(self, alone, tmp_path, caplog):
        (tmp_path / "tracked.json").write_text('{"Listening": {"numbers": "many", "figures": 0}}')
        vae, tracker = make(), Listening()
        fit(vae, digits(), tracker=tracker, run=tmp_path, **HOW)
        (record,) = caplog.records
        assert tracker.heard == [] and torch.equal(weights(vae), alone[1])
        assert "tracked.json" in record.getMessage() and "delete it" in record.getMessage()

    def test_of_a_training_that_is_not_finite(self, tmp_path):
        """What a checkpoint holds is told before the error is raised."""

        def spoil(row):
            if row["epoch"] == 2:
                with torch.no_grad():
                    next(vae.parameters()).fill_(float("nan"))

        vae, tracker = make(), Listening()
        with pytest.raises(NumericalError):
            fit(vae, digits(), tracker=tracker, run=tmp_path, save_every=1e9, on_epoch=spoil, **HOW)
        assert tracker.steps == [2, 4]


class TestOnEpoch:
    def test_it_sees_the_rows_and_alters_nothing(self, alone, tmp_path):
        """Also if it computes with the model, and changes the row that it is given."""
        vae, rows = make(), []
        x = digits().split("valid")[:5]

        def look(row):
            rows.append(dict(row))
            log_marginal(vae.model, vae.guide, (x > 0.5).float(), num_particles=5)
            sample(vae.eval(), 3)
            torch.manual_seed(1)
            torch.set_grad_enabled(False)
            row.clear()

        history = fit(vae, digits(), on_epoch=look, run=tmp_path, **HOW)
        assert rows == history.rows and torch.equal(weights(vae), alone[1])
        fit(make(), digits(), on_epoch=look, run=tmp_path, **HOW)
        assert rows == history.rows  # an epoch of an earlier call is not seen again

    @pytest.mark.parametrize("answer", [True, np.True_, torch.tensor(True)])
    def test_true_ends_the_training_and_it_can_be_resumed(self, alone, answer, tmp_path):
        vae = make()
        history = fit(vae, digits(), on_epoch=lambda row: answer if row["epoch"] == 2 else None, run=tmp_path, **HOW)
        assert len(history.rows) == 2 and history.stopped_early and not vae.training
        kept = load(tmp_path)
        assert torch.equal(weights(kept), weights(vae))
        again = make()
        history = fit(again, digits(), on_epoch=lambda row: False, run=tmp_path, **HOW)
        assert len(history.rows) == 4 and not history.stopped_early and torch.equal(weights(again), alone[1])

    @pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), UsageError("mine")])
    def test_what_it_raises_is_raised_after_a_checkpoint(self, alone, error, tmp_path):
        def fail(row):
            seen.append(row["epoch"])
            if row["epoch"] == 2:
                raise error

        seen = []
        with pytest.raises(type(error)) as raised:
            fit(make(), digits(), on_epoch=fail, run=tmp_path, save_every=1e9, **HOW)
        assert raised.value is error
        manifest = json.loads((tmp_path / "manifest.json").read_text())
        assert manifest["progress"]["epoch"] == 2 and manifest["rows"] == 2
        again = make()
        fit(again, digits(), on_epoch=fail, run=tmp_path, **HOW)
        assert seen == [1, 2, 3, 4] and torch.equal(weights(again), alone[1])

    @pytest.mark.parametrize("answer", [0.3, "stop", 1, {}])
    def test_another_answer_is_refused(self, answer):
        with pytest.raises(UsageError, match="on_epoch must return None, or True to end the training, got"):
            fit(make(), digits(), on_epoch=lambda row: answer, **HOW)

    def test_what_is_no_function_is_refused(self):
        with pytest.raises(UsageError, match="on_epoch: expected a function of a row of the history, got 3"):
            fit(make(), digits(), on_epoch=3, **HOW)  # pyright: ignore[reportArgumentType]


@needs_gloo
def test_of_several_processes_the_first_alone_tells_and_asks(tmp_path, monkeypatch):
    """Both end with what `on_epoch` says there, or with its error."""
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "tests.support.watched", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    told = ["settings", 2, "epoch 1", 4, "epoch 2"]
    assert first["ended"][0] == second["ended"][0] == [2, True]
    refused = "on_epoch must return None, or True to end the training, got 3"
    assert first["refused"][0] == second["refused"][0] == refused
    assert sorted(map(str, first["ended"][1])) == sorted(map(str, told)) and second["ended"][1] == []
    assert second["refused"][1] == [] and first["refused"][1][0] == "settings"


class TestGuarded:
    def test_it_is_a_tracker(self):
        inner = Listening()
        tracker = Guarded(inner)
        tracker.settings({"run": None})
        tracker.numbers({"loss": 1.0}, 3)
        tracker.figure("curves", None, 3)
        tracker.close()
        assert [told[0] for told in inner.heard] == ["settings", "numbers", "figure"] and tracker.opened

    def test_what_is_long_is_cut(self, caplog):
        Guarded(partial(Failing, "settings", ValueError("x" * 1000))).settings({})
        assert len(caplog.records[0].getMessage()) < 400 and "..." in caplog.text
