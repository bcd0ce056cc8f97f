"""A result that can't be saved: said before the work where that is known, and printed all the same where it is not."""

import errno
import shutil
import sys
from pathlib import Path

import pytest
from jsonargparse import Namespace

from pyro_vae.cli import main
from pyro_vae.cli.home import expanded
from pyro_vae.errors import FileError
from pyro_vae.runs import files as run_files
from tests.evidence.test_methods import FASTEST

pytestmark = pytest.mark.usefixtures("few_adapted")
SMALL = "--num_particles 4 --num_data 8 --quiet"
CHEAP = " ".join(f"--options.{name} {value}" for m in ("ais", "appendix_d") for name, value in FASTEST[m].items())
RESULTS = {
    "evaluate": (f"evaluate RUN {SMALL}", "evidence-test.json", "estimate"),
    "evaluate all": (f"evaluate RUN {SMALL} --method all {CHEAP}", "evidence-test-all.npz", "estimate"),
    "cluster": ("cluster RUN --num_particles 1", "clusters-test.npz", "cluster"),
    "sample": ("sample RUN --num 4", "pictures/samples-num4-seed0.png", "sample"),
    "reconstruct": ("reconstruct RUN --num 4", "pictures/reconstructions-test-num4-seed0.png", "reconstruct"),
    "diagnose": (
        "diagnose RUN --num_data 8 --num_particles 4 --quiet "
        "--skip bracket gaps calibration regions hmc predictive likeness latents",
        "diagnosis-test.json",
        "diagnose",
    ),
}
MODULES = {
    "evaluate all": "pyro_vae.cli.work.evaluate",
    "sample": "pyro_vae.cli.work.generate",
    "reconstruct": "pyro_vae.cli.work.generate",
    "cluster": "pyro_vae.tasks.clustering",
}
"""Where the work of a result is looked up, if not in the file of its command's name."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a mixture prior; never changed, only copied."""
    run = tmp_path_factory.mktemp("trained") / "run"
    small = "--vae.latent_dim 2 --vae.encoder.hidden [4] --vae.decoder.hidden [4] --vae.prior MixtureOfNormals"
    assert main([*f"fit {small} --epochs 1 --pictures false --quiet".split(), "--run", str(run)]) == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def called(capsys, command, run):
    code = main([part.replace("RUN", str(run)) for part in command.split()])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def untouched(*args, **kwargs):
    pytest.fail("the work was begun")


@pytest.mark.parametrize("name", RESULTS)
def test_a_place_that_is_taken_is_refused_before_the_work(name, run, capsys, monkeypatch):
    command, file, work = RESULTS[name]
    monkeypatch.setattr(f"{MODULES.get(name, f'pyro_vae.cli.work.{name}')}.{work}", untouched)
    (run / file).mkdir(parents=True)
    code, out, err = called(capsys, command, run)
    assert code == 4 and not out and str(run / file) in err


@pytest.mark.parametrize("name", RESULTS)
def test_a_disk_that_is_full_is_told_before_the_work(name, run, capsys, monkeypatch):
    command, _, work = RESULTS[name]
    monkeypatch.setattr(f"{MODULES.get(name, f'pyro_vae.cli.work.{name}')}.{work}", untouched)
    monkeypatch.setattr(run_files, "_try", full)
    code, out, err = called(capsys, command, run)
    assert code == 7 and not out and "No space left on device" in err and f"can't write {run}/" in err


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_can_not_be_saved_has_been_printed(name, run, capsys, monkeypatch):
    monkeypatch.setattr(run_files, "_replace", full)
    code, out, err = called(capsys, RESULTS[name][0], run)
    assert code == 7 and "weights" in out and "No space left on device" in err and f"can't write {run}/" in err


def test_a_picture_of_a_comparison(run, capsys, monkeypatch, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    monkeypatch.setattr("pyro_vae.cli.work.compare._estimate", untouched)
    (tmp_path / "file").write_text("")
    code, out, err = called(capsys, f"compare RUN {other} {SMALL} --out {tmp_path}/file/x.png", run)
    assert code == 7 and not out and f"can't write {tmp_path}/file/x.png" in err


def test_refit_prints_before_it_saves(run, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(run_files, "_replace", lambda folder, name, *_: name == "config.yaml" or full())
    code, out, err = called(capsys, f"refit RUN --prior LearnedNormal --epochs 1 --quiet --out {tmp_path}/new", run)
    assert code == 7 and "cross entropy" in out and "No space left on device" in err


def test_a_place_in_a_folder_that_is_not_there_yet(tmp_path):
    run_files.check_anywhere(tmp_path / "a" / "b" / "x.png")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").write_text("")
    with pytest.raises(FileError, match="Not a directory"):
        run_files.check_anywhere(tmp_path / "a" / "b" / "x.png")


def test_home_in_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    options = Namespace(run="~/x", runs=["~/y", "z"], out=None, data="digits", data_root="~no-such-user/x")
    assert expanded(options) == Namespace(
        run="/home/me/x", runs=["/home/me/y", "z"], out=None, data="digits", data_root="~no-such-user/x"
    )


def test_a_run_in_the_home_folder(run, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parent))
    monkeypatch.chdir(run)
    assert main(["info", "~/run"]) == 0 and not (run / "~").exists()


def test_pictures_of_fit_are_never_overwritten(run, capsys):
    for name in ("samples", "reconstructions"):
        (run / "pictures").mkdir(exist_ok=True)
        (run / "pictures" / f"{name}.png").write_text("of fit")
    for command in ("sample RUN", "sample RUN --num 5 --seed 1", "reconstruct RUN", "reconstruct RUN --split valid"):
        assert called(capsys, command, run)[0] == 0
    assert {p.name for p in (run / "pictures").iterdir()} == {
        *("samples.png", "reconstructions.png", "samples-num64-seed0.png", "samples-num5-seed1.png"),
        *("reconstructions-test-num64-seed0.png", "reconstructions-valid-num64-seed0.png"),
    }
    assert (run / "pictures" / "samples.png").read_text() == "of fit"


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_can_not_be_printed_is_saved(run, monkeypatch, capsys, name):
    command, saved, _ = RESULTS[name]
    with Path("/dev/full").open("w") as stream, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        code, _, err = called(capsys, command, run)
    assert code == 7 and "can't write standard output" in err
    assert (run / saved).stat().st_size > 0
