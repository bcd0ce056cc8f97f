"""Priors: densities against independent references, starts from data, and life inside programs, graphs and runs."""

import copy
import math
import subprocess
import sys
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae.autoencoders import VAE
from pyro_vae.cli import main
from pyro_vae.cli.parsing import parser_of
from pyro_vae.data import Dataset
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.distributions.mixture import Mixture
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.guides import DiagonalNormal, FullNormal, Guide
from pyro_vae.inference.pairs import EagerPair, recorded
from pyro_vae.inference.tiles import TILE_DATA
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import ELBO
from pyro_vae.priors import (
    ConditionalNormal,
    FlowPrior,
    Laplace,
    LearnedNormal,
    MixtureOfNormals,
    StandardNormal,
    VampPrior,
)
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe, resolve
from pyro_vae.runs.loading import load
from pyro_vae.shapes import Shapes
from pyro_vae.tasks.generation import sample
from pyro_vae.training.fitting import fit
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss
from tests.support.suites import once_a_class

EVENT = (2, 3)
SMALL = partial(MLP, hidden=(5,))
PRIORS = [
    StandardNormal,
    LearnedNormal,
    Laplace,
    partial(Laplace, scale=0.4),
    partial(MixtureOfNormals, components=3),
    partial(VampPrior, components=4),
    partial(VampPrior, components=4, initial="random", bounds=None, learn_weights=True),
    FlowPrior,
    partial(FlowPrior, flow="NSF", transforms=2, hidden=(8,)),
]
CLOSED_KL = (StandardNormal, LearnedNormal, Laplace)
FIVE = partial(VampPrior, components=5)
every_prior = pytest.mark.parametrize("prior", PRIORS, ids=str)


def make(prior, latent=2, guide=DiagonalNormal, **parts):
    """A VAE whose parameters are all away from where they start."""
    vae = VAE(EVENT, latent, prior, guide=guide, encoder=SMALL, decoder=SMALL, **parts)
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            scale = 0.0 if name == "prior.pseudo_inputs" else 0.05 if name.startswith("prior.flow") else 0.3
            parameter.add_(scale * torch.randn_like(parameter))
    return vae


def density(vae):
    return vae.prior(vae.encode)


def close(got, expected):
    """A density in single precision against scipy's."""
    torch.testing.assert_close(got.detach().double(), torch.as_tensor(expected), rtol=1e-5, atol=1e-5)


def binary(n=8):
    return torch.rand(n, *EVENT).round()


def normals(components=500, latent=40, scale=0.1, dense=False):
    loc, spread = torch.randn(components, latent), scale * (0.3 * torch.randn(components, latent)).exp()
    if not dense:
        return dist.Normal(loc, spread).to_event(1)
    below = 0.2 * scale * torch.randn(components, latent, latent).tril(-1)
    return dist.MultivariateNormal(loc, scale_tril=below + torch.diag_embed(spread))


def in_double(components):
    """The same normals in double precision."""
    base = getattr(components, "base_dist", components)
    if isinstance(base, torch.distributions.Normal):
        return torch.distributions.Independent(torch.distributions.Normal(base.loc.double(), base.scale.double()), 1)
    return torch.distributions.MultivariateNormal(base.loc.double(), scale_tril=base.scale_tril.double())


def reference(mixture):
    """Torch's own mixture, in double precision."""
    weights = torch.distributions.Categorical(logits=mixture.log_weights.double())
    return torch.distributions.MixtureSameFamily(weights, in_double(mixture.components))


def uneven(components):
    return torch.randn(components).log_softmax(-1)


class Largest(TorchDispatchMode):
    """The bytes of the largest tensor that is made within."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return out


class TestMixture:
    @pytest.mark.parametrize("dense", [False, True])
    def test_density_is_torchs(self, dense):
        mixture = Mixture(uneven(7), normals(7, 3, dense=dense))
        z = mixture.sample((5, 4))
        torch.testing.assert_close(mixture.log_prob(z).double(), reference(mixture).log_prob(z.double()))
        assert mixture.expand((5, 4)).log_prob(z[0, 0]).shape == (5, 4)
        joint = mixture.component_log_probs(z[0])
        assert joint.shape == (4, 7) and joint.dtype == z.dtype
        torch.testing.assert_close(joint[1, 2], mixture.log_weights[2] + mixture.components.log_prob(z[0, 1])[2])

    @pytest.mark.parametrize("scale", [1.0, 0.01, 0.001])
    @pytest.mark.parametrize("dense", [False, True])
    def test_single_precision_is_enough_for_narrow_components(self, dense, scale):
        """The form that is used stays within 1e-5 nats where the same product in single precision is off by 17."""
        mixture = Mixture(uneven(100), normals(100, 20, scale, dense))
        z = mixture.sample((200,))
        torch.testing.assert_close(
            mixture.log_prob(z).double(), reference(mixture).log_prob(z.double()), rtol=2e-7, atol=1e-6
        )

    def test_gradients_are_those_of_the_direct_form(self):
        for dense in (False, True):
            components, z = normals(6, 3, 0.2, dense), torch.randn(9, 3)
            base = getattr(components, "base_dist", components)
            leaves = [base.loc, base.scale_tril if dense else base.scale, z]
            for leaf in leaves:
                leaf.requires_grad_()
            mixture = Mixture(uneven(6), components)
            got = torch.autograd.grad(mixture.log_prob(z).sum(), leaves)
            expected = torch.autograd.grad(reference(mixture).log_prob(z.double()).sum(), leaves)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a.tril() if a.dim() == 3 else a, b.tril() if b.dim() == 3 else b)

    @pytest.mark.parametrize("dense", [False, True])
    def test_memory_is_a_value_for_each_row_and_component(self, dense):
        mixture, z = Mixture(uneven(500), normals(dense=dense)), torch.randn(2000, 40)
        with torch.no_grad(), Largest() as largest:
            mixture.log_prob(z)
        assert largest.bytes <= 8 * 2000 * 40 * 41 // 2 + 8 * 2000 * 40 < 0.2 * 4 * 2000 * 500 * 40

    @pytest.mark.parametrize("dense", [False, True])
    def test_draws_have_the_moments(self, dense):
        """40,000 draws, 6 means within 5 standard errors: false alarm 4e-6; variances within 5 %, some 9 errors."""
        mixture = Mixture(uneven(4), normals(4, 3, 0.8, dense), batch_shape=(2,))
        z = mixture.sample((40_000,))
        assert z.shape == (40_000, 2, 3) and mixture.mean.shape == mixture.variance.shape == (2, 3)
        torch.testing.assert_close(mixture.mean[0].double(), reference(mixture).mean)
        torch.testing.assert_close(mixture.variance[0].double(), reference(mixture).variance)
        assert ((z.mean(0) - mixture.mean).abs() < 5 * (mixture.variance / 40_000).sqrt()).all()
        torch.testing.assert_close(z.var(0), mixture.variance, rtol=0.05, atol=0)

    def test_any_other_components(self):
        components = dist.StudentT(5.0, torch.randn(4, 2), 0.5).to_event(1)
        mixture, z = Mixture(uneven(4), components), torch.randn(3, 6, 2)
        expected = torch.logsumexp(components.log_prob(z.unsqueeze(-2)) + mixture.log_weights, -1)
        torch.testing.assert_close(mixture.log_prob(z), expected)
        error = (mixture.variance / 20_000).sqrt()
        assert ((mixture.sample((20_000,)).mean(0) - mixture.mean).abs() < 5 * error).all()  # false alarm 1e-6

    def test_refuses_what_is_no_row_of_distributions(self):
        with pytest.raises(UsageError, match=r"weights needs components with batch shape \[components\]"):
            Mixture(uneven(3), normals(4, 2))
        with pytest.raises(ValueError, match="Expected value"):
            Mixture(uneven(4), normals(4, 2), validate_args=True).log_prob(torch.tensor([0.0, torch.nan]))


class TestDensities:
    def test_standard_normal(self):
        z = torch.randn(7, 2)
        expected = -0.5 * (z.square().sum(-1) + 2 * math.log(2 * math.pi))
        torch.testing.assert_close(StandardNormal(Shapes(EVENT, 2))(None).log_prob(z), expected)

    def test_laplace(self):
        z = 3 * torch.randn(50, 4)
        for scale, b in ((0.7, 0.7), ("unit_variance", 0.5**0.5)):
            got = Laplace(Shapes(EVENT, 4), scale=scale)(None)
            close(got.log_prob(z), scipy.stats.laplace(scale=b).logpdf(z.double()).sum(-1))
        torch.testing.assert_close(got.variance, torch.ones(4))

    def test_learned_normal(self):
        vae, z = make(LearnedNormal), torch.randn(50, 2)
        loc, scale = vae.prior.loc.detach().double(), vae.prior.log_scale.detach().double().exp()
        close(density(vae).log_prob(z), scipy.stats.multivariate_normal(loc, torch.diag(scale**2)).logpdf(z.double()))
        start = LearnedNormal(Shapes(EVENT, 2))(None)
        torch.testing.assert_close(start.log_prob(z), StandardNormal(Shapes(EVENT, 2))(None).log_prob(z))

    def test_mixture_of_normals(self):
        vae, z = make(partial(MixtureOfNormals, components=3)), torch.randn(50, 2)
        prior, weights = vae.prior, vae.prior.logits.detach().double().softmax(-1).numpy()
        parts = [
            w * scipy.stats.multivariate_normal(m, torch.diag(s**2)).pdf(z.double())
            for w, m, s in zip(
                weights, prior.loc.detach().double(), prior.log_scale.detach().double().exp(), strict=True
            )
        ]
        joint = np.stack(parts, -1)
        close(density(vae).log_prob(z), np.log(joint.sum(-1)))
        close(prior.component_log_probs(z), np.log(joint))
        shares = joint / joint.sum(-1, keepdims=True)
        close(prior.responsibilities(z.reshape(5, 10, 2)), shares.reshape(5, 10, 3))

    def test_mixture_starts_spread_out(self):
        prior = MixtureOfNormals(Shapes(EVENT, 100), components=50, spread=3.0)
        assert prior.loc.std().item() == pytest.approx(3, rel=0.05)  # 5,000 draws: 5 standard errors, false alarm 6e-7
        torch.testing.assert_close(prior().log_weights.exp(), torch.full((50,), 0.02))

    def test_conditional_normal(self):
        prior = ConditionalNormal(Shapes(EVENT, 2, context=(3,)), network=partial(MLP, hidden=()))
        c, z = torch.randn(4, 5, 3), torch.randn(4, 5, 2)
        p = prior(None, c)
        assert p.batch_shape == (4, 5) and p.event_shape == (2,)
        out = (c @ prior.network.output.weight.T + prior.network.output.bias).detach().double()
        expected = scipy.stats.norm(out[..., :2], out[..., 2:].exp()).logpdf(z.double())
        close(p.log_prob(z), expected.sum(-1))
        p.log_prob(z).sum().backward()
        assert all(w.grad.abs().sum() > 0 for w in prior.parameters())
        with pytest.raises(UsageError, match=r"pass the context, \[\*leading, 3\]"):
            prior(None)
        with pytest.raises(UsageError, match="the VAE has no context"):
            ConditionalNormal(Shapes(EVENT, 2))

    @pytest.mark.slow  # the checks of `tests/testing/test_parts.py` do it of the defaults
    @every_prior
    def test_normalises(self, prior):
        """In two dimensions, by the trapezoid rule; a flow, which costs most, is narrow."""
        vae = make(prior, guide=FullNormal).double()
        end = 15 if isinstance(vae.prior, FlowPrior) else 30
        axis = torch.linspace(-end, end, 40 * end + 1, dtype=torch.float64)
        with torch.no_grad():
            values = density(vae).log_prob(torch.cartesian_prod(axis, axis)).exp().reshape(len(axis), -1)
        total = torch.trapezoid(torch.trapezoid(values, axis), axis).item()
        assert total == pytest.approx(1, abs=5e-3 if isinstance(vae.prior, Laplace) else 1e-4)  # that of its kinks

    @every_prior
    def test_draws_follow_the_density(self, prior):
        """The share of 40,000 draws in each of 5 boxes is its probability, by the trapezoid rule.

        Within 5 standard errors and 0.002 for the rule: false alarm below 3e-6 a prior.
        """
        vae = make(prior).double()
        with torch.no_grad():
            z = density(vae).sample((40_000,))
            for centre in z[:5]:
                axes = [
                    torch.linspace(c - s, c + s, 161, dtype=torch.float64)
                    for c, s in zip(centre, z.std(0), strict=True)
                ]
                values = density(vae).log_prob(torch.cartesian_prod(*axes)).exp().reshape(161, 161)
                expected = torch.trapezoid(torch.trapezoid(values, axes[1]), axes[0]).item()
                share = ((z - centre).abs() < z.std(0)).all(-1).double().mean().item()
                assert share == pytest.approx(expected, abs=5 * (expected * (1 - expected) / 40_000) ** 0.5 + 0.002)

    @every_prior
    @pytest.mark.parametrize("latent", [1, 2, 20])
    def test_log_density_of_draws_in_single_precision(self, prior, latent):
        vae = make(prior, latent, guide=FullNormal)
        with torch.no_grad():
            z = density(vae).sample((200,))
            got = density(vae).log_prob(z)
            expected = density(vae.double()).log_prob(z.double())
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


class TestVampPrior:
    @pytest.mark.parametrize("guide", [DiagonalNormal, FullNormal])
    def test_is_the_aggregate_posterior_of_its_pseudo_inputs(self, guide):
        """With all data as pseudo-inputs p(z) = mean of q(z|x_n)."""
        vae, x = make(partial(VampPrior, components=8), guide=guide).double(), binary(8).double()
        vae.start_prior(x)
        z = torch.randn(5, 2, dtype=torch.float64)
        expected = vae.encode(x).log_prob(z.unsqueeze(-2)).exp().mean(-1).log()
        torch.testing.assert_close(density(vae).log_prob(z), expected)

    def test_weights(self):
        vae = make(partial(VampPrior, components=4, learn_weights=True)).double()
        z = torch.randn(5, 2, dtype=torch.float64)
        parts = vae.encode(vae.prior.pseudo_inputs).log_prob(z.unsqueeze(-2)).exp()
        expected = (vae.prior.logits.softmax(-1) * parts).sum(-1).log()
        torch.testing.assert_close(density(vae).log_prob(z), expected)

    def test_pseudo_inputs_stay_in_bounds_and_come_back(self):
        """At a bound the gradient that leads out is dropped, the one that leads in is kept; a hard tanh drops both."""
        vae = make(partial(VampPrior, components=4))
        vae.start_prior(binary(4))
        u, z = vae.prior.pseudo_inputs, torch.randn(20, 2)
        optimizer = torch.optim.Adam([u], lr=0.1)
        seen = set()
        for _ in range(30):
            optimizer.zero_grad()
            free = u.detach().clamp(0, 1).requires_grad_()
            expected = torch.autograd.grad(
                -Mixture(torch.zeros(4).log_softmax(-1), vae.encode(free)).log_prob(z).sum(), free
            )[0]
            (-density(vae).log_prob(z).sum()).backward()
            out = ((u <= 0) & (expected > 0)) | ((u >= 1) & (expected < 0))
            torch.testing.assert_close(u.grad, expected.masked_fill(out, 0), rtol=1e-4, atol=1e-5)
            seen |= {(bool(o), bool(b)) for o, b in zip(out.flatten(), ((u < 0) | (u > 1)).flatten(), strict=True)}
            optimizer.step()
        assert seen == {(True, True), (True, False), (False, True), (False, False)}
        assert u.min() > -2 and u.max() < 3  # not further out than Adam's momentum takes them

    def test_starts(self):
        prior = VampPrior(Shapes(EVENT, 2), components=50)
        assert prior.start_count == 50
        assert prior.pseudo_inputs.min() >= 0 and prior.pseudo_inputs.max() <= 1
        random = VampPrior(Shapes(EVENT, 2), components=50, initial="random", bounds=(-3.0, -1.0))
        assert random.start_count == 0 and -3 <= random.pseudo_inputs.min() <= random.pseudo_inputs.max() <= -1
        free = VampPrior(Shapes(EVENT, 2), components=1000, initial="random", bounds=None)
        assert free.pseudo_inputs.std().item() == pytest.approx(1, rel=0.05)  # 6,000 draws: 5 errors, false alarm 6e-7
        assert StandardNormal(Shapes(EVENT, 2)).start_count == 0

    def test_refuses_data_that_do_not_fit(self):
        prior = VampPrior(Shapes(EVENT, 2), components=9)
        with pytest.raises(
            UsageError, match=r"takes its 9 pseudo-inputs .* got \[8, 2, 3\]: take components=8 or fewer"
        ):
            prior.start_from(binary(8))
        with pytest.raises(UsageError, match=r"in \[0, 1\], but the data reach from 0 to 3: pass their range"):
            prior.start_from(3 * torch.eye(9)[:, :6].reshape(9, *EVENT))
        VampPrior(Shapes(EVENT, 2), components=9, bounds=None).start_from(7 * binary(9))

    def test_any_guide_whose_density_is_known_everywhere(self):
        vae = make(partial(VampPrior, components=4), guide=StudentGuide)
        z = torch.randn(3, 5, 2)
        expected = vae.encode(vae.prior.pseudo_inputs).log_prob(z.unsqueeze(-2)).logsumexp(-1) - torch.tensor(4.0).log()
        torch.testing.assert_close(density(vae).log_prob(z), expected)
        vae = make(partial(VampPrior, components=4), guide=DrawsOnly)
        with pytest.raises(UsageError, match="log_prob at every z, which NoDensity does not have: take a guide"):
            density(vae).log_prob(z)


class StudentGuide(Guide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.param_shape = (2, shapes.latent)

    def distribution(self, params):
        loc, log_scale = params.unbind(-2)
        return dist.StudentT(5.0, loc, log_scale.exp()).to_event(1)


class NoDensity(dist.TorchDistribution):
    arg_constraints = {}  # noqa: RUF012 - as torch writes it

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:])

    def log_prob(self, value):
        raise NotImplementedError


class DrawsOnly(Guide):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.param_shape = (shapes.latent,)

    def distribution(self, params):
        return NoDensity(params)


class TestFlowPrior:
    @pytest.mark.parametrize("flow", ["MAF", "NSF"])
    @pytest.mark.parametrize("latent", [1, 3])
    def test_density_by_the_change_of_variables(self, flow, latent):
        """The Jacobian is autograd's, of the whole map at once."""
        vae = make(partial(FlowPrior, flow=flow), latent).double()
        transform, z = vae.prior.flow().transform, torch.randn(6, latent, dtype=torch.float64)
        for point, got in zip(z, density(vae).log_prob(z), strict=True):
            jacobian = torch.autograd.functional.jacobian(transform, point)
            expected = torch.distributions.Normal(0.0, 1.0).log_prob(transform(point)).sum() + jacobian.slogdet()[1]
            torch.testing.assert_close(got, expected)

    @pytest.mark.parametrize("flow", ["MAF", "NSF"])
    def test_draws_are_the_inverse_map_of_noise(self, flow):
        vae = make(partial(FlowPrior, flow=flow), 20)
        z = density(vae).expand((7, 3)).sample((50,))
        assert z.shape == (50, 7, 3, 20) and z.isfinite().all() and not z.requires_grad
        torch.manual_seed(3)
        drawn = density(vae).rsample((50,))
        torch.manual_seed(3)
        torch.testing.assert_close(vae.prior.flow().transform(drawn), torch.randn(50, 20), rtol=1e-3, atol=1e-3)
        assert drawn.requires_grad

    def test_starts_near_the_standard_normal_and_learns(self):
        for flow in ("MAF", "NSF"):
            prior, z = FlowPrior(Shapes(EVENT, 3), flow=flow), torch.randn(100, 3)
            start = StandardNormal(Shapes(EVENT, 3))(None).log_prob(z)
            assert (prior(None).log_prob(z) - start).abs().max() < 0.2
            prior(None).log_prob(z).sum().backward()
            assert all(p.grad.abs().sum() > 0 for p in prior.parameters())

    def test_a_draw_has_a_density_with_gradients(self):
        vae = make(FlowPrior)
        for z in (density(vae).sample((5,)), density(vae)()):
            assert density(vae).log_prob(z).requires_grad
        p = density(vae)
        assert p.log_prob(p.sample((5,))).requires_grad  # Pyro's wrapper remembers one without

    def test_writing_it_draws_nothing(self):
        vae, state = make(partial(FlowPrior, flow="NSF")), torch.get_rng_state()
        assert "FlowPrior(flow='NSF', transforms=3, hidden=(64, 64))" in repr(vae)
        assert (torch.get_rng_state() == state).all()

    def test_zuko_does_not_switch_validation_off(self):
        code = (
            "import torch; from pyro_vae.priors import FlowPrior; from pyro_vae.shapes import Shapes; import sys; "
            "assert 'zuko' not in sys.modules; FlowPrior(Shapes((2,), 2)); assert 'zuko' in sys.modules; "
            "print(torch.distributions.Distribution._validate_args)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "True"


class TestInPrograms:
    @every_prior
    @pytest.mark.parametrize("validated", [False, True])
    def test_vectorised_particles(self, prior, validated):
        vae, x = make(prior), binary(4)
        with pyro.validation_enabled(validated), torch.no_grad():
            run = importance(vae.model, vae.guide, x, num_particles=5)
            torch.testing.assert_close(run.log_prior, density(vae).log_prob(run.latents["z"]))
            drawn = pyro.poutine.trace(vae.model).get_trace(x).nodes["z"]["value"]
        assert run.log_prior.shape == (5, 4) and drawn.shape == (4, 2)

    @every_prior
    @pytest.mark.parametrize("guide", [DiagonalNormal, FullNormal])
    def test_analytic_kl_falls_back_to_sampling(self, prior, guide):
        """Without a closed form both estimates are one on the same noise; with one they differ by noise."""
        vae, x = make(prior, guide=guide), binary(4)
        losses = []
        for objective in (ELBO(), ELBO(analytic_kl=True)):
            for function in (objective, objective.tensor_loss):
                with seeded(1):
                    losses.append(function(vae.model, vae.guide, x).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[2] == pytest.approx(losses[3], rel=1e-5)
        closed = isinstance(vae.prior, CLOSED_KL) and guide is DiagonalNormal
        assert (losses[0] == pytest.approx(losses[2], rel=1e-5)) is not closed

    @pytest.mark.parametrize("prior", [Laplace, LearnedNormal], ids=str)
    def test_closed_form_kl(self, prior):
        vae = make(prior, 1).double()
        p, q = density(vae), vae.encode(binary(1).double())
        grid = torch.linspace(-20, 20, 400_001, dtype=torch.float64).unsqueeze(-1)
        with torch.no_grad():
            log_q = q.log_prob(grid)
            expected = torch.trapezoid(log_q.exp() * (log_q - p.log_prob(grid)), grid.squeeze(-1))
        torch.testing.assert_close(torch.distributions.kl_divergence(q, p.expand((1,)))[0], expected, rtol=1e-6, atol=0)

    @every_prior
    @pytest.mark.parametrize("objective", once_a_class([ELBO(), ELBO(num_particles=2, analytic_kl=True)]), ids=str)
    def test_recorded_step(self, prior, objective):
        """The recorded gradients against eager ones on the same noise."""
        vae, x = make(prior), binary(6)
        loss = Loss(vae, objective, lambda batch: batch, lambda batch: 0.0)
        step = GraphStep(loss, full=0)
        step.prepare(Batch(x), 0.0, 1.0)
        results = []
        for function in (step, EagerStep(loss)):
            with seeded(2):
                value, parameters, gradients = function(Batch(x), 0.0, 1.0)
            results.append([value, *gradients])
        assert len(parameters) == len(list(vae.parameters()))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    @every_prior
    def test_recorded_evidence(self, prior):
        vae, x = make(prior), binary(TILE_DATA)
        pair = EagerPair(vae.model, vae.guide, 4096)
        with torch.no_grad(), pyro.validation_enabled(False):
            graph = recorded(pair, [x], compile=False)
            with seeded(0):
                latents, _ = pair.draw([x])
            torch.testing.assert_close(
                graph.log_joint(latents, [x]), pair.log_joint(latents, [x]), rtol=1e-5, atol=1e-4
            )

    @every_prior
    def test_copies_and_states(self, prior):
        vae, z = make(prior), torch.randn(5, 2)
        expected = density(vae).log_prob(z)
        twin = build_vae({name: describe(value) for name, value in vae.arguments.items()})
        twin.load_state_dict(vae.state_dict())
        copied = copy.deepcopy(vae)
        for other in (twin, copied):
            torch.testing.assert_close(density(other).log_prob(z), expected, rtol=0, atol=0)
            assert repr(other) == repr(vae)
        with torch.no_grad():
            for parameter in copied.parameters():
                parameter.add_(1)
        torch.testing.assert_close(density(vae).log_prob(z), expected, rtol=0, atol=0)

    @every_prior
    def test_sampled_data(self, prior):
        vae = make(prior)
        drawn, again = sample(vae, 3, seed=1), sample(vae, 130, seed=1)
        assert drawn.z.shape == (3, 2) and drawn.x.shape == (3, *EVENT)
        assert (drawn.z == again.z[:3]).all() and (again.z[:100] != sample(vae, 100, seed=2).z).all()

    @every_prior
    def test_latent_statistics(self, prior):
        stats = latent_statistics(make(prior), binary(10))
        assert stats.kl.isfinite().all() and stats.kl.shape == (2,)

    def test_a_network_of_a_prior_is_described(self):
        part = partial(ConditionalNormal, network=partial(MLP, hidden=(5, 4)))
        rebuilt = resolve(describe(part), ("pyro_vae",))
        assert repr(rebuilt(Shapes(EVENT, 2, (3,)))) == repr(part(Shapes(EVENT, 2, (3,))))


class TestExactEvidence:
    """With a linear decoder and normal noise p(x) is a mixture of normals, or one, whatever the weights."""

    def exact(self, vae, x, weights, loc, scale):
        w, b = (t.detach().double() for t in (vae.decoder.output.weight, vae.decoder.output.bias))
        noise = 0.6**2 * torch.eye(len(b), dtype=torch.float64)
        mean, covariance = loc @ w.T + b, w @ torch.diag_embed(scale**2) @ w.T + noise
        parts = torch.distributions.MultivariateNormal(mean, covariance)
        return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts).log_prob(
            x.double()
        )

    @pytest.mark.parametrize(
        "prior", [partial(MixtureOfNormals, components=3), partial(VampPrior, components=3)], ids=str
    )
    def test_log_marginal(self, prior):
        """10 data, within 5 standard errors each: false alarm 6e-6; the estimates' errors are below 0.1 nats."""
        vae = VAE((4,), 2, prior, partial(Normal, scale=0.6), encoder=SMALL, decoder=partial(MLP, hidden=()))
        with torch.no_grad():
            vae.encoder.output.weight.mul_(0.3)
            vae.encoder.output.bias.copy_(torch.tensor([0.0, 0.0, 0.8, 0.8]))  # wide enough to cover the posterior
            for parameter in vae.prior.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        mixture = reference(density(vae))
        x = torch.randn(10, 4)
        got = log_marginal(vae.model, vae.guide, x, num_particles=4000)
        with torch.no_grad():
            base = mixture.component_distribution.base_dist
            expected = self.exact(vae, x, mixture.mixture_distribution.probs, base.loc, base.scale)
        assert (got.standard_error < 0.1).all()
        assert ((got.log_p - expected).abs() < 5 * got.standard_error).all()


class TestFit:
    def data(self, n=30):
        return Dataset("array", binary(n) * torch.rand(n, *EVENT))

    def fitted(self, data, prior=FIVE, **options):
        vae = VAE(EVENT, 2, prior, encoder=SMALL, decoder=SMALL, likelihood=Normal)
        fit(vae, data, batch_size=10, epochs=1, progress=False, device="cpu", **options)
        return vae

    def test_starts_from_rows_named_by_the_seed(self):
        data, still = self.data(), partial(torch.optim.SGD, lr=0.0)
        u = [self.fitted(data, optimizer=still, seed=seed).prior.pseudo_inputs for seed in (1, 1, 2)]
        with seeded(1, "start"):
            rows = torch.randperm(30)[:5]
        torch.testing.assert_close(u[0].detach(), data.train[rows], rtol=0, atol=0)
        assert (u[0] == u[1]).all() and (u[0] != u[2]).any()

    def test_trains_them_and_does_not_start_again(self, tmp_path, monkeypatch):
        data = self.data()
        u = self.fitted(data, run=tmp_path / "run").prior.pseudo_inputs
        assert not any((u[0] == row).all() for row in data.train)
        monkeypatch.setattr(VAE, "start_prior", lambda *_: pytest.fail("started again"))
        assert (self.fitted(data, run=tmp_path / "run").prior.pseudo_inputs == u).all()
        vae = load(tmp_path / "run")
        assert (vae.prior.pseudo_inputs == u).all() and type(vae.prior) is VampPrior

    def test_dynamic_binarisation(self):
        data = Dataset("grey", torch.rand(30, *EVENT), binarization="dynamic")
        vae = VAE(EVENT, 2, partial(VampPrior, components=30), encoder=SMALL, decoder=SMALL)
        fit(vae, data, epochs=1, optimizer=partial(torch.optim.SGD, lr=0.0), progress=False, device="cpu")
        u = vae.prior.pseudo_inputs
        assert ((u == 0) | (u == 1)).all() and (u - data.train.mean()).mean().abs() < 0.2

    def test_tells_what_does_not_fit(self):
        with pytest.raises(UsageError, match="take components=30 or fewer"):
            self.fitted(self.data(), VampPrior)
        with pytest.raises(UsageError, match="pass their range as bounds"):
            self.fitted(Dataset("array", 9 * torch.rand(30, *EVENT)))

    def test_modules_without_a_start_train_as_before(self):
        class Own(nn.Module):
            def __init__(self):
                super().__init__()
                self.loc = nn.Parameter(torch.zeros(()))

            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Normal(0.0, 1.0))
                    mean = z[..., None, None].expand(*z.shape, *EVENT)
                    pyro.sample("x", dist.Normal(mean, 1.0).to_event(2), obs=x)

            def guide(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Normal(self.loc, 1.0))

        own = Own()
        fit(own, self.data(), batch_size=10, epochs=1, progress=False, device="cpu")
        assert own.loc.item() != 0

        class Bare(nn.Module):
            """A prior that is no `Prior`."""

            def forward(self, encode, context=None):
                return dist.Normal(torch.zeros(2), 1.0).to_event(1)

        self.fitted(self.data(), prior=lambda shapes: Bare())

    def test_rows_of_a_data_set(self):
        data = Dataset("array", torch.arange(20.0).reshape(10, 2))
        rows = data.some(4, 3, "start")
        with seeded(3, "start"):
            expected = data.train[torch.randperm(10)[:4]]
        assert (rows == expected).all() and len(data.some(99, 3)) == 10


class TestCommand:
    def test_options(self):
        words = "--vae.prior VampPrior --vae.prior.components 5 --vae.prior.bounds null --vae.prior.learn_weights true"
        options = parser_of("fit").parse_args(words.split()).vae.init_args.prior.init_args
        assert (options.components, options.bounds, options.learn_weights) == (5, None, True)
        words = "--vae.prior FlowPrior --vae.prior.flow NSF --vae.prior.hidden [8,8]"
        assert tuple(parser_of("fit").parse_args(words.split()).vae.init_args.prior.init_args.hidden) == (8, 8)
        words = "--vae.prior Laplace --vae.prior.scale unit_variance"
        assert parser_of("fit").parse_args(words.split()).vae.init_args.prior.init_args.scale == "unit_variance"
        assert parser_of("fit").parse_args([*words.split()[:-1], "0.3"]).vae.init_args.prior.init_args.scale == 0.3
        words = "--vae.prior ConditionalNormal --vae.prior.network MLP --vae.prior.network.hidden [3]"
        network = parser_of("fit").parse_args(words.split()).vae.init_args.prior.init_args.network
        assert network.class_path == "pyro_vae.networks.MLP" and tuple(network.init_args.hidden) == (3,)

    @pytest.mark.parametrize(
        "prior", [["VampPrior", "--vae.prior.components", "20"], ["FlowPrior"]], ids=lambda p: p[0]
    )
    def test_fit_and_evaluate(self, tmp_path, prior, capsys):
        run = str(tmp_path / "run")
        small = "--data digits --epochs 1 --vae.latent_dim 2 --vae.encoder.hidden [8] --vae.decoder.hidden [8]"
        quiet = "--pictures false --quiet --device cpu"
        assert main(["fit", *small.split(), *quiet.split(), "--vae.prior", *prior, "--run", run]) == 0
        assert main(["evaluate", run, "--num_particles", "20", "--num_data", "60", "--quiet", "--device", "cpu"]) == 0
        assert "NLL" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make_bad", "message"),
    [
        (partial(Laplace, scale=0.0), "scale to be a positive number or 'unit_variance'"),
        (partial(Laplace, scale="unit"), "scale to be a positive number or 'unit_variance'"),
        (partial(MixtureOfNormals, components=0), "components >= 1, got 0"),
        (partial(MixtureOfNormals, spread=-1.0), "spread >= 0, got -1.0"),
        (partial(VampPrior, components=0), "components >= 1, got 0"),
        (partial(VampPrior, initial="rows"), "'data' or 'random', got 'rows'"),
        (partial(VampPrior, bounds=(1.0, 0.0)), "low < high, or None"),
        (partial(FlowPrior, flow="RealNVP"), "'MAF' or 'NSF', got 'RealNVP'"),
        (partial(FlowPrior, transforms=0), "transforms >= 1 and positive widths, got 0"),
        (partial(FlowPrior, hidden=(8, 0)), "transforms >= 1 and positive widths"),
    ],
)
def test_refuses_bad_options(make_bad, message):
    with pytest.raises(UsageError, match=message):
        make_bad(Shapes(EVENT, 2))
