"""`restore`: x given y against closed forms and quadrature, which method was used, and what is refused."""

from functools import partial

import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae import VAE
from pyro_vae.channels import BitFlip, Missing, through
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference import HMC, Search
from pyro_vae.likelihoods import Categorical, DiscretizedLogistic
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import infer_strength, ratios, restore
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

PROCESS = linear_process()
NUM = 2000
SHORT = HMC(num_chains=8, num_warmup=100, num_leapfrog=3)
"""More chains would be shorter than 625 draws each, and their R-hat above 1.01 by chance."""


@pytest.fixture(scope="module")
def exact():
    return make_exact(linear_vae(PROCESS), PROCESS)


@pytest.fixture(scope="module")
def y():
    """Three data with gaps."""
    with seeded(0, "gaps"):
        return Missing("random", 0.4).draw(PROCESS.sample(3, 0))


@pytest.fixture(scope="module")
def restored(exact, y):
    search = Search(max_steps=1500, lr=0.1)
    return restore(exact, y, Missing(), num_draws=NUM, method="refined", search=search)


def conditional(y):
    """Mean and covariance of the missing elements given the others, and log p of the others."""
    full = MultivariateNormal(PROCESS.bias, PROCESS.weight @ PROCESS.weight.T + PROCESS.scale**2 * torch.eye(6))
    seen, s = ~y.isnan(), full.covariance_matrix
    gain = s[~seen][:, seen] @ s[seen][:, seen].inverse()
    mean = full.mean[~seen] + gain @ (y[seen] - full.mean[seen])
    log_p = MultivariateNormal(full.mean[seen], s[seen][:, seen]).log_prob(y[seen])
    return mean, s[~seen][:, ~seen] - gain @ s[seen][:, ~seen], log_p


def test_gaps_of_probabilistic_pca(restored, y):
    """Mean and covariance within 5 standard errors of the draws, about 60 comparisons: false alarms 3e-5."""
    assert restored.methods == {"encoder": 0, "refined": 3, "gibbs": 0, "hmc": 0}
    for n in range(3):
        mean, covariance, log_p = conditional(y[n])
        gaps = y[n].isnan()
        drawn = restored.draws[:, n][:, gaps]
        variance = covariance.diagonal()
        assert ((drawn.mean(0) - mean).abs() < 5 * (variance / NUM).sqrt()).all()
        assert ((restored.mean[n][gaps] - mean).abs() < 5 * (variance / NUM).sqrt()).all()
        error = (variance[:, None] * variance + covariance.square()).div(NUM).sqrt()
        assert ((drawn.T.cov().reshape_as(covariance) - covariance).abs() < 5 * error).all()
        assert abs(restored.log_p[n] - log_p) < 0.02


def test_what_was_observed_stays(restored, y):
    seen = ~y.isnan()
    assert torch.equal(restored.known, seen)
    assert torch.equal(restored.draws[:, seen], y[seen].expand(NUM, -1))
    assert (restored.sd[seen] == 0).all() and (restored.sd[~seen] > 0).all()


def test_hmc_agrees(exact, y):
    """16 chains of 250 draws, of 100 effective draws at least: within 5 / sqrt(100) standard deviations."""
    settings = HMC(num_chains=16, num_warmup=100, num_leapfrog=3)
    by_hmc = restore(exact, y[:1], Missing(), num_draws=400, method="hmc", hmc=settings)
    mean, covariance, _ = conditional(y[0])
    assert by_hmc.methods["hmc"] == 1
    assert ((by_hmc.mean[0][y[0].isnan()] - mean).abs() < 0.5 * covariance.diagonal().sqrt()).all()


def test_the_next_method_is_for_data_that_are_not_healthy(exact):
    """With nothing missing the exact guide is healthy, and with gaps it is not."""
    y = PROCESS.sample(10, 3)
    y[9, :4] = torch.nan
    search, settings = Search(max_steps=50), HMC(num_chains=2, num_warmup=20, num_leapfrog=1)
    found = restore(exact, y, Missing(), num_draws=10, num_particles=200, search=search, hmc=settings)
    assert (found.used[:9] == 0).all() and found.used[9] > 0
    assert str(found).startswith("Restored(10 data through Missing(pattern='random', share=0.5), 10 draws each, by enc")


@pytest.fixture(scope="module")
def binary():
    with seeded(3, "restore"):
        vae = VAE((5,), latent_dim=2)
        for parameter in vae.decoder.parameters():
            parameter.data.mul_(2.0)
    return vae


def test_flipped_bits_by_quadrature(binary):
    """Mean and log p(y) of a 2-D code on a grid; K = 20,000 draws of z: within 0.03."""
    y = torch.tensor([[1.0, 0.0, 1.0, 1.0, 0.0]])
    axis = torch.linspace(-6, 6, 241)
    z = torch.cartesian_prod(axis, axis)
    one = binary.decode(z).mean.detach()
    like = torch.where(y == 1, one * 0.8 + (1 - one) * 0.2, one * 0.2 + (1 - one) * 0.8).prod(-1)
    weight = like * torch.exp(-z.square().sum(-1) / 2) / (2 * torch.pi) * (axis[1] - axis[0]) ** 2
    right = one * torch.where(y == 1, 0.8, 0.2)
    given = right / (right + (1 - one) * torch.where(y == 1, 0.2, 0.8))
    found = restore(binary, y, BitFlip(0.2), num_draws=2000, num_particles=20_000, method="encoder")
    assert abs(found.log_p.item() - weight.sum().log().item()) < 0.02
    assert torch.allclose(found.mean[0], (given * weight[:, None]).sum(0) / weight.sum(), atol=0.03)


def test_measures_of_the_truth(exact):
    """300 data and their own restorations: the 90 % intervals cover 90 % (5 standard errors, false alarms 6e-7)."""
    x = PROCESS.sample(300, 7)
    with seeded(1, "gaps"):
        y = Missing("random", 0.3).draw(x)
    search = Search(max_steps=200, lr=0.1, selection=16)
    found = restore(exact, y, Missing(), num_draws=99, num_particles=500, truth=x, method="refined", search=search)
    covered = found.coverage(0.9)
    assert abs(covered.mean - 0.9) < 5 * covered.standard_error_data
    low, high = found.interval(0.9)
    inside = ((x >= low) & (x <= high))[~found.known].double().mean().item()
    assert abs(inside - covered.mean) < 0.04
    expected = torch.tensor([conditional(row)[1].diagonal().mean() for row in y if row.isnan().any()]).mean().item()
    error = found.mean_squared_error
    assert abs(error.mean - expected) < 5 * error.standard_error_data
    assert 0 < found.crps.mean < error.mean**0.5
    joint = MultivariateNormal(PROCESS.bias, PROCESS.weight @ PROCESS.weight.T + PROCESS.scale**2 * torch.eye(6))
    right = torch.stack([joint.log_prob(x[n]) - conditional(y[n])[2] for n in range(20)])
    assert torch.allclose(found.log_p_truth[:20], right, atol=0.1)


def exact_of_flips(binary, y, p):
    """log p(y; p) of all data, by enumeration on a grid of codes."""
    axis = torch.linspace(-6, 6, 121)
    z = torch.cartesian_prod(axis, axis)
    one, prior = binary.decode(z).mean.detach(), torch.exp(-z.square().sum(-1) / 2) / (2 * torch.pi) * 0.01
    bright = (one * (1 - p) + (1 - one) * p)[:, None]
    return (torch.where(y == 1, bright, 1 - bright).prod(-1) * prior[:, None]).sum(0).log().sum()


def test_the_strength_of_the_noise(binary):
    """The posterior over a grid against enumeration of p(y; s); by weights, and within 5 standard errors by chains."""
    with seeded(4, "restore"):
        y = torch.rand(6, 5).round()
    grid = (0.05, 0.2, 0.4)
    exact_log_p = [exact_of_flips(binary, y, p) for p in grid]
    exact = torch.stack(exact_log_p).double()
    found = infer_strength(binary, y, [BitFlip(p) for p in grid], num_particles=20_000, refine=False)
    assert torch.allclose(found.log_p, exact, atol=0.05)
    assert found.best == BitFlip(grid[int(exact.argmax())])
    low, high = found.interval(0.9)
    assert low.p <= found.best.p <= high.p and not found.flagged
    chains = infer_strength(binary, y, [BitFlip(p) for p in grid], search=Search(max_steps=20), method="hmc", hmc=SHORT)
    error = (chains.log_p - chains.log_p[1]) - (exact - exact[1])
    assert chains.method == "hmc" and (error.abs() < 5 * chains.standard_error.max()).all() and not chains.flagged
    assert 0 < chains.standard_error.max() < 0.1


def test_strengths_whose_posteriors_hardly_overlap(binary, monkeypatch):
    """Chains of a nearer strength take over: the ratio against enumeration, within 5 standard errors."""
    y = torch.ones(4, 5)
    exact = torch.stack([exact_of_flips(binary, y, p) for p in (0.45, 0.1, 0.01)]).double()
    pairs = [through(binary, BitFlip(p)) for p in (0.45, 0.1, 0.01)]
    monkeypatch.setattr(ratios, "_UNHEALTHY", -1.0)  # no step is healthy enough
    found = ratios.log_ratios(pairs, 0, y, Search(max_steps=20), SHORT, 0, {})
    error = found.values - (exact - exact[0])
    assert (error.abs() <= 5 * found.standard_errors).all() and (found.standard_errors < 0.2).all()


def test_a_mask_is_gaps(binary):
    x, mask = torch.ones(2, 5), torch.tensor([[True, False, True, True, True], [True] * 5])
    ours = restore(binary, x, Missing(), mask=mask, num_draws=5, method="encoder")
    theirs = restore(binary, x.masked_fill(~mask, torch.nan), Missing(), num_draws=5, method="encoder")
    assert torch.equal(ours.draws, theirs.draws)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "gibbs"}, UsageError, "method"),
        ({"num_draws": 0}, UsageError, "num_draws"),
        ({"truth": torch.ones(2, 4)}, DataError, "truth: expected shape"),
        ({"mask": torch.ones(2, 4).bool()}, DataError, "mask: expected bool"),
        ({"y": torch.full((2, 5), 0.3)}, DataError, "y: expected"),
        ({"y": torch.full((2, 5), 0.3)}, DataError, r"y: expected 0 and 1, or nan for a gap, got 0.3 at \(0, 0\)"),
    ],
)
def test_refusals(binary, options, error, message):
    with pytest.raises(error, match=message):
        restore(binary, **{"y": torch.ones(2, 5), "channel": Missing(), **options})


@pytest.mark.parametrize("likelihood", [partial(DiscretizedLogistic, levels=5), partial(Categorical, levels=5)])
def test_grey_levels_whose_variance_has_no_formula(likelihood):
    """The spread is that of 4000 draws: within 6 %, 5 standard errors of a standard deviation (false alarms 6e-7)."""
    with seeded(5, "restore"):
        vae = VAE((2,), latent_dim=2, likelihood=likelihood)
    y = torch.tensor([[torch.nan, 0.5]])
    found = restore(vae, y, Missing(), num_draws=4000, num_particles=4000, method="encoder")
    assert found.sd[0, 1] == 0 and abs(found.sd[0, 0] / found.draws[:, 0, 0].std() - 1) < 0.06


def test_measures_need_the_truth(binary):
    found = restore(binary, torch.ones(2, 5), Missing(), num_draws=5, method="encoder")
    with pytest.raises(UsageError, match="truth"):
        _ = found.crps
    with pytest.raises(UsageError, match="level"):
        found.interval(1.0)
