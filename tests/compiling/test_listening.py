"""The name of a function's operations: equal for equal operations, and another one for any other."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from pyro_vae.compiling.listening import NotHeard, heard

X, Y = torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


def name_of(run, *inputs):
    return heard(lambda *x: [run(*x)], inputs)[0]


def constants_of(run, *inputs):
    return heard(lambda *x: [run(*x)], inputs)[1]


def twice(x):
    return x.add_(1).exp()


@pytest.mark.parametrize("other", [torch.zeros(2, 3), torch.full((2, 3), torch.nan)], ids=["zeros", "nan"])
def test_values_are_not_part_of_it(other):
    assert name_of(lambda x: (2 * x).sum(), X) == name_of(lambda x: (2 * x).sum(), other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x.exp(), lambda x: x.log()),
        (lambda x: x * 2, lambda x: x * 2.0000001),
        (lambda x: x * 2, lambda x: x * 2.0),
        (lambda x: x.sum(0), lambda x: x.sum(1)),
        (lambda x: x.exp() - x.log(), lambda x: x.log() - x.exp()),
        (lambda x: x.clone().add_(1), lambda x: x.clone().add(1)),
        (lambda x: x.double().exp().float(), lambda x: x.exp()),
        (lambda x: torch.randn(2), lambda x: torch.rand(2)),
        (lambda x: torch.stack([x, x + 1])[0], lambda x: torch.stack([x, x + 1])[1]),
    ],
)
def test_other_operations_have_another(one, other):
    assert name_of(one, X) == name_of(one, X) != name_of(other, X)


@pytest.mark.parametrize("x", [X[:1], X.double(), X.t().contiguous().t(), X.to(torch.complex64).conj()], ids=str)
def test_other_inputs_have_another(x):
    assert name_of(lambda x: x * x, X) != name_of(lambda x: x * x, x)


def test_which_input_is_which_counts():
    assert name_of(lambda x, y: x - y, X, Y) != name_of(lambda x, y: y - x, X, Y)


def test_which_results_are_returned_counts():
    def run(x):
        return [x.exp(), x.log()]

    assert heard(run, [X])[0] != heard(lambda x: run(x)[::-1], [X])[0]


def test_what_else_it_depends_on_counts():
    assert heard(lambda x: [x], [X], "one")[0] != heard(lambda x: [x], [X], "other")[0]


def test_gradients_are_heard():
    weight = nn.Parameter(torch.ones(3))

    def run(power):
        return lambda w, x: list(torch.autograd.grad((x @ w).pow(power).sum(), [w]))

    assert heard(run(2), [weight, X])[0] == heard(run(2), [weight, X])[0] != heard(run(3), [weight, X])[0]


class TestConstants:
    """What operations take beside inputs and results."""

    def test_are_given_and_their_values_are_not_part_of_the_name(self):
        one, other = torch.ones(3), torch.zeros(3)
        assert constants_of(lambda x: x + one, X)[0] is one
        assert name_of(lambda x: x + one, X) == name_of(lambda x: x + other, X)
        assert name_of(lambda x: x + one, X) != name_of(lambda x: x + torch.zeros(1), X)

    def test_are_in_order_of_appearance_each_once(self):
        one, other = torch.ones(3), torch.zeros(3)
        found = constants_of(lambda x: (x + one) * other + one, X)
        assert [id(constant) for constant in found] == [id(one), id(other)]

    def test_are_those_that_the_results_depend_on(self):
        one, other = torch.ones(3), torch.zeros(3)
        found = constants_of(lambda x: (x * other, x + one)[1], X)
        assert len(found) == 1 and found[0] is one

    def test_one_written_in_place_counts(self):
        one = torch.ones(3)

        def run(x):
            total = x.clone()
            total.add_(one)
            return total.exp()

        assert constants_of(run, X)[0] is one


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x * x.sum().item(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.randn(2, generator=torch.Generator()),
    ],
    ids=["item", "mask", "nonzero", "generator"],
)
def test_what_has_no_name(run):
    with pytest.raises(NotHeard):
        name_of(run, X)


def test_results_are_those_of_the_function_itself():
    found = []
    heard(lambda x: [found.append(twice(x.clone())) or x], [X])
    assert torch.equal(found[0], (X + 1).exp())


def test_needs_no_compiler():
    code = (
        "import sys, torch; from pyro_vae.compiling.listening import heard;"
        "w = torch.ones(3, requires_grad=True);"
        "heard(lambda w, x: torch.autograd.grad((x @ w).exp().sum(), [w]), [w, torch.ones(2, 3)]);"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
