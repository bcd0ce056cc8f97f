"""Objectives against truth: log p(x) where the guide is the posterior, sums over all draws, other estimators."""

from functools import partial
from itertools import combinations, pairwise
from math import log

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO

from pyro_vae.autoencoders import VAE
from pyro_vae.data import LinearGaussian
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.inference.weighing import importance
from pyro_vae.likelihoods import Normal
from pyro_vae.objectives import (
    ELBO,
    IWAE,
    BetaTC,
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
from pyro_vae.training.fitting import fit
from tests.support.ppca import make_exact, truth, vae_of
from tests.support.rows import Chain, Discrete, agree

BOUNDS = [
    ELBO(),
    ELBO(num_particles=3),
    IWAE(1),
    IWAE(7),
    DReG(1),
    DReG(4),
    StickingTheLanding(),
    StickingTheLanding(3),
    Renyi(0.5),
    Renyi(-2.0, 4),
    Renyi(3.0, 4),
    ReweightedWakeSleep(3),
    ReweightedWakeSleep(3, insomnia=0.5),
    ReweightedWakeSleep(3, insomnia=0.0),
    WakeSleep(),
    WakeSleep(3),
    ScoreFunction(1, baseline="none"),
    ScoreFunction(4),
]
N = 20_000
frozen = partial(torch.optim.SGD, lr=0.0)


@pytest.fixture
def process():
    return truth()


@pytest.fixture
def exact(process):
    return make_exact(vae_of(process), process)


@pytest.fixture
def x(process):
    return process.sample(32, seed=1)


def gradients(objective, vae, x, part):
    loss = objective(vae.model, vae.guide, x)
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(part.parameters()))])


class TestExactPosterior:
    """Every weight of a datum is p(x)."""

    @pytest.mark.parametrize("objective", [*BOUNDS, FreeBits(nats=0.0, per="total")], ids=str)
    def test_value(self, process, exact, x, objective):
        assert objective.is_bound
        loss = objective(exact.model, exact.guide, x)
        torch.testing.assert_close(loss / len(x), -process.log_prob(x).mean(), rtol=0, atol=1e-9)

    @pytest.mark.parametrize("objective", BOUNDS, ids=str)
    def test_fit_reports_it(self, process, exact, x, objective):
        """The column `loss` is the bound itself, not the surrogate that is differentiated."""
        history = fit(exact, x, objective, epochs=1, batch_size=16, optimizer=frozen, log_every=1, progress=False)
        expected = process.log_prob(x).mean().item()
        assert history.column("loss") == pytest.approx([-expected], abs=1e-9)
        assert history.column("train_elbo") == pytest.approx([expected], abs=1e-9)

    @pytest.mark.parametrize("objective", [StickingTheLanding(), StickingTheLanding(3), DReG(1), DReG(4)], ids=str)
    def test_path_gradients_have_no_noise(self, exact, x, objective):
        assert gradients(ELBO(), exact, x, exact.encoder).abs().max() > 1
        for _ in range(3):
            assert gradients(objective, exact, x, exact.encoder).abs().max() < 1e-8

    def test_path_gradients_of_a_chain_have_no_noise(self):
        """Two latent sites, the guide their posterior: z ~ N(x/2, 1/2) given x ~ N(z, 1), and top given z."""
        chain = LinearChain(50)
        x = torch.randn(50, dtype=torch.float64)
        for objective in (StickingTheLanding(2), DReG(3)):
            loss = objective(chain.model, chain.guide, x)
            found = torch.autograd.grad(loss, [getattr(chain, name) for name in chain.GUIDE])
            assert max(g.abs().max() for g in found) < 1e-12
        noisy = torch.autograd.grad(ELBO()(chain.model, chain.guide, x), chain.link)[0]
        assert noisy.abs().max() > 0.1

    def test_beta_tc_of_a_factorised_posterior(self):
        """Orthogonal weights: the posterior is elementwise, and with all weights 1 the loss is -log p(x)."""
        weight = torch.linalg.qr(torch.randn(6, 3, dtype=torch.float64))[0] * torch.tensor([0.5, 1.0, 2.0])
        process = LinearGaussian(weight, torch.randn(6, dtype=torch.float64), 0.7)
        vae = vae_of(process, guide=DiagonalNormal)
        mean, covariance = process.posterior(torch.zeros(6, dtype=torch.float64))
        with torch.no_grad():
            vae.encoder.output.weight[:3] = covariance @ weight.T / 0.7**2
            vae.encoder.output.weight[3:] = 0
            vae.encoder.output.bias.copy_(torch.cat([mean, covariance.diagonal().log() / 2]))
        x = process.sample(20, seed=1)
        for objective in (BetaTC(beta=1.0), BetaTC(beta=1.0, num_data=500), BetaTC(beta=1.0, sampling="weighted")):
            loss = objective(vae.model, vae.guide, x)
            torch.testing.assert_close(loss / 20, -process.log_prob(x).mean(), rtol=0, atol=1e-9)


class LinearChain(Chain):
    """top ~ N(0, 1), z ~ N(top, 1), x ~ N(z, 2^1/2): q(z|x) = N(x/2, 1), q(top|z) = N(z/2, 1/2)."""

    def __init__(self, n):
        super().__init__(n, loc=0.5, log_scale=0.0, link=0.5, shift=0.0, log_width=-log(2) / 2)

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Normal(torch.zeros_like(x), 1.0))
            z = pyro.sample("z", dist.Normal(top, 1.0))
            pyro.sample("x", dist.Normal(z, torch.tensor(2.0, dtype=torch.float64).sqrt()), obs=x)


class TestUnbiased:
    """20,000 draws of each gradient, within 5 standard errors: 7 entries each, false alarm below 5e-6 a test."""

    @pytest.mark.parametrize(
        ("objective", "reference"),
        [
            (StickingTheLanding(), ELBO()),
            (StickingTheLanding(4), ELBO()),
            (DReG(1), ELBO()),
            (DReG(5), IWAE(5)),
            (ScoreFunction(1, baseline="none"), ELBO()),
            (ScoreFunction(4, baseline="none"), ELBO()),
            (ScoreFunction(2), ELBO()),
            (ScoreFunction(8), ELBO()),
            (IWAE(1), ELBO()),
            (Renyi(0.0, 5), IWAE(5)),
        ],
        ids=str,
    )
    def test_on_a_chain(self, objective, reference):
        names = Chain.MODEL + Chain.GUIDE
        ours, theirs = (Chain(N).gradients(o, 1.7, names) for o in (objective, reference))
        assert agree(ours, theirs)
        assert (theirs.mean(0).abs() > 5 * theirs.std(0) / N**0.5).sum() >= 6  # so zeros would not pass

    def test_a_score_that_is_forgotten_is_found(self):
        """What the test above must tell apart: IWAE's gradient without its score is not DReG's."""
        plain = Chain(N).gradients(IWAE(5), 1.7, Chain.GUIDE)
        biased = Chain(N).gradients(StickingTheLanding(5), 1.7, Chain.GUIDE)
        assert not agree(plain, biased)

    def test_noise(self):
        """Why one takes them: less noise from many particles by DReG, and from a baseline."""
        spread = {}
        for name, objective in {
            "IWAE": IWAE(50),
            "DReG": DReG(50),
            "none": ScoreFunction(8, baseline="none"),
            "mean": ScoreFunction(8),
        }.items():
            spread[name] = Chain(2000).gradients(objective, 1.7, Chain.GUIDE).var(0).sum().item()
        assert spread["DReG"] < spread["IWAE"] / 3
        assert spread["mean"] < spread["none"] / 2

    @pytest.mark.parametrize("baseline", ["none", "mean"])
    @pytest.mark.parametrize("x", [0, 1])
    def test_score_function_of_a_discrete_code(self, baseline, x):
        pair = Discrete(N)
        names = pair.MODEL + pair.GUIDE
        assert agree(pair.gradients(ScoreFunction(3, baseline), float(x), names), pair.exact_elbo(x))


class TestWakeSleep:
    """Against sums over every tuple of draws and every dream; 6 to 12 entries, false alarm below 8e-6 a test."""

    @staticmethod
    def weighted(of_p, of_q):
        """The surrogate of one tuple of draws: weighted log p or log q, or both."""

        def surrogate(log_p, log_q):
            share = torch.softmax((log_p - log_q).detach(), 0)
            return (share * (of_p * log_p + of_q * log_q)).sum()

        return surrogate

    @pytest.mark.parametrize("insomnia", [1.0, 0.3, 0.0])
    @pytest.mark.parametrize("x", [0, 1])
    def test_reweighted(self, insomnia, x):
        pair, objective = Discrete(N), ReweightedWakeSleep(3, insomnia)
        theta = pair.exact_gradient(self.weighted(1, 0), x, 3, pair.MODEL)
        awake = pair.exact_gradient(self.weighted(0, 1), x, 3, pair.GUIDE)
        phi = insomnia * awake + (1 - insomnia) * pair.exact_sleep()
        got = pair.gradients(objective, float(x), pair.MODEL + pair.GUIDE)
        assert agree(got, torch.cat([theta, phi]))
        assert (theta.abs() > 0.01).any() and (phi.abs() > 0.01).any()

    @pytest.mark.parametrize("num_particles", [1, 2])
    def test_plain(self, num_particles):
        pair = Discrete(N)
        theta = pair.exact_gradient(lambda log_p, _: log_p.mean(), 1, num_particles, pair.MODEL)
        got = pair.gradients(WakeSleep(num_particles), 1.0, pair.MODEL + pair.GUIDE)
        assert agree(got, torch.cat([theta, pair.exact_sleep()]))

    def test_it_learns(self):
        """Reweighted wake-sleep finds the process, with a discrete code that has no gradient of its own."""
        pair, data = Discrete(1), torch.tensor([[1.0]] * 30 + [[0.0]] * 10, dtype=torch.float64)
        adam = partial(torch.optim.Adam, lr=5e-2)
        fit(pair, data, ReweightedWakeSleep(10), epochs=150, batch_size=40, optimizer=adam, progress=False)
        log_z, log_x, log_q = pair.tables()
        joint = (log_z.unsqueeze(-1) + log_x).exp()
        assert joint.sum(0)[1].item() == pytest.approx(0.75, abs=0.05)
        torch.testing.assert_close(log_q.exp(), (joint / joint.sum(0)).T, rtol=0, atol=0.1)


class TestBounds:
    def test_iwae_rises_with_k_and_stays_below(self):
        """20,000 repeats: each rise, and the distance to log p(x), by more than 5 standard errors."""
        process = truth(dim=2, latent=1)
        vae = make_exact(vae_of(process), process)
        with torch.no_grad():
            vae.encoder.output.bias[1] += 0.7  # too wide
            vae.encoder.output.bias[0] += 0.5
        x = process.sample(1, seed=1).expand(N, -1)
        values = []
        for k in (1, 2, 5, 20):
            with torch.no_grad():
                weights = importance(vae.model, vae.guide, x, num_particles=k).log_weights
                bound = torch.logsumexp(weights, 0) - torch.tensor(float(k)).log()
                with seeded(0):
                    loss = IWAE(k)(vae.model, vae.guide, x)
            values.append((bound.mean(), bound.var() / N))
            assert (loss / N + bound.mean()).abs() < 5 * (2 * bound.var() / N).sqrt()
        for (a, va), (b, vb) in pairwise(values):
            assert b - a > 5 * (va + vb).sqrt()
        mean, variance = values[-1]
        assert process.log_prob(x[:1]) - mean > 5 * variance.sqrt()

    @pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, 2.0])
    @pytest.mark.parametrize("guide", [DiagonalNormal, FullNormal])
    def test_same_as_pyro_on_a_plain_plate(self, alpha, guide):
        """Pyro's `RenyiELBO` weighs per datum on a plain plate: the same value and gradients on the same noise."""
        torch.manual_seed(0)
        vae = VAE((5,), 3, guide=guide, likelihood=Normal).double()
        x = torch.randn(6, 5, dtype=torch.float64)

        def model(x):
            pyro.module("vae", vae)
            return vae.model(x)

        theirs = RenyiELBO(alpha, num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        with seeded(1):
            expected = theirs.loss_and_grads(model, vae.guide, x)
        expected_gradients = [p.grad.clone() for p in vae.parameters()]
        ours = [Renyi(alpha, 4)] + ([IWAE(4)] if alpha == 0 else [])
        for objective in ours:
            with seeded(1):
                loss = objective(vae.model, vae.guide, x)
            assert loss.item() == pytest.approx(expected, rel=1e-12)
            for a, b in zip(torch.autograd.grad(loss, list(vae.parameters())), expected_gradients, strict=True):
                torch.testing.assert_close(a, b)

    def test_each_datum_has_its_own_weights(self):
        """The loss of a batch is the sum of those of its rows; one weight for all is another number."""
        torch.manual_seed(0)
        vae = VAE((5,), 2, likelihood=Normal).double()
        x = torch.randn(4, 5, dtype=torch.float64)
        with seeded(3):
            weights = importance(vae.model, vae.guide, x, num_particles=6).log_weights
        with seeded(3):
            loss = IWAE(6)(vae.model, vae.guide, x)
        per_datum = (torch.logsumexp(weights, 0) - torch.tensor(6.0).log()).sum()
        joint = torch.logsumexp(weights.sum(1), 0) - torch.tensor(6.0).log()
        torch.testing.assert_close(-loss, per_datum)
        assert per_datum - joint > 0.01


class TestRegularised:
    """Formulas computed anew, on the same noise."""

    @pytest.fixture
    def vae(self):
        torch.manual_seed(0)
        return VAE((5,), 3, likelihood=Normal).double()

    @pytest.fixture
    def data(self):
        return torch.randn(6, 5, dtype=torch.float64)

    def terms(self, vae, x):
        """log p(x|z) at one draw `[B]`, the draw, and the closed-form KL of every dimension `[B, L]`."""
        with seeded(2):
            z = vae.guide(x)
        q = vae.encode(x).base_dist
        kl = (q.scale.square() + q.loc.square() - 1) / 2 - q.scale.log()
        return vae.decode(z).log_prob(x), z, kl

    def loss(self, objective, vae, x):
        with seeded(2):
            return objective(vae.model, vae.guide, x)

    @pytest.mark.parametrize("nats", [0.0, 0.05, 0.2, 10.0])
    def test_free_bits(self, vae, data, nats):
        log_x, _, kl = self.terms(vae, data)
        expected = {
            ("dimension", "batch"): 6 * kl.mean(0).clamp(min=nats).sum(),
            ("dimension", "datum"): kl.clamp(min=nats).sum(),
            ("total", "batch"): 6 * kl.sum(-1).mean(0).clamp(min=nats),
            ("total", "datum"): kl.sum(-1).clamp(min=nats).sum(),
        }
        for (per, over), paid in expected.items():
            got = self.loss(FreeBits(nats, per, over), vae, data)
            torch.testing.assert_close(got, paid - log_x.sum())

    def test_free_bits_have_no_gradient(self, vae, data):
        """Nothing is paid for: the guide's gradient is that of the reconstruction alone."""
        expected = torch.autograd.grad(-self.terms(vae, data)[0].sum(), list(vae.encoder.parameters()))
        got = torch.autograd.grad(self.loss(FreeBits(100.0), vae, data), list(vae.encoder.parameters()))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b)

    def test_kl_by_sampling_where_there_is_no_closed_form(self, data):
        """A dense normal: the KL is log q - log p at the draws; dimensions have none of their own."""
        torch.manual_seed(0)
        vae = VAE((5,), 3, likelihood=Normal, guide=FullNormal).double()
        with seeded(2):
            samples = importance(vae.model, vae.guide, data, num_particles=4)
        kl, log_x = samples.kl.mean(0), samples.log_likelihood.mean(0)
        got = self.loss(FreeBits(0.3, "total", "datum", num_particles=4), vae, data)
        torch.testing.assert_close(got, (kl.clamp(min=0.3) - log_x).sum())
        got = self.loss(CapacityELBO(2.0, 0.3, num_particles=4), vae, data)
        torch.testing.assert_close(got, (2 * (kl - 0.3).abs() - log_x).sum())
        with pytest.raises(UsageError, match=r"q\(z\|x\) to have independent dimensions, and site 'z' is a .*total"):
            self.loss(FreeBits(), vae, data)

    @pytest.mark.parametrize("capacity", [0.0, 0.3, 20.0])
    def test_capacity(self, vae, data, capacity):
        log_x, _, kl = self.terms(vae, data)
        total = kl.sum(-1)
        got = self.loss(CapacityELBO(3.0, capacity), vae, data)
        torch.testing.assert_close(got, (3 * (total - capacity).abs() - log_x).sum())
        got = self.loss(CapacityELBO(3.0, capacity, over="batch"), vae, data)
        torch.testing.assert_close(got, 18 * (total.mean() - capacity).abs() - log_x.sum())

    @pytest.mark.parametrize("sampling", ["stratified", "weighted"])
    @pytest.mark.parametrize("num_data", [6, 50])
    def test_beta_tc(self, vae, data, sampling, num_data):
        """Entry by entry from the definition."""
        log_x, z, _ = self.terms(vae, data)
        q, n = vae.encode(data).base_dist, num_data
        log_q = torch.stack([torch.stack([q_of(q, j).log_prob(z[i]) for j in range(6)]) for i in range(6)])
        own, other = (1 / n, (n - 1) / (n * 5)) if sampling == "stratified" else (1 / (6 * n), 1 / (6 * n))
        weights = torch.full((6, 6), other, dtype=torch.float64).fill_diagonal_(own)
        log_qz = (weights * log_q.sum(-1).exp()).sum(1).log()
        log_dimensions = (weights.unsqueeze(-1) * log_q.exp()).sum(1).log().sum(-1)
        log_qzx = log_q.sum(-1).diagonal()
        log_pz = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(-1)
        kl = 0.5 * (log_qzx - log_qz) + 7 * (log_qz - log_dimensions) + 2 * (log_dimensions - log_pz)
        objective = BetaTC(beta=7.0, alpha=0.5, gamma=2.0, sampling=sampling, num_data=num_data)
        torch.testing.assert_close(self.loss(objective, vae, data), (kl - log_x).sum())

    @pytest.mark.parametrize("sampling", ["stratified", "weighted"])
    @pytest.mark.parametrize("num_data", [None, 1000])
    def test_beta_tc_with_all_weights_one_is_the_elbo(self, vae, data, sampling, num_data):
        for rows in (data, data[:1]):
            expected = self.loss(ELBO(), vae, rows)
            got = self.loss(BetaTC(1.0, sampling=sampling, num_data=num_data), vae, rows)
            torch.testing.assert_close(got, expected)
            pairs = zip(*(torch.autograd.grad(loss, list(vae.parameters())) for loss in (got, expected)), strict=True)
            for a, b in pairs:
                torch.testing.assert_close(a, b)

    def test_stratified_sampling_is_unbiased(self):
        """Over all batches of 3 of 5 data that hold the draw's own, the estimate of q(z) averages to q(z): exactly."""
        q = torch.distributions.Normal(torch.randn(5, dtype=torch.float64), 0.7)
        z = q.sample()
        exact = q.log_prob(z.unsqueeze(-1)).exp().mean(1)
        estimates = [[] for _ in range(5)]
        for batch in combinations(range(5), 3):
            batch = list(batch)
            pairs = q.log_prob(z.unsqueeze(-1))[batch][:, batch].unsqueeze(-1)
            log_qz, log_dimensions = BetaTC(num_data=5)._aggregate(pairs)
            torch.testing.assert_close(log_qz, log_dimensions)
            for datum, value in zip(batch, log_qz.exp(), strict=True):
                estimates[datum].append(value)
        torch.testing.assert_close(torch.stack([torch.stack(e).mean() for e in estimates]), exact)

    def test_beta_tc_parts_of_the_whole_data(self, vae, data):
        """B = N: q(z) is the mixture of all q(z|x_n), by torch's own."""
        _, z, _ = self.terms(vae, data)
        q = vae.encode(data).base_dist
        even = torch.distributions.Categorical(torch.ones(6, dtype=torch.float64))
        whole = torch.distributions.MixtureSameFamily(even, torch.distributions.Independent(q, 1))
        pairs = torch.stack([q.log_prob(row) for row in z])
        log_qz, log_dimensions = BetaTC()._aggregate(pairs)
        torch.testing.assert_close(log_qz, whole.log_prob(z))
        expected = 0
        for j in range(3):
            marginal = torch.distributions.Normal(q.loc[:, j], q.scale[:, j])
            expected = expected + torch.distributions.MixtureSameFamily(even, marginal).log_prob(z[:, j])
        torch.testing.assert_close(log_dimensions, expected)


def q_of(q, j):
    return torch.distributions.Normal(q.loc[j], q.scale[j])
