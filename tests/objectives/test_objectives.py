"""Objectives as parts: any Pyro pair, recorded graphs, who gets which gradient, refusals, runs, several processes."""

from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI
from torch import nn

from pyro_vae import objectives
from pyro_vae.autoencoders import VAE
from pyro_vae.cli.parsing import parse, parser_of
from pyro_vae.distributed import ShardedNoise, World
from pyro_vae.errors import UsageError
from pyro_vae.guides import DiagonalNormal, FullNormal
from pyro_vae.inference.weighing import propose
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    ELBO,
    IWAE,
    BetaTC,
    CapacityELBO,
    Denoising,
    DReG,
    FreeBits,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    WakeSleep,
)
from pyro_vae.objectives.paths import draw_held, log_guide_of_dreams, log_joint
from pyro_vae.process.seeding import seeded
from pyro_vae.runs.describing import describe, resolve
from pyro_vae.schedules import Linear
from pyro_vae.testing import axis_of, check_part
from pyro_vae.training.fitting import fit
from pyro_vae.training.shares import check_shares
from pyro_vae.training.steps import Batch, EagerStep, GraphStep, Loss
from tests.support.suites import once_a_class

SMALL = partial(MLP, hidden=(8,))
ANY_GUIDE = [
    ELBO(),
    IWAE(3),
    DReG(3),
    StickingTheLanding(),
    StickingTheLanding(2),
    Renyi(0.5, 3),
    ScoreFunction(1, "none"),
    ScoreFunction(3),
    WakeSleep(),
    WakeSleep(2),
    ReweightedWakeSleep(3),
    ReweightedWakeSleep(3, insomnia=0.5),
    ReweightedWakeSleep(3, insomnia=0.0),
    FreeBits(0.1, "total", "datum"),
    FreeBits(0.1, "total", "batch", num_particles=2),
    CapacityELBO(3.0, 0.4),
    CapacityELBO(3.0, 0.4, "batch", num_particles=2),
]
ELEMENTWISE = [
    FreeBits(0.1),
    FreeBits(0.1, over="datum", num_particles=3),
    BetaTC(4.0, num_data=100),
    BetaTC(0.5, sampling="weighted"),
]
DENOISING = [
    Denoising(),
    Denoising(IWAE(3), "salt_and_pepper", 0.2),
    Denoising(StickingTheLanding(2), "normal", 0.5),
    Denoising(WakeSleep(), "normal", 0.5),
]
SCHEDULED = [
    FreeBits(Linear(0.2, 0.0)),
    CapacityELBO(3.0, Linear(0.3, 2.0)),
    ReweightedWakeSleep(3, Linear(1.0, 0.0)),
    BetaTC(Linear(0.5, 2.0), num_data=30),
    Denoising(CapacityELBO(3.0, Linear(0.3, 2.0)), amount=Linear(0.5, 0.1)),
]
AWAKE = [o for o in ANY_GUIDE if not isinstance(o, WakeSleep) and getattr(o, "insomnia", 1) == 1]
SUMS = [o for o in (*ANY_GUIDE, *ELEMENTWISE, *DENOISING) if not o.couples_rows]
COUPLED = [o for o in (*ANY_GUIDE, *ELEMENTWISE) if o.couples_rows]


def make(seed=0, **parts):
    with seeded(seed, "init"):
        return VAE((2, 3), 3, **{"encoder": SMALL, "decoder": SMALL, **parts})


def binary(n=8):
    with seeded(1, "data"):
        return torch.rand(n, 2, 3).round()


def loss_of(vae, objective):
    return Loss(vae, objective, lambda x: x, lambda batch: 0.0)


def run(step, x, epoch=0.0, total=1.0, size=None):
    """A step of training on these rows, of `size` in all: the loss followed by its gradients."""
    value, _, found = step(Batch(x, size=size), epoch, total)
    return [value, *found]


class TestEvery:
    @pytest.mark.parametrize("objective", [*ANY_GUIDE, *ELEMENTWISE, *DENOISING], ids=str)
    def test_gradients_reach_every_parameter(self, objective):
        vae = make()
        loss = objective(vae.model, vae.guide, binary())
        assert loss.shape == () and loss.isfinite()
        loss.backward()
        assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in vae.parameters())

    @pytest.mark.parametrize("objective", once_a_class([*SCHEDULED, *ANY_GUIDE, *ELEMENTWISE, *DENOISING]), ids=str)
    def test_recorded_is_eager(self, objective):
        """The graph, on batches of two sizes and at two times, against a run of the programs on the same noise."""
        vae = make() if objective.couples_rows else make(guide=FullNormal if objective in ANY_GUIDE else DiagonalNormal)
        loss = loss_of(vae, objective)
        graphs, eager = GraphStep(loss, full=0), EagerStep(loss)
        graphs.prepare(Batch(binary()), 0.0, 4.0)
        for rows, epoch in ((8, 1.0), (5, 2.5)):
            results = []
            for step in (graphs, eager):
                with seeded(7, rows):
                    results.append(run(step, binary(rows), epoch, 4.0))
            assert len(results[0]) == 1 + len(list(vae.parameters()))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    @pytest.mark.usefixtures("without_a_compiler")
    @pytest.mark.parametrize("objective", once_a_class([*ANY_GUIDE, *ELEMENTWISE, *DENOISING]), ids=str)
    def test_trains_and_compiles(self, objective):
        """`fit` records it without a word, and the loss falls."""
        vae, x = make(), binary(4).repeat(16, 1, 1)
        adam = partial(torch.optim.Adam, lr=1e-2)
        history = fit(vae, x, objective, epochs=15, batch_size=16, optimizer=adam, compile=True, progress=False)
        assert history.mode == "compiled (graph)"
        losses = history.column("loss")
        assert sum(losses[-3:]) / 3 < losses[0]

    def test_serves_pyros_svi(self):
        vae, x = make(), binary()
        for objective in (DReG(3), ReweightedWakeSleep(3, insomnia=0.5), ScoreFunction(3)):
            before = [p.detach().clone() for p in vae.parameters()]
            with pyro.validation_enabled(True):
                SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-2}), objective).step(x)
            assert all(not torch.equal(a, b) for a, b in zip(before, vae.parameters(), strict=True))

    @pytest.mark.parametrize("objective", [*ANY_GUIDE, *ELEMENTWISE, *DENOISING], ids=str)
    def test_masks_of_observed_elements(self, objective):
        """What is not observed has no say, in the value and in the gradients, dreams included."""
        vae, x, results = make(), binary(), []
        mask = torch.arange(3) < 2
        for hidden in (0.0, 1.0):
            with seeded(3):
                loss = objective(vae.model, vae.guide, torch.where(mask, x, hidden), mask)
            results.append([loss.detach(), *torch.autograd.grad(loss, list(vae.parameters()))])
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)

    def test_is_described_by_its_public_name(self):
        for name in objectives.__all__:
            cls = getattr(objectives, name)
            if isinstance(cls, type) and issubclass(cls, objectives.Objective) and cls is not objectives.Objective:
                description = describe(cls())
                assert description["class_path"] == f"pyro_vae.objectives.{name}"
                assert resolve(description, ["pyro_vae"]) == cls()

    def test_command_line(self):
        words = ["--objective", "ReweightedWakeSleep", "--objective.num_particles", "7"]
        options = parse(
            parser_of("fit"), [*words, "--objective.insomnia", "Linear", "--objective.insomnia.epochs", "3"]
        )
        assert options.objective.class_path.startswith("pyro_vae.objectives.")
        assert options.objective.init_args.num_particles == 7
        assert options.objective.init_args.insomnia.init_args.epochs == 3
        with pytest.raises(UsageError, match="did you mean 'DReG'"):
            parse(parser_of("fit"), ["--objective", "DREG"])

    def test_command_line_of_one_within_another(self):
        words = ["--objective", "Denoising", "--objective.amount", "0.1", "--objective.objective", "ELBO"]
        options = parse(parser_of("fit"), [*words, "--objective.objective.beta", "Linear"])
        found = resolve(options.objective.as_dict(), ["pyro_vae"])
        assert found == Denoising(ELBO(beta=Linear()), amount=0.1)
        default = parse(parser_of("fit"), words[:2])
        assert resolve(default.objective.as_dict(), ["pyro_vae"]) == Denoising()
        with pytest.raises(UsageError, match="did you mean 'IWAE'"):
            parse(parser_of("fit"), [*words[:-1], "IWEA"])


class TestELBO:
    """Options of numbers, which the contract does not find in the signature."""

    @pytest.mark.parametrize("analytic_kl", [False, True])
    def test_particles_keep_the_contract(self, analytic_kl):
        assert check_part(partial(ELBO, num_particles=3, analytic_kl=analytic_kl))

    @pytest.mark.parametrize(
        "options",
        [{"beta": 0.5}, {"beta": Linear(0.0, 0.5)}, {"beta": 2.0, "analytic_kl": True, "num_particles": 2}],
        ids=str,
    )
    def test_weights_keep_the_contract(self, options):
        """All but the exact value, which a weight other than 1 does not have."""
        kept = {check.__name__ for check in axis_of(ELBO).checks} - {"is_met_by_the_exact_posterior"}
        assert check_part(partial(ELBO, **options), only=kept)


class TestAnyPair:
    """Programs of the user's own: inner plates, chains, discrete codes."""

    @staticmethod
    def pair(flat):
        """The pixels in a plate of their own at dimension -2, or in the event."""
        torch.manual_seed(0)
        net = nn.ModuleDict({"encoder": nn.Linear(3, 4), "decoder": nn.Linear(2, 3)}).double()

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                top = pyro.sample("top", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
                z = pyro.sample("z", dist.Normal(torch.tanh(top), 0.5).to_event(1))
                mean = net["decoder"](z)
                if flat:
                    return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
                mean = mean.movedim(-1, -2) if mean.dim() == 2 else mean.squeeze(-3).movedim(-1, -2)
                with pyro.plate("pixels", 3, dim=-2):
                    return pyro.sample("x", dist.Normal(mean, 1.0), obs=x.T)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                loc, log_scale = net["encoder"](x).chunk(2, -1)
                z = pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))
                pyro.sample("top", dist.Normal(0.8 * z * log_scale.sigmoid(), 0.6).to_event(1))

        return net, model, guide

    @pytest.mark.parametrize("objective", AWAKE, ids=str)
    def test_inner_plates(self, objective):
        """The same numbers with an inner plate as with an event."""
        results, x = [], torch.randn(5, 3, dtype=torch.float64)
        for flat in (True, False):
            net, model, guide = self.pair(flat)
            with seeded(1):
                loss = replace(objective, max_plate_nesting=1 if flat else 2)(model, guide, x)
            results.append([loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))])
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b)

    @pytest.mark.parametrize("objective", [WakeSleep(), ReweightedWakeSleep(3, insomnia=0.5)], ids=str)
    def test_dreams_of_a_chain(self, objective):
        net, model, guide = self.pair(flat=True)
        objective(model, guide, torch.randn(5, 3, dtype=torch.float64)).backward()
        assert all(p.grad.abs().sum() > 0 for p in net.parameters())

    def test_scales_are_ignored(self):
        _, model, guide = self.pair(flat=True)
        x = torch.randn(5, 3, dtype=torch.float64)
        for objective in (IWAE(3), DReG(3), ScoreFunction(3), WakeSleep(), CapacityELBO(2.0, 1.0)):
            values = []
            for pair in ((model, guide), (pyro.poutine.scale(model, 3.0), pyro.poutine.scale(guide, 3.0))):
                with seeded(1):
                    values.append(objective(*pair, x))
            assert values[0] == values[1]

    def test_a_code_that_is_not_reparameterised(self):
        """Refused where gradients need the path, with what to take instead; `ELBO` has Pyro's score function."""

        class Coins(nn.Module):
            def __init__(self):
                super().__init__()
                self.logit, self.mean = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))

            def model(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.5)))
                    pyro.sample("x", dist.Normal(self.mean * z.unsqueeze(-1), 1.0).to_event(1), obs=x)

            def guide(self, x):
                with pyro.plate("data", len(x), dim=-1):
                    pyro.sample("z", dist.Bernoulli(logits=self.logit + x.sum(-1)))

        coins, x = Coins(), torch.randn(6, 1)
        for objective in ANY_GUIDE:
            if isinstance(objective, ELBO | ScoreFunction | WakeSleep | ReweightedWakeSleep):
                objective(coins.model, coins.guide, x).backward()
                assert coins.logit.grad != 0 and coins.mean.grad != 0
                coins.zero_grad()
            else:
                with pytest.raises(UsageError, match=r"site 'z' of the guide .* is not reparameterised.*ScoreFunction"):
                    objective(coins.model, coins.guide, x)
        history = fit(coins, x, ScoreFunction(3), epochs=2, progress=False)
        assert len(history.rows) == 2

    def test_a_point_mass_teaches_nothing(self):
        """Refused where the guide learns from log q; elsewhere a `Delta` is an autoencoder."""
        net = nn.ModuleDict({"encoder": nn.Linear(3, 2), "decoder": nn.Linear(2, 3)})

        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(net["decoder"](z), 1.0).to_event(1), obs=x)

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Delta(net["encoder"](x)).to_event(1))

        x = torch.randn(5, 3)
        for objective in (DReG(3), ScoreFunction(3), WakeSleep(), ReweightedWakeSleep(3)):
            with pytest.raises(UsageError, match="site 'z' of the guide is a Delta"):
                objective(model, guide, x)
        expected = torch.autograd.grad(ELBO()(model, guide, x), list(net.parameters()))
        for objective in (IWAE(3), Renyi(0.5, 3), StickingTheLanding(2)):
            found = torch.autograd.grad(objective(model, guide, x), list(net.parameters()))
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a, b)

    def test_a_chain_has_no_aggregate_posterior(self):
        _, model, guide = self.pair(flat=True)
        with pytest.raises(UsageError, match=r"one latent site, got \['top', 'z'\]"):
            BetaTC()(model, guide, torch.randn(5, 3, dtype=torch.float64))

    def test_free_bits_of_a_chain(self):
        """Dimensions of all sites, each given the sites before it; closed forms, at the same draws."""
        _, model, guide = self.pair(flat=True)
        x = torch.randn(5, 3, dtype=torch.float64)
        with seeded(1):
            drawn = pyro.poutine.trace(guide).get_trace(x)
        scored = pyro.poutine.trace(pyro.poutine.replay(model, trace=drawn)).get_trace(x)
        kl = [
            torch.distributions.kl_divergence(drawn.nodes[n]["fn"].base_dist, scored.nodes[n]["fn"].base_dist)
            for n in ("z", "top")
        ]
        expected = torch.cat(kl, -1).clamp(min=0.2).sum() - scored.nodes["x"]["fn"].log_prob(x).sum()
        with seeded(1):
            torch.testing.assert_close(FreeBits(0.2, over="datum")(model, guide, x), expected)

    def test_what_cannot_be_dreamt(self):
        def model(x):
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x[:, :2])

        def guide(x):
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

        with pytest.raises(
            UsageError, match=r"observes {'x': \(5, 2\)}, the argument has shape \(5, 3\): .*insomnia=1"
        ):
            WakeSleep()(model, guide, torch.randn(5, 3))


class TestWhoLearnsWhat:
    """Wake teaches the model on the guide's draws, sleep the guide on the model's; nothing crosses."""

    def test_wake_and_sleep(self):
        vae, x = make(guide=FullNormal), binary()
        theta, phi = list(vae.decoder.parameters()), list(vae.encoder.parameters())
        with seeded(1):
            draws = draw_held(vae.guide, x, num_particles=2, max_plate_nesting=1)
            log_p = log_joint(vae.model, draws.latents, x).mean(0).sum()
            dreamt = log_guide_of_dreams(vae.model, vae.guide, x)
        assert all(g is None for g in torch.autograd.grad(log_p, phi, allow_unused=True, retain_graph=True))
        assert all(g is None for g in torch.autograd.grad(dreamt, theta, allow_unused=True, retain_graph=True))
        expected = [*torch.autograd.grad(-log_p, theta), *torch.autograd.grad(-dreamt, phi)]
        with seeded(1):
            loss = WakeSleep(2)(vae.model, vae.guide, x)
        for a, b in zip(torch.autograd.grad(loss, theta + phi), expected, strict=True):
            torch.testing.assert_close(a, b)

    def test_reweighted(self):
        """The share of the dreams moves the guide alone."""
        vae, x, found = make(), binary(), []
        for insomnia in (1.0, 0.5, 0.0):
            with seeded(1):
                loss = ReweightedWakeSleep(3, insomnia)(vae.model, vae.guide, x)
            found.append([torch.autograd.grad(loss, list(part.parameters()), retain_graph=True) for part in parts(vae)])
        for decoder, encoder in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(decoder, found[0][0], strict=True))
            assert not any(torch.equal(a, b) for a, b in zip(encoder, found[0][1], strict=True))
        for awake, both, asleep in zip(*(encoder for _, encoder in found), strict=True):
            torch.testing.assert_close(both, (awake + asleep) / 2)

    def test_dreams_are_the_models(self):
        """What the guide is given does not depend on the data, only on how many there are."""
        vae, values = make(), []
        for x in (torch.zeros(8, 2, 3), torch.ones(8, 2, 3)):
            with seeded(1):
                values.append(log_guide_of_dreams(vae.model, vae.guide, x))
        assert values[0] == values[1]

    def test_weights_are_the_guides_own_in_single_precision(self):
        """A dense normal knows the density of its own draws better than who inverts them; the weights take it."""
        vae, x = make(guide=FullNormal), binary()
        with torch.no_grad():
            vae.encoder.output.bias[3:6] = torch.tensor([-12.0, 2.0, 0.0])
            vae.encoder.output.bias[6:] = 30.0
        with seeded(1):
            expected = propose(vae.guide, x, num_particles=4).log_guide
        with seeded(1):
            draws = draw_held(vae.guide, x, num_particles=4, max_plate_nesting=1)
        assert torch.equal(draws.log_guide, expected)
        assert not draws.log_guide.requires_grad and draws.score.requires_grad
        assert (draws.score - expected).abs().max() > 1e-2  # what inverting would have made of it
        assert not any(z.requires_grad for z in draws.latents.values())


def parts(vae):
    return vae.decoder, vae.encoder


class TestSeveralProcesses:
    """A batch is shared out only where the loss is the sum over its rows."""

    @staticmethod
    def gradients(vae, objective, x, size):
        """The step of one process, or the sum of those of `size`, each on its rows."""
        total = None
        for rank in range(size):
            world = World(rank, size)
            loss = replace(loss_of(vae, objective), noise=lambda n, world=world: ShardedNoise(world, n))
            with seeded(0):
                own = torch.cat([t.reshape(-1) for t in run(EagerStep(loss), x[world.rows(len(x))], size=len(x))])
            total = own if total is None else total + own
        return total

    @pytest.mark.parametrize("objective", [o for o in SUMS if type(o) is not ELBO], ids=str)
    def test_sums(self, objective):
        vae, x = make(likelihood=Bernoulli), binary()
        one, two = (self.gradients(vae, objective, x, size) for size in (1, 2))
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
        check_shares(World(), loss_of(vae, objective), Batch(x), 1.0, 1e-3)

    @pytest.mark.parametrize("objective", COUPLED, ids=str)
    def test_coupled_rows_are_refused(self, objective):
        vae = make()
        with pytest.raises(UsageError, match=f"{type(objective).__name__}.*couples the rows of a batch"):
            check_shares(World(), loss_of(vae, objective), Batch(binary()), 1.0, 1e-3)

    @pytest.mark.parametrize("objective", [BetaTC(4.0), BetaTC(num_data=100), BetaTC(sampling="weighted")], ids=str)
    def test_their_gradients_tell_as_well(self, objective):
        vae, x = make(), binary()
        one, two = (self.gradients(vae, objective, x, size) for size in (1, 2))
        assert (one - two).norm() > 1e-3 * one.norm()

    def test_free_bits_would_hide_it(self):
        """Why an objective has to say it: while all bits are free, sum and shares agree."""
        vae, x, objective = make(), binary(), FreeBits(100.0)
        one, two = (self.gradients(vae, objective, x, size)[1:] for size in (1, 2))
        torch.testing.assert_close(one, two)
        assert objective.couples_rows


class TestNumData:
    """BetaTC needs N, which `fit` knows."""

    def test_fit_tells_it(self):
        x, still = binary(24), partial(torch.optim.SGD, lr=0.0)
        losses = [
            fit(make(), x, objective, epochs=1, batch_size=8, optimizer=still, progress=False).column("loss")
            for objective in (BetaTC(), BetaTC(num_data=24), BetaTC(num_data=8))
        ]
        assert losses[0] == losses[1] != losses[2]

    def test_what_is_given_stays(self):
        assert BetaTC(num_data=5).for_data(9).num_data == 5 and BetaTC().for_data(9).num_data == 9
        assert IWAE(3).for_data(9) == IWAE(3)

    def test_fewer_than_the_batch(self):
        vae = make()
        with pytest.raises(UsageError, match="num_data=5, got a batch of 8"):
            BetaTC(num_data=5)(vae.model, vae.guide, binary())


class TestRefusals:
    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (lambda: IWAE(0), "IWAE needs num_particles >= 1, got 0"),
            (lambda: DReG(0), "DReG needs num_particles >= 1, got 0"),
            (lambda: StickingTheLanding(-1), "StickingTheLanding needs num_particles >= 1, got -1"),
            (lambda: Renyi(1.0), "finite alpha other than 1, got 1.0: its limit at 1 is ELBO"),
            (lambda: Renyi(float("inf")), "finite alpha"),
            (lambda: Renyi(0.5, 0), "num_particles >= 1"),
            (lambda: ScoreFunction(1), "expected num_particles >= 2, got 1; take more, or baseline='none'"),
            (lambda: ScoreFunction(3, "median"), "'none' or 'mean', got 'median'"),
            (lambda: ReweightedWakeSleep(1), "num_particles >= 2, got 1"),
            (lambda: ReweightedWakeSleep(2, 1.5), r"insomnia in \[0, 1\], got 1.5"),
            (lambda: WakeSleep(0), "num_particles >= 1"),
            (lambda: FreeBits(-1.0), "nats >= 0, got -1.0"),
            (lambda: FreeBits(per="pixel"), "per to be 'dimension' or 'total', got 'pixel'"),
            (lambda: FreeBits(over="epoch"), "over to be 'batch' or 'datum', got 'epoch'"),
            (lambda: CapacityELBO(-1.0), "gamma >= 0"),
            (lambda: CapacityELBO(capacity=-1.0), "capacity >= 0"),
            (lambda: CapacityELBO(over="row"), "over to be 'datum' or 'batch'"),
            (lambda: BetaTC(-1.0), "beta >= 0"),
            (lambda: BetaTC(alpha=float("nan")), "alpha >= 0, got nan"),
            (lambda: BetaTC(sampling="random"), "'stratified' or 'weighted', got 'random'"),
            (lambda: BetaTC(num_data=0), "num_data >= 1, or None"),
        ],
    )
    def test_options(self, build, message):
        with pytest.raises(UsageError, match=message):
            build()

    @pytest.mark.parametrize("objective", SCHEDULED, ids=str)
    def test_a_schedule_outside_of_fit(self, objective):
        vae = make()
        with pytest.raises(UsageError, match=r"is a schedule: fit follows it; elsewhere take \w+\(...\).at"):
            objective(vae.model, vae.guide, binary())
        assert objective.at(1.0, 4.0)(vae.model, vae.guide, binary()).isfinite()

    def test_what_is_a_bound(self):
        assert ELBO().is_bound and not ELBO(beta=0.5).is_bound and not ELBO(beta=Linear()).is_bound
        assert not FreeBits().is_bound and not CapacityELBO().is_bound and not BetaTC().is_bound
        assert FreeBits(0.0).is_bound and CapacityELBO(1.0, 0.0).is_bound and BetaTC(1.0).is_bound


def test_a_batch_of_one_has_no_aggregate():
    vae = make(guide=DiagonalNormal)
    x = binary(1)
    losses = []
    for objective in (BetaTC(4.0, num_data=100), BetaTC(4.0, sampling="weighted", num_data=100), ELBO()):
        with seeded(1):
            losses.append(objective(vae.model, vae.guide, x))
    torch.testing.assert_close(losses[0], losses[2])
    torch.testing.assert_close(losses[1], losses[2])
