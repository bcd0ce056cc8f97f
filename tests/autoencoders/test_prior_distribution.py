"""`Autoencoder.prior_distribution`: one p(z), that of the model's trace, for every prior with every guide."""

from functools import partial

import pytest
import torch
from pyro import poutine

from pyro_vae.autoencoders import VAE, VQVAE, HierarchicalVAE, SemiSupervisedVAE
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.distributions.mixture import Mixture
from pyro_vae.errors import UsageError
from pyro_vae.guides import SemiAmortized
from pyro_vae.inference.programs import evaluation_mode
from pyro_vae.inference.weighing import importance
from pyro_vae.networks import MLP
from pyro_vae.priors import ConditionalNormal, MixtureOfNormals, VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.tasks.clustering import cluster
from pyro_vae.testing.axes import AXES
from pyro_vae.training.refit import cross_entropy, refit_prior

X = torch.arange(24).remainder(5).clamp(max=1).reshape(4, 6).float()
C = torch.eye(3)[[0, 1, 2, 0]]
small = {"encoder": partial(MLP, hidden=(8,)), "decoder": partial(MLP, hidden=(8,))}


def parts_of_axis(name):
    """Each class with the last of its settings, which is a small one."""
    (axis,) = (axis for axis in AXES if axis.name == name)
    return list({part.cls: part.factory for part in axis.parts()}.values())


def named(part):
    return getattr(part, "func", part).__name__


def built(prior, guide):
    """A VAE of both, or None where they are no pair; only the prior takes the context, if it does."""
    with seeded(0, "pair"):
        try:
            vae = VAE((6,), 2, prior=prior, guide=guide, context=(3,), conditions=(), **small)
            with evaluation_mode(vae):
                poutine.trace(vae.model).get_trace(X, c=C)
        except UsageError:
            return None
    return vae


def traced(model, z, **given):
    """Log p(z) of the site of the model's own trace, `[K, N]`."""
    with evaluation_mode(model):
        trace = poutine.trace(poutine.condition(model, {"z": z})).get_trace(X, **given)
        return trace.nodes["z"]["fn"].log_prob(z)


@pytest.mark.parametrize("guide", parts_of_axis("guide"), ids=named)
def test_of_every_pair_is_that_of_the_models_trace(guide):
    found = [vae for prior in parts_of_axis("prior") if (vae := built(prior, guide)) is not None]
    assert len(found) >= 4
    for vae in found:
        conditional = isinstance(vae.prior, ConditionalNormal)
        z = torch.randn(7, 4, 2)
        expected = traced(vae.model, z, c=C)
        with evaluation_mode(vae):
            own = vae.prior_distribution(C if conditional else None)
            torch.testing.assert_close(own.log_prob(z).expand_as(expected), expected, rtol=1e-5, atol=1e-5)
        if not conditional:
            check_cross_entropy(vae)
            check_clusters(vae, own, z)


def check_cross_entropy(vae):
    with seeded(3, "cross_entropy", 0), evaluation_mode(vae):
        z = vae.encode(X).sample(torch.Size([2]))
    expected = -traced(vae.model, z, c=C).mean(0).double()
    torch.testing.assert_close(cross_entropy(vae, X, 2, seed=3).values, expected, rtol=1e-5, atol=1e-5)


def check_clusters(vae, own, z):
    """Shares of the components whose mixture has the density of the trace."""
    if isinstance(own, Mixture):
        with seeded(0, "cluster", 0), evaluation_mode(vae):
            codes = vae.encode(X).sample(torch.Size([3]))
            expected = own.component_log_probs(codes)
        torch.testing.assert_close(expected.logsumexp(-1), traced(vae.model, codes, c=C), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(cluster(vae, X, 3).probabilities, expected.softmax(-1).mean(0))


def refined():
    """Refinement that moves the codes far, and a prior made of them."""
    torch.manual_seed(0)
    prior, guide = partial(VampPrior, components=4), partial(SemiAmortized, steps=5, lr=0.5)
    return VAE((6,), 2, prior=prior, guide=guide, **small)


def test_refined_guides_make_no_other_prior():
    vae, z = refined(), torch.randn(50, 4, 2)
    with evaluation_mode(vae):
        elsewhere = vae.prior(vae.encode).log_prob(z)
    assert (elsewhere - traced(vae.model, z)).abs().max() > 0.1  # what a caller's own choice of encoder makes of it


def test_refit_fits_the_prior_that_the_model_has():
    """After an epoch without a step size, the loss that refit has seen is the cross-entropy of the model's prior."""
    seen = []

    class Watched(VampPrior):
        def forward(self, encode, context=None):
            seen.append(encode(X).mean.detach())
            return super().forward(encode, context)

    vae = refined()
    refit_prior(vae, X.repeat(5, 1), partial(Watched, components=4), epochs=1, progress=False)
    assert seen and all(torch.equal(mean, vae.amortize(X).mean) for mean in seen)


class TestOtherAutoencoders:
    def test_layers_have_that_of_the_top(self):
        vae = HierarchicalVAE((6,), (3, 2), prior=partial(VampPrior, components=4))
        found = importance(vae.model, vae.guide, X, num_particles=3)
        z2 = found.latents["z2"]
        trace = poutine.trace(poutine.condition(vae.model, dict(found.latents))).get_trace(X)
        torch.testing.assert_close(vae.prior_distribution().log_prob(z2), trace.nodes["z2"]["fn"].log_prob(z2))

    def test_classes_have_theirs(self):
        vae = SemiSupervisedVAE((6,), classes=3, latent_dim=2, prior=ConditionalNormal)
        z, y = torch.randn(4, 2), torch.tensor([0, 1, 2, 0])
        trace = poutine.trace(poutine.condition(vae.model, {"y": y, "z": z})).get_trace(X)
        expected = trace.nodes["z"]["fn"].log_prob(z)
        torch.testing.assert_close(vae.prior_distribution(vae.one_hot(y)).log_prob(z), expected)
        with pytest.raises(UsageError, match=r"the guide is q\(z\|x, y\)"):
            SemiSupervisedVAE((6,), prior=VampPrior).prior_distribution()

    def test_codes_have_theirs(self):
        vqvae = VQVAE((6,), codes=(2,), codebook_size=4).eval()
        k = vqvae.encode(X).sample()
        trace = poutine.trace(poutine.condition(vqvae.model, {"k": k})).get_trace(X)
        torch.testing.assert_close(vqvae.prior_distribution().log_prob(k), trace.nodes["k"]["fn"].log_prob(k))

    def test_statistics_take_it(self):
        vae = VAE((6,), 2, prior=partial(MixtureOfNormals, components=2))
        q, p = vae.encode(X), vae.prior_distribution()
        ratio = q.stddev / p.stddev
        expected = ((ratio.square() + ((q.mean - p.mean) / p.stddev).square() - 1) / 2 - ratio.log()).mean(0)
        torch.testing.assert_close(latent_statistics(vae, X).kl, expected.double(), rtol=1e-4, atol=1e-5)

    def test_clusters_of_what_has_none_are_refused(self):
        with pytest.raises(UsageError, match="one latent site, got a HierarchicalVAE"):
            cluster(HierarchicalVAE((6,), (3, 2)), X)  # pyright: ignore[reportArgumentType]
