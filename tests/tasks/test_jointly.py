"""`restore` where there is no exact p(y|z): x is drawn together with z, against closed forms and sums."""

from dataclasses import dataclass
from math import log, pi

import pytest
import torch
from scipy.stats import poisson

from pyro_vae import VAE
from pyro_vae.channels import Channel, NotExactError, Threshold
from pyro_vae.errors import UsageError
from pyro_vae.inference import HMC
from pyro_vae.likelihoods import Poisson
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks import restore
from pyro_vae.testing.ppca import linear_process, linear_vae, make_exact

PROCESS = linear_process(dim=4, latent=2)
STD, NUM = 0.5, 2000


@dataclass(frozen=True)
class OwnNoise(Channel):
    """Normal noise that says p(y|x) and no more."""

    std: float = STD

    def draw(self, x):
        return x + self.std * torch.randn_like(x)

    def log_density(self, y, x):
        return -((y - x) / self.std).square() / 2 - log(self.std) - log(2 * pi) / 2


@pytest.fixture(scope="module")
def exact():
    return make_exact(linear_vae(PROCESS), PROCESS)


@pytest.fixture(scope="module")
def y():
    with seeded(0, "noise"):
        y = OwnNoise().draw(PROCESS.sample(2, 1))
    y[1, 0] = torch.nan
    return y


def conditional(y):
    """Mean and covariance of x given the observed elements of y."""
    covariance = PROCESS.weight @ PROCESS.weight.T + PROCESS.scale**2 * torch.eye(4)
    seen = ~y.isnan()
    gain = covariance[:, seen] @ (covariance[seen][:, seen] + STD**2 * torch.eye(int(seen.sum()))).inverse()
    return PROCESS.bias + gain @ (y[seen] - PROCESS.bias[seen]), covariance - gain @ covariance[seen]


def expect_close(found, y, ess):
    """Mean and covariance within 5 standard errors of this many draws: false alarms 6e-7 for each of 40 numbers."""
    for n in range(len(y)):
        mean, covariance = conditional(y[n])
        variance = covariance.diagonal()
        assert ((found.mean[n] - mean).abs() < 5 * (variance / ess).sqrt()).all()
        error = (variance[:, None] * variance + covariance.square()).div(ess).sqrt()
        assert ((found.draws[:, n].T.cov() - covariance).abs() < 5 * error).all()


def test_metropolis_within_gibbs_of_probabilistic_pca(exact, y):
    """Chains of 250 rounds; at least 300 of the draws count as independent."""
    found = restore(exact, y, OwnNoise(), num_draws=NUM, method="gibbs", hmc=HMC(num_chains=16, num_warmup=30))
    assert found.methods == {"encoder": 0, "refined": 0, "gibbs": 2, "hmc": 0}
    assert (found.ess > 300).all() and list(found.latents) == ["z"]
    expect_close(found, y, 300)


def test_weighed_draws_of_probabilistic_pca(exact, y):
    """x by the decoder from the encoder's draws, weighed by p(y|x)."""
    found = restore(exact, y, OwnNoise(), num_draws=NUM, num_particles=20_000, method="encoder")
    assert (found.ess > 300).all()
    expect_close(found, y, 300)


def test_hmc_over_both(exact, y, monkeypatch):
    """400 draws of 2 chains, of which 100 are taken to count."""
    monkeypatch.setattr("pyro_vae.tasks.chains.CHAIN_DRAWS", 400)
    settings = HMC(num_chains=2, num_warmup=60, num_leapfrog=6)
    found = restore(exact, y[:1], OwnNoise(), num_draws=400, num_particles=100, method="hmc", hmc=settings)
    assert found.methods["hmc"] == 1 and found.draws.shape == (400, 1, 4)
    expect_close(found, y[:1], 100)


def test_counts_above_a_threshold():
    """Poisson counts known to be above 2 or not, against sums over a grid of the code: within 5 standard errors."""
    with seeded(0, "counts"):
        vae = VAE((3,), latent_dim=1, likelihood=Poisson)
    y = torch.tensor([[1.0, 0.0, torch.nan]])
    z = torch.linspace(-6, 6, 601)[:, None]
    rate = vae.decode(z).mean.detach().double()
    k = torch.arange(200)
    p = torch.from_numpy(poisson.pmf(k[:, None, None].numpy(), rate.numpy()))
    allowed = torch.stack([k > 2, k <= 2, k >= 0], -1).double()[:, None]
    mass, mean = (p * allowed).sum(0), (p * allowed * k[:, None, None]).sum(0)
    weight = torch.exp(-z.double().square().squeeze(-1) / 2) * mass.prod(-1)
    expected = (weight[:, None] * mean / mass).sum(0) / weight.sum()
    found = restore(vae, y, Threshold(2.0), num_draws=NUM, num_particles=100, method="gibbs", hmc=HMC(16, 20))
    assert (found.draws[:, 0, 0] > 2).all() and (found.draws[:, 0, 1] <= 2).all()
    sd = found.draws[:, 0].std(0)
    assert ((found.mean[0] - expected).abs() < 5 * sd / found.ess.clamp(max=NUM).sqrt()).all()
    assert (found.ess > 100).all()


def test_chains_that_do_not_move_are_flagged(y, monkeypatch):
    """The guide of an untrained encoder is hardly ever accepted where the model says much of z."""
    monkeypatch.setattr("pyro_vae.tasks.chains.CHAIN_DRAWS", 80)
    process = linear_process(dim=4, latent=2, scale=0.05)
    with seeded(0, "untrained"):
        vae = linear_vae(process)
    found = restore(vae, y, OwnNoise(), num_draws=20, num_particles=50, method="gibbs", hmc=HMC(4, 10))
    assert found.flagged.all()
    settings = HMC(num_chains=2, num_warmup=5, num_leapfrog=1)
    automatic = restore(vae, y, OwnNoise(), num_draws=20, num_particles=50, hmc=settings)
    assert automatic.flagged.all() and automatic.methods["gibbs"] == 2


def test_what_is_refused(exact, y):
    @dataclass(frozen=True)
    class Vague(Channel):
        def draw(self, x):
            return x

    with pytest.raises(NotExactError, match="Vague has no exact p"):
        restore(exact, y, Vague())
    with pytest.raises(
        UsageError, match="method 'refined' is not for this channel and likelihood, as there is no exact"
    ):
        restore(exact, y, OwnNoise(), method="refined")
    with pytest.raises(UsageError, match=r"method 'gibbs' is not .*, as p.y.z. is known"):
        restore(exact, y.round().clamp(0, 1), Threshold(), method="gibbs")
