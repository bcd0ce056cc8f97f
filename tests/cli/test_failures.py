"""What the command line says of exceptions: one line, with class and method where the code is the user's."""

import errno
import sys

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.cli.failures import as_ours
from pyro_vae.errors import FileError, PyroVaeError, file_errors
from pyro_vae.training.fitting import fit

MINE = """
import torch
from torch.optim import Adam
from pyro_vae.objectives import Objective
from pyro_vae.schedules import Schedule
from dataclasses import dataclass


class Net(torch.nn.Module):
    def __init__(self, in_shape, out_shape):
        super().__init__()

    def forward(self, x):
        return 1 / 0


@dataclass(frozen=True)
class Mine(Objective):
    def __call__(self, model, guide, *args, **kwargs):
        return {loss}


class Late(Adam):
    def step(self, closure=None):
        if self.state:
            raise KeyError("momentum")
        return super().step(closure)


@dataclass(frozen=True)
class Rate(Schedule):
    def __call__(self, epoch, epochs):
        return {rate}
"""
FAST = "--vae.latent_dim 2 --vae.decoder.hidden [8] --epochs 2 --pictures false --quiet --data_seed 0 --run run"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """In a folder of its own; before and afterwards none of its modules is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    sys.modules.pop("mine", None)
    yield
    sys.modules.pop("mine", None)


def write(tmp_path, loss='{}["weights"]', rate="open('/nowhere/rates.txt')"):
    (tmp_path / "mine.py").write_text(MINE.format(loss=loss, rate=rate))


def failed(capsys, *words):
    """The exit code and the one line on standard error of a command in this process."""
    code = main([part for word in words for part in str(word).split()])
    out, err = capsys.readouterr()
    assert "Traceback" not in err and not out
    return code, err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "where", "text"),
    [
        ("--vae.encoder mine.Net", "mine:Net.forward:", "ZeroDivisionError: division by zero"),
        ("--objective mine.Mine", "mine:Mine.__call__:", "KeyError: 'weights'"),
        ("--optimizer mine.Late", "mine:Late.step:", "KeyError: 'momentum'"),
        ("--lr_schedule mine.Rate", "mine:Rate.__call__:", "FileNotFoundError: [Errno 2] No such file"),
    ],
)
def test_an_error_in_a_class_of_the_user_names_class_and_method(tmp_path, capsys, option, where, text):
    write(tmp_path)
    code, line = failed(capsys, "fit", FAST, option)
    assert code == 8 and line.startswith("pyro-vae fit: error: error in mine:") and where in line and text in line


@pytest.mark.parametrize(
    ("module", "where"),
    [
        ("1 / 0", "mine:<module>:1: ZeroDivisionError"),
        ("raise SystemExit(0)", "mine:<module>:1: SystemExit: 0"),
        ("raise GeneratorExit", "mine:<module>:1: GeneratorExit"),
        ("None.x", "mine:<module>:1: AttributeError: 'NoneType' object has no attribute 'x'"),
        ("def x(:", "mine.py:1: "),
    ],
)
def test_a_module_of_the_user_that_fails_on_import(tmp_path, capsys, module, where):
    (tmp_path / "mine.py").write_text(module)
    code, line = failed(capsys, "fit", FAST, "--objective mine.Mine")
    assert code == 8 and where in line


def test_a_class_that_is_built_otherwise_is_a_mistake_of_the_options(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from pyro_vae.likelihoods import Bernoulli\nclass Own(Bernoulli):\n    def __init__(self): pass"
    )
    code, line = failed(capsys, "fit", FAST, "--vae.likelihood mine.Own")
    assert code == 2 and "Own: too many positional arguments; it is called as Own()" in line


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        ("None", "Mine must return the loss, one number as a tensor, summed over the batch; got NoneType"),
        ("torch.ones(3)", "got a tensor of shape [3]"),
        ("torch.tensor(1.0)", "the loss of Mine has no gradient"),
        ("torch.ones((), requires_grad=True)", "the loss of Mine depends on no parameter"),
    ],
)
def test_an_objective_that_returns_no_loss(tmp_path, capsys, returned, text):
    write(tmp_path, loss=returned)
    code, line = failed(capsys, "fit", FAST, "--objective mine.Mine")
    assert code == 2 and text in line


@pytest.mark.parametrize("option", ["--lr_schedule mine.Rate", "--objective ELBO --objective.beta mine.Rate"])
def test_a_schedule_that_returns_no_number(tmp_path, capsys, option):
    write(tmp_path, rate="'fast'")
    assert failed(capsys, "fit", FAST, option) == (
        2,
        "pyro-vae fit: error: Rate must return a number, got 'fast' at epoch 0",
    )


def test_the_traceback_on_request(tmp_path, capsys, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("PYRO_VAE_TRACEBACK", "1")
    assert main(["fit", *FAST.split(), "--objective", "mine.Mine"]) == 8
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_in_python_an_error_of_the_user_stays_as_it_is():
    def objective(model, guide, *args, **kwargs):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fit(VAE((8, 8), latent_dim=2), torch.ones(8, 8, 8), objective, epochs=1, progress=False)


def test_an_error_of_the_system_has_its_path_and_code_7():
    told = as_ours(OSError(errno.ENOSPC, "No space left on device", "runs/x/manifest.json"))
    assert (told.exit_code, str(told)) == (7, "can't use runs/x/manifest.json: No space left on device")
    assert str(as_ours(OSError("cable"))) == "can't use a file: cable"


def test_a_fault_of_ours_is_called_one(monkeypatch, capsys):
    monkeypatch.setattr("pyro_vae.cli.commands.info.run", None)
    code, line = failed(capsys, "info run")
    assert code == 1 and "a fault of pyro_vae, please report it: TypeError: 'NoneType' object is not callable" in line
    assert "at pyro_vae.cli:_run:" in line and "PYRO_VAE_TRACEBACK=1" in line


def test_errors_of_the_system_become_ours_with_the_path():
    with pytest.raises(FileError, match=r"can't write some/file: No space left on device") as caught:  # noqa: SIM117
        with file_errors("some/file", "write"):
            raise OSError(errno.ENOSPC, "No space left on device")
    error = caught.value
    assert (error.errno, error.filename, error.exit_code) == (errno.ENOSPC, "some/file", 7)
    assert isinstance(error, OSError) and isinstance(error, PyroVaeError)
    with pytest.raises(FileError, match="as it was"), file_errors("other", "read"):
        raise FileError("as it was")
