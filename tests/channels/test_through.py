"""`through`: a pair for y, whose sites, densities and draws are those of the formulas."""

import pytest
import torch
from torch.distributions import Bernoulli

from pyro_vae import VAE, log_marginal
from pyro_vae.channels import BitFlip, Missing, check_observed, through
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference import posterior, simulate
from pyro_vae.inference.weighing import sites_at
from pyro_vae.process.seeding import seeded


@pytest.fixture(scope="module")
def vae():
    with seeded(0, "channels"):
        return VAE((2, 3), latent_dim=2)


@pytest.fixture(scope="module")
def x():
    with seeded(1, "channels"):
        return torch.rand(7, 2, 3).round()


def test_missing_is_the_mask(vae, x):
    """Gaps written as nan give the numbers, to the bit, that a mask gives."""
    mask = torch.arange(42).reshape(7, 2, 3) % 3 > 0
    pair = through(vae, Missing())
    ours = log_marginal(pair.model, pair.guide, x.masked_fill(~mask, torch.nan), num_particles=300)
    theirs = log_marginal(vae.model, vae.guide, x, mask=mask, num_particles=300)
    assert torch.allclose(ours.log_p, theirs.log_p, atol=1e-6, rtol=0)
    assert torch.equal(ours.pareto_k.isnan(), theirs.pareto_k.isnan())


def test_sites_and_density_of_a_flipped_bit(vae, x):
    pair, z = through(vae, BitFlip(0.2)), torch.randn(4, 7, 2)
    sites = sites_at(pair.model, {"z": z}, x)
    assert list(sites) == ["z", "y"] and sites["y"]["is_observed"]
    one = vae.decode(z).mean
    expected = Bernoulli(one * 0.8 + (1 - one) * 0.2).log_prob(x).sum((-2, -1))
    assert torch.allclose(sites["y"]["fn"].log_prob(x), expected, atol=1e-5)


def test_no_flips_is_the_pair_itself(vae, x):
    pair = through(vae, BitFlip(0.0))
    ours, theirs = (log_marginal(p.model, p.guide, x, num_particles=300).log_p for p in (pair, vae))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_restored_bits_follow_bayes_rule(vae, x):
    pair = through(vae, BitFlip(0.2))
    z = torch.randn(4, 7, 2)
    restored = sites_at(pair.model, {"z": z}, x)["y"]["fn"].restored(x)
    one = vae.decode(z).mean
    right = one * torch.where(x == 1, 0.8, 0.2)
    assert torch.allclose(restored.mean, right / (right + (1 - one) * torch.where(x == 1, 0.2, 0.8)), atol=1e-5)


def test_gaps_are_restored_from_the_model(vae, x):
    y = x.clone()
    y[:, 0] = torch.nan
    pair, z = through(vae, BitFlip(0.0)), torch.randn(4, 7, 2)
    mean = sites_at(pair.model, {"z": z}, y)["y"]["fn"].restored(y).mean
    assert torch.allclose(mean[:, :, 0], vae.decode(z).mean[:, :, 0])
    assert torch.equal(mean[:, :, 1], x[:, 1].expand(4, 7, 3))


def test_it_is_an_ordinary_pair(vae, x):
    pair = through(vae, BitFlip(0.3))
    assert posterior(pair.model, pair.guide, x, num_draws=10, num_particles=100).draws["z"].shape == (10, 7, 2)
    drawn = simulate(pair.model, x).x
    assert drawn.shape == x.shape and set(drawn.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("pattern", ["lower_half", "quadrant", "checkerboard", "left_half", "upper_half", "right_half"])
def test_patterns_leave_gaps_where_they_say(pattern):
    gaps = Missing(pattern).draw(torch.ones(2, 1, 4, 6)).isnan()[0, 0]
    row, column = torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")
    expected = {
        "lower_half": row >= 2,
        "upper_half": row < 2,
        "left_half": column < 3,
        "right_half": column >= 3,
        "quadrant": (row >= 2) & (column >= 3),
        "checkerboard": (row + column) % 2 == 1,
    }
    assert torch.equal(gaps, expected[pattern])


def test_what_a_channel_cannot_give_is_refused(vae, x):
    with pytest.raises(DataError, match=r"y: expected 0 or 1, or nan for a gap, got 0.5 at \(0, 0, 1\)"):
        bad = x.clone()
        bad[0, 0, 1] = 0.5
        check_observed(through(vae, BitFlip()), bad)
    with pytest.raises(DataError, match="expected shape"):
        check_observed(through(vae, BitFlip()), x[:, :1])
    with pytest.raises(UsageError, match="expected the probability of a flip"):
        BitFlip(1.5)
    with pytest.raises(UsageError, match="is for images"):
        Missing("quadrant").draw(torch.zeros(3, 4))
    with pytest.raises(UsageError, match="expected a Channel"):
        through(vae, BitFlip)
    with pytest.raises(UsageError, match="event_shape"):
        through((lambda x: None, lambda x: None), BitFlip())
