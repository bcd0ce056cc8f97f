"""Fixtures shared by all tests; real data are read from `../shared/data` where it is there."""

import os
import signal
import sys
from pathlib import Path

# Small tensors: more threads only wait for one another, and the clock decides how many of them round the sums. In other
# processes that tests start too.
os.environ["OMP_NUM_THREADS"] = "1"
# Compiled programs are right at any level of optimisation: the part that takes g++ longest is compiled with the least,
# by which a small program takes 5 CPU seconds in place of 7.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
os.environ.setdefault("AOT_INDUCTOR_ENABLE_LINE_TABLES", "0")

import pyro
import pytest
import torch

torch.set_num_threads(1)  # where a plugin has imported it already

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Neighbouring tests share fixtures of their module: with `-n`, each worker begins with a contiguous part."""
    if config.getoption("numprocesses", None) and config.option.dist == "no":
        config.option.dist = "worksteal"


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same global state of torch and Pyro, which the package itself never relies on."""
    torch.manual_seed(0)
    pyro.clear_param_store()
    sys.modules.pop("mine", None)  # what tests call the module of a user: another one for each of them


@pytest.fixture
def bfloat16(monkeypatch):
    """Products in bfloat16 wherever they are asked for: without a CPU's instructions for them they are only slower."""
    monkeypatch.setattr("pyro_vae.networks.precision.cpu_has_bfloat16", lambda: True)


@pytest.fixture
def without_a_compiler(monkeypatch):
    """Graphs run as they are recorded, also where an earlier run has kept compiled code of them."""
    monkeypatch.setattr("pyro_vae.compiling.recording._place", lambda *_: None)
    monkeypatch.setattr("pyro_vae.compiling.recording._compiled", lambda graph, *_: (graph, "graph"))


@pytest.fixture
def few_adapted(monkeypatch):
    """Annealing finds its step sizes in no time: for what does not depend on how good they are."""
    monkeypatch.setattr("pyro_vae.evidence.annealing_pilot._LEAST_ADAPTED", 5)
    monkeypatch.setattr("pyro_vae.evidence.annealing_pilot._FIRST_STEPS", 3)


@pytest.fixture(scope="session")
def shared():
    """The folder of real data, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("the real data sets (../shared/data) are not on this machine")
    return SHARED
