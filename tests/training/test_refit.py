"""`refit_prior`: the maximum of a likelihood that is known, nothing else changed, and what is refused."""

import copy
from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyro_vae import refit_prior
from pyro_vae.autoencoders import VAE
from pyro_vae.data import Dataset
from pyro_vae.errors import DataError, UsageError
from pyro_vae.evidence import bound, log_marginal
from pyro_vae.guides import Delta, DiagonalNormal, SemiAmortized
from pyro_vae.likelihoods import Normal
from pyro_vae.networks import MLP
from pyro_vae.priors import FlowPrior, Laplace, LearnedNormal, MixtureOfNormals, Prior, StandardNormal, VampPrior
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import build_vae, describe
from pyro_vae.schedules import Linear
from pyro_vae.training.refit import compare_priors, cross_entropy
from tests.support.networks import Dropping

EVENT = (4,)
MIXTURE = partial(MixtureOfNormals, components=4)
FAST = partial(torch.optim.Adam, lr=0.05)
quick = partial(refit_prior, epochs=3, progress=False)


def clusters(n=300):
    """Data in two groups, so that codes are too."""
    return (torch.arange(n) % 2).unsqueeze(-1) * torch.tensor([1.0, 1.0, 0.0, 0.0]) + 0.1 * torch.rand(n, *EVENT)


def make():
    """A VAE with N(0, I) whose codes lie about (-3, 0) and (3, 0), with scales of 0.5."""
    vae = VAE(EVENT, 2, likelihood=Normal, encoder=partial(MLP, hidden=()), decoder=partial(MLP, hidden=(3,)))
    with torch.no_grad():
        vae.encoder.output.weight.zero_()[0] = 3.0
        vae.encoder.output.bias.copy_(torch.tensor([-3.0, 0.0, -0.7, -0.7]))
    return vae.eval()


class TestOptimum:
    def test_learned_normal_takes_the_moments_of_the_codes(self):
        """The best N(m, diag s^2) has the aggregate posterior's moments, and its cross-entropy is known."""
        vae, x = make(), clusters()
        data = Dataset("array", x, x)
        with torch.no_grad():
            q = vae.encode(x)
        mean, variance = q.mean.mean(0), q.variance.mean(0) + q.mean.var(0, correction=0)
        refitted = refit_prior(vae, data, LearnedNormal, epochs=60, optimizer=FAST, progress=False)
        torch.testing.assert_close(refitted.prior.loc.detach(), mean, rtol=0.05, atol=0.2)
        torch.testing.assert_close(refitted.prior.log_scale.detach().exp(), variance.sqrt(), rtol=0.1, atol=0)
        exact = 0.5 * (variance * 2 * torch.pi * torch.e).log().sum().item()
        got = cross_entropy(refitted, x, num_particles=100)
        assert got.mean == pytest.approx(exact, abs=0.03) and got.mean > exact - 5 * got.standard_error

    def test_a_mixture_finds_the_clusters(self):
        vae, x = make(), clusters()
        refitted = refit_prior(vae, x, MIXTURE, epochs=40, optimizer=FAST, progress=False)
        before, after = (cross_entropy(v, x, num_particles=20) for v in (vae, refitted))
        entropy = torch.tensor(2.0).log() + vae.encode(x).entropy().mean()  # of two clusters far apart, each a q(z|x)
        assert before.mean > entropy + 3 and after.mean == pytest.approx(entropy.item(), abs=0.2)
        share = refitted.prior.responsibilities(vae.encode(x).mean).argmax(-1)
        assert not set(share[::2].tolist()) & set(share[1::2].tolist())

    def test_evidence_rises_by_what_the_bound_rises_by(self):
        """The ELBO under two priors differs by their cross-entropies, draw for draw."""
        vae, x = make(), clusters(60)
        refitted = refit_prior(vae, x, MIXTURE, epochs=20, optimizer=FAST, progress=False)
        gain = cross_entropy(vae, x, 500).mean - cross_entropy(refitted, x, 500).mean
        elbos = [bound(v.model, v.guide, x, num_particles=500) for v in (vae, refitted)]
        assert (elbos[0].reconstruction == elbos[1].reconstruction).all()
        assert elbos[1].means()["elbo"] - elbos[0].means()["elbo"] == pytest.approx(gain, abs=0.2)
        evidence = [log_marginal(v.model, v.guide, x, num_particles=200).mean for v in (vae, refitted)]
        assert evidence[1] > evidence[0] + 1

    @pytest.mark.parametrize("prior", [FlowPrior, partial(VampPrior, components=5, bounds=None)], ids=str)
    def test_other_priors_learn(self, prior):
        vae, x = make(), clusters()
        adam = partial(torch.optim.Adam, lr=0.01)
        values = [cross_entropy(quick(vae, x, prior, epochs=e, optimizer=adam), x, 5).mean for e in (1, 30)]
        assert values[1] < values[0] and values[1] < cross_entropy(vae, x, 5).mean - 2


class TestLeavesAlone:
    def test_the_given_vae_and_the_callers_generator(self):
        vae, x = make(), clusters()
        vae.train()
        before, arguments, state = copy.deepcopy(vae.state_dict()), dict(vae.arguments), torch.get_rng_state()
        refitted = quick(vae, x, MIXTURE)
        assert vae.training and type(vae.prior) is StandardNormal and vae.arguments == arguments
        assert (torch.get_rng_state() == state).all()
        for name, value in before.items():
            assert (vae.state_dict()[name] == value).all()
        assert not refitted.training and all(p.grad is None for p in refitted.parameters())

    def test_the_networks_are_copies(self):
        vae, x = make(), clusters()
        refitted = quick(vae, x, MIXTURE)
        for name in ("encoder", "decoder", "likelihood", "posterior"):
            for a, b in zip(getattr(vae, name).parameters(), getattr(refitted, name).parameters(), strict=True):
                assert (a == b).all() and a.data_ptr() != b.data_ptr()

    def test_codes_are_those_of_evaluation_mode(self):
        """With dropout in the encoder the optimum is that of the encoder as it is used, not of one with more spread."""
        vae, x = VAE(EVENT, 2, likelihood=Normal, encoder=Dropping), clusters()
        with torch.no_grad():
            vae.encoder.inner.output.bias.copy_(torch.tensor([3.0, -3.0, -2.0, -2.0]))
            q = vae.eval().encode(x)
        vae.train()
        data = Dataset("array", x, x)
        refitted = refit_prior(vae, data, LearnedNormal, epochs=60, optimizer=FAST, progress=False)
        stddev = (q.variance.mean(0) + q.mean.var(0, correction=0)).sqrt()
        torch.testing.assert_close(refitted.prior.loc.detach(), q.mean.mean(0), rtol=0, atol=0.2)
        torch.testing.assert_close(refitted.prior.log_scale.detach().exp(), stddev, rtol=0.2, atol=0)


class TestReturns:
    def test_the_same_for_the_same_seed(self):
        vae, x = make(), clusters()
        first, second, other = (quick(vae, x, MIXTURE, seed=seed).state_dict() for seed in (1, 1, 2))
        assert all((first[name] == second[name]).all() for name in first)
        assert (first["prior.loc"] != other["prior.loc"]).all()

    def test_the_best_on_held_out_data(self):
        """An optimizer that makes the prior worse leaves the start, which is the best."""
        vae, x = make(), clusters()
        refitted = quick(vae, x, LearnedNormal, optimizer=partial(torch.optim.SGD, lr=0.01, maximize=True))
        assert (refitted.prior.loc == 0).all() and (refitted.prior.log_scale == 0).all()

    def test_is_described_and_rebuilt(self):
        vae = make()
        refitted = quick(vae, clusters(), partial(FlowPrior, flow="NSF", hidden=(6,)))
        twin = build_vae({name: describe(value) for name, value in refitted.arguments.items()})
        twin.load_state_dict(refitted.state_dict())
        z = torch.randn(5, 2)
        assert (twin.prior(twin.encode).log_prob(z) == refitted.prior(refitted.encode).log_prob(z)).all()

    def test_a_prior_without_parameters(self):
        refitted = quick(make(), clusters(), partial(Laplace, scale=2.0))
        assert isinstance(refitted.prior, Laplace)

    def test_precision_is_kept(self):
        vae = make().double()
        refitted = quick(vae, clusters().double(), MIXTURE)
        assert all(p.dtype == torch.float64 for p in refitted.parameters())

    def test_progress(self, capsys):
        vae, x = make(), clusters()
        data = Dataset("array", x, x[:50])
        refitted = refit_prior(vae, data, MIXTURE, epochs=2)
        before, after = (cross_entropy(v, x[:50]).mean for v in (vae, refitted))
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"cross-entropy {after:.3f} nats, {before:.3f} under the old prior" in last

    def test_the_learning_rate_follows_its_schedule(self):
        rates = []

        class Watched(torch.optim.SGD):
            def step(self, *args, **kwargs):
                rates.append(self.param_groups[0]["lr"])
                return super().step(*args, **kwargs)

        data, schedule = Dataset("array", clusters(100), clusters(10)), Linear(1.0, 0.0)
        quick(make(), data, LearnedNormal, optimizer=partial(Watched, lr=0.3), batch_size=50, lr_schedule=schedule)
        assert rates == pytest.approx([0.3 * (1 - step / 6) for step in range(6)])
        rates.clear()
        quick(make(), data, LearnedNormal, optimizer=partial(Watched, lr=0.3), batch_size=50)
        assert rates == [0.3] * 6


class TestData:
    def test_patience(self):
        class Counting(LearnedNormal):
            runs = 0

            def forward(self, encode, context=None):
                Counting.runs += self.training
                return super().forward(encode, context)

        x = clusters(100)
        options = {"optimizer": partial(torch.optim.SGD, lr=0.0), "batch_size": 90, "progress": False}
        refit_prior(make(), x, Counting, epochs=50, patience=3, **options)
        assert Counting.runs == 3

    def test_the_last_tenth_is_held_out(self):
        seen = []

        class Watching(VampPrior):
            def start_from(self, x):
                seen.append(x)
                super().start_from(x)

        x = torch.arange(100.0).unsqueeze(-1).expand(100, 4)
        quick(make(), x, partial(Watching, components=90, bounds=None), epochs=1)
        assert sorted(seen[0][:, 0].tolist()) == list(range(90))

    def test_dynamic_binarisation(self):
        data = Dataset("grey", torch.rand(50, *EVENT), binarization="dynamic")
        refitted = quick(make(), data, partial(VampPrior, components=10))
        assert refitted.prior.pseudo_inputs.shape == (10, 4)

    def test_cross_entropy_does_not_depend_on_what_follows(self):
        vae, x = make(), clusters(1500)
        torch.testing.assert_close(cross_entropy(vae, x).values[:1000], cross_entropy(vae, x[:1000]).values)
        assert "nats per datum, N = 1500" in repr(cross_entropy(vae, x))

    def test_refuses(self):
        vae, x = make(), clusters(20)
        for options, message in (
            ({"epochs": 0}, "epochs must be at least 1, got 0"),
            ({"batch_size": 0}, "batch_size must be at least 1"),
            ({"patience": 0}, "patience must be at least 1"),
            ({"lr_schedule": 0.5}, "lr_schedule: expected one of pyro_vae.schedules, such as .*, got 0.5"),
            ({"lr_schedule": Linear}, "lr_schedule: expected an instance, got the class Linear"),
        ):
            with pytest.raises(UsageError, match=message):
                refit_prior(vae, x, MIXTURE, **options)
        with pytest.raises(UsageError, match="num_particles must be at least 1"):
            cross_entropy(vae, x, num_particles=0)
        with pytest.raises(DataError, match="at least 2 data"):
            quick(vae, x[:1], MIXTURE)
        with pytest.raises(DataError, match="held-out data: expected shape"):
            quick(vae, x.reshape(20, 2, 2), MIXTURE)
        with pytest.raises(UsageError, match="take components=18 or fewer"):
            quick(vae, x, VampPrior)


class Exploding(Prior):
    def __init__(self, shapes):
        super().__init__(shapes)
        self.loc = torch.nn.Parameter(torch.full((shapes.latent,), torch.inf))

    def forward(self, encode, context=None):
        return torch.distributions.Independent(torch.distributions.Normal(self.loc, 1.0, validate_args=False), 1)


def test_a_loss_that_is_not_finite_is_told():
    from pyro_vae.errors import NumericalError

    with pytest.raises(NumericalError, match=r"log p\(z\) is -inf at epoch 1, step 1"):
        quick(make(), clusters(), Exploding)


class Fixed(Prior):
    """N(shift, 1), without parameters."""

    def __init__(self, shapes, shift=0.0):
        super().__init__(shapes)
        self.shift = shift
        self.register_buffer("zero", torch.zeros(shapes.latent), persistent=False)

    def forward(self, encode, context=None):
        return dist.Normal(self.zero + self.shift, 1.0).to_event(1)


def with_prior(shift, guide=DiagonalNormal):
    torch.manual_seed(0)
    net = partial(MLP, hidden=(4,))
    return VAE(EVENT, 2, likelihood=Normal, prior=partial(Fixed, shift=shift), guide=guide, encoder=net, decoder=net)


class TestComparison:
    @pytest.mark.parametrize("guide", [DiagonalNormal, Delta])
    @pytest.mark.parametrize(
        ("shift", "verdict"), [(3.0, "worse"), (-3.0, "worse"), (0.0, "no difference within error")]
    )
    def test_the_gain_is_that_of_log_p_z(self, shift, verdict, guide):
        """With the same draws: of N(0, 1) and N(s, 1) it is s sum(z) - d s^2 / 2."""
        before, after, x = with_prior(0.0, guide), with_prior(shift, guide), clusters()
        found = compare_priors(before, after, x, num_particles=7, seed=3)
        with torch.no_grad(), seeded(3, "cross_entropy", 0):
            z = before.encode(x).sample((7,)).double()
        expected = (shift * z.sum(-1) - shift**2).mean(0)
        torch.testing.assert_close(found.gains, expected, rtol=1e-4, atol=1e-4)
        verdict = "worse" if shift else "no difference within error"
        assert found.verdict == verdict and verdict in repr(found)
        assert found.standard_error == pytest.approx((expected.std() / len(x) ** 0.5).item(), rel=1e-3, abs=1e-6)
        assert compare_priors(after, before, x).verdict == verdict.replace("worse", "better")

    def test_the_error_is_that_of_the_differences(self):
        """Far below that of either side, whose codes are spread widely."""
        vae, x = make(), clusters()
        found = compare_priors(vae, quick(vae, x, LearnedNormal, epochs=20), x)
        assert torch.equal(found.gains, found.before.values - found.after.values)  # what is shown adds up
        assert found.standard_error < 0.7 * found.before.standard_error and found.verdict == "better"

    def test_a_guide_that_looks_at_the_prior_is_measured_by_its_bound(self):
        """Its codes move with the prior: the difference of the cross-entropies alone would be another number."""
        semi = partial(SemiAmortized, steps=3, lr=0.5)
        before, after, x = with_prior(0.0, semi), with_prior(1.0, semi), clusters(40)
        elbos = [bound(v.model, v.guide, x, num_particles=10).elbo for v in (before, after)]
        found = compare_priors(before, after, x)
        torch.testing.assert_close(found.gains, elbos[1] - elbos[0])
        assert abs(found.gain - (found.before.mean - found.after.mean)) > 0.05

    def test_a_worse_prior_is_warned_about(self, caplog):
        vae, x = with_prior(0.0), clusters()
        quick(vae, x, partial(Fixed, shift=3.0))
        assert "the new prior is worse than the old one on held-out data, by " in caplog.text
        assert "keep Fixed" in caplog.text
        caplog.clear()
        quick(vae, x, partial(Fixed, shift=0.0))
        quick(make(), x, LearnedNormal, epochs=20)
        assert not caplog.text

    def test_of_one_datum_the_error_is_unknown(self):
        found = compare_priors(with_prior(0.0), with_prior(1.0), clusters(1))
        assert found.verdict == "unknown" and "+- unknown" in repr(found) and "nan" not in repr(found.before)
