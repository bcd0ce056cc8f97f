"""`pyro_vae.inference.unconstrained`: densities over flat real vectors, for supports and sites of all kinds."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.autoencoders import VAE, HierarchicalVAE
from pyro_vae.errors import DataError, UsageError
from pyro_vae.inference.unconstrained import Target
from pyro_vae.inference.weighing import importance
from pyro_vae.priors import ConditionalNormal, FlowPrior, MixtureOfNormals, VampPrior
from tests.evidence.test_importance_sampling import two_layer_guide, two_layer_model
from tests.support.networks import Dropping


def constrained_model(x):
    """A positive scale, a share, a simplex and a site of two plates, all with the data in front."""
    with pyro.plate("data", len(x), dim=-1):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(()), 0.5))
        share = pyro.sample("share", dist.Uniform(torch.full((2,), -1.0), torch.full((2,), 3.0)).to_event(1))
        mix = pyro.sample("mix", dist.Dirichlet(torch.full((3,), 2.0)))
        with pyro.plate("inner", 4, dim=-2):
            w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = share.sum(-1) + mix[..., 0] + w.sum(-1).sum(-2, keepdim=True)
        pyro.sample("x", dist.Normal(mean, scale), obs=x)


def constrained_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("scale", dist.Gamma(torch.full((), 3.0), 2.0))
        pyro.sample("share", dist.Uniform(torch.full((2,), -0.5), torch.full((2,), 2.0)).to_event(1))
        pyro.sample("mix", dist.Dirichlet(torch.full((3,), 3.0)))
        with pyro.plate("inner", 4, dim=-2):
            pyro.sample("w", dist.Normal(torch.zeros(2), 2.0).to_event(1))


def test_constrained_sites_go_there_and_back_with_their_jacobians():
    x = torch.randn(5).double()
    with_double(lambda: check_constrained(x))


def with_double(function):
    torch.set_default_dtype(torch.float64)
    try:
        function()
    finally:
        torch.set_default_dtype(torch.float32)


def check_constrained(x):
    target = Target(constrained_model, constrained_guide, x, max_plate_nesting=2)
    assert target.size == 1 + 2 + 2 + 4 * 2 and target.num_data == 5
    z, log_q = target.draw_guide(7)
    latents = target.latents(z)
    assert latents["w"].shape == (7, 4, 5, 2) and latents["mix"].shape == (7, 1, 5, 3)
    assert torch.allclose(latents["mix"].sum(-1), torch.ones(7, 1, 5)) and (latents["scale"] > 0).all()
    assert torch.allclose(target.flat(latents), z)
    assert torch.allclose(target.log_guide(z), log_q)
    # the Jacobian cancels in weights, and each one is the determinant autograd finds
    samples = importance_weights(latents, x)
    assert torch.allclose(target.log_joint(z) - log_q, samples)
    assert torch.allclose(target.log_joint(z), target.log_likelihood(z) + target.log_prior(z))
    one = z[0, 0]
    expected = log_det(lambda v: target.latents(v.expand(1, 5, -1)), one)
    plain = prior_density({name: value[:1] for name, value in latents.items()}, x)[0, 0]
    assert torch.allclose(target.log_prior(z)[0, 0] - plain, expected)


def importance_weights(latents, x):
    from pyro_vae.inference.weighing import log_density, sites_at, weigh

    guide = sites_at(constrained_guide, latents, x, max_plate_nesting=2)
    return sum(weigh(constrained_model, latents, x, max_plate_nesting=2)) - log_density(guide.values(), 2)


def prior_density(latents, x):
    from pyro_vae.inference.weighing import weigh

    return weigh(constrained_model, latents, x, max_plate_nesting=2)[1]


def log_det(latents_of, one):
    """Of the map from one datum's z to its latents, the simplex by its first two coordinates."""

    def free(v):
        parts = latents_of(v)
        first = [parts["scale"][0, 0, :1], parts["share"][0, 0, 0], parts["mix"][0, 0, 0, :2]]
        return torch.cat([*first, parts["w"][0, :, 0].flatten()])

    return torch.linalg.slogdet(torch.autograd.functional.jacobian(free, one))[1]


@pytest.mark.parametrize("ladder", [False, True])
def test_several_sites_in_the_models_order(ladder):
    vae = HierarchicalVAE((4,), latent_dims=(3, 2), ladder=ladder).double()
    x = torch.rand(5, 4).round()
    target = Target(vae.model, vae.guide, x)
    assert [site.name for site in target.sites] == ["z2", "z1"] and target.size == 5
    z, log_q = target.draw_guide(3)
    torch.testing.assert_close(target.log_guide(z), log_q)
    assert {name: v.shape[-1] for name, v in target.latents(z).items()} == {"z1": 3, "z2": 2}
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(target.log_joint(z).sum(), z)
    assert gradient.shape == z.shape and (gradient != 0).any(-1).all() and vae.decoder.output.bias.grad is None


@pytest.mark.parametrize("prior", [MixtureOfNormals, VampPrior, FlowPrior])
def test_priors_whose_support_is_real(prior):
    vae = VAE((4,), 2, prior=prior)
    target = Target(vae.model, vae.guide, torch.ones(3, 4))
    z = target.draw_prior(5)
    assert z.shape == (5, 3, 2) and target.log_prior(z).isfinite().all()
    assert torch.equal(target.latents(z)["z"], z)


def test_a_context_by_name():
    vae = VAE((4,), 2, prior=ConditionalNormal, context=(3,)).double()
    x, c = torch.ones(6, 4), torch.eye(3).repeat(2, 1)
    target = Target(vae.model, vae.guide, x, c=c)
    z, log_q = target.draw_guide(5)
    expected = importance(vae.model, vae.guide, x, c=c, num_particles=5).log_prior.shape
    assert target.log_joint(z).shape == log_q.shape == expected
    other = Target(vae.model, vae.guide, x, c=c.flip(0))
    assert not torch.allclose(other.log_joint(z), target.log_joint(z))
    assert torch.equal(target.at(x, c.flip(0)).log_joint(z), other.log_joint(z))
    with pytest.raises(DataError, match="one row for each datum"):
        Target(vae.model, vae.guide, x, c=c[:3])


def test_draws_are_a_datums_own_and_the_callers_generators_stay():
    vae = VAE((4,), 2)
    x = torch.rand(60, 4).round()
    state = torch.get_rng_state()
    for draw in (lambda t: t.draw_guide(3, seed=1)[0], lambda t: t.draw_prior(3, seed=1)):
        whole, some = (draw(Target(vae.model, vae.guide, x[:n])) for n in (60, 7))
        assert torch.equal(whole[:, :7], some) and whole.shape == (3, 60, 2)
    rest = Target(vae.model, vae.guide, x[50:]).draw_guide(3, seed=1, first=50)[0]
    assert torch.equal(Target(vae.model, vae.guide, x).draw_guide(3, seed=1)[0][:, 50:], rest)
    assert torch.equal(torch.get_rng_state(), state)


def test_evaluation_mode_inside_and_the_switches_restored():
    vae = VAE((4,), 2, decoder=Dropping, encoder=Dropping)
    vae.train()
    target = Target(vae.model, vae.guide, torch.ones(3, 4))
    z, _ = target.draw_guide(2)
    assert torch.equal(target.log_joint(z), target.log_joint(z)) and vae.training
    assert target.log_joint(z).requires_grad and not z.requires_grad
    with torch.no_grad():
        assert not target.log_joint(z).requires_grad


def pair(prior, guide):
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(z.double(), 1.0), obs=x)

    def program(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", guide(x))

    return model, program


def test_supports_of_each_datum():
    """Uniform(0, x): the map is the datum's own."""
    x = torch.tensor([1.0, 10.0])
    target = Target(*pair(lambda x: dist.Uniform(0.0, x), lambda x: dist.Uniform(0.0, x)), x)
    z = target.draw_prior(1000)
    assert not target.is_same_for_all_data
    assert (target.latents(z)["z"] < x).all() and (target.latents(z)["z"].amax(0) > 0.9 * x).all()
    assert torch.allclose(target.log_prior(z), target.log_guide(z))
    same = Target(*pair(lambda x: dist.Uniform(x * 0, 2.0), lambda x: dist.Uniform(x * 0, 2.0)), x)
    assert same.is_same_for_all_data


def test_refusals():
    coin = pair(lambda x: dist.Bernoulli(0.5), lambda x: dist.Bernoulli(0.5))
    with pytest.raises(UsageError, match="'z' is discrete, so there is no gradient"):
        Target(*coin, torch.ones(3))
    with pytest.raises(DataError, match=r"expected data, .* got \[0\] rows"):
        Target(*coin, torch.ones(0))

    def moving(x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.LogNormal(0.0, 1.0))
            pyro.sample("z", dist.Uniform(0.0, top))

    with pytest.raises(UsageError, match="the support of site 'z' depends on another latent site"):
        Target(moving, moving, torch.ones(3))

    def without(x):
        return Unknown(x * 0, 1.0)

    with pytest.raises(UsageError, match=r"no bijection is known .* 'z' \(Unknown\)"):
        Target(*pair(without, without), torch.ones(3))
    model, guide = pair(without, lambda x: dist.Normal(x, 1.0))
    assert Target(model, guide, torch.ones(3)).size == 1  # the guide knows the support


class Unknown(dist.Normal):
    support = property(lambda self: (_ for _ in ()).throw(NotImplementedError()))

    def expand(self, batch_shape, _instance=None):
        return Unknown(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


def test_sites_of_inner_plates_of_observations():
    x = torch.randn(5, 3)
    target = Target(two_layer_model, two_layer_guide, x, max_plate_nesting=2)
    z, log_q = target.draw_guide(4)
    assert target.size == 4 and target.log_joint(z).shape == log_q.shape == (4, 5)
    assert torch.allclose(target.log_guide(z), log_q, atol=1e-5)
