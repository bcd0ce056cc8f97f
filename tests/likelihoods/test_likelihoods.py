"""Likelihoods: densities against independent references, gradients, extremes, draws, and bits per dimension.

References are scipy, mpmath with 50 digits, enumeration and quadrature; what single precision gives is compared with
them, since that is what trains.
"""

import math
from functools import partial

import mpmath
import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae import likelihoods
from pyro_vae.autoencoders import VAE
from pyro_vae.compiling.recording import record_gradients
from pyro_vae.data import Dataset
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import Evidence, bits_per_dim, log_marginal
from pyro_vae.inference.weighing import weigh
from pyro_vae.likelihoods import (
    Bernoulli,
    BetaBinomial,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Laplace,
    Likelihood,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe
from pyro_vae.shapes import Shapes
from pyro_vae.testing import check_part
from pyro_vae.training.fitting import fit

SHAPES, ONE = Shapes((2, 3), 2), Shapes((1,), 1)
CASES = [
    Bernoulli,
    ContinuousBernoulli,
    Normal,
    partial(Normal, scale="per_element", bounded=True, min_scale=0.01),
    partial(Normal, scale="learned_each"),
    Laplace,
    partial(Laplace, scale="learned"),
    partial(Laplace, scale="per_element", bounded=True),
    StudentT,
    partial(StudentT, df="learned", scale="learned"),
    partial(StudentT, df="per_element", scale="per_element", bounded=True, min_scale=0.01),
    partial(StudentT, df="per_element", scale=0.5),
    DiscretizedLogistic,
    partial(DiscretizedLogistic, levels=2),
    partial(DiscretizedLogistic, levels=17, scale="learned"),
    partial(DiscretizedLogistic, levels=17, scale=0.1, components=2),
    partial(DiscretizedLogistic, levels=17, scale="learned", components=3),
    partial(DiscretizedLogistic, levels=256, components=5),
    partial(Categorical, levels=17),
    Categorical,
    BetaBinomial,
    partial(BetaBinomial, levels=2),
    Poisson,
    partial(Poisson, zero_inflated=True),
    NegativeBinomial,
    partial(NegativeBinomial, dispersion=3.0),
    partial(NegativeBinomial, dispersion="per_element"),
    partial(NegativeBinomial, zero_inflated=True),
    partial(NegativeBinomial, dispersion="per_element", zero_inflated=True),
]
LEADING = [(), (4,), (3, 4)]


def name_of(make):
    cls = getattr(make, "func", make)
    return f"{cls.__name__}{getattr(make, 'keywords', '')}"


each = pytest.mark.parametrize("make", CASES, ids=name_of)


def params_for(likelihood, *leading, dtype=torch.float32):
    return torch.randn(*leading, *likelihood.param_shape, dtype=dtype)


def data_for(likelihood, *leading):
    return likelihood(torch.zeros(*leading, *likelihood.param_shape)).sample()


def values_of(likelihood):
    """All values of a discrete element, those of counts up to 3,000."""
    if hasattr(likelihood, "levels"):
        return torch.arange(likelihood.levels) / (likelihood.levels - 1)
    return torch.arange(2.0 if isinstance(likelihood, Bernoulli) else 3000.0)


def at(likelihood, *params):
    """The distribution of one element at these parameters."""
    return likelihood(torch.as_tensor(params).reshape(likelihood.param_shape))


# --- what all have in common ---


def test_every_class_is_tested():
    elsewhere = {Likelihood, likelihoods.Mixed}  # test_mixed.py
    classes = {getattr(likelihoods, name) for name in likelihoods.__all__} - elsewhere
    assert classes == {getattr(make, "func", make) for make in CASES}


@each
@pytest.mark.parametrize("leading", LEADING)
def test_leading_dimensions(make, leading):
    likelihood = make(SHAPES)
    params = params_for(likelihood, *leading)
    distribution = likelihood(params)
    assert distribution.batch_shape == (*leading, 2, 3) and distribution.event_shape == ()
    x = distribution.sample()
    likelihood.check(x.reshape(-1, 2, 3))
    assert x.dtype == torch.float32 and distribution.sample((5,)).shape == (5, *leading, 2, 3)
    log_p = distribution.log_prob(x)
    assert log_p.shape == distribution.mean.shape == (*leading, 2, 3) and log_p.isfinite().all()
    more = distribution.expand((7, *leading, 2, 3))
    assert more.mean.shape == more.sample().shape == (7, *leading, 2, 3)
    torch.testing.assert_close(more.log_prob(x), log_p.expand(7, *leading, 2, 3))
    torch.testing.assert_close(distribution.log_prob(x.expand(5, *leading, 2, 3))[3], log_p)
    assert distribution.to_event(2).log_prob(x).shape == leading


@each
@pytest.mark.parametrize("size", [0.3, 1.0])
def test_normalises_and_has_the_stated_mean(make, size):
    """By enumeration (counts: up to 3,000) or adaptive quadrature."""
    likelihood = make(ONE).double()
    distribution = likelihood(size * params_for(likelihood, dtype=torch.float64))
    mean = distribution.mean.item()
    assert moments_of(likelihood, distribution, mean) == pytest.approx((1, mean), abs=1e-7)


@torch.no_grad()
def moments_of(likelihood, distribution, centre):
    """Total probability and mean; of a density on the real line by symmetric halves, where heavy tails cancel."""
    if likelihood.discrete:
        x = values_of(likelihood).double()
        p = distribution.log_prob(x.unsqueeze(-1)).exp().squeeze(-1)
        return p.sum().item(), (p * x).sum().item()

    def density(x):
        return distribution.log_prob(torch.tensor([x], dtype=torch.float64)).exp().item()

    low, high = (0, 1) if isinstance(likelihood, ContinuousBernoulli) else (-np.inf, np.inf)
    halves = [(low, centre), (centre, high)]
    total = sum(integrate.quad(density, *half, epsabs=1e-11)[0] for half in halves)
    shift = sum(integrate.quad(lambda x: (x - centre) * density(x), *half, epsabs=1e-11)[0] for half in halves)
    return total, centre + shift


@each
def test_gradients_in_double_precision(make):
    likelihood = make(SHAPES).double()
    params = params_for(likelihood, 2, dtype=torch.float64).requires_grad_()
    x = likelihood(params.detach()).sample()

    def log_p(params, *own):
        replaced = dict(zip(dict(likelihood.named_parameters()), own, strict=True))
        return torch.func.functional_call(
            _Density(likelihood), {f"likelihood.{n}": p for n, p in replaced.items()}, (params, x)
        )

    torch.autograd.gradcheck(log_p, (params, *likelihood.parameters()))


class _Density(torch.nn.Module):
    def __init__(self, likelihood):
        super().__init__()
        self.likelihood = likelihood

    def forward(self, params, x):
        return self.likelihood(params).log_prob(x)


@each
@pytest.mark.parametrize("size", [1.0, 10.0])
def test_single_precision_has_the_digits_of_double(make, size):
    """Values to 2e-5 and gradients to 2e-4, or 5e-3 where they pass a sigmoid near 1, whose slope has few digits."""
    likelihood = make(SHAPES)
    close = 5e-3 if getattr(likelihood, "bounded", False) else 2e-4
    params = size * params_for(likelihood, 50)
    x = likelihood(params_for(likelihood, 50)).sample()
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = params.detach().clone().to(dtype).requires_grad_()
        log_p = likelihood.to(dtype)(leaf).log_prob(x.to(dtype))
        log_p.sum().backward()
        results.append((log_p.detach().double(), leaf.grad.double()))
    (value, gradient), (exact, exact_gradient) = results
    assert ((value - exact).abs() <= 2e-5 * exact.abs().clamp(min=1)).all()
    assert ((gradient - exact_gradient).abs() <= close * exact_gradient.abs().clamp(min=1)).all()


@each
def test_extremes_are_finite(make):
    """Every pair of extreme parameters, at the ends of the support: value and gradient are finite."""
    likelihood = make(ONE)
    n = likelihood.num_params
    extremes = torch.tensor([-1e4, -200.0, -20.0, 0.0, 20.0, 200.0, 1e4])
    grid = torch.cartesian_prod(extremes, extremes)
    params = grid.repeat(1, -(-n // 2))[:, :n].reshape(-1, *likelihood.param_shape).requires_grad_()
    ends = {True: (0.0, 1.0), False: (-100.0, 0.0, 0.3, 100.0)}[
        likelihood.discrete or isinstance(likelihood, ContinuousBernoulli)
    ]
    ends = (0.0, 1.0, 1e6) if isinstance(likelihood, Poisson | NegativeBinomial) else ends
    for x in ends:
        log_p = likelihood(params).log_prob(torch.full((len(grid), 1), x))
        assert log_p.isfinite().all(), grid[~log_p.isfinite().squeeze(-1)]
        gradients = torch.autograd.grad(log_p.sum(), [params, *likelihood.parameters()])
        assert all(g.isfinite().all() for g in gradients)
    distribution = likelihood(params.detach())
    assert distribution.mean.isfinite().all() and distribution.sample().isfinite().all()


@each
def test_start_at_the_mean(make):
    likelihood = make(SHAPES)
    x = data_for(likelihood, 50)
    if not isinstance(likelihood, Normal | Laplace | StudentT):
        x[:, 0, 0] = 0  # an element that is always the same
    mean = x.mean(0)
    params = likelihood.initial_params(mean, x.std(0, correction=0))
    assert params.shape == likelihood.param_shape and params.dtype == torch.float32
    expected = mean
    if isinstance(likelihood, Poisson | NegativeBinomial):
        expected = mean.clamp(min=1e-3)
    elif hasattr(likelihood, "levels"):
        margin = 1e-4 / (likelihood.levels - 1)
        expected = mean.clamp(margin, 1 - margin)
    elif likelihood.discrete or isinstance(likelihood, ContinuousBernoulli) or getattr(likelihood, "bounded", False):
        expected = mean.clamp(1e-3, 1 - 1e-3)
    torch.testing.assert_close(likelihood(params).mean, expected, rtol=1e-4, atol=1e-5)
    assert likelihood(params).log_prob(x).isfinite().all()


@each
def test_check_of_the_data(make):
    likelihood = make(SHAPES)
    x = data_for(likelihood, 4)
    likelihood.check(x)
    likelihood.check(torch.full_like(x, likelihood.placeholder))
    for bad in (math.nan, math.inf):
        with pytest.raises(DataError, match=rf"1 of 24 values .* {bad} at \(1, 0, 2\): "):
            likelihood.check(x.index_put(tuple(map(torch.tensor, (1, 0, 2))), torch.tensor(bad)))
    if isinstance(likelihood, ContinuousBernoulli) or likelihood.discrete:
        for bad in (-1 / 3, 1.5):
            with pytest.raises(DataError, match="outside the support"):
                likelihood.check(x.index_put(tuple(map(torch.tensor, (1, 0, 2))), torch.tensor(bad)))


@each
def test_mask_leaves_out_exactly_the_unobserved(make):
    vae = small(make)
    x, z = data_for(vae.likelihood, 4), torch.randn(4, 2)
    mask = torch.rand(4, 2, 3) < 0.5
    got = weigh(vae.model, {"z": z.unsqueeze(0)}, x.masked_fill(~mask, math.nan), mask)[0]
    torch.testing.assert_close(got.squeeze(0), (vae.likelihood(vae.decoder(z)).log_prob(x) * mask).sum((-1, -2)))


@pytest.mark.slow  # the checks of `tests/testing/test_parts.py` do it of the defaults
@each
def test_can_be_recorded(make):
    """Loss and gradients as one graph, which gives the same on other data and parameters."""
    vae = small(make)
    inputs, others = ((torch.randn(3, 4, 2), data_for(vae.likelihood, 4)) for _ in range(2))

    def loss(z, x):
        value = -vae.decode(z).log_prob(x).sum()
        return value, value

    with pyro.validation_enabled(False):
        graph, used = record_gradients(vae, loss, inputs, compile=False)
    with torch.no_grad():
        for p in vae.parameters():
            p.add_(0.1 * torch.randn_like(p))
    value, *gradients = graph(*others)
    expected = loss(*others)[0]
    torch.testing.assert_close(value, expected.detach())
    assert set(used) >= set(vae.likelihood.parameters())
    for got, p in zip(gradients, used, strict=True):
        torch.testing.assert_close(got, torch.autograd.grad(expected, p, retain_graph=True)[0], rtol=1e-4, atol=1e-4)


@each
def test_trains_saves_and_estimates(make, tmp_path):
    with seeded(0, "weights"):
        vae = small(make)
        train = vae.likelihood(0.3 * params_for(vae.likelihood, 60)).sample()
    data = Dataset("x", train, train[:10])
    history = fit(vae, data, epochs=3, batch_size=30, start_at_mean=True, progress=False)
    assert math.isfinite(history.rows[-1]["valid_elbo"])
    assert log_marginal(vae.model, vae.guide, train[:3], num_particles=20).log_p.isfinite().all()
    description = {name: describe(value) for name, value in vae.arguments.items()}
    assert description["likelihood"]["class_path"] == f"pyro_vae.likelihoods.{type(vae.likelihood).__name__}"
    twin = build_vae(description)
    twin.load_state_dict(vae.state_dict())
    torch.testing.assert_close(twin.decode(torch.ones(1, 2)).mean, vae.decode(torch.ones(1, 2)).mean)
    assert vae.double().decode(torch.ones(1, 2, dtype=torch.float64)).mean.dtype == torch.float64


def small(make):
    return VAE((2, 3), 2, likelihood=make, encoder=partial(MLP, hidden=(5,)), decoder=partial(MLP, hidden=(5,)))


@each
def test_draws_follow_the_density(make):
    """20,000 draws of an element against its distribution function; p-values above 1e-6 in 28 cases.

    A right program fails for at most 3 in 100,000 choices of the seed. Levels and counts that few draws reach are
    taken together.
    """
    likelihood = make(ONE)
    with seeded(1, "draws"):
        params = params_for(likelihood)
        distribution = likelihood(params)
        x = distribution.sample((20_000,)).squeeze(-1).double()
    if likelihood.discrete:
        values = values_of(likelihood)
        p = distribution.log_prob(values.unsqueeze(-1)).exp().squeeze(-1).detach().double().numpy()
        index = (x * (likelihood.levels - 1)).round().long() if hasattr(likelihood, "levels") else x.long()
        counts = np.bincount(index.numpy(), minlength=len(p))
        assert len(counts) == len(p)
        assert chi_square(counts, p / p.sum()) > 1e-6
    else:
        assert stats.kstest(x.numpy(), cdf_of(likelihood, distribution)).pvalue > 1e-6


def chi_square(counts, p):
    """The p-value of counts under probabilities, cells of less than ten expected draws joined with their neighbours."""
    expected, cells, total = p * counts.sum(), [], [0.0, 0.0]
    for count, e in zip(counts, expected, strict=True):
        total = [total[0] + count, total[1] + e]
        if total[1] >= 10:
            cells.append(total)
            total = [0.0, 0.0]
    cells[-1] = [cells[-1][0] + total[0], cells[-1][1] + total[1]]
    observed, wanted = np.array(cells).T
    return 1.0 if len(cells) == 1 else stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue


def cdf_of(likelihood, distribution):
    if isinstance(likelihood, ContinuousBernoulli):
        logit = distribution.logits.item()
        return lambda x: np.expm1(logit * x) / np.expm1(logit)
    loc, scale = distribution.mean.item(), distribution.scale.detach().expand(1).item()
    if isinstance(likelihood, StudentT):
        return stats.t(distribution.df.detach().expand(1).item(), loc, scale).cdf
    return (stats.norm if isinstance(likelihood, Normal) else stats.laplace)(loc, scale).cdf


# --- continuous Bernoulli ---


LOGITS = [0.0, 1e-20, 1e-8, 1e-4, 0.01, 0.3, 0.9, 0.999999, 1.0, 1.001, 1.5, 3.0, 12.0, 40.0, 89.0, 200.0, 3000.0]
LOGITS += [-logit for logit in LOGITS[1:]]


# --- Bernoulli and normal ---


def test_bernoulli_density_and_refusal():
    likelihood, logits = Bernoulli(SHAPES), 4 * torch.randn(9, 1, 2, 3)
    x = torch.rand(9, 2, 3).round()
    expected = torch.distributions.Bernoulli(logits=logits.squeeze(1)).log_prob(x)
    torch.testing.assert_close(likelihood(logits).log_prob(x), expected)
    extreme = torch.tensor([[[-200.0, 200.0, 0.0]] * 2]).unsqueeze(1)
    assert likelihood(extreme).log_prob(torch.ones(1, 2, 3)).isfinite().all()
    with pytest.raises(DataError, match="binarise the data"):
        likelihood.check(torch.full((1, 2, 3), 0.37))


def test_grey_bernoulli_is_the_cross_entropy_and_says_so():
    """The mean of the log-probability of x's binarisations; not counted as a probability."""
    grey, logits = Bernoulli(SHAPES, grey=True), 4 * torch.randn(9, 1, 2, 3)
    x = torch.rand(9, 2, 3)
    ones, zeros = (Bernoulli(SHAPES)(logits).log_prob(torch.full_like(x, v)) for v in (1.0, 0.0))
    torch.testing.assert_close(grey(logits).log_prob(x), x * ones + (1 - x) * zeros)
    grey.check(x)
    with pytest.raises(DataError, match="from 0 to 1"):
        grey.check(x + 0.5)
    assert grey.caveat and not grey.discrete and Bernoulli(SHAPES).discrete and Bernoulli(SHAPES).caveat is None


def test_normal_density():
    params = torch.randn(4, 2, 2, 3)
    x = torch.randn(4, 2, 3)
    got = Normal(SHAPES, scale="per_element", min_scale=0.0)(params).log_prob(x)
    torch.testing.assert_close(got, torch.distributions.Normal(params[:, 0], params[:, 1].exp()).log_prob(x))
    for bad in (0, -1.0, "learnt"):
        with pytest.raises(UsageError, match="positive number"):
            Normal(SHAPES, scale=bad)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("options", [{"scale": 0.5}, {"scale": 0.1, "bounded": True, "min_scale": 0.0}], ids=str)
def test_normal_of_a_fixed_scale_keeps_the_contract(options):
    assert check_part(partial(Normal, **options))


@pytest.mark.parametrize(
    "make",
    [Bernoulli, *(partial(Normal, bounded=b, scale=s) for b in (False, True) for s in (0.5, "learned", "per_element"))],
    ids=str,
)
def test_starts_exactly_at_means_inside_the_unit_interval(make):
    likelihood, x = make(SHAPES), torch.rand(50, 2, 3).round()
    params = likelihood.initial_params(x.mean(0), x.std(0))
    torch.testing.assert_close(likelihood(params).mean, x.mean(0).clamp(1e-3, 1 - 1e-3))


def exact_moments(logit):
    """Log normaliser, mean and variance with 50 digits."""
    with mpmath.workdps(50):
        if logit == 0:
            return 0.0, 0.5, 1 / 12
        l = mpmath.mpf(logit)  # noqa: E741
        if abs(l) < 1e-3:
            return tuple(
                map(
                    float, (l / 2 + l**2 / 24 - l**4 / 2880, 0.5 + l / 12 - l**3 / 720, mpmath.mpf(1) / 12 - l**2 / 240)
                )
            )
        mean = 1 / (1 - mpmath.exp(-l)) - 1 / l
        variance = 1 / l**2 - 1 / (4 * mpmath.sinh(l / 2) ** 2)
        return tuple(map(float, (mpmath.log((mpmath.exp(l) - 1) / l), mean, variance)))


@pytest.mark.parametrize(("dtype", "digits"), [(torch.float32, 3e-6), (torch.float64, 1e-10)])
def test_continuous_bernoulli_to_50_digits(dtype, digits):
    """Density, gradient (x - mean), mean and variance, around 1/2 and at the ends."""
    logits = torch.tensor(LOGITS, dtype=dtype)
    log_norm, mean, variance = (
        torch.tensor(c, dtype=torch.float64) for c in zip(*map(exact_moments, logits.tolist()), strict=True)
    )
    likelihood = ContinuousBernoulli(Shapes((len(LOGITS),), 1))
    for x in (0.0, 0.25, 0.5, 1.0):
        leaf = logits.clone().unsqueeze(0).requires_grad_()
        distribution = likelihood(leaf)
        log_p = distribution.log_prob(torch.full_like(logits, x))
        exact = x * logits.double() - log_norm
        assert ((log_p.detach() - exact).abs() <= digits * exact.abs().clamp(min=1)).all()
        (gradient,) = torch.autograd.grad(log_p.sum(), leaf)
        assert ((gradient[0] - (x - mean)).abs() <= digits).all()
        assert ((distribution.mean - mean).abs() <= digits).all()
        assert ((distribution.variance - variance).abs() <= digits * 0.1).all()


def test_continuous_bernoulli_at_a_half_keeps_relative_digits():
    """E[x] - 1/2 is l / 12, which 1 / (1 - exp(-l)) - 1 / l loses in single precision altogether."""
    logits = torch.tensor([1e-6, 1e-4, 1e-2], requires_grad=True)
    log_p = at(ContinuousBernoulli(Shapes((3,), 1)), *logits.tolist())
    leaf = logits.detach().unsqueeze(0).requires_grad_()
    value = ContinuousBernoulli(Shapes((3,), 1))(leaf).log_prob(torch.full((3,), 0.5))
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    torch.testing.assert_close(gradient[0], -logits.detach() / 12, rtol=1e-4, atol=0)
    torch.testing.assert_close(value.detach(), -logits.detach().square() / 24, rtol=1e-4, atol=0)
    assert log_p.mean.tolist() == pytest.approx([0.5, 0.5 + 1e-4 / 12, 0.5 + 1e-2 / 12], abs=1e-7)


def test_continuous_bernoulli_against_torch():
    """Torch's cuts out probabilities from 0.499 to 0.501: elsewhere the two agree."""
    logits, x = torch.linspace(-9, 9, 182, dtype=torch.float64), torch.rand(182, dtype=torch.float64)
    expected = torch.distributions.ContinuousBernoulli(logits=logits)
    got = ContinuousBernoulli(Shapes((182,), 1))(logits.unsqueeze(0))
    torch.testing.assert_close(got.log_prob(x), expected.log_prob(x), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(got.variance, expected.variance, rtol=1e-7, atol=1e-8)


# --- real elements ---


@pytest.mark.parametrize("scale", [0.3, "per_element"])
def test_laplace_against_scipy(scale):
    likelihood = Laplace(SHAPES, scale=scale, min_scale=0.0)
    params, x = params_for(likelihood, 4), torch.randn(4, 2, 3)
    b = params[:, 1].exp() if scale == "per_element" else torch.tensor(scale)
    expected = stats.laplace(params[:, 0].double(), b.double()).logpdf(x.double())
    torch.testing.assert_close(likelihood(params).log_prob(x).double(), torch.as_tensor(expected), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("df", [1.2, 2.0, 5.0, 30.0, 1e3, 1e5, 1e7, 1e20])
def test_student_t_against_scipy_in_single_precision(df):
    """Also where torch's normaliser, a difference of gammas in single precision, has no right digit left."""
    x = torch.cat([torch.linspace(-8, 8, 50), torch.tensor([1e3, -1e6])])
    got = at(StudentT(Shapes((1,), 1), df=df, scale=0.5), 0.7).log_prob(x.unsqueeze(-1)).squeeze(-1).double()
    reference = stats.t(df, 0.7, 0.5) if df < 1e9 else stats.norm(0.7, 0.5)
    expected = torch.as_tensor(reference.logpdf(x.double().numpy()))
    assert ((got - expected).abs() <= 3e-6 * expected.abs().clamp(min=1)).all()


def test_student_t_per_element_and_moments():
    likelihood = StudentT(SHAPES, df="per_element", scale="per_element", min_scale=0.0)
    params, x = params_for(likelihood, 4), torch.randn(4, 2, 3)
    loc, scale, df = params[:, 0], params[:, 1].exp(), 1 + params[:, 2].exp()
    reference = stats.t(df.double(), loc.double(), scale.double())
    torch.testing.assert_close(
        likelihood(params).log_prob(x).double(), torch.as_tensor(reference.logpdf(x.double())), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(
        likelihood(params).variance.double(), torch.as_tensor(reference.var()), rtol=1e-4, atol=1e-4
    )
    assert likelihood(likelihood.initial_params(torch.zeros(2, 3), torch.ones(2, 3))).variance.mean().item() == (
        pytest.approx(1, abs=1e-5)
    )


@pytest.mark.parametrize("cls", [Normal, Laplace, StudentT])
def test_options_of_a_scale(cls):
    assert cls(SHAPES, scale="per_element").num_params == 2 and cls(SHAPES).num_params == 1
    assert [p.shape for p in cls(SHAPES, scale="learned").parameters()] == [()]
    each = cls(SHAPES, scale="learned_each")
    assert [p.shape for p in each.parameters()] == [(2, 3)] and each.num_params == 1
    with torch.no_grad():
        each.log_scale.copy_(torch.arange(6.0).reshape(2, 3))
    zeros = torch.zeros(1, 1, 2, 3)
    ratio = each(zeros).variance / cls(SHAPES, scale=1.0)(zeros).variance
    torch.testing.assert_close(ratio.expand(1, 2, 3)[0], (torch.arange(6.0).reshape(2, 3).exp() + 1e-3).square())
    bounded = cls(SHAPES, bounded=True)
    assert ((bounded(9 * params_for(bounded, 50)).mean - 0.5).abs() <= 0.5).all()
    std = cls(SHAPES, scale="per_element")
    std = std(std.initial_params(torch.zeros(2, 3), torch.full((2, 3), 0.7))).variance.sqrt()
    torch.testing.assert_close(std, torch.full((2, 3), 0.7), rtol=5e-3, atol=0)
    for bad in (0, -1.0, "learnt"):
        with pytest.raises(UsageError, match=f"{cls.__name__} needs scale to be .* 'learned', 'learned_each' or"):
            cls(SHAPES, scale=bad)
    with pytest.raises(UsageError, match="min_scale >= 0, got -1"):
        cls(SHAPES, min_scale=-1)


def test_degrees_of_freedom_have_a_mean():
    for bad in (1, 0.5, "many"):
        with pytest.raises(UsageError, match=r"StudentT needs df to be a number above 1, 'learned' or 'per_element'"):
            StudentT(SHAPES, df=bad)
    assert 1 + StudentT(SHAPES, df="learned").log_excess.exp().item() == pytest.approx(5)


# --- grey levels ---


def exact_logistic(k, levels, loc, scale):
    """The probability of a level, by the difference of distribution functions with 50 digits, in the lower tail."""
    if k / (levels - 1) > loc:
        k, loc = levels - 1 - k, 1 - loc
    with mpmath.workdps(50):
        step, loc, scale = mpmath.mpf(1) / (levels - 1), mpmath.mpf(loc), mpmath.mpf(scale)
        below, above = ((k + half) * step for half in (mpmath.mpf("-0.5"), mpmath.mpf("0.5")))
        low = 0 if k == 0 else 1 / (1 + mpmath.exp((loc - below) / scale))
        return float(mpmath.log((1 if k == levels - 1 else 1 / (1 + mpmath.exp((loc - above) / scale))) - low))


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("scale", [1e-3, 0.02, 1.0, 1e4])
@pytest.mark.parametrize("loc", [-3.0, 0.1, 0.5, 0.97, 40.0])
def test_discretized_logistic_to_50_digits(levels, scale, loc):
    """In single precision, deep in the tails too, where the difference of two sigmoids is 0 or 1 - 1."""
    likelihood = DiscretizedLogistic(ONE, levels=levels, scale=scale)
    for k in sorted({0, 1, levels // 3, levels - 2, levels - 1}):
        got = at(likelihood, loc).log_prob(torch.tensor([k / (levels - 1)])).item()
        loc32, scale32 = (torch.tensor(value).item() for value in (loc, scale))
        exact = exact_logistic(k, levels, loc32, scale32)
        # The bin is 1 / scale wide in the units of the sigmoid, and loc has 24 bits: that much is lost in the tails.
        assert got == pytest.approx(exact, rel=1e-5, abs=2e-6 * max(1, abs(loc) / scale))


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize(
    "make", [DiscretizedLogistic, partial(DiscretizedLogistic, components=4), Categorical, BetaBinomial]
)
def test_levels_sum_to_one_in_single_precision(make, levels):
    likelihood = make(SHAPES, levels=levels)
    for size in (0.1, 1.0, 5.0):
        distribution = likelihood(size * params_for(likelihood, 20))
        x = values_of(likelihood).reshape(-1, 1, 1, 1)
        torch.testing.assert_close(distribution.log_prob(x).exp().sum(0), torch.ones(20, 2, 3), rtol=2e-5, atol=0)


def test_mixture_of_logistics_is_a_mixture():
    mixture, single = DiscretizedLogistic(ONE, 17, components=3), DiscretizedLogistic(ONE, 17)
    params, x = params_for(mixture, 5), torch.arange(17.0).reshape(-1, 1, 1) / 16
    locs, log_scales, logits = params.split(3, 1)
    parts = [single(torch.stack([locs[:, i], log_scales[:, i]], 1)).log_prob(x) for i in range(3)]
    expected = torch.logsumexp(torch.stack(parts) + logits.log_softmax(1).movedim(1, 0).unsqueeze(1), 0)
    torch.testing.assert_close(mixture(params).log_prob(x), expected)


def test_categorical_is_a_softmax():
    likelihood = Categorical(SHAPES, levels=5)
    params, index = params_for(likelihood, 3, 4), torch.randint(5, (4, 2, 3))
    expected = params.log_softmax(2).gather(2, index.expand(3, 4, 2, 3).unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(likelihood(params).log_prob(index / 4), expected)


def test_categorical_starts_at_the_frequencies_of_a_logistic():
    likelihood = Categorical(SHAPES)
    params = likelihood.initial_params(torch.full((2, 3), 0.3), torch.full((2, 3), 0.1))
    p, x = likelihood(params).log_prob(values_of(likelihood).reshape(-1, 1, 1)).exp()[:, 0, 0], values_of(likelihood)
    assert ((p * x.square()).sum() - (p * x).sum().square()).sqrt().item() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("log_c", [-20.0, -2.0, 1.0, 6.0, 11.0, 20.0])
@pytest.mark.parametrize("logit", [-9.0, 0.4, 3.0])
def test_beta_binomial_against_scipy(log_c, logit):
    n, k = 255, np.array([0, 1, 40, 200, 255])
    got = at(BetaBinomial(ONE), logit, log_c).log_prob(torch.tensor(k / n).float().unsqueeze(-1)).squeeze(-1).double()
    m = 1 / (1 + math.exp(-logit))
    c = math.exp(log_c)
    with np.errstate(divide="ignore"):
        expected = stats.betabinom(n, c * m, c * (1 - m)).logpmf(k) if log_c < 12 else stats.binom(n, m).logpmf(k)
    assert got.numpy() == pytest.approx(expected, rel=1e-5 if log_c < 12 else 2e-3, abs=1e-5)


def test_grey_levels_are_those_of_the_data():
    """Bytes and packaged digits pass; other divisors, integers and dequantised data are refused with the remedy."""
    grey = torch.arange(256, dtype=torch.uint8).reshape(4, 8, 8)
    x = Dataset("x", grey, divisor=255).split("train")
    likelihood = Categorical(Shapes((8, 8), 1))
    likelihood.check(x)
    likelihood.check(x.double())
    for wrong in (Dataset("x", grey, divisor=256), Dataset("x", grey, divisor=255, dequantize=True)):
        with pytest.raises(DataError, match=r"the 256 multiples of 1/255 in \[0, 1\].*divide_by=255.*no dequantize"):
            likelihood.check(wrong.split("train"))
    with pytest.raises(DataError, match="outside"):
        DiscretizedLogistic(Shapes((8, 8), 1), levels=17).check(x)
    widest = DiscretizedLogistic(Shapes((2**16,), 1), levels=2**16)
    widest.check((torch.arange(2.0**16) / (2**16 - 1)).unsqueeze(0))


@pytest.mark.parametrize("cls", [DiscretizedLogistic, Categorical, BetaBinomial])
def test_levels_out_of_range(cls):
    for bad in (1, 0, 2**16 + 1, 2.5):
        with pytest.raises(UsageError, match=rf"{cls.__name__} needs from 2 to 65536 levels, got {bad}"):
            cls(SHAPES, levels=bad)
    with pytest.raises(UsageError, match="components >= 1, got 0"):
        DiscretizedLogistic(SHAPES, components=0)


# --- counts ---


COUNTS = np.array([0, 1, 2, 7, 100, 10_000])


@pytest.mark.parametrize("mean", [1e-3, 0.5, 30.0, 1e4])
def test_poisson_against_scipy(mean):
    """In single precision: x log(rate), rate and log x! are near 1e5 each and cancel to a few nats."""
    log_mean = torch.tensor(math.log(mean))
    got = at(Poisson(ONE), log_mean).log_prob(torch.tensor(COUNTS).float().unsqueeze(-1)).squeeze(-1)
    expected = stats.poisson(math.exp(log_mean.item())).logpmf(COUNTS)
    assert got.numpy() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("theta", [1e-3, 0.3, 5.0, 1e4])
@pytest.mark.parametrize("mean", [1e-3, 0.5, 30.0, 1e4])
def test_negative_binomial_against_scipy(mean, theta):
    params = torch.tensor([math.log(mean), math.log(theta)])
    distribution = at(NegativeBinomial(ONE, dispersion="per_element"), *params)
    mu, n = params.double().exp().tolist()
    reference = stats.nbinom(n, n / (n + mu))
    got = distribution.log_prob(torch.tensor(COUNTS).float().unsqueeze(-1)).squeeze(-1)
    assert got.numpy() == pytest.approx(reference.logpmf(COUNTS), rel=1e-5, abs=1e-5)
    assert distribution.mean.item() == pytest.approx(reference.mean(), rel=1e-5)
    assert distribution.variance.item() == pytest.approx(reference.var(), rel=1e-5)


def test_negative_binomial_becomes_poisson():
    """A dispersion that is learned may grow without end: the difference of gammas must not lose the counts."""
    x = torch.tensor(COUNTS[:5]).float().unsqueeze(-1)
    poisson = at(Poisson(ONE), 2.0).log_prob(x)
    for log_theta in (17.0, 25.0, 200.0):
        negative = at(NegativeBinomial(ONE, dispersion="per_element"), 2.0, log_theta).log_prob(x)
        torch.testing.assert_close(negative, poisson, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", [Poisson, NegativeBinomial])
def test_zero_inflation(make):
    inflated, plain = make(SHAPES, zero_inflated=True), make(SHAPES)
    params = params_for(inflated, 4)
    x = data_for(plain, 4)
    counts, gate = plain(params[:, :1]).log_prob(x).exp(), params[:, -1].sigmoid()
    torch.testing.assert_close(inflated(params).log_prob(x).exp(), gate * (x == 0) + (1 - gate) * counts)
    torch.testing.assert_close(inflated(params).mean, (1 - gate) * plain(params[:, :1]).mean)


def test_dispersions():
    shared = NegativeBinomial(SHAPES)
    assert shared.log_dispersion.shape == (2, 3) and shared.num_params == 1
    assert NegativeBinomial(SHAPES, dispersion="per_element", zero_inflated=True).num_params == 3
    per_element = NegativeBinomial(SHAPES, dispersion="per_element")
    mean, std = torch.full((2, 3), 4.0), torch.full((2, 3), 3.0)
    start = per_element(per_element.initial_params(mean, std))
    torch.testing.assert_close(start.variance, std.square())
    for bad in (0, -1.0, "gene"):
        with pytest.raises(UsageError, match="NegativeBinomial needs dispersion to be a positive number, 'learned' or"):
            NegativeBinomial(SHAPES, dispersion=bad)


def test_large_rates_grow_by_their_tangent():
    """Beyond e^30 the rate goes on as a straight line: where it can't be right its gradient leads back."""
    leaf = torch.full((1, 1), 500.0, requires_grad=True)
    log_p = Poisson(ONE)(leaf).log_prob(torch.tensor([3.0]))
    log_p.sum().backward()
    assert log_p.item() == pytest.approx(-math.exp(30) * 471, rel=1e-4) and leaf.grad.item() < -1e12


# --- bits ---


def evidence_of(log_p):
    log_p = torch.tensor(log_p, dtype=torch.float64)
    errors = torch.full_like(log_p, 0.01)
    return Evidence(log_p, errors, errors, errors, log_p, num_particles=7, seed=0)


def grey(dequantize=False):
    return Dataset("x", torch.randint(256, (40, 2, 3), dtype=torch.uint8), divisor=255, dequantize=dequantize)


def test_bits_of_a_probability():
    evidence = evidence_of([-6 * math.log(2), -12 * math.log(2), -18 * math.log(2)])
    bits = bits_per_dim(evidence, Categorical(SHAPES), grey())
    assert bits.mean == pytest.approx(2) and bits.dequantized is None
    assert bits.standard_error_data == pytest.approx(1 / 3**0.5)
    assert bits.standard_error_monte_carlo == pytest.approx(0.01 / 3**0.5 / 6 / math.log(2))
    for likelihood in (Bernoulli(SHAPES), Poisson(SHAPES), BetaBinomial(SHAPES)):
        assert bits_per_dim(evidence, likelihood, Dataset("x", torch.ones(3, 2, 3))) == bits


def test_a_density_has_bits_only_on_dequantised_data():
    evidence = evidence_of([0.0, 6 * math.log(2), -6 * math.log(2)])
    for likelihood in (Normal(SHAPES), ContinuousBernoulli(SHAPES), StudentT(SHAPES)):
        assert bits_per_dim(evidence, likelihood, grey()) is None
        assert bits_per_dim(evidence, likelihood, Dataset("x", torch.rand(3, 2, 3))) is None
        bits = bits_per_dim(evidence, likelihood, grey(dequantize=True))
        assert bits.mean == pytest.approx(8) and bits.dequantized == 256


def test_bits_of_the_uniform_are_those_of_the_levels():
    """A uniform probability on 256 levels and a uniform density on their cells both take 8 bits."""
    for likelihood, data in ((Categorical, grey()), (ContinuousBernoulli, grey(dequantize=True))):
        vae = VAE((2, 3), 1, likelihood=likelihood, decoder=partial(MLP, hidden=()))
        torch.nn.init.zeros_(vae.decoder.output.weight)
        evidence = log_marginal(vae.model, vae.guide, data.split("train"), num_particles=2000)
        # The guide is not the posterior here, so its weights scatter: five Monte Carlo errors, false alarm 6e-7.
        bits = bits_per_dim(evidence, vae.likelihood, data)
        assert bits.mean == pytest.approx(8, abs=5 * bits.standard_error_monte_carlo + 1e-3)


def test_bits_on_dequantised_data_bound_those_of_the_levels():
    """E_u of the density's bits is at least the bits of its integrals over the cells (Jensen), for one element."""
    distribution = at(ContinuousBernoulli(ONE), 5.0)
    edges = torch.arange(257, dtype=torch.float64) / 256
    cells = (torch.expm1(5 * edges) / math.expm1(5)).diff()
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    x = (torch.arange(256).unsqueeze(-1) + u) / 256
    bound = -distribution.log_prob(x.float()).double().mean(-1) / math.log(2) + 8
    assert (bound >= -cells.log2() - 1e-6).all() and (bound + cells.log2()).max() < 1e-4


def test_traced_without_constants_of_the_data():
    """The graph of a density is a function of data and parameters, nothing of the first call is baked in."""
    for make in CASES:
        likelihood = make(SHAPES)
        for p in likelihood.parameters():
            p.requires_grad_(False)
        params, x = params_for(likelihood, 4), data_for(likelihood, 4)
        with pyro.validation_enabled(False):
            graph = make_fx(_Density(likelihood))(params, x)
            params, x = params_for(likelihood, 4), data_for(likelihood, 4)
            torch.testing.assert_close(graph(params, x), likelihood(params).log_prob(x))
