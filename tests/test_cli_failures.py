"""What the command line says of exceptions: one line, with class and method where the code is the user's."""

import errno
import sys

import pytest

from pyro_vae.cli import main
from pyro_vae.cli.failures import as_ours
from pyro_vae.errors import FileError, PyroVaeError, file_errors

MINE = '''
import torch
from torch.optim import Adam
from pyro_vae import VAE
from pyro_vae.guides import DiagonalNormal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.objectives import ELBO, Objective
from pyro_vae.priors import StandardNormal
from pyro_vae.schedules import Schedule
from dataclasses import dataclass


class Net(torch.nn.Module):
    """A network that {when} divides by zero."""

    def __init__(self, in_shape, out_shape, **options):
        super().__init__()
        self.linear = torch.nn.Linear(64, 4)
        if "init" == "{when}":
            raise ValueError("no such layer")

    def forward(self, x):
        if "{when}" == "shape":
            return self.linear(x)
        return 1 / 0


@dataclass(frozen=True)
class Mine(Objective):
    def __call__(self, model, guide, *args, **kwargs):
        return {{}}["weights"]


class Late(Adam):
    def step(self, closure=None):
        if self.state:
            raise {raised}
        return super().step(closure)


@dataclass(frozen=True)
class Rate(Schedule):
    def __call__(self, epoch, epochs):
        return open("/nowhere/rates.txt")
'''
FAST = (
    "--vae.latent_dim 2 --vae.encoder.hidden [8] --vae.decoder.hidden [8] "
    "--epochs 2 --pictures false --quiet --data_seed 0 --run run"
)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """In a folder of its own, and afterwards none of its modules is known."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    sys.modules.pop("mine", None)


def write(tmp_path, when="later", raised='KeyError("momentum")'):
    (tmp_path / "mine.py").write_text(MINE.format(when=when, raised=raised))


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
    code, line = failed(
        capsys, "fit", FAST.replace("--vae.encoder.hidden [8]", "") if "Net" in option else FAST, option
    )
    assert code == 8 and line.startswith("pyro-vae fit: error: error in mine:") and where in line and text in line


def test_an_error_of_the_system_has_its_path_and_code_7():
    told = as_ours(OSError(errno.ENOSPC, "No space left on device", "runs/x/manifest.json"))
    assert (told.exit_code, str(told)) == (7, "can't use runs/x/manifest.json: No space left on device")
    assert str(as_ours(OSError("cable"))) == "can't use a file: cable"


def test_a_fault_of_ours_is_called_one(monkeypatch, capsys):
    monkeypatch.setattr("pyro_vae.cli._load", lambda command: None)
    code, line = failed(capsys, "info run")
    assert code == 1 and "a fault of pyro_vae, please report it: TypeError: 'NoneType' object is not callable" in line
    assert "at pyro_vae.cli:main:" in line and "PYRO_VAE_TRACEBACK=1" in line


def test_errors_of_the_system_become_ours_with_the_path():
    with pytest.raises(FileError, match=r"can't write some/file: No space left on device") as caught:  # noqa: SIM117
        with file_errors("some/file", "write"):
            raise OSError(errno.ENOSPC, "No space left on device")
    error = caught.value
    assert (error.errno, error.filename, error.exit_code) == (errno.ENOSPC, "some/file", 7)
    assert isinstance(error, OSError) and isinstance(error, PyroVaeError)
    with pytest.raises(FileError, match="as it was"), file_errors("other", "read"):
        raise FileError("as it was")
