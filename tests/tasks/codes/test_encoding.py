"""Codes of data: the moments of the exact posterior, draws that follow it, and what has no codes."""

from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE, guides
from pyro_vae.errors import DataError, UsageError
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import generator, seeded
from pyro_vae.tasks.codes import encode_data
from tests.support.ppca import make_exact, truth, vae_of

SMALL: Any = {"encoder": partial(MLP, hidden=(5,)), "decoder": partial(MLP, hidden=(5,))}


def bits(num, size=4):
    return torch.rand(num, size, generator=generator(0, "bits")).round()


def test_moments_and_draws_are_those_of_the_exact_posterior():
    """Probabilistic PCA. The mean squared distance of the draws is chi-squared: false alarm 1e-6."""
    process = truth()
    vae = make_exact(vae_of(process), process)
    x = torch.randn(60, 6, generator=generator(0, "x"), dtype=torch.float64)
    encoded = encode_data(vae, x, num_draws=300)
    mean, covariance = process.posterior(x)
    assert torch.allclose(encoded.codes, mean, atol=1e-10) and encoded.exact
    assert torch.allclose(encoded.sd["z"], covariance.diagonal().sqrt().expand(60, 3), atol=1e-10)
    apart = encoded.draws["z"] - mean
    distance = (apart @ covariance.inverse() * apart).sum(-1)
    degrees = distance.numel() * 3
    assert abs(distance.sum() / degrees - 1) < 4.9 * (2 / degrees) ** 0.5


def test_draws_depend_neither_on_later_data_nor_on_how_many():
    vae, x = VAE((4,), 2, **SMALL), bits(70)
    many, few = encode_data(vae, x, num_draws=260), encode_data(vae, x[:55], num_draws=3)
    assert torch.equal(many.draws["z"][:3, :55], few.draws["z"])
    assert len(many) == 70 and many.num_draws == 260 and many.names == ["z[0]", "z[1]"]


@pytest.mark.parametrize("guide", [guides.MixtureOfNormals, guides.InverseAutoregressiveFlow, guides.SplineFlow])
def test_moments_of_other_families_are_those_of_their_draws(guide):
    """Each mean within 6 standard errors of 4,000 draws: false alarm below 1e-7. Flows: 512 points, within 0.1 sd."""
    with seeded(0, "init"):
        vae = VAE((4,), 2, guide=guide, **SMALL)
    encoded = encode_data(vae, bits(5), num_draws=4000)
    draws, sd = encoded.draws["z"].double(), encoded.sd["z"]
    assert ((draws.mean(0) - encoded.codes).abs() < (6 / 4000**0.5 + 0.1) * sd).all()
    assert ((draws.std(0) / sd - 1).abs() < 0.2).all()


@pytest.mark.parametrize("ladder", [False, True])
def test_layers_have_means_of_draws_with_errors(ladder):
    """The layer that is drawn first is normal with known mean; 40 means or less within 5.5 errors: false alarm 2e-6."""
    with seeded(0, "init"):
        vae = HierarchicalVAE((4,), latent_dims=(3, 2), ladder=ladder)
    x = bits(10)
    encoded = encode_data(vae, x, num_draws=500)
    first = "z2" if ladder else "z1"
    with torch.no_grad():
        layer = vae._estimates(x, None)[-1] if ladder else vae.encoders[0](x)
    apart = (encoded.mean[first] - layer[:, 0]).abs() / encoded.mean_error[first]
    assert not encoded.exact and (apart < 5.5).all()
    assert list(encoded.draws) == ["z2", "z1"] and encoded.codes.shape == (10, 5)


def test_a_point_has_no_spread_and_a_class_no_mean():
    point = encode_data(VAE((4,), 2, guide=guides.Delta, **SMALL), bits(3), num_draws=2)
    assert (point.sd["z"] == 0).all()
    torch.testing.assert_close(point.draws["z"][0].double(), point.codes, rtol=1e-6, atol=1e-6)  # two products
    classes = encode_data(SemiSupervisedVAE((4,), classes=3, latent_dim=2, **SMALL), bits(3))
    assert set(classes.draws) == {"y", "z"} and list(classes.mean) == ["z"]


class Own(nn.Module):
    """A pair that is no `Autoencoder`."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.5))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.loc * x[:, 0], 0.1))


def test_any_pair():
    """Four means of 1,000 draws within 5.5 errors: false alarm 2e-7."""
    x = torch.tensor([[-2.0], [0.0], [1.0], [4.0]])
    encoded = encode_data(Own(), x, num_draws=1000)
    assert ((encoded.mean["z"] - x[:, 0] / 2).abs() < 5.5 * encoded.mean_error["z"]).all()
    assert encoded.draws["z"].shape == (1000, 4)


def test_a_context_and_a_mask_reach_the_guide():
    vae = VAE((4,), 2, context=(3,), **SMALL)
    x, c = bits(5), torch.eye(3)[[0, 1, 2, 0, 1]]
    assert torch.equal(encode_data(vae, x, 2, c=c).codes, vae.encode(x, c=c).mean.detach().double())
    mask = torch.arange(4) < 2
    hidden = torch.where(mask, x, torch.nan)
    assert torch.equal(
        encode_data(vae, hidden, 2, c=c, mask=mask.expand(5, 4)).codes,
        encode_data(vae, torch.where(mask, x, 0.0), 2, c=c, mask=mask.expand(5, 4)).codes,
    )


def test_refusals():
    vae = VAE((4,), 2, **SMALL)
    with pytest.raises(UsageError, match="discrete"):
        encode_data(VQVAE((4,), codes=(2,), codebook_size=3, **SMALL), bits(3))
    with pytest.raises(UsageError, match="num_draws must be at least 1"):
        encode_data(vae, bits(3), num_draws=0)
    with pytest.raises(UsageError, match="at least 2 for a HierarchicalVAE"):
        encode_data(HierarchicalVAE((4,), latent_dims=(3, 2)), bits(3), num_draws=1)
    with pytest.raises(DataError, match="at least 1 datum"):
        encode_data(vae, bits(0))
    with pytest.raises(DataError, match="expected shape"):
        encode_data(vae, bits(3, 5))
