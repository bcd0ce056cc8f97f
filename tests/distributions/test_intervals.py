"""Probabilities of intervals, far in the tails too, against mpmath; draws and means given an interval."""

import mpmath as mp
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import truncnorm

from pyro_vae.distributions.elements import Rescaled
from pyro_vae.distributions.intervals import inside, log_mass
from pyro_vae.likelihoods import StudentT
from pyro_vae.process.seeding import seeded
from pyro_vae.shapes import Shapes

INF = float("inf")
INTERVALS = [(-1, 1), (10, 10.5), (-38.5, -37), (20, 20.001), (-INF, -30), (50, INF), (-40, 35), (-INF, 3), (-INF, INF)]


def double(value):
    return torch.tensor([value], dtype=torch.float64)


def student(df, scale=1.0):
    return StudentT(Shapes((1,), 1), df=df, scale=scale)(torch.zeros(1, 1, dtype=torch.float64))


def of_t(df):
    def tail(x):
        return mp.betainc(mp.mpf(df) / 2, mp.mpf(1) / 2, 0, df / (df + x * x), regularized=True) / 2

    return tail


LAWS = {
    "normal": (dist.Normal(double(0.0), double(1.0)), lambda x: mp.ncdf(-x)),
    "laplace": (dist.Laplace(double(0.0), double(1.0)), lambda x: mp.e ** (-x) / 2),
    "t3": (student(3.0), of_t(3)),
    "t300": (student(300.0), of_t(300)),
}


def exact(upper_tail, low, high):
    """The logarithm of a probability, by differences on the side where they are small."""
    with mp.workdps(60):
        if low + high > 0:
            low, high = -high, -low
        tails = [mp.mpf(0) if end == -INF else upper_tail(mp.mpf(-end)) for end in (low, min(high, 0))]
        above = mp.mpf(0) if high <= 0 else (mp.mpf(1) / 2 - (0 if high == INF else upper_tail(mp.mpf(high))))
        return float(mp.log(tails[1] - tails[0] + above))


@pytest.mark.parametrize(("low", "high"), INTERVALS)
@pytest.mark.parametrize("law", LAWS)
def test_masses_have_their_digits_far_in_the_tails(law, low, high):
    elements, upper_tail = LAWS[law]
    got = log_mass(elements, double(low), double(high))
    assert got is not None and got.item() == pytest.approx(exact(upper_tail, low, high), rel=1e-12, abs=1e-12)


def test_a_tail_too_small_for_a_number():
    """Student's t of many degrees of freedom: an asymptotic formula, right to a thousandth."""
    got = log_mass(student(3000.0), double(50.0), double(INF))
    assert got is not None and got.item() == pytest.approx(exact(of_t(3000), 50, INF), abs=1e-3)


@pytest.mark.parametrize("make", ["normal", "laplace", "t"])
def test_gradients_are_those_of_finite_differences(make):
    def mass(loc, log_scale, log_df):
        scale = log_scale.exp()
        laws = {"normal": dist.Normal, "laplace": dist.Laplace}
        elements = laws[make](loc, scale) if make != "t" else _t(log_df.exp(), loc, scale)
        low = torch.tensor([-INF, -1.0, 4.0, 2.0], dtype=torch.float64)
        high = torch.tensor([-2.0, 0.5, 4.1, INF], dtype=torch.float64)
        return log_mass(elements, low, high)

    params = [torch.full((4,), v, dtype=torch.float64, requires_grad=True) for v in (0.3, -0.5, 1.2)]
    assert torch.autograd.gradcheck(mass, params, atol=1e-5)


def _t(df, loc, scale):
    return type(student(3.0))(df, loc, scale)


@pytest.mark.parametrize(("low", "high"), [(0.5, 1.0), (-INF, -6.0), (8.0, INF), (-2.0, 3.0), (-INF, INF)])
def test_moments_and_draws_of_a_truncated_normal(low, high):
    """Against SciPy; 20,000 draws within 5 standard errors: false alarms 6e-7 each."""
    elements = Rescaled(dist.Normal(torch.zeros(1), 2.0), torch.tensor(1.0), torch.tensor(0.5))
    given = inside(elements, torch.tensor([low]), torch.tensor([high]))
    reference = truncnorm(low - 1, high - 1, loc=1, scale=1)
    assert given is not None and given.mean.item() == pytest.approx(reference.mean(), rel=1e-5)
    with seeded(0, "truncated"):
        draws = given.sample(torch.Size((20_000,))).double()
    assert low <= draws.min() and draws.max() <= high
    assert abs(draws.mean() - reference.mean()) < 5 * reference.std() / 20_000**0.5
    assert draws.var().item() == pytest.approx(reference.var(), rel=0.15)
    at = torch.tensor([reference.ppf(0.3)]).float()
    assert given.log_prob(at).item() == pytest.approx(reference.logpdf(at.item()), abs=1e-4)


@pytest.mark.parametrize("law", ["laplace", "t3"])
@pytest.mark.parametrize(("low", "high"), [(-1.0, 2.0), (3.0, 5.0), (4.0, INF), (-INF, 0.7)])
def test_means_are_those_of_quadrature(law, low, high):
    elements = LAWS[law][0]
    given = inside(elements, double(low), double(high))
    end = 3e3 if law == "t3" else 60.0
    points = torch.linspace(max(low, -end), min(high, end), 1_000_001, dtype=torch.float64)[:, None]
    weights = elements.log_prob(points).exp()
    missed = 2e-3 if law == "t3" and INF in (high, -low) else 1e-5  # beyond the points
    assert given is not None
    assert given.mean.item() == pytest.approx(((weights * points).sum() / weights.sum()).item(), abs=missed * 5)


def test_others_are_not_known():
    assert log_mass(dist.Gumbel(torch.zeros(1), 1.0), torch.zeros(1), torch.ones(1)) is None
    assert inside(dist.Poisson(torch.ones(1)), torch.zeros(1), torch.ones(1)) is None
