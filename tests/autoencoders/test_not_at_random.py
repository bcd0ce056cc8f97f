"""`NotAtRandom`: against integrals, sums over all completions, the model without it, and not-MIWAE's own formula."""

from functools import partial
from itertools import product
from math import exp, log

import pytest
import torch
from scipy import integrate, stats
from torch.nn.functional import logsigmoid

from pyro_vae.autoencoders import VAE, HierarchicalVAE, Missingness, NotAtRandom, SelfMasking
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.evidence.quadrature import quadrature
from pyro_vae.inference import simulate
from pyro_vae.inference.hamiltonian import HMC
from pyro_vae.likelihoods import Bernoulli, Categorical, Normal, Poisson, StudentT
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE, DReG
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe_vae
from pyro_vae.tasks import impute, sample

LINEAR = {"encoder": partial(MLP, hidden=()), "decoder": partial(MLP, hidden=())}
SMALL = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,))}


class Together(Missingness):
    """Each element is missing more often where the first one is large."""

    def __init__(self, shapes):
        super().__init__(shapes)
        self.slope = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return 1 - self.slope * x[..., :1].expand(x.shape)


def linear_gaussian(standardize=False, missingness=SelfMasking):
    """Two columns of x = w z + b + noise, in double precision, with known curves; and the parameters of its law."""
    likelihood = partial(Normal, scale=0.5, min_scale=0.0)
    vae = NotAtRandom((2,), partial(VAE, latent_dim=1, likelihood=likelihood, standardize=standardize, **LINEAR))
    vae = vae.double()
    w, b = torch.tensor([1.0, 0.8]).double(), torch.tensor([0.2, -0.3]).double()
    with torch.no_grad():
        for p in vae.vae.parameters():
            p.zero_()
        vae.vae.decoder.output.weight.copy_(w[:, None])
        vae.vae.decoder.output.bias.copy_(b)
        vae.missingness.intercept.copy_(torch.tensor([0.3, -0.2]))
        vae.missingness.raw_slope.copy_(torch.tensor([-1.0, 1.5]))
        if standardize:
            vae.standardize_by(torch.tensor([1.0, -2.0]), torch.tensor([2.0, 0.5]))
    return vae


def law(standardize):
    """The mean and covariance of x."""
    w, b = torch.tensor([1.0, 0.8]).double(), torch.tensor([0.2, -0.3]).double()
    covariance = w[:, None] * w + 0.25 * torch.eye(2).double()
    if not standardize:
        return b, covariance
    m, s = torch.tensor([1.0, -2.0]).double(), torch.tensor([2.0, 0.5]).double()
    return m + s * b, s[:, None] * s * covariance


def observed_probability(vae, d, value):
    """P(x_d is observed) at a value of x_d, by the curve's own formula."""
    if vae.data_mean is not None:
        value = (value - (1.0, -2.0)[d]) / (2.0, 0.5)[d]
    return 1 / (1 + exp((-1.0, 1.5)[d] * value - (0.3, -0.2)[d]))


def given(vae, standardize, x, mask):
    """Log p(x_obs, mask), and mean and sd of the missing element given both, by quadrature over it."""
    mean, covariance = law(standardize)
    seen, gap = (0, 1) if mask[0] else (1, 0)
    sd = covariance[seen, seen].sqrt().item()
    log_p = stats.norm.logpdf(x[seen].item(), mean[seen].item(), sd)
    log_p += log(observed_probability(vae, seen, x[seen].item()))
    slope = (covariance[gap, seen] / covariance[seen, seen]).item()
    centre = mean[gap].item() + slope * (x[seen] - mean[seen]).item()
    spread = (covariance[gap, gap] - slope * covariance[gap, seen]).sqrt().item()

    def moment(power):
        def value(v):
            return v**power * stats.norm.pdf(v, centre, spread) * (1 - observed_probability(vae, gap, v))

        return integrate.quad(value, centre - 12 * spread, centre + 12 * spread, epsabs=1e-12)[0]

    total, first, second = (moment(n) for n in range(3))
    return log_p + log(total), first / total, (second / total - (first / total) ** 2) ** 0.5


@pytest.mark.parametrize("standardize", [False, True])
def test_log_p_and_imputations_against_quadrature(standardize):
    """Of real data with one gap each: 4 standard errors of log p, 6 of the mean, for 4 data: 3e-4 false alarms."""
    vae = linear_gaussian(standardize)
    x = torch.tensor([[0.5, 9.0], [-1.0, 9.0], [9.0, 0.4], [9.0, -1.5]]).double()
    mask = x < 9
    if standardize:
        x = torch.tensor([1.0, -2.0]) + torch.tensor([2.0, 0.5]) * x
    found = log_marginal(vae.model, vae.guide, x, mask=mask, num_particles=3000)
    imputed = impute(vae, x, mask, 20, num_particles=3000)
    for n in range(len(x)):
        log_p, mean, sd = given(vae, standardize, x[n], mask[n])
        assert abs(found.log_p[n].item() - log_p) < 4 * found.standard_error[n].item() < 0.15
        gap = ~mask[n]
        assert abs(imputed.best[n][gap].item() - mean) < 6 * sd / imputed.ess[n].item() ** 0.5 < 0.3 * sd
        assert imputed.sd[n][gap].item() == pytest.approx(sd, rel=0.15)


def test_imputations_by_chains_have_the_same_law():
    """The mean of 480 draws of 16 chains, a third of them independent at least: 6 standard errors."""
    vae = linear_gaussian()
    x, mask = torch.tensor([[0.5, 9.0], [9.0, 0.4]]).double(), torch.tensor([[True, False], [False, True]])
    imputed = impute(vae, x, mask, 480, method="hmc", hmc=HMC(num_chains=16, num_warmup=40))
    for n in range(2):
        _, mean, sd = given(vae, False, x[n], mask[n])
        assert abs(imputed.best[n][~mask[n]].item() - mean) < 6 * sd / 160**0.5
        assert imputed.sd[n][~mask[n]].item() == pytest.approx(sd, rel=0.25)
    assert torch.equal(imputed.best[mask], x[mask])


def test_without_a_slope_it_is_missing_at_random():
    """log p(x_obs, mask) = log p(x_obs) + log p(mask), by the same draws of z: to rounding; so are the weights."""
    torch.manual_seed(0)
    inner = VAE((5,), 2, likelihood=Normal, **SMALL).double()
    vae = NotAtRandom.around(inner)
    with torch.no_grad():
        vae.missingness.intercept.copy_(torch.randn(5))
    x, mask = torch.randn(20, 5).double(), torch.rand(20, 5) < 0.6
    both = [log_marginal(v.model, v.guide, x, mask=mask, num_particles=250) for v in (vae, inner)]
    intercept = vae.missingness.intercept
    log_mask = logsigmoid(torch.where(mask, intercept, -intercept)).sum(1)
    torch.testing.assert_close(both[0].log_p, both[1].log_p + log_mask, rtol=0, atol=1e-9)
    torch.testing.assert_close(both[0].standard_error, both[1].standard_error, rtol=1e-6, atol=1e-7)
    found, plain = (impute(v, x, mask, 20, num_particles=2000) for v in (vae, inner))
    error = ((found.best - plain.best) / plain.sd)[~mask].abs() * found.ess.min().sqrt()
    assert error.max() < 6 * 2**0.5  # of the draws of x given z, which the model without it integrates out


@pytest.mark.parametrize("likelihood", [Bernoulli, partial(Categorical, levels=3)], ids=["bits", "levels"])
def test_few_values_are_summed_out(likelihood):
    """log p(x_obs, mask) is the sum over all completions of p(x) p(mask|x), each by quadrature; so are the means."""
    torch.manual_seed(0)
    inner = VAE((3,), 1, likelihood=likelihood, **SMALL).double()
    with torch.no_grad():
        inner.decoder.output.weight.mul_(4)
    vae = NotAtRandom.around(inner)
    with torch.no_grad():
        vae.missingness.intercept.copy_(torch.tensor([0.5, -0.5, 0.0]))
        vae.missingness.raw_slope.copy_(torch.tensor([2.0, -1.0, 0.5]))
    values = [0.0, 1.0] if likelihood is Bernoulli else [0.0, 0.5, 1.0]
    x = torch.tensor(list(product(values, repeat=3)))[::5].double()
    mask = torch.rand(x.shape) < 0.5
    assert vae.missing_site is None and vae.code_site == "z"
    found = quadrature(vae.model, vae.guide, x, mask=mask).log_p
    complete = [torch.where(mask, x, torch.tensor(c).double()) for c in product(values, repeat=3)]
    repeated = len(values) ** mask.sum(1).double()  # completions differ in missing elements only
    joint = torch.stack(
        [quadrature(inner.model, inner.guide, c).log_p + vae.log_prob_of_mask(c, mask).sum(1) for c in complete]
    )
    torch.testing.assert_close(found, joint.logsumexp(0) - repeated.log(), rtol=0, atol=1e-6)
    imputed = impute(vae, x, mask, 20, num_particles=6000)
    means = (joint.softmax(0).unsqueeze(-1) * torch.stack(complete)).sum(0)
    assert ((imputed.best - means).abs() < 6 * 0.5 / imputed.ess.sqrt().unsqueeze(1)).all()
    assert set(imputed.draws.unique().tolist()) == set(values) and (imputed.sd[~mask] > 0).all()


@pytest.mark.parametrize("missingness", [partial(SelfMasking, missing="high"), Together])
def test_the_bound_is_that_of_not_miwae(missingness):
    """Value and gradients: log p(x_obs|z) + log p(mask|x) + log p(z) - log q(z|x), by the same noise."""
    torch.manual_seed(0)
    vae = NotAtRandom(
        (3,), partial(VAE, latent_dim=2, likelihood=partial(Normal, scale="learned"), **SMALL), missingness
    )
    vae = vae.double()
    x, mask = torch.randn(7, 3).double(), torch.rand(7, 3) < 0.5

    def by_hand():
        q = vae.vae.encode(x, mask)
        z = q.rsample((6,))
        elements = vae.decode(z).base_dist
        torch.randn(6, 7, 3, dtype=x.dtype)  # what stands at observed elements
        filled = torch.where(mask, x, elements.rsample())
        log_p = (elements.log_prob(x) * mask).sum(-1) + vae.log_prob_of_mask(filled, mask).sum(-1)
        log_w = log_p + vae.prior_distribution().log_prob(z) - q.log_prob(z)
        return -(log_w.logsumexp(0) - log(6)).sum()

    parameters, results = list(vae.parameters()), []
    for loss in (lambda: IWAE(6)(vae.model, vae.guide, x, mask=mask), by_hand):
        with seeded(1, "noise"):
            value = loss()
        results.append([value, *torch.autograd.grad(value, parameters)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("objective", [IWAE(2), DReG(2)], ids=["iwae", "dreg"])
@pytest.mark.parametrize("likelihood", [Normal, StudentT, Bernoulli])
def test_every_parameter_learns(likelihood, objective):
    torch.manual_seed(0)
    vae = NotAtRandom((3,), partial(VAE, latent_dim=2, likelihood=likelihood, **SMALL))
    x, mask = (torch.rand(7, 3) < 0.5).float(), torch.rand(7, 3) < 0.5
    objective(vae.model, vae.guide, x.masked_fill(~mask, torch.nan), mask=mask).backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_the_sign_of_the_slope_is_found():
    """With p(x) known, of 600 data: the standard errors are some 0.25, and the slopes 6 of these from 0."""
    vae = linear_gaussian()
    truth = vae.missingness.raw_slope.detach().clone()
    drawn = simulate(vae.model, torch.zeros(600, 2).double(), mask=torch.ones(600, 2).bool(), seed=1)
    x, mask = drawn.x, drawn.inputs["mask"]
    assert 0.3 < mask.double().mean() < 0.7
    with torch.no_grad():
        vae.missingness.raw_slope.zero_()
        vae.vae.encoder.output.weight[0] = 1.0
    for parameter in vae.vae.parameters():
        parameter.requires_grad_(False)
    optimizer = torch.optim.Adam(vae.missingness.parameters(), lr=0.1)
    with seeded(0, "training"):
        for _ in range(60):
            optimizer.zero_grad()
            IWAE(20)(vae.model, vae.guide, x, mask=mask).backward()
            optimizer.step()
    assert (vae.missingness.slope - truth).abs().max() < 1


def test_without_a_mask_it_is_the_vae_inside():
    torch.manual_seed(0)
    inner = VAE((3,), 2, likelihood=Normal, **SMALL)
    vae = NotAtRandom.around(inner, partial(SelfMasking, missing="low"))
    x = torch.randn(5, 3)
    both = [log_marginal(v.model, v.guide, x, num_particles=50).log_p for v in (vae, inner)]
    assert torch.equal(*both) and torch.equal(sample(vae, 3).x, sample(inner, 3).x)
    assert (vae.missingness.slope < 0).all() and vae.missing_site == "x_missing" and vae.code_site is None


def test_any_autoencoder_and_any_context():
    torch.manual_seed(0)
    x, mask = torch.randn(5, 3), torch.rand(5, 3) < 0.5
    for inner in (
        partial(HierarchicalVAE, latent_dims=(2, 2), likelihood=Normal),
        partial(VAE, latent_dim=2, likelihood=Normal, context=(4,)),
    ):
        vae = NotAtRandom((3,), inner)
        given = {"c": torch.randn(5, 4)} if vae.shapes.context else {}
        found = impute(vae, x, mask, 5, num_particles=50, **given)
        assert torch.equal(found.best[mask], x[mask]) and found.codes.draws["x_missing"].shape == (5, 5, 3)


def test_it_can_be_described_and_built_again():
    inner = partial(VAE, latent_dim=2, likelihood=Normal, standardize=True, **SMALL)
    vae = NotAtRandom((3,), inner, partial(SelfMasking, missing="high"))
    vae.standardize_by(torch.ones(3), torch.full((3,), 2.0))
    twin = build_vae(describe_vae(vae))
    twin.load_state_dict(vae.state_dict())
    assert repr(twin) == repr(vae) and twin.missingness.missing == "high"
    x, mask = torch.randn(5, 3), torch.rand(5, 3) < 0.5
    both = [log_marginal(v.model, v.guide, x, mask=mask, num_particles=50).log_p for v in (vae, twin)]
    assert torch.equal(*both)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="Poisson has no reparameterised draws"):
        NotAtRandom((3,), partial(VAE, likelihood=Poisson))
    with pytest.raises(UsageError, match="its missing elements can't be summed out"):
        NotAtRandom((3,), partial(VAE, likelihood=Bernoulli), Together)
    with pytest.raises(UsageError, match="missing: expected one of 'free', 'high', 'low'"):
        NotAtRandom((3,), partial(VAE, likelihood=Normal), partial(SelfMasking, missing="top"))
    with pytest.raises(UsageError, match="vae: expected a class"):
        NotAtRandom((3,), VAE((3,)))  # pyright: ignore[reportArgumentType]
