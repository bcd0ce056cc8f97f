"""`diagnostics.surgery`: the terms by enumeration, by quadrature and in closed form, and their flags."""

from functools import partial
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.diagnostics.surgery import elbo_surgery
from pyro_vae.errors import NumericalError, UsageError
from pyro_vae.guides import DiagonalNormal, InverseAutoregressiveFlow
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact
from tests.evidence.test_importance_sampling import two_layer_guide, two_layer_model

TABLE = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5], [0.6, 0.3, 0.1]]).double()
"""q(k|n) of four data."""
PRIOR = torch.tensor([0.5, 0.3, 0.2]).double()


def discrete_model(x):
    with pyro.plate("data", len(x), dim=-1):
        k = pyro.sample("k", dist.Categorical(PRIOR))
        pyro.sample("x", dist.Normal(k.double(), 1.0), obs=x.double())


def discrete_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("k", dist.Categorical(TABLE[x.long()]))


def off(estimates, truth: float) -> float:
    """The distance of the average from the truth in standard errors of the draws."""
    return abs(estimates.mean - truth) / estimates.standard_error_monte_carlo


def linear_gaussian(n: int, scale: float = 1.5) -> tuple[VAE, torch.Tensor, float]:
    """Probabilistic PCA with its exact posterior, n data, and I(x; z)."""
    process = linear_process(dim=4, latent=2, scale=scale)
    vae = make_exact(linear_vae(process), process)
    information = 0.5 * torch.logdet(torch.eye(2) + process.weight.T @ process.weight / scale**2).item()
    return vae, process.sample(n, seed=3), information


# ---- exact values


def test_of_four_data_and_three_codes_all_terms_are_sums():
    """5 standard errors of the draws: false alarm 6e-7 a term."""
    found = elbo_surgery(discrete_model, discrete_guide, torch.arange(4), num_particles=2000)
    aggregate = TABLE.mean(0)
    others = (4 * aggregate - TABLE) / 3
    likelihood = dist.Normal(torch.arange(3.0), 1.0).log_prob(torch.arange(4.0)[:, None])
    exact = {
        "kl": (TABLE * (TABLE / PRIOR).log()).sum(1).mean(),
        "information": (TABLE * (TABLE / aggregate).log()).sum(1).mean(),
        "information_upper": (TABLE * (TABLE / others).log()).sum(1).mean(),
        "marginal_kl": (aggregate * (aggregate / PRIOR).log()).sum(),
        "reconstruction": (TABLE * likelihood).sum(1).mean(),
    }
    for name, truth in exact.items():
        assert off(getattr(found, name), truth.item()) < 5, name
    assert found.information.mean + found.marginal_kl.mean == pytest.approx(found.kl.mean, abs=1e-12)
    assert found.elbo == pytest.approx(found.reconstruction.mean - found.kl.mean)


def test_of_the_given_data_the_marginal_kl_is_that_of_their_mixture_by_quadrature():
    """One latent dimension: KL(q(z) || N(0, 1)) on a grid, within 5 standard errors of the draws (6e-7)."""
    process = linear_process(dim=3, latent=1, scale=1.0)
    vae, x = linear_vae(process, DiagonalNormal), process.sample(30, seed=1)
    with torch.no_grad():
        vae.encoder.output.weight[:1] /= 3
        vae.encoder.output.weight[1:] /= 10
        q = vae.encode(x)
        z = torch.linspace(-12, 12, 24_001).double()
        log_q = q.log_prob(z[:, None, None]).logsumexp(1) - log(30)
        kl = (log_q.exp() * (log_q - dist.Normal(0.0, 1.0).log_prob(z))).sum().item() * 0.001
        average = torch.distributions.kl_divergence(q.base_dist, dist.Normal(0.0, 1.0)).sum(-1).mean().item()
    found = elbo_surgery(vae.model, vae.guide, x, num_particles=1000)
    assert off(found.marginal_kl, kl) < 5 and off(found.kl, average) < 5 and off(found.information, average - kl) < 5


def test_the_information_of_a_linear_gaussian_population_lies_between_the_two():
    """The exact posterior: q(z) is p(z) in the population. 4 standard errors of the data: false alarm 3e-5."""
    vae, x, truth = linear_gaussian(400)
    found = elbo_surgery(vae.model, vae.guide, x)
    low, high = found.information, found.information_upper
    assert low.mean < high.mean and not found.saturated and 0.5 < truth < log(400) - 2
    assert low.mean - 4 * low.standard_error_data < truth < high.mean + 4 * high.standard_error_data
    assert high.mean - low.mean < 0.3 and abs(found.marginal_kl.mean) < 4 * found.marginal_kl.standard_error_data + 0.1


# ---- what it says of itself


def test_an_information_near_log_n_is_flagged_and_a_small_one_is_not():
    vae, x, truth = linear_gaussian(12, scale=0.1)
    found = elbo_surgery(vae.model, vae.guide, x)
    assert truth > log(12) and found.saturated and found.information.mean <= log(12) + 1e-9
    assert found.information_upper.mean > truth and "SATURATED" in repr(found) and found.summary()["saturated"]
    small = elbo_surgery(*linear_gaussian_pair(scale=5.0), linear_gaussian(100, scale=5.0)[1])
    assert not small.saturated and "SATURATED" not in repr(small)


def linear_gaussian_pair(scale: float):
    vae = linear_gaussian(1, scale)[0]
    return vae.model, vae.guide


def test_codes_that_ignore_the_data_carry_no_information():
    vae = VAE((4,), latent_dim=2).double()
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        vae.encoder.output.bias.copy_(torch.tensor([0.5, 0.0, 0.0, 0.0]))
    found = elbo_surgery(vae.model, vae.guide, torch.rand(30, 4).round())
    assert found.information.values.abs().max() < 1e-12 and found.information_upper.values.abs().max() < 1e-12
    assert off(found.marginal_kl, 0.125) < 5


# ---- any pair, whatever the blocks


def test_blocks_and_company_change_nothing():
    vae, x, _ = linear_gaussian(120)
    whole = elbo_surgery(vae.model, vae.guide, x, num_particles=3)
    told: list[int] = []
    blocks = elbo_surgery(vae.model, vae.guide, x, num_particles=3, max_rows=60, progress=told.append)
    for name in ("reconstruction", "kl", "information", "information_upper", "marginal_kl"):
        torch.testing.assert_close(getattr(whole, name).values, getattr(blocks, name).values)
    fewer = elbo_surgery(vae.model, vae.guide, x[:70], num_particles=3)
    torch.testing.assert_close(fewer.kl.values, whole.kl.values[:70])
    assert told == [50, 100, 120]


def of(vae, **options):
    return vae.model, vae.guide, options


PAIRS = {
    "hierarchical": lambda: of(HierarchicalVAE((4,), latent_dims=(2, 1))),
    "ladder": lambda: of(HierarchicalVAE((4,), latent_dims=(2, 1), ladder=True)),
    "flow": lambda: of(VAE((4,), 2, guide=partial(InverseAutoregressiveFlow, hidden=(4,)))),
    "conditional": lambda: of(VAE((4,), 2, context=(3,)), c=torch.rand(9, 3)),
    "plates": lambda: (two_layer_model, two_layer_guide, {"max_plate_nesting": 2}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_aggregate_of_any_pair_is_the_mean_of_its_densities(name):
    """With all data alike, q(z) is q(z|x): the density of a draw under every datum is the draw's own."""
    model, guide, options = PAIRS[name]()
    options = {key: value[:1].expand_as(value) if key == "c" else value for key, value in options.items()}
    found = elbo_surgery(model, guide, torch.ones(9, 4), num_particles=4, **options)
    assert found.information.values.abs().max() < 1e-3 and found.kl.values.abs().min() > 1e-3
    other = elbo_surgery(model, guide, torch.eye(9)[:, :4], num_particles=4, **PAIRS[name]()[2])
    assert other.information.values.abs().max() > 0.01


def test_nothing_is_changed_by_measuring():
    vae = VAE((4,), latent_dim=2)
    generator = torch.get_rng_state()
    found, again, other = (elbo_surgery(vae.model, vae.guide, torch.ones(5, 4), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(found.kl.values, again.kl.values) and not torch.equal(found.kl.values, other.kl.values)
    assert torch.equal(generator, torch.get_rng_state()) and vae.training
    assert all(p.grad is None for p in vae.parameters()) and not pyro.get_param_store().keys()


def test_a_single_datum_has_no_others():
    vae = VAE((4,), latent_dim=2)
    found = elbo_surgery(vae.model, vae.guide, torch.ones(1, 4))
    assert found.information.mean == 0 and found.information_upper.values.isnan().all()


def test_what_makes_no_sense_is_refused():
    vae = VAE((4,), latent_dim=2)
    with pytest.raises(UsageError, match="num_particles >= 2"):
        elbo_surgery(vae.model, vae.guide, torch.ones(3, 4), num_particles=1)
    with pytest.raises(UsageError, match="and 0 data"):
        elbo_surgery(vae.model, vae.guide, torch.ones(0, 4))
    with torch.no_grad():
        vae.encoder.output.bias.fill_(float("nan"))
    with pytest.raises(NumericalError, match="datum 0"):
        elbo_surgery(vae.model, vae.guide, torch.ones(3, 4))
