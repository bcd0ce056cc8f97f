"""The denoising criterion: its value at the exact posterior in closed form, who sees the noise, and how much it is."""

from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.errors import UsageError
from pyro_vae.guides import Delta, SemiAmortized
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, IWAE, Denoising, DReG, StickingTheLanding, WakeSleep
from pyro_vae.process.seeding import seeded
from pyro_vae.schedules import Linear
from tests.support.ppca import make_exact, truth, vae_of

KINDS = ["mask", "salt_and_pepper", "normal"]
SMALL = partial(MLP, hidden=(4,))


class Watched:
    """A guide that keeps what it is given."""

    def __init__(self, guide):
        self.guide, self.seen = guide, []

    def __call__(self, x, *args, **kwargs):
        self.seen.append(x)
        return self.guide(x, *args, **kwargs)


def moments(noise, amount, low, high, x):
    """Mean and variance of what the noise adds to each element."""
    if noise == "normal":
        return torch.zeros_like(x), torch.full_like(x, amount**2)
    jumps = {"mask": [(amount, low)], "salt_and_pepper": [(amount / 2, low), (amount / 2, high)]}[noise]
    mean = sum(p * (value - x) for p, value in jumps)
    return mean, sum(p * (value - x).square() for p, value in jumps) - mean.square()


class TestExactPosterior:
    """The posterior of other data, N(A x~ + a, C), is off by a KL of (A d)^T C^-1 (A d) / 2 for d = x~ - x."""

    @pytest.mark.parametrize("noise", KINDS)
    def test_value(self, noise):
        """The mean over 200 evaluations is known; within 5.5 standard errors, so a false alarm has 4e-8."""
        process = truth()
        vae, x = make_exact(vae_of(process), process), process.sample(50, seed=1).double()
        objective = Denoising(ELBO(), noise, amount=0.3, low=-1.0, high=2.0)
        _, covariance = process.posterior(x)
        slope = covariance @ process.weight.T / process.scale**2
        precision = slope.T @ torch.linalg.inv(covariance) @ slope
        mean, variance = moments(noise, 0.3, -1.0, 2.0, x)
        kl = ((mean @ precision * mean).sum(-1) + variance @ precision.diagonal()) / 2
        expected = (kl - process.log_prob(x)).sum()
        with seeded(0, "test"), torch.no_grad():
            losses = torch.stack([objective(vae.model, vae.guide, x) for _ in range(200)])
        assert kl.mean() > 0.2 and (losses.mean() - expected).abs() < 5.5 * losses.std() / 200**0.5

    @pytest.mark.parametrize("noise", KINDS)
    @pytest.mark.parametrize("objective", [ELBO(), IWAE(3), DReG(3), StickingTheLanding()], ids=str)
    def test_without_noise_it_is_the_objective(self, objective, noise):
        process = truth()
        vae, x = make_exact(vae_of(process), process), process.sample(20, seed=1)
        still = Denoising(objective, noise, amount=0.0)
        assert still.is_bound and not Denoising(objective, noise, amount=0.1).is_bound
        torch.testing.assert_close(still(vae.model, vae.guide, x), -process.log_prob(x).sum(), rtol=0, atol=1e-6)


def test_an_autoencoder_reconstructs_clean_data():
    """Vincent's criterion: -log p(x | mu(x~)), no more."""
    vae, x = VAE((5,), 2, likelihood=Normal, guide=Delta, encoder=SMALL, decoder=SMALL), torch.randn(7, 5)
    guide, seen = Watched(vae.guide), []
    loss = Denoising(ELBO(beta=0.0), "normal", 0.5)(lambda x: seen.append(x) or vae.model(x), guide, x)
    (corrupted,) = guide.seen
    assert seen[0] is x and (corrupted != x).all()
    torch.testing.assert_close(loss, -vae.decode(vae.encode(corrupted).mean).log_prob(x).sum())


@pytest.mark.parametrize("noise", KINDS)
def test_amount(noise):
    """60,000 elements: shares and deviations within 5.5 standard errors, a false alarm of 4e-8 each."""
    guide, x = Watched(lambda x: None), torch.full((100, 20, 30), 0.25)
    objective = Denoising(ELBO(), noise, amount=0.3)
    with seeded(0, "test"):
        objective._corrupting(guide, x)(x)
    (corrupted,) = guide.seen
    error = 5.5 * (0.3 * 0.7 / x.numel()) ** 0.5
    if noise == "normal":
        off = corrupted - x
        assert off.mean().abs() < 5.5 * 0.3 / x.numel() ** 0.5
        assert (off.std() - 0.3).abs() < 5.5 * 0.3 / (2 * x.numel()) ** 0.5
    else:
        values, counts = corrupted.unique(return_counts=True)
        shares = dict(zip(values.tolist(), (counts / x.numel()).tolist(), strict=True))
        expected = {"mask": {0.0: 0.3, 0.25: 0.7}, "salt_and_pepper": {0.0: 0.15, 0.25: 0.7, 1.0: 0.15}}[noise]
        assert set(shares) == set(expected)
        assert all(abs(shares[value] - share) < error for value, share in expected.items())


@pytest.mark.parametrize("objective", [StickingTheLanding(2), DReG(3)], ids=str)
def test_a_guide_that_runs_twice_sees_one_corruption(objective):
    vae, x = HierarchicalVAE((6,), (3, 2), encoder=SMALL, decoder=SMALL), torch.ones(5, 6)
    guide = Watched(vae.guide)
    Denoising(objective, amount=0.5)(vae.model, guide, x).backward()
    first, second = guide.seen
    assert torch.equal(first, second) and 0 < first.mean() < 1


def test_dreams_are_corrupted_too():
    vae, x = VAE((6,), 2, encoder=SMALL, decoder=SMALL), torch.ones(500, 6)
    guide = Watched(vae.guide)
    Denoising(WakeSleep(), "normal", 0.5)(vae.model, guide, x).backward()
    awake, asleep = guide.seen
    assert (awake != 1).all() and ((asleep != 0) & (asleep != 1)).all()


def test_bytes_become_numbers():
    guide, x = Watched(lambda x: None), torch.ones(50, 4, dtype=torch.uint8)
    for noise in KINDS:
        Denoising(ELBO(), noise, 0.5)._corrupting(guide, x)(x)
    assert all(seen.float().std() > 0 for seen in guide.seen)


def test_schedules_of_both():
    objective = Denoising(ELBO(beta=Linear(0.0, 1.0, epochs=2.0)), amount=Linear(0.4, 0.0, epochs=4.0))
    assert set(objective.schedules) == {"amount", "objective.beta"}
    now = objective.at(1.0, 4.0)
    assert now.objective == ELBO(beta=0.5) and now.amount == pytest.approx(0.3)
    assert not objective.settled(3.0, 4.0) and objective.settled(4.0, 4.0)
    held = objective.holding({"amount": torch.tensor(0.1), "objective.beta": torch.tensor(0.2)})
    assert (held.amount, held.objective.beta) == (torch.tensor(0.1), torch.tensor(0.2))
    assert isinstance(objective.amount, Linear) and isinstance(objective.objective.beta, Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "blur"}, "'mask', 'salt_and_pepper' or 'normal', got 'blur'"),
        ({"amount": -0.1}, "Denoising needs amount >= 0, got -0.1"),
        ({"amount": 1.1}, "an amount of at most 1, a probability, for mask"),
        ({"objective": 3}, "one of pyro_vae.objectives, got int"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(UsageError, match=message):
        Denoising(**options)


def test_refuses_guides_that_ask_the_likelihood_about_noise():
    vae, x = VAE((5,), 2, guide=SemiAmortized, encoder=SMALL, decoder=SMALL), torch.ones(4, 5)
    assert Denoising()(vae.model, vae.guide, x).isfinite()
    with pytest.raises(UsageError, match="take noise that keeps them what the likelihood is for"):
        Denoising(noise="normal")(vae.model, vae.guide, x)


def test_refuses_programs_without_data():
    for args in ((), ("x",), (torch.tensor(1.0),)):
        with pytest.raises(UsageError, match="the programs' first argument, data with the batch in front"):
            Denoising()(lambda *_: None, lambda *_: None, *args)
