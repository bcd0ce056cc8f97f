"""Compiled code on disk: found again by the same operations, right for other constants, and never half-written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_vae.compiling import kept_code
from pyro_vae.compiling.recording import record, record_gradients
from pyro_vae.process import torch_internals
from pyro_vae.process.torch_cache import VARIABLE

X = torch.linspace(-1, 1, 12).reshape(4, 3)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder in place of the user's; inductor's own, with its headers compiled ahead, stays the user's."""
    monkeypatch.setattr(kept_code, "cache_folder", lambda: tmp_path)
    return tmp_path / "pyro_vae"


@pytest.fixture
def compiled(monkeypatch):
    """How often something is compiled, as a list that grows."""
    times, compile_library = [], torch_internals.compile_library
    monkeypatch.setattr(torch_internals, "compile_library", lambda *args: (times.append(1), compile_library(*args))[1])
    return times


@pytest.fixture(scope="module")
def once_compiled(tmp_path_factory):
    """A folder with the code of `run(torch.ones(3))`, which takes seconds to compile."""
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_code, "cache_folder", lambda: folder)
        run(torch.ones(3))
    return folder / "pyro_vae"


@pytest.fixture
def filled(cache, once_compiled):
    """`cache` after `run(torch.ones(3))`."""
    shutil.copytree(once_compiled, cache)
    return cache


@pytest.fixture
def copied(monkeypatch, once_compiled):
    """As `compiled`, for `run(torch.ones(3))` alone: its code is copied from where it was compiled once."""
    times, (code,) = [], once_compiled.glob("*/code.so")
    monkeypatch.setattr(torch_internals, "compile_library", lambda *args: times.append(shutil.copy(code, args[-1])))
    return times


def kept(cache):
    return sorted(cache.iterdir()) if cache.exists() else []


def shifted(by):
    """A module, and a function of it that takes a constant."""
    return nn.Linear(3, 2), lambda x: [(x + by).tanh() * by]


def run(by, x=X):
    module, function = shifted(by)
    return record(module, function, [x], compile=True)


def test_the_same_operations_are_compiled_once(cache, copied):
    first, again = run(torch.ones(3)), run(torch.ones(3))
    assert len(copied) == 1 == len(kept(cache))
    assert first.backend == again.backend == "inductor"
    assert torch.equal(first(X)[0], again(X)[0])
    torch.testing.assert_close(again(X)[0], (X + 1).tanh())


def test_constants_are_those_of_now(filled, compiled):
    two = torch.full((3,), 2.0)
    torch.testing.assert_close(run(two)(X)[0], (X + 2).tanh() * 2)
    assert not compiled


def test_constants_that_each_run_makes_are_found_by_their_order(cache, compiled):
    def made(first, second):
        def function(x):
            a, b = torch.tensor(first), torch.tensor(second)
            return [x * a - b]

        return record(nn.Linear(1, 1), function, [X], compile=True)

    torch.testing.assert_close(made(2.0, 3.0)(X)[0], 2 * X - 3)
    torch.testing.assert_close(made(5.0, 7.0)(X)[0], 5 * X - 7)
    assert len(compiled) == 1


def test_gradients_and_the_parameters_that_have_one(cache, compiled):
    for _ in range(2):
        module = nn.ModuleDict({"used": nn.Linear(3, 1), "unused": nn.Linear(3, 1)})
        graph, parameters = record_gradients(
            module, lambda x, module=module: (module["used"](x).exp().sum(),) * 2, [X], compile=True
        )
        value, *gradients = graph(X)
        assert [id(p) for p in parameters] == [id(p) for p in module["used"].parameters()]
        expected = module["used"](X).exp().sum()
        torch.testing.assert_close(value, expected.detach())
        for ours, theirs in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert len(compiled) == 1


def test_other_options_have_other_code(monkeypatch):
    options = {"a": 1}
    before = kept_code.depends_on(options)
    assert before == kept_code.depends_on({"a": 1}) != kept_code.depends_on({"a": 2})
    with monkeypatch.context() as patch:
        patch.setenv("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O2")
        assert kept_code.depends_on(options) != before
    monkeypatch.setattr(kept_code, "_cpu", lambda: "another")
    assert kept_code.depends_on(options) != before


@pytest.mark.parametrize("damaged", ["code.so", "constants.json"])
def test_what_is_damaged_is_compiled_again(filled, copied, damaged):
    (kept(filled)[0] / damaged).unlink()
    (kept(filled)[0] / damaged).write_bytes(b"[7]")
    torch.testing.assert_close(run(torch.ones(3))(X)[0], (X + 1).tanh())
    assert len(copied) == 1 and len(kept(filled)) == 1
    run(torch.ones(3))
    assert len(copied) == 1


def test_code_of_another_user_is_not_run(filled, copied, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: -1)
    torch.testing.assert_close(run(torch.ones(3))(X)[0], (X + 1).tanh())
    assert len(copied) == 1


def test_a_program_that_changes_is_not_kept(cache):
    calls = []

    def function(x):
        calls.append(1)
        return [x * len(calls)]

    assert record(nn.Linear(1, 1), function, [X], compile=True).backend == "inductor"
    assert not kept(cache)


def test_what_fails_leaves_nothing(cache, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch_internals, "compile_library", fails)
    assert run(torch.ones(3)).backend == "inductor"  # without keeping it
    assert not kept(cache) and "no C++ compiler" in caplog.text


def test_a_folder_that_cannot_be_written(cache, monkeypatch):
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("a file in its place")
    torch.testing.assert_close(run(torch.ones(3))(X)[0], (X + 1).tanh())
    assert cache.read_text() == "a file in its place"


def test_the_oldest_are_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_code, "_MOST", 2)
    for age, name in enumerate("dcba"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    kept_code._tidy(tmp_path)
    assert [path.name for path in kept(tmp_path)] == ["c", "d"]


def test_another_process_needs_no_compiler(tmp_path):
    """The second process gets the same bits without torch's compiler."""
    code = """
import sys, torch
from pyro_vae import VAE, fit
torch.manual_seed(0)
vae = VAE((8,), latent_dim=2)
history = fit(vae, torch.ones(40, 8), epochs=2, batch_size=20, compile=True, progress=False)
print(history.mode, history.rows[-1]["loss"], "torch._dynamo" in sys.modules)
"""
    environment = {**os.environ, VARIABLE: str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True
        ).stdout.rsplit(maxsplit=1)
        for _ in range(2)
    )
    assert first[0] == second[0] and first[0].startswith("compiled (inductor)")
    assert (first[1], second[1]) == ("True", "False")
