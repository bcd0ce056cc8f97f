"""The steps of `fit` are those of torch's optimizers, to the bit: whichever parameters a step has gradients for."""

from functools import partial

import pytest
import torch
from torch import optim
from torch.optim.optimizer import register_optimizer_step_post_hook

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import CheckpointError, Stopped, UsageError
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import read_manifest
from pyro_vae.runs.restoring import optimizer_tensors, restore_optimizer
from pyro_vae.training import checkpoints
from pyro_vae.training import trainer as training
from pyro_vae.training.fitting import fit
from pyro_vae.training.optimizers import make_optimizer, update
from tests.support.networks import Switching

ADAM = {"lr": 5e-3, "weight_decay": 0.1}
FACTORIES = {
    "Adam": partial(optim.Adam, **ADAM),
    "Adam amsgrad": partial(optim.Adam, **ADAM, amsgrad=True),
    "Adam maximize": partial(optim.Adam, **ADAM, maximize=True),
    "Adam foreach": partial(optim.Adam, **ADAM, foreach=True),
    "Adam loop": partial(optim.Adam, **ADAM, fused=False, foreach=False),
    "Adam tensor": partial(optim.Adam, lr=torch.tensor(5e-3)),
    "AdamW": partial(optim.AdamW, lr=5e-3),
    "SGD": partial(optim.SGD, lr=1e-4, momentum=0.9, nesterov=True, weight_decay=0.1),
    "RMSprop": partial(optim.RMSprop, lr=1e-3, momentum=0.9, centered=True),
    "Adagrad": partial(optim.Adagrad, lr=1e-2, lr_decay=0.01),
    **{name: getattr(optim, name) for name in ("NAdam", "RAdam", "Adamax", "Adadelta", "Adafactor", "ASGD", "Rprop")},
}
HAS_FUSED = ("Adam", "AdamW", "Adagrad")


def theirs(factory):
    """The kernel that `fit` takes where none is asked for; torch's own default is a loop, which rounds otherwise."""
    asked = getattr(factory, "keywords", {})
    cls = getattr(factory, "func", factory)
    fused = cls.__name__ in HAS_FUSED and not {"foreach", "fused"} & set(asked)
    return partial(factory, fused=True) if fused else factory


def in_groups(parameters):
    """A factory of the user's own: several groups, each with a rate."""
    groups = [{"params": parameters[::2]}, {"params": parameters[1::2], "lr": 2e-3, "betas": (0.5, 0.9)}]
    return optim.Adam(groups, lr=5e-3)


def make(seed=0, encoder=Switching):
    with seeded(seed, "init"):
        return VAE((8, 8), 2, encoder=encoder, decoder=partial(MLP, hidden=(4,))).double()  # one kernel for products


def binary():
    return (torch.rand(50, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.3).float()


def weights(vae):
    return torch.cat([p.detach().reshape(-1) for p in vae.parameters()])


def by_hand(vae, x, factory, epochs):
    """The training that `fit` does, written out with torch."""
    optimizer = factory(list(vae.parameters()))
    vae.train()
    for epoch in range(epochs):
        with seeded(0, "order", epoch):
            order = torch.randperm(len(x))
        for step, index in enumerate(order.split(20)):
            optimizer.zero_grad()
            with seeded(0, "step", epoch, step):
                ELBO().tensor_loss(vae.model, vae.guide, x[index]).backward()
            optimizer.step()


def train(vae, factory=optim.Adam, epochs=3, **others):
    return fit(vae, binary(), ELBO(), epochs=epochs, batch_size=20, optimizer=factory, progress=False, **others)


@pytest.mark.parametrize("name", FACTORIES)
def test_steps_are_torchs(name):
    """20, 20 and 10 rows in an epoch: parameters that are in one step of three or in two."""
    ours, expected = make(), make()
    before = weights(ours).clone()
    train(ours, FACTORIES[name])
    by_hand(expected, binary(), theirs(FACTORIES[name]), 3)
    assert torch.equal(weights(ours), weights(expected)) and not torch.equal(weights(ours), before)


def test_steps_of_several_groups_are_torchs():
    ours, expected = make(), make()
    train(ours, in_groups)
    by_hand(expected, binary(), in_groups, 3)
    assert torch.equal(weights(ours), weights(expected))


def test_fused_differs_from_the_loop_by_rounding_alone():
    ours, expected = make(), make()
    train(ours)
    by_hand(expected, binary(), partial(optim.Adam, fused=False), 3)
    torch.testing.assert_close(weights(ours), weights(expected), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in FACTORIES if name != "Adam tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_restored_optimizer_makes_the_same_steps(name, dtype):
    """Saved between steps that have gradients for some parameters only, and put into one of a fresh start."""
    generator = torch.Generator().manual_seed(1)
    start = [torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((3, 4), (4,), (2, 3))]
    gradients = [[torch.randn(p.shape, generator=generator, dtype=dtype) for p in start] for _ in range(12)]
    pattern = [(0, 1), (0,), (1,), (0, 1, 2), (1, 2), (2,)] * 2

    def run(parameters, optimizer, steps):
        for step in steps:
            update(
                optimizer, [parameters[i] for i in pattern[step]], [gradients[step][i].clone() for i in pattern[step]]
            )

    whole, first, second = ([torch.nn.Parameter(value.clone()) for value in start] for _ in range(3))
    run(whole, make_optimizer(FACTORIES[name], whole), range(12))
    stopped = make_optimizer(FACTORIES[name], first)
    run(first, stopped, range(5))
    resumed = make_optimizer(FACTORIES[name], second)
    for parameter, value in zip(second, first, strict=True):
        parameter.data.copy_(value.data)
    restore_optimizer(resumed, *optimizer_tensors(stopped))
    run(second, resumed, range(5, 12))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))


def stop_after(monkeypatch, steps):
    """Every `steps` steps a signal ends the training."""
    tick, done = training.Trainer.tick, []

    def stopping(trainer):
        done.append(0)
        if len(done) % steps == 0:
            trainer.signals.pending.append(2)
        tick(trainer)

    monkeypatch.setattr(training.Trainer, "tick", stopping)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path, monkeypatch):
    whole, resumed = make(), make()
    train(whole)
    stop_after(monkeypatch, 4)
    for _ in range(2):
        with pytest.raises(Stopped):
            train(make(), run=tmp_path)
    train(resumed, run=tmp_path)
    assert torch.equal(weights(whole), weights(resumed))


def test_a_counter_beyond_the_steps_is_refused(tmp_path, monkeypatch):
    """Older versions counted a step once for each parameter where some had no gradient; else their runs go on."""
    stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train(make(), run=tmp_path)
    monkeypatch.undo()
    saved = checkpoints.optimizer_tensors

    def counted_twice(optimizer):
        tensors, plain = saved(optimizer)
        return {name: value + 9 if name.endswith("/step") else value for name, value in tensors.items()}, plain

    stop_after(monkeypatch, 4)
    monkeypatch.setattr(checkpoints, "optimizer_tensors", counted_twice)
    with pytest.raises(Stopped):
        train(make(), run=tmp_path)
    assert read_manifest(tmp_path)["progress"]["step"] == 2
    with pytest.raises(CheckpointError, match=r"/step' counts 1\d updates of a parameter after 8 steps: train it anew"):
        train(make(), run=tmp_path)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (optim.SparseAdam, "SparseAdam can't make a step as it is set: .* dense gradients"),
        (partial(optim.Adam, differentiable=True), "Adam can't make a step as it is set"),
        (partial(optim.RMSprop, capturable=True), "RMSprop can't make a step as it is set"),
        (optim.Muon, "can't make the optimizer Muon: .* 2D"),
        (partial(optim.Adam, fused=True, foreach=True), "can't make the optimizer Adam: "),
    ],
)
def test_what_torch_refuses_is_told_in_one_line(factory, message):
    with pytest.raises(UsageError, match=message):
        train(make(), factory, epochs=1)


def test_gradients_of_the_callers_are_not_added():
    ours, expected = make(), make()
    for parameter in ours.parameters():
        parameter.grad = torch.ones_like(parameter)
    train(ours)
    train(expected)
    assert torch.equal(weights(ours), weights(expected))
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_hooks_and_names_are_torchs():
    """Hooks of all optimizers, which the caller may have set, are called; and messages name torch's class."""
    parameter, steps = torch.nn.Parameter(torch.zeros(2)), []
    optimizer = make_optimizer(partial(optim.AdamW, lr=0.1), [parameter])
    handle = register_optimizer_step_post_hook(lambda *_: steps.append(parameter.tolist()))
    try:
        update(optimizer, [parameter], [torch.ones(2)])
    finally:
        handle.remove()
    assert steps == [parameter.tolist()] != [[0.0, 0.0]] and str(optimizer).startswith("AdamW (")
    assert isinstance(optimizer, optim.AdamW) and type(optimizer).__module__ == "torch.optim.adamw"


def test_a_step_in_which_gradients_are_on_is_not_differentiated():
    parameter = torch.nn.Parameter(torch.zeros(2))
    with torch.enable_grad():
        update(make_optimizer(partial(optim.SGD, lr=0.1), [parameter]), [parameter], [torch.ones(2)])
    assert parameter.grad_fn is None and parameter.is_leaf and parameter.requires_grad
