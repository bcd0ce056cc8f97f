"""The aggregate posterior: its density by hand, its draws by their law, and as a prior."""

from functools import partial
from math import log
from typing import Any

import pyro
import pytest
import torch
from scipy.stats import kstest, norm

from pyro_vae import VAE, HierarchicalVAE, guides
from pyro_vae.errors import DataError, UsageError
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import generator, seeded
from pyro_vae.runs.describing import build_vae, describe
from pyro_vae.tasks.codes import AggregatePosterior, aggregate_posterior, with_aggregate

SMALL: Any = {"encoder": partial(MLP, hidden=(5,)), "decoder": partial(MLP, hidden=(5,))}


def bits(num, size=4):
    return torch.rand(num, size, generator=generator(0, "bits")).round()


def made(guide, latent=2):
    with seeded(0, "init"):
        return VAE((4,), latent, guide=guide, **SMALL).double()


@pytest.mark.parametrize("guide", [guides.DiagonalNormal, guides.FullNormal, guides.MixtureOfNormals])
@pytest.mark.parametrize(("batch", "most_pairs"), [(3, 2), (3, 7), (100, 2**22)])
def test_the_density_is_the_logsumexp_over_all_data(guide, batch, most_pairs):
    vae, x = made(guide), bits(7)
    q = aggregate_posterior(vae, x, batch=batch)
    q.most_pairs = most_pairs
    z = torch.randn(5, 3, 2, generator=generator(0, "z"), dtype=torch.float64)
    with torch.no_grad():
        each = vae.encode(x)
        expected = each.log_prob(z.unsqueeze(-2)).logsumexp(-1) - log(7)
    assert len(q) == 7 and torch.allclose(q.log_prob(z), expected, atol=1e-10)
    mean = each.mean.mean(0)
    assert torch.allclose(q.mean, mean)
    assert torch.allclose(q.variance, (each.variance + (each.mean - mean).square()).mean(0))


def test_draws_follow_the_density():
    """Blocks of 3, 3 and 1 data; uniform after the distribution function: a false alarm has probability 1e-5."""
    vae, x = made(guides.DiagonalNormal, latent=1), bits(7)
    q = aggregate_posterior(vae, x, batch=3)
    q.most_pairs = 500
    loc, scale = (value.numpy() for value in q.as_normals())
    with seeded(0, "draws"):
        z = q.sample((3000,))
    assert kstest(norm.cdf(z.numpy(), loc.T, scale.T).mean(1), "uniform").pvalue > 1e-5


def test_it_is_a_pyro_distribution():
    q = aggregate_posterior(made(guides.DiagonalNormal), bits(7))

    def program():
        with pyro.plate("data", 5):
            return pyro.sample("z", q)

    trace = pyro.poutine.trace(program).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert site["value"].shape == (5, 2) and site["log_prob"].shape == (5,)
    assert torch.equal(site["log_prob"], q.log_prob(site["value"]))
    z = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(q.log_prob(z).sum(), z)[0].abs().max() > 0


def test_as_a_prior():
    vae, x = made(guides.DiagonalNormal), bits(7)
    changed, q = with_aggregate(vae, x), aggregate_posterior(vae, x)
    z = torch.randn(20, 2, generator=generator(0, "z"), dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(changed.prior_distribution().log_prob(z), q.log_prob(z), atol=1e-12)
        assert torch.equal(changed.decode(z).mean, vae.decode(z).mean) and changed.prior is not vae.prior
    rebuilt = build_vae({name: describe(value) for name, value in changed.arguments.items()})
    assert rebuilt.prior.loc.shape == (7, 2)


def test_refusals():
    x = bits(3)
    with pytest.raises(UsageError, match="one latent site"):
        aggregate_posterior(HierarchicalVAE((4,), latent_dims=(3, 2)), x)
    with pytest.raises(UsageError, match="is a point"):
        aggregate_posterior(made(guides.Delta), x.double())
    with pytest.raises(UsageError, match="batch >= 1"):
        aggregate_posterior(made(guides.DiagonalNormal), x.double(), batch=0)
    with pytest.raises(DataError, match="0 data"):
        aggregate_posterior(made(guides.DiagonalNormal), x[:0].double())
    with pytest.raises(UsageError, match="FullNormal: fit a prior"):
        with_aggregate(made(guides.FullNormal), x.double())
    with pytest.raises(UsageError, match="without a context"):
        with_aggregate(VAE((4,), 2, context=(2,), **SMALL), x)
    assert isinstance(aggregate_posterior(made(guides.SplineFlow), x.double()), AggregatePosterior)
