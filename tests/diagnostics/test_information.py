"""`diagnostics.information`: mutual information and KL of q(z) by quadrature, in closed form, and at their limits."""

from math import log

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.diagnostics.information import code_information
from pyro_vae.diagnostics.surgery import elbo_surgery
from pyro_vae.distributions.aggregate import AggregatePosterior
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

STANDARD = dist.Normal(torch.zeros(1).double(), 1.0).to_event(1)


def off(estimates, truth: float) -> float:
    """The distance of the average from the truth in standard errors of the draws."""
    return abs(estimates.mean - truth) / estimates.standard_error_monte_carlo


def standard(latent: int):
    return dist.Normal(torch.zeros(latent).double(), 1.0).to_event(1)


def normals(loc, scale):
    return dist.Normal(torch.tensor(loc).double(), torch.tensor(scale).double()).to_event(1)


@pytest.mark.parametrize("most_pairs", [2, 2**22])
def test_in_one_dimension_by_quadrature(most_pairs):
    """Three normals in blocks of two and one; 5 standard errors of the draws: false alarm 6e-7 each."""
    loc, scale = torch.tensor([-2.0, 0.5, 1.0]).double(), torch.tensor([0.3, 1.0, 0.5]).double()
    whole = dist.Normal(loc, scale)
    parts = [normals([[-2.0], [0.5]], [[0.3], [1.0]]), normals([[1.0]], [[0.5]])]
    z = torch.linspace(-9, 9, 9001).double()
    log_each = whole.log_prob(z[:, None])
    log_q = log_each.logsumexp(1) - log(3)
    others = torch.stack([log_each[:, [m for m in range(3) if m != n]].logsumexp(1) - log(2) for n in range(3)], 1)

    def mean(log_ratio):
        return (log_each.exp() * log_ratio).sum(0).mean().item() * (z[1] - z[0]).item()

    q = AggregatePosterior(parts, most_pairs=most_pairs)
    found = code_information(q, STANDARD, num_draws=20 if most_pairs == 2 else 4000)
    assert off(found.information, mean(log_each - log_q[:, None])) < 5
    assert off(found.information_upper, mean(log_each - others)) < 5
    assert off(found.marginal_kl, mean((log_q - dist.Normal(0.0, 1.0).log_prob(z))[:, None])) < 5


def test_in_two_dimensions_by_quadrature():
    """Dense normals; 5 standard errors of the draws: false alarm 6e-7 each."""
    scale = torch.tensor([[[0.5, 0.0], [0.4, 0.3]], [[1.0, 0.0], [-0.2, 0.6]]]).double()
    part = dist.MultivariateNormal(torch.tensor([[0.0, 1.0], [0.5, -1.0]]).double(), scale_tril=scale)
    axis = torch.linspace(-7, 7, 281).double()
    grid = torch.cartesian_prod(axis, axis)
    log_each = part.log_prob(grid[:, None])
    log_q, cell = log_each.logsumexp(1) - log(2), (axis[1] - axis[0]).item() ** 2
    information = (log_each.exp() * (log_each - log_q[:, None])).sum(0).mean().item() * cell
    kl = (log_q.exp() * (log_q - standard(2).log_prob(grid))).sum().item() * cell
    found = code_information(AggregatePosterior([part]), standard(2), num_draws=4000)
    assert off(found.information, information) < 5 and off(found.marginal_kl, kl) < 5


def test_of_one_datum_it_is_the_guide():
    """Then q(z) is q(z|x): no information, to the bit, and the KL is that of two normals."""
    part = normals([[0.5, -1.0]], [[0.3, 0.8]])
    found = code_information(AggregatePosterior([part]), standard(2), num_draws=4000)
    assert (found.information.values == 0).all() and found.information_upper.values.isnan().all()
    assert off(found.marginal_kl, torch.distributions.kl_divergence(part, standard(2)).item()) < 5  # 6e-7


def test_far_codes_have_all_the_information_there_is():
    """Where no q(z|x) overlaps another, the information is log N exactly, and the upper bound is far above."""
    loc = 100.0 * torch.arange(6).double()[:, None]
    found = code_information(AggregatePosterior([dist.Normal(loc, 0.1).to_event(1)]), num_draws=3)
    assert found.information.values.allclose(torch.tensor(log(6)).double(), atol=1e-12) and found.saturated
    assert found.information_upper.mean > 1000 and found.marginal_kl is None and "SATURATED" in repr(found)
    assert "marginal_kl" not in found.summary() and found.most == log(6)


def test_of_probabilistic_pca_the_population_lies_between():
    """I(x; z) in closed form, and q(z) is p(z) in the population. 4 standard errors of the data: false alarm 3e-5."""
    process = linear_process(dim=4, latent=2, scale=1.5)
    vae, x = make_exact(linear_vae(process), process), process.sample(400, seed=3)
    truth = 0.5 * torch.logdet(torch.eye(2) + process.weight.T @ process.weight / 1.5**2).item()
    with torch.no_grad():
        q = AggregatePosterior([vae.encode(x[:150]), vae.encode(x[150:])])
    found = code_information(q, vae.prior_distribution())
    low, high, kl = found.information, found.information_upper, found.marginal_kl
    assert low.mean - 4 * low.standard_error_data < truth < high.mean + 4 * high.standard_error_data
    assert low.mean < high.mean < low.mean + 0.3 and abs(kl.mean) < 4 * kl.standard_error_data + 0.1


def test_surgery_of_the_programs_finds_the_same():
    """Two sets of draws of one quantity: 5 standard errors of their difference, false alarm 6e-7 each."""
    process = linear_process(dim=3, latent=2, scale=1.0)
    vae, x = make_exact(linear_vae(process), process), process.sample(60, seed=1)
    with torch.no_grad():
        q = AggregatePosterior([vae.encode(x)])
    found = code_information(q, vae.prior_distribution(), num_draws=200)
    other = elbo_surgery(vae.model, vae.guide, x, num_particles=200)
    for name in ("information", "information_upper", "marginal_kl"):
        both = getattr(found, name), getattr(other, name)
        error = sum(one.standard_error_monte_carlo**2 for one in both) ** 0.5
        assert abs(both[0].mean - both[1].mean) < 5 * error, name


def test_the_seed_alone_decides():
    q = AggregatePosterior([normals([[0.0], [1.0]], [[1.0], [1.0]])])
    state = torch.get_rng_state()
    found, again, other = (code_information(q, STANDARD, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(found.information.values, again.information.values)
    assert not torch.equal(found.information.values, other.information.values)
    assert torch.equal(state, torch.get_rng_state())


def test_refusals():
    q = AggregatePosterior([normals([[0.0], [1.0]], [[1.0], [1.0]])])
    with pytest.raises(UsageError, match="q: expected the result of aggregate_posterior"):
        code_information(torch.zeros(3))
    with pytest.raises(UsageError, match="prior: expected a distribution"):
        code_information(q, "StandardNormal")
    with pytest.raises(UsageError, match=r"codes of shape \(1,\), got batch shape \(\) and event shape \(2,\)"):
        code_information(q, standard(2))
    with pytest.raises(UsageError, match="at least 1, got 0"):
        code_information(q, num_draws=0)
    with pytest.raises(UsageError, match=r"batch shape \(2,\)"):
        code_information(q, dist.Normal(torch.zeros(2, 1).double(), 1.0).to_event(1))
    bad = dist.Normal(torch.tensor([[float("nan")], [0.0]]), 1.0, validate_args=False).to_event(1)
    with pytest.raises(NumericalError, match="datum 0"):
        code_information(AggregatePosterior([bad]), STANDARD)
