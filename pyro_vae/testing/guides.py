"""The contract of a guide."""

from typing import Any

import torch
from torch import Tensor

from pyro_vae.guides import Guide
from pyro_vae.process.seeding import seeded
from pyro_vae.testing import code_distributions as codes
from pyro_vae.testing import inside_a_vae as whole
from pyro_vae.testing.contract import (
    Check,
    expect,
    expect_close,
    expect_finite,
    expect_gradient,
    expect_gradients,
    expect_shape,
    not_applicable,
)
from pyro_vae.testing.measure import SameNoise, expect_mean, line
from pyro_vae.testing.modules import (
    LEADING,
    expect_copies_and_loads,
    expect_moves_and_casts,
    expect_recordable,
    expect_takes_options,
    perturbed,
)
from pyro_vae.testing.parts import Part

_DRAWS = 2000


def build(part: Part, latent: int | None = None) -> Guide:
    """The guide."""
    return part(part.shapes(latent))


def _guide(part: Part, latent: int | None = None) -> Any:
    return perturbed(build(part, latent))


def _params(guide: Guide, *leading: int, scale: float = 0.5, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random variational parameters, as an encoder may return them."""
    return scale * torch.randn(*leading, *guide.param_shape, dtype=dtype)


def _one(part: Part, latent: int) -> codes.Codes:
    """q(z|x) of one datum in double precision."""
    guide = _guide(part, latent).double()
    return guide.distribution(_params(guide, dtype=torch.float64))


def takes_its_options(part: Part) -> None:
    """It can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def shapes(part: Part) -> None:
    """Batch shape of the parameters' leading dimensions, event shape (latent,), reparameterised draws."""
    for latent in (1, part.latent, 20):
        guide = _guide(part, latent)
        for leading in LEADING:
            distribution = guide.distribution(_params(guide, *leading))
            codes.expect_codes(distribution, leading, latent)
            expect(distribution.has_rsample, "has_rsample", "False", "draws of a guide must be reparameterised")


def rows_do_not_mix(part: Part) -> None:
    """q(z|x) of one datum does not depend on the other data of the batch."""
    guide = _guide(part).double()
    params = _params(guide, 4, dtype=torch.float64)
    codes.expect_rows_apart(guide.distribution(params), [guide.distribution(row) for row in params])


def normalises(part: Part) -> None:
    """Its density integrates to 1."""
    on_line, on_plane = _one(part, 1), _one(part, 2)
    codes.require_density(on_line)
    codes.expect_codes_normalised(on_line, on_plane)


def draws_follow_the_density(part: Part) -> None:
    """Draws have the density that log_prob states, in one dimension and in more."""
    on_line = _one(part, 1)
    codes.require_spread(on_line)
    codes.expect_density_of_draws(_one(part, part.latent))
    codes.require_density(on_line)
    codes.expect_draws_follow(on_line)


def density_at_a_copy(part: Part) -> None:
    """At a draw and at a copy of it, the log-density and its gradient are equal."""
    guide = _guide(part, 3).double()
    params = _params(guide, 5, scale=0.3, dtype=torch.float64)
    codes.require_density(guide.distribution(params))
    values, gradients = zip(*(_at_a_draw(guide, params, copied) for copied in (False, True)), strict=True)
    expect_close("at a draw the log-density of an equal tensor,", values[0], values[1], 1e-6, 1e-6)
    expect_close("at a draw the gradient at an equal tensor,", gradients[0], gradients[1], 1e-5, 1e-6)


def _at_a_draw(guide: Guide, params: Tensor, copied: bool) -> tuple[Tensor, Tensor]:
    leaf = params.clone().requires_grad_()
    with seeded(1, "draw"):
        distribution = guide.distribution(leaf)
        z = distribution.rsample()
    value = distribution.log_prob(z + 0 if copied else z)
    return value, torch.autograd.grad(value.sum(), leaf)[0]


def moments(part: Part) -> None:
    """`mean` and `variance`, if implemented, agree with its draws."""
    guide = _guide(part)
    codes.expect_moments(guide.distribution(_params(guide)))


def starts_as_wide_as_the_prior(part: Part) -> None:
    """At `initial_params` the standard deviations of q(z|x) are between 0.5 and 2, in each dimension."""
    guide = build(part, 3)
    start = guide.initial_params()
    expect_shape("initial_params of shape", start.shape, guide.param_shape)
    q = guide.distribution(start.nan_to_num().expand(2, *start.shape))
    codes.require_spread(q)
    if start.isnan().all():
        raise not_applicable("initial_params leaves the start to the encoder")
    std = codes.draw(q, _DRAWS).std(0)
    low, high = std.min().item(), std.max().item()
    expect(0.5 < low <= high < 2, "standard deviations from 0.5 to 2", f"{low:.3g} to {high:.3g}")


def gradients(part: Part) -> None:
    """A draw has a gradient for each variational parameter; with its log-density, for every parameter of the guide."""
    guide = _guide(part, 3)
    params = _params(guide, 64, scale=1.0).requires_grad_()
    distribution = guide.distribution(params)
    z = distribution.rsample()
    (pathwise,) = torch.autograd.grad(_score(z).sum(), params, retain_graph=True)
    reached = pathwise.reshape(64, -1).abs().sum(0) > 0
    expect_finite("the gradient of a draw", pathwise)
    missing = int((~reached).sum())
    expect(missing == 0, "a gradient of a draw for every number the encoder gives", f"none for {missing}")
    (_score(z).sum() - distribution.log_prob(z).sum()).backward()
    expect_gradients(guide, "a draw and its log-density")
    expect_gradient("the encoder's output", params.grad, "a draw and its log-density")


def _score(z: Tensor) -> Tensor:
    """An asymmetric function of codes, `[*leading]`."""
    weight = torch.linspace(0.3, 1.1, z.shape[-1], dtype=z.dtype)
    return (z @ weight).sin() + (0.5 * z.square()) @ weight.flip(0)


def gradient_of_an_average(part: Part) -> None:
    """The pathwise gradient is unbiased: its mean is the gradient of E[f(z)] by quadrature, in one dimension.

    20,000 draws, within 5.5 standard errors: false alarms 4e-8 for each variational parameter.
    """
    guide = _guide(part, 1).double()
    one = _params(guide, dtype=torch.float64).requires_grad_()
    codes.require_density(guide.distribution(one))
    grid = line(codes.draw(guide.distribution(one), 2000))
    masses = grid.masses(lambda z: guide.distribution(one).log_prob(z).unsqueeze(-1))
    (expected,) = torch.autograd.grad((masses * _bounded(grid.points)).sum(), one)
    many = one.detach().expand(20_000, *one.shape).clone().requires_grad_()
    (drawn,) = torch.autograd.grad(_bounded(guide.distribution(many).rsample()).sum(), many)
    expect_mean("the gradient of E[f(z)]", drawn, expected, 1e-6)


def _bounded(z: Tensor) -> Tensor:
    """A bounded function of codes of one dimension."""
    return (z + 0.4).tanh()


def single_precision(part: Part) -> None:
    """The log-density at its own draws is accurate in float32, also for large and ill-conditioned parameters.

    In 20 dimensions, 2,000 draws: -log q in float32 averages to that in float64 on the same noise, within 0.05 nats
    and 5.5 standard errors of their difference, with the same spread; its mean is the entropy, if that is implemented.
    """
    guide, draws = _guide(part, 20), []
    params = _params(guide, scale=3.0)
    for wide in (False, True):
        module, given = (guide.double(), params.double()) if wide else (guide, params)
        with seeded(1, "noise"), SameNoise(), torch.no_grad():
            distribution = module.distribution(given).expand(torch.Size((_DRAWS,)))
            draws.append(-distribution.log_prob(distribution.rsample()).double())
    single, double = draws
    expect_finite("-log q of draws in float32", single)
    expect_mean("-log q of draws in float32 less that in float64, on average", single - double, torch.zeros(()), 0.05)
    expected = f"-log q of draws with spread {double.std():.4g}"
    expect((single.std() - double.std()).abs() <= 0.2 * double.std(), expected, f"{single.std():.4g}")
    _expect_entropy(guide.distribution(params.double()), single)


def _expect_entropy(distribution: codes.Codes, neg_log_q: Tensor) -> None:
    try:
        entropy = distribution.entropy().detach()
    except NotImplementedError:
        return
    expect_mean("-log q of draws with mean (the entropy)", neg_log_q, entropy)


def copies_and_loads(part: Part) -> None:
    """A deep copy computes the same, and so does a fresh instance with its state dict."""
    params = _params(build(part), 5)

    def evaluate(guide: Guide) -> Tensor:
        with seeded(1, "draw"):
            return guide.distribution(params).rsample()

    expect_copies_and_loads(lambda: build(part), evaluate)


def moves_and_casts(part: Part) -> None:
    """`to` moves all its tensors, and it computes in the dtype of its parameters."""
    params = _params(build(part), 5, dtype=torch.float64)
    expect_moves_and_casts(lambda: build(part), lambda guide: guide.distribution(params).rsample())


def can_be_recorded(part: Part) -> None:
    """A recorded graph of a draw and its log-density is also correct for other data and other weights."""
    guide = _guide(part)

    def function(params: Tensor) -> Tensor:
        distribution = guide.distribution(params)
        z = distribution.rsample()
        return torch.cat([z, distribution.log_prob(z).unsqueeze(-1)], -1)

    expect_recordable(guide, function, [_params(guide, 5)], [_params(guide, 5)])


CHECKS: tuple[Check, ...] = (
    takes_its_options,
    shapes,
    rows_do_not_mix,
    normalises,
    draws_follow_the_density,
    density_at_a_copy,
    moments,
    starts_as_wide_as_the_prior,
    gradients,
    gradient_of_an_average,
    single_precision,
    copies_and_loads,
    moves_and_casts,
    can_be_recorded,
    *whole.CHECKS,
)
