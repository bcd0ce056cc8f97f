"""Guides against independent references: torch and zuko densities, autograd Jacobians, quadrature, closed forms."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

from pyro_vae import guides
from pyro_vae.autoencoders import VAE
from pyro_vae.cli.parsing import parser_of
from pyro_vae.cli.work.pictures import save_pictures
from pyro_vae.data import LinearGaussian, load_data
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.distributed import ShardedNoise, World
from pyro_vae.distributions.from_noise import normal_points
from pyro_vae.distributions.point_masses import is_point_mass
from pyro_vae.errors import UsageError
from pyro_vae.evidence import bound, log_marginal
from pyro_vae.guides import (
    Delta,
    DiagonalNormal,
    FullNormal,
    Guide,
    Householder,
    InverseAutoregressiveFlow,
    LowRankNormal,
    MixtureOfNormals,
    SemiAmortized,
    SplineFlow,
)
from pyro_vae.inference.pairs import EagerPair, recorded
from pyro_vae.inference.weighing import importance
from pyro_vae.messages import log_once
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.priors import Prior
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe
from pyro_vae.shapes import Shapes
from pyro_vae.tasks.generation import reconstruct, sample
from pyro_vae.training.fitting import fit
from pyro_vae.training.steps import Batch, GraphStep, Loss
from tests.support.ppca import truth, vae_of
from tests.support.suites import once_a_class

IAF = partial(InverseAutoregressiveFlow, hidden=(8,), context=3)
SPLINE = partial(SplineFlow, hidden=(8,), context=3, bins=4)
MIXTURE = partial(MixtureOfNormals, components=3)
NORMALS = {
    "DiagonalNormal": DiagonalNormal,
    "FullNormal": FullNormal,
    "LowRankNormal": LowRankNormal,
    "Householder": Householder,
}
FLOWS = {"IAF": IAF, "SplineFlow": SPLINE}
WIDE = {**NORMALS, "MixtureOfNormals": MIXTURE, **FLOWS}
"""Families with a density."""
ALL = {**WIDE, "Delta": Delta, "SemiAmortized": partial(SemiAmortized, guide=FullNormal, steps=2)}
SMALL = partial(MLP, hidden=(8,))


def each(families):
    return pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in families.items()])


def q_of(make, latent, leading=(), scale=0.7, dtype=torch.float64, grad=False):
    """A member of a family with random parameters, and those parameters."""
    guide = make(Shapes((2, 3), latent)).to(dtype)
    params = (scale * torch.randn(*leading, *guide.param_shape, dtype=dtype)).requires_grad_(grad)
    return guide.distribution(params), params


def vae_with(guide, seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((8, 8), 3, guide=guide, **{"encoder": SMALL, "decoder": SMALL, **parts})


def binary(n=10):
    return load_data("digits", binarize="dynamic").split("test")[:n]


def grid_2d(q, half_width=9.0, side=401):
    """Points over a square around a distribution, and the area of a cell."""
    steps = torch.linspace(-half_width, half_width, side, dtype=torch.float64)
    with torch.no_grad():
        axes = [mean + sd * steps for mean, sd in zip(q.mean, q.stddev, strict=True)]
        return torch.cartesian_prod(*axes), math.prod((axis[1] - axis[0]).item() for axis in axes)


class TestShapes:
    @each(ALL)
    @pytest.mark.parametrize("latent", [1, 2, 20])
    @pytest.mark.parametrize("leading", [(), (4,), (3, 4)])
    def test_batches_samples_expansions_and_masks(self, make, latent, leading):
        q, _ = q_of(make, latent, leading)
        assert q.batch_shape == leading and q.event_shape == (latent,) and q.has_rsample
        z = q.rsample((5, 6))
        assert z.shape == (5, 6, *leading, latent) and q.log_prob(z).shape == (5, 6, *leading)
        wide = q.expand((7, *leading))
        z = wide.sample()
        assert z.shape == (7, *leading, latent) and wide.log_prob(z).shape == (7, *leading)
        assert wide.log_prob(z[0]).shape == (7, *leading)
        assert wide.mean.shape == wide.stddev.shape == z.shape
        torch.testing.assert_close(wide.mean[3], q.mean)
        assert q.log_prob(torch.zeros(6, *[1] * len(leading), latent).double()).shape == (6, *leading)
        mask = torch.rand(7, *leading) < 0.5
        torch.testing.assert_close(wide.mask(mask).log_prob(z), wide.log_prob(z) * mask)

    @each(ALL)
    def test_in_a_plate_with_particles(self, make):
        vae, x = vae_with(make), binary(4)
        samples = importance(vae.model, vae.guide, x, num_particles=3)
        assert samples.latents["z"].shape == (3, 4, 3) and samples.log_guide.shape == (3, 4)
        assert vae.encode(x.expand(2, 5, 4, 8, 8)).batch_shape == (2, 5, 4)

    @each(ALL)
    def test_gradients_reach_every_parameter_in_any_dimension(self, make):
        for latent in (1, 2, 3):
            guide = make(Shapes((2, 3), latent))
            params = torch.randn(64, *guide.param_shape, requires_grad=True)
            q = guide.distribution(params)
            z = q.rsample()
            (z.square().sum() - q.log_prob(z).sum()).backward()
            assert (params.grad.reshape(64, -1).abs().sum(0) > 0).all()
            assert all(p.grad.abs().sum() > 0 for p in guide.parameters())

    def test_an_expansion_that_does_not_fit(self):
        with pytest.raises(ValueError, match=r"can't expand batch shape \(4,\) to \(3,\)"):
            q_of(LowRankNormal, 2, (4,))[0].expand((3,))


class TestDensities:
    @each(WIDE)
    def test_normalises_in_one_dimension(self, make):
        """20,001 points over 24 standard deviations; splines have kinks, so 1e-5."""
        q, _ = q_of(make, 1)
        z = q.mean + q.stddev * torch.linspace(-12, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
        total = torch.trapezoid(q.log_prob(z).exp(), z.squeeze(-1))
        assert total.item() == pytest.approx(1, abs=1e-5)

    @each(WIDE)
    def test_normalises_in_two_dimensions_and_draws_follow_it(self, make):
        """Averages of 4 functions over 20,000 draws, within 5 standard errors of quadrature: false alarm < 2e-5."""
        with torch.no_grad():
            q, _ = q_of(make, 2)
            z, area = grid_2d(q)
            density = q.log_prob(z).exp() * area
            assert density.sum().item() == pytest.approx(1, abs=1e-4)
            draws = q.rsample((20_000,))
            for function in (
                lambda z: z[..., 0].cos(),
                lambda z: (z[..., 1] / 2).sin(),
                lambda z: (z[..., 0] - z[..., 1]).tanh(),
                lambda z: (z[..., 0] * z[..., 1]).cos(),
            ):
                values = function(draws)
                error = values.std() / 20_000**0.5 + 1e-4
                assert (values.mean() - (function(z) * density).sum()).abs() < 5 * error

    @each(WIDE)
    def test_draws_follow_the_density_in_one_dimension(self, make):
        """Kolmogorov-Smirnov: 4,000 draws, sqrt(n) D < 2.8, false alarm 2 exp(-2 2.8^2) = 3e-7 each."""
        with torch.no_grad():
            q, _ = q_of(make, 1)
            grid = (q.mean + q.stddev * torch.linspace(-12, 12, 20_001, dtype=torch.float64)).contiguous()
            cdf = torch.cumulative_trapezoid(q.log_prob(grid.unsqueeze(-1)).exp(), grid)
            draws = q.rsample((4000,)).squeeze(-1).sort().values
            u = cdf[torch.searchsorted(grid, draws).clamp(1, 20_000) - 1]
        ranks = torch.arange(1, 4001) / 4000
        distance = torch.maximum(ranks - u, u - ranks + 1 / 4000).max()
        assert distance * 4000**0.5 < 2.8

    @each(WIDE)
    def test_at_a_draw_as_at_its_copy(self, make):
        """The remembered density and the density at an equal tensor, in value and in every gradient."""
        results = []
        for copied in (False, True):
            torch.manual_seed(1)
            q, params = q_of(make, 3, (5,), grad=True)
            z = q.expand((4, 5)).rsample()
            q = q.expand((4, 5))
            torch.manual_seed(2)
            z = q.rsample()
            value = q.log_prob(z + 0 if copied else z)
            results.append([value, *torch.autograd.grad((value * z[..., 0]).sum(), params)])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)

    @each({**NORMALS, "MixtureOfNormals": MIXTURE, **FLOWS})
    def test_score_function_of_a_draw_without_gradient(self, make):
        """What is drawn by `sample` and scored with gradients is scored at a fixed z, not at fixed noise."""
        q, params = q_of(make, 2, grad=True)
        z = q.sample()
        at_draw, at_copy = (torch.autograd.grad(q.log_prob(v), params, retain_graph=True)[0] for v in (z, z.clone()))
        torch.testing.assert_close(at_draw, at_copy)
        assert at_draw.abs().sum() > 0

    @each(FLOWS)
    @pytest.mark.parametrize("latent", [1, 2, 5])
    def test_flows_against_the_jacobian(self, make, latent):
        """log q(T(e)) = log N(e) - log|det dT/de|, the Jacobian by autograd; T^-1 finds e."""
        q, _ = q_of(make, latent, scale=1.5)
        for e in torch.randn(10, latent, dtype=torch.float64):
            z, log_q = q.push(e)
            jacobian = torch.func.jacrev(lambda e: q.push(e)[0])(e)
            expected = dist.Normal(0.0, 1.0).log_prob(e).sum() - torch.linalg.slogdet(jacobian)[1]
            torch.testing.assert_close(log_q, expected, rtol=0, atol=1e-9)
            torch.testing.assert_close(q.log_density(z), expected, rtol=0, atol=1e-7)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_made_is_autoregressive(self, reverse):
        q, _ = q_of(IAF, 5)
        step = q.steps[2 if reverse else 1]
        for output in (0, 1):
            jacobian = torch.func.jacrev(lambda z, o=output: step.terms(z)[:, o])(torch.randn(5).double())
            below = jacobian.triu() if not reverse else jacobian.tril()
            assert (below == 0).all()
            assert ((jacobian != 0).sum() == 10).all()

    def test_spline_flow_against_zuko(self):
        """The density that zuko gives its flow in the other direction, moved by the affine map."""
        import zuko

        guide = partial(SPLINE, transforms=1)(Shapes((2, 3), 3)).double()
        params = torch.randn(7, *guide.param_shape, dtype=torch.float64)
        z = torch.randn(7, 3, dtype=torch.float64)
        loc, log_scale, context = params.split([3, 3, 3], -1)
        options = {"bins": 4, "hidden_features": (8,), "activation": torch.nn.ELU}
        flow = zuko.flows.NSF(3, 3, transforms=1, **options).double()
        flow.transform.transforms[0].hyper.load_state_dict(guide.steps[0].state_dict())
        base = zuko.distributions.DiagNormal(torch.zeros(3).double(), torch.ones(3).double())
        flow = zuko.distributions.NormalizingFlow(flow.transform(context).inv, base)
        expected = flow.log_prob((z - loc) / log_scale.exp()) - log_scale.sum(-1)
        torch.testing.assert_close(guide.distribution(params).log_prob(z), expected)

    def test_full_normal_by_hand(self):
        params = torch.arange(9.0) / 10
        scale = torch.tensor([[0.3, 0, 0], [0.6, 0.4, 0], [0.7, 0.8, 0.5]])
        scale = scale.tril(-1) + torch.diag(scale.diagonal().exp())
        q = FullNormal(Shapes((1,), 3)).distribution(params)
        torch.testing.assert_close(q.mean, params[:3])
        torch.testing.assert_close(q.covariance_matrix, scale @ scale.T)

    def test_full_normal_against_torch(self):
        q, _ = q_of(FullNormal, 3, (5,), scale=0.3)
        z = torch.randn(4, 5, 3, dtype=torch.float64)
        torch.testing.assert_close(q.log_prob(z), MultivariateNormal(q.mean, q.covariance_matrix).log_prob(z))

    @pytest.mark.parametrize("rank", [1, 2, 5])
    def test_low_rank_against_torch(self, rank):
        guide = LowRankNormal(Shapes((2, 3), 4), rank=rank)
        params = torch.randn(6, *guide.param_shape, dtype=torch.float64)
        q, z = guide.distribution(params), torch.randn(3, 6, 4, dtype=torch.float64)
        scale = params[:, 1].exp()
        expected = LowRankMultivariateNormal(params[:, 0], scale.unsqueeze(-1) * params[:, 2:].mT, scale.square())
        torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
        for name in ("mean", "variance", "covariance_matrix"):
            torch.testing.assert_close(getattr(q, name), getattr(expected, name))
        torch.testing.assert_close(q.entropy(), expected.entropy())
        draw = q.rsample((8,))
        torch.testing.assert_close(q.log_prob(draw), expected.log_prob(draw))

    @pytest.mark.parametrize("latent", [1, 2, 4])
    def test_householder_against_torch(self, latent):
        guide = Householder(Shapes((2, 3), latent), reflections=3)
        params = torch.randn(6, *guide.param_shape, dtype=torch.float64)
        q, z = guide.distribution(params), torch.randn(3, 6, latent, dtype=torch.float64)
        turned = torch.eye(latent, dtype=torch.float64).expand(6, latent, latent)
        for v in params[:, 2:].unbind(1):
            outer = v.unsqueeze(-1) * v.unsqueeze(-2) / v.square().sum(-1)[:, None, None]
            turned = turned @ (torch.eye(latent, dtype=torch.float64) - 2 * outer)
        covariance = turned @ torch.diag_embed((2 * params[:, 1]).exp()) @ turned.mT
        expected = MultivariateNormal(params[:, 0], covariance)
        torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
        for name in ("mean", "variance", "covariance_matrix"):
            torch.testing.assert_close(getattr(q, name), getattr(expected, name))
        torch.testing.assert_close(q.entropy(), expected.entropy())
        draw = q.rsample((8,))
        torch.testing.assert_close(q.log_prob(draw), expected.log_prob(draw))

    def test_a_reflection_by_nothing(self):
        q = Householder(Shapes((2, 3), 2)).distribution(torch.zeros(3, 2, requires_grad=True))
        z = q.rsample()
        torch.testing.assert_close(q.log_prob(z), dist.Normal(0.0, 1.0).log_prob(z).sum())

    def test_mixture_against_torch(self):
        q, params = q_of(MIXTURE, 4, (6,))
        logits, rest = params.split([3, 24], -1)
        loc, log_scale = rest.unflatten(-1, (2, 3, 4)).unbind(1)
        components = torch.distributions.Independent(torch.distributions.Normal(loc, log_scale.exp()), 1)
        expected = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=logits), components)
        z = torch.randn(5, 6, 4, dtype=torch.float64)
        torch.testing.assert_close(q.log_prob(z), expected.log_prob(z))
        torch.testing.assert_close(q.mean, expected.mean)
        torch.testing.assert_close(q.variance, expected.variance)


class TestMoments:
    def test_points_stand_for_a_normal(self):
        points = normal_points(512, 3).double()
        torch.testing.assert_close(points.mean(0), torch.zeros(3).double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(points.T @ points / 512, torch.eye(3).double(), rtol=0, atol=1e-5)
        assert points.cos().mean(0).sub(math.exp(-0.5)).abs().max() < 0.01
        few = normal_points(5, 4)
        assert few.shape == (5, 4) and few.isfinite().all() and normal_points(4, 0).shape == (4, 0)

    @each(FLOWS)
    @pytest.mark.parametrize("latent", [1, 3, 10])
    def test_of_flows(self, make, latent):
        """Against 40,000 draws: the points' own error is some hundredths of a standard deviation."""
        with torch.no_grad():
            q, _ = q_of(make, latent, (2,))
            draws = q.sample((40_000,))
        assert ((draws.mean(0) - q.mean).abs() < 0.04 * q.stddev).all()
        torch.testing.assert_close(draws.var(0), q.variance, rtol=0.1, atol=0)

    def test_draw_nothing(self):
        q, _ = q_of(IAF, 3)
        before = torch.get_rng_state()
        assert q.mean.isfinite().all() and (q.stddev > 0).all()
        assert (torch.get_rng_state() == before).all()

    @each(ALL)
    def test_statistics_of_the_latent_space(self, make):
        vae = vae_with(make)
        before = torch.get_rng_state()
        stats = latent_statistics(vae, binary(20))
        assert (torch.get_rng_state() == before).all()
        assert stats.active_variance.isfinite().all()
        assert stats.kl.isfinite().all() or make is Delta

    @each(ALL)
    def test_tasks(self, make):
        vae, x = vae_with(make), binary(5)
        assert reconstruct(vae, x, num_particles=2).isfinite().all() and sample(vae, 3).x.shape == (3, 8, 8)
        torch.testing.assert_close(reconstruct(vae, x)[:2], reconstruct(vae, x[:2]))


class TestNumbers:
    @each(ALL)
    @pytest.mark.parametrize("latent", [2, 20])
    def test_extreme_parameters(self, make, latent):
        """Encoder outputs of +-30 in single precision: draws, densities and gradients are finite."""
        guide = make(Shapes((2, 3), latent))
        params = (30 * torch.randn(64, *guide.param_shape).sign()).requires_grad_()
        q = guide.distribution(params)
        z = q.rsample()
        log_q = q.log_prob(z)
        assert z.isfinite().all() and log_q.isfinite().all()
        (1e-13 * z.square().sum() + log_q.sum()).backward()
        assert params.grad.isfinite().all()
        if isinstance(q, guides.FromNoise):
            assert q.log_prob(z.detach().clone()).isfinite().all()
            assert q.log_prob(torch.zeros_like(z)).isfinite().all()

    @each({"LowRankNormal": partial(LowRankNormal, rank=3), "Householder": Householder, **FLOWS, "Mixture": MIXTURE})
    def test_own_draws_in_single_precision(self, make):
        """log q of a draw in single precision against double, the same noise: ill-conditioned, within 0.01 nats."""
        guide = make(Shapes((2, 3), 20))
        params = torch.randn(200, *guide.param_shape)
        params = params * 10 ** torch.empty(200, *[1] * len(guide.param_shape)).uniform_(0, 1)
        noise = torch.randn(200, guide.distribution(params).noise_size)
        got = guide.distribution(params).push(noise)[1]
        expected = guide.double().distribution(params.double()).push(noise.double())[1]
        same = torch.ones(200, dtype=torch.bool)
        if make is MIXTURE:  # where both took the same component
            same = (got - expected).abs() < 5
            assert same.sum() > 190
        torch.testing.assert_close(got[same].double(), expected[same], rtol=1e-5, atol=1e-2)

    def test_low_rank_where_woodbury_fails(self):
        """Columns of norm 1e3, nearly alike, in single precision: off by less than a hundredth of the usual form."""
        torch.manual_seed(3)
        guide = LowRankNormal(Shapes((2, 3), 20), rank=2)
        column = 200 * torch.randn(100, 1, 20)
        columns = torch.cat([column, column + torch.randn(100, 1, 20)], 1)
        params, noise = torch.cat([torch.zeros(100, 2, 20), columns], 1), torch.randn(100, 22)
        z, got = guide.distribution(params).push(noise)
        expected = guide.distribution(params.double()).push(noise.double())[1]
        off = (got - expected).abs().max()
        usual = LowRankMultivariateNormal(torch.zeros(20), columns.mT, torch.ones(20), validate_args=False).log_prob(z)
        assert off < 0.01 and (usual - expected).abs().max() > 100 * off

    def test_mixture_far_away(self):
        """A spike at 30 of width 1e-6: the density of a draw keeps its digits, beside a wide component."""
        params = torch.tensor([0.0, 0.0, 30.0, -30.0, math.log(1e-6), math.log(1e3)]).expand(1000, -1)
        q = MixtureOfNormals(Shapes((1,), 1), components=2).distribution(params)
        z = q.rsample()
        spike = (z - 30).abs().squeeze(-1) < 1e-4
        e = dist.Normal(0.0, 1.0).log_prob(torch.zeros(())) - math.log(1e-6) - math.log(2)
        values = (e - q.log_prob(z)[spike]).double()  # e^2 / 2, chi-squared with one degree of freedom over 2
        assert values.mean() == pytest.approx(0.5, abs=5 * (0.5 / spike.sum().item()) ** 0.5)


class TestMixtureGradients:
    """Implicit reparameterisation is unbiased, and pathwise exact."""

    def test_one_component_is_a_normal(self):
        q, params = q_of(partial(MixtureOfNormals, components=1), 3, (50,), grad=True)
        z = q.rsample()
        _, loc, log_scale = params.split([1, 3, 3], -1)
        noise = ((z - loc) / log_scale.exp()).detach()
        weight = torch.randn_like(z)
        got = torch.autograd.grad((z * weight).sum(), params, retain_graph=True)[0]
        expected = torch.autograd.grad(((loc + log_scale.exp() * noise) * weight).sum(), params, allow_unused=True)[0]
        torch.testing.assert_close(got, expected)

    def test_moves_as_the_distribution_functions_say(self):
        """dz = -(dS/dz)^-1 dS, with S and both its Jacobians by autograd."""
        guide = MIXTURE(Shapes((1,), 4))

        def conditional_cdfs(params, z):
            logits, rest = params.split([3, 24], -1)
            loc, log_scale = rest.unflatten(-1, (2, 3, 4)).unbind(0)
            normal = torch.distributions.Normal(loc, log_scale.exp(), validate_args=False)
            log_densities = normal.log_prob(z)
            before = logits.unsqueeze(-1) + log_densities.cumsum(-1) - log_densities
            return (before.softmax(0) * normal.cdf(z)).sum(0)

        for _ in range(20):
            params = torch.randn(*guide.param_shape, dtype=torch.float64, requires_grad=True)
            z = guide.distribution(params).rsample()
            got = torch.stack([torch.autograd.grad(z[i], params, retain_graph=True)[0] for i in range(4)])
            by_params, by_z = torch.func.jacrev(conditional_cdfs, argnums=(0, 1))(params.detach(), z.detach())
            torch.testing.assert_close(got, -torch.linalg.solve(by_z, by_params), rtol=1e-6, atol=1e-8)

    def test_unbiased(self):
        """E cos(a z) is known: 100,000 draws, each of 27 gradients within 5.5 standard errors: false alarm 1e-6."""
        guide = MIXTURE(Shapes((1,), 4))
        params = torch.randn(*guide.param_shape, dtype=torch.float64, requires_grad=True)
        a = torch.tensor([0.7, -0.4, 0.3, 0.9], dtype=torch.float64)
        logits, rest = params.split([3, 24], -1)
        loc, log_scale = rest.unflatten(-1, (2, 3, 4)).unbind(0)
        damping = (-0.5 * (a * log_scale.exp()).square().sum(-1)).exp()
        exact = torch.autograd.grad((logits.softmax(-1) * (loc @ a).cos() * damping).sum(), params)[0]
        many = params.detach().expand(100_000, -1).clone().requires_grad_()
        z = guide.distribution(many).rsample()
        draws = torch.autograd.grad((z @ a).cos().sum(), many)[0]
        assert ((draws.mean(0) - exact).abs() < 5.5 * draws.std(0) / 100_000**0.5).all()

    def test_entropy(self):
        """The gradient of -E log q, the draw's path and density together, against quadrature; false alarm < 1e-6."""
        guide = MIXTURE(Shapes((1,), 1))
        params = torch.randn(*guide.param_shape, dtype=torch.float64, requires_grad=True)
        grid = torch.linspace(-60, 60, 100_001, dtype=torch.float64)
        log_q = guide.distribution(params).log_prob(grid.unsqueeze(-1))
        exact = torch.autograd.grad(torch.trapezoid(-log_q.exp() * log_q, grid), params)[0]
        many = params.detach().expand(100_000, -1).clone().requires_grad_()
        q = guide.distribution(many)
        z = q.rsample()
        draws = torch.autograd.grad(-q.log_prob(z).sum(), many)[0]
        assert ((draws.mean(0) - exact).abs() < 5.5 * draws.std(0) / 100_000**0.5 + 1e-9).all()


@pytest.fixture
def process():
    return truth()


def set_affine(vae, mean_rows, mean_at_zero, rest):
    """Give an affine encoder a mean `mean_rows x + mean_at_zero`, and constants for what follows it."""
    with torch.no_grad():
        vae.encoder.output.weight.zero_()
        vae.encoder.output.weight[: len(mean_at_zero)] = mean_rows
        vae.encoder.output.bias.copy_(torch.cat([mean_at_zero, rest.reshape(-1)]))
    return vae


def exact_log_weights(vae, process):
    x = process.sample(16, seed=1)
    weights = importance(vae.model, vae.guide, x, num_particles=20).log_weights
    return weights, process.log_prob(x).expand(20, 16)


class TestPPCA:
    """Families that hold the exact posterior give log p(x) in every log-weight; others the gap they must."""

    def posterior(self, process):
        at_zero, covariance = process.posterior(torch.zeros(6, dtype=torch.float64))
        return covariance @ process.weight.T / process.scale**2, at_zero, covariance

    def mean_field_gap(self, process):
        """KL of the best mean-field normal: precisions are those of the conditionals."""
        covariance = self.posterior(process)[2]
        return 0.5 * (torch.linalg.slogdet(covariance)[1] + torch.linalg.inv(covariance).diagonal().log().sum())

    def test_low_rank(self, process):
        rows, at_zero, covariance = self.posterior(process)
        values, vectors = torch.linalg.eigh(covariance)
        log_scale = 0.5 * values[0].log().expand(3)
        columns = (vectors[:, 1:] * (values[1:] / values[0] - 1).sqrt()).T
        vae = vae_of(process, guide=partial(LowRankNormal, rank=2))
        set_affine(vae, rows, at_zero, torch.cat([log_scale, columns.reshape(-1)]))
        torch.testing.assert_close(*exact_log_weights(vae, process), rtol=0, atol=1e-9)

    def test_householder(self, process):
        rows, at_zero, covariance = self.posterior(process)
        values, vectors = torch.linalg.eigh(covariance)
        packed, _ = torch.geqrf(vectors)
        reflections = packed.tril(-1)[:, :2] + torch.eye(3, 2, dtype=torch.float64)
        vae = vae_of(process, guide=Householder)
        set_affine(vae, rows, at_zero, torch.cat([0.5 * values.log(), reflections.T.reshape(-1)]))
        torch.testing.assert_close(*exact_log_weights(vae, process), rtol=0, atol=1e-9)

    def test_inverse_autoregressive_flow(self, process):
        """Affine MADE, gates at a half: z = z_0 / 2 + M z_0 / 2, a Cholesky factor if M is chosen so."""
        rows, at_zero, covariance = self.posterior(process)
        factor = torch.linalg.cholesky(covariance)
        vae = vae_of(process, guide=partial(InverseAutoregressiveFlow, transforms=1, hidden=(), context=1))
        scale = 2 * factor.diagonal()
        mixing = 2 * factor.tril(-1) / scale
        layer = vae.posterior.steps[0][-1]
        with torch.no_grad():
            layer.weight.zero_(), layer.bias.zero_()
            layer.bias[::2] = torch.logit(torch.tensor((0.5 - 1e-3) / (1 - 1e-3))) - 2
            layer.weight[1::2, :3] = mixing
        back = torch.linalg.inv((torch.eye(3, dtype=torch.float64) + mixing) / 2)
        set_affine(vae, back @ rows, back @ at_zero, torch.cat([scale.log(), torch.zeros(1).double()]))
        torch.testing.assert_close(*exact_log_weights(vae, process), rtol=0, atol=1e-6)

    def test_one_component_has_the_gap_of_the_mean_field(self, process):
        """The ELBO at the best mean-field normal, 200,000 draws: within 5 standard errors, false alarm 6e-7."""
        rows, at_zero, covariance = self.posterior(process)
        vae = vae_of(process, guide=partial(MixtureOfNormals, components=1))
        log_scale = -0.5 * torch.linalg.inv(covariance).diagonal().log()
        with torch.no_grad():
            vae.encoder.output.weight.zero_()
            vae.encoder.output.weight[1:4] = rows
            vae.encoder.output.bias.copy_(torch.cat([torch.zeros(1).double(), at_zero, log_scale]))
        x = process.sample(4, seed=1)
        with torch.no_grad():
            weights = importance(vae.model, vae.guide, x, num_particles=50_000).log_weights
        gaps = process.log_prob(x) - weights
        assert (gaps.mean() - self.mean_field_gap(process)).abs() < 5 * gaps.std() / 200_000**0.5

    @pytest.mark.parametrize(
        ("make", "share", "lr"),
        [(IAF, 0.1, 0.03), (SPLINE, 0.15, 0.03), (MIXTURE, 0.75, 0.03), (partial(LowRankNormal, rank=1), 0.02, 0.1)],
    )
    def test_trained_for_one_datum(self, make, share, lr):
        """KL from a posterior of correlation -0.92, whose mean-field gap is 0.96 nats: what share of it is left."""
        process = LinearGaussian(torch.tensor([[2.0, 1.9], [0.0, 0.35]]).double(), torch.zeros(2).double(), 0.5)
        mean, covariance = process.posterior(torch.tensor([1.0, 0.5]).double())
        posterior = MultivariateNormal(mean, covariance)
        best = 0.5 * (torch.linalg.slogdet(covariance)[1] + torch.linalg.inv(covariance).diagonal().log().sum())
        guide = make(Shapes((2,), 2)).double()
        params = (0.1 * torch.randn(*guide.param_shape, dtype=torch.float64)).requires_grad_()
        optimizer = torch.optim.Adam([params, *guide.parameters()], lr=lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        for _ in range(400):
            q = guide.distribution(params)
            z = q.rsample((100,))
            loss = (q.log_prob(z) - posterior.log_prob(z)).mean()
            optimizer.zero_grad(), loss.backward(), optimizer.step(), schedule.step()
        with torch.no_grad():
            q = guide.distribution(params)
            z = q.rsample((20_000,))
            gap = (q.log_prob(z) - posterior.log_prob(z)).mean()
        assert gap < share * best

    def test_semi_amortised(self, process):
        """From an encoder that knows nothing, the mean-field optimum: what is left is its gap, within 0.01 nats."""
        vae = vae_of(process, guide=partial(SemiAmortized, steps=300, num_particles=16))
        with torch.no_grad():
            vae.encoder.output.weight.zero_()
        x = process.sample(8, seed=1)
        q = vae.encode(x).base_dist
        mean, covariance = process.posterior(x)
        gap = torch.distributions.kl_divergence(
            MultivariateNormal(q.loc, torch.diag_embed(q.scale.square())), MultivariateNormal(mean, covariance)
        )
        assert (gap - self.mean_field_gap(process)).abs().max() < 0.01

    def test_delta_refined_finds_the_mode(self, process):
        vae = vae_of(process, guide=partial(SemiAmortized, guide=Delta, steps=400))
        with torch.no_grad():
            vae.encoder.output.weight.zero_()
        x = process.sample(8, seed=1)
        torch.testing.assert_close(vae.encode(x).mean, process.posterior(x)[0], rtol=0, atol=0.02)


class TestDelta:
    def test_objective_is_the_joint_at_the_code(self):
        vae, x = vae_with(Delta), binary()
        z = vae.encoder(x)
        expected = -(vae.decode(z).log_prob(x) + vae.prior(vae.amortize).log_prob(z)).sum()
        for objective in (ELBO(), ELBO(num_particles=3), ELBO(analytic_kl=True)):
            torch.testing.assert_close(objective(vae.model, vae.guide, x), expected)
            torch.testing.assert_close(objective.tensor_loss(vae.model, vae.guide, x), expected)
        assert (bound(vae.model, vae.guide, x).elbo == -torch.inf).all()  # the objective is no bound, and there is none

    @pytest.mark.parametrize("guide", [Delta, partial(SemiAmortized, guide=Delta, steps=1)])
    def test_evidence_is_refused(self, guide):
        vae, x = vae_with(guide), binary()
        before = torch.get_rng_state()
        with pytest.raises(UsageError, match=r"site 'z' of the guide is a Delta.*guide with a density"):
            log_marginal(vae.model, vae.guide, x)
        assert (torch.get_rng_state() == before).all()

    def test_evidence_is_refused_by_structure(self):
        """A program of one's own, its Delta under events, masks and an expansion."""
        vae, x = vae_with(DiagonalNormal), binary()

        def guide(x):
            with pyro.plate("data", len(x)):
                point = dist.Delta(torch.zeros(1, 3)).to_event(1).expand((len(x),))
                pyro.sample("z", point.mask(torch.ones(len(x)).bool()))

        with pytest.raises(UsageError, match="is a Delta"):
            log_marginal(vae.model, guide, x)

    def test_what_is_a_point_mass(self):
        q, _ = q_of(Delta, 2)
        moved = dist.TransformedDistribution(dist.Delta(torch.zeros(2)), [dist.transforms.ExpTransform()])
        assert is_point_mass(q) and is_point_mass(q.expand((4,))) and is_point_mass(moved.to_event(1))
        assert not any(is_point_mass(q_of(make, 2)[0]) for make in WIDE.values())

    def test_trains_and_shows_what_it_has(self, tmp_path, caplog):
        vae, data = vae_with(Delta), load_data("digits", binarize="dynamic")
        first = bound(vae.model, vae.guide, data.split("valid")).reconstruction.mean()
        history = fit(vae, data, epochs=2, optimizer=partial(torch.optim.Adam, lr=1e-2), progress=False)
        assert bound(vae.model, vae.guide, data.split("valid")).reconstruction.mean() > first + 5
        log_once.cache_clear()
        names = {path.stem for path in save_pictures(vae, data, tmp_path, history.rows, seed=0)}
        assert names == {"curves", "reconstructions", "samples"}
        assert "no pictures of the guide: a KL is infinite" in caplog.text


class ByPseudoInput(Prior):
    """p(z) = q(z|u): asks for the VAE's own map, as VampPrior does."""

    def __init__(self, shapes):
        super().__init__(shapes)
        self.pseudo = torch.nn.Parameter(torch.rand(shapes.event))

    def forward(self, encode, context=None):
        return encode(self.pseudo)


class TestSemiAmortized:
    def make(self, **options):
        return vae_with(partial(SemiAmortized, **{"steps": 4, "lr": 0.05, **options}))

    @pytest.mark.parametrize("guide", [DiagonalNormal, MIXTURE, IAF, SPLINE, LowRankNormal])
    def test_improves_the_bound(self, guide):
        """Each ELBO of 10, over 500 draws on the same noise, for an encoder that is not trained."""
        vae, x = self.make(guide=guide, steps=20), binary()
        with seeded(1):
            torch.nn.init.xavier_uniform_(vae.encoder.output.weight)
        after = bound(vae.model, vae.guide, x, num_particles=500).elbo
        vae.posterior.refine = lambda params, log_joint: params
        before = bound(vae.model, vae.guide, x, num_particles=500).elbo
        assert (after > before).all() and (after - before).mean() > 0.2

    def test_is_a_function_of_the_datum(self):
        """Whatever the batch, the generator and whether gradients are on."""
        vae, x = self.make(), binary()
        before = torch.get_rng_state()
        expected = vae.encode(x)
        assert (torch.get_rng_state() == before).all()
        torch.manual_seed(9)
        with torch.no_grad():
            got = vae.encode(x[3:5])
        torch.testing.assert_close(got.mean, expected.mean[3:5])
        torch.testing.assert_close(got.stddev, expected.stddev[3:5])
        assert (vae.amortize(x).mean - expected.mean).abs().max() > 0.05

    def test_mask(self):
        """What is not observed is not looked at."""
        vae, x = self.make(), binary()
        mask = torch.rand(10, 8, 8) < 0.5
        hidden = vae.encode(x.masked_fill(~mask, math.nan), mask)
        torch.testing.assert_close(hidden.mean, vae.encode(x.masked_fill(~mask, 0.0), mask).mean)
        assert (hidden.mean - vae.encode(x.masked_fill(~mask, 0.0)).mean).abs().max() > 0.01

    def test_gradients_go_straight_through(self):
        """To the encoder as if the refinement were the identity; the decoder's are those at the refined code."""
        vae, x = self.make(), binary()
        start = vae.encoder(x)
        refined = vae.posterior.refine(start, lambda z: vae._log_joint(z, x, None))
        assert all(p.grad is None for p in vae.parameters())
        weight = torch.randn_like(refined)
        torch.testing.assert_close(torch.autograd.grad((refined * weight).sum(), start)[0], weight)
        assert (refined - start).abs().max() > 0.05

    def test_trains(self):
        vae, data = self.make(steps=2), load_data("digits", binarize="dynamic")
        first = bound(vae.model, vae.guide, data.split("valid")).elbo.mean()
        fit(vae, data, epochs=2, optimizer=partial(torch.optim.Adam, lr=1e-2), progress=False, compile=False)
        assert bound(vae.model, vae.guide, data.split("valid")).elbo.mean() > first + 5

    def test_priors_of_the_encoder_are_not_refined(self):
        vae, x = vae_with(partial(SemiAmortized, steps=2), prior=ByPseudoInput), binary()
        runs = []
        vae.decoder.register_forward_hook(lambda *_: runs.append(1))
        loss = ELBO()(vae.model, vae.guide, x)
        assert len(runs) == 2 + 1 and loss.isfinite()
        torch.testing.assert_close(vae.prior(vae.amortize).mean, vae.encoder(vae.prior.pseudo)[0])

    def test_refuses(self):
        class ByPyro(Guide):
            param_shape = (2, 2)

            def distribution(self, params):
                return dist.Normal(params[..., 0, :], 1.0).to_event(1)

        with pytest.raises(UsageError, match="ByPyro gives a Independent"):
            SemiAmortized(Shapes((1,), 2), guide=ByPyro)
        for bad in ({"steps": 0}, {"num_particles": 0}, {"lr": 0.0}, {"lr": math.nan}):
            with pytest.raises(UsageError, match="steps >= 1"):
                SemiAmortized(Shapes((1,), 2), **bad)


class TestPipeline:
    @each(ALL)
    @pytest.mark.parametrize("objective", once_a_class([ELBO(), ELBO(0.5, 2, analytic_kl=True)]), ids=str)
    def test_recorded_step(self, make, objective):
        """The graph that is compiled gives the eager gradients (compared inside), on new noise as well."""
        vae, x = vae_with(make), binary()
        loss = Loss(vae, objective, lambda x: x, lambda batch: 0.0)
        step = GraphStep(loss, full=0)  # no batch is full: the graph runs as it is, which takes no compiler
        step.prepare(Batch(x), 0.0, 1.0)
        with seeded(2):
            value, parameters, gradients = step(Batch(x), 0.0, 1.0)
        with seeded(2):
            expected = objective(vae.model, vae.guide, x)
        torch.testing.assert_close(value, expected.detach(), rtol=1e-5, atol=1e-5)
        assert len(parameters) == len(list(vae.parameters()))
        for gradient, reference in zip(gradients, torch.autograd.grad(expected, parameters), strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4)

    @pytest.mark.slow
    @each(ALL)
    def test_compiled_training_is_the_eager_one(self, make):
        """Three steps on batches of 100 by inductor and by autograd: the same weights to rounding."""
        data, weights = load_data("digits", binarize="static").split("train")[:300], []
        for compile in (False, True):
            vae = vae_with(make)
            history = fit(vae, data, epochs=1, batch_size=100, progress=False, compile=compile)
            assert history.mode.startswith("compiled" if compile else "eager")
            weights.append(torch.cat([p.detach().reshape(-1) for p in vae.parameters()]))
        torch.testing.assert_close(*weights, rtol=0, atol=1e-5)

    @each({name: make for name, make in ALL.items() if name != "Delta"})
    def test_recorded_evidence(self, make):
        vae, x = vae_with(make), binary(4)
        with torch.no_grad(), pyro.validation_enabled(False):
            pair = recorded(EagerPair(vae.model, vae.guide, 4096), [x], compile=False)
            padded = torch.cat([x, x[-1:].expand(46, 8, 8)])
            with seeded(1):
                got, log_got = pair.draw([padded])
            with seeded(1):
                expected, log_expected = EagerPair(vae.model, vae.guide, 4096).draw([padded])
        torch.testing.assert_close(got["z"], expected["z"])
        torch.testing.assert_close(log_got, log_expected)

    @each(ALL)
    def test_draws_are_shared_out(self, make):
        """Over two processes the draws are those of one, so noise is drawn at the site alone, batch first."""
        vae, x = vae_with(make), binary(5)
        draws = []
        for rank in range(2):
            world = World(rank, 2)
            torch.manual_seed(0)
            with ShardedNoise(world, 5):
                draws.append(vae.guide(x[world.rows(5)]))
        torch.manual_seed(0)
        torch.testing.assert_close(torch.cat(draws), vae.guide(x))

    @each(ALL)
    def test_description(self, make):
        vae = vae_with(make)
        twin = build_vae({name: describe(value) for name, value in vae.arguments.items()})
        twin.load_state_dict(vae.state_dict())
        assert repr(twin) == repr(vae)
        x = binary(3)
        torch.testing.assert_close(twin.encode(x).mean, vae.encode(x).mean)

    def test_command_line(self):
        options = "--data digits --epochs 1 --vae.guide SemiAmortized --vae.guide.guide SplineFlow"
        guide = parser_of("fit").parse_args([*options.split(), "--vae.guide.guide.bins", "5"]).vae.init_args.guide
        assert guide.init_args.guide.init_args.bins == 5
        options = "--data digits --epochs 1 --vae.guide InverseAutoregressiveFlow --vae.guide.hidden [32,32]"
        assert parser_of("fit").parse_args(options.split()).vae.init_args.guide.init_args.hidden == (32, 32)

    def test_zuko_leaves_validation_on(self):
        before = torch.distributions.Distribution._validate_args
        SplineFlow(Shapes((1,), 2))
        assert torch.distributions.Distribution._validate_args is before

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (partial(LowRankNormal, rank=0), "rank >= 1, got 0: DiagonalNormal"),
            (partial(Householder, reflections=0), "reflections >= 1, got 0"),
            (partial(MixtureOfNormals, components=0), "components >= 1, got 0"),
            (partial(InverseAutoregressiveFlow, transforms=0), "transforms >= 1"),
            (partial(InverseAutoregressiveFlow, context=0), "context >= 1"),
            (partial(SplineFlow, hidden=(0,)), "hidden widths must be positive"),
            (partial(SplineFlow, bins=1), "bins >= 2, got 1"),
        ],
    )
    def test_refuses(self, make, message):
        with pytest.raises(UsageError, match=message):
            make(Shapes((1,), 2))
