"""Runs and YAML of the version before the folders: they load, resume and give the same numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pyro_vae import fit, load, load_data, log_marginal
from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.cli import main
from pyro_vae.evidence import bound
from pyro_vae.runs.old_paths import current
from pyro_vae.runs.safe_yaml import load_yaml

SAVED = Path(__file__).with_name("saved")
"""Runs of one epoch on the digits, saved on 2026-11-28 when each class lay in a file at the top of the package."""
EXPECTED = json.loads((SAVED / "expected.json").read_text())
"""log p(x) of the first five test data, K = 64, seed 1, as that version gave it; of the VQ-VAE its bound."""
CLASSES = {"vae": VAE, "hierarchical": HierarchicalVAE, "semi_supervised": SemiSupervisedVAE, "vq": VQVAE}


@pytest.fixture(scope="module")
def digits():
    return load_data("digits", binarize="static")


@pytest.mark.parametrize("name", CLASSES)
def test_numbers_of_an_old_run(name, digits):
    vae, x = load(SAVED / name), digits.split("test")[:5]
    assert type(vae) is CLASSES[name]
    if name == "vq":
        values = bound(vae.model, vae.guide, x).elbo
    else:
        values = log_marginal(vae.model, vae.guide, x, num_particles=64, seed=1).log_p
    torch.testing.assert_close(values.double(), torch.tensor(EXPECTED[name]).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", CLASSES)
def test_an_old_run_is_complete(name, tmp_path, digits):
    """Fit to the end that it has reached: the settings are found to be the same, and nothing is trained."""
    run = tmp_path / name
    shutil.copytree(SAVED / name, run)
    vae = load(run)
    data = load_data("digits", binarize="static", labelled=100) if name == "semi_supervised" else digits
    objective = {"semi_supervised": "SemiSupervisedELBO", "vq": "VQBound"}.get(name)
    if objective is not None:
        from pyro_vae import objectives

        history = fit(vae, data, getattr(objectives, objective)(), epochs=1, seed=3, run=run, compile=False)
    else:
        history = fit(vae, data, epochs=1, seed=3, run=run, compile=False)
    assert len(history.rows) == 1


def test_an_old_configuration_at_the_command_line(tmp_path, capsys):
    config = str(SAVED / "vq" / "config.yaml")
    assert "pyro_vae.grids.GridNet" in Path(config).read_text()
    assert main(["fit", "--config", config, "--run", str(tmp_path / "run"), "--quiet", "--pictures", "false"]) == 0
    saved = load_yaml((tmp_path / "run" / "config.yaml").read_text())
    assert saved["vae"]["class_path"] == "pyro_vae.autoencoders.VQVAE"
    assert saved["vae"]["init_args"]["encoder"]["class_path"] == "pyro_vae.networks.GridNet"


def test_each_moved_module():
    for path, cls in {
        "pyro_vae.vae.VAE": "pyro_vae.autoencoders.VAE",
        "pyro_vae.hierarchical.HierarchicalVAE": "pyro_vae.autoencoders.HierarchicalVAE",
        "pyro_vae.semi_supervised.SemiSupervisedVAE": "pyro_vae.autoencoders.SemiSupervisedVAE",
        "pyro_vae.vq.VQVAE": "pyro_vae.autoencoders.VQVAE",
        "pyro_vae.grids.GridNet": "pyro_vae.networks.GridNet",
        "pyro_vae.code_priors.UniformCodes": "pyro_vae.priors.UniformCodes",
        "pyro_vae.priors.Laplace": "pyro_vae.priors.Laplace",
        "mine.vae.VAE": "mine.vae.VAE",
    }.items():
        assert current(path) == cls
