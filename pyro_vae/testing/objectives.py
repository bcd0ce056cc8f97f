"""The contract of an objective."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae.autoencoders import VAE
from pyro_vae.compiling.recording import Unrecordable, record_gradients
from pyro_vae.errors import UsageError
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import Normal
from pyro_vae.objectives import NotTensorial
from pyro_vae.process.seeding import seeded
from pyro_vae.process.switches import checking
from pyro_vae.schedules import Linear, Schedule
from pyro_vae.testing.contract import (
    Check,
    expect,
    expect_close,
    expect_finite,
    expect_gradients,
    expect_shape,
    not_applicable,
)
from pyro_vae.testing.devices import expect_on_one_device
from pyro_vae.testing.modules import expect_takes_options, expect_value, perturbed, small_mlp
from pyro_vae.testing.parts import Part
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

_REPEATS = 100


def build(part: Part) -> Any:
    """The objective with its schedules."""
    return part()


def _objective(part: Part) -> Any:
    """The objective with numbers in place of its schedules."""
    return _with_num_data(part().at(0.5, 1.0))


def _with_num_data(objective: Any) -> Any:
    """The objective with the number of data, if it needs it, as `fit` sets it."""
    return objective.for_data(1000) if hasattr(objective, "for_data") else objective


def _pair(part: Part) -> tuple[VAE, Tensor]:
    """A small VAE, and data."""
    vae = VAE(part.event, part.latent, likelihood=Normal, encoder=small_mlp, decoder=small_mlp)
    return perturbed(vae), torch.randn(6, *part.event)


def takes_its_options(part: Part) -> None:
    """It can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def is_a_value(part: Part) -> None:
    """A frozen dataclass: instances with the same fields, copies and saved ones are equal."""
    expect_value(part)


def is_a_loss(part: Part) -> None:
    """A finite scalar with a gradient for every parameter of model and guide (of the decoder alone, if `trains_guide`
    is False); the same for the same seed.
    """
    vae, x = _pair(part)
    objective = _objective(part)
    with seeded(1, "loss"):
        loss = objective(vae.model, vae.guide, x)
    expect_shape("a loss of shape", loss.shape, ())
    expect_finite("the loss", loss)
    loss.backward()
    expect_gradients(vae if _trains_guide(objective) else vae.decoder, "the loss")
    with seeded(1, "loss"):
        expect_close("from the same seed the loss", objective(vae.model, vae.guide, x), loss)


def _trains_guide(objective: Any) -> bool:
    return getattr(objective, "trains_guide", True)


def sums_over_the_rows(part: Part) -> None:
    """The loss is a sum over data: a batch that has every datum twice doubles its mean.

    100 evaluations each, within 5.5 standard errors: false alarms 4e-8.
    """
    vae, x = _pair(part)
    objective = _objective(part)
    with torch.no_grad():
        once = torch.stack([objective(vae.model, vae.guide, x) for _ in range(_REPEATS)])
        twice = torch.stack([objective(vae.model, vae.guide, torch.cat([x, x])) for _ in range(_REPEATS)])
    remedy = "sum over the batch, and leave its size to fit"
    error = (twice.var() + 4 * once.var()).sqrt() / _REPEATS**0.5
    off = (twice.mean() - 2 * once.mean()).abs()
    expected = f"of every datum twice a loss of {2 * once.mean():.5g} on average"
    expect(off <= 5.5 * error + 1e-4 * twice.mean().abs(), expected, f"{twice.mean():.5g}", remedy)


def passes_arguments_on(part: Part) -> None:
    """Further arguments reach both programs: a mask of ones changes nothing, one with zeros does."""
    vae, x = _pair(part)
    objective, ones = _objective(part), torch.ones_like(x, dtype=torch.bool)
    holes = ones.clone()
    holes[:, 0] = False
    losses = []
    for mask in (None, ones, holes):
        with seeded(1, "mask"), torch.no_grad():
            losses.append(objective(vae.model, vae.guide, x, **({} if mask is None else {"mask": mask})))
    expect_close("with a mask of ones the loss", losses[1], losses[0])
    expect(losses[2] != losses[0], "a mask with holes to change the loss", f"{losses[2]:.6g} with and without")


def tensor_loss_is_the_loss(part: Part) -> None:
    """`tensor_loss` has the value and the gradients of the loss, on the same noise."""
    vae, x = _pair(part)
    objective = _objective(part)
    found = []
    for function in (objective, _tensorial(objective)):
        with seeded(1, "loss"):
            loss = function(vae.model, vae.guide, x)
        trained = vae if _trains_guide(objective) else vae.decoder
        gradients = torch.autograd.grad(loss, list(trained.parameters()))
        found.append(torch.cat([loss.reshape(1), *(g.reshape(-1) for g in gradients)]))
    expect_close("from tensor_loss the loss (entry 0), or its gradient", found[1], found[0], 1e-4, 1e-4)


def _tensorial(objective: Any) -> Any:
    def function(*args: Any) -> Tensor:
        try:
            return objective.tensor_loss(*args)
        except NotTensorial as reason:
            raise not_applicable(f"no tensor_loss: {reason}") from reason

    return function


def can_be_recorded(part: Part) -> None:
    """A recorded graph of the loss and its gradients is also correct for other data, other noise and other weights."""
    vae, x = _pair(part)
    loss = _tensorial(_objective(part))

    def twice(x: Tensor) -> tuple[Tensor, Tensor]:  # what to report, and what to differentiate
        value = loss(vae.model, vae.guide, x)
        return value, value

    try:
        with checking(False):
            graph, parameters = record_gradients(vae, twice, [x], compile=False)
    except Unrecordable as reason:
        raise not_applicable(f"can't be recorded, so it is never compiled: {reason}") from reason
    perturbed(vae)
    with seeded(1, "same"):
        value = loss(vae.model, vae.guide, x + 1)
    expected = [value, *torch.autograd.grad(value, parameters)]
    with seeded(1, "same"):
        got = graph(x + 1)
    for name, a, b in zip(["the loss", *["its gradient"] * len(parameters)], got, expected, strict=True):
        expect_close(f"from the recorded graph, at other data and weights, {name}", a, b, 1e-3, 1e-3)


def is_met_by_the_exact_posterior(part: Part) -> None:
    """If the guide is the exact posterior (probabilistic PCA), a bound equals -log p(x) for every draw."""
    objective = _objective(part)
    if not getattr(objective, "is_bound", True):
        raise not_applicable("is_bound is False: no bound on log p(x)")
    process = linear_process()
    vae, x = make_exact(linear_vae(process), process), process.sample(16, seed=1)
    expected = -process.log_prob(x).sum()
    remedy = "if the loss is no bound, override `is_bound`"
    got = objective(vae.model, vae.guide, x).detach()
    expect((got - expected).abs() < 1e-6, f"-log p(x) = {expected:.8f} at the exact posterior", f"{got:.8f}", remedy)


class TwoLayers(nn.Module):
    """A pair of programs that is not a VAE: p(z2) p(z1|z2) p(x|z1) and q(z2|x) q(z1|x)."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.w = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.randn(3))
        self.bottom, self.top = nn.Linear(3, 1), nn.Linear(3, 1)

    def model(self, x: Tensor) -> None:
        """p(x, z)."""
        with pyro.plate("data", len(x), dim=-1):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z1 * self.w, 1.0).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z|x)."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z2", dist.Normal(self.top(x), 0.5).to_event(1))
            pyro.sample("z1", dist.Normal(self.bottom(x), 0.5).to_event(1))


def takes_any_pair(part: Part) -> None:
    """It works for programs with sites other than a VAE's, or refuses them by UsageError."""
    pair, x, objective = TwoLayers(), torch.randn(6, 3), _objective(part)
    try:
        loss = objective(pair.model, pair.guide, x)
    except UsageError as reason:
        raise not_applicable(reason) from reason
    expect_finite("the loss of two latent sites", loss)
    loss.backward()
    if _trains_guide(objective):
        expect_gradients(pair, "the loss of two latent sites")


def stays_on_its_device(part: Part) -> None:
    """The loss, and its gradients, are computed where the data and the VAE are."""
    vae, x = _pair(part)
    vae, x, objective = vae.to("meta"), x.to("meta"), _objective(part)

    def results() -> Iterator[tuple[str, Tensor]]:
        try:
            yield "the loss", objective.tensor_loss(vae.model, vae.guide, x)
        except NotTensorial:
            yield "the loss", objective(vae.model, vae.guide, x)

    expect_on_one_device(results)


def leaves_the_programs_alone(part: Part) -> None:
    """It leaves model and guide unchanged: log-weights after a loss equal those before it."""
    vae, x = _pair(part)
    objective = _objective(part)
    weights = []
    for _ in range(2):
        with seeded(1, "weights"), torch.no_grad():
            weights.append(importance(vae.model, vae.guide, x, num_particles=3).log_weights)
        objective(vae.model, vae.guide, x).backward()
    expect_close("after a loss a log-weight", weights[1], weights[0])


def follows_its_schedules(part: Part) -> None:
    """Each field that accepts a schedule follows it, in `schedules`, `at`, `holding` and `settled`."""
    names = [name for name, hint in get_type_hints(type(part())).items() if Schedule in get_args(hint)]
    if not names:
        raise not_applicable("no field takes a schedule")
    for name in names:
        _expect_to_follow(part, name)


def _expect_to_follow(part: Part, name: str) -> None:
    start = getattr(part().at(0.0, 1.0), name)
    ramp = Linear(start, 0.9 * start if start else 0.05, epochs=1.0)
    objective = replace(part(), **{name: ramp})
    expect(objective.schedules.get(name) is ramp, f"schedules to have {name!r}", sorted(objective.schedules))
    for epoch in (0.0, 0.5, 1.0):
        got = getattr(objective.at(epoch, 2.0), name)
        expect(got == ramp(epoch, 2.0), f"at({epoch}, 2).{name} to be {ramp(epoch, 2.0)}", got)
    expect(not objective.settled(0.5, 2.0), "settled to be False on the ramp", "True")
    expect(replace(part(), **{name: start}).settled(0.0, 2.0), "settled to be True for numbers", "False")
    _expect_refusal(part, objective, name)
    _expect_held(part, objective, name)


def _expect_refusal(part: Part, objective: Any, name: str) -> None:
    vae, x = _pair(part)
    try:
        objective(vae.model, vae.guide, x)
    except UsageError:
        return
    expect(False, f"UsageError if called while {name!r} is a schedule", "a loss", "take at(epoch, total) first")


def _expect_held(part: Part, objective: Any, name: str) -> None:
    vae, x = _pair(part)
    losses = []
    settled = objective.at(0.5, 2.0)
    for chosen in (settled, settled.holding({name: torch.tensor(getattr(settled, name))})):
        with seeded(1, "held"), torch.no_grad():
            losses.append(_with_num_data(chosen).tensor_loss(vae.model, vae.guide, x))
    expect_close(f"with a tensor held as {name!r} the loss", losses[1], losses[0])


CHECKS: tuple[Check, ...] = (
    takes_its_options,
    is_a_value,
    is_a_loss,
    leaves_the_programs_alone,
    sums_over_the_rows,
    passes_arguments_on,
    tensor_loss_is_the_loss,
    can_be_recorded,
    is_met_by_the_exact_posterior,
    takes_any_pair,
    follows_its_schedules,
    stays_on_its_device,
)
