"""`HierarchicalVAE`: exact against a linear Gaussian chain, its guides against direct formulas, every objective."""

from functools import partial
from itertools import accumulate, pairwise

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy import stats
from torch import nn
from torch.distributions import Normal as TorchNormal

from pyro_vae import guides, networks, priors
from pyro_vae.autoencoders import HierarchicalVAE
from pyro_vae.autoencoders.layered import _merged
from pyro_vae.diagnostics import latent_statistics
from pyro_vae.errors import UsageError
from pyro_vae.evidence import log_marginal
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import Bernoulli, Normal
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    ELBO,
    IWAE,
    CapacityELBO,
    DReG,
    FreeBits,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    WakeSleep,
)
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe_vae
from pyro_vae.tasks.generation import reconstruct, sample
from pyro_vae.training.fitting import fit
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss
from tests.support.suites import slow_but

SMALL = partial(MLP, hidden=(8,))
AFFINE = partial(MLP, hidden=())
SIGMA = 0.5
BOUNDS = [ELBO(), ELBO(num_particles=3), IWAE(4), DReG(4), StickingTheLanding(), Renyi(0.5, 4), ScoreFunction(3)]
OBJECTIVES = [*BOUNDS, ReweightedWakeSleep(3), WakeSleep(), FreeBits(0.1, "total"), CapacityELBO(3.0, 0.4)]


KINDS = {
    "up": {},
    "ladder": {"ladder": True},
    "top_down": {"top_down": True},
    "skip": {"skip": True},
    "top_down and skip": {"top_down": True, "skip": True},
}
"""The ways in which layers depend on each other."""


def make(kind="up", dims=(4, 3, 2), seed=0, **options):
    nets = dict.fromkeys(("encoder", "decoder", "upper_encoder", "upper_decoder"), SMALL)
    with seeded(seed, "init"):
        vae = HierarchicalVAE((2, 3), dims, ladder_width=7, **{**nets, **KINDS[kind], **options})
        with torch.no_grad():
            for p in vae.parameters():  # biases and all
                p.add_(0.1 * torch.randn_like(p))
    return vae


def binary(n=8):
    with seeded(1, "data"):
        return torch.rand(n, 2, 3).round()


def draw(*shape, low=-1.0, high=1.0):
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64)


def set_affine(network, weight, bias):
    output = bare(network).output
    with torch.no_grad():
        output.weight.copy_(weight)
        output.bias.copy_(bias)


def bare(network):
    """The network inside one that takes a further input."""
    return getattr(network, "network", network)


def decoded(vae, latents):
    """The code that the decoder takes."""
    layers = [latents[f"z{i + 1}"] for i in range(len(vae.latent_dims))]
    return torch.cat(layers, -1) if vae.skip else layers[0]


class Chain:
    """A linear Gaussian chain whose posterior factors into normals with independent dimensions.

    z_L ~ N(0, I), z_l | z_{l+1} ~ N(G_l z_{l+1} + a_l, diag(s_l^2)), x | z ~ N(W (z_1 + sum_l D_l z_l) + b, sigma^2),
    where G_l and D_l are diagonal and the columns of W are orthogonal; D_l is 0 without `skip`.
    """

    def __init__(self, dims, event=6, skip=False):
        with seeded(3, "chain"):
            self.dims = dims
            links = []
            for low, high in pairwise(dims):
                gain = torch.eye(low, high, dtype=torch.float64) * draw(high, low=0.5, high=2.0)
                links.append((gain, draw(low), draw(low, low=0.3, high=1.5)))
            self.links = links
            orthogonal = torch.linalg.qr(torch.randn(event, event, dtype=torch.float64))[0]
            self.weight, self.bias = orthogonal[:, : dims[0]] * draw(dims[0], low=0.5, high=2.0), draw(event)
            eyes = [torch.eye(dims[0], high, dtype=torch.float64) for high in dims[1:]]
            further = [self.weight @ eye * draw(eye.shape[1], low=0.5, high=1.5) for eye in eyes]
            self.weights = [self.weight, *further] if skip else [self.weight]
            self.skip = skip

    def moments(self):
        """Mean and covariance of every layer from z1 up, and of x."""
        blocks = [slice(start, start + size) for start, size in zip(self.starts(), [*self.dims, 6], strict=True)]
        mean, covariance = self.joint()
        *layers, of_x = [(mean[block], covariance[block, block]) for block in blocks]
        return layers, of_x

    def starts(self):
        return [0, *accumulate(self.dims)]

    def joint(self):
        """Mean and covariance of (z1, ..., zL, x): each is a linear map of independent standard normal noise."""
        size = sum(self.dims) + len(self.bias)
        noise = dict(
            zip(self.starts(), torch.eye(size, dtype=torch.float64).split([*self.dims, len(self.bias)]), strict=True)
        )
        *starts, last = self.starts()
        rows, means = [noise[starts[-1]]], [torch.zeros(self.dims[-1]).double()]
        for (gain, shift, scale), start in zip(reversed(self.links), reversed(starts[:-1]), strict=True):
            rows.insert(0, gain @ rows[0] + torch.diag(scale) @ noise[start])
            means.insert(0, gain @ means[0] + shift)
        used = list(zip(self.weights, rows, means, strict=False))  # without skip z1 alone
        rows.append(sum(weight @ row for weight, row, _ in used) + SIGMA * noise[last])
        means.append(sum(weight @ mean for weight, _, mean in used) + self.bias)
        maps = torch.cat(rows)
        return torch.cat(means), maps @ maps.T

    def log_prob(self, x):
        mean, covariance = self.moments()[1]
        return torch.from_numpy(stats.multivariate_normal(mean.numpy(), covariance.numpy()).logpdf(x.flatten(1)))

    def sample(self, n):
        mean, covariance = self.moments()[1]
        with seeded(5, "x"):
            x = torch.distributions.MultivariateNormal(mean, covariance).sample((n,))
        return x.reshape(n, 2, 3)

    def mean_of_x(self, latents):
        """E[x|z], flat."""
        layers = [latents[f"z{i + 1}"] for i in range(len(self.weights))]
        return sum(z @ weight.T for z, weight in zip(layers, self.weights, strict=True)) + self.bias

    def vae(self, kind="up"):
        """With the chain for a model and its exact posterior for a guide."""
        nets = dict.fromkeys(("encoder", "decoder", "upper_encoder", "upper_decoder"), AFFINE)
        likelihood = partial(Normal, scale=SIGMA)
        options = {"likelihood": likelihood, "ladder_width": 6, **KINDS[kind], **nets}
        vae = HierarchicalVAE((2, 3), self.dims, **options).double()
        weight = torch.cat(self.weights, -1)
        set_affine(vae.decoder, nn.functional.pad(weight, (0, vae.decoded_dim - weight.shape[1])), self.bias)
        for network, (gain, shift, scale) in zip(vae.upper_decoders, self.links, strict=True):
            set_affine(network, torch.cat([gain, 0 * gain]), torch.cat([shift, scale.log()]))
        setters = {"up": self._set_up, "skip": self._set_up, "ladder": self._set_ladder}
        setters.get(kind, self._set_top_down)(vae)
        return vae

    def _set_top_down(self, vae):
        """The conditional distributions of the joint normal."""
        mean, covariance = self.joint()
        starts = self.starts()
        for network, start, above in zip(vae.encoders, starts, starts[1:], strict=False):
            of, given = (
                torch.arange(start, above),
                torch.cat([torch.arange(starts[-1], len(mean)), torch.arange(above, starts[-1])]),
            )
            gain = torch.linalg.solve(covariance[given][:, given], covariance[given][:, of]).T
            left = diagonal(covariance[of][:, of] - gain @ covariance[given][:, of])
            rows = torch.cat([gain, 0 * gain])
            set_affine(network, rows, torch.cat([mean[of] - gain @ mean[given], left.log() / 2]))

    def _set_up(self, vae):
        below = [(self.weight, self.bias, torch.full_like(self.bias, SIGMA)), *self.links]
        for network, layer, link in zip(vae.encoders, self.moments()[0], below, strict=True):
            gain, shift, scale = posterior(*layer, *link)
            set_affine(network, torch.cat([gain, 0 * gain]), torch.cat([shift, scale.log()]))

    def _set_ladder(self, vae):
        """Of each layer, p(x|z_l) as a function of z_l, a normal; at the top p(x|z_L) p(z_L)."""
        weight, bias = self.weight, self.bias
        noise = SIGMA**2 * torch.eye(len(bias), dtype=torch.float64)
        for network, link in zip(vae.encoders, [*self.links, None], strict=True):
            precision = weight.T @ noise.inverse() @ weight + (torch.eye(weight.shape[1]) if link is None else 0)
            gain, log_scale = precision.inverse() @ weight.T @ noise.inverse(), -diagonal(precision).log() / 2
            rows, constants = torch.cat([gain, 0 * gain]), torch.cat([-gain @ bias, log_scale])
            if link is None:
                set_affine(network, rows, constants)
                return
            set_affine(network, torch.cat([rows, torch.eye(6)]), torch.cat([constants, torch.zeros(6)]))  # d is x
            weight, bias, noise = through(link, weight, bias, noise)


def through(link, weight, bias, noise):
    """p(x|z_{l+1}) from p(x|z_l): weight, bias and the noise's covariance."""
    gain, shift, scale = link
    return weight @ gain, weight @ shift + bias, weight @ torch.diag(scale**2) @ weight.T + noise


def posterior(mean, covariance, weight, bias, scale):
    """Of z ~ N(mean, covariance) given y ~ N(weight z + bias, scale^2): gain, shift and scale, if independent."""
    precision = covariance.inverse() + weight.T @ torch.diag(scale**-2) @ weight
    gain = precision.inverse() @ weight.T @ torch.diag(scale**-2)
    return gain, precision.inverse() @ covariance.inverse() @ mean - gain @ bias, diagonal(precision) ** -0.5


def diagonal(matrix):
    assert (matrix - torch.diag(matrix.diagonal())).abs().max() < 1e-9  # what makes independent dimensions exact
    return matrix.diagonal()


CHAINS = [(3, 2), (4, 3, 2)]


def chain_for(kind, dims):
    """Its data depend on all layers only if the guide comes down: z2 is then not independent of x given z1."""
    return Chain(dims, skip=kind == "top_down and skip")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dims", CHAINS, ids=str)
class TestExact:
    """On a linear Gaussian chain with its exact posterior, none of the guides leaves anything to chance."""

    def test_every_log_weight_is_log_p(self, dims, kind):
        chain = chain_for(kind, dims)
        vae, x = chain.vae(kind), chain.sample(9)
        with torch.no_grad():
            found = importance(vae.model, vae.guide, x, num_particles=5)
        assert set(found.latents) == {f"z{i + 1}" for i in range(len(dims))}
        assert found.latents["z1"].shape == (5, 9, dims[0]) and found.log_guide.std(0).min() > 0.1
        torch.testing.assert_close(found.log_weights, chain.log_prob(x).expand(5, 9), rtol=0, atol=1e-9)

    def test_log_marginal(self, dims, kind):
        chain = chain_for(kind, dims)
        vae, x = chain.vae(kind), chain.sample(60)
        evidence = log_marginal(vae.model, vae.guide, x, num_particles=10)
        torch.testing.assert_close(evidence.log_p, chain.log_prob(x), rtol=0, atol=1e-9)
        torch.testing.assert_close(evidence.elbo, chain.log_prob(x), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("objective", BOUNDS, ids=str)
    def test_every_bound_is_tight(self, objective, dims, kind):
        chain = chain_for(kind, dims)
        vae, x = chain.vae(kind), chain.sample(9)
        loss = objective(vae.model, vae.guide, x)
        assert loss.item() == pytest.approx(-chain.log_prob(x).sum().item(), abs=1e-8)

    @pytest.mark.parametrize("objective", [DReG(3), StickingTheLanding()], ids=str)
    def test_gradients_without_score_vanish(self, objective, dims, kind):
        """At the optimum their noise is zero too: for the parameters that are the guide's alone."""
        chain = chain_for(kind, dims)
        vae, x = chain.vae(kind), chain.sample(9)
        objective(vae.model, vae.guide, x).backward()
        assert max(p.grad.abs().max().item() for p in vae.encoders.parameters()) < 1e-9
        assert max(p.grad.abs().max().item() for p in vae.decoder.parameters()) > 0.1

    def test_missing_elements(self, dims, kind):
        """They have no density, and no say in the guide."""
        chain = chain_for(kind, dims)
        vae, x, mask = chain.vae(kind), chain.sample(4), torch.ones(2, 3, dtype=torch.bool)
        mask[0, 1] = False
        found = []
        for value in (torch.nan, 3.0):
            with seeded(1), torch.no_grad():
                filled = x.masked_fill(~mask, value)
                found.append(importance(vae.model, vae.guide, filled, num_particles=5, mask=mask))
        loc = vae.decode(decoded(vae, found[0].latents)).mean
        expected = (TorchNormal(loc, SIGMA).log_prob(x) * mask).sum((-1, -2))
        torch.testing.assert_close(found[0].log_likelihood, expected)
        assert torch.equal(found[0].log_weights, found[1].log_weights)

    def test_draws_have_the_moments_of_the_chain(self, dims, kind):
        """4,000 draws: means within 6 standard errors, covariances within 0.15 of scale; false alarm below 1e-6."""
        chain = chain_for(kind, dims)
        drawn, (layers, of_x) = sample(chain.vae(kind), 4000), chain.moments()
        found = [drawn.latents[f"z{i + 1}"] for i in range(len(dims))]
        for values, (mean, covariance) in zip([*found, drawn.x.flatten(1)], [*layers, of_x], strict=True):
            scale = covariance.diagonal().sqrt()
            assert ((values.mean(0) - mean).abs() < 6 * scale / 4000**0.5).all()
            assert (((values.T.cov() - covariance) / torch.outer(scale, scale)).abs() < 0.15).all()
        torch.testing.assert_close(drawn.mean.flatten(1), chain.mean_of_x(drawn.latents))


@pytest.mark.parametrize("kind", KINDS)
class TestDensities:
    """Nonlinear networks: log-densities against sums of torch's normals, written out."""

    def test_model(self, kind):
        vae, x = make(kind), binary(5)
        with torch.no_grad():
            found = importance(vae.model, vae.guide, x, num_particles=4)
            z1, z2, z3 = (found.latents[name] for name in ("z1", "z2", "z3"))
            expected = TorchNormal(0.0, 1.0).log_prob(z3).sum(-1)
            for low, high, network in ((z1, z2, vae.upper_decoders[0]), (z2, z3, vae.upper_decoders[1])):
                loc, log_scale = network(high).unbind(-2)
                expected = expected + TorchNormal(loc, log_scale.exp()).log_prob(low).sum(-1)
            logits = vae.decoder(decoded(vae, found.latents)).squeeze(-3)
        torch.testing.assert_close(found.log_prior, expected)
        likelihood = torch.distributions.Bernoulli(logits=logits).log_prob(x).sum((-1, -2))
        torch.testing.assert_close(found.log_likelihood, likelihood)

    def test_guide(self, kind):
        vae, x = make(kind), binary(5)
        with torch.no_grad():
            found = importance(vae.model, vae.guide, x, num_particles=4)
            normals = {"ladder": self.ladder, "up": self.upward, "skip": self.upward}.get(kind, self.downward)(
                vae, x, found.latents
            )
            expected = sum(n.log_prob(found.latents[f"z{i + 1}"]).sum(-1) for i, n in enumerate(normals))
        torch.testing.assert_close(found.log_guide, expected)

    def upward(self, vae, x, latents):
        for network, below in zip(vae.encoders, (x, latents["z1"], latents["z2"]), strict=True):
            loc, log_scale = network(below).unbind(-2)
            yield TorchNormal(loc, log_scale.exp())

    def downward(self, vae, x, latents):
        """Each layer from x and those above, side by side."""
        z1, z2, z3 = (latents[name] for name in ("z1", "z2", "z3"))
        flat = x.flatten(1).expand(*z1.shape[:-1], -1)
        for network, above in zip(vae.encoders, ([z2, z3], [z3], []), strict=True):
            joined = bare(network)(torch.cat([flat, *above], -1).unflatten(-1, bare(network).in_shape))
            loc, log_scale = joined.unbind(-2)
            yield TorchNormal(loc, log_scale.exp())

    def ladder(self, vae, x, latents):
        """The formula of the paper, with precisions as they are."""
        below = x
        for index, (network, size) in enumerate(zip(vae.encoders, vae.latent_dims, strict=True)):
            m, log_s, below = network(below).split([size, size, 7 if index < 2 else 0], -1)
            if index == 2:
                yield TorchNormal(m, log_s.exp())
                return
            mu, log_sigma = vae.upper_decoders[index](latents[f"z{index + 2}"]).unbind(-2)
            a, b = log_s.exp() ** -2, log_sigma.exp() ** -2
            yield TorchNormal((a * m + b * mu) / (a + b), (a + b) ** -0.5)

    def test_the_weight_of_the_kl_is_on_every_layer(self, kind):
        vae, x = make(kind), binary(5)
        losses = {}
        for beta in (0.0, 0.5, 1.0, 3.0):
            with seeded(2):
                losses[beta] = ELBO(beta=beta)(vae.model, vae.guide, x).item()
        with seeded(2), torch.no_grad():
            found = importance(vae.model, vae.guide, x, num_particles=1)
        assert losses[0.0] == pytest.approx(-found.log_likelihood.sum().item(), rel=1e-5)
        for beta in (0.5, 1.0, 3.0):
            assert losses[beta] - losses[0.0] == pytest.approx(beta * found.kl.sum().item(), rel=1e-4)

    @pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
    def test_gradients_reach_every_parameter(self, objective, kind):
        vae = make(kind)
        loss = objective(vae.model, vae.guide, binary())
        loss.backward()
        assert loss.shape == () and loss.isfinite()
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in vae.parameters())

    @pytest.mark.parametrize("objective", slow_but([BOUNDS[0], OBJECTIVES[-4]], OBJECTIVES), ids=str)
    def test_recorded_is_eager(self, objective, kind):
        """The graph that a compiled training runs, against the programs on the same noise."""
        vae, x = make(kind), binary()
        loss = Loss(vae, objective, lambda x: x, lambda batch: 0.0)
        graphs, eager = GraphStep(loss, full=0), EagerStep(loss)
        graphs.prepare(Batch(x), 0.0, 4.0)
        results = []
        for step in (graphs, eager):
            with seeded(7):
                value, parameters, gradients = step(Batch(x), 1.0, 4.0)
            assert len(parameters) == len(list(vae.parameters()))
            results.append([value.detach(), *gradients])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    def test_a_code_that_is_certain_is_reconstructed_by_its_mean(self, kind):
        vae, x = make(kind, dims=(4, 3)), binary()
        with torch.no_grad():
            for network, size in zip(map(bare, vae.encoders), (4, 3), strict=True):
                network.output.weight[size : 2 * size] = 0
                network.output.bias[size : 2 * size] = -30
            first, second = vae.encoders
            if vae.top_down:
                z2 = second(x)[:, 0]
                z1 = first(x, z2)[:, 0]
            elif vae.ladder:
                z1 = z2 = first(x)[..., :4]
            else:
                z1 = first(x)[:, 0]
                z2 = second(z1)[:, 0]
            expected = vae.decode(decoded(vae, {"z1": z1, "z2": z2})).mean
        torch.testing.assert_close(reconstruct(vae, x, num_particles=2), expected)

    def test_svi_trains_it(self, kind):
        vae, x = make(kind), binary()
        before = [p.detach().clone() for p in vae.parameters()]
        pyro.clear_param_store()
        SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(x)
        pyro.clear_param_store()
        assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))

    @pytest.mark.parametrize(
        "prior", [priors.MixtureOfNormals, partial(priors.VampPrior, components=5), priors.FlowPrior], ids=str
    )
    def test_any_prior_at_the_top(self, prior, kind):
        """Its density, where it encodes inputs of its own through the means below, up the ladder, or at once."""
        vae = make(kind, dims=(3, 2), prior=prior)
        with seeded(4), torch.no_grad():
            vae.start_prior(torch.rand(max(vae.start_count, 1), 2, 3).round())
            found = importance(vae.model, vae.guide, binary(), num_particles=4)
        first, second = vae.encoders

        def encode(x):
            below = first(x)[..., 6:] if vae.ladder else x if vae.top_down else first(x)[..., 0, :]
            loc, log_scale = (second(below).unflatten(-1, (2, 2)) if vae.ladder else second(below)).unbind(-2)
            return dist.Normal(loc, log_scale.exp()).to_event(1)

        loc, log_scale = vae.upper_decoders[0](found.latents["z2"]).unbind(-2)
        expected = TorchNormal(loc, log_scale.exp()).log_prob(found.latents["z1"]).sum(-1)
        expected = expected + vae.prior(encode).log_prob(found.latents["z2"])
        torch.testing.assert_close(found.log_prior, expected)
        history = fit(vae, binary(40), epochs=1, progress=False)
        assert all(p.isfinite().all() for p in vae.parameters()) and history.rows[-1]["train_elbo"] < 0

    def test_it_is_made_again_from_its_description(self, kind):
        vae = make(kind, likelihood=partial(Normal, scale="learned"))
        twin = build_vae(describe_vae(vae))
        twin.load_state_dict(vae.state_dict())
        assert type(twin) is HierarchicalVAE and describe_vae(twin) == describe_vae(vae)
        a, b = (log_marginal(v.model, v.guide, binary(), num_particles=3).log_p for v in (vae, twin))
        assert torch.equal(a, b)

    def test_fit_goes_up_and_starts_at_the_mean(self, kind):
        vae, x = make(kind), binary(200)
        assert vae.can_start_at_mean
        history = fit(vae, x, epochs=15, batch_size=50, start_at_mean=True, progress=False)
        assert history.rows[-1]["train_elbo"] > history.rows[0]["train_elbo"]


@pytest.mark.parametrize("kind", KINDS)
class TestContext:
    """p(x|c), each of model and guide with the context or without."""

    @pytest.mark.parametrize("dims", CHAINS, ids=str)
    def test_exact(self, dims, kind):
        """A chain whose data are moved by V c: every log-weight is that of x - V c."""
        chain, shift = chain_for(kind, dims), draw(6, 3)
        plain, vae = chain.vae(kind), self.of_a_chain(chain, kind)
        lower = vae.encoders[:-1] if vae.top_down else ()  # these take c beside x, and then the codes above
        for ours, theirs in zip(networks_of(vae), networks_of(plain), strict=True):
            weight, bias = bare(theirs).output.weight.detach(), bare(theirs).output.bias
            of_c = torch.zeros(len(weight), 3)
            columns = [weight[:, :6], of_c, weight[:, 6:]] if ours in lower else [weight, of_c]
            set_affine(ours, torch.cat(columns, -1), bias)
        with torch.no_grad():
            vae.decoder.network.output.weight[:, -3:] = shift
            for encoder in vae.encoders if vae.top_down else vae.encoders[:1]:  # those that see x
                weight = encoder.network.output.weight
                weight[:, 6:9] = -weight[:, :6] @ shift
        x, c = chain.sample(9), draw(9, 3)
        moved = x + (c @ shift.T).reshape(9, 2, 3)
        evidence = log_marginal(vae.model, vae.guide, moved, num_particles=5, c=c)
        torch.testing.assert_close(evidence.log_p, chain.log_prob(x), rtol=0, atol=1e-9)
        assert (
            log_marginal(plain.model, plain.guide, moved, num_particles=5).log_p - evidence.log_p
        ).abs().min() > 1e-3

    def of_a_chain(self, chain, kind):
        nets = dict.fromkeys(("encoder", "decoder", "upper_encoder", "upper_decoder"), AFFINE)
        likelihood = partial(Normal, scale=SIGMA)
        options = {"likelihood": likelihood, "ladder_width": 6, "context": (3,), **KINDS[kind], **nets}
        return HierarchicalVAE((2, 3), chain.dims, **options).double()

    @pytest.mark.parametrize("conditions", [(), ("decoder",), ("guide",), ("decoder", "guide")], ids=str)
    def test_each_part_is_switched_by_itself(self, conditions, kind):
        vae = make(kind, context=(3,), conditions=conditions)
        z = torch.randn(8, vae.decoded_dim)
        draws, decoded = [], []
        for c in torch.eye(3)[:2].unsqueeze(1).expand(2, 8, 3):
            with seeded(1):
                draws.append(vae.guide(binary(), c=c))
            decoded.append(vae.decode(z, c).mean)
        assert torch.equal(*decoded) == ("decoder" not in conditions)
        seen = {"guide"} | ({"decoder"} if vae.ladder else set())  # a ladder comes down with the model's own networks
        assert torch.equal(*draws) == (not seen & set(conditions))

    def test_every_part_learns(self, kind):
        """With p(zL|c) at the top, and any network; the rest of the package takes it."""
        vae = make(kind, context=(3,), prior=priors.ConditionalNormal)
        x, c = binary(), torch.eye(3)[torch.arange(8) % 3]
        IWAE(3)(vae.model, vae.guide, x, c=c).backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in vae.parameters())
        assert sample(vae, 5, c=c[0]).x.shape == reconstruct(vae, x, c=c)[:5].shape == (5, 2, 3)
        assert sum(latent_statistics(vae, x, c=c).sizes.values()) == 9
        twin = build_vae(describe_vae(vae))
        twin.load_state_dict(vae.state_dict())
        a, b = (log_marginal(v.model, v.guide, x, num_particles=3, c=c).log_p for v in (vae, twin))
        assert torch.equal(a, b)

    def test_refusals(self, kind):
        x, c = binary(), torch.eye(3)[:1].expand(8, 3)
        vae = make(kind, context=(3,))
        with pytest.raises(UsageError, match=r"the guide is conditioned on a context of shape \[3\]"):
            vae.guide(x)
        with pytest.raises(UsageError, match="leave 'decoder' out of the HierarchicalVAE's `conditions`"):
            vae.decode(torch.zeros(8, vae.decoded_dim))
        with pytest.raises(UsageError, match=r"expected shape \[\.\.\., 3\], got \[8, 2\]"):
            vae.model(x, c=c[:, :2])
        with pytest.raises(UsageError, match=r"takes no context: make it with HierarchicalVAE\(..., context=shape\)"):
            make(kind).guide(x, c=c)
        with pytest.raises(UsageError, match="the guide is conditioned"):  # which would have to encode without one
            make(kind, context=(3,), prior=partial(priors.VampPrior, components=2)).model(x, c=c)
        with pytest.raises(UsageError, match="context: expected a tuple of positive whole numbers"):
            make(kind, context=(0,))


def networks_of(vae):
    return [*vae.encoders, vae.decoder, *vae.upper_decoders]


@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_up_and_down(kind):
    convolutions = partial(networks.ConvNet, channels=(4, 4), hidden=(8,))
    options = {"ladder_width": 5, "context": (1, 8, 8), **KINDS[kind]}
    vae = HierarchicalVAE((8, 8), (4, 2), encoder=convolutions, decoder=convolutions, **options)
    found = importance(vae.model, vae.guide, torch.zeros(3, 8, 8), num_particles=2, c=torch.ones(3, 1, 8, 8))
    z = torch.zeros(2, 3, vae.decoded_dim)
    assert found.log_weights.shape == (2, 3) and vae.decode(z, torch.ones(3, 1, 8, 8)).batch_shape == (2, 3)


def test_merging_does_not_over_or_underflow():
    log_scales = torch.tensor([-200.0, -60.0, 0.0, 60.0, 200.0])
    grid = torch.cartesian_prod(log_scales, log_scales)
    estimate = torch.stack([torch.ones(25), grid[:, 0]]).T.unsqueeze(-1).requires_grad_()
    above = torch.stack([-torch.ones(25), grid[:, 1]]).T.unsqueeze(-1)
    merged = _merged(estimate, above)
    merged.sum().backward()
    assert merged.isfinite().all() and estimate.grad.isfinite().all()
    mean, log_scale = merged.detach().squeeze(-1).unbind(-1)
    first, second = grid[:, 0] < grid[:, 1], grid[:, 0] > grid[:, 1]
    assert (mean[first] == 1).all() and (mean[second] == -1).all() and (mean[~first & ~second] == 0).all()
    expected = torch.where(first | second, grid.amin(1), grid[:, 0] - 0.5 * torch.tensor(2.0).log())
    torch.testing.assert_close(log_scale, expected)


class TestActiveUnits:
    """Of each layer, where the means of the upper ones depend on draws of the lower."""

    def test_of_a_chain(self):
        """Var_x E[z|x] in closed form, at 20,000 data: within 6 times their share of error."""
        chain = Chain((3, 2))
        x = chain.sample(20_000)
        statistics = latent_statistics(chain.vae(), x)
        layers, (_, of_x) = chain.moments()
        of_layers = [chain.weight, chain.weight @ chain.links[0][0]]
        covariances = [
            weight @ covariance for weight, (_, covariance) in zip(of_layers, layers, strict=True)
        ]  # of x and z
        expected = torch.cat(
            [(c.T @ of_x.inverse() @ c).diagonal() for c in reversed(covariances)]
        )  # z2 is drawn first
        assert list((statistics.sizes or {}).items()) == [("z2", 2), ("z1", 3)] and statistics.kl is None
        torch.testing.assert_close(statistics.active_variance, expected, rtol=6 * (2 / 20_000) ** 0.5, atol=0.01)
        assert str(statistics) == "z2: 2 of 2, z1: 3 of 3"

    def test_a_layer_that_only_passes_noise_on_is_not_active(self):
        """A tenth of the noise's variance would be left of ten draws: ten times what makes a unit active."""
        vae = Chain((3, 2)).vae()
        with torch.no_grad():
            vae.encoders[0].output.weight.zero_()
            vae.encoders[0].output.bias.zero_()
            vae.encoders[1].output.weight.fill_(0.6)
        statistics = latent_statistics(vae, torch.randn(5000, 2, 3), batch=999)
        assert str(statistics) == "z2: 0 of 2, z1: 0 of 3"

    def test_a_function_of_the_data_alone(self):
        vae, x = make(), binary(30)
        with seeded(1):
            first = latent_statistics(vae, x)
        assert torch.equal(first.active_variance, latent_statistics(vae, x).active_variance)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dims": (3,)}, r"two layers or more, got \(3,\): for one take VAE"),
        ({"latent_dims": (3, 0)}, r"latent_dims: expected a tuple of positive whole numbers, .*got \(3, 0\)"),
        ({"event_shape": (0,)}, "event_shape: expected a tuple of positive whole numbers"),
        ({"ladder_width": 0}, "ladder_width must be at least 1, got 0"),
        ({"ladder": True, "top_down": True}, "expected one guide, got ladder=True and top_down=True: leave one"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        HierarchicalVAE(**{"event_shape": (4,), "latent_dims": (3, 2), **arguments})


def test_a_layer_is_a_diagonal_normal():
    vae = make()
    assert [type(layer) for layer in vae.layers] == [guides.DiagonalNormal] * 3
    assert vae.shapes.latent == 9 and isinstance(vae.likelihood, Bernoulli)
    assert "latent_dims=(4, 3, 2), ladder=False, top_down=False, skip=False" in repr(vae)
