"""Bernoulli and Normal, against torch's densities; what every likelihood promises is in tests/contract."""

from functools import partial

import pytest
import torch

from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.shapes import Shapes
from pyro_vae.testing import check_part

SHAPES = Shapes((2, 3), 2)


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
    assert check_part(partial(Bernoulli, grey=True))


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
