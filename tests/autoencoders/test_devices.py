"""Every autoencoder computes on the device of its weights, tried on the meta device by `pyro_vae.testing.devices`."""

from functools import partial

import pytest
import torch

from pyro_vae import autoencoders
from pyro_vae.autoencoders import VAE, VQVAE, Autoencoder, HierarchicalVAE, NotAtRandom, SemiSupervisedVAE
from pyro_vae.channels import BitFlip, Blur, through
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, SemiSupervisedELBO, VQBound
from pyro_vae.testing.devices import expect_on_one_device
from pyro_vae.testing.parts import concrete_classes

EVENT, ROWS = (2, 3), 4
SMALL = partial(MLP, hidden=(5,))
NETWORKS = {"encoder": SMALL, "decoder": SMALL}
UPPER = {"upper_encoder": SMALL, "upper_decoder": SMALL}
MAKES = {
    VAE: partial(VAE, EVENT, latent_dim=2, standardize=True, likelihood=Normal, **NETWORKS),
    HierarchicalVAE: partial(HierarchicalVAE, EVENT, latent_dims=(3, 2), **NETWORKS, **UPPER),
    SemiSupervisedVAE: partial(SemiSupervisedVAE, EVENT, classes=3, latent_dim=2, **NETWORKS),
    NotAtRandom: partial(NotAtRandom, EVENT, partial(VAE, latent_dim=2, **NETWORKS)),
    VQVAE: partial(VQVAE, EVENT, codes=(3,), codebook_size=4, **NETWORKS),
}
OBJECTIVES = {SemiSupervisedVAE: SemiSupervisedELBO(alpha=0.1), VQVAE: VQBound()}
X = torch.zeros(ROWS, *EVENT)
MASK = torch.arange(X.numel()).reshape(X.shape) % 3 > 0
INPUTS = {SemiSupervisedVAE: {"y": torch.tensor([0, -1, 2, 1])}, VQVAE: {}}  # a mask for the others


def on_meta(values):
    return {name: value.to("meta") for name, value in values.items()}


def test_every_autoencoder_is_here():
    assert set(MAKES) == set(concrete_classes(autoencoders, Autoencoder))


def weights_of(vae, x, **inputs):
    with evaluation_mode(vae):
        return importance(vae.model, vae.guide, x, num_particles=2, **inputs).log_weights


@pytest.mark.parametrize("cls", MAKES, ids=lambda cls: cls.__name__)
def test_loss_and_weights_are_on_the_device(cls):
    vae, x = MAKES[cls]().to("meta"), X.to("meta")
    inputs = on_meta(INPUTS.get(cls, {"mask": MASK}))
    objective = OBJECTIVES.get(cls, ELBO())

    def results():
        yield "the loss", objective.tensor_loss(vae.model, vae.guide, x, **inputs)
        yield "log-weights", weights_of(vae, x, **inputs)

    expect_on_one_device(results)


@pytest.mark.parametrize(("likelihood", "channel"), [(Bernoulli, BitFlip(0.1)), (Normal, Blur())])
def test_a_pair_seen_through_a_channel_is_on_the_device(likelihood, channel):
    vae = VAE(EVENT, latent_dim=2, likelihood=likelihood, **NETWORKS).to("meta")
    pair, y = through(vae, channel), X.to("meta")

    expect_on_one_device(lambda: iter([("log-weights", weights_of(pair, y))]))
