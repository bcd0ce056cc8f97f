"""Data of any scale: where q(z|x) starts, standardising inside the model, and the warning where nothing is done."""

import logging
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from pyro import poutine

from pyro_vae import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE, fit, load, log_marginal, reconstruct, sample
from pyro_vae.cli import main
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.guides import (
    DiagonalNormal,
    FullNormal,
    Householder,
    InverseAutoregressiveFlow,
    LowRankNormal,
    MixtureOfNormals,
    SplineFlow,
)
from pyro_vae.likelihoods import Bernoulli, Laplace, Normal, StudentT
from pyro_vae.networks import MLP, ConvNet, GatedMLP, ResNet
from pyro_vae.process.seeding import seeded
from pyro_vae.training.scales import scale_warning

SMALL, LEARNED = partial(MLP, hidden=(16,)), partial(Normal, scale="learned")
SHIFT = torch.tensor([0.0, 1.0, -5.0, 2000.0, 0.0, 1e4])
FACTOR = torch.tensor([1.0, 2.0, 1e3, 4.0, 2.0**-10, 64.0])
NORMALS, FLOWS = (DiagonalNormal, FullNormal, LowRankNormal, Householder), (InverseAutoregressiveFlow, SplineFlow)


def unit_data(n=120):
    """Six columns that share two factors, with mean 0 and standard deviation 1."""
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(n, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    u = u + 0.3 * torch.randn(n, 6, generator=generator)
    return (u - u.mean(0)) / u.std(0, correction=0)


def make(standardize=False, cls=VAE, seed=0, likelihood=LEARNED, **options):
    sizes = {"latent_dims": (3, 2)} if cls is HierarchicalVAE else {} if cls is VQVAE else {"latent_dim": 2}
    networks = {"encoder": SMALL, "decoder": SMALL}
    with seeded(seed, "init"):
        return cls((6,), likelihood=likelihood, standardize=standardize, **{**sizes, **networks, **options})


class TestStart:
    @pytest.mark.parametrize(("guide", "scale"), [*product(NORMALS, (1.5, 1e4)), *product(FLOWS, (1.5, 10.0))])
    def test_width_is_that_of_the_prior_whatever_the_scale(self, guide, scale):
        """A flow's networks see the mean, which does grow with the data: far out it bends them."""
        q = make(guide=guide).encode(scale * unit_data())
        assert q.stddev.min() > 0.5 and q.stddev.max() < 2

    def test_components_of_a_mixture(self):
        vae = make(guide=MixtureOfNormals)
        assert torch.equal(vae.encode(1e4 * unit_data()).log_scales, torch.zeros(120, 4, 2))

    @pytest.mark.parametrize(
        "network",
        [partial(GatedMLP, hidden=(8,)), partial(ConvNet, channels=(4,)), partial(ResNet, channels=(4,), blocks=1)],
    )
    def test_other_networks(self, network):
        vae = VAE((4, 4), 3, likelihood=Normal, encoder=network, decoder=network)
        assert torch.equal(vae.encode(1e4 * torch.randn(5, 4, 4)).stddev, torch.ones(5, 3))

    @pytest.mark.parametrize("ladder", [False, True])
    def test_layers(self, ladder):
        vae = make(cls=HierarchicalVAE, ladder=ladder)
        sites = poutine.trace(vae.guide).get_trace(1e3 * unit_data()).nodes
        top = sites["z2"]["fn"].base_dist.scale
        below = sites["z1"]["fn"].base_dist.scale
        assert torch.equal(top, torch.ones_like(top))
        assert below.max() <= 1 and (ladder or torch.equal(below, torch.ones_like(below)))

    def test_a_context_does_not_widen_it(self):
        vae = make(context=(2,))
        assert torch.equal(vae.encode(unit_data(), c=torch.full((2,), 1e3)).stddev, torch.ones(120, 2))

    def test_the_guide_still_learns_widths(self):
        vae, x = make(), unit_data()
        vae.encode(x).stddev.sum().backward()
        assert vae.encoder.output.weight.grad[2:].abs().min() > 0

    @pytest.mark.slow
    def test_unscaled_data_train_from_every_seed(self):
        """60 seeds, standard deviation 1.5: no ELBO is more than 1.5 nats below the median of all."""
        x = 1.5 * unit_data(500)
        network = partial(MLP, hidden=(32, 32))
        ends = []
        for seed in range(60):
            vae = make(seed=seed, encoder=network, decoder=network)
            history = fit(vae, x, epochs=30, batch_size=50, seed=seed, progress=False, compile=False)
            ends.append(history.rows[-1]["train_elbo"])
        ends = torch.tensor(ends)
        assert ends.min() > ends.median() - 1.5


class TestStandardized:
    @pytest.mark.parametrize("cls", [VAE, HierarchicalVAE, SemiSupervisedVAE, VQVAE])
    @pytest.mark.parametrize("likelihood", [Normal, Laplace, StudentT])
    def test_density_and_mean_are_in_the_units_of_the_data(self, cls, likelihood):
        u = unit_data(7).double()
        shift, factor = SHIFT.double(), FACTOR.double()
        plain, scaled = (make(on, cls, likelihood=likelihood).double().eval() for on in (False, True))
        scaled.standardize_by(shift, factor)
        with torch.no_grad():
            values = []
            for vae, x in ((plain, u), (scaled, shift + factor * u)):
                with seeded(0, "draw"):
                    guide = poutine.trace(vae.guide).get_trace(x)
                    model = poutine.trace(poutine.replay(vae.model, trace=guide)).get_trace(x)
                model.compute_log_prob()
                values.append((model.nodes["x"]["log_prob"], model.nodes["x"]["fn"].mean))
        torch.testing.assert_close(values[1][0], values[0][0] - factor.log().sum())
        torch.testing.assert_close(values[1][1], shift + factor * values[0][1])

    def test_training_is_that_of_standardised_data(self):
        """The same steps, by exact powers of two: log p(x) differs by the log of the scales alone."""
        u, factor = unit_data(), 2.0 ** torch.tensor([0.0, 1.0, 10.0, 2.0, -10.0, 6.0])
        plain, scaled = make(), make(standardize=True)
        fit(plain, u, epochs=3, batch_size=40, progress=False)
        fit(scaled, u * factor, epochs=3, batch_size=40, progress=False)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(scaled.state_dict()[name], value, atol=1e-4, rtol=1e-4)
        found = [
            log_marginal(vae.model, vae.guide, x, num_particles=50).log_p
            for vae, x in ((plain, u[:9]), (scaled, (u * factor)[:9]))
        ]
        torch.testing.assert_close(found[1], found[0] - factor.log().sum(), atol=1e-2, rtol=0)

    def test_kept_with_the_run_and_undone_in_results(self, tmp_path):
        x = SHIFT + FACTOR * unit_data()
        vae = make(standardize=True)
        fit(vae, Dataset("columns", x), epochs=2, batch_size=40, progress=False, run=tmp_path / "run")
        again = load(tmp_path / "run")
        torch.testing.assert_close(again.data_mean, x.mean(0))
        torch.testing.assert_close(again.data_std, x.std(0, correction=0))
        assert torch.equal(again.encode(x).mean, vae.encode(x).mean)
        drawn = sample(again, 400).x
        assert ((drawn.mean(0) - x.mean(0)).abs() < FACTOR).all() and (drawn.std(0) / FACTOR - 1).abs().max() < 0.7
        assert ((reconstruct(again, x) - x).abs().mean(0) < 1.5 * FACTOR).all()

    def test_a_column_that_does_not_vary(self):
        x = unit_data()
        x[:, 2] = 7.0
        vae = make(standardize=True)
        fit(vae, x, epochs=1, progress=False)
        assert vae.data_std[2] == 1 and vae.data_mean[2] == 7

    def test_what_is_not_observed_is_at_the_mean(self):
        vae, x = make(standardize=True), SHIFT + FACTOR * unit_data(4)
        vae.standardize_by(SHIFT, FACTOR)
        mask = torch.arange(6) != 3
        other = torch.where(mask, x, torch.nan)
        at_mean = torch.where(mask, x, SHIFT)
        torch.testing.assert_close(vae.encode(other, mask).mean, vae.encode(at_mean).mean)

    def test_starts_at_the_mean(self):
        x = SHIFT + FACTOR * unit_data()
        vae = make(standardize=True)
        vae.standardize_by(x.mean(0), x.std(0, correction=0))
        vae.start_at(x.mean(0), x.std(0, correction=0))
        assert vae.decoder.output.bias.abs().max() < 1e-5

    @pytest.mark.parametrize("likelihood", [Bernoulli, partial(Normal, bounded=True)])
    def test_refused_for_data_with_bounds(self, likelihood):
        with pytest.raises(UsageError, match="real data"):
            make(True, likelihood=likelihood)

    def test_refused_without(self):
        with pytest.raises(UsageError, match="without standardize"):
            make().standardize_by(SHIFT, FACTOR)


class TestWarning:
    def warning(self, x, likelihood=Normal):
        return scale_warning(make(likelihood=likelihood).likelihood, Dataset("columns", x))

    def test_names_the_columns(self):
        found = self.warning(SHIFT + FACTOR * unit_data())
        assert "column 3 has mean -5 and standard deviation 1e+03" in found
        assert "and 1 more" in found and found.endswith("take standardize=True")

    @pytest.mark.parametrize("scale", [0.2, 1.0, 1.5, 8.0])
    def test_not_near_unit_scale(self, scale):
        assert self.warning(scale * unit_data()) is None

    def test_not_of_one_unit_in_0_to_1(self):
        assert self.warning(0.5 + 0.01 * unit_data().clamp(-4, 4)) is None

    def test_not_of_a_column_that_does_not_vary(self):
        x = unit_data()
        x[:, 0] = 5.0
        assert self.warning(x) is None

    def test_fit_says_it_once_and_not_if_standardised(self, caplog):
        caplog.set_level(logging.WARNING, logger="pyro_vae")
        x = SHIFT + FACTOR * unit_data()
        fit(make(standardize=True), x, epochs=1, progress=False)
        assert "unit scale" not in caplog.text
        fit(make(), x[:, :] / FACTOR * 20, epochs=1, progress=False)
        assert caplog.text.count("unit scale") == 1


class TestCommand:
    def test_standardize(self, tmp_path, capsys):
        x = (SHIFT + FACTOR * unit_data()).numpy()
        np.savez(tmp_path / "columns.npz", train=x[:90], test=x[90:])
        run = str(tmp_path / "run")
        parts = ["--vae.likelihood", "Normal", "--vae.latent_dim", "2"]
        fitted = ["fit", "--data", str(tmp_path / "columns.npz"), *parts, "--epochs", "2", "--standardize", "true"]
        assert main([*fitted, "--run", run, "--pictures", "false", "--quiet"]) == 0
        assert "unit scale" not in capsys.readouterr().err
        torch.testing.assert_close(load(run).data_mean, torch.from_numpy(x[:90]).mean(0))
        assert main(["evaluate", run, "--num_particles", "20", "--quiet"]) == 0
        assert main(["sample", run, "--num", "50", "--out", str(tmp_path / "draws.npz")]) == 0
        drawn = torch.from_numpy(np.load(tmp_path / "draws.npz")["x"])
        assert ((drawn.mean(0) - SHIFT).abs() < 2 * FACTOR).all()

    def test_refused_for_binary_data(self, tmp_path, capsys):
        assert main(["fit", "--standardize", "true", "--run", str(tmp_path / "run"), "--quiet"]) == 2
        assert "real data" in capsys.readouterr().err
