"""Data that a likelihood gives no probability to: every public function that takes data refuses them alike."""

import math
from functools import cached_property, partial

import numpy as np
import pytest
import torch

from pyro_vae import VAE, ais, fit, impute, log_marginal, reconstruct
from pyro_vae.arguments.checked import checked, checked_but_values
from pyro_vae.channels import BitFlip, GaussianNoise, through
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import expected_coverage
from pyro_vae.errors import DataError
from pyro_vae.likelihoods import Bernoulli, BetaBinomial, Categorical, ContinuousBernoulli, Normal, Poisson
from tests.support.calls import CALLS, SMALL, Things, data
from tests.support.suites import slow_but

OUTSIDE = (0.5, -1.0, 2.0, float("nan"), float("inf"))
"""Of a Bernoulli."""
OTHERS = {
    **dict.fromkeys(("hmc", "pool", "threshold", "detection", "mig", "sap", "attribute_vector"), "numbers, no data"),
    **dict.fromkeys(("clustering_scores", "accuracy", "interpolate", "sample", "manifold"), "codes or labels"),
    **dict.fromkeys(("simulate", "simulation_based_calibration", "expected_coverage"), "the shape of x alone"),
    **dict.fromkeys(("conformal_scaling", "bdmc"), "the shape of x alone"),
    **dict.fromkeys(("importance", "importance, refined guide", "has_elbo"), "two programs as they are"),
    **dict.fromkeys(("load_data", "candidates", "check_part", "diagnose", "store_data", "compare"), "no data"),
    **dict.fromkeys(("encode_data", "encode_data, layers"), "means of p(x|z) are encoded too"),
    "hmc on a target": "two programs as they are",
}
"""What is called without data of a model, or does not look at their values."""


OF_DATA_SETS = ("fit", "fit_code_prior", "refit_prior", "refit_guide", "search", "with_clusters")


class Spoiled(Things):
    """The things with one value of x outside the support."""

    def __init__(self, value):
        self.value = value

    @cached_property
    def x(self):
        return self.spoiled(data())

    @cached_property
    def dataset(self):
        return Dataset("some", self.spoiled(data(40)), valid=data(5), inputs={})

    def spoiled(self, x):
        x[3, 1] = self.value
        return x


def names():
    return sorted(set(CALLS) - set(OTHERS))


def cases():
    """Each call with one of the values; in the slow suite with all."""
    every = [(name, value) for name in names() for value in OUTSIDE]
    quick = [(name, OUTSIDE[i % len(OUTSIDE)]) for i, name in enumerate(names())]
    return slow_but(quick, every)


@pytest.mark.parametrize("case", cases(), ids=lambda case: f"{case[0]} of {case[1]}")
def test_a_bernoulli_takes_zeros_and_ones(case):
    """By one message, with the value, its place and the remedy."""
    name, value = case
    if name.startswith(("restore", "infer_strength")):  # y through a channel, where nan is a gap
        value, said, place = 0.5, "y: expected 0", "got 0.5 at (3, 1)"
    elif name.startswith("impute") and math.isnan(value):  # a gap, unless the mask says that it was observed
        said, place = "where the mask has True", "nan at (3, 1)"
    elif not math.isfinite(value) and name.partition(" ")[0].strip(",") in OF_DATA_SETS:  # have finite values
        said, place = "1 NaN or infinite values", "the first at (3, 1)"
    else:
        said, place = "values are outside the support of Bernoulli", f"the first is {value:.6g} at (3, 1)"
    with pytest.raises(DataError, match=said) as refused:
        CALLS[name].run(Spoiled(value))
    assert place in str(refused.value)


def test_the_others_are_called_with_such_values():
    """Those that look at the shape of x alone take any values; the list above has nothing else to hide."""
    for name, why in OTHERS.items():
        if why == "the shape of x alone":
            CALLS[name].run(Spoiled(0.5))
    assert set(OTHERS) <= set(CALLS)


LIKELIHOODS = {
    "Bernoulli": (Bernoulli, 1.0, 0.5),
    "Bernoulli, grey": (partial(Bernoulli, grey=True), 0.5, 1.5),
    "ContinuousBernoulli": (ContinuousBernoulli, 0.5, -0.1),
    "Poisson": (Poisson, 3.0, -1.0),
    "Categorical": (partial(Categorical, levels=4), 1 / 3, 0.5),
    "BetaBinomial": (partial(BetaBinomial, levels=4), 1 / 3, 2.0),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_marginal_and_fit_say_the_same(name):
    likelihood, good, bad = LIKELIHOODS[name]
    vae = VAE((4,), 2, likelihood=likelihood, **SMALL)
    x = torch.full((6, 4), good)
    assert log_marginal(vae.model, vae.guide, x, num_particles=30).log_p.isfinite().all()
    x[2, 3] = bad
    said = []
    for run in (lambda: log_marginal(vae.model, vae.guide, x, num_particles=30), lambda: fit(vae, x, progress=False)):
        with pytest.raises(DataError, match="outside the support") as refused:
            run()
        said.append(str(refused.value).partition(": ")[2])
    assert said[0] == said[1] and f"{bad:.6g} at (2, 3)" in said[0]


class TestGaps:
    """What is not observed is not looked at, in whatever form the mask comes."""

    @pytest.fixture
    def given(self):
        vae, x, mask = VAE((4,), 2, **SMALL), data(), torch.ones(6, 4, dtype=torch.bool)
        x[3, 1], mask[3, 1] = float("nan"), False
        return vae, x, mask

    def test_by_name_in_order_and_of_one_datum(self, given):
        vae, x, mask = given
        by_name = log_marginal(vae.model, vae.guide, x, mask=mask, num_particles=30)
        in_order = log_marginal(vae.model, vae.guide, x, mask, num_particles=30)
        assert torch.equal(by_name.log_p, in_order.log_p) and by_name.log_p.isfinite().all()
        of_one = torch.tensor([[True, False, True, True]])
        assert log_marginal(vae.model, vae.guide, x, mask=of_one, num_particles=30).log_p.isfinite().all()
        assert reconstruct(vae, x, mask=mask).isfinite().all()
        impute(vae, x, mask, 3, num_particles=30)

    def test_an_observed_one_is_refused_beside_a_gap(self, given):
        vae, x, mask = given
        x[0, 0] = 0.25
        with pytest.raises(DataError, match=r"1 of 24 values .* 0\.25 at \(0, 0\)"):
            log_marginal(vae.model, vae.guide, x, mask=mask, num_particles=30)


def test_arrays_are_looked_at_too():
    vae = VAE((4,), 2, **SMALL)
    with pytest.raises(DataError, match="outside the support of Bernoulli"):
        log_marginal(vae.model, vae.guide, np.full((3, 4), 0.5), num_particles=30)


def test_what_was_observed_through_a_channel_is_not_x():
    """Pixels with noise are no zeros and ones, and the pair for them takes them."""
    pair = through(VAE((4,), 2, likelihood=Normal, **SMALL), GaussianNoise(0.3))
    assert log_marginal(pair.model, pair.guide, data() + 0.3, num_particles=30).log_p.isfinite().all()


def test_what_a_channel_cannot_give_is_refused():
    pair, y = through(VAE((4,), 2, **SMALL), BitFlip(0.1)), data()
    y[0, 0] = float("nan")  # a gap
    assert log_marginal(pair.model, pair.guide, y, num_particles=30).log_p.isfinite().all()
    y[3, 1] = 0.5
    for run in (log_marginal, ais):
        with pytest.raises(DataError, match=r"y: expected 0 or 1, or nan for a gap, got 0.5 at \(3, 1\)"):
            run(pair.model, pair.guide, y)
    with pytest.raises(DataError, match=r"y: expected shape \[N >= 1, 4\]"):
        log_marginal(pair.model, pair.guide, y[:, :2])


def test_programs_without_a_likelihood_take_what_they_take():
    """Only an autoencoder says which data it allows."""
    vae = VAE((4,), 2, **SMALL)

    @checked
    def looks(model, x):
        return x

    @checked_but_values
    def counts(model, x):
        return len(x)

    grey = torch.full((3, 4), 0.5)
    assert looks(lambda x: None, grey) is grey and counts(vae.model, grey) == 3
    with pytest.raises(DataError, match="outside"):
        looks(vae.model, grey)
    with pytest.raises(DataError, match=r"expected shape \[N >= 1, 4\]"):
        counts(vae.model, grey[:, :2])
    assert expected_coverage(vae.model, vae.guide, grey, num_draws=5) is not None
    with pytest.raises(DataError):
        ais(vae.model, vae.guide, grey)
