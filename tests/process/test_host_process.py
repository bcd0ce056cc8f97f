"""Threads, signals and memory of the process that the package runs in."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pyro_vae.errors import Stopped
from pyro_vae.evidence import log_marginal
from pyro_vae.process import turns
from pyro_vae.process.isolation import isolated
from pyro_vae.process.seeding import seeded
from tests.support.calls import CALLS, Things, data, fitted, pair, plain
from tests.support.switches import differences, snapshot

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("few_adapted")


@pytest.fixture(autouse=True)
def _eager_switching():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*functions):
    """The results of functions that start together, each in a thread."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(run, functions))


def estimate():
    return plain(log_marginal(*pair(Things()), num_particles=1000))


def training():
    return plain(fitted(Things().vae, data(20)))


class TestThreads:
    @pytest.mark.parametrize(
        "functions",
        [
            (estimate, estimate),
            (training, training),
            (estimate, training, estimate, training),
            tuple(
                (lambda name=name: plain(CALLS[name].run(Things()))) for name in ("ais", "sample", "posterior by hmc")
            ),
        ],
        ids=["estimates", "trainings", "mixed", "others"],
    )
    def test_right_results(self, functions):
        expected = [function() for function in functions]
        before = snapshot()
        for _ in range(2):
            assert at_once(*functions) == expected
        assert differences(before, snapshot()) == []

    def test_one_vae_in_two_threads(self):
        things = Things()
        estimates = [lambda: plain(log_marginal(*pair(things), num_particles=500))] * 3
        assert at_once(*estimates) == [estimates[0]()] * 3

    def test_an_error_in_one_of_them(self):
        expected, before = estimate(), snapshot()

        def failing():
            vae = Things().vae
            vae.decoder.register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                log_marginal(vae.model, vae.guide, data(), num_particles=1000)

        assert at_once(failing, estimate, failing)[1] == expected
        assert differences(before, snapshot()) == []

    def test_draws_under_seeded(self):
        def draws():
            with seeded(0, "noise"):
                return [torch.rand(3).tolist() for _ in range(200)]

        expected = draws()
        assert at_once(draws, estimate, draws, draws)[0::2] == [expected, expected]

    def test_who_waits_says_so_once(self, caplog, monkeypatch):
        monkeypatch.setattr(turns, "_turn", turns._Turn())
        inside, leave = threading.Event(), threading.Event()

        @isolated
        def long_work():
            inside.set()
            assert leave.wait(300)

        @isolated
        def short_work():
            leave.set()

        def waiting():
            inside.wait()
            while not caplog.messages:
                time.sleep(0.001)
            leave.set()

        with caplog.at_level(logging.WARNING, "pyro_vae"), ThreadPoolExecutor(4) as pool:
            tasks = [pool.submit(long_work)]
            inside.wait()
            tasks += [pool.submit(short_work), pool.submit(short_work), pool.submit(waiting)]
            for task in tasks:
                task.result()
        assert len(caplog.messages) == 1
        assert "short_work waits for long_work, which runs in another thread" in caplog.messages[0]
        assert "Use processes" in caplog.messages[0]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    def test_a_forked_child_takes_the_turn_of_a_thread_that_it_has_not(self):
        code = """
import os, threading
from pyro_vae.process.turns import one_at_a_time
inside, leave = threading.Event(), threading.Event()
def hold():
    with one_at_a_time("a thread"):
        inside.set()
        leave.wait()
thread = threading.Thread(target=hold)
thread.start()
inside.wait()
child = os.fork()
if child == 0:
    with one_at_a_time("the child"):
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
leave.set()
"""
        assert run_python(code).strip() == "7"


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


class TestSignals:
    @pytest.mark.parametrize(
        "handler", [signal.SIG_IGN, signal.SIG_DFL, lambda *_: None], ids=["ignore", "default", "own"]
    )
    def test_handlers_are_put_back(self, handler, tmp_path):
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, handler) for number in numbers]
        try:
            fitted(Things().vae, data(), run=tmp_path / "run")
            assert [signal.getsignal(number) for number in numbers] == [handler] * 2
        finally:
            for number, old in zip(numbers, before, strict=True):
                signal.signal(number, old)

    def test_one_that_comes_too_late_is_not_lost(self, tmp_path):
        """A run that is complete has no step left at which it could stop."""
        fitted(Things().vae, data(), run=tmp_path / "run")
        vae, heard = Things().vae, []
        vae.register_load_state_dict_post_hook(lambda *_: signal.raise_signal(signal.SIGTERM))
        before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
        try:
            fitted(vae, data(), run=tmp_path / "run")
        finally:
            signal.signal(signal.SIGTERM, before)
        assert heard == [signal.SIGTERM]

    def test_one_that_is_ignored_stops_nothing(self, tmp_path):
        things, before = Things(), signal.signal(signal.SIGINT, signal.SIG_IGN)
        things.vae.decoder.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGINT))
        try:
            fitted(things.vae, data(), run=tmp_path / "run")
        finally:
            signal.signal(signal.SIGINT, before)

    def test_another_thread_touches_none(self, tmp_path, monkeypatch):
        touched = []
        monkeypatch.setattr(signal, "signal", lambda *a: touched.append(a))
        at_once(lambda: fitted(Things().vae, data(), run=tmp_path / "run"))
        assert touched == []

    def test_one_that_python_does_not_know_of_is_left_at_work(self, tmp_path, monkeypatch):
        real, touched = signal.signal, []
        monkeypatch.setattr(signal, "getsignal", lambda number: None)
        monkeypatch.setattr(signal, "signal", lambda *a: touched.append(a) or real(*a))
        fitted(Things().vae, data(), run=tmp_path / "run")
        assert touched == []

    def test_one_installed_in_c_survives(self, told):
        """`faulthandler.register` installs in C; Python's `getsignal` does not hear of it."""
        assert told["handlers"] == "same" and told["stack"]

    def test_handlers_are_put_back_after_a_stop(self, tmp_path):
        before, things = snapshot(), Things()
        things.vae.decoder.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            fitted(things.vae, data(), run=tmp_path / "run")
        assert differences(before, snapshot()) == []


FRESH = """
import faulthandler, json, multiprocessing, os, resource, signal, sys, tempfile
import logging, numpy as np, pyro, torch
import pyro_vae
from tests.support.calls import CALLS, PLOTS, Things, data, fitted
from tests.support.switches import differences, snapshot

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2000):
        np.ones(1 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
told = {"faults": [faults()]}
before = snapshot()
for call in CALLS.values():
    call.run(Things())
for draw in PLOTS.values():
    draw(Things())
after = snapshot()
told["faults"].append(faults())
told["filters"] = [rule for rule in after.pop("warnings") if rule in before["warnings"]] == before["warnings"]
told["differences"] = differences(before, after)
multiprocessing.set_start_method("spawn")

with tempfile.TemporaryFile("w+") as stack, tempfile.TemporaryDirectory() as folder:
    faulthandler.register(signal.SIGTERM, file=stack, chain=False)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    fitted(Things().vae, data(), run=os.path.join(folder, "run"))
    same = handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    os.kill(os.getpid(), signal.SIGTERM)
    stack.seek(0)
    told |= {"handlers": "same" if same else "others", "stack": "most recent call first" in stack.read()}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    """What a process found that had imported none of the libraries that are imported when needed.

    The two variables are scikit-learn's own: its import sets them for every later OpenMP library, where they are unset.
    """
    openmp = {"KMP_DUPLICATE_LIB_OK": "True", "KMP_INIT_AT_FORK": "FALSE"}
    return json.loads(run_python(FRESH, PYTHONPATH=str(ROOT), **openmp))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults as Linux does")
def test_memory_is_allocated_as_before(told):
    """With glibc's thresholds fixed at 128 KiB, 2000 blocks of 1 MB are faulted in anew: 508,000 faults."""
    before, after = told["faults"]
    assert after <= before + 20_000


@pytest.mark.slow
def test_compiling_leaves_every_switch():
    """But the path of imports, to which setuptools adds its own folder, and a handler of torch's own traces."""
    code = """
import multiprocessing
from tests.support.calls import Things, data, fitted
from tests.support.switches import differences, snapshot
before = snapshot()
fitted(Things().vae, data(60), compile=True)
told = [what.split(":")[0] for what in differences(before, snapshot())]
multiprocessing.set_start_method("spawn")
print(set(told) - {"warnings", "import path", "logger torch.__trace"})
"""
    assert run_python(code, PYTHONPATH=str(ROOT)).strip() == "set()"


def test_first_use_leaves_every_switch(told):
    """Libraries that are imported may add filters of warnings of their own, and no more."""
    assert told["differences"] == [] and told["filters"]
