"""One suite over every concrete class of each axis: a new class is tested the moment it exists."""

import inspect
import math
from functools import partial

import pytest
import torch
from pyro.distributions import constraints

from pyro_vae import guides, likelihoods, networks, objectives, priors, schedules
from pyro_vae.checkpoint import build_vae, describe
from pyro_vae.errors import DataError, UsageError
from pyro_vae.shapes import Shapes
from pyro_vae.vae import VAE

SHAPES = Shapes(event=(2, 3), latent=2)
LEADING = [(), (4,), (3, 4), (2, 3, 4)]


def concrete(module, base):
    """The concrete subclasses of `base` that `module` defines."""
    found = [
        c
        for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, base) and c.__module__ == module.__name__
    ]
    return [c for c in found if not inspect.isabstract(c) and not c.__name__.startswith("_")]


# Further settings of a class, beside its defaults.
VARIANTS = {
    "Normal": [
        {"scale": 0.5},
        {"scale": "learned"},
        {"scale": "per_element"},
        {"bounded": True, "scale": "per_element"},
    ],
    "MLP": [{"hidden": ()}, {"hidden": (5, 4), "activation": "softplus"}],
    "Linear": [{"start": 1.0, "end": 0.2, "epochs": 5.0}],
}


def cases(module, base):
    for cls in concrete(module, base):
        for options in [{}, *VARIANTS.get(cls.__name__, [])]:
            yield pytest.param(partial(cls, **options), id=f"{cls.__name__}({options or ''})")


PRIORS = list(cases(priors, priors.Prior))
LIKELIHOODS = list(cases(likelihoods, likelihoods.Likelihood))
GUIDES = list(cases(guides, guides.Guide))
NETWORKS = list(cases(networks, networks.Network))
SCHEDULES = list(cases(schedules, schedules.Schedule))
OBJECTIVES = list(cases(objectives, objectives.Objective))


def data_for(likelihood, leading=(4,)):
    """Data inside a likelihood's support."""
    x = torch.rand(*leading, *SHAPES.event)
    return x.round() if likelihood.support is constraints.boolean else x


def all_have_gradients(module):
    return all(p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in module.parameters())


def trapezoid_normalises(log_density, low, high, n=200_001):
    grid = torch.linspace(low, high, n, dtype=torch.float64)
    return torch.trapezoid(log_density(grid).exp(), grid).item()


class TestNetworks:
    @pytest.mark.parametrize("make", NETWORKS)
    @pytest.mark.parametrize("leading", LEADING)
    def test_keeps_leading_dimensions(self, make, leading):
        network = make((2, 3), (2, 4)).eval()
        x = torch.randn(*leading, 2, 3)
        out = network(x)
        assert out.shape == (*leading, 2, 4)
        if leading:
            torch.testing.assert_close(out[0], network(x[0]))

    @pytest.mark.parametrize("make", NETWORKS)
    def test_every_parameter_gets_a_gradient(self, make):
        network = make((2, 3), (2, 4))
        network(torch.randn(16, 2, 3)).square().sum().backward()
        assert all_have_gradients(network)

    @pytest.mark.parametrize("make", NETWORKS)
    def test_output_bias(self, make):
        network, bias = make((2, 3), (2, 4)), torch.randn(2, 4)
        x = torch.randn(5, 2, 3)
        network.set_output_bias(torch.zeros(2, 4))
        before = network(x)
        network.set_output_bias(bias)
        torch.testing.assert_close(network(x), before + bias)

    @pytest.mark.parametrize("activation", inspect.get_annotations(networks.MLP.__init__)["activation"].__args__)
    def test_activations(self, activation):
        assert networks.MLP((3,), (2,), hidden=(4,), activation=activation)(torch.randn(5, 3)).isfinite().all()

    def test_refuses_bad_options(self):
        with pytest.raises(UsageError, match="choose one of tanh"):
            networks.MLP((3,), (2,), activation="tahn")
        with pytest.raises(UsageError, match="positive"):
            networks.MLP((3,), (2,), hidden=(0,))


class TestPriors:
    @pytest.mark.parametrize("make", PRIORS)
    def test_shapes_and_draws(self, make):
        vae = VAE(SHAPES.event, SHAPES.latent, prior=make)
        distribution = vae.prior(vae.encode)
        assert distribution.batch_shape == () and distribution.event_shape == (2,)
        assert distribution.log_prob(distribution.sample((5, 3))).shape == (5, 3)

    @pytest.mark.parametrize("make", PRIORS)
    def test_normalises(self, make):
        vae = VAE(SHAPES.event, 1, prior=make).double()
        total = trapezoid_normalises(lambda z: vae.prior(vae.encode).log_prob(z.unsqueeze(-1)), -40, 40)
        assert total == pytest.approx(1, abs=1e-6)

    def test_standard_normal_density(self):
        z = torch.randn(7, 2)
        expected = -0.5 * (z.square().sum(-1) + 2 * math.log(2 * math.pi))
        torch.testing.assert_close(priors.StandardNormal(SHAPES)(None).log_prob(z), expected)


class TestLikelihoods:
    @pytest.mark.parametrize("make", LIKELIHOODS)
    @pytest.mark.parametrize("leading", LEADING)
    def test_elementwise(self, make, leading):
        likelihood = make(SHAPES)
        assert likelihood.param_shape == (likelihood.num_params, *SHAPES.event)
        distribution = likelihood(torch.randn(*leading, *likelihood.param_shape))
        assert distribution.batch_shape == (*leading, *SHAPES.event) and distribution.event_shape == ()
        assert distribution.log_prob(data_for(likelihood, leading)).isfinite().all()
        assert distribution.mean.shape == (*leading, *SHAPES.event)

    @pytest.mark.parametrize("make", LIKELIHOODS)
    def test_normalises(self, make):
        likelihood = make(Shapes((1,), 2)).double()
        params = torch.randn(*likelihood.param_shape, dtype=torch.float64)
        distribution = likelihood(params)
        if likelihood.support is constraints.boolean:
            total = sum(
                distribution.log_prob(torch.full((1,), v, dtype=torch.float64)).exp().item() for v in (0.0, 1.0)
            )
        else:
            total = trapezoid_normalises(
                lambda x: distribution.log_prob(x.unsqueeze(-1)).squeeze(-1), -200, 200, 2_000_001
            )
        assert total == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("make", LIKELIHOODS)
    def test_gradient_reaches_every_parameter(self, make):
        likelihood = make(SHAPES)
        params = torch.randn(8, *likelihood.param_shape, requires_grad=True)
        likelihood(params).log_prob(data_for(likelihood, (8,))).sum().backward()
        assert params.grad is not None and (params.grad.abs().sum(0) > 0).all()
        assert all_have_gradients(likelihood)

    @pytest.mark.parametrize("make", LIKELIHOODS)
    def test_check_accepts_its_data_and_refuses_others(self, make):
        likelihood = make(SHAPES)
        x = data_for(likelihood)
        likelihood.check(x)
        likelihood.check(torch.full_like(x, likelihood.placeholder))
        with pytest.raises(DataError, match=r"1 of 24 values .* nan at \(1, 0, 2\): "):
            likelihood.check(x.index_put((torch.tensor(1), torch.tensor(0), torch.tensor(2)), torch.tensor(math.nan)))
        with pytest.raises(DataError, match=r"expected shape \[N >= 1, 2, 3\], got \[4, 3, 2\]"):
            likelihood.check(x.transpose(1, 2))
        with pytest.raises(DataError, match="expected shape"):
            likelihood.check(x[:0])

    @pytest.mark.parametrize("make", LIKELIHOODS)
    def test_start_at_the_mean(self, make):
        likelihood = make(SHAPES)
        x = data_for(likelihood, (50,))
        params = likelihood.initial_params(x.mean(0), x.std(0))
        assert params.shape == likelihood.param_shape
        torch.testing.assert_close(likelihood(params).mean, x.mean(0).clamp(1e-3, 1 - 1e-3))

    def test_bernoulli_density_and_refusal(self):
        likelihood, logits = likelihoods.Bernoulli(SHAPES), 4 * torch.randn(9, 1, 2, 3)
        x = torch.rand(9, 2, 3).round()
        expected = torch.distributions.Bernoulli(logits=logits.squeeze(1)).log_prob(x)
        torch.testing.assert_close(likelihood(logits).log_prob(x), expected)
        extreme = torch.tensor([[[-200.0, 200.0, 0.0]] * 2]).unsqueeze(1)
        assert likelihood(extreme).log_prob(torch.ones(1, 2, 3)).isfinite().all()
        with pytest.raises(DataError, match="binarise the data"):
            likelihood.check(torch.full((1, 2, 3), 0.37))

    def test_normal_density(self):
        params = torch.randn(4, 2, 2, 3)
        x = torch.randn(4, 2, 3)
        got = likelihoods.Normal(SHAPES, scale="per_element", min_scale=0.0)(params).log_prob(x)
        torch.testing.assert_close(got, torch.distributions.Normal(params[:, 0], params[:, 1].exp()).log_prob(x))
        for bad in (0, -1.0, "learnt"):
            with pytest.raises(UsageError, match="positive number"):
                likelihoods.Normal(SHAPES, scale=bad)


class TestGuides:
    @pytest.mark.parametrize("make", GUIDES)
    @pytest.mark.parametrize("leading", LEADING)
    def test_shapes(self, make, leading):
        guide = make(SHAPES)
        distribution = guide.distribution(torch.randn(*leading, *guide.param_shape))
        assert distribution.batch_shape == leading and distribution.event_shape == (2,)
        assert distribution.has_rsample

    @pytest.mark.parametrize("make", GUIDES)
    def test_gradient_of_a_draw_reaches_every_parameter(self, make):
        guide = make(Shapes((2, 3), 3))
        params = torch.randn(64, *guide.param_shape, requires_grad=True)
        guide.distribution(params).rsample().square().sum().backward()
        assert params.grad is not None and (params.grad.reshape(64, -1).abs().sum(0) > 0).all()

    @pytest.mark.parametrize("make", GUIDES)
    def test_normalises(self, make):
        guide = make(Shapes((2, 3), 1)).double()
        distribution = guide.distribution(torch.randn(*guide.param_shape, dtype=torch.float64))
        assert trapezoid_normalises(lambda z: distribution.log_prob(z.unsqueeze(-1)), -60, 60) == pytest.approx(
            1, abs=1e-6
        )

    @pytest.mark.parametrize("make", GUIDES)
    def test_draws_have_the_stated_moments(self, make):
        """20,000 draws; each of 6 moments within 5 standard errors: false alarm below 4e-6."""
        guide = make(SHAPES)
        distribution = guide.distribution(0.5 * torch.randn(*guide.param_shape))
        z = distribution.sample((20_000,))
        error = distribution.stddev / 20_000**0.5
        assert ((z.mean(0) - distribution.mean).abs() < 5 * error).all()
        torch.testing.assert_close(z.var(0), distribution.variance, rtol=5 * (2 / 20_000) ** 0.5, atol=0)

    @pytest.mark.parametrize("make", GUIDES)
    def test_log_density_of_a_draw_in_single_precision(self, make):
        """-log q at its own draws averages to the entropy, also for large and ill-conditioned parameters.

        2,000 draws in 20 dimensions: within 5 standard errors of sqrt(20 / 2) each, false alarm below 1e-6.
        """
        guide = make(Shapes((2, 3), 20))
        params = 3 * torch.randn(*guide.param_shape)
        distribution = guide.distribution(params).expand((2000,))
        got = -distribution.log_prob(distribution.rsample()).double()
        entropy = guide.double().distribution(params.double()).entropy()
        assert (got.mean() - entropy).abs() < 5 * (20 / 2 / 2000) ** 0.5
        assert got.std() == pytest.approx(10**0.5, rel=0.2)

    def test_full_normal_at_a_draw_and_at_its_copy(self):
        """The density at a draw is that at any equal tensor, and so is its gradient (well conditioned, float64)."""
        params = 0.3 * torch.randn(5, 9, dtype=torch.float64)
        gradients = []
        for copied in (False, True):
            torch.manual_seed(1)
            leaf = params.clone().requires_grad_()
            distribution = guides.FullNormal(Shapes((1,), 3)).distribution(leaf)
            z = distribution.rsample()
            value = distribution.log_prob(z + 0 if copied else z)
            gradients.append((value, torch.autograd.grad(value.sum(), leaf)[0]))
        torch.testing.assert_close(*gradients)

    def test_full_normal_covariance(self):
        guide = guides.FullNormal(Shapes((1,), 3))
        params = torch.arange(9.0) / 10
        scale = torch.tensor([[0.3, 0, 0], [0.6, 0.4, 0], [0.7, 0.8, 0.5]])
        scale = scale.tril(-1) + torch.diag(scale.diagonal().exp())
        distribution = guide.distribution(params)
        torch.testing.assert_close(distribution.mean, params[:3])
        torch.testing.assert_close(distribution.covariance_matrix, scale @ scale.T)


class TestSchedulesAndObjectives:
    @pytest.mark.parametrize("make", SCHEDULES)
    def test_schedule_is_finite_and_settles_only_for_good(self, make):
        schedule = make()
        values = [schedule(t / 10, 30) for t in range(301)]
        assert all(math.isfinite(v) for v in values)
        if schedule.settled(20, 30):
            assert set(values[200:]) == {values[300]}

    @pytest.mark.parametrize("make", OBJECTIVES)
    def test_objective_is_a_finite_differentiable_scalar(self, make):
        vae = VAE(SHAPES.event, SHAPES.latent, encoder=partial(networks.MLP, hidden=(5,)))
        loss = make().at(0, 1)(vae.model, vae.guide, torch.ones(4, 2, 3))
        assert loss.shape == () and loss.isfinite()
        loss.backward()
        assert all_have_gradients(vae)
        assert hash(make()) == hash(make()) and make() == make()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("prior", PRIORS)
class TestWhole:
    """Every combination of prior, likelihood and guide as a VAE."""

    def make(self, prior, likelihood, guide):
        return VAE(SHAPES.event, 2, prior, likelihood, guide, *[partial(networks.MLP, hidden=(5,))] * 2)

    def test_mask_leaves_out_exactly_the_unobserved(self, prior, likelihood, guide):
        vae = self.make(prior, likelihood, guide)
        x, mask, z = data_for(vae.likelihood), torch.rand(4, 2, 3) < 0.5, torch.randn(4, 2)
        from pyro_vae.importance import weigh

        with_hole = x.masked_fill(~mask, math.nan)
        got = weigh(vae.model, {"z": z.unsqueeze(0)}, with_hole, mask)[0]
        expected = (vae.likelihood(vae.decoder(z)).log_prob(x) * mask).sum((-1, -2))
        torch.testing.assert_close(got.squeeze(0), expected)
        assert vae.encode(with_hole, mask).mean.isfinite().all()

    def test_saved_description_builds_the_same(self, prior, likelihood, guide):
        vae = self.make(prior, likelihood, guide)
        twin = build_vae({name: describe(value) for name, value in vae.arguments.items()})
        twin.load_state_dict(vae.state_dict())
        assert repr(twin) == repr(vae) and "latent_dim=2" in repr(vae)
        x = data_for(vae.likelihood)
        torch.testing.assert_close(twin.encode(x).mean, vae.encode(x).mean)
        torch.testing.assert_close(twin.decode(torch.ones(1, 2)).mean, vae.decode(torch.ones(1, 2)).mean)

    def test_moves_and_casts(self, prior, likelihood, guide):
        vae = self.make(prior, likelihood, guide)
        assert all(t.device.type == "meta" for t in [*vae.to("meta").parameters(), *vae.buffers()])
        vae = self.make(prior, likelihood, guide).double()
        assert vae.encode(data_for(vae.likelihood)).mean.dtype == torch.float64
        assert vae.prior(vae.encode).sample().dtype == torch.float64
