"""Exponentials that do not overflow: unchanged where they need not be, finite with a gradient elsewhere."""

import pytest
import torch

from pyro_vae.distributions.log_scales import LARGEST_LOG_SCALE, LEAST_LOG_SCALE, positive, tame, tame_scale


def test_unchanged_in_the_usual_range():
    log_scale = torch.linspace(LEAST_LOG_SCALE, LARGEST_LOG_SCALE, 1001)
    assert torch.equal(tame_scale(log_scale), log_scale)
    log_value = torch.linspace(-200, 30, 1001)
    assert torch.equal(tame(log_value), log_value) and torch.equal(positive(log_value), log_value.exp())


def test_continued_by_the_tangent():
    beyond = torch.tensor([0.0, 0.5, 3.0], dtype=torch.float64)
    assert torch.allclose(tame_scale(10 + beyond).exp(), torch.tensor(10.0).double().exp() * (1 + beyond))
    assert torch.allclose(positive(30 + beyond), torch.tensor(30.0).double().exp() * (1 + beyond))


@pytest.mark.parametrize("size", [100.0, 1e4, 1e6])
def test_finite_with_a_gradient_far_out(size):
    x = torch.tensor([-size, size], requires_grad=True)
    scale = tame_scale(x).exp()
    squares = torch.cat([scale.square(), scale.square().reciprocal()])
    assert squares.isfinite().all() and (squares > 0).all()
    (slope,) = torch.autograd.grad(tame_scale(x).sum(), x)
    assert slope.isfinite().all() and (slope >= 0).all()


def test_increasing():
    x = torch.linspace(-1000, 1000, 2001)
    assert (tame_scale(x).diff() > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_scale_is_tamed_at_both_ends_to_the_bit(dtype):
    sizes = torch.logspace(-30, 30, 601, dtype=dtype)
    x = torch.cat([-sizes, torch.tensor([0.0, -torch.inf, torch.inf], dtype=dtype), sizes]).requires_grad_()
    twice, once = -tame(-tame(x, LARGEST_LOG_SCALE), -LEAST_LOG_SCALE), tame_scale(x)
    assert torch.equal(twice, once)
    slopes = [torch.autograd.grad(value, x, torch.ones_like(value))[0] for value in (twice, once)]
    assert torch.equal(*slopes)
