"""`diagnose --try`: what was measured is kept and printed, whatever happens to the next trial; what can't be tried is
refused before anything is measured.
"""

import json
import shutil
from math import nan
from pathlib import Path

import pytest
import torch

from pyro_vae.errors import OutOfMemory
from pyro_vae.report import trials
from pyro_vae.report.costs import Cost
from pyro_vae.report.proposals import Refit
from pyro_vae.report.trials import EvidenceGains, Trial
from tests.cli.test_cli import call

NETS = "--vae.encoder.hidden [8] --vae.decoder.hidden [8]"
QUICK = "--num_data 16 --num_particles 20 --num_gaps 8 --quiet"
SKIPPED = "--skip bracket calibration regions hmc predictive likeness"
COSTS = [Cost(what, 1.0, 0.1, "", "", Refit({"guide": object})) for what in ("family of the guide", "encoder")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run; never changed, only copied."""
    run = tmp_path_factory.mktemp("trained") / "run"
    words = f"--vae.latent_dim 2 {NETS} --binarize dynamic --epochs 1 --pictures false --quiet"
    assert call("fit", words, "--run", run).code == 0
    return run


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def numbers(run):
    return json.loads((run / "diagnosis-test.json").read_text())


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutOfMemory("no memory is left")])
def test_the_first_trial_is_kept_if_the_second_is_stopped(run, monkeypatch, error):
    """On the page, in the numbers and in print; the exit code tells what happened."""
    made = []

    def tried(subject, cost, epochs, training, progress):
        if made:
            raise error
        made.append(Trial(cost, EvidenceGains(torch.ones(9), (0.0, 0.0)), "ELBO", "this run", False, epochs, 1.0))
        return made[0]

    monkeypatch.setattr(trials, "_tried", tried)
    monkeypatch.setattr("pyro_vae.cli.work.diagnose.costs", lambda *given: COSTS)
    result = call("diagnose", run, QUICK, SKIPPED, "--try 2")
    assert result.code == (130 if isinstance(error, KeyboardInterrupt) else OutOfMemory.exit_code)
    found = numbers(run)
    assert [trial["what"] for trial in found["conclusions"]["tried"]] == ["family of the guide"]
    assert {"evidence", "gaps", "latents"} <= set(found) and "+1.000" in (run / "diagnosis-test.html").read_text()
    assert "family of the guide: better, after 2 epochs: ELBO +1.000" in result.out
    assert not [path for path in run.iterdir() if path.name.startswith(".diagnosis")]


def test_without_trials_the_measured_part_is_kept(run, monkeypatch):
    """Stopped in the first one."""

    def tried(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(trials, "_tried", tried)
    monkeypatch.setattr("pyro_vae.cli.work.diagnose.costs", lambda *given: COSTS)
    result = call("diagnose", run, QUICK, SKIPPED, "--try 2")
    assert result.code == 130 and "costs" in result.out
    assert numbers(run)["conclusions"]["tried"] == []


def test_other_kinds_are_refused_before_anything_is_measured(tmp_path):
    words = f"--vae VQVAE --vae.codes [4] --vae.codebook_size 8 --vae.embedding_dim 3 {NETS} --objective VQBound"
    run = tmp_path / "codes"
    assert call("fit", words, "--binarize dynamic --epochs 1 --pictures false --quiet --run", run).code == 0
    before = sorted(path.name for path in run.iterdir())
    result = call("diagnose", run, QUICK, SKIPPED, "--try 2")
    assert result.code == 2 and "this run is a VQVAE" in result.error
    assert sorted(path.name for path in run.iterdir()) == before


def test_an_unknown_cost_is_no_alarm():
    """What only a training can tell is not what costs most."""
    from pyro_vae.report.conclusions import conclusions

    open_, small = Cost("decoder", nan, nan, "", ""), Cost("encoder", 0.04, 0.01, "", "A wider encoder.")
    for found in ([small, open_], [open_, small]):
        text = conclusions(found, "r").section.text
        assert "costs most" not in text and "wider" not in text
