"""Every prior with every likelihood, guide and objective: a finite loss that teaches every parameter, or a reason.

The quick suite takes a covering of the classes, each by its defaults: every two of different axes meet in some
combination of four; and each setting in some combination. The slow one takes a covering of the settings, and all
combinations of the classes.
"""

import re
from dataclasses import dataclass
from itertools import combinations, product
from math import prod

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, Guide
from pyro_vae.likelihoods import Bernoulli, Likelihood
from pyro_vae.objectives import ELBO, NotTensorial, Objective
from pyro_vae.priors import Prior, StandardNormal
from pyro_vae.process.seeding import seeded
from pyro_vae.testing import axis_of
from pyro_vae.testing.inside_a_vae import data_for, shapes_for
from pyro_vae.testing.modules import perturbed, small_mlp
from pyro_vae.testing.parts import Part
from tests.support.covering import pairs_of, pairwise_covering

AXES = [axis_of(base) for base in (Objective, Prior, Likelihood, Guide)]
SETTINGS = [axis.parts() for axis in AXES]
"""Every class with every setting that the contract tries."""
DEFAULTS = [[axis.settings(cls)[0] for cls in axis.classes()] for axis in AXES]

_ROWS = 5
"""Data: an odd number, since the gradient of an absolute error is a sum of signs, which an even number can cancel."""


def refusal(objective, prior, likelihood, guide):
    """The reason why a combination is refused, or none; what is neither right nor refused is an AssertionError."""
    with seeded(0, *map(str, (objective, prior, likelihood, guide))):
        try:
            vae, x, inputs = made(prior, likelihood, guide)
            told = objective().at(0.5, 1.0).for_data(1000)
            loss = drawn(told, vae, x, inputs)
        except UsageError as reason:
            assert len(str(reason)) > 30, reason
            return str(reason)
        trained = drawn(lambda *args, **kwargs: tensor_loss(told, *args, **kwargs), vae, x, inputs)
    assert loss.shape == () and loss.isfinite(), f"a loss of {loss}"
    torch.testing.assert_close(trained, loss, rtol=1e-3, atol=1e-3)
    gradients = torch.autograd.grad(trained, list(vae.parameters()), allow_unused=True)
    for (name, _), gradient in zip(vae.named_parameters(), gradients, strict=True):
        if name.startswith("encoder.") and not told.trains_guide:
            continue
        assert gradient is not None and gradient.isfinite().all(), f"the gradient of {name} is {gradient}"
        free = name.startswith("prior.") and not told.is_bound  # a KL that costs nothing teaches the prior nothing
        assert gradient.any() or free, f"the gradient of {name} is zero"
    return ""


def made(prior, likelihood, guide):
    """A small VAE, data that are not all zero, and a context where the prior needs one."""
    context = shapes_for(prior).context
    given = {} if context is None else {"context": context}
    vae = VAE((2, 3), 2, prior.factory, likelihood.factory, guide.factory, small_mlp, small_mlp, **given)
    vae = perturbed(vae)
    while not (x := data_for(vae.likelihood, _ROWS)).any():
        pass
    return vae, x, {} if context is None else {"c": torch.randn(len(x), *context)}


def drawn(loss, vae, x, inputs):
    """A loss, by the same noise each time."""
    with seeded(1, "noise"):
        return loss(vae.model, vae.guide, x, **inputs)


def tensor_loss(objective, *args, **kwargs):
    """What `fit` evaluates."""
    try:
        return objective.tensor_loss(*args, **kwargs)
    except NotTensorial:
        return objective(*args, **kwargs)


def expect_all(rows):
    """Put combinations to the test; some must work, and all failures are told at once."""
    outcomes, failures = [], []
    for row in rows:
        try:
            outcomes.append(refusal(*row))
        except Exception as error:  # a combination can fail in any way
            failures.append(f"{' with '.join(map(str, row))}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)
    assert "" in outcomes, f"all are refused: {outcomes[0]}"


def covering(parts):
    """Combinations of the parts of each axis in which every two of different axes meet, by the objective."""
    found = [[parts[axis][i] for axis, i in enumerate(row)] for row in pairwise_covering(list(map(len, parts)))]
    return {str(objective): [row for row in found if row[0] is objective] for objective in parts[0]}


@pytest.mark.parametrize("objective", DEFAULTS[0], ids=str)
def test_every_two_classes(objective):
    expect_all(covering(DEFAULTS)[str(objective)])


def test_every_setting():
    """Side by side, those of the shorter axes again and again: each is in one combination at least."""
    longest = max(map(len, SETTINGS))
    expect_all([settings[i % len(settings)] for settings in SETTINGS] for i in range(longest))


@pytest.mark.slow
@pytest.mark.parametrize("objective", SETTINGS[0], ids=str)
def test_every_two_settings(objective):
    expect_all(covering(SETTINGS)[str(objective)])


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", DEFAULTS[2], ids=str)
@pytest.mark.parametrize("objective", DEFAULTS[0], ids=str)
def test_all_classes(objective, likelihood):
    """Some 9,000 in all: about three minutes of one core when it was written."""
    expect_all(product([objective], DEFAULTS[1], [likelihood], DEFAULTS[3]))


@pytest.mark.parametrize("sizes", [(25, 17, 32, 17), (3, 2), (1, 1, 1), (4, 4, 4, 4, 4), (2, 5, 3)], ids=str)
def test_a_covering_has_every_pair(sizes):
    rows = pairwise_covering(sizes)
    axes = [[(axis, choice) for choice in range(size)] for axis, size in enumerate(sizes)]
    assert pairs_of(rows) == {pair for two in combinations(axes, 2) for pair in product(*two)}
    assert all(len(row) == len(sizes) for row in rows)
    if len(sizes) == 4:
        assert len(rows) <= 1.1 * prod(sorted(sizes)[-2:])


@dataclass(frozen=True)
class Wrong(Objective):
    """What neither works nor is refused, in several ways."""

    kind: str

    def __call__(self, model, guide, x):
        z = guide(x)
        return z.sum() * torch.nan if self.kind == "nan" else z.square().sum()


class Other(Wrong):
    def tensor_loss(self, model, guide, x):
        return self(model, guide, x) + 1


class Terse(Wrong):
    def __call__(self, model, guide, x):
        raise UsageError("no")


@pytest.mark.parametrize(
    ("cls", "kind", "message"),
    [
        (Wrong, "nan", "a loss of nan"),
        (Wrong, "deaf", r"the gradient of \S+ is None"),
        (Other, "other", "not close"),
        (Terse, "terse", "no"),
    ],
)
def test_a_wrong_combination_is_told(cls, kind, message):
    good = [Part(StandardNormal), Part(Bernoulli), Part(DiagonalNormal)]
    assert refusal(Part(ELBO), *good) == ""
    with pytest.raises(AssertionError, match=message):
        refusal(Part(cls, {"kind": kind}), *good)
    with pytest.raises(AssertionError, match=re.escape(f"with {good[0]}")):
        expect_all([[Part(ELBO), *good], [Part(cls, {"kind": kind}), *good]])
