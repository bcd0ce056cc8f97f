"""Monte Carlo EM against truth: posteriors, gradients, evidence and the maximum likelihood of probabilistic PCA."""

import signal
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE
from pyro_vae.data import Dataset, LinearGaussian
from pyro_vae.errors import CheckpointError, Stopped, UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import Delta, DiagonalNormal
from pyro_vae.inference.unconstrained import Target
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO, Denoising, MonteCarloEM
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import read_manifest, read_tensors
from pyro_vae.training.fitting import fit
from tests.support.ppca import make_exact, truth, vae_of
from tests.support.rows import agree
from tests.support.stopping import signals_at

LONG = MonteCarloEM(num_chains=2000, num_warmup=25)
"""25 trajectories of 10 steps from the prior: far more than posteriors of three dimensions need."""


@pytest.fixture
def process():
    return truth()


@pytest.fixture
def exact(process):
    return make_exact(vae_of(process), process)


@pytest.fixture
def x(process):
    return process.sample(4, seed=1)


def drawn(vae, x, objective=LONG):
    target = Target(vae.model, vae.guide, x)
    with seeded(3, "draws"):
        return objective.draw(target)


class TestDraws:
    def test_have_the_moments_of_the_posterior(self, process, exact, x):
        """2000 independent chains for each datum, within 5 standard errors: false alarms 6e-7 each."""
        z, (mean, covariance) = drawn(exact, x).z, process.posterior(x)
        off = z - mean
        assert agree(off.flatten(1), torch.zeros(off[0].numel(), dtype=off.dtype))
        products = torch.einsum("cni,cnj->cnij", off, off)
        assert agree(products.flatten(1), covariance.expand(len(x), 3, 3).flatten())

    @pytest.mark.parametrize("target", [0.9, 0.7])
    def test_acceptance_is_what_was_asked_for(self, exact, x, target):
        accept = drawn(exact, x, MonteCarloEM(num_chains=2000, num_warmup=25, target_accept=target)).accept
        assert abs(accept - target) < 0.02


def in_groups(vae, x, parameters=()):
    """The loss and its gradients by 40 groups of 100 chains, `[40, entries]`; the chains are independent draws."""
    z = drawn(vae, x, MonteCarloEM(num_chains=4000, num_warmup=20)).z.movedim(0, 1)
    rows = []
    for group in z.split(100, 1):
        loss = MonteCarloEM().holding({"z": group})(vae.model, vae.guide, x)
        found = torch.autograd.grad(loss, parameters) if parameters else [loss.detach()]
        rows.append(torch.cat([g.flatten() for g in found]))
    return torch.stack(rows)


class TestGradients:
    """Within 5 standard errors: false alarms 1e-5 for each entry, with 39 degrees of freedom."""

    def test_of_the_model_is_that_of_log_p(self, process, x):
        """Fisher's identity; the guide is far from the posterior, which does not matter."""
        vae = vae_of(process)
        weight, bias = (p.detach().clone().requires_grad_() for p in vae.decoder.parameters())
        identity = torch.eye(6, dtype=torch.float64)
        evidence = dist.MultivariateNormal(bias, weight @ weight.T + process.scale**2 * identity)
        expected = torch.autograd.grad(-evidence.log_prob(x + 1).sum(), [weight, bias])
        assert expected[1].abs().max() > 1
        assert agree(in_groups(vae, x + 1, list(vae.decoder.parameters())), torch.cat([g.flatten() for g in expected]))

    def test_of_the_guide_is_zero_at_the_posterior(self, exact, x):
        found = in_groups(exact, x, list(exact.encoder.parameters()))
        assert found.std(0).max() > 0.1 and agree(found, torch.zeros_like(found[0]))


class TestWhatIsReported:
    def test_is_log_p_and_the_divergence_of_the_guide(self, process, x):
        """Minus log p(x) minus KL(p(z|x) || q(z|x)), which is known for normal distributions."""
        vae = vae_of(process, guide=DiagonalNormal)
        mean, covariance = process.posterior(x)
        posterior = dist.MultivariateNormal(mean, covariance.expand(len(x), 3, 3))
        q = vae.encode(x).base_dist
        kl = torch.distributions.kl_divergence(
            posterior, dist.MultivariateNormal(q.loc, q.scale.square().diag_embed())
        ).detach()
        assert kl.sum() > 1
        assert agree(in_groups(vae, x), (-process.log_prob(x) - kl).sum()[None])

    def test_is_a_sum_over_rows(self, exact, x):
        z, objective = torch.randn(4, 2, 3, dtype=torch.float64), MonteCarloEM(num_chains=2)
        once = objective.holding({"z": z})(exact.model, exact.guide, x)
        twice = objective.holding({"z": torch.cat([z, z])})(exact.model, exact.guide, torch.cat([x, x]))
        torch.testing.assert_close(twice, 2 * once)

    def test_without_a_guide(self, process, x):
        vae, objective = vae_of(process), MonteCarloEM(teach_guide=False)
        z = torch.randn(4, 1, 3, dtype=torch.float64)
        loss = objective.holding({"z": z})(vae.model, vae.guide, x)
        expected = vae.decode(z[:, 0]).log_prob(x) + dist.Normal(0.0, 1.0).log_prob(z[:, 0]).sum(-1)
        torch.testing.assert_close(loss, -expected.sum())
        assert not objective.is_bound and MonteCarloEM().is_bound
        before = [p.clone() for p in vae.encoder.parameters()]
        fit(vae, x, objective, epochs=2, batch_size=2, progress=False)
        assert all(torch.equal(a, b) for a, b in zip(before, vae.encoder.parameters(), strict=True))

    def test_validation_is_the_bound_of_the_guide(self, exact, x):
        """At the exact posterior log p(x)."""
        frozen = partial(torch.optim.SGD, lr=0.0)
        data = Dataset("ppca", x, x)
        history = fit(exact, data, MonteCarloEM(), epochs=1, batch_size=2, optimizer=frozen, progress=False)
        expected = -truth().log_prob(x).mean().item()
        assert history.column("valid_loss") == pytest.approx([expected], abs=1e-9)
        assert history.column("loss") == pytest.approx([expected], abs=1e-9)


def test_training_reaches_the_maximum_likelihood():
    """Of probabilistic PCA with a known scale: from the eigenvectors of the covariance (Tipping & Bishop 1999)."""
    process = truth(dim=5, latent=2, scale=0.5)
    x = process.sample(300, seed=2)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    weight = vectors[:, -2:] * (values[-2:] - 0.25).sqrt()
    best = LinearGaussian(weight, x.mean(0), 0.5).log_prob(x).mean()
    with seeded(0, "start"):
        vae = vae_of(process)
        for p in vae.decoder.parameters():
            nn.init.normal_(p, std=0.1)
    start = log_p_of(vae, x)
    rate = partial(torch.optim.Adam, lr=0.03)
    history = fit(vae, x, MonteCarloEM(), epochs=25, batch_size=100, optimizer=rate, progress=False)
    found = log_p_of(vae, x)
    assert start < best - 5 and best - 0.05 < found <= best + 1e-9
    upper, lower = -history.column("loss")[-1], history.column("train_elbo")[-1]
    assert lower < found + 0.1 and upper > found - 0.1


def log_p_of(vae, x):
    weight, bias = vae.decoder.parameters()
    return LinearGaussian(weight.detach(), bias.detach(), 0.5).log_prob(x).mean()


OPTIONS = {"epochs": 3, "batch_size": 20, "progress": False, "log_every": 2, "compile": False}


class TestFit:
    def data(self):
        return truth(dim=4, latent=2).sample(50, seed=0).float()

    def vae(self, **parts):
        with seeded(0, "init"):
            return VAE((4,), 2, likelihood=Normal, **{"encoder": SMALL, "decoder": SMALL, **parts})

    def test_stopped_and_resumed_is_bit_identical(self, tmp_path):
        objective, data = MonteCarloEM(num_updates=2, num_warmup=2), self.data()
        whole = self.vae()
        expected = fit(whole, data, objective, **OPTIONS)
        with signals_at({5: signal.SIGTERM}), pytest.raises(Stopped):
            fit(self.vae(), data, objective, run=tmp_path / "run", **OPTIONS)
        again = self.vae()
        found = fit(again, data, objective, run=tmp_path / "run", **OPTIONS)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
        assert found.column("loss") == expected.column("loss")

    def test_chains_are_saved_and_checked(self, tmp_path):
        run = tmp_path / "run"
        fit(self.vae(), self.data(), MonteCarloEM(num_chains=3), run=run, **OPTIONS)
        tensors = read_tensors(run, read_manifest(run), "optimizer")
        assert tensors["chains/z"].shape == (50, 3, 2) and tensors["chains/z"].isfinite().all()
        assert tensors["chains/log_step"].isfinite()

    def test_kept_chains_come_to_the_posterior(self, process):
        """With frozen weights: 40 visits of one trajectory; every datum's last code is a draw of its posterior."""
        vae, x = vae_of(process), process.sample(400, seed=3)
        frozen, seen = partial(torch.optim.SGD, lr=0.0), {}
        objective = MonteCarloEM(num_updates=1, num_warmup=0)
        keep = Kept(seen)
        fit(keep.of(vae), x, objective, epochs=30, batch_size=200, optimizer=frozen, progress=False, compile=False)
        mean, covariance = process.posterior(x)
        white = torch.linalg.solve_triangular(
            torch.linalg.cholesky(covariance), (seen["z"] - mean[seen["rows"]]).T, upper=False
        ).T
        assert agree(white, torch.zeros(3, dtype=white.dtype)) and agree(
            white.square(), torch.ones(3, dtype=white.dtype)
        )

    def test_updates_share_the_draws(self):
        """Five updates by SGD on the draws of a batch are five steps down the same function."""
        vae, x, losses = self.vae(), self.data()[:20], []

        class Recording(torch.optim.SGD):
            def step(self, closure=None):
                losses.append(None)
                return super().step(closure)

        rate = partial(Recording, lr=1e-4)
        fit(vae, x, MonteCarloEM(num_updates=5), optimizer=rate, **{**OPTIONS, "epochs": 2})
        assert len(losses) == 10

    @pytest.mark.slow
    def test_compiled_is_eager_to_rounding(self):
        data, losses = self.data(), []
        for compile in (False, True):
            vae = self.vae()
            history = fit(vae, data, MonteCarloEM(num_updates=2), **{**OPTIONS, "compile": compile})
            losses.append(history.column("loss"))
        assert history.mode.startswith("compiled")
        assert losses[0] == pytest.approx(losses[1], rel=2e-3)

    def test_any_pair_of_programs(self):
        chain = Hidden()
        fit(chain, self.data(), MonteCarloEM(num_updates=2), **OPTIONS)
        assert chain.slope.item() != 1.0
        layers = HierarchicalVAE((4,), (3, 2), likelihood=Normal)
        history = fit(layers, self.data(), MonteCarloEM(num_updates=2), **OPTIONS)
        assert history.column("loss")[-1] < history.column("loss")[0]

    def test_the_guide_that_was_taught_weighs_well(self, process):
        """The posterior is in its family; importance sampling by it gives log p(x), which is known."""
        vae, x = vae_of(process), process.sample(200, seed=4)
        rate = partial(torch.optim.Adam, lr=0.03)
        fit(vae, x, MonteCarloEM(), epochs=60, batch_size=200, optimizer=rate, progress=False)
        weight, bias = vae.decoder.parameters()
        expected = LinearGaussian(weight.detach(), bias.detach(), process.scale).log_prob(x).mean()
        found = log_marginal(vae.model, vae.guide, x, num_particles=500)
        assert abs(found.mean - expected) < 0.05 and 0 < expected - found.elbo.mean() < 0.4


class Kept:
    """Remembers the rows and the codes of the last batch that the model was given in an M-step."""

    def __init__(self, seen):
        self.seen = seen

    def of(self, vae):
        seen, model = self.seen, vae.model
        data = truth().sample(400, seed=3)

        class Watched(nn.Module):
            def __init__(self):
                super().__init__()
                self.vae = vae

            def model(self, x):
                z = model(x)
                if not z.requires_grad and len(x) == 200:
                    rows = torch.cdist(x, data).argmin(1)
                    seen.update(z=z.detach()[0], rows=rows)
                return z

            def guide(self, x):
                return vae.guide(x)

        return Watched()


class Hidden(nn.Module):
    """A latent on the positive numbers, so that chains walk on its logarithm."""

    def __init__(self):
        super().__init__()
        self.slope, self.loc = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(0.0))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            rate = pyro.sample("rate", dist.Gamma(torch.full((len(x),), 2.0), torch.tensor(1.0)))
            pyro.sample("x", dist.Normal(self.slope * rate[..., None], 1.0).expand([*rate.shape, 4]).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("rate", dist.LogNormal(self.loc.expand(len(x)), 1.0))


SMALL = partial(MLP, hidden=(8,))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_updates": 0}, "num_updates >= 1"),
            ({"num_leapfrog": 0}, "num_leapfrog >= 1"),
            ({"target_accept": 1.0}, "target_accept between 0 and 1"),
        ],
    )
    def test_options(self, options, message):
        with pytest.raises(UsageError, match=message):
            MonteCarloEM(**options)

    def test_a_guide_without_density(self):
        vae = VAE((4,), 2, likelihood=Normal, guide=Delta)
        with pytest.raises(UsageError, match="take teach_guide=False"):
            MonteCarloEM()(vae.model, vae.guide, torch.ones(3, 4))
        assert MonteCarloEM(teach_guide=False)(vae.model, vae.guide, torch.ones(3, 4)).isfinite()

    def test_discrete_codes(self):
        vae = VQVAE((4,))
        with pytest.raises(UsageError, match="discrete"):
            MonteCarloEM()(vae.model, vae.guide, torch.ones(3, 4))

    def test_inside_denoising(self):
        with pytest.raises(UsageError, match="does not take MonteCarloEM"):
            Denoising(MonteCarloEM())
        assert Denoising(ELBO()).updates == 1

    def test_rows_can_not_be_shared_out(self):
        assert MonteCarloEM().couples_rows

    def test_a_checkpoint_without_chains(self, tmp_path):
        from pyro_vae.training.chains import Chains

        class Plan:
            objective, num_data, device = MonteCarloEM(), 5, torch.device("cpu")

        for tensors in ({}, {"chains/z": torch.zeros(4, 1, 2), "chains/log_step": torch.tensor(0.0)}):
            with pytest.raises(CheckpointError, match="chains/z"):
                Chains.of(Plan(), lambda batch: batch).restore(dict(tensors), "here", begun=True)
