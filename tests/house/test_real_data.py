"""The main job on real data: quick checks against known figures, and published protocols behind the `slow` marker."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.data import load_data
from pyro_vae.evidence import log_marginal
from pyro_vae.networks import MLP
from pyro_vae.training.fitting import fit


@pytest.fixture(scope="module")
def static(shared):
    return load_data(shared / "static_mnist.npz")


def test_static_mnist_at_the_pixel_means(static):
    """A decoder that ignores z and starts at the training means has the known NLL of that baseline, 205.95 nats."""
    vae = VAE(static.event_shape, 2, encoder=partial(MLP, hidden=()), decoder=partial(MLP, hidden=()))
    vae.start_at(static.mean(), static.std())
    with torch.no_grad():
        vae.decoder.output.weight.zero_()
        vae.encoder.output.weight.zero_()
    evidence = log_marginal(vae.model, vae.guide, static.split("test"), num_particles=1)
    assert evidence.mean == pytest.approx(-205.95, abs=0.2)


def test_static_mnist_learns_quickly(static):
    """Two epochs on 5,000 images with warm start beat the pixel means by 40 nats on 200 test images."""
    network = partial(MLP, hidden=(100,))
    vae = VAE(static.event_shape, 10, encoder=network, decoder=network)
    adam = partial(torch.optim.Adam, lr=3e-3)
    fit(vae, static.split("train")[:5000], epochs=2, optimizer=adam, start_at_mean=True, progress=False)
    evidence = log_marginal(vae.model, vae.guide, static.split("test")[::50], num_particles=100)
    assert evidence.mean - 3 * evidence.standard_error_data > -166


@pytest.mark.slow
def test_static_mnist_protocol(shared, tmp_path, capsys):
    """784-200-200-50, k = 1, by the command alone: NLL at K = 5000 on all 10,000 test images <= 89.3 nats."""
    run = str(tmp_path / "static")
    sizes = ["--vae.latent_dim", "50", "--vae.encoder.hidden", "[200,200]", "--vae.decoder.hidden", "[200,200]"]
    assert main(["fit", "--data", str(shared / "static_mnist.npz"), *sizes, "--run", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["num_data"] == 10_000 and result["num_particles"] == 5000
    assert result["nll"] <= 89.3


@pytest.mark.slow
def test_frey_face(shared, tmp_path, capsys):
    """AEVB's 2-D Frey Face network: a test bound above 800 nats per datum (AEVB: 872 after 1e8 samples)."""
    run = str(tmp_path / "frey")
    config = str(Path(__file__).parents[2] / "examples" / "frey_face.yaml")
    assert main(["fit", "--config", config, "--data", str(shared / "frey_faces.npz"), "--run", run]) == 0
    capsys.readouterr()
    assert main(["evaluate", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["elbo"] > 800
    assert (tmp_path / "frey/pictures/manifold.png").exists()
