"""`pyro_vae.diagnostics`: latent statistics against closed forms, whatever the batches, and what is refused."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_vae.autoencoders import VAE
from pyro_vae.diagnostics import LatentStatistics, latent_statistics
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.guides import DiagonalNormal, FullNormal, Guide
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.priors import Prior
from tests.support.networks import Dropping


class ShiftedNormal(Prior):
    def forward(self, encode, context=None):
        return dist.Normal(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.3, 1.0])).to_event(1)


class Cauchy(Prior):
    def forward(self, encode, context=None):
        return dist.Cauchy(torch.zeros(3), torch.ones(3)).to_event(1)


class WithoutMoments(Guide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.param_shape = (shapes.latent,)

    def distribution(self, params):
        normal = dist.Normal(params, torch.ones_like(params)).to_event(1)
        return dist.TransformedDistribution(normal, [dist.transforms.TanhTransform()])


def make(guide=DiagonalNormal, seed=0, **parts) -> VAE:
    torch.manual_seed(seed)
    return VAE((5,), latent_dim=3, likelihood=Normal, guide=guide, encoder=partial(MLP, hidden=(7,)), **parts)


def data(n: int = 23) -> torch.Tensor:
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(1))


def affine_vae(shift: float = 0.0) -> tuple[VAE, torch.Tensor, torch.Tensor]:
    """A VAE with q(z|x) = N(W x + shift, s^2): W of rank 2, so that the third dimension ignores the data."""
    vae = VAE((5,), latent_dim=3, likelihood=Normal, encoder=partial(MLP, hidden=())).double()
    weight = torch.zeros(3, 5, dtype=torch.float64)
    weight[0, 0], weight[1] = 2.0, torch.linspace(-1, 1, 5)
    log_scale = torch.tensor([-1.0, -0.5, 0.0], dtype=torch.float64)
    with torch.no_grad():
        vae.encoder.output.weight.copy_(torch.cat([weight, torch.zeros(3, 5)]))
        vae.encoder.output.bias.copy_(torch.cat([torch.full((3,), shift), log_scale]))
    return vae, weight, log_scale.exp()


def test_an_affine_encoder_has_the_variance_and_the_kl_of_its_closed_form():
    vae, weight, scale = affine_vae()
    x = data(50).double()
    stats = latent_statistics(vae, x)
    mean = x @ weight.T
    expected_kl = (-scale.log() + (scale**2 + mean**2 - 1) / 2).mean(0)
    assert torch.allclose(stats.active_variance, torch.diagonal(weight @ torch.cov(x.T) @ weight.T), atol=1e-12)
    assert torch.allclose(stats.kl, expected_kl, atol=1e-12)
    assert stats.active.tolist() == [True, True, False] and stats.num_active == 2
    assert stats.kl[2].item() == pytest.approx(0, abs=1e-12)


def test_the_variance_keeps_its_digits_far_from_zero():
    x = data(1000).double()
    near, far = (latent_statistics(affine_vae(shift)[0], x, batch=37) for shift in (0.0, 1e6))
    assert torch.allclose(near.active_variance, far.active_variance, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 7, 23, 1000])
@pytest.mark.parametrize("n", [2, 23])
def test_the_kl_is_that_of_torch_whatever_the_batches(batch, n):
    vae, x = make(), data(n)
    stats = latent_statistics(vae, x, batch=batch)
    q = vae.encode(x).base_dist
    expected = kl_divergence(q, dist.Normal(torch.zeros(3), torch.ones(3))).double().mean(0)
    assert torch.allclose(stats.kl, expected, rtol=1e-5)
    assert torch.allclose(stats.active_variance, q.mean.double().var(0), rtol=1e-5)
    assert stats.kl.dtype == stats.active_variance.dtype == torch.float64


def test_a_prior_of_another_mean_and_scale_counts():
    vae, x = make(prior=ShiftedNormal), data()
    expected = kl_divergence(vae.encode(x).base_dist, vae.prior(vae.encode).base_dist).double().mean(0)
    assert torch.allclose(latent_statistics(vae, x).kl, expected, rtol=1e-5)


def test_the_marginals_of_a_full_normal_count_and_not_its_conditionals():
    vae, x = make(guide=FullNormal), data()
    q = vae.encode(x)
    marginal = dist.Normal(q.mean, torch.diagonal(q.covariance_matrix, dim1=-2, dim2=-1).sqrt())
    expected = kl_divergence(marginal, dist.Normal(torch.zeros(3), torch.ones(3))).double().mean(0)
    assert torch.allclose(latent_statistics(vae, x).kl, expected, rtol=1e-4)


def test_a_dimension_is_active_above_one_hundredth_and_not_at_it():
    stats = LatentStatistics(torch.tensor([0.0, 0.01, 0.011], dtype=torch.float64), torch.zeros(3))
    assert stats.active.tolist() == [False, False, True] and stats.num_active == 1


def test_nothing_is_changed_by_measuring():
    torch.manual_seed(0)
    vae = VAE((5,), latent_dim=3, likelihood=Normal, encoder=Dropping)
    vae.decoder.eval()
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    modes, generator = [m.training for m in vae.modules()], torch.get_rng_state()
    first, second = latent_statistics(vae, data()), latent_statistics(vae, data())
    assert torch.equal(first.kl, second.kl) and not first.kl.requires_grad
    assert [m.training for m in vae.modules()] == modes and torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert all(p.grad is None for p in vae.parameters()) and not pyro.get_param_store().keys()


def test_arguments_that_make_no_sense_are_refused():
    vae = make()
    with pytest.raises(UsageError, match="at least 2 data"):
        latent_statistics(vae, data(1))
    with pytest.raises(UsageError, match="batch >= 1"):
        latent_statistics(vae, data(), batch=0)
    with pytest.raises(DataError, match=r"expected shape \[N >= 1, 5\], got \[4, 6\]"):
        latent_statistics(vae, torch.zeros(4, 6))


def test_a_family_without_moments_is_refused_with_its_name():
    with pytest.raises(UsageError, match=r"guide q\(z\|x\) is a TransformedDistribution.*DiagonalNormal"):
        latent_statistics(make(guide=WithoutMoments), data())


def test_moments_that_are_not_finite_are_refused():
    with pytest.raises(NumericalError, match=r"prior p\(z\)"):
        latent_statistics(make(prior=Cauchy), data())
    vae = make()
    with torch.no_grad():
        vae.encoder.output.bias.fill_(float("nan"))
    with pytest.raises(NumericalError, match=r"guide q\(z\|x\)"):
        latent_statistics(vae, data())
