"""What fit and diagnose say of themselves: where a training goes on, what was not measured, what was given less of."""

import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import command, main
from pyro_vae.cli.parsing import parse, parser_of
from pyro_vae.errors import CheckpointError, Stopped, UsageError
from pyro_vae.process.interrupts import signals_collected
from pyro_vae.report.html import page
from pyro_vae.report.sections import SECTIONS, diagnose
from pyro_vae.report.subject import Given, Subject
from pyro_vae.runs.directory import Run
from pyro_vae.runs.loading import read_manifest

SMALL = "--vae.latent_dim 2 --vae.encoder.hidden [4] --vae.decoder.hidden [4]"
FIT = f"fit {SMALL} --epochs 2 --pictures false"
ONE_SECTION = "--skip bracket gaps calibration regions hmc predictive likeness latents --num_particles 4 --quiet"
STOPS = """
import signal
from dataclasses import dataclass
from pathlib import Path
from pyro_vae.objectives import ELBO, Objective

@dataclass(frozen=True)
class Stops(Objective):
    def __call__(self, model, guide, *args, **kwargs):
        if not Path("stopped").exists():
            Path("stopped").touch()
            for _ in range(TIMES):
                signal.raise_signal(signal.SIGINT)
        return ELBO()(model, guide, *args, **kwargs)
"""


def interrupted(tmp_path, monkeypatch, times):
    """A command that is interrupted so often at its first loss, when it is given first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    Path("mine.py").write_text(STOPS.replace("TIMES", str(times)))
    return f"{FIT} --objective mine.Stops --run run"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run = tmp_path_factory.mktemp("trained") / "run"
    assert main([*f"{FIT} --quiet".split(), "--run", str(run)]) == 0
    return run


def called(capsys, *words):
    capsys.readouterr()
    code = main([part for word in words for part in str(word).split()])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def test_a_run_that_is_complete_says_so_and_its_summary_its_epoch(trained, capsys):
    code, out, err = called(capsys, FIT, "--run", trained)
    assert code == 0 and "already complete: 2 of 2 epochs\n" in err
    best = read_manifest(trained)["progress"]["best_epoch"]
    assert f"of epoch {best} of 2, whose weights are kept" in out
    assert "already complete" not in called(capsys, FIT, "--quiet --run", trained)[2]


def test_a_run_that_goes_on_says_where(tmp_path, capsys, monkeypatch):
    command = interrupted(tmp_path, monkeypatch, times=1)
    code, out, err = called(capsys, command)
    assert code == 130 and not out and "stopped by signal 2 at epoch 1, step 1 of 14" in err and "resumed" not in err
    assert "resumed at epoch 1 of 2, after step 1\n" in called(capsys, command)[2]


def test_pictures_are_announced_and_lost_ones_lose_no_summary(tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "pictures").write_text("")
    code, out, err = called(capsys, f"fit {SMALL} --epochs 1 --run {tmp_path}/run")
    assert code == 4 and "drawing pictures" in err and "whose weights are kept" in out and "run/pictures" in err


def test_a_second_interrupt_ends_it_at_once():
    with pytest.raises(KeyboardInterrupt), signals_collected(True) as pending:
        signal.raise_signal(signal.SIGINT)
        assert pending == [signal.SIGINT]
        signal.raise_signal(signal.SIGTERM)
        assert pending == [signal.SIGINT, signal.SIGTERM]  # a second one of the system is heard, and no more
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_stopped_nothing_comes_at_the_end():
    with pytest.raises(KeyboardInterrupt), signals_collected(True):
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(Stopped), signals_collected(True):
        signal.raise_signal(signal.SIGINT)
        raise Stopped(2, "epoch 1")


def test_a_second_interrupt_leaves_a_whole_run(tmp_path, capsys, monkeypatch):
    command = interrupted(tmp_path, monkeypatch, times=2)
    code, out, err = called(capsys, command)
    assert code == 130 and not out and err.endswith("pyro-vae fit: error: stopped\n")
    assert not list(Path("run").glob(".*")) and called(capsys, command)[0] == 0


def test_sizes_that_measure_nothing_are_refused_before_anything_is_read(capsys):
    code, _, err = called(capsys, "diagnose nowhere --num_replicated 100")
    assert code == 2 and "--num_replicated must be at least 160, got 100" in err
    assert called(capsys, "diagnose nowhere --num_replicated 100 --skip predictive")[0] == 4


def test_a_section_that_is_not_measured_is_a_warning(monkeypatch):
    def refuses(subject):
        """Something: measured."""
        raise UsageError("too few draws")

    monkeypatch.setitem(SECTIONS, "latents", refuses)
    found = diagnose(Subject(VAE((4,), latent_dim=2), Given(torch.ones(20, 4))), ["latents"])["latents"]
    assert found.warnings == ["Something: not measured. too few draws."]
    assert "Nothing to warn about" not in page("A run", "", [found.section])


def test_fewer_data_than_asked_for_are_told(trained, tmp_path, capsys):
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    code, out, _ = called(capsys, "diagnose", run, ONE_SECTION, "--num_data 100000")
    assert code == 0 and "--num_data 100000: test has only 200 to take, and all are taken" in out
    assert "has only 200 to take" in (run / "diagnosis-test.html").read_text()
    code, _, err = called(capsys, "evaluate", run, "--num_particles 2 --quiet --num_data 100000")
    assert code == 0 and "100000 data asked for: test has only 200, and all are taken" in err


def test_other_settings_are_a_short_list_after_the_advice(tmp_path):
    part = {"class_path": "pyro_vae.priors.MixtureOfNormals", "init_args": {"components": list(range(200))}}
    names = [f"option{i}" for i in range(9)]
    Run(tmp_path, {"vae": {"prior": part}, **dict.fromkeys(names, 1)}).close()
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CheckpointError) as caught:
        Run(tmp_path, {"vae": {"prior": None}, **dict.fromkeys(names, 2)})
    text = str(caught.value)
    assert "use these to resume it, or another directory. Different: vae.prior is MixtureOfNormals there, None" in text
    assert text.endswith("option3 is 1 there, 2 here; and 5 more") and len(text) < 600


@pytest.mark.parametrize("code", [0, 4, 130])
def test_an_interrupted_process_waits_for_nothing(monkeypatch, code):
    ended = []
    monkeypatch.setattr("pyro_vae.cli.main", lambda: code)
    monkeypatch.setattr("os._exit", ended.append)
    with pytest.raises(SystemExit):
        command()
    assert ended == ([130] if code == 130 else [])


def test_sections_to_leave_out_add_up():
    """As `--trust`, and not the last ones alone."""
    for words in (["--skip", "bracket", "gaps"], ["--skip", "bracket", "--skip", "gaps"]):
        assert parse(parser_of("diagnose"), ["run", *words]).skip == ["bracket", "gaps"]
    assert parse(parser_of("diagnose"), ["run"]).skip == []
