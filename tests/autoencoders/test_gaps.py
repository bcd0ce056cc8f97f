"""`VAE(gaps=)`: what the encoder gets of elements that were not observed."""

from functools import partial

import pytest
import torch

from pyro_vae.autoencoders import VAE
from pyro_vae.data import as_dataset
from pyro_vae.errors import CheckpointError, UsageError
from pyro_vae.likelihoods import Mixed, Normal
from pyro_vae.networks import MLP, ConvNet
from pyro_vae.objectives import IWAE
from pyro_vae.priors import VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.loading import load
from pyro_vae.training.fitting import fit
from tests.cli.test_cli import call

X = torch.tensor([[1.0, torch.nan, -2.0], [0.5, 3.0, torch.nan], [torch.nan] * 3, [1.0, 2.0, 3.0]])
MASK = ~X.isnan()


def affine(gaps, seed=0, **options):
    """A VAE whose encoder is `W u + b` with random W and b."""
    parts = {"likelihood": Normal, "encoder": partial(MLP, hidden=()), "decoder": partial(MLP, hidden=())}
    with seeded(seed, "init"):
        vae = VAE((3,), 2, gaps=gaps, **{**parts, **options})
        for p in vae.encoder.parameters():
            torch.nn.init.normal_(p)
    return vae


def weights(vae):
    return vae.encoder.output.weight, vae.encoder.output.bias


class TestInput:
    """An affine encoder shows what it gets."""

    def test_zero(self):
        vae = affine("zero")
        weight, bias = weights(vae)
        assert torch.allclose(vae.guide_params(X, MASK).flatten(1), X.nan_to_num() @ weight.T + bias)
        plain = VAE((3,), 2, likelihood=Normal, encoder=partial(MLP, hidden=()), decoder=partial(MLP, hidden=()))
        assert vae.state_dict().keys() == plain.state_dict().keys()

    def test_mask(self):
        vae = affine("mask")
        weight, bias = weights(vae)
        seen = torch.cat([X.nan_to_num(), MASK.float()], 1)
        assert torch.allclose(vae.guide_params(X, MASK).flatten(1), seen @ weight.T + bias)

    def test_learned(self):
        """It starts at zero; its gradient is the sum of W over the gaps."""
        vae = affine("learned")
        weight, bias = weights(vae)
        assert torch.equal(vae.fill, torch.zeros(3))
        with torch.no_grad():
            vae.fill.copy_(torch.tensor([1.0, 20.0, 300.0]))
        filled = torch.where(MASK, X, torch.tensor([1.0, 20.0, 300.0]))
        params = vae.guide_params(X, MASK)
        assert torch.allclose(params.flatten(1), filled @ weight.T + bias)
        (gradient,) = torch.autograd.grad(params.sum(), vae.fill)
        assert torch.allclose(gradient, (~MASK).sum(0) * weight.sum(0))

    @pytest.mark.parametrize("gaps", ["zero", "mask", "learned"])
    def test_complete_data_and_a_full_mask_are_the_same(self, gaps):
        vae, x = affine(gaps), torch.randn(4, 3)
        assert torch.equal(vae.guide_params(x), vae.guide_params(x, torch.ones(4, 3, dtype=torch.bool)))
        assert torch.equal(vae.guide_params(x), vae.guide_params(x, torch.ones(3, dtype=torch.bool)))  # broadcast

    @pytest.mark.parametrize("gaps", ["mask", "learned"])
    def test_in_units_of_standardised_data(self, gaps):
        vae = affine(gaps, standardize=True)
        vae.standardize_by(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 8.0]))
        weight, bias = weights(vae)
        units = ((X - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([2.0, 4.0, 8.0])).nan_to_num()
        units = torch.cat([units, MASK.float()], 1) if gaps == "mask" else units
        assert torch.allclose(vae.guide_params(X, MASK).flatten(1), units @ weight.T + bias)

    def test_beside_a_context(self):
        vae = affine("mask", context=(2,))
        network, c = vae.encoder.network, torch.randn(4, 2)
        seen = torch.cat([X.nan_to_num(), MASK.float(), c], 1)
        expected = seen @ network.output.weight.T + network.output.bias
        assert torch.allclose(vae.guide_params(X, MASK, c).flatten(1), expected)

    def test_planes_of_images(self):
        vae = VAE((8, 8), 2, encoder=ConvNet, gaps="mask")
        assert vae.encoder.in_shape == (2, 8, 8)
        assert vae.encode(torch.zeros(3, 8, 8), torch.rand(3, 8, 8) < 0.5).mean.shape == (3, 2)

    def test_of_a_table(self):
        """A category has an input for each level, and one number in the mask."""
        table = partial(Mixed, kinds=("real", "category:4", "binary"))
        vae = affine("mask", likelihood=table)
        assert vae.encoder.in_shape == (1 + 4 + 1 + 3,)
        with pytest.raises(UsageError, match="gaps='learned' needs an encoder that gets one number for each element"):
            affine("learned", likelihood=table)

    def test_pseudo_inputs_have_no_gaps(self):
        vae = affine("mask", prior=partial(VampPrior, components=3, bounds=None))
        assert vae.prior_distribution().sample((5,)).shape == (5, 2)

    def test_other_names_are_refused(self):
        with pytest.raises(UsageError, match="gaps: expected one of 'zero', 'mask', 'learned', got 'mean'"):
            VAE((3,), 2, gaps="mean")


class TestFit:
    """The option in training, and in a run."""

    @pytest.mark.usefixtures("without_a_compiler")
    @pytest.mark.parametrize("gaps", ["mask", "learned"])
    def test_graphs_make_the_steps_of_the_programs(self, gaps):
        """By graphs that are run as they are, which takes no compiler."""
        found = []
        for compile in (False, True):
            vae = affine(gaps)
            options = {"epochs": 3, "batch_size": 2, "progress": False, "compile": compile}
            history = fit(vae, as_dataset(X, missing="nan"), IWAE(num_particles=3), **options)
            assert history.mode == ("compiled (graph)" if compile else "eager")
            found.append(torch.cat([p.detach().flatten() for p in vae.parameters()]))
        assert torch.allclose(*found, atol=1e-5)

    def test_a_run_keeps_it(self, tmp_path):
        vae = affine("learned")
        options = {"epochs": 1, "progress": False, "compile": False}
        fit(vae, as_dataset(X, missing="nan"), run=tmp_path / "run", **options)
        assert (vae.fill != 0).all()
        loaded = load(tmp_path / "run")
        assert loaded.arguments["gaps"] == "learned" and torch.equal(loaded.fill, vae.fill)
        with pytest.raises(CheckpointError, match=r"vae\.gaps is 'learned' there, 'zero' here"):
            fit(affine("zero"), as_dataset(X, missing="nan"), run=tmp_path / "run", **options)

    def test_the_command_has_it(self, tmp_path):
        (tmp_path / "x.csv").write_text("\n".join(",".join(f"{i * j % 7}.5" for j in (1, 2, 3)) for i in range(30)))
        small = (
            "--vae.likelihood Normal --vae.encoder.hidden [4] --vae.decoder.hidden [4] --vae.latent_dim 1 --epochs 1"
        )
        given = ("fit", small, "--quiet --pictures false --data", tmp_path / "x.csv", "--run", tmp_path / "run")
        done = call(*given, "--vae.gaps mask --missing nan")
        assert done.code == 0 and "gaps: mask" in (tmp_path / "run" / "config.yaml").read_text()
        assert load(tmp_path / "run").encoder.in_shape == (6,)
        done = call(*given, "--vae.gaps zeros")
        assert done.code != 0 and "--vae.gaps: unknown value 'zeros'" in done.err
