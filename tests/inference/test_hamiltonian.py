"""`hmc`: moments, step sizes and acceptance of each datum, convergence by ArviZ, and what is refused."""

import warnings

import numpy as np
import pytest
import torch

from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.inference.hamiltonian import HMC, hmc
from pyro_vae.inference.trajectories import Differentiated, Noise, Walk
from pyro_vae.inference.unconstrained import Target
from pyro_vae.statistics.convergence import bulk_ess, r_hat
from tests.support.ppca import make_exact, truth, vae_of

SCALES = torch.logspace(-4, 4, 5, dtype=torch.float64)[:, None]


def normals(z):
    """One dimension and a scale from 1e-4 to 1e4 for each of five data, in two dimensions."""
    return -(z / SCALES).square().sum(-1) / 2


def pulled(z):
    """A density that is far from normal, but smooth: a banana."""
    first, second = z.unbind(-1)
    return -first.square() / 2 - (second - first.square()).square() / (2 * 0.5)


def test_every_datum_finds_its_own_step_size_and_acceptance():
    """Scales eight orders of magnitude apart: one step size, or one decision for all, could not serve them."""
    result = hmc(normals, torch.zeros(8, 5, 10, dtype=torch.float64), 200, settings=HMC(8, 200, target_accept=0.8))
    assert (result.accept.mean(0) - 0.8).abs().max() < 0.1
    step = result.step_size[:, None] * result.scale / SCALES
    assert step.min() > 0.5 and step.max() < 3
    assert ((result.draws.std((0, 1)) / SCALES - 1).abs() < 0.1).all()
    assert (result.r_hat < 1.05).all() and result.divergences.sum() == 0


def test_chains_accept_by_themselves():
    """With far too long steps some chains of a datum move and others do not: no joint decision."""
    walk = Walk(Differentiated(normals), torch.zeros(8, 5, 2).double(), 3, noise(5))
    before = walk.point[0]
    accept = walk.step(1.6 * SCALES)
    moved = (walk.point[0] != before).any(-1)
    assert 0 < moved.double().mean() < 1
    assert all(0 < share < 1 for share in moved.double().mean(0)[[0, -1]]) or accept.std() > 0
    assert any(0 < share < 1 for share in moved.double().mean(0))


def test_moments_of_the_posterior_of_probabilistic_pca():
    """The exact posterior: means and standard deviations within 5 standard errors of 30 numbers each (< 4e-5)."""
    process = truth(dim=6, latent=3)
    vae = make_exact(vae_of(process), process)
    x = process.sample(5, seed=1).double()
    target = Target(vae.model, vae.guide, x)
    start = 3 * target.draw_prior(4, seed=2)
    result = hmc(target.log_joint, start, 500, settings=HMC(len(start), 200), seed=3)
    mean, covariance = process.posterior(x)
    sd = covariance.diagonal().sqrt()
    assert not result.flagged.any()
    error = sd / result.ess.sqrt()
    assert ((result.draws.mean((0, 1)) - mean).abs() < 5 * error).all()
    assert ((result.draws.std((0, 1)) / sd - 1).abs() < 5 * (2 / result.ess).sqrt()).all()
    flat = result.draws[:, :, 0].reshape(-1, 3)
    assert torch.allclose(torch.corrcoef(flat.T), corrcoef(covariance), atol=0.12)


def corrcoef(covariance):
    sd = covariance.diagonal().sqrt()
    return covariance / sd / sd[:, None]


def test_a_density_that_is_not_normal():
    """Chains that start with exact draws still have them after long steps of which many are rejected.

    E[second] = 1 and E[second^2] = 3.5, within 5 standard errors of 4000 independent chains (false alarm < 2e-6).
    """
    start = torch.randn(4000, 1, 2, dtype=torch.float64)
    start[..., 1] = start[..., 0] ** 2 + start[..., 1] * 0.5**0.5
    result = hmc(pulled, start, 15, settings=HMC(len(start), 0), step_size=0.5)
    assert 0.2 < result.accept.mean() < 0.9 and (result.draws[-1] != start).any(-1).double().mean() > 0.9
    second = result.draws[-1, :, 0, 1]
    for values, expected in ((second, 1.0), (second.square(), 3.5)):
        assert (values.mean() - expected).abs() < 5 * values.std() / 4000**0.5


def test_a_datums_chains_do_not_depend_on_the_others():
    start = torch.randn(3, 60, 2, dtype=torch.float64)
    scale = torch.linspace(0.1, 5, 60, dtype=torch.float64)[:, None]

    def density(rows):
        return lambda z: -(z / scale[rows]).square().sum(-1) / 2

    whole = hmc(density(slice(0, 60)), start, 20, settings=HMC(len(start), 60))
    some = hmc(density(slice(0, 7)), start[:, :7], 20, settings=HMC(len(start), 60))
    rest = hmc(density(slice(50, 60)), start[:, 50:], 20, settings=HMC(len(start), 60), first=50)
    assert torch.allclose(whole.draws[:, :, :7], some.draws, rtol=1e-10)
    assert torch.allclose(whole.draws[:, :, 50:], rest.draws, rtol=1e-10)
    assert torch.allclose(whole.step_size[:7], some.step_size, rtol=1e-10)


def test_the_callers_generators_and_the_seed():
    state = torch.get_rng_state()
    one, same, other = (
        hmc(normals, torch.ones(2, 5, 1).double(), 5, settings=HMC(2, 5), seed=s).draws for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_no_weight_gets_a_gradient_or_moves():
    process = truth()
    vae = vae_of(process)
    before = {name: p.detach().clone() for name, p in vae.named_parameters()}
    target = Target(vae.model, vae.guide, process.sample(4, seed=1).double())
    vae.train()
    hmc(target.log_joint, target.draw_guide(2)[0], 5, settings=HMC(2, 5))
    assert vae.training and all(p.grad is None for p in vae.parameters())
    assert all(torch.equal(p, before[name]) for name, p in vae.named_parameters())


def test_chains_that_do_not_mix_are_flagged_by_datum():
    """Two modes that no chain leaves: R-hat of that datum is far above 1.01; the other datum is fine.

    R-hat less 1 falls as one over the number of draws. With 300 two seeds of six were above 1.01, at most 1.016.
    """

    def log_density(z):
        apart = torch.tensor([0.0, 10.0], dtype=z.dtype)[:, None]
        return torch.logaddexp(-(z - apart).square() / 2, -(z + apart).square() / 2).sum(-1)

    start = torch.tensor([-10.0, 10.0, -10.0, 10.0], dtype=torch.float64)[:, None, None].expand(4, 2, 1)
    result = hmc(log_density, start * torch.tensor([0.1, 1.0])[:, None], 1200, settings=HMC(len(start), 100))
    assert result.flagged.tolist() == [False, True]
    assert result.r_hat[1, 0] > 1.5 and result.summary()["unreliable"] == 0.5
    assert result.summary()["r_hat_max"] == result.r_hat.max() and "4 chains of 1200 draws" in repr(result)


def test_too_few_draws_are_flagged():
    assert hmc(normals, torch.zeros(4, 5, 1).double(), 20, settings=HMC(4, 100)).flagged.all()


def test_divergences_are_counted_and_rejected():
    """A wall beyond which the density is nan: nothing lands there."""

    def walled(z):
        return torch.where(z[..., 0] < 1, -z.square().sum(-1) / 2, torch.nan)

    result = hmc(walled, torch.zeros(4, 2, 1), 50, settings=HMC(4, 0, 3), step_size=1.0)
    assert (result.divergences > 0).all() and (result.draws < 1).all() and result.flagged.all()


def test_few_chains_and_no_warmup():
    result = hmc(
        normals, torch.zeros(1, 5, 1).double(), 10, settings=HMC(1, 0), step_size=torch.full((5,), 1e-4).double()
    )
    assert result.r_hat.isnan().all() and result.flagged.all() and result.ess.isfinite().all()
    assert torch.equal(result.step_size, torch.full((5,), 1e-4).double())
    assert 10 < result.evaluations <= 1 + 10 * 10


def test_progress_counts_all_draws():
    seen = []
    hmc(normals, torch.zeros(1, 5, 1).double(), 3, settings=HMC(1, 2), progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_refusals():
    start = torch.zeros(2, 5, 1)
    with pytest.raises(UsageError, match=r"expected real numbers \[chains, N, size\]"):
        hmc(normals, start[0], 5)
    with pytest.raises(UsageError, match="num_samples >= 1"):
        hmc(normals, start, 0)
    with pytest.raises(UsageError, match=r"target_accept must lie between 0 and 1, got 1\.5"):
        hmc(normals, start, 5, settings=HMC(target_accept=1.5))
    with pytest.raises(UsageError, match="start has 2 chains, but settings has num_chains=4"):
        hmc(normals, start, 5, settings=HMC())
    with pytest.raises(NumericalError, match="datum 3 where its chains start"):
        hmc(lambda z: torch.where(torch.arange(5) == 3, torch.inf, normals(z)), start.double(), 5)


def noise(num_data):
    return Noise(0, "test", num_data=num_data, like=torch.zeros(1).double())


def test_noise_of_a_datum_is_its_own():
    a, b = (Noise(3, "n", num_data=n, like=torch.zeros(1)).normal(4, 2) for n in (120, 51))
    later = Noise(3, "n", num_data=20, first=100, like=torch.zeros(1)).normal(4, 2)
    assert torch.equal(a[:, :51], b) and torch.equal(a[:, 100:], later)
    assert abs(a.std() - 1) < 0.1 and noise(5).uniform(2, 3).max() < 1


def test_convergence_is_arviz():
    """The same numbers as ArviZ gives one quantity at a time, by whatever name it has them."""
    draws = (
        np.random.default_rng(0).normal(size=(2, 3, 4, 50)) + np.arange(2)[:, None, None, None] * np.arange(4)[:, None]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        dataset = az.convert_to_dataset({"z": draws.transpose(2, 3, 0, 1)})
        expected = [np.asarray(f(dataset)["z"]) for f in (az.rhat, az.ess)]
    assert np.allclose(r_hat(draws), expected[0]) and np.allclose(bulk_ess(draws), expected[1])
    assert (r_hat(draws)[0] < 1.1).all() and (r_hat(draws)[1] > 1.5).all()
    assert np.isnan(r_hat(np.ones((1, 4, 50)))).all() and np.isnan(bulk_ess(draws[..., :3])).all()
