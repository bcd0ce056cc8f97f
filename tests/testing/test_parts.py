"""Every concrete class of each axis, with its options, is put to every check of its axis the moment it exists.

The checks are `pyro_vae.testing`'s; nothing here, and nothing there, names a class. A check that does not apply to a
part is skipped, with the reason.
"""

from functools import partial
from itertools import cycle, product
from typing import Any

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.channels import Censor, Channel, Quantise, Threshold
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import BetaBinomial, Likelihood
from pyro_vae.networks import MLP, Network
from pyro_vae.objectives import MonteCarloEM, Objective
from pyro_vae.priors import Prior
from pyro_vae.schedules import Schedule
from pyro_vae.testing import NotApplicable, axis_of, channel_densities, run_check
from pyro_vae.testing.code_distributions import require_spread
from pyro_vae.testing.inside_a_vae import data_for, shapes_for

RECORDING = {"can_be_recorded", "step_can_be_recorded"}
OF_THE_CLASS = {"takes_its_options"}
"""Checks of a class with every option in its signature, whatever the options of the part: one for all its settings."""
DENSITIES = {check.__name__ for check in channel_densities.CHECKS}


def cases(base):
    """One case for each setting and check of an axis, named by both.

    The quick suite puts a class by its defaults to every check, and each other setting to every third one, in turns.
    """
    axis = axis_of(base)
    for (place, part), (number, check) in product(enumerate(axis.parts()), enumerate(axis.checks)):
        if part.options and check.__name__ in OF_THE_CLASS:
            continue
        other_turn = part.options and (place + number) % 3
        marks = [pytest.mark.slow] if other_turn or for_the_slow_suite(part, check) else []
        yield pytest.param(check, part, id=f"{part}-{check.__name__}", marks=marks)


def for_the_slow_suite(part, check):
    """Recording and the densities of channels, but for a class's defaults; most activations; many Markov chains.

    That each activation is taken is part of the checks of the defaults; the tests of each axis record its options, and
    compare a channel's densities with references.
    """
    if part.cls is MonteCarloEM and check.__name__ == "sums_over_the_rows":
        return True
    return "activation" in part.options or (part.options and check.__name__ in RECORDING | DENSITIES)


SCIPY = "its distribution of x between two limits is scipy's, which computes on the CPU"
NEED_VALUES = {
    BetaBinomial: "torch draws binomial counts on accelerators and on the CPU, not without values",
    **dict.fromkeys((Censor, Quantise, Threshold), SCIPY),
}
"""The only parts that can't be tried without values to the end, with the reason."""


def run(check, part):
    left_out = ""
    try:
        run_check(check, part)
    except NotApplicable as reason:
        left_out = str(reason)
    if check.__name__.endswith("stays_on_its_device"):
        assert ("without values" in left_out) == (part.cls in NEED_VALUES), left_out or NEED_VALUES[part.cls]
    if left_out:
        pytest.skip(left_out)


@pytest.mark.parametrize(("check", "part"), list(cases(Prior)))
def test_prior(check, part):
    run(check, part)


@pytest.mark.parametrize(("check", "part"), list(cases(Likelihood)))
def test_likelihood(check, part):
    run(check, part)


@pytest.mark.parametrize(("check", "part"), list(cases(Guide)))
def test_guide(check, part):
    run(check, part)


@pytest.mark.parametrize(("check", "part"), list(cases(Network)))
def test_network(check, part):
    run(check, part)


@pytest.mark.parametrize(("check", "part"), list(cases(Objective)))
def test_objective(check, part):
    run(check, part)


@pytest.mark.parametrize(("check", "part"), list(cases(Schedule)))
def test_schedule(check, part):
    run(check, part)


@pytest.mark.parametrize(("check", "part"), list(cases(Channel)))
def test_channel(check, part):
    run(check, part)


def triples():
    """Every prior with every guide, the only two that meet (a prior may be made of q(z|x)); each with a likelihood."""
    priors, guides, likelihoods = (axis_of(base).parts() for base in (Prior, Guide, Likelihood))
    for (prior, guide), likelihood in zip(product(priors, guides), cycle(likelihoods), strict=False):
        yield pytest.param(prior, guide, likelihood, id=f"{prior}-{guide}-{likelihood}")


@pytest.mark.parametrize(("prior", "guide", "likelihood"), list(triples()))
def test_together(prior, guide, likelihood):
    """A VAE of the three weighs its draws by finite numbers; a combination may be refused, by UsageError.

    Not where a prior is made of a guide that is a point mass: it gives no probability to anything. Counts of hundreds
    go into the encoder as they are, whose output they take far beyond the exponential's range.
    """
    network, context = partial(MLP, hidden=(5,)), shapes_for(prior).context
    given = {} if context is None else {"context": context}
    inputs = {} if context is None else {"c": torch.randn(4, *context)}
    try:
        vae: Any = VAE((2, 3), 2, prior.factory, likelihood.factory, guide.factory, network, network, **given)
        with evaluation_mode(vae):
            x = data_for(vae.likelihood)
            weights = importance(vae.model, vae.guide, x, num_particles=3, **inputs).log_weights
        if not weights.isfinite().all():
            require_spread(vae.posterior.distribution(torch.randn(4, *vae.posterior.param_shape)))
    except (UsageError, NotApplicable) as reason:
        pytest.skip(str(reason))
    assert weights.shape == (3, 4) and weights.isfinite().all()
    assert "latent_dim=2" in repr(vae)
