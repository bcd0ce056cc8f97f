"""Cheaper forms of recorded operations: the same values and gradients, only where the operations are those."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import softplus

from pyro_vae.compiling.rewrites import (
    _factors,
    cheaper,
    group_softplus,
    part_addmm,
    tanh_by_exponential,
)

aten = torch.ops.aten


def log_likelihood(x, logits):
    return (x * logits - softplus(logits)).flatten(-2).sum(-1)


def with_gradient(x, logits):
    logits = logits.requires_grad_()
    value = log_likelihood(x, logits)
    return value, torch.autograd.grad(value.sum(), logits)[0]


def inputs(shape=(3, 28, 28), scale=5.0):
    return (torch.rand(shape) < 0.2).float(), torch.randn(shape) * scale


def targets(graph):
    return [node.target for node in graph.graph.nodes]


@pytest.mark.parametrize("scale", [0.1, 5.0, 200.0])
@pytest.mark.parametrize("shape", [(3, 28, 28), (2, 3, 8, 8), (1, 4, 4), (2, 64, 64)])
def test_value_and_gradient(shape, scale):
    """As near to double precision as the plain sum, where softplus is 0 or linear too, and for long products."""
    x, logits = inputs(shape, scale)
    graph = group_softplus(make_fx(with_gradient)(x, logits))
    assert aten.softplus.default not in targets(graph) and aten.softplus_backward.default not in targets(graph)
    value, gradient = graph(x, logits)
    exact, exact_gradient = with_gradient(x.double(), logits.detach().double())
    torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=2e-4)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-5, atol=1e-6)


def test_products_do_not_overflow():
    """All factors are 2 at logits 0: the longest product is 2^100."""
    x, logits = torch.zeros(2, 40, 40), torch.zeros(2, 40, 40)
    graph = group_softplus(make_fx(log_likelihood)(x, logits))
    torch.testing.assert_close(graph(x, logits), torch.full((2,), -1600 * torch.log(torch.tensor(2.0)).item()))


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: (x * y - softplus(y)).sum(),
        lambda x, y: (x * y - softplus(y, beta=2)).flatten(-2).sum(-1),
        lambda x, y: (x * y - softplus(y, threshold=1)).flatten(-2).sum(-1),
        lambda x, y: (x * y + softplus(y)).flatten(-2).sum(-1),
        lambda x, y: (softplus(y) - x * y).flatten(-2).sum(-1),
        lambda x, y: torch.sub(x * y, softplus(y), alpha=2).flatten(-2).sum(-1),
        lambda x, y: (x * y - softplus(y)).flatten(-2).mean(-1),
    ],
)
def test_other_sums_stay_as_they_are(function):
    x, logits = inputs((2, 4, 4))
    before = make_fx(function)(x, logits)
    after = group_softplus(make_fx(function)(x, logits))
    assert targets(after) == targets(before)
    torch.testing.assert_close(after(x, logits), function(x, logits))


def test_sums_whose_terms_are_used_elsewhere_stay():
    def function(x, y):
        terms = x * y - softplus(y)
        return terms.flatten(-2).sum(-1), terms

    x, logits = inputs((2, 4, 4))
    assert aten.softplus.default in targets(group_softplus(make_fx(function)(x, logits)))


def test_sizes_that_fill_no_register_stay():
    x, logits = inputs((2, 3, 5))
    assert aten.softplus.default in targets(group_softplus(make_fx(log_likelihood)(x, logits)))
    assert _factors(15) is None and _factors(784) == 49 and _factors(16 * 101) == 1
    assert all((n // 16) % _factors(n) == 0 and _factors(n) <= 100 for n in range(16, 5000, 16))


def test_double_precision_stays():
    x, logits = inputs((2, 4, 4))
    assert aten.softplus.default in targets(group_softplus(make_fx(log_likelihood)(x.double(), logits.double())))


def test_linear_layers_in_parts():
    """A product and an addition, in a form that inductor does not join again, to the last bit but one."""
    layer, x = torch.nn.Linear(30, 20), torch.randn(7, 30)
    recorded = make_fx(lambda x: torch.nn.functional.linear(x, layer.weight, layer.bias).tanh())(x)
    assert aten.addmm.default in targets(recorded)
    parted = part_addmm(recorded)
    assert aten.addmm.default not in targets(parted) and aten.add.Tensor not in targets(parted)
    torch.testing.assert_close(parted(x), layer(x).tanh())


def test_scaled_addmm_is_left_alone():
    a, b, bias = torch.randn(4, 3), torch.randn(3, 5), torch.randn(5)
    recorded = make_fx(lambda a, b, bias: torch.addmm(bias, a, b, beta=0.5))(a, b, bias)
    assert aten.addmm.default in targets(cheaper(recorded))
    torch.testing.assert_close(cheaper(recorded)(a, b, bias), 0.5 * bias + a @ b)


def test_tanh_by_one_exponential():
    """An absolute error of 1e-7 at most, the sign of zero, the limits, and nan."""
    x = torch.cat([torch.linspace(-30, 30, 200_001), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])])
    graph = tanh_by_exponential(make_fx(torch.tanh)(x))
    assert aten.tanh.default not in targets(graph)
    found = graph(x)
    assert (found.double() - x.double().tanh())[:-1].abs().max() < 1e-7
    torch.testing.assert_close(found[-5:], x[-5:].tanh(), equal_nan=True, rtol=0, atol=0)
    assert found[-5:-3].signbit().tolist() == [False, True]


def test_tanh_in_double_precision_stays():
    assert aten.tanh.default in targets(tanh_by_exponential(make_fx(torch.tanh)(torch.randn(3).double())))
