"""Full variational Bayes against truth: closed forms, and the evidence of a model whose only weight is a mean."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from pyro_vae import VAE, fit, load
from pyro_vae.cli import main
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP, Bayesian, weight_divergence
from pyro_vae.objectives import ELBO
from pyro_vae.process.seeding import seeded
from tests.support.rows import agree


class Constant(nn.Module):
    """An output that is the same for every input."""

    def __init__(self, in_shape, out_shape):
        super().__init__()
        self.bias = nn.Parameter(torch.full(out_shape, 0.3, dtype=torch.float64))

    def forward(self, x):
        return self.bias.expand(len(x), *self.bias.shape) + 0 * x.sum()


def constant_vae(guide=DiagonalNormal, **options):
    """x ~ N(b, 0.5^2), b ~ N(0, 1): z plays no part."""
    decoder = partial(Bayesian, network=Constant, **options)
    affine = partial(MLP, hidden=())
    return VAE((1,), 1, likelihood=partial(Normal, scale=0.5), guide=guide, encoder=affine, decoder=decoder).double()


def data(n=8):
    return 0.7 + 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def log_evidence(x):
    """Of the whole data set: x = b + noise is a normal vector."""
    n = len(x)
    covariance = torch.ones(n, n, dtype=x.dtype) + 0.25 * torch.eye(n, dtype=x.dtype)
    return torch.distributions.MultivariateNormal(torch.zeros(n, dtype=x.dtype), covariance).log_prob(x[:, 0])


def test_divergence_is_that_of_torch():
    network = Bayesian((3,), (2, 4), partial(MLP, hidden=(5,)), prior_scale=0.7, start_scale=0.2)
    for p in network.log_scales:
        nn.init.normal_(p)
    pairs = zip(network.mean.parameters(), network.log_scales, strict=True)
    expected = sum(kl_divergence(TorchNormal(m, s.exp()), TorchNormal(0.0, 0.7)).sum() for m, s in pairs)
    torch.testing.assert_close(network.divergence(), expected)
    both = nn.ModuleList([network, nn.Linear(2, 2), network])
    torch.testing.assert_close(weight_divergence(both), expected)
    assert weight_divergence(nn.Linear(2, 2)) == 0


def test_draws_in_training_and_the_mean_in_evaluation():
    """An affine network at a fixed input: its output is normal with known mean and variance; 5 standard errors."""
    network = Bayesian((3,), (2,), partial(MLP, hidden=()), start_scale=0.3).double()
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with seeded(0, "draws"), torch.no_grad():
        drawn = torch.stack([network.train()(x) for _ in range(4000)])
        shared = network.train()(x.expand(6, 3))
    mean = network.eval()(x).detach()
    assert agree(drawn, mean) and agree((drawn - mean).square(), torch.full((2,), 0.09 * (x @ x + 1), dtype=x.dtype))
    assert (shared == shared[0]).all() and torch.equal(network.eval()(x), network.mean(x))


def test_the_gradient_of_a_step_is_that_of_the_bound():
    """E[log p(x|b)] - KL(q(b) || p(b)) of the batch's share, which is a closed form here; 5 standard errors."""
    from pyro_vae.data import as_dataset
    from pyro_vae.distributed import World
    from pyro_vae.schedules import Constant as Fixed
    from pyro_vae.training.plan import Plan
    from pyro_vae.training.settings import Settings

    vae, x = constant_vae(start_scale=0.4).train(), data()
    settings = Settings(1, 4, torch.optim.Adam, Fixed(), None, 1.0, None, False, 0, 1)
    plan = Plan(vae, as_dataset(x), ELBO(), settings, World())
    bias, log_scale = vae.decoder.mean.module.bias, vae.decoder.log_scales[0]
    m, s = (p.detach().clone().requires_grad_() for p in (bias, log_scale))
    fits = -((x[:4] - m).square() + (2 * s).exp()).sum() / (2 * 0.25)
    kl = kl_divergence(TorchNormal(m, s.exp()), TorchNormal(0.0, 1.0)).sum()
    expected = torch.cat(torch.autograd.grad(-(fits - kl * 4 / 8), [m, s])).flatten()

    def gradient():
        loss = ELBO()(vae.model, vae.guide, x[:4]) + plan.weight_penalty(4)
        return torch.cat(torch.autograd.grad(loss, [bias, log_scale])).flatten()

    with seeded(0, "gradients"):
        found = torch.stack([gradient() for _ in range(500)])
    assert found.std(0).min() > 0.1 and agree(found, expected)


def test_training_finds_the_posterior_and_the_evidence():
    """The posterior of b is normal, so the best bound of the whole data set is its log-evidence."""
    vae, x = constant_vae(start_scale=0.1), data()
    rate = partial(torch.optim.Adam, lr=0.02)
    for lr, epochs in ((0.05, 150), (0.002, 400)):
        rate = partial(torch.optim.Adam, lr=lr)
        fit(vae, x, ELBO(num_particles=1), epochs=epochs, batch_size=8, optimizer=rate, progress=False, compile=False)
    precision = 1 + len(x) / 0.25
    mean, scale = x.sum() / 0.25 / precision, precision**-0.5
    bias, found = vae.decoder.mean.module.bias.item(), vae.decoder.log_scales[0].exp().item()
    assert bias == pytest.approx(mean.item(), abs=0.03) and found == pytest.approx(scale, rel=0.1)
    fits = TorchNormal(bias, 0.5).log_prob(x).sum() - len(x) * found**2 / (2 * 0.25)
    bound = (fits - weight_divergence(vae)).item()
    evidence = log_evidence(x).item()
    assert evidence - 0.05 < bound <= evidence


def test_the_prior_of_other_weights_leaves_them_out():
    """`weight_prior` is for weights without a posterior of their own."""
    from pyro_vae.networks.bayesian import other_parameters

    vae = VAE((4,), 2, decoder=partial(Bayesian, network=partial(MLP, hidden=(3,))))
    assert other_parameters(vae.decoder) == [] and len(other_parameters(vae)) == len(list(vae.encoder.parameters()))
    with pytest.raises(UsageError, match=r"those of this decoder have a posterior .*: leave weight_prior out"):
        fit(vae, torch.zeros(5, 4), weight_prior=1.0, epochs=1, progress=False)


@pytest.mark.parametrize("name", ["prior_scale", "start_scale"])
def test_scales_are_positive(name):
    with pytest.raises(UsageError, match=f"{name} > 0"):
        Bayesian((2,), (3,), **{name: 0.0})


def test_from_the_command(tmp_path):
    """Trained, saved, loaded and evaluated at the posterior mean."""
    network = "--vae.decoder Bayesian --vae.decoder.network MLP --vae.decoder.network.hidden [8]"
    words = f"--epochs 1 --vae.latent_dim 2 {network}"
    run = tmp_path / "run"
    assert main(["fit", "--data", "digits", *words.split(), "--pictures", "false", "--quiet", "--run", str(run)]) == 0
    vae = load(run)
    assert vae.decoder.mean.hidden[0].out_features == 8 and weight_divergence(vae) > 0
    x = torch.rand(5, 8, 8).round()
    with torch.no_grad():
        assert torch.equal(vae.decode(vae.encode(x).mean).mean, vae.decode(vae.encode(x).mean).mean)
    assert main(["evaluate", str(run), "--num_particles", "20", "--num_data", "10"]) == 0
