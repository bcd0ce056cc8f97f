"""One call of the fused kernel makes torch's own steps, to the bit, and leaves torch's own state."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn, optim

from pyro_vae.training import fused_adam
from pyro_vae.training.optimizers import make_optimizer, update

SHAPES = ((3, 4), (4,), (2, 3))
OPTIONS = {
    "Adam": partial(optim.Adam, lr=0.01),
    "all options": partial(optim.Adam, lr=0.01, betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1, maximize=True),
    "amsgrad": partial(optim.Adam, lr=0.01, amsgrad=True),
    "AdamW": partial(optim.AdamW, lr=0.01, weight_decay=0.3),
    "decoupled": partial(optim.Adam, lr=0.01, weight_decay=0.3, decoupled_weight_decay=True),
}


def start(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(*shape, generator=generator, dtype=dtype)) for shape in SHAPES]


def gradients(step, parameters):
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]


def by_torch(optimizer, parameters, found):
    for parameter, gradient in zip(parameters, found, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()


def both(factory, dtype=torch.float32):
    """An optimizer as `fit` makes it, and torch's own, with the same parameters."""
    ours, theirs = start(dtype), start(dtype)
    return (make_optimizer(factory, ours), ours), (partial(factory, fused=True)(theirs), theirs)


def advance(pairs, steps, used=slice(None)):
    (optimizer, ours), (torchs, theirs) = pairs
    for step in steps:
        update(optimizer, ours[used], gradients(step, ours[used]))
        by_torch(torchs, theirs[used], gradients(step, theirs[used]))


def assert_same(pairs):
    (optimizer, ours), (torchs, theirs) = pairs
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    state, expected = (made.state_dict()["state"] for made in (optimizer, torchs))
    for i, entries in expected.items():
        assert entries.keys() == state[i].keys()
        assert all(torch.equal(value, state[i][name]) for name, value in entries.items())


@pytest.fixture
def calls(monkeypatch):
    """How often the kernel was called for a group as a whole."""
    made, kernel = [], fused_adam.fused_adam
    monkeypatch.setattr(fused_adam, "fused_adam", lambda *args, **options: made.append(kernel(*args, **options)))
    return made


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_steps_and_state_are_torchs(name, dtype, calls):
    pairs = both(OPTIONS[name], dtype)
    advance(pairs, range(6))
    assert_same(pairs)
    assert len(calls) == 5  # the first step makes the state


def test_a_step_that_has_some_gradients_is_between_those_that_have_all(calls):
    pairs = both(OPTIONS["Adam"])
    for first, used in ((0, slice(None)), (3, slice(0, 2)), (6, slice(None))):
        advance(pairs, range(first, first + 3), used)
    assert_same(pairs)
    assert len(calls) == 2 + 3


def test_a_rate_that_changes_is_taken():
    pairs = both(OPTIONS["Adam"])
    for step, lr in enumerate((0.1, 0.2, torch.tensor(0.3), torch.tensor(0.4), 0.5)):
        for optimizer, _ in pairs:
            optimizer.param_groups[0]["lr"] = lr
        advance(pairs, [step])
    assert_same(pairs)


def test_a_state_that_is_loaded_is_taken(calls):
    pairs = both(OPTIONS["amsgrad"])
    advance(pairs, range(3))
    saved = [deepcopy(optimizer.state_dict()) for optimizer, _ in pairs]
    advance(pairs, range(3, 6))
    for (optimizer, _), state in zip(pairs, saved, strict=True):
        optimizer.load_state_dict(state)
    advance(pairs, range(6, 9))
    assert_same(pairs)
    assert len(calls) == 2 + 3 + 3


def test_groups_are_added(calls):
    pairs = both(OPTIONS["Adam"])
    advance(pairs, range(3))
    for optimizer, parameters in pairs:
        parameters.append(nn.Parameter(torch.ones(5)))
        optimizer.add_param_group({"params": parameters[-1:], "lr": 0.2, "betas": (0.1, 0.2)})
    advance(pairs, range(3, 6))
    assert_same(pairs)
    assert len(calls) == 2 + 2 * 2


@pytest.mark.parametrize("used", [slice(None), slice(0, 1)], ids=["all", "some"])
def test_hooks_are_called_once_a_step(used):
    parameters, called = start(), []
    optim.Adam(start(), lr=0.01)  # torch adds its hooks to the class when it is first used
    optimizer = make_optimizer(OPTIONS["Adam"], parameters)
    optimizer.register_step_pre_hook(lambda *_: called.append("before"))
    optimizer.register_step_post_hook(lambda *_: called.append("after"))
    for step in range(3):
        update(optimizer, parameters[used], gradients(step, parameters[used]))
    assert called == ["before", "after"] * 3


@pytest.mark.parametrize(
    "factory",
    [partial(optim.Adam, lr=0.01, fused=False), partial(optim.Adam, lr=0.01, foreach=True)],
    ids=["loop", "foreach"],
)
def test_other_kernels_of_torch_are_left_alone(factory, calls):
    parameters = start()
    optimizer = make_optimizer(factory, parameters)
    for step in range(3):
        update(optimizer, parameters, gradients(step, parameters))
    assert not calls


def test_mixed_types_are_left_to_torch(calls):
    parameters, theirs = ([*start(), *start(torch.float64)] for _ in range(2))
    pairs = (make_optimizer(OPTIONS["Adam"], parameters), parameters), (optim.Adam(theirs, lr=0.01, fused=True), theirs)
    advance(pairs, range(3))
    assert_same(pairs)
    assert not calls
