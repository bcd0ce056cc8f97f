"""`pyro_vae.tasks`: draws obey their laws and their seeds, reconstructions and manifolds are the decoder's means."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.autoencoders import VAE, Autoencoder, HierarchicalVAE
from pyro_vae.errors import DataError, NumericalError, UsageError
from pyro_vae.likelihoods import Bernoulli, Likelihood, Normal
from pyro_vae.networks import MLP
from pyro_vae.process.seeding import seeded
from pyro_vae.shapes import Shapes
from pyro_vae.tasks.generation import manifold, reconstruct, sample
from tests.support.networks import Dropping


class Pair(Autoencoder):
    """A class y of the datum, given or drawn, and a code given it."""

    def __init__(self, event_shape):
        super().__init__()
        self.shapes, self.arguments = Shapes(event_shape, 2), {"event_shape": event_shape}
        self.likelihood = Normal(self.shapes)
        self.means = torch.nn.Parameter(torch.arange(3.0))
        self.encoder = MLP(event_shape, (2,), hidden=())

    def model(self, x, y=None):
        self.register()
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])), obs=y)
            z = pyro.sample("code", dist.Normal(self.means[y].unsqueeze(-1).expand(len(x), 2), 0.1).to_event(1))
            mean = z.sum(-1)[:, None, None].expand(len(x), 3, 4)
            pyro.sample("x", self.likelihood(mean.unsqueeze(1)).to_event(2), obs=x)

    def guide(self, x, y=None):
        self.register()
        with pyro.plate("data", len(x)):
            if y is None:
                y = pyro.sample("y", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
            loc = self.encoder(x) + self.means[y].unsqueeze(-1)
            pyro.sample("code", dist.Normal(loc, 1e-6).to_event(1))


class WithoutMean(Likelihood):
    def distribution(self, *params):
        normal = dist.Normal(params[0], torch.ones_like(params[0]))
        return dist.TransformedDistribution(normal, [dist.transforms.TanhTransform()])


@pytest.fixture
def vae() -> VAE:
    torch.manual_seed(0)
    return VAE((3, 4), latent_dim=2, encoder=partial(MLP, hidden=(16,)), decoder=partial(MLP, hidden=(16,)))


def data(n: int = 7) -> torch.Tensor:
    return torch.rand(n, 3, 4, generator=torch.Generator().manual_seed(1)).round()


def linear_vae(scale: float) -> VAE:
    """A VAE whose decoder's mean is linear in z, and whose guide has the standard deviation `scale`."""
    torch.manual_seed(0)
    affine = partial(MLP, hidden=())
    vae = VAE((3, 4), latent_dim=2, likelihood=Normal, encoder=affine, decoder=affine)
    with torch.no_grad():
        vae.encoder.output.weight[2:] = 0
        vae.encoder.output.bias[2:] = torch.tensor(scale).log()
    return vae


# ---- sample


def test_samples_are_shown_by_their_shapes(vae):
    found = sample(vae, 500)
    assert repr(found) == f"Generated(500 draws of x of {list(found.x.shape[1:])}, z of {list(found.z.shape[1:])})"


def test_samples_are_a_function_of_the_seed(vae):
    first, same, other = sample(vae, 5, seed=3), sample(vae, 5, seed=3), sample(vae, 5, seed=4)
    for name in ("z", "mean", "x"):
        assert torch.equal(getattr(first, name), getattr(same, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


@pytest.mark.parametrize("num", [1, 99, 100, 101, 250])
def test_few_samples_are_the_first_of_many(vae, num):
    few, many = sample(vae, num), sample(vae, 301)
    assert few.z.shape == (num, 2) and few.mean.shape == few.x.shape == (num, 3, 4)
    for name in ("z", "mean", "x"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:num])


def test_the_mean_is_the_decoders_at_the_code(vae):
    drawn = sample(vae, 150)
    assert torch.allclose(drawn.mean, vae.decode(drawn.z).mean, atol=1e-6)
    assert set(drawn.x.unique().tolist()) == {0.0, 1.0}


def test_codes_and_data_follow_their_laws(vae):
    """Fixed seed; over seeds each of the two fails once in a million."""
    drawn = sample(vae, 4000, seed=11)
    assert stats.kstest(drawn.z.flatten().numpy(), "norm").pvalue > 1e-6
    variance = (drawn.mean * (1 - drawn.mean)).double().sum()
    z_score = (drawn.x - drawn.mean).double().sum() / variance.sqrt()
    assert abs(z_score.item()) < stats.norm.isf(0.5e-6)


def test_the_draws_are_those_of_the_parts_one_after_the_other(vae):
    """By hand, tile by tile, on the tile's stream: to the bit."""
    drawn = sample(vae, 150, seed=7)
    for start in (0, 100):
        with seeded(7, "sample", start), torch.no_grad():
            z = vae.prior(vae.encode).sample((100,))
            x = vae.decode(z).sample()
        assert torch.equal(drawn.z[start : start + 100], z[: 150 - start])
        assert torch.equal(drawn.x[start : start + 100], x[: 150 - start])
    assert set(drawn.latents) == {"z"}


@pytest.mark.parametrize("ladder", [False, True])
def test_any_autoencoder_draws_its_own_sites(ladder):
    vae = HierarchicalVAE((3, 4), (3, 2), ladder=ladder)
    drawn, more = sample(vae, 5, seed=3), sample(vae, 130, seed=3)
    assert {name: tuple(value.shape) for name, value in drawn.latents.items()} == {"z1": (5, 3), "z2": (5, 2)}
    torch.testing.assert_close(drawn.mean, vae.decode(drawn.latents["z1"]).mean)
    assert torch.equal(drawn.x, more.x[:5]) and torch.equal(drawn.latents["z2"], more.latents["z2"][:5])
    with pytest.raises(UsageError, match=r"draws z2, z1: take latents\[name\]"):
        _ = drawn.z


def test_what_is_given_is_not_drawn():
    """The code lies within 0.6 of the class: 6 standard deviations, for 600 numbers."""
    vae = Pair((3, 4))
    y = torch.arange(150) % 3
    drawn = sample(vae, 150, y=y)
    assert set(drawn.latents) == {"code"} and ((drawn.latents["code"] - y[:, None]).abs() < 0.6).all()
    drawn = sample(vae, 150)
    assert set(drawn.latents) == {"y", "code"} and set(drawn.latents["y"].tolist()) == {0, 1, 2}
    assert ((drawn.latents["code"] - drawn.latents["y"][:, None]).abs() < 0.6).all()
    with pytest.raises(UsageError, match=r"y: expected one for each of 150 data, got \[7\]"):
        sample(vae, 150, y=y[:7])


def test_no_sample_is_refused(vae):
    with pytest.raises(UsageError, match="num must be at least 1, got 0"):
        sample(vae, 0)


# ---- reconstruct


def test_a_reconstruction_with_a_certain_code_is_the_mean_at_that_code():
    vae, x = linear_vae(scale=1e-12), torch.randn(7, 3, 4)
    assert torch.allclose(reconstruct(vae, x), vae.decode(vae.encode(x).mean).mean, atol=1e-5)


def test_a_reconstruction_averages_over_codes():
    """A linear decoder's mean of K draws is normal about its value at the mean code; fails once in a million seeds."""
    vae, x, draws = linear_vae(scale=0.7), torch.randn(7, 3, 4), 400
    expected = vae.decode(vae.encode(x).mean).mean
    spread = 0.7 * vae.decoder.output.weight.square().sum(1).sqrt().reshape(3, 4) / draws**0.5
    z_scores = (reconstruct(vae, x, num_particles=draws) - expected) / spread
    assert z_scores.abs().max().item() < stats.norm.isf(0.5e-6 / z_scores.numel())
    assert z_scores.abs().max().item() > 0.1


def test_reconstructions_are_a_function_of_the_seed_and_of_no_other_datum(vae):
    x = data(250)
    whole = reconstruct(vae, x, num_particles=3, seed=5)
    assert torch.equal(whole, reconstruct(vae, x, num_particles=3, seed=5))
    assert not torch.allclose(whole, reconstruct(vae, x, num_particles=3, seed=6))
    for n in (1, 40, 100, 230):
        assert torch.allclose(reconstruct(vae, x[:n], num_particles=3, seed=5), whole[:n], atol=1e-6)


def test_elements_that_are_not_observed_do_not_count(vae):
    x, mask = data(), torch.ones(3, 4, dtype=torch.bool)
    mask[1] = False
    holes = x.masked_fill(~mask, float("nan"))
    filled = reconstruct(vae, holes, mask)
    assert filled.shape == x.shape and filled.isfinite().all()
    assert torch.equal(filled, reconstruct(vae, x, mask.expand(7, 3, 4)))
    assert torch.equal(filled, reconstruct(vae, x.masked_fill(~mask, vae.likelihood.placeholder)))
    assert torch.equal(reconstruct(vae, x, torch.ones(7, 1, 1, dtype=torch.bool)), reconstruct(vae, x))


def test_each_datum_has_its_own_mask_in_every_tile(vae):
    x = data(130)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    assert torch.equal(reconstruct(vae, x, mask), reconstruct(vae, torch.where(mask, x, 0.0)))


def test_arguments_of_reconstruct_that_make_no_sense_are_refused(vae):
    with pytest.raises(UsageError, match="num_particles must be at least 1"):
        reconstruct(vae, data(), num_particles=0)
    with pytest.raises(DataError, match=r"expected shape \[N >= 1, 3, 4\], got \[2, 12\]"):
        reconstruct(vae, torch.zeros(2, 12))
    with pytest.raises(DataError, match="N >= 1"):
        reconstruct(vae, data(0))
    with pytest.raises(UsageError, match=r"broadcastable to \[7, 3, 4\], got \[5\]"):
        reconstruct(vae, data(), torch.ones(5, dtype=torch.bool))
    with pytest.raises(UsageError, match=r"expected bool, .* got torch.float32"):
        reconstruct(vae, data(), torch.ones(3, 4))


def test_any_autoencoder_reconstructs_given_its_inputs():
    """The model is run on what the guide drew: here the decoder's mean is the sum of a code that is certain."""
    vae, x, y = Pair((3, 4)), data(130), torch.arange(130) % 3
    expected = (vae.encoder(x) + y[:, None]).sum(-1)[:, None, None].expand(130, 3, 4)
    torch.testing.assert_close(reconstruct(vae, x, y=y), expected, atol=1e-4, rtol=0)
    drawn = reconstruct(vae, x)[:, 0, 0] - vae.encoder(x).sum(-1)
    assert set(drawn.round().tolist()) == {0.0, 2.0, 4.0}


# ---- manifold


def test_the_manifold_is_decoded_at_normal_quantiles(vae):
    side, margin = 12, 0.02
    grid = manifold(vae, side=side, margin=margin)
    assert grid.shape == (side, side, 3, 4)
    reach = stats.norm.ppf(1 - margin)
    corners = {(0, 0): (-reach, reach), (0, -1): (reach, reach), (-1, 0): (-reach, -reach), (-1, -1): (reach, -reach)}
    for (row, column), code in corners.items():
        expected = vae.decode(torch.tensor(code, dtype=torch.float32)).mean
        assert torch.allclose(grid[row, column], expected, atol=1e-5)
    u = margin + (1 - 2 * margin) * torch.arange(side) / (side - 1)
    inner = vae.decode(torch.tensor([stats.norm.ppf(u[3]), stats.norm.ppf(u[side - 1 - 7])], dtype=torch.float32)).mean
    assert torch.allclose(grid[7, 3], inner, atol=1e-5)


def test_arguments_of_manifold_that_make_no_sense_are_refused(vae):
    with pytest.raises(UsageError, match="latent_dim=2, got 3"):
        manifold(VAE((3, 4), latent_dim=3))
    with pytest.raises(UsageError, match="latent_dim=2, got a HierarchicalVAE"):
        manifold(HierarchicalVAE((3, 4), latent_dims=(1, 1)))
    for arguments in ({"side": 1}, {"margin": 0.0}, {"margin": 0.5}, {"margin": float("nan")}):
        with pytest.raises(UsageError, match=r"side >= 2 and 0 < margin < 0\.5"):
            manifold(vae, **arguments)


# ---- all of them


@pytest.mark.parametrize(
    "task", [lambda v: sample(v, 3).x, lambda v: reconstruct(v, data()), lambda v: manifold(v, 3)], ids=["s", "r", "m"]
)
def test_nothing_is_changed_by_a_task(task):
    torch.manual_seed(0)
    vae = VAE((3, 4), latent_dim=2, encoder=Dropping, decoder=Dropping)
    vae.encoder.eval()
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    modes, generator = [m.training for m in vae.modules()], torch.get_rng_state()
    first = task(vae)
    torch.testing.assert_close(task(vae), first, rtol=0, atol=0)
    assert not first.requires_grad and first.device.type == "cpu"
    assert [m.training for m in vae.modules()] == modes and torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(value, state[name]) for name, value in vae.state_dict().items())
    assert not pyro.get_param_store().keys()


def test_a_vae_in_double_precision_gives_double_precision(vae):
    vae.double()
    assert sample(vae, 2).mean.dtype == reconstruct(vae, data()).dtype == manifold(vae, 2).dtype == torch.float64


def test_a_likelihood_without_a_mean_is_refused_with_its_name():
    with pytest.raises(UsageError, match="TransformedDistribution, whose mean is not known"):
        sample(VAE((3, 4), latent_dim=2, likelihood=WithoutMean), 2)


@pytest.mark.parametrize("likelihood", [Bernoulli, Normal])
def test_a_decoder_that_is_not_finite_is_refused(likelihood):
    vae = VAE((3, 4), latent_dim=2, likelihood=likelihood)
    with torch.no_grad():
        vae.decoder.output.bias.fill_(float("nan"))
    for task in (lambda: sample(vae, 2), lambda: reconstruct(vae, data()), lambda: manifold(vae, 2)):
        with pytest.raises(NumericalError, match=r"E\[x\|z\] is not finite"):
            task()
