"""`diagnostics.gaps` and `refining`: the gaps of probabilistic PCA in closed form, both ways, for every family."""

from dataclasses import dataclass
from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.diagnostics.gaps import InferenceGaps, compare_gaps, inference_gaps
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.evidence import Evidence, bound, log_marginal
from pyro_vae.guides import (
    Delta,
    DiagonalNormal,
    FullNormal,
    Guide,
    InverseAutoregressiveFlow,
    LowRankNormal,
    MixtureOfNormals,
    SemiAmortized,
    SplineFlow,
)
from pyro_vae.inference.best_member import Family, Refined, Search
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.statistics.averages import Averaged, of_draws
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact
from tests.support.suites import slow_but

PROCESS = linear_process(dim=6, latent=2, scale=0.7)
QUICK = Search(lr=0.1, max_steps=1000, selection=64)
SHORT = Search(lr=0.1, max_steps=25, selection=16)
SLACK = 0.005
"""Nats that a search may fall short of the best, beside the errors of the estimates."""


class Plain(Guide):
    """A user's own family: a distribution of torch's that knows nothing of noise."""

    def __init__(self, shapes):
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def distribution(self, params):
        loc, log_scale = params.unbind(-2)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


class Detached(dist.Normal):
    has_rsample = False


class Stepwise(Plain):
    """One whose draws have no gradient."""

    def distribution(self, params):
        loc, log_scale = params.unbind(-2)
        return Detached(loc, log_scale.exp()).to_event(1)


@dataclass
class Exact:
    log_p: torch.Tensor
    standard_error: torch.Tensor


def exact(x: torch.Tensor) -> Exact:
    return Exact(PROCESS.log_prob(x), torch.zeros(len(x)))


def posterior():
    """The precision and the covariance of p(z|x)."""
    covariance = PROCESS.posterior(torch.zeros(6).double())[1]
    return torch.linalg.inv(covariance), covariance


def mean_field(shift: float = 0.0, scale: float = 1.0, guide=DiagonalNormal) -> VAE:
    """A mean-field guide: the best there is, but for its mean shifted and its standard deviations scaled."""
    vae = linear_vae(PROCESS, guide)
    precision, covariance = posterior()
    mean_at_zero = PROCESS.posterior(torch.zeros(6).double())[0]
    log_scale = -0.5 * precision.diagonal().log() + torch.tensor(scale).log()
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        vae.encoder.output.weight[:2] = covariance @ PROCESS.weight.T / PROCESS.scale**2
        vae.encoder.output.bias[:4] = torch.cat([mean_at_zero + shift, log_scale])
    return vae


def closed_form(shift: float = 0.0, scale: float = 1.0) -> tuple[float, float]:
    """The approximation gap and the amortisation gap of `mean_field(shift, scale)`."""
    precision, covariance = posterior()
    approximation = 0.5 * (covariance.logdet() + precision.diagonal().log().sum())
    moved = 0.5 * shift**2 * precision.sum()
    widened = 0.5 * 2 * (scale**2 - 1) - 2 * torch.tensor(scale).log()
    return approximation.item(), (moved + widened).item()


def within(estimates: Averaged, truth: float, slack: float = SLACK) -> bool:
    """Every datum within 5 standard errors (false alarm 6e-7 each) and the slack."""
    return bool(((estimates.values - truth).abs() <= 5 * estimates.standard_errors + slack).all())


def data(n: int = 5, seed: int = 1) -> torch.Tensor:
    return PROCESS.sample(n, seed)


def measure(vae: VAE, x: torch.Tensor, search: Search = QUICK, **options) -> InferenceGaps:
    return inference_gaps(vae, x, exact(x), search=search, num_particles=2000, **options)


def shortfall(gaps: InferenceGaps, x: torch.Tensor) -> torch.Tensor:
    """How far the members found are below the best mean-field ones, in closed form, nats."""
    precision, _ = posterior()
    loc, log_scale = gaps.refined.params.unbind(1)
    off = loc - PROCESS.posterior(x)[0]
    ratio = precision.diagonal() * (2 * log_scale).exp()
    return 0.5 * (torch.einsum("ni,ij,nj->n", off, precision, off) + (ratio - 1 - ratio.log()).sum(-1))


def state(vae: VAE) -> list[torch.Tensor]:
    return [value.clone() for value in vae.state_dict().values()]


# ---- exact values


@pytest.fixture(scope="module")
def perturbed() -> InferenceGaps:
    return measure(mean_field(shift=0.3, scale=1.5), data())


def test_of_an_exact_guide_both_gaps_are_zero():
    gaps = measure(make_exact(linear_vae(PROCESS), PROCESS), data())
    assert within(gaps.approximation, 0.0) and within(gaps.amortisation, 0.0)
    assert gaps.total.values.abs().max() < 1e-9 and not gaps.negative.any() and not gaps.not_converged.any()


@pytest.mark.parametrize("guide", [DiagonalNormal, Plain])
def test_of_the_best_mean_field_guide_the_gap_is_that_of_the_family(guide):
    approximation, amortisation = closed_form()
    assert approximation > 0.1 and amortisation == 0
    x = data()
    gaps = measure(mean_field(guide=guide), x)
    assert within(gaps.approximation, approximation) and within(gaps.amortisation, 0.0)
    assert 0 <= shortfall(gaps, x).max() < SLACK and not gaps.not_converged.any()


def test_of_a_perturbed_encoder_both_gaps_are_known(perturbed):
    approximation, amortisation = closed_form(shift=0.3, scale=1.5)
    assert amortisation > 0.5
    assert within(perturbed.approximation, approximation) and within(perturbed.amortisation, amortisation)
    assert shortfall(perturbed, data()).max() < SLACK
    assert not perturbed.not_converged.any() and not perturbed.negative.any() and not perturbed.unreliable.any()


def test_of_a_perturbed_encoder_of_the_exact_family_all_is_amortisation():
    vae = make_exact(linear_vae(PROCESS), PROCESS)
    with torch.no_grad():
        vae.encoder.output.bias[0] += 0.5
    gaps = measure(vae, data())
    expected = 0.5 * 0.5**2 * posterior()[0][0, 0].item()
    assert expected > 0.3 and within(gaps.approximation, 0.0) and within(gaps.amortisation, expected)


def test_the_gaps_sum_to_what_independent_estimates_say(perturbed):
    """5 standard errors for each datum: false alarm 6e-7."""
    vae, x = mean_field(shift=0.3, scale=1.5), data()
    evidence = log_marginal(vae.model, vae.guide, x, num_particles=2000, seed=7)
    elbo = bound(vae.model, vae.guide, x, num_particles=4000, seed=8).elbo
    error = (evidence.standard_error.square() + 2 * perturbed.elbo.standard_errors.square()).sqrt()
    assert ((perturbed.total.values - (evidence.log_p - elbo)).abs() < 5 * error).all()
    parts = perturbed.approximation.values + perturbed.amortisation.values
    torch.testing.assert_close(parts, perturbed.total.values, rtol=0, atol=1e-12)


def test_the_errors_are_honest():
    """The sum of squares of 60 standardised errors is chi-squared: outside (25, 125) once in 1e5 on either side."""
    x = data(60)
    gaps = measure(mean_field(shift=0.3, scale=1.5), x, SHORT)
    truth = PROCESS.log_prob(x) - sum(closed_form(shift=0.3, scale=1.5))
    standardised = (gaps.elbo.values - truth) / gaps.elbo.standard_errors
    assert 25 < standardised.square().sum() < 125
    common = gaps.amortisation.standard_errors
    assert (common < (gaps.elbo.standard_errors + gaps.best_elbo.standard_errors)).all()


def test_the_draws_that_chose_do_not_judge():
    """What few draws choose by chance is worse than the exact posterior: by draws of their own it would look better."""
    gaps = measure(make_exact(linear_vae(PROCESS), PROCESS), data(60), Search(lr=0.1, max_steps=50, selection=4))
    assert gaps.approximation.mean > 3 * gaps.approximation.standard_error_monte_carlo
    assert gaps.amortisation.mean < -3 * gaps.amortisation.standard_error_monte_carlo


def test_log_p_is_estimated_where_it_is_not_given():
    vae, x = mean_field(), data()
    gaps = inference_gaps(vae, x, search=SHORT, num_particles=100)
    evidence = log_marginal(vae.model, vae.guide, x)
    assert torch.equal(gaps.log_p.values, evidence.log_p) and torch.equal(gaps.unreliable, evidence.flagged)


# ---- families


@pytest.mark.parametrize("guide", [FullNormal, partial(LowRankNormal, rank=1)])
def test_a_family_that_holds_the_posterior_has_no_approximation_gap(guide):
    vae = mean_field(shift=0.3, guide=guide)
    with torch.no_grad():
        vae.encoder.output.bias[4:] = 0.1
    gaps = measure(vae, data(3))
    assert within(gaps.approximation, 0.0) and (gaps.amortisation.values > 0.2).all()


GUIDES = [
    partial(InverseAutoregressiveFlow, hidden=(4,), context=2),
    partial(SplineFlow, transforms=1, bins=3, hidden=(4,), context=2),
    partial(MixtureOfNormals, components=2),
    partial(SemiAmortized, steps=2),
]


@pytest.mark.parametrize("guide", GUIDES, ids=["iaf", "spline", "mixture", "semi"])
@pytest.mark.parametrize("starts", slow_but([2], [1, 2]))
def test_every_family_is_refined_and_no_weight_is_touched(guide, starts):
    vae, x = linear_vae(PROCESS, guide), data(3)
    before, generator = state(vae), torch.get_rng_state()
    gaps = measure(vae, x, Search(lr=0.1, max_steps=75, selection=64, starts=starts))
    assert (gaps.amortisation.values > 3 * gaps.amortisation.standard_errors).all()
    assert (gaps.approximation.values > -5 * gaps.approximation.standard_errors).all()
    assert all(torch.equal(a, b) for a, b in zip(before, state(vae), strict=True)) and vae.training
    assert all(p.grad is None and p.requires_grad for p in vae.parameters())
    assert torch.equal(generator, torch.get_rng_state()) and gaps.refined.steps.tolist() == [75 * starts] * 3


@pytest.mark.parametrize("guide", GUIDES[:2], ids=["iaf", "spline"])
def test_copies_of_a_flow_are_its_own_and_make_it_no_worse(guide):
    vae, x = linear_vae(PROCESS, guide), data(3)
    shared, copied = Family(vae), Family(vae, copies=True)
    params = vae.guide_params(x).detach()
    drawn = [family.draw(family.join(params), 4, start=0, seed=0) for family in (shared, copied)]
    torch.testing.assert_close(*drawn)
    before = state(vae)
    gaps = measure(vae, x, Search(lr=0.1, max_steps=75, selection=64, copies=True))
    assert all(torch.equal(a, b) for a, b in zip(before, state(vae), strict=True))
    name, weight = next(iter(vae.posterior.named_parameters()))
    copies = gaps.refined.weights[name]
    assert copies.shape == (3, *weight.shape) and not torch.equal(copies[0], copies[1])
    assert (gaps.amortisation.values > 3 * gaps.amortisation.standard_errors).all()


def test_a_conditional_vae_and_masks():
    torch.manual_seed(0)
    vae = VAE((5,), latent_dim=2, context=(3,), likelihood=Normal, encoder=partial(MLP, hidden=(7,)))
    x, c, mask = torch.randn(4, 5), torch.eye(3)[[0, 1, 2, 0]], torch.rand(4, 5) > 0.3
    gaps = inference_gaps(vae, x, search=SHORT, num_particles=100, c=c, mask=mask)
    other = inference_gaps(vae, x, search=SHORT, num_particles=100, c=c.flip(0), mask=mask)
    filled = inference_gaps(vae, torch.where(mask, x, 7.0), search=SHORT, num_particles=100, c=c, mask=mask)
    assert not torch.equal(gaps.elbo.values, other.elbo.values)
    torch.testing.assert_close(gaps.best_elbo.values, filled.best_elbo.values)


# ---- a function of the datum


@pytest.mark.parametrize("guide", [DiagonalNormal, Plain])
def test_a_datum_does_not_depend_on_its_company_nor_on_memory(guide):
    vae, x = mean_field(0.3, 1.5, guide), data(60)
    whole = measure(vae, x, SHORT)
    for some in (measure(vae, x[:53], SHORT), measure(vae, x, SHORT, max_rows=1)):
        for name in ("elbo", "best_elbo", "amortisation"):
            expected = getattr(whole, name).values[: len(some.elbo)]
            torch.testing.assert_close(getattr(some, name).values, expected, rtol=0, atol=1e-6)
    again = measure(vae.eval(), x[:53], SHORT, seed=1)
    assert not torch.equal(again.elbo.values, whole.elbo.values[:53])


def test_progress_rises_to_all():
    told: list[int] = []
    measure(mean_field(), data(60), SHORT, max_rows=1, progress=told.append)
    assert told == sorted(told) and told[-1] == 60 and 50 in told


# ---- flags


def test_a_search_that_was_cut_off_is_told():
    gaps = measure(mean_field(shift=2.0), data(), SHORT)
    assert gaps.not_converged.all() and gaps.summary()["not_converged"] == 1.0
    assert "not converged 100.0%" in repr(gaps)


def test_a_log_p_that_is_too_low_or_not_to_be_trusted_is_told():
    x = data()
    zero, k = torch.zeros(5).double(), torch.tensor([0.9, 0.1, 0.1, 0.1, 0.1]).double()
    low = Evidence(PROCESS.log_prob(x) - 2.0, zero, zero, k, zero, num_particles=5000, seed=0)
    gaps = inference_gaps(mean_field(), x, low, search=SHORT, num_particles=200)
    assert gaps.negative.all() and gaps.unreliable.tolist() == [True, False, False, False, False]
    assert gaps.summary()["unreliable"] == pytest.approx(0.2)


# ---- train against test


def fake(amortisation: float, seed: int, n: int = 100) -> InferenceGaps:
    """Gaps of n data with this average amortisation gap, of spread 1, and an approximation gap of 2."""
    values = torch.randn(n, generator=torch.Generator().manual_seed(seed)).double()
    gap, small = values - values.mean() + amortisation, torch.full((n,), 0.01).double()
    some = Averaged(-90.0 - gap, small)
    refined = Refined(torch.zeros(n, 2, 2), {}, torch.ones(n).bool(), torch.ones(n).long())
    best = Averaged(torch.full((n,), -90.0).double(), small)
    log_p = Averaged(best.values + 2, small)
    return InferenceGaps(log_p, some, best, Averaged(gap, small), refined, torch.zeros(n).bool(), 0.01, 100, 0)


def test_an_encoder_that_overfits_is_told_and_another_is_not():
    train = fake(1.0, seed=0)
    overfits, fine = compare_gaps(train, fake(1.6, seed=1)), compare_gaps(train, fake(1.1, seed=1))
    assert overfits.encoder_overfits and not fine.encoder_overfits
    difference = overfits.differences["amortisation"]
    assert difference.mean == pytest.approx(0.6) and difference.standard_error == pytest.approx(0.141, abs=0.02)
    assert overfits.differences["approximation"].mean == pytest.approx(0.0)
    assert overfits.summary()["encoder_overfits"] and "encoder overfits: yes" in repr(overfits)
    with pytest.raises(UsageError, match="at least 2 data"):
        compare_gaps(train, fake(1.0, seed=1, n=1))


# ---- refusals


def test_what_makes_no_sense_is_refused():
    vae, x = mean_field(), data()
    with pytest.raises(UsageError, match="a HierarchicalVAE has not"):
        inference_gaps(HierarchicalVAE((6,), latent_dims=(2, 1)), x.gt(0).to(x))
    with pytest.raises(UsageError, match="is a Delta"):
        inference_gaps(linear_vae(PROCESS, Delta), x, exact(x))
    with pytest.raises(DataError, match=r"expected shape \[N >= 1, 6\], got \[5, 3\]"):
        inference_gaps(vae, x[:, :3])
    with pytest.raises(UsageError, match="even and at least 4"):
        inference_gaps(vae, x, num_particles=5)
    with pytest.raises(UsageError, match=r"that of 5 data, got log_p \[2\]"):
        inference_gaps(vae, x, exact(x[:2]))
    with pytest.raises(UsageError, match="Stepwise are not reparameterised"):
        inference_gaps(linear_vae(PROCESS, Stepwise), x, exact(x))
    with pytest.raises(UsageError, match="come in pairs"):
        Search(particles=3)
    with pytest.raises(UsageError, match="max_steps >= 1"):
        Search(max_steps=0)


def test_an_elbo_that_is_not_finite_is_an_error_with_the_datum():
    vae = mean_field()
    with torch.no_grad():
        vae.decoder.output.bias.fill_(float("nan"))
    with pytest.raises(NumericalError, match="ELBO of datum 0"):
        measure(vae, data(), SHORT)


# ---- estimates


def test_estimates_are_means_with_errors():
    draws = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    found = of_draws(draws)
    torch.testing.assert_close(found.values, draws.double().mean(0))
    torch.testing.assert_close(found.standard_errors, draws.double().std(0) / 50**0.5)
    assert found.standard_error_monte_carlo == pytest.approx(found.standard_errors.square().sum().sqrt().item() / 4)
    assert found.standard_error_data == pytest.approx(found.values.std().item() / 2) and len(found) == 4
    assert of_draws(draws[:1]).standard_errors.isnan().all()
