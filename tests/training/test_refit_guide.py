"""`refit_guide`: the best guide of a model whose posterior is known, the model not changed, and what is refused."""

from functools import partial

import pytest
import torch

from pyro_vae import refit_guide
from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.data import Dataset
from pyro_vae.errors import UsageError
from pyro_vae.evidence import bound
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.priors import MixtureOfNormals, VampPrior
from pyro_vae.schedules import Constant
from pyro_vae.training import compare_guides
from tests.support.networks import Dropping
from tests.support.ppca import truth, vae_of

FAST = {"optimizer": partial(torch.optim.Adam, lr=0.03), "batch_size": 400, "progress": False}
AFFINE = partial(MLP, hidden=())
quick = partial(refit_guide, epochs=2, progress=False)


class Watched(Dropping):
    """Notes in which modes it is run."""

    def __init__(self, in_shape, out_shape, modes):
        super().__init__(in_shape, out_shape)
        self.modes = modes

    def forward(self, x):
        self.modes.add(self.dropout.training)
        return super().forward(x)


class TestExact:
    def test_the_right_family_reaches_log_p(self):
        """An affine encoder of a full normal can be the posterior of probabilistic PCA: no gap is left."""
        process = truth()
        vae, x = vae_of(process, DiagonalNormal), process.sample(400, seed=1)
        refitted = refit_guide(vae, Dataset("linear", x, x), guide=FullNormal, epochs=300, **FAST)
        elbo, log_p = bound(refitted.model, refitted.guide, x, num_particles=50).elbo, process.log_prob(x)
        assert 0 <= (log_p - elbo).mean().item() < 0.06
        found = compare_guides(vae, refitted, x)
        assert found.verdict == "better" and found.gain > 1

    def test_a_narrow_family_keeps_its_gap(self):
        """The best diagonal normal of a normal posterior is known, and so is the gap that no encoder closes."""
        process = truth()
        vae, x = vae_of(process, DiagonalNormal), process.sample(400, seed=1)
        refitted = refit_guide(vae, Dataset("linear", x, x), epochs=300, **FAST)
        _, covariance = process.posterior(torch.zeros(6, dtype=torch.float64))
        precision = torch.linalg.inv(covariance)
        gap = 0.5 * (precision.diagonal().log().sum() + torch.logdet(covariance)).item()
        found = process.log_prob(x) - bound(refitted.model, refitted.guide, x, num_particles=200).elbo
        assert found.mean().item() == pytest.approx(gap, abs=0.06) and gap > 0.15


class TestModel:
    def test_stays_to_the_bit(self):
        parts = {"likelihood": partial(Normal, scale="per_element"), "decoder": Dropping, "prior": MixtureOfNormals}
        vae, x = VAE((4,), 2, **parts), torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        vae.decoder.inner.output.bias.requires_grad_(False)
        before = {name: value.clone() for name, value in vae.state_dict().items()}
        refitted = quick(vae, x, encoder=partial(MLP, hidden=(7,)))
        assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
        after = refitted.state_dict()
        kept = [name for name in before if not name.startswith(("encoder.", "posterior."))]
        assert kept and all(torch.equal(after[name], before[name]) for name in kept)
        flags = [{name: p.requires_grad for name, p in v.decoder.named_parameters()} for v in (vae, refitted)]
        assert flags[0] == flags[1] and not all(flags[0].values())
        assert not refitted.training and after["encoder.output.weight"].shape[-1] == 7

    def test_is_in_evaluation_mode_while_the_guide_trains(self):
        """Dropout of the decoder is off, that of the encoder on."""
        modes = {"decoder": set(), "encoder": set()}
        made = {name: partial(Watched, modes=modes[name]) for name in modes}
        quick(VAE((4,), 2, likelihood=Normal, **made), torch.zeros(40, 4))
        assert modes == {"decoder": {False}, "encoder": {True, False}}  # False: while it is measured

    def test_units_of_other_data_do_not_change_it(self):
        vae = VAE((4,), 2, likelihood=Normal, standardize=True)
        vae.standardize_by(torch.full((4,), 3.0), torch.full((4,), 2.0))
        refitted = quick(vae, 100 + torch.randn(40, 4, generator=torch.Generator().manual_seed(0)))
        assert refitted.data_mean.tolist() == [3.0] * 4 and refitted.data_std.tolist() == [2.0] * 4

    def test_gaps_and_contexts(self):
        x, mask = torch.zeros(40, 4), torch.rand(40, 4, generator=torch.Generator().manual_seed(0)) > 0.3
        mask[:, 0] = True
        inputs = {"mask": {"train": mask, "valid": mask}, "c": {"train": x[:, :2], "valid": x[:, :2]}}
        vae = VAE((4,), 2, likelihood=Normal, context=(2,), gaps="learned")
        refitted = quick(vae, Dataset("gaps", x, x, inputs=inputs), guide=FullNormal)
        without_valid = {name: {"train": splits["train"]} for name, splits in inputs.items()}
        assert quick(vae, Dataset("gaps", x, inputs=without_valid), guide=FullNormal).shapes.context == (2,)
        assert compare_guides(vae, refitted, x, mask=mask, c=x[:, :2]).gains.shape == (40,)
        assert not torch.equal(refitted.fill, vae.fill)


class TestRefuses:
    def test_another_autoencoder(self):
        with pytest.raises(UsageError, match="the one guide of a VAE, and this is a HierarchicalVAE"):
            quick(HierarchicalVAE((4,)), torch.zeros(20, 4))

    def test_a_prior_made_of_the_encoder(self):
        with pytest.raises(UsageError, match="VampPrior is made of the encoder: refit_prior"):
            quick(VAE((4,), 2, prior=partial(VampPrior, components=3)), torch.zeros(20, 4))

    def test_warns_if_worse(self, caplog):
        process = truth()
        vae, x = vae_of(process), process.sample(400, seed=1)
        good = refit_guide(vae, x, epochs=60, **FAST)
        refit_guide(good, x, epochs=1, optimizer=partial(torch.optim.Adam, lr=1e-9), progress=False)
        assert "the new guide is worse than the old one on held-out data, by" in caplog.text


def test_a_rate_that_is_zero_leaves_the_first_weights():
    """The schedule is that of `fit`."""
    vae, x = vae_of(truth(), DiagonalNormal), truth().sample(100, seed=1)
    still, moved = (quick(vae, x, lr_schedule=schedule).state_dict() for schedule in (Constant(0), None))
    first = quick(vae, x, optimizer=partial(torch.optim.SGD, lr=0.0)).state_dict()
    assert all(torch.equal(still[name], first[name]) for name in first)
    assert not all(torch.equal(moved[name], first[name]) for name in first)


def test_is_a_function_of_the_seed():
    x = torch.zeros(40, 4)
    vae = VAE((4,), 2, likelihood=Normal)
    first, second, other = (quick(vae, x, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
