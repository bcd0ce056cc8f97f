"""`start_from`: a training that begins with the weights of a run, and with nothing else of it."""

import shutil
import signal
from functools import partial

import pytest
import torch
import yaml

from pyro_vae.cli import main
from pyro_vae.errors import CheckpointError, Stopped, UsageError
from pyro_vae.networks import MLP
from pyro_vae.objectives import DReG
from pyro_vae.priors import VampPrior
from pyro_vae.runs.loading import load
from pyro_vae.schedules import Constant
from pyro_vae.training.fitting import fit
from tests.support.stopping import signals_at
from tests.training.test_fitting import binary, make, weights

OPTIONS = {"epochs": 3, "batch_size": 30, "progress": False}
VAMP = partial(VampPrior, components=5)


@pytest.fixture
def source(tmp_path):
    """A trained run, whose pseudo-inputs are not data any more."""
    fit(make(prior=VAMP), binary(), run=tmp_path / "source", **OPTIONS)
    return tmp_path / "source"


def test_begins_with_the_weights_of_the_run(source):
    """Also the pseudo-inputs, which a training takes from the data otherwise: without a step nothing differs."""
    vae, still = make(1, prior=VAMP), Constant(0.0)
    fit(vae, binary(), start_from=source, lr_schedule=still, **OPTIONS)
    assert torch.equal(weights(vae), weights(load(source)))
    fit(vae, binary(), lr_schedule=still, **OPTIONS)
    assert not torch.equal(weights(vae), weights(load(source)))


def test_is_a_training_of_the_loaded_model(tmp_path):
    fit(make(), binary(), run=tmp_path, **OPTIONS)
    ours, theirs = make(1), load(tmp_path)
    fit(ours, binary(), DReG(3), start_from=str(tmp_path), **OPTIONS)
    fit(theirs, binary(), DReG(3), **OPTIONS)
    assert torch.equal(weights(ours), weights(theirs))


def test_resumes_from_its_own_checkpoint(source, tmp_path):
    """The weights of the source count at the very beginning alone: later it may be gone."""
    whole, parts = make(prior=VAMP), make(1, prior=VAMP)
    fit(whole, binary(), start_from=source, **OPTIONS)
    begun = {"start_from": source, "run": tmp_path / "run", **OPTIONS}
    with signals_at({4: signal.SIGTERM}), pytest.raises(Stopped):
        fit(parts, binary(), **begun)
    shutil.rmtree(source)
    fit(parts, binary(), **begun)
    assert torch.equal(weights(whole), weights(parts))
    with pytest.raises(CheckpointError, match=r"start_from is .* there, None here"):
        fit(parts, binary(), run=tmp_path / "run", **OPTIONS)


def test_refusals(source):
    with pytest.raises(CheckpointError, match="start_from needs a run of the same model"):
        fit(make(prior=VAMP, encoder=partial(MLP, hidden=(17,))), binary(), start_from=source, **OPTIONS)
    with pytest.raises(CheckpointError, match="start_from: there is no run directory"):
        fit(make(), binary(), start_from=source / "nothing", **OPTIONS)
    with pytest.raises(UsageError, match="start_from: expected the path of a folder"):
        fit(make(), binary(), start_from=3, **OPTIONS)
    with pytest.raises(UsageError, match="start_at_mean would replace"):
        fit(make(), binary(), start_from=source, start_at_mean=True, **OPTIONS)


def test_command(tmp_path, capsys):
    """The next run's config names the first; `start_at_mean: auto` leaves its bias alone."""
    small = ["--vae.latent_dim", "2", "--vae.encoder.hidden", "[8]", "--vae.decoder.hidden", "[8]"]
    words = ["fit", "--data", "digits", "--pictures", "false", "--quiet", *small, "--epochs", "1"]
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert main([*words, "--run", first]) == 0
    still = ["--lr_schedule", "Constant", "--lr_schedule.value", "0", "--objective", "DReG"]
    assert main([*words, "--run", second, "--start_from", first, *still]) == 0
    config = yaml.safe_load((tmp_path / "second" / "config.yaml").read_text())
    assert config["start_from"] == first and config["start_at_mean"] is False
    assert torch.equal(weights(load(first)), weights(load(second)))
    assert main(["fit", "--config", f"{second}/config.yaml", "--pictures", "false", "--quiet", "--run", second]) == 0
    assert main([*words, "--run", str(tmp_path / "third"), "--start_from", str(tmp_path / "nothing")]) == 4
    assert "start_from: there is no run directory" in capsys.readouterr().err
