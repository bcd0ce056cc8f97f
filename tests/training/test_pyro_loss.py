"""One type of objective behind `fit`: Pyro's ELBOs and functions are wrapped at its door."""

import re
from pathlib import Path

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceTailAdaptive_ELBO

import pyro_vae
from pyro_vae.autoencoders import VAE
from pyro_vae.cli.class_options import ClassOption, filled
from pyro_vae.errors import UsageError
from pyro_vae.objectives import ELBO, NotTensorial, Objective
from pyro_vae.process.seeding import seeded
from pyro_vae.training.pyro_loss import as_objective

X = torch.ones(3, 4)


class Counting:
    """A function that notes how often it was called."""

    calls = 0

    def __call__(self, model, guide, x):
        self.calls += 1
        return ELBO()(model, guide, x)


def vae():
    with seeded(0, "init"):
        return VAE((4,), latent_dim=2)


def at_same_noise(loss):
    pair = vae()
    with seeded(0, "loss"):
        return torch.as_tensor(loss(pair.model, pair.guide, X)).detach()


def test_an_objective_is_left_as_it_is():
    objective = ELBO(beta=2.0)
    assert as_objective(objective) is objective and objective.loss_and_grads is None


@pytest.mark.parametrize(("loss", "name"), [(Trace_ELBO(), "Trace_ELBO"), (Counting(), "Counting")])
def test_the_value_is_that_of_the_loss(loss, name):
    wrapped = as_objective(loss)
    assert isinstance(wrapped, Objective) and wrapped.loss_name == name
    assert torch.equal(at_same_noise(wrapped), at_same_noise(ELBO()))
    torch.testing.assert_close(at_same_noise(wrapped.evaluate), at_same_noise(ELBO()), check_dtype=False)


def test_a_loss_with_gradients_alone():
    tail = as_objective(TraceTailAdaptive_ELBO(num_particles=2, vectorize_particles=True))
    assert tail.loss_and_grads is not None and not tail.has_value
    renyi = as_objective(RenyiELBO(num_particles=2))
    assert renyi.has_value
    with pytest.raises(UsageError, match="differentiable_loss"):
        at_same_noise(renyi)
    assert at_same_noise(renyi.evaluate).isfinite()


def test_it_changes_nothing_while_training():
    wrapped = as_objective(Trace_ELBO())
    assert wrapped.at(1.0, 2.0) is wrapped and wrapped.settled(0.0, 2.0) and not wrapped.couples_rows
    assert wrapped.for_data(3) is wrapped and wrapped.for_validation({}, {}) is wrapped
    assert not wrapped.can_be_saved and not wrapped.needs_elbo


def test_trials_leave_no_trace():
    counting = Counting()
    wrapped = as_objective(counting)
    for other in (wrapped.for_trial(), wrapped.for_validation({}, {})):
        at_same_noise(other)
    pair = vae()
    with pytest.raises(NotTensorial):
        wrapped.tensor_loss(pair.model, pair.guide, X)
    assert counting.calls == 0


@pytest.mark.parametrize(
    ("value", "message"), [(3, "got int"), (Trace_ELBO, "the class Trace_ELBO"), ("ELBO", "the text 'ELBO'")]
)
def test_all_else_is_refused(value, message):
    with pytest.raises(UsageError, match=message):
        as_objective(value)


def test_no_code_behind_the_door_asks_for_the_type():
    asks = re.compile(r"isinstance\([^()]*\bObjective\)")
    found = [p for p in Path(pyro_vae.__file__).parent.rglob("*.py") if asks.search(p.read_text())]
    assert {path.name for path in found} <= {"base.py", "denoising.py", "pyro_loss.py"}


def test_it_is_no_choice_of_the_command():
    offered = filled("{classes}", ClassOption(("pyro_vae.objectives.Objective",), {}))
    assert "ELBO" in offered and "PyroLoss" not in offered
