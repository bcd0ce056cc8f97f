"""The contract of a likelihood. Data are its own draws, so that no check depends on the family."""

from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor

from pyro_vae.errors import DataError, UsageError
from pyro_vae.likelihoods import Likelihood
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
from pyro_vae.testing.measure import Grid, expect_distributed, expect_normalised, grid_over
from pyro_vae.testing.modules import (
    LEADING,
    expect_copies_and_loads,
    expect_moves_and_casts,
    expect_recordable,
    expect_takes_options,
    perturbed,
)
from pyro_vae.testing.parts import Part

_NEAR, _CLIPPED = 0.02, 1.1e-3
"""Allowed error of the initial mean: in standard deviations of the data, and absolute, as means are clipped."""


def build(part: Part) -> Likelihood:
    """The likelihood."""
    return part(part.shapes())


def _likelihood(part: Part) -> Any:
    return perturbed(build(part))


def _params(likelihood: Likelihood, *leading: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random parameters, as a decoder may return them."""
    return torch.randn(*leading, *likelihood.param_shape, dtype=dtype)


def takes_its_options(part: Part) -> None:
    """It can be built with its defaults and with every option in its signature."""
    expect_takes_options(part, build)


def elementwise(part: Part) -> None:
    """With any leading dimensions: independent elements, draws inside the support, finite log-densities."""
    likelihood = _likelihood(part)
    if type(likelihood).param_shape is Likelihood.param_shape:
        expect_shape("param_shape", likelihood.param_shape, (likelihood.num_params, *part.event))
    for leading in LEADING:
        distribution = likelihood(_params(likelihood, *leading))
        expect_shape("batch shape", distribution.batch_shape, (*leading, *part.event))
        expect_shape("event shape", distribution.event_shape, (), "leave out to_event, the VAE applies it")
        x = distribution.sample()
        expect(likelihood.support.check(x).all(), f"draws inside the support ({likelihood.support})", "others")
        log_prob = distribution.log_prob(x)
        expect_shape("log_prob of shape", log_prob.shape, (*leading, *part.event))
        expect_finite("the log-density of its draws", log_prob)


def elements_do_not_mix(part: Part) -> None:
    """The density of one element depends on its own value and parameters alone."""
    likelihood = _likelihood(part).double()
    params = _params(likelihood, 3, dtype=torch.float64).requires_grad_()
    x = likelihood(params).sample()
    first = (0,) * x.dim()
    log_prob = likelihood(params).log_prob(x)
    one, rest = log_prob[first], log_prob.sum() - log_prob[first]
    own, others = (torch.autograd.grad(total, params, retain_graph=True)[0] for total in (one, rest))
    shared = (own != 0) & (others != 0)
    expect(not shared.any(), "log p(x_1|z) to depend on the parameters of x_1 alone", "on others too")
    others = likelihood(params).sample()
    others[first] = x[first]
    got = likelihood(params).log_prob(others)[first]
    expect_close("log p(x_1|z) with other values of the other elements", got, likelihood(params).log_prob(x)[first])


def _measured(part: Part) -> tuple[Any, Grid, Tensor, Tensor]:
    """One p(x|z) in double precision, a grid with its probabilities, and 20,000 draws."""
    likelihood = _likelihood(part).double()
    with torch.no_grad():
        distribution = likelihood(_params(likelihood, dtype=torch.float64))
        draws = distribution.sample(torch.Size((20_000,)))
        grid = grid_over(likelihood.support, draws)
        return distribution, grid, grid.masses(distribution.log_prob), draws


def normalises(part: Part) -> None:
    """Its probabilities add up to 1: by enumeration, or by quadrature, in double precision."""
    expect_normalised(_measured(part)[2])


def draws_follow_the_density(part: Part) -> None:
    """20,000 draws of each element have the density that log_prob states."""
    _, grid, masses, draws = _measured(part)
    expect_distributed(draws, grid, masses)


def mean(part: Part) -> None:
    """`mean`, if implemented, is that of its density."""
    distribution, grid, masses, _ = _measured(part)
    try:
        got = distribution.mean.expand(grid.points.shape[1:])
    except NotImplementedError as reason:
        raise not_applicable("mean is not implemented") from reason
    expected, spread = _moments(grid, masses)
    known = got.isfinite()
    expect_close("the mean in spreads", (got / spread)[known], (expected / spread)[known], 1e-4, 1e-4)


def gradients(part: Part) -> None:
    """Log-densities have gradients for parameters of all elements and of the module, equal to finite differences."""
    likelihood = _likelihood(part).double()
    params = _params(likelihood, 8, dtype=torch.float64).requires_grad_()
    x = likelihood(params).sample()
    likelihood(params).log_prob(x).sum().backward()
    expect_gradient("the decoder's output", params.grad, "log p(x|z)")
    assert params.grad is not None
    reached = params.grad.abs().sum(0) > 0
    expect(reached.all(), "a gradient for every parameter of every element", f"none for {int((~reached).sum())}")
    expect_gradients(likelihood, "log p(x|z)")
    step = 1e-6 * torch.randn_like(params)
    with torch.no_grad():
        up, down = (likelihood(params + s).log_prob(x).sum() for s in (step, -step))
    expect_close("along a direction the slope", (params.grad * step).sum() / 1e-6, (up - down) / 2e-6, 1e-4, 1e-4)


def checks_its_data(part: Part) -> None:
    """`check` accepts draws and the placeholder; it refuses nan, infinity, values outside and other shapes."""
    likelihood = _likelihood(part)
    x = likelihood(_params(likelihood, 4)).sample()
    likelihood.check(x)
    likelihood.check(torch.full_like(x, likelihood.placeholder))
    tried = torch.tensor([-1e3, -0.5, 0.123456789, 1e6])
    outside = tried[~_first(likelihood.data_support.check(_everywhere(tried, part.event)))].tolist()
    for value in (nan, torch.inf, *outside):
        changed = x.clone()
        changed[(1,) + (0,) * len(part.event)] = value
        where = rf"1 of {x.numel()} values"
        _expect_refusal(likelihood, changed, [where, f"{value:.6g} at (1, ", likelihood.remedy])
    shape = f"expected shape [N >= 1, {', '.join(map(str, part.event))}]"
    for wrong in (x.unsqueeze(-1), x[:0], torch.cat([x, x], -1)):
        _expect_refusal(likelihood, wrong, [shape, f"got {list(wrong.shape)}"])


def _everywhere(values: Tensor, event: tuple[int, ...]) -> Tensor:
    """Each value at every element, `[n, *event]`."""
    return values.reshape(-1, *[1] * len(event)).expand(-1, *event)


def _first(values: Tensor) -> Tensor:
    """Those of the first element, `[n]`."""
    return values.flatten(1)[:, 0]


def _expect_refusal(likelihood: Likelihood, x: Tensor, said: list[str]) -> None:
    try:
        likelihood.check(x)
    except DataError as error:
        missing = [text for text in said if text not in str(error)]
        expect(not missing, f"the message to say {missing}", str(error))
    else:
        expect(False, f"DataError ({said[0]})", "no error", "leave `check` to the base class and set `support`")


def feeds_encoders(part: Part) -> None:
    """`encoder_input` has its `input_shape` and is finite, with and without gaps, also for values off the support."""
    likelihood = _likelihood(part)
    x = likelihood(_params(likelihood, 3, 8)).sample()
    mask = torch.rand(x.shape) < 0.5
    with_gaps = torch.where(mask, x, likelihood.placeholder)
    for value, seen in ((x, None), (with_gaps, mask), (torch.randn_like(x), None)):
        got = likelihood.encoder_input(value, seen)
        expect_shape("encoder_input of shape", got.shape, (3, 8, *likelihood.input_shape))
        expect_finite("encoder_input", got)


def starts_from_data(part: Part) -> None:
    """`start_from` takes data in parts, with nan at the gaps, and leaves densities of the data finite."""
    likelihood = _likelihood(part)
    x = likelihood(_params(likelihood, 20)).sample()
    mask = torch.rand(x.shape) < 0.7
    with_nan = torch.where(mask, x, nan)
    likelihood.start_from([(with_nan[:12], mask[:12]), (x[12:], None)])
    expect_finite("the log-density of the data it started from", likelihood(_params(likelihood, 20)).log_prob(x))


def placeholder_counts_for_nothing(part: Part) -> None:
    """The placeholder has a finite log-density with finite gradients, so that times 0 they are 0, not nan."""
    likelihood = _likelihood(part)
    params = (4 * _params(likelihood, 8)).requires_grad_()
    distribution = likelihood(params)
    x = torch.full(distribution.batch_shape, likelihood.placeholder)
    expect(likelihood.support.check(x).all(), f"a placeholder inside {likelihood.support}", likelihood.placeholder)
    log_prob = distribution.log_prob(x)
    expect_finite("the log-density of the placeholder", log_prob)
    (gradient,) = torch.autograd.grad((log_prob * 0).sum(), params)
    expect(not gradient.isnan().any(), "a gradient of 0 for an element left out", "nan", "give another placeholder")


def starts_at_the_mean(part: Part) -> None:
    """`initial_params` for a possible mean and standard deviation give that mean; for constant data they are finite."""
    _, grid, masses, _ = _measured(part)
    expected, spread = _moments(grid, masses)
    likelihood = build(part)
    params = _initial(likelihood, expected.float(), spread.float())
    expect_shape("initial_params of shape", params.shape, likelihood.param_shape)
    got = likelihood(params).mean.detach().expand(expected.shape)
    off, near = (got - expected).abs(), _NEAR * spread + _CLIPPED
    expect((off <= near).all(), f"a start at the means {_listed(expected)}", _listed(got))
    constant = _initial(likelihood, torch.full(part.event, likelihood.placeholder), torch.zeros(part.event))
    expect_finite(f"initial_params for elements that are always {likelihood.placeholder}", constant)


def _moments(grid: Grid, masses: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element."""
    mean = (masses * grid.points).sum(0)
    return mean, (masses * (grid.points - mean).square()).sum(0).sqrt()


def _listed(values: Tensor) -> str:
    return ", ".join(f"{value:.4g}" for value in values.reshape(-1)[:6].tolist())


def _initial(likelihood: Likelihood, mean: Tensor, std: Tensor) -> Tensor:
    try:
        return likelihood.initial_params(mean, std)
    except UsageError as reason:
        raise not_applicable(reason) from reason


def single_precision(part: Part) -> None:
    """In float32 log-densities of draws are accurate to 1e-3 (1 + |log p|), for parameters of moderate size."""
    likelihood = _likelihood(part)
    params = (2 * _params(likelihood, 50)).clamp(-5, 5)
    with torch.no_grad():
        x = likelihood(params).sample()
        single = likelihood(params).log_prob(x)
        double = likelihood.double()(params.double()).log_prob(x.double())
    expect_close("in float32 log p(x|z)", single, double, 1e-3, 1e-3)


def stays_finite(part: Part) -> None:
    """For parameters of +-20 the log-density and its gradient are finite."""
    likelihood = _likelihood(part)
    x = likelihood(_params(likelihood, 50)).sample()
    params = (20 * _params(likelihood, 50).sign()).requires_grad_()
    log_prob = likelihood(params).log_prob(x)
    expect_finite("log p(x|z) at parameters of +-20", log_prob)
    (gradient,) = torch.autograd.grad(log_prob.sum(), params)
    expect_finite("the gradient of log p(x|z) at parameters of +-20", gradient)


def copies_and_loads(part: Part) -> None:
    """A deep copy computes the same, and so does a fresh instance with its state dict."""
    likelihood = build(part)
    params = _params(likelihood, 5)
    x = likelihood(params).sample()
    expect_copies_and_loads(partial(build, part), lambda likelihood: likelihood(params).log_prob(x))


def moves_and_casts(part: Part) -> None:
    """`to` moves all its tensors, and it computes in the dtype of its parameters."""
    params = _params(build(part), 5, dtype=torch.float64)
    expect_moves_and_casts(partial(build, part), lambda likelihood: likelihood(params).sample())


def can_be_recorded(part: Part) -> None:
    """A recorded graph of its log-density is also correct for other data, other parameters and other weights."""
    likelihood = _likelihood(part)
    params, others = _params(likelihood, 5), _params(likelihood, 5)
    x, y = likelihood(params).sample(), likelihood(others).sample()
    expect_recordable(likelihood, lambda params, x: likelihood(params).log_prob(x), [params, x], [others, y])


CHECKS: tuple[Check, ...] = (
    takes_its_options,
    elementwise,
    elements_do_not_mix,
    normalises,
    draws_follow_the_density,
    mean,
    gradients,
    checks_its_data,
    feeds_encoders,
    starts_from_data,
    placeholder_counts_for_nothing,
    starts_at_the_mean,
    single_precision,
    stays_finite,
    copies_and_loads,
    moves_and_casts,
    can_be_recorded,
    *whole.CHECKS,
)
