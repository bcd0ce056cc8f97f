"""The contract of a part inside a VAE whose other parts are the defaults."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.autoencoders import VAE
from pyro_vae.errors import UsageError
from pyro_vae.guides import Guide
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import importance, weigh
from pyro_vae.likelihoods import Likelihood
from pyro_vae.networks import Network
from pyro_vae.objectives import ELBO
from pyro_vae.priors import Prior
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe
from pyro_vae.shapes import Shapes
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
from pyro_vae.testing.modules import expect_moves_and_casts, expect_recordable, perturbed, small_mlp
from pyro_vae.testing.parts import Part

CONTEXT = (4,)
"""Shape of the context of a part that requires one."""


ARGUMENTS: dict[type, str] = {Prior: "prior", Likelihood: "likelihood", Guide: "guide"}
"""The argument of a VAE that takes a part of each axis; a network is tried as encoder and as decoder."""


ROWS = 4


def shapes_for(part: Part, latent: int | None = None) -> Shapes:
    """The sizes of a part, with a context if it requires one."""
    for context in (None, CONTEXT):
        shapes = part.shapes(latent, context)
        try:
            part(shapes)
        except UsageError:
            continue
        return shapes
    return part.shapes(latent)


@dataclass(frozen=True)
class Case:
    """A VAE with the part in it, and data.

    Args:
        make: builds the VAE, each time with fresh weights.
        context: `[ROWS, *context]` for a part that requires one.
    """

    make: Any
    context: Tensor | None = None

    @property
    def inputs(self) -> dict[str, Any]:
        """What the programs, `encode` and `decode` take in addition to x or z, by name."""
        return {} if self.context is None else {"c": self.context}

    def vae(self) -> VAE:
        """A VAE with its parameters moved a little."""
        return perturbed(self.make())


def case_of(part: Part) -> Case:
    """The part with small networks, or the network with default parts."""
    if issubclass(part.cls, Network):
        return Case(_first_that_builds(_with_network(part)))
    argument = next(name for base, name in ARGUMENTS.items() if issubclass(part.cls, base))
    chosen = {"encoder": small_mlp, "decoder": small_mlp, argument: part.factory}
    context = shapes_for(part).context
    if context is None:
        return Case(partial(VAE, part.event, part.latent, **chosen))
    make = partial(VAE, part.event, part.latent, context=context, **chosen)
    return Case(make, torch.randn(ROWS, *context))


def _with_network(part: Part) -> Iterator[Any]:
    for event in events_for(part):
        for names in (("encoder", "decoder"), ("encoder",), ("decoder",)):
            chosen = {name: part.factory if name in names else small_mlp for name in ("encoder", "decoder")}
            yield partial(VAE, event, part.latent, **chosen)


def _first_that_builds(makes: Iterator[Any]) -> Any:
    for make in makes:
        try:
            make()
        except UsageError:
            continue
        return make
    raise not_applicable("no VAE was found that it fits in")


def events_for(part: Part) -> tuple[tuple[int, ...], ...]:
    """Shapes of data to try a network on: that of the part, a vector, a grey image, an image with channels."""
    return (part.event, (6,), (8, 8), (3, 8, 8))


def data_for(likelihood: Likelihood, rows: int = ROWS) -> Tensor:
    """Draws of a likelihood: data inside its support, `[rows, *event]`."""
    with torch.no_grad():
        like = next(likelihood.parameters(), torch.zeros(()))
        params = torch.randn(rows, *likelihood.param_shape, dtype=like.dtype)
        return likelihood(params).sample()


# ---- checks --------------------------------------------------------------------------------------------------------


def draws_inside_plates(part: Part) -> None:
    """Model and guide run under a plate of particles: z is [K, B, latent], each log-density [K, B]."""
    case = case_of(part)
    vae = case.vae()
    x = data_for(vae.likelihood)
    guide = _traced(vae.guide, x, case.inputs)
    model = _traced(poutine.condition(vae.model, {"z": guide["z"]["value"]}), x, case.inputs)
    expect_shape("z of the guide of shape", guide["z"]["value"].shape, (3, ROWS, vae.shapes.latent))
    for name, site in (("q(z|x)", guide["z"]), ("p(z)", model["z"]), ("p(x|z)", model["x"])):
        log_prob = site["fn"].log_prob(site["value"])
        expect_shape(f"the log-density of {name} of shape", log_prob.shape, (3, ROWS))
        expect_finite(f"the log-density of {name}", log_prob)


def _traced(program: Any, x: Tensor, inputs: Mapping[str, Tensor]) -> Mapping[str, Any]:
    with pyro.plate("particles", 3, dim=-2):
        return poutine.trace(program).get_trace(x, **inputs).nodes


def weighs_by_its_densities(part: Part) -> None:
    """`importance` gives log p(x|z) and log p(z) as the likelihood and the prior give them at its draws."""
    case = case_of(part)
    vae = case.vae()
    x = data_for(vae.likelihood)
    with evaluation_mode(vae):
        samples = importance(vae.model, vae.guide, x, num_particles=5, **case.inputs)
        z = samples.latents["z"]
        expected_prior = vae.prior_distribution(case.context).log_prob(z)
        expected_likelihood = vae.decode(z, **case.inputs).log_prob(x)
    expect_finite("log-weights", samples.log_weights)
    expect_close("from importance log p(z)", samples.log_prior, expected_prior, 1e-4, 1e-3)
    expect_close("from importance log p(x|z)", samples.log_likelihood, expected_likelihood, 1e-4, 1e-3)


def leaves_out_what_is_not_observed(part: Part) -> None:
    """With a mask, log p(x|z) sums over exactly the observed elements; the others may hold any value, also nan."""
    case = case_of(part)
    vae = case.vae().eval()
    x, z = data_for(vae.likelihood), torch.randn(ROWS, vae.shapes.latent)
    mask = torch.rand(x.shape) < 0.5
    with_hole = x.masked_fill(~mask, torch.nan)
    got = weigh(vae.model, {"z": z.unsqueeze(0)}, with_hole, mask, **case.inputs)[0].squeeze(0)
    elements = vae.decode(z, **case.inputs)
    while isinstance(elements, torch.distributions.Independent):
        elements = elements.base_dist
    expected = (elements.log_prob(x) * mask).flatten(1).sum(1)
    expect_close("of a datum with holes the log-likelihood of what is observed,", got, expected, 1e-4, 1e-4)
    expect_finite("codes of data with holes", vae.encode(with_hole, mask, **case.inputs).sample())
    loss = ELBO()(vae.model, vae.guide, with_hole, mask, **case.inputs)
    expect_finite("the loss of data with holes", loss)
    loss.backward()
    for name, parameter in vae.named_parameters():
        expect_finite(f"the gradient for {name!r} of a loss with holes", _gradient(parameter))


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros(()) if parameter.grad is None else parameter.grad


def trains_by_the_elbo(part: Part) -> None:
    """The ELBO is a finite number with a gradient for every parameter of the VAE."""
    case = case_of(part)
    vae = case.vae()
    loss = ELBO()(vae.model, vae.guide, data_for(vae.likelihood), **case.inputs)
    expect_finite("the loss", loss)
    loss.backward()
    expect_gradients(vae, "the ELBO")


def step_can_be_recorded(part: Part) -> None:
    """A recorded graph of the loss is also correct for other data, other noise and other weights."""
    case = case_of(part)
    vae = case.vae()
    inputs, others = ([data_for(vae.likelihood), *case.inputs.values()] for _ in range(2))

    def function(x: Tensor, *inputs: Tensor) -> Tensor:
        named = dict(zip(case.inputs, inputs, strict=True))
        return ELBO().tensor_loss(vae.model, vae.guide, x, **named)

    expect_recordable(vae, function, inputs, others)


def description_rebuilds(part: Part) -> None:
    """A VAE rebuilt from the saved description and weights computes the same."""
    case = case_of(part)
    vae = case.vae().eval()
    try:
        description = {name: describe(value) for name, value in vae.arguments.items()}
    except UsageError as reason:
        raise not_applicable(f"it can't be saved: {reason}") from reason
    twin = build_vae(description, trust=sorted(_modules_in(description))).eval()
    twin.load_state_dict(vae.state_dict())
    expect(repr(twin) == repr(vae), f"the rebuilt VAE to be {vae!r}", repr(twin))
    x, z = data_for(vae.likelihood), torch.ones(ROWS, vae.shapes.latent)
    first, second = (_seen(v, x, z, case.inputs) for v in (vae, twin))
    expect_close("from the rebuilt VAE a code, or log p(x|z),", second, first)


def _modules_in(description: Any) -> set[str]:
    if isinstance(description, Mapping):
        own = {description["class_path"].rpartition(".")[0]} if "class_path" in description else set()
        return own.union(*map(_modules_in, description.values()))
    return set().union(*map(_modules_in, description)) if isinstance(description, list) else set()


def _seen(vae: VAE, x: Tensor, z: Tensor, given: Mapping[str, Any]) -> Tensor:
    """Draws of the guide and log-likelihoods, with a fixed seed."""
    with seeded(1, "seen"):
        return torch.cat([vae.encode(x, **given).rsample(), vae.decode(z, **given).log_prob(x).unsqueeze(-1)], -1)


def vae_moves_and_casts(part: Part) -> None:
    """`to` moves the whole VAE, and after `double()` it computes in double precision."""
    case = case_of(part)
    x, given = data_for(case.make().likelihood), {name: value.double() for name, value in case.inputs.items()}
    expect_moves_and_casts(case.make, lambda vae: vae.encode(x, **given).rsample())
    expect_moves_and_casts(case.make, lambda vae: vae.prior_distribution(given.get("c")).sample())


def vae_stays_on_its_device(part: Part) -> None:
    """After `to(device)` the VAE computes on that device alone, with its draws, its loss and its gradients."""
    case = case_of(part)
    vae = case.make()
    x, given = data_for(vae.likelihood).to("meta"), {name: value.to("meta") for name, value in case.inputs.items()}
    vae.to("meta")

    def results() -> Iterator[tuple[str, Tensor]]:
        z = vae.encode(x, **given).rsample()
        prior, elements = vae.prior_distribution(given.get("c")), vae.decode(z, **given)
        yield "a draw of the guide", z
        yield "log p(z)", prior.log_prob(z)
        yield "log p(x|z)", elements.log_prob(x)
        yield "the loss", ELBO().tensor_loss(vae.model, vae.guide, x, torch.ones_like(x, dtype=torch.bool), **given)
        yield "a draw of the prior", prior.sample()
        yield "a draw of x", elements.sample()

    expect_on_one_device(results)


CHECKS: tuple[Check, ...] = (
    draws_inside_plates,
    weighs_by_its_densities,
    leaves_out_what_is_not_observed,
    trains_by_the_elbo,
    step_can_be_recorded,
    description_rebuilds,
    vae_moves_and_casts,
    vae_stays_on_its_device,
)
