"""`evidence.prior_sampling`: right where x says little about z; far too low, and flagged, where it says much."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.evidence.prior_sampling import PriorGuide, latent_sites, prior_sampling
from pyro_vae.inference import pairs as tiles
from pyro_vae.inference.weighing import propose
from tests.evidence.test_importance_sampling import exact_two_layer, two_layer_model
from tests.support.networks import Dropping
from tests.support.ppca import truth, vae_of


def test_right_in_one_dimension():
    """x says little about z: within 5 standard errors of the truth for each of 50 data, false alarm < 3e-5."""
    process = truth(dim=2, latent=1, scale=1.5)
    vae, x = vae_of(process), process.sample(50, seed=1)
    found = prior_sampling(vae.model, vae.guide, x, num_particles=4000)
    assert found.unreliable == 0
    assert ((found.log_p - process.log_prob(x)).abs() < 5 * found.standard_error).all()
    assert abs(found.mean - process.log_prob(x).mean().item()) < 0.02
    assert found.method == "prior" and found.bound == "lower"
    assert found.summary()["method"] == "prior" and "prior: log p(x) = " in repr(found)


def test_far_too_low_where_the_posterior_is_narrow_and_it_says_so():
    """The posterior takes 1e-9 of the prior's mass: no draw comes near it, and every datum is flagged."""
    process = truth(dim=12, latent=6, scale=0.02)
    vae, x = vae_of(process), process.sample(10, seed=1)
    found = prior_sampling(vae.model, vae.guide, x, num_particles=4000)
    error = found.log_p - process.log_prob(x)
    assert error.max() < -1000 and (error.abs() > 100 * found.standard_error).all()
    assert found.unreliable == 1 and found.ess.max() < 5


def test_is_importance_sampling_with_the_prior_as_guide():
    """By a guide written by hand: the same draws, the same numbers."""
    vae, x = VAE((4,), 2).double(), torch.rand(7, 4).round().double()

    def by_hand(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))

    a = prior_sampling(vae.model, None, x, num_particles=300)
    b = log_marginal(vae.model, by_hand, x, num_particles=300)
    for name, column in a.columns().items():
        torch.testing.assert_close(column, getattr(b, name))


def test_several_sites_and_an_inner_plate():
    x = torch.randn(5, 3)
    found = prior_sampling(two_layer_model, None, x, num_particles=20_000, max_plate_nesting=2)
    assert ((found.log_p - exact_two_layer(x)).abs() < 5 * found.standard_error).all()
    vae = HierarchicalVAE((4,), latent_dims=(3, 2)).double()
    assert latent_sites(vae.model, torch.ones(1, 4).double()) == ["z2", "z1"]
    found = prior_sampling(vae.model, None, torch.ones(2, 4).double(), num_particles=500)
    other = log_marginal(vae.model, vae.guide, torch.ones(2, 4).double(), num_particles=500)
    error = (found.standard_error**2 + other.standard_error**2).sqrt()
    assert ((found.log_p - other.log_p).abs() < 5 * error).all()


def test_the_decoder_runs_only_to_weigh():
    """Once a draw: drawing stops at the last latent site, and leaves Pyro's stack as it was."""
    vae, rows = VAE((4,), 2), []
    guide = PriorGuide(vae.model, ["z"])
    vae.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(inputs[0])))
    drawn = propose(guide, torch.ones(3, 4), num_particles=5)
    assert drawn.latents["z"].shape == (5, 3, 2) and drawn.log_guide.shape == (5, 3) and not rows
    assert not pyro.poutine.runtime._PYRO_STACK
    expected = dist.Normal(0.0, 1.0).log_prob(drawn.latents["z"]).sum(-1)
    torch.testing.assert_close(drawn.log_guide, expected)


def test_an_observed_site_before_the_last_latent_one():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("y", dist.Normal(w, 1.0), obs=x)

    x = torch.linspace(-1, 1, 5)
    exact = 2 * torch.distributions.Normal(0.0, 2**0.5).log_prob(x).double()
    found = prior_sampling(model, None, x, num_particles=5000)
    assert ((found.log_p - exact).abs() < 5 * found.standard_error).all()


def test_nothing_is_moved_and_modes_do_not_matter():
    vae = VAE((4,), 2, decoder=Dropping).double()
    x, state = torch.rand(7, 4).round().double(), {n: v.clone() for n, v in vae.state_dict().items()}
    before = torch.get_rng_state()
    first = prior_sampling(vae.train().model, None, x, num_particles=50).log_p
    assert vae.training and torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, prior_sampling(vae.eval().model, None, x, num_particles=50).log_p)
    assert torch.equal(first[:2], prior_sampling(vae.model, None, x[:2], num_particles=50, max_rows=9).log_p)
    assert all(torch.equal(v, state[n]) for n, v in vae.state_dict().items())


def test_a_graph_is_the_same(monkeypatch):
    monkeypatch.setattr(tiles, "_compiled", lambda pair, data: tiles.recorded(pair, data, compile=False))
    vae, x = VAE((4,), 2), torch.rand(60, 4).round()
    a, b = (prior_sampling(vae.model, None, x, num_particles=300, compile=c) for c in (True, False))
    torch.testing.assert_close(a.log_p, b.log_p, rtol=1e-4, atol=1e-4)


def test_refusals():
    vae = VAE((4,), 2)
    with pytest.raises(UsageError, match="num_particles: expected at least 1"):
        prior_sampling(vae.model, None, torch.ones(2, 4), num_particles=0)
    with pytest.raises(UsageError, match="0 data"):
        prior_sampling(vae.model, None, torch.ones(0, 4))
