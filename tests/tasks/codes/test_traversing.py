"""Traversals: exact on a linear model, in the order of the KL."""

from functools import partial
from typing import Any

import pytest
import torch

from pyro_vae import VAE, HierarchicalVAE, guides
from pyro_vae.errors import UsageError
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import generator
from pyro_vae.tasks.codes import aggregate_posterior, traverse
from tests.support.ppca import make_exact, truth, vae_of

SMALL: Any = {"encoder": partial(MLP, hidden=(5,)), "decoder": partial(MLP, hidden=(5,))}


def linear():
    process = truth()
    return (
        process,
        make_exact(vae_of(process), process),
        torch.randn(50, 6, generator=generator(0, "x"), dtype=torch.float64),
    )


def test_rows_of_a_linear_model():
    process, vae, x = linear()
    found = traverse(vae, x, steps=5, span=2.0)
    q = aggregate_posterior(vae, x)
    steps = torch.linspace(-2, 2, 5, dtype=torch.float64)
    for row, dim in enumerate(found.dims.tolist()):
        apart = (steps * q.variance[dim].sqrt())[:, None] * process.weight[:, dim]
        assert torch.allclose(found.x[row], process.bias + process.weight @ q.mean + apart, atol=1e-10)
        assert torch.allclose(found.values[row], q.mean[dim] + steps * q.variance[dim].sqrt(), atol=1e-10)
        assert torch.allclose(found.change[row], apart.square().mean().sqrt(), atol=1e-10)


def test_order_is_that_of_the_kl():
    process, vae, x = linear()
    mean, covariance = process.posterior(x)
    kl = (mean.square() + covariance.diagonal() - 1 - covariance.diagonal().log()) / 2
    found = traverse(vae, x)
    assert torch.allclose(found.kl, kl.mean(0).sort(descending=True).values, atol=1e-10)
    assert torch.equal(found.dims, kl.mean(0).argsort(descending=True))
    assert torch.allclose(found.kl_standard_error, kl.std(0)[found.dims] / 50**0.5, atol=1e-10)
    assert torch.equal(found.first(2).x, found.x[:2]) and len(found.first(2).dims) == 2


def test_along_the_prior_and_around_a_datum():
    process, vae, x = linear()
    found = traverse(vae, x, steps=7, along="prior", datum=3)
    assert torch.allclose(found.values, torch.linspace(-3, 3, 7, dtype=torch.float64).expand(3, 7))
    assert torch.allclose(found.centre, process.posterior(x)[0][3], atol=1e-10)


def test_a_coordinate_that_carries_nothing_comes_last():
    vae = VAE((4,), 3, **SMALL)
    with torch.no_grad():
        vae.encoder.output.weight[1::3] = 0  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
        vae.encoder.output.bias[1::3] = 0  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
    found = traverse(vae, torch.rand(20, 4, generator=generator(0, "x")).round())
    assert found.dims[-1] == 1 and found.kl[-1].abs() < 1e-6


def test_a_context_is_decoded_with():
    vae = VAE((4,), 2, context=(3,), **SMALL)
    x, c = torch.rand(5, 4).round(), torch.eye(3)[[0, 1, 2, 0, 1]]
    found = traverse(vae, x, steps=3, datum=2, c=c)
    z = found.centre.clone()
    z[found.dims[0]] = found.values[0, 1]
    assert torch.allclose(found.x[0, 1], vae.decode(z.float(), c[2]).mean.detach(), atol=1e-6)


def test_refusals():
    vae, x = VAE((4,), 2, **SMALL), torch.ones(5, 4)
    with pytest.raises(UsageError, match="one latent site"):
        traverse(HierarchicalVAE((4,), latent_dims=(3, 2)), x)
    with pytest.raises(UsageError, match="along: expected"):
        traverse(vae, x, along="data")  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="from 0 to 4, got 5"):
        traverse(vae, x, datum=5)
    with pytest.raises(UsageError, match="span > 0"):
        traverse(vae, x, span=0.0)
    assert traverse(VAE((4,), 2, guide=guides.Delta, **SMALL), x).x.shape == (2, 7, 4)
