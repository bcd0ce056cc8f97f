"""`plots.restorations`: observations are drawn as images where they are images."""

import pytest
import torch

from pyro_vae import VAE, plots
from pyro_vae.channels import AveragePool, Linear
from pyro_vae.likelihoods import Normal
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import restore


@pytest.mark.parametrize(
    ("channel", "columns"), [(AveragePool(2), ["y", "E[x|y]"]), (Linear([[1.0] * 16] * 3), ["E[x|y]"])]
)
def test_observations_that_are_no_images_are_left_out(channel, columns):
    with seeded(0, "plot"):
        vae, y = VAE((4, 4), latent_dim=2, likelihood=Normal), channel.draw(torch.rand(1, 4, 4))
    figure = plots.restorations(restore(vae, y, channel, num_draws=2, num_particles=20, method="encoder"), y, 1)
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [text for text in texts if text in ("x", "y", "E[x|y]")] == columns
