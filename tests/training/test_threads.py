"""The number of threads of a step, by a clock of the test's own: fewer for a large gain alone, and without effect."""

import json

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.training import threads as module
from pyro_vae.training import trainer
from pyro_vae.training.fitting import fit
from pyro_vae.training.threads import Threads


class Machine:
    """Clocks that a step moves by its duration on the current number of threads; it gets `part` of the CPU."""

    def __init__(self, **durations):
        self.now, self.used, self.part, self.said, self.steps, self.trials = 0.0, 0.0, 1.0, [], [], []
        self.durations = {int(name[1:]): seconds for name, seconds in durations.items()}

    def work(self, ran):
        ran.append(torch.get_num_threads())
        self.now += self.durations[ran[-1]]
        self.used += self.part * ran[-1] * self.durations[ran[-1]]

    def chooser(self, begun=None):
        clocks = {"wall": lambda: self.now, "cpu": lambda: self.used}
        return Threads(lambda: self.work(self.trials), self.said.append, begun, **clocks)

    def run(self, threads, steps):
        """The numbers that these steps ran on."""
        self.steps = []
        with threads.running():
            for _ in range(steps):
                self.work(self.steps)
                threads.look()
        assert torch.get_num_threads() == 4
        return self.steps


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


def test_the_fastest_is_taken_and_said_once():
    machine = Machine(_4=0.04, _2=0.03, _1=0.01)
    threads = machine.chooser()
    assert set(machine.run(threads, 10_000)) == {1}
    assert len(machine.said) == 1 and "runs on 1 of torch's 4 threads" in machine.said[0]


def test_all_are_kept_without_a_word_where_they_are_fastest():
    """One trial; two threads take 1.6 times as long, so one thread is not tried."""
    machine = Machine(_4=0.01, _2=0.016, _1=0.03)
    assert set(machine.run(machine.chooser(), 10_000)) == {4}
    assert machine.trials == [4, 4, 4, 2, 2, 2] and not machine.said


def test_a_resumed_training_begins_with_its_number():
    """Without a trial, which a second process could decide in another way; later trials are made as ever."""
    machine = Machine(_4=0.01, _3=0.013, _2=0.02, _1=0.04)
    threads = machine.chooser(begun=3)
    assert set(machine.run(threads, 100)) == {3} and not machine.trials
    assert len(machine.said) == 1 and "goes on with 3 of torch's 4 threads" in machine.said[0]
    assert machine.run(threads, 5_000)[-1] == 4 and len(machine.said) == 1
    machine = Machine(_4=0.04, _2=0.02, _1=0.01)
    assert set(machine.run(machine.chooser(begun=4), 100)) == {4} and not machine.said


def test_a_training_is_resumed_where_there_are_fewer_threads():
    machine = Machine(_4=0.01)
    assert set(machine.run(machine.chooser(begun=8), 50)) == {4}
    assert len(machine.said) == 1 and "with 4 threads; it was stopped with 8" in machine.said[0]
    assert "OMP_NUM_THREADS=8" in machine.said[0]


def test_a_small_gain_changes_nothing():
    """Noise of the clock must not change the bits of a training."""
    machine = Machine(_4=0.01, _2=0.008, _1=0.0075)
    assert set(machine.run(machine.chooser(), 100)) == {4}


def test_a_neighbour_comes_and_goes():
    """On all threads less CPU time than they could use starts a trial; on fewer the seconds that have passed do."""
    machine = Machine(_4=0.01, _2=0.02, _1=0.02)
    threads = machine.chooser()
    assert set(machine.run(threads, 500)) == {4}
    machine.durations[4], machine.part = 0.2, 0.6
    assert machine.run(threads, 50)[-1] == 2
    machine.durations[4], machine.part = 0.01, 1.0
    assert machine.run(threads, 5_000)[-1] == 4


def test_a_neighbour_is_noticed_in_short_epochs():
    """Of 5 steps each, far below the second after which there is a look."""
    machine = Machine(_4=0.01, _2=0.02, _1=0.02)
    threads = machine.chooser()
    for _ in range(100):
        machine.run(threads, 5)
    assert threads.chosen == 4
    machine.durations[4], machine.part = 0.05, 0.6
    for _ in range(20):
        machine.run(threads, 5)
    assert threads.chosen == 2


def test_slow_steps_that_use_the_cpu_do_not_start_a_trial():
    machine = Machine(_4=0.01, _2=0.02, _1=0.03)
    threads = machine.chooser()
    machine.run(threads, 500)
    trials = len(machine.trials)
    machine.durations[4] = 0.03
    machine.run(threads, 500)
    assert len(machine.trials) == trials


def test_trials_in_vain_are_rare():
    """Threads that sleep use less CPU time as well."""
    machine = Machine(_4=0.01, _2=0.02, _1=0.03)
    machine.part = 0.5
    assert set(machine.run(machine.chooser(), 20_000)) == {4}
    assert sum(machine.durations[number] for number in machine.trials) < 0.03 * machine.now


@pytest.mark.parametrize("slow", [0.01, 1.0, 30.0])
def test_trials_take_a_small_part_of_the_time(slow):
    machine = Machine(_4=slow, _2=slow / 2, _1=slow / 3)
    machine.run(machine.chooser(), 20_000)
    assert sum(machine.durations[number] for number in machine.trials) < 0.03 * machine.now


def test_an_error_in_a_step_or_a_trial_leaves_torchs_number():
    def failing():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), Threads(lambda: None, print).running():
        failing()
    with pytest.raises(ZeroDivisionError), Threads(failing, print).running():
        pass


def test_a_single_thread_is_not_tried():
    torch.set_num_threads(1)
    try:
        with Threads(lambda: pytest.fail("was tried"), print).running():
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(4)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_trials_leave_the_training_as_it_is(monkeypatch, norm):
    """The same weights and losses as without a trial, moving averages included."""

    def train():
        torch.manual_seed(0)
        vae = VAE((8, 8), 2, decoder=lambda *sizes: MLP(*sizes, hidden=(16,), norm=norm))
        rows = fit(vae, x, ELBO(), epochs=2, batch_size=50, progress=False).rows
        return [*(value.clone() for value in vae.state_dict().values()), torch.tensor([row["loss"] for row in rows])]

    x = (torch.rand(200, 8, 8) < 0.2).float()
    tried = []
    monkeypatch.setattr(module, "_FEWER", 0.0)  # another number would round otherwise
    monkeypatch.setattr(trainer, "Threads", lambda compute, say, begun: Threads(lambda: tried.append(compute()), say))
    with_trials = train()
    assert len(tried) >= 6
    monkeypatch.setattr(trainer, "Threads", lambda compute, say, begun: Threads(None, say))
    assert all(map(torch.equal, with_trials, train()))


def test_steps_run_on_the_number_that_is_chosen(monkeypatch):
    """Validation, whose sums are reported, runs on torch's number."""
    steps, others = [], []
    step, measure = trainer.Trainer.step, trainer.Validation.measure

    def noted_step(self, *moment):
        steps.append(torch.get_num_threads())
        step(self, *moment)

    def noted_measure(self):
        others.append(torch.get_num_threads())
        return measure(self)

    def always_one(compute, say, begun):
        threads = Threads(compute, say)
        monkeypatch.setattr(threads, "_trial", lambda least: {4: 1.0, 1: 0.1})
        return threads

    monkeypatch.setattr(trainer.Trainer, "step", noted_step)
    monkeypatch.setattr(trainer.Validation, "measure", noted_measure)
    monkeypatch.setattr(trainer, "Threads", always_one)
    fit(VAE((8, 8), 2), torch.ones(30, 8, 8), ELBO(), epochs=2, batch_size=20, progress=False)
    assert steps == [1] * 4 and others == [4] * 2


def test_a_checkpoint_holds_the_number(monkeypatch, tmp_path, capsys):
    """Stopped on one of four threads, a training goes on with one, to the bits of one that was not stopped."""
    steps, step = [], trainer.Trainer.step

    def train(epochs, run):
        torch.manual_seed(0)
        vae = VAE((8, 8), 2)
        fit(vae, x, ELBO(), epochs=epochs, batch_size=20, run=run)
        return list(vae.state_dict().values())

    def noted_step(self, *moment):
        steps.append(torch.get_num_threads())
        step(self, *moment)

    x = (torch.rand(40, 8, 8) < 0.2).float()
    monkeypatch.setattr(trainer.Trainer, "step", noted_step)
    monkeypatch.setattr(Threads, "_trial", lambda self, least: {4: 1.0, 1: 0.1})
    whole = train(3, tmp_path / "whole")
    train(1, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["progress"]["threads"] == 1
    monkeypatch.setattr(Threads, "_trial", lambda self, least: pytest.fail("was tried"))
    capsys.readouterr()
    assert all(map(torch.equal, whole, train(3, tmp_path / "run")))
    assert set(steps) == {1} and len(steps) == 12
    assert capsys.readouterr().err.count("goes on with 1 of torch's 4 threads") == 1


def test_a_checkpoint_without_a_number_is_resumed(monkeypatch, tmp_path):
    """As earlier versions wrote it: a trial is made."""
    x, run, tried = torch.ones(40, 8, 8), tmp_path / "run", []
    fit(VAE((8, 8), 2), x, ELBO(), epochs=1, run=run, progress=False)
    manifest = json.loads((run / "manifest.json").read_text())
    del manifest["progress"]["threads"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(Threads, "_trial", lambda self, least: tried.append(least) or {4: 1.0})
    fit(VAE((8, 8), 2), x, ELBO(), epochs=2, run=run, progress=False)
    assert len(tried) == 1
