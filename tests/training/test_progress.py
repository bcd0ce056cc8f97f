"""Progress: a bar on a terminal and in a notebook, else lines; the time left counts from where a training goes on."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from pyro_vae import messages
from pyro_vae.autoencoders import VAE
from pyro_vae.messages import Progress
from pyro_vae.training.fitting import fit


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(messages.time, "monotonic", lambda: now.seconds)
    return now


@pytest.fixture
def notebook(monkeypatch):
    """A kernel of Jupyter, as far as it can be told from within."""
    kernel: Any = ModuleType("IPython")
    kernel.get_ipython = lambda: SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", kernel)


class TestLines:
    def test_the_time_left(self, clock, capsys):
        with Progress(100, "epoch") as bar:
            clock.seconds += 30
            bar.show(10, "elbo -3.00")
            clock.seconds += 1
            bar.show(11, "too soon")
            clock.seconds += 3600
            bar.show(20)
            bar.show(100, "done", now=True)
        assert capsys.readouterr().err.splitlines() == [
            "epoch 10/100  elbo -3.00  0:04:30 left",
            "epoch 20/100  4:02:04 left",
            "epoch 100/100  done",
        ]

    def test_of_what_is_resumed(self, clock, capsys):
        """40 of 100 were done before: 30 in 60 seconds leave 30, so 60 seconds."""
        with Progress(100, "epoch") as bar:
            clock.seconds += 5
            bar.begin(40)
            bar.show(40, "at once", now=True)
            clock.seconds += 60
            bar.show(70)
        assert capsys.readouterr().err.splitlines() == ["epoch 40/100  at once", "epoch 70/100  0:01:00 left"]

    def test_fit_counts_from_where_it_goes_on(self, tmp_path, monkeypatch):
        begun, begin = [], Progress.begin
        monkeypatch.setattr(Progress, "begin", lambda bar, done: begun.append(done) or begin(bar, done))
        how = {"epochs": 4, "batch_size": 5, "run": tmp_path}
        fit(VAE((4,), 2), torch.ones(10, 4), on_epoch=lambda row: row["epoch"] == 3, **how)
        fit(VAE((4,), 2), torch.ones(10, 4), **how)
        assert begun == [0.0, 3.0]


class TestBar:
    def test_the_rate_of_what_is_resumed(self, monkeypatch):
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        with Progress(100, "epoch") as progress:
            bar: Any = progress.bar
            start = bar.start_t
            bar._time = lambda: start + 60
            progress.begin(40)
            bar.last_print_t = start
            progress.show(70, "elbo -3.00")
            assert bar.n == 70 and bar.format_dict["initial"] == 40 and bar.format_dict["rate"] == pytest.approx(0.5)
            assert "01:00<01:00" in str(bar) and "elbo -3.00" in str(bar)

    @pytest.mark.usefixtures("notebook")
    def test_in_a_notebook_there_is_one_without_a_terminal(self, capsys):
        """Without ipywidgets it is made of letters; that these are missing is no warning."""
        with Progress(3, "epoch") as progress:
            progress.show(3, "elbo -3.00")
        told, bar = capsys.readouterr(), progress.bar
        assert bar is not None and bar.n == 3 and "3/3" in told.err + told.out and "IProgress" not in told.err

    def test_elsewhere_there_is_none(self):
        assert Progress(3, "epoch").bar is None and Progress(3, "epoch", enabled=False).bar is None

    @pytest.mark.usefixtures("notebook")
    def test_none_where_it_is_switched_off(self):
        assert Progress(3, "epoch", enabled=False).bar is None
