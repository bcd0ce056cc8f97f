"""`impute`: on probabilistic PCA the exact conditional of the missing elements, for Bernoulli data quadrature."""

from functools import partial

import pytest
import torch
from scipy import stats

from pyro_vae.autoencoders import VAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.data import LinearGaussian
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence.quadrature import quadrature
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.likelihoods import Mixed
from pyro_vae.networks import MLP
from pyro_vae.statistics.intervals import crps, interval
from pyro_vae.tasks.imputing import imputation_error, impute
from tests.support import ppca
from tests.tasks.test_generation import Pair

OBSERVED = torch.tensor([True, False, True, True, False, True])
SMALL = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,))}


def conditional(process, x, mask):
    """The mean and covariance of the missing elements of one datum given the observed ones."""
    covariance = process.weight @ process.weight.T + process.scale**2 * torch.eye(len(x), dtype=x.dtype)
    regression = covariance[~mask][:, mask] @ torch.linalg.inv(covariance[mask][:, mask])
    mean = process.bias[~mask] + regression @ (x[mask] - process.bias[mask])
    return mean, covariance[~mask][:, ~mask] - regression @ covariance[mask][:, ~mask]


def exact_with_gaps(process):
    """A VAE whose guide is p(z|x) of data with the mask `OBSERVED`."""
    vae = ppca.vae_of(process)
    part = LinearGaussian(process.weight[OBSERVED], process.bias[OBSERVED], process.scale)
    ppca.make_exact(vae, process)
    mean_at_zero, covariance = part.posterior(torch.zeros(4, dtype=torch.float64))
    scale, latent = torch.linalg.cholesky(covariance), 3
    rows, columns = torch.tril_indices(latent, latent, offset=-1)
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        vae.encoder.output.weight[:latent, OBSERVED] = covariance @ part.weight.T / part.scale**2
        vae.encoder.output.bias.copy_(torch.cat([mean_at_zero, scale.diagonal().log(), scale[rows, columns]]))
    return vae


@pytest.fixture(scope="module")
def process():
    return ppca.truth()


@pytest.fixture(scope="module")
def x(process):
    return process.sample(60, seed=1)


def test_with_the_exact_guide_draws_have_the_exact_law(process, x):
    """All weights are equal, so draws are independent; 5 data times 1000 draws.

    Two tests of the whitened draws: of their mean and of their squared lengths. Each fails once in a million seeds.
    """
    found = impute(exact_with_gaps(process), x[:5], OBSERVED, 1000, num_particles=2000)
    assert torch.allclose(found.ess, torch.full((5,), 2000.0).double()) and not found.flagged.any()
    whitened = []
    for n in range(5):
        mean, covariance = conditional(process, x[n], OBSERVED)
        centred = (found.draws[:, n, ~OBSERVED] - mean).T
        whitened.append(torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred, upper=False).T)
        torch.testing.assert_close(found.sd[n, ~OBSERVED], covariance.diagonal().sqrt(), rtol=0.1, atol=0)
    whitened = torch.stack(whitened)
    assert stats.chi2.sf(1000 * whitened.mean(1).square().sum().item(), 10) > 1e-6
    assert stats.kstest(whitened.square().sum(-1).flatten().numpy(), "chi2", (2,)).pvalue > 1e-6
    correlation = (whitened[..., 0] * whitened[..., 1]).mean()
    assert abs(correlation.item()) * 5000**0.5 < stats.norm.isf(0.5e-6)


@pytest.mark.parametrize("method", ["sir", "psis"])
def test_with_another_guide_weights_make_up_for_it(process, x, method):
    """The prior as a guide, and for each datum its own gaps. The error of a mean is about sd / sqrt(ESS): 6 of these,
    for some 150 elements of data with an ESS above 200, a false alarm in a million seeds.
    """
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    vae = ppca.vae_of(process)
    with torch.no_grad():
        for parameter in vae.encoder.parameters():
            parameter.zero_()
    found = impute(vae, x, mask, 200, method=method, num_particles=20000)
    errors, spreads = [], []
    enough = (found.ess > 200).nonzero().flatten().tolist()
    assert len(enough) > 40
    for n in enough:
        mean, covariance = conditional(process, x[n], mask[n])
        sd = covariance.diagonal().sqrt()
        errors.append((found.best[n, ~mask[n]] - mean) / sd * found.ess[n].sqrt())
        spreads.append((found.sd[n, ~mask[n]] / sd).log() * found.ess[n].sqrt())
    assert torch.cat(errors).abs().max() < 6 and 0.3 < torch.cat(errors).std() < 1.5
    assert torch.cat(spreads).abs().max() < 6
    mean = found.draws.mean(0)  # 200 draws of the same posterior
    error = ((mean - found.best) / found.sd)[enough][~mask[enough]] * 200**0.5
    assert error.abs().max() < 8  # they repeat: an ESS of 200 is worth half as many


def test_by_chains(process, x):
    """The mean of 1600 draws of 32 chains, a third of them independent at least: 6 standard errors."""
    vae, few = exact_with_gaps(process), x[:3]
    found = impute(vae, few, OBSERVED, 1600, method="hmc", hmc=HMC(num_chains=32, num_warmup=60))
    assert found.pareto_k is None
    for n in range(3):
        mean, covariance = conditional(process, few[n], OBSERVED)
        sd = covariance.diagonal().sqrt()
        assert ((found.best[n, ~OBSERVED] - mean) / sd * 500**0.5).abs().max() < 6
        torch.testing.assert_close(found.sd[n, ~OBSERVED], sd, rtol=0.15, atol=0)


def test_bernoulli_data_against_quadrature():
    """P(x_3 = 1 | rest) = p(rest, x_3 = 1) / p(rest), each by quadrature; 6 standard errors sd / sqrt(ESS)."""
    torch.manual_seed(0)
    vae = VAE((4,), latent_dim=2, **SMALL)
    with torch.no_grad():
        vae.decoder.output.weight.mul_(6)
    x = (torch.rand(8, 4) < 0.5).float()
    mask = torch.tensor([True, True, True, False])
    one = x.index_fill(1, torch.tensor(3), 1.0)
    joint = quadrature(vae.model, vae.guide, one).log_p
    alone = quadrature(vae.model, vae.guide, one, mask=mask.expand(8, 4)).log_p
    expected = (joint - alone).exp()
    found = impute(vae, x, mask, 40, num_particles=20000)
    sd = (expected * (1 - expected)).sqrt()
    assert ((found.best[:, 3] - expected).abs() < 6 * sd / found.ess.sqrt()).all()
    torch.testing.assert_close(found.sd[:, 3], sd, rtol=0.02, atol=0.01)
    assert set(found.draws.unique().tolist()) == {0.0, 1.0} and expected.std() > 0.01


def test_observed_elements_are_untouched_and_nan_is_a_gap(process, x):
    vae = ppca.vae_of(process).float()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.5
    holes = x.masked_fill(~mask, torch.nan)
    found = impute(vae, holes, num_draws=3, num_particles=60)
    assert found.draws.dtype == found.best.dtype == torch.float64 and torch.equal(found.mask, mask)
    for filled in (*found.draws, found.best):
        assert torch.equal(filled[mask], x[mask]) and filled.isfinite().all()
    assert (found.sd[mask] == 0).all() and (found.sd[~mask] > 0).all()
    again = impute(vae, x, mask, 3, num_particles=60)
    assert torch.equal(again.draws, found.draws) and torch.equal(again.best, found.best)
    assert impute(vae, holes.float(), num_draws=3, num_particles=60).draws.dtype == torch.float32
    assert "3 draws of [60, 6]" in repr(found)


def test_a_function_of_the_seed_and_of_no_later_datum(process, x):
    vae = ppca.vae_of(process)
    options = {"num_draws": 70, "num_particles": 100}
    whole = impute(vae, x, OBSERVED, seed=1, **options)
    few = impute(vae, x[:7], OBSERVED, seed=1, max_rows=100, **options)
    torch.testing.assert_close(few.draws, whole.draws[:, :7], atol=1e-9, rtol=0)
    torch.testing.assert_close(few.best, whole.best[:7], atol=1e-9, rtol=0)
    assert not torch.allclose(impute(vae, x, OBSERVED, seed=2, **options).draws, whole.draws)
    assert len(set(whole.draws[:, 0, 1].tolist())) == 70


@pytest.mark.parametrize("build", [partial(HierarchicalVAE, latent_dims=(2, 2)), partial(SemiSupervisedVAE, classes=3)])
def test_any_autoencoder_with_a_mask(build):
    torch.manual_seed(0)
    x, mask = (torch.rand(7, 4) < 0.5).float(), torch.arange(4) < 2
    found = impute(build((4,)), x, mask, 5, num_particles=200)
    assert torch.equal(found.draws[..., :2], x[:, :2].expand(5, 7, 2)) and ((found.best >= 0) & (found.best <= 1)).all()


def test_a_conditional_vae_is_given_its_context():
    torch.manual_seed(0)
    vae = VAE((4,), latent_dim=2, context=(3,), **SMALL)
    x, mask, c = torch.ones(6, 4), torch.arange(4) < 2, torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    found = impute(vae, x, mask, 5, num_particles=200, c=c)
    one = impute(vae, x, mask, 5, num_particles=200, c=c[0])
    torch.testing.assert_close(found.best[0], one.best[0], atol=1e-6, rtol=0)
    assert not torch.allclose(found.best[1], one.best[1])


def test_errors_where_the_truth_is_known(process):
    """Means and intervals are exact, so errors are those of the law: within 6 standard errors each."""
    x = process.sample(400, seed=4)
    found = impute(exact_with_gaps(process), x, OBSERVED, 99, num_particles=400)
    sd = conditional(process, x[0], OBSERVED)[1].diagonal().sqrt()
    error = imputation_error(found, x)
    assert error.num_elements == 800
    assert abs(error.rmse - sd.square().mean().sqrt().item()) < 6 * error.rmse_error
    assert abs(error.coverage - 0.9) < 6 * error.coverage_error < 0.1
    assert abs(error.crps - sd.mean().item() / torch.pi**0.5) < 6 * error.crps_error
    known = torch.zeros_like(x, dtype=torch.bool)
    known[:, 1] = True
    assert imputation_error(found, x, known).num_elements == 400
    assert "RMSE" in repr(error)
    with pytest.raises(UsageError, match="no missing element"):
        imputation_error(found, x, OBSERVED)
    with pytest.raises(UsageError, match="expected shape"):
        imputation_error(found, x[:5])


def test_intervals_and_scores_of_draws():
    """Intervals of 19 draws cover a twentieth one in 90 of 100 cases, outside of +- 1.5 % once in a million seeds; the
    score of a standard normal is E|x| - 1/sqrt(pi).
    """
    stream = torch.Generator().manual_seed(0)
    draws, truth = torch.randn(19, 10000, generator=stream), torch.randn(10000, generator=stream)
    low, high = interval(draws, 0.9)
    assert abs(((low < truth) & (truth < high)).double().mean() - 0.9) < 0.015
    scores = crps(draws, torch.zeros(10000))
    expected = (2 / torch.pi) ** 0.5 - 1 / torch.pi**0.5
    assert abs(scores.mean() - expected) < 5 * scores.std() / 100
    assert crps(draws[:1], truth).allclose((draws[0] - truth).abs().double())


def test_what_makes_no_sense_is_refused(process, x):
    vae = ppca.vae_of(process)
    with pytest.raises(DataError, match=r"nan at \(2, 1\), where the mask has True"):
        impute(vae, x.index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(torch.nan).double()), x > -1e9)
    with pytest.raises(DataError, match="N >= 1"):
        impute(vae, x[:0])
    with pytest.raises(DataError, match="outside the support"):
        impute(VAE((4,)), torch.full((3, 4), 0.5))
    with pytest.raises(UsageError, match="expected bool"):
        impute(vae, x, OBSERVED.float())
    with pytest.raises(UsageError, match="num_draws 0"):
        impute(vae, x, OBSERVED, 0)
    with pytest.raises(UsageError, match="method must be one of"):
        impute(vae, x, OBSERVED, method="mice")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="programs of this Pair take no mask"):
        impute(Pair((3, 4)), torch.zeros(2, 3, 4))
    with pytest.raises(UsageError, match="needs num_draws >= 19, got 3"):
        impute(vae, x, OBSERVED, 3, num_particles=50).interval(0.9)


def test_the_best_value_of_a_category_is_its_most_probable_level():
    """Levels 0 and 2 have 40 and 50 of 100 data: the mean code 1.1 is nearest to the rarest. All z have one p(x|z)."""
    x = torch.cat([torch.zeros(40), torch.ones(10), torch.full((50,), 2.0)]).unsqueeze(1).repeat(1, 2)
    x[:, 1] = torch.arange(100.0)
    vae = VAE((2,), 2, likelihood=partial(Mixed, kinds=("category:3", "real")))
    vae.likelihood.start_from([(x, None)])
    for parameter in vae.decoder.parameters():
        torch.nn.init.zeros_(parameter)
    gappy = x[:5].masked_fill(torch.tensor([True, False]), torch.nan)
    imputed = impute(vae, gappy, num_draws=400, num_particles=500)
    assert imputed.best[:, 0].tolist() == [2.0] * 5 and torch.equal(imputed.best[:, 1], x[:5, 1])
    probabilities = torch.tensor([40.5, 10.5, 50.5]).double() / 101.5
    k = torch.arange(3).double()
    sd = ((probabilities * k.square()).sum() - (probabilities * k).sum().square()).sqrt()
    torch.testing.assert_close(imputed.sd[:, 0], sd.expand(5), rtol=1e-5, atol=0)
