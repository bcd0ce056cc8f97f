"""Normalised importance weights: those too small to count are zero, and nothing else changes."""

from functools import partial
from math import exp, log

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.likelihoods import Normal
from pyro_vae.objectives import IWAE, DReG, Renyi, ReweightedWakeSleep
from pyro_vae.objectives.base import log_mean_exp, weight_shares

SPREAD = torch.tensor([[0.0, -700.0], [-20.0, -701.0], [-40.0, -1500.0], [-90.0, -720.0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_are_those_of_torch(dtype):
    w = SPREAD.to(dtype)
    torch.testing.assert_close(log_mean_exp(w), torch.logsumexp(w, 0) - log(4), rtol=0, atol=0)
    torch.testing.assert_close(weight_shares(w), torch.softmax(w, 0), rtol=0, atol=torch.finfo(dtype).eps ** 2)


def test_what_does_not_count_is_zero():
    w = SPREAD.clone().requires_grad_()
    log_mean_exp(w).sum().backward()
    for shares in (weight_shares(SPREAD), w.grad):
        assert (shares > 0).tolist() == [[True, True], [True, True], [False, False], [False, True]]
        assert shares[1, 0].item() == pytest.approx(exp(-20), rel=1e-5)
        assert not ((shares > 0) & (shares < torch.finfo(torch.float32).eps ** 2)).any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_seen(bad):
    """By its own datum alone; weights that are all zero too."""
    w = torch.tensor([[0.0, 0.0, -torch.inf], [bad, 1.0, -torch.inf]])
    found = log_mean_exp(w)
    assert not found[0].isfinite() and found[1].isfinite() and found[2] == -torch.inf
    assert weight_shares(w)[:, 0].isnan().any() and weight_shares(w)[:, 1].isfinite().all()


@pytest.mark.parametrize(
    "objective",
    [IWAE(50), DReG(50), Renyi(0.5, 50), ReweightedWakeSleep(50)],
    ids=lambda objective: type(objective).__name__,
)
def test_no_gradient_is_denormal(objective):
    """The log-weights of a narrow likelihood spread over hundreds of nats, and no draw has a gradient that is tiny."""
    torch.manual_seed(0)
    vae = VAE((20,), 5, likelihood=partial(Normal, scale=0.07))
    seen = []
    vae.decoder.register_forward_hook(lambda module, inputs, output: output.register_hook(seen.append) and None)
    objective(vae.model, vae.guide, torch.randn(10, 20)).backward()
    size = torch.cat([gradient.flatten() for gradient in seen]).abs()
    assert (size == 0).double().mean() > 0.8  # most draws do not count
    assert not ((size > 0) & (size < torch.finfo(torch.float32).tiny)).any()
